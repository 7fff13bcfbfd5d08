"""Criteria: which events a trigger takes, and which of them count towards firing."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from eventproc.abc import Checks
from eventproc.errors import InvalidInput
from eventproc.model import CAUSED_BY_STREAMS, Trait, TraitEvent, from_datetime, to_datetime
from eventproc.model.quiet import QUIET_HOOKS
from eventproc.registry import globs
from eventproc.registry.documents import Place, hint, kind
from eventproc.registry.patterns import Pattern, TooSlow
from eventproc.registry.triggers.timex import TimeExpression, TimexError, UnboundVariable, parse

KEYS = ("event_type", "number", "timestamp", "map_distinguished_by", "traits")
MAX_NUMBER = 1_000_000_000
MAX_ALTERNATIVES = 1000
_MAX_CACHED_TYPES = 10_000
_ENVELOPE = ("event_type", "timestamp")  # members of every event, whatever its payload says

Compare = Callable[[Any, Any], bool]

_COMPARISONS: dict[str, Compare] = {
    "=": lambda left, right: bool(left == right),
    "==": lambda left, right: bool(left == right),
    "!=": lambda left, right: bool(left != right),
    "<": lambda left, right: bool(left < right),
    "<=": lambda left, right: bool(left <= right),
    ">": lambda left, right: bool(left > right),
    ">=": lambda left, right: bool(left >= right),
}
_COMPARISON = re.compile(r"\s*(?P<sign>[=!<>]{1,2}|in(?=[\s(\[]))?\s*(?P<rest>.*?)\s*", re.DOTALL)


# ---------------------------------------------------------------------- what an event holds


def trait_of(event: TraitEvent, name: str) -> Trait | None:
    """Return a member of the event as handlers see it; None if it has none of that name."""
    if name == "event_type":
        return event.event_type
    if name == "timestamp":
        return to_datetime(event.time_us)
    return event.traits.get(name)


def has_trait(event: TraitEvent, name: str) -> bool:
    return name in event.traits or name in _ENVELOPE


def moment_of(value: object) -> dt.datetime | None:
    """Return a datetime, or an ISO 8601 text, as an aware datetime in UTC; None for anything else."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, dt.datetime):
        return None
    try:
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    except OverflowError:
        return None


class EventTimes(Mapping[str, int]):
    """The times of an event by name, for the variables of time expressions; `timestamp` is the event's own."""

    __slots__ = ("_event",)

    def __init__(self, event: TraitEvent) -> None:
        self._event = event

    def __getitem__(self, name: str) -> int:
        if name == "timestamp":
            return self._event.time_us
        moment = moment_of(self._event.traits[name])
        if moment is None:
            raise KeyError(name)
        return from_datetime(moment)

    def __iter__(self) -> Any:
        return iter((*self._event.traits, "timestamp"))

    def __len__(self) -> int:
        return len({*self._event.traits, "timestamp"})


# ---------------------------------------------------------------------- one trait


class TraitTest(Protocol):
    """A test of one trait of an event."""

    def match(self, event: TraitEvent, checks: Checks) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Compare a trait with a constant of the same kind; what is of another kind does not match."""

    name: str
    sign: str
    value: Trait
    compare: Compare = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compare", _COMPARISONS[self.sign])

    def match(self, event: TraitEvent, checks: Checks) -> bool:
        value = trait_of(event, self.name)
        if value is None:
            return checks.mismatch(f"not {self.name}")
        left, right = _alike(value, self.value)
        if left is None:
            return self.sign == "!=" or checks.mismatch(f"{self.sign} failed")
        return checks.check(self.compare(left, right), f"{self.sign} failed")


def _alike(value: Trait, constant: Trait) -> tuple[Any, Any]:
    """Return both as things that can be compared, or None and None."""
    if isinstance(value, dt.datetime) or isinstance(constant, dt.datetime):
        left, right = moment_of(value), moment_of(constant)
        return (None, None) if left is None or right is None else (left, right)
    if isinstance(value, bool) or isinstance(constant, bool):
        # 1 == True in Python, but not in a payload.
        same = isinstance(value, bool) and isinstance(constant, bool)
    elif isinstance(value, str) or isinstance(constant, str):
        same = isinstance(value, str) and isinstance(constant, str)
    else:
        same = True
    return (value, constant) if same else (None, None)


@dataclass(frozen=True, slots=True)
class _OneOf:
    name: str
    values: tuple[Trait, ...]

    def match(self, event: TraitEvent, checks: Checks) -> bool:
        value = trait_of(event, self.name)
        if value is None:
            return checks.mismatch(f"not {self.name}")
        pairs = (_alike(value, constant) for constant in self.values)
        return checks.check(any(left is not None and left == right for left, right in pairs), "in failed")


@dataclass(frozen=True, slots=True)
class _Matches:
    name: str
    pattern: Pattern

    def match(self, event: TraitEvent, checks: Checks) -> bool:
        value = trait_of(event, self.name)
        if value is None:
            return checks.mismatch(f"not {self.name}")
        try:
            found = isinstance(value, str) and self.pattern.search(value) is not None
        except TooSlow:
            return checks.mismatch("regex took too long")
        return checks.check(found, "regex failed")


@dataclass(frozen=True, slots=True)
class _Exists:
    name: str
    wanted: bool

    def match(self, event: TraitEvent, checks: Checks) -> bool:
        return checks.check(has_trait(event, self.name) is self.wanted, "exists failed")


@dataclass(frozen=True, slots=True)
class _Within:
    """A datetime that lies in a range, is a moment, or compares with one."""

    name: str
    sign: str | None
    expression: TimeExpression

    def match(self, event: TraitEvent, checks: Checks) -> bool:
        value = trait_of(event, self.name)
        if value is None:
            return checks.mismatch(f"Time: not {self.name!r}")
        moment = moment_of(value)
        if moment is None:
            return checks.mismatch("Time: no datetime")
        time = from_datetime(moment)
        try:
            if self.sign is None:
                return checks.check(self.expression.holds(time, EventTimes(event)), "Not in timerange")
            right = self.expression.at(EventTimes(event))
        except UnboundVariable:
            return checks.mismatch("Time: no referenced trait")
        except TimexError:
            return checks.mismatch("Time: not a time")
        return checks.check(_COMPARISONS[self.sign](time, right), f"{self.sign} failed")


def read_test(place: Place, name: str, expression: Any) -> TraitTest:
    """Compile what stands behind a trait's name. Raises InvalidInput."""
    if not isinstance(expression, Mapping):
        return _Comparison(name, "==", _constant(place, expression))
    if len(expression) != 1:
        raise place.fail(
            f"one kind of comparison per trait, here are {len(expression)}: {', '.join(map(str, expression))}"
        )
    ((key, argument),) = expression.items()
    make = _KINDS.get(key)
    if make is None:
        raise place.at(str(key)).fail(f"unknown kind of comparison; {hint(str(key), _KINDS)}", kind=str(key))
    return make(place.at(str(key)), name, argument)


def _constant(place: Place, value: Any) -> Trait:
    if not isinstance(value, str | int | float | bool):
        raise place.fail(f"a text, number, true, false or time is expected, not {kind(value)}")
    return value


def _alternatives(place: Place, values: Any) -> tuple[Trait, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise place.fail(f"a list of values is expected, not {'an empty one' if values == [] else kind(values)}")
    if len(values) > MAX_ALTERNATIVES:
        raise place.fail(f"{len(values):,} values; at most {MAX_ALTERNATIVES:,}")
    return tuple(_constant(place.at(index), value) for index, value in enumerate(values))


def _numeric(convert: Callable[[str], int | float], what: str) -> Callable[[Place, str, Any], TraitTest]:
    def number(place: Place, text: str) -> int | float:
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise place.fail(f"{text!r} is no {what}")
        return value

    def make(place: Place, name: str, argument: Any) -> TraitTest:
        if isinstance(argument, list | tuple):
            return _OneOf(name, tuple(_number(place, value) for value in _alternatives(place, argument)))
        if not isinstance(argument, str):
            return _Comparison(name, "==", _number(place, argument))
        sign, rest = _split(place, argument)
        if sign == "in":
            return _OneOf(name, tuple(number(place, part) for part in re.split(r"[\s,]+", rest.strip("()[] "))))
        return _Comparison(name, sign or "==", number(place, rest))

    return make


def _number(place: Place, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise place.fail(f"a number, or a comparison such as '>= 5', is expected, not {kind(value)}")
    return value


def _split(place: Place, text: str) -> tuple[str | None, str]:
    """Split "OP value"; the operator is None where there is none."""
    found = _COMPARISON.fullmatch(text)
    sign, rest = (found["sign"], found["rest"]) if found else (None, text)
    if sign is not None and sign != "in" and sign not in _COMPARISONS:
        raise place.fail(f"unknown operator {sign!r}; there are: {', '.join(_COMPARISONS)}, in")
    if not rest:
        raise place.fail(f"{text!r} compares with nothing; write it as in '>= 5'")
    return sign, rest


def _any_number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _text(place: Place, name: str, argument: Any) -> TraitTest:
    if isinstance(argument, list | tuple):
        return _OneOf(name, tuple(_plain_text(place, value) for value in _alternatives(place, argument)))
    return _Comparison(name, "==", _plain_text(place, argument))


def _plain_text(place: Place, value: Any) -> str:
    if not isinstance(value, str):
        raise place.fail(f"a text is expected, not {kind(value)}; quote it if it is meant as one")
    return value


def _datetime(place: Place, name: str, argument: Any) -> TraitTest:
    if not isinstance(argument, str):
        raise place.fail(f"a time expression such as 'day($launched_at)' is expected, not {kind(argument)}")
    sign, rest = _split(place, argument) if argument.lstrip()[:1] in tuple("=!<>") else (None, argument)
    return _Within(name, sign, read_time(place, rest))


def _operator(sign: str) -> Callable[[Place, str, Any], TraitTest]:
    return lambda place, name, argument: _Comparison(name, sign, _constant(place, argument))


def _one_of(place: Place, name: str, argument: Any) -> TraitTest:
    return _OneOf(name, _alternatives(place, argument))


def _regex(place: Place, name: str, argument: Any) -> TraitTest:
    try:
        return _Matches(name, Pattern(_plain_text(place, argument)))
    except InvalidInput as error:
        if error.details.get("path") is not None:
            raise
        raise place.fail(f"{argument!r} is no regular expression: {error.__cause__}") from error


def _exists(place: Place, name: str, argument: Any) -> TraitTest:
    if not isinstance(argument, bool):
        raise place.fail(f"true or false is expected, not {kind(argument)}")
    return _Exists(name, argument)


_KINDS: dict[str, Callable[[Place, str, Any], TraitTest]] = {
    "int": _numeric(int, "whole number"),
    "float": _numeric(float, "number"),
    "numeric": _numeric(_any_number, "number"),
    "string": _text,
    "text": _text,
    "datetime": _datetime,
    **{sign: _operator(sign) for sign in _COMPARISONS},
    "in": _one_of,
    "regex": _regex,
    "exists": _exists,
}


def read_time(place: Place, text: Any, *, variables: Sequence[str] | None = None) -> TimeExpression:
    """Parse a time expression that may use these variables (None: the event's times). Raises InvalidInput."""
    try:
        expression = parse(text) if isinstance(text, str) else None
    except TimexError as error:
        raise place.fail(error.message, expression=text, position=error.details.get("position")) from error
    if expression is None:
        raise place.fail(f"a time expression such as '$last + 1d' is expected, not {kind(text)}")
    for name in sorted(expression.variables):
        if variables is not None and name not in variables:
            raise place.fail(f"${name} has no value here; {hint(name, variables)}", variable=name)
    return expression


# ---------------------------------------------------------------------- criteria


class EventTypes:
    """
    Names of event types with wildcards; `!` before one excludes what it matches, whatever else includes it.

    The `reserved` ones have to be named: by themselves, or by a pattern that begins with their first word, as
    `stream.*` does.
    """

    def __init__(self, patterns: Sequence[str], *, reserved: Collection[str] = ()) -> None:
        self._reserved = reserved
        self.excluded = tuple(pattern[1:] for pattern in patterns if pattern.startswith("!"))
        included = tuple(pattern for pattern in patterns if not pattern.startswith("!"))
        self.included = included or (("*",) if self.excluded else ())
        self._known: dict[str, bool] = {}

    def match(self, event_type: str) -> bool:
        known = self._known.get(event_type)
        if known is None:
            fits = globs.names if event_type in self._reserved else globs.matches
            known = any(fits(pattern, event_type) for pattern in self.included) and not any(
                globs.matches(pattern, event_type) for pattern in self.excluded
            )
            if len(self._known) >= _MAX_CACHED_TYPES:  # types may be invented without end
                self._known.clear()
            self._known[event_type] = known
        return known


@dataclass(frozen=True, slots=True)
class Criteria:
    """One entry of match_criteria or fire_criteria."""

    types: EventTypes
    number: int
    timestamp: TimeExpression | None
    mapping: Mapping[str, str]
    tests: tuple[TraitTest, ...]

    def match(self, event: TraitEvent, checks: Checks) -> bool:
        if not self.types.match(event.event_type):
            return checks.mismatch("Wrong event type")
        if self.timestamp is not None and not self._in_time(self.timestamp, event, checks):
            return False
        if not self.tests:
            return checks.match()
        return all(test.match(event, checks) for test in self.tests)

    @staticmethod
    def _in_time(expression: TimeExpression, event: TraitEvent, checks: Checks) -> bool:
        try:
            return expression.holds(event.time_us, EventTimes(event)) or checks.mismatch("Not time yet.")
        except UnboundVariable:
            return checks.mismatch("No timestamp trait")
        except TimexError:
            return checks.mismatch("Not time yet.")


def read_criteria(place: Place, value: Any, *, distinguished_by: Sequence[str], fires: bool) -> Criteria:
    """Compile one entry of fire_criteria (`fires`) or match_criteria. Raises InvalidInput."""
    given = place.mapping(value, known=KEYS)
    if "number" in given and not fires and given["number"] != 1:
        place.at("number").complain("only fire_criteria count events")
    if given.get("map_distinguished_by") and fires:
        place.at("map_distinguished_by").complain("only match_criteria can take a distinguishing trait from elsewhere")
    traits_place = place.at("traits")
    traits = given.get("traits") or {}
    if not isinstance(traits, Mapping):
        raise traits_place.fail(f"a mapping of traits to what they must be is expected, not {kind(traits)}")
    timestamp = given.get("timestamp")
    return Criteria(
        types=EventTypes(
            _types(place.at("event_type"), given.get("event_type", "*")),
            # Its own stream's firing would be the next event of a trigger that takes everything, for ever.
            reserved=() if fires else CAUSED_BY_STREAMS | QUIET_HOOKS,
        ),
        number=place.at("number").whole(given.get("number", 1), lowest=1, highest=MAX_NUMBER) if fires else 1,
        timestamp=None if timestamp is None else read_time(place.at("timestamp"), timestamp),
        mapping=_mapping(place.at("map_distinguished_by"), given.get("map_distinguished_by") or {}, distinguished_by),
        tests=tuple(read_test(traits_place.at(str(name)), str(name), test) for name, test in traits.items()),
    )


def _types(place: Place, value: Any) -> list[str]:
    if isinstance(value, str):
        return [place.text(value, what="an event type")]
    patterns = place.items(value, "event types")
    return [place.at(index).text(pattern, what="an event type") for index, pattern in enumerate(patterns)]


def _mapping(place: Place, value: Any, distinguished_by: Sequence[str]) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise place.fail(f"a mapping of distinguishing trait to the event's trait is expected, not {kind(value)}")
    mapping: dict[str, str] = {}
    for trait, source in value.items():
        if trait not in distinguished_by:
            place.at(str(trait)).complain(f"not in distinguished_by; {hint(str(trait), distinguished_by)}")
        mapping[str(trait)] = place.at(str(trait)).text(source, what="the name of a trait")
    return mapping
