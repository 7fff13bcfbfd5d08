"""Event definitions: which notifications become events, and what is taken out of them."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from eventproc.abc import Clock
from eventproc.errors import InvalidInput
from eventproc.ingress.distiller.jsonpath import JsonPath, PathError, parse
from eventproc.ingress.distiller.trait_plugins import BUILT_IN
from eventproc.model import DATETIMES, NewEvent, from_datetime
from eventproc.registry.documents import Document, Place, hint, kind
from eventproc.registry.triggers.criteria import EventTypes

DEFINITION_KEYS = ("event_type", "traits")
TRAIT_KEYS = ("type", "fields", "plugin")
_MAX_CACHED_TYPES = 10_000
_ENVELOPE = ("event_type", "message_id", "timestamp")

# Traits of every definition that does not say them otherwise.
_DEFAULTS: dict[str, Any] = {
    "service": {"fields": "publisher_id"},
    "request_id": {"fields": "_context_request_id"},
    "tenant_id": {"fields": ["payload.tenant_id", "_context_tenant"]},
}

_USUAL = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{6})?(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
_ANY = re.compile(
    r"(\d{4})(?:(?:-(\d{1,2})|(\d\d)(?!$))(?:(?:-(\d{1,2})|(\d\d))"
    r"(?:[ T](\d\d)(?::?(\d\d))?(?::?(\d{1,2})(?:[.,](\d+))?)?(Z|[+-]\d\d:?(?:\d\d)?)?)?)?)?",
    re.ASCII,
)


def parse_time(value: Any) -> dt.datetime:
    """
    Read an ISO 8601 time, in the many forms that the package iso8601 takes; one without offset is in UTC.

    Returns it in UTC. Raises ValueError.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no ISO 8601 time")  # noqa: TRY004 - callers mean the value, not its type
    try:
        return _in_utc(value)
    except OverflowError as error:  # its zone leads there
        raise ValueError(f"{value!r} lies outside of the years 1 to 9999") from error


def _in_utc(value: str) -> dt.datetime:
    if _USUAL.fullmatch(value):
        found = dt.datetime.fromisoformat(value)
        return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)
    match = _ANY.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no ISO 8601 time")
    year, month, month2, day, day2, hour, minute, second, fraction, zone = match.groups()
    found = dt.datetime(
        int(year),
        int(month or month2 or 1),
        int(day or day2 or 1),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        int((fraction or "0")[:6].ljust(6, "0")),
        tzinfo=dt.UTC,
    )
    if zone in (None, "Z"):
        return found
    digits = zone[1:].replace(":", "").ljust(4, "0")
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return found - offset if zone[0] == "+" else found + offset


def _float(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number


_CONVERT: dict[str, Callable[[Any], Any]] = {"text": str, "int": int, "float": _float, "datetime": parse_time}


class _Trait:
    __slots__ = ("_convert", "_path", "_plugin", "is_text", "name")

    def __init__(self, name: str, kind_: str, path: JsonPath, plugin: Any) -> None:
        self.name = name
        self.is_text = kind_ == "text"
        self._convert = _CONVERT[kind_]
        self._path = path
        self._plugin = plugin

    def of(self, notification: Mapping[str, Any]) -> Any:
        """Return the converted value; None where there is none. Raises InvalidInput."""
        if self._plugin is None:
            value = self._path.first(notification)
        else:
            matches = self._path.find(notification)
            try:
                value = self._plugin.trait_value(matches)
            except Exception as error:  # a user's plugin may raise anything; the notification is refused for it
                raise InvalidInput(f"trait {self.name!r}: its plugin raised {error!r}", trait=self.name) from error
        # Some services write '' where they mean that a date is not there.
        if value is None or (value == "" and not self.is_text):
            return None
        try:
            return self._convert(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidInput(f"trait {self.name!r}: {str(value)[:200]!r}: {error}", trait=self.name) from error


class _Definition:
    def __init__(self, types: EventTypes, traits: list[_Trait]) -> None:
        self.types = types
        self.traits = traits


class Distiller:
    """
    Makes events of notifications, as the definitions of a file say; the last one that matches is used.

    `plugins` adds to the built-in split and bitfield; `catchall` turns notifications that no definition matches into
    events with the default traits. Raises InvalidInput, naming file, line and the near key.
    """

    def __init__(
        self,
        document: Document,
        *,
        plugins: Mapping[str, type[Any]] | None = None,
        catchall: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock
        classes = {**BUILT_IN, **(plugins or {})}
        root = Place(document=document)
        entries = root.items([] if document.value is None else document.value, "definitions")
        read = [_definition(root.at(index), entry, classes) for index, entry in enumerate(entries)]
        self._definitions = read[::-1]
        if catchall and not any("*" in each.types.included and not each.types.excluded for each in read):
            catch_all = {"event_type": "*", "traits": {}}
            self._definitions.append(_definition(Place().called("catch-all"), catch_all, classes))
        self._by_type: dict[str, _Definition | None] = {}

    @property
    def event_types(self) -> list[str]:
        """The patterns of event types that the definitions name, without exclusions."""
        return list(dict.fromkeys(name for each in reversed(self._definitions) for name in each.types.included))

    @property
    def trait_names(self) -> set[str]:
        """The traits that any of the definitions gives to its events."""
        return {trait.name for each in self._definitions for trait in each.traits}

    def distill(self, notification: Any) -> NewEvent | None:
        """
        Return the notification's event; None if no definition matches it.

        Its traits are the payload; datetimes are ISO texts whose names stand under `_datetimes`.
        Raises InvalidInput for a notification that is malformed.
        """
        if not isinstance(notification, dict):
            raise InvalidInput(f"a notification is a JSON object, not {kind(notification)}")
        for name in ("event_type", "message_id"):
            if not isinstance(notification.get(name), str) or not notification[name]:
                raise InvalidInput(f"the notification has no {name}", member=name)
        event_type: str = notification["event_type"]
        definition = self._definition_of(event_type)
        if definition is None:
            return None
        when = self.when(notification)
        payload: dict[str, Any] = {}
        datetimes: list[str] = []
        for trait in definition.traits:
            value = trait.of(notification)
            if value is None or trait.name in _ENVELOPE:
                continue
            if isinstance(value, dt.datetime):
                datetimes.append(trait.name)
                value = value.replace(tzinfo=None).isoformat()
            payload[trait.name] = value
        if not payload:
            raise InvalidInput("the event would have no traits")
        if datetimes:
            payload[DATETIMES] = datetimes
        return NewEvent(hook=event_type, payload=payload, id=notification["message_id"], time_us=when)

    def _definition_of(self, event_type: str) -> _Definition | None:
        try:
            return self._by_type[event_type]
        except KeyError:
            found = next((each for each in self._definitions if each.types.match(event_type)), None)
            if len(self._by_type) >= _MAX_CACHED_TYPES:
                self._by_type.clear()
            self._by_type[event_type] = found
            return found

    def when(self, notification: Mapping[str, Any]) -> int | None:
        """Return a notification's time; the present one, or None, where it does not say. Raises InvalidInput."""
        when = notification.get("timestamp", notification.get("_context_timestamp"))
        if not when:
            return None if self._clock is None else self._clock.now_us()
        try:
            return from_datetime(parse_time(when))
        except ValueError as error:
            raise InvalidInput(f"timestamp: {error}", member="timestamp") from error


def _definition(place: Place, value: Any, plugins: Mapping[str, type[Any]]) -> _Definition:
    given = place.mapping(value, known=DEFINITION_KEYS, required=DEFINITION_KEYS)
    types = given["event_type"]
    names = [types] if isinstance(types, str) else place.at("event_type").items(types, "event types")
    for index, name in enumerate(names):
        place.at("event_type").at(index).text(name, what="an event type")
    traits = given["traits"] or {}
    here = place.at("traits")
    if not isinstance(traits, Mapping):
        raise here.fail(f"a mapping of traits to where they come from is expected, not {kind(traits)}")
    merged = {**_DEFAULTS, **traits}
    return _Definition(
        EventTypes(names), [_trait(here.at(str(name)), str(name), merged[name], plugins) for name in merged]
    )


def _trait(place: Place, name: str, value: Any, plugins: Mapping[str, type[Any]]) -> _Trait:
    given = place.mapping(value, known=TRAIT_KEYS, required=("fields",))
    kind_ = given.get("type", "text")
    if kind_ not in _CONVERT:
        raise place.at("type").fail(f"unknown type {kind_!r}; {hint(str(kind_), _CONVERT)}")
    return _Trait(
        name,
        kind_,
        _path(place.at("fields"), given["fields"]),
        _plugin(place.at("plugin"), given.get("plugin"), plugins),
    )


def _path(place: Place, fields: Any) -> JsonPath:
    paths = [fields] if isinstance(fields, str) else place.items(fields, "paths")
    if not paths:
        raise place.fail("name at least one path")
    try:
        return parse("|".join(f"({place.text(path, what='a path', max_length=1000)})" for path in paths))
    except PathError:
        for path in paths:
            try:
                parse(path)
            except PathError as error:
                raise place.fail(error.message, position=error.details["position"]) from error
        raise


def _plugin(place: Place, value: Any, plugins: Mapping[str, type[Any]]) -> Any:
    if value is None:
        return None
    given = (
        {"name": value}
        if isinstance(value, str)
        else place.mapping(value, known=("name", "parameters"), required=("name",))
    )
    name = place.text(given["name"], what="the name of a plugin")
    if name not in plugins:
        raise place.fail(f"no plugin is named {name!r}; {hint(name, plugins)}")
    parameters = given.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise place.at("parameters").fail(f"a mapping is expected, not {kind(parameters)}")
    try:
        return plugins[name](**parameters)
    except Exception as error:  # a user's plugin may raise anything; the file is refused for it
        raise place.fail(f"plugin {name!r} can not be made with these parameters: {error!r}") from error
