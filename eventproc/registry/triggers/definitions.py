"""Trigger definitions: reading them from files and requests, and compiling them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eventproc.abc import Checks
from eventproc.errors import InvalidInput
from eventproc.model import Distinguishing, Span, TraitEvent, TriggerDefinition, from_datetime, to_datetime
from eventproc.registry.documents import Document, Place, hint, parse_document
from eventproc.registry.durations import parse_duration
from eventproc.registry.triggers.criteria import (
    KEYS as CRITERIA_KEYS,
)
from eventproc.registry.triggers.criteria import (
    Criteria,
    has_trait,
    moment_of,
    read_criteria,
    read_time,
    trait_of,
)
from eventproc.registry.triggers.timex import TimeExpression, TimexError

KEYS = (
    "name",
    "debug_level",
    "distinguished_by",
    "expiration",
    "fire_delay",
    "fire_pipeline",
    "expire_pipeline",
    "match_criteria",
    "fire_criteria",
    "load_criteria",
)
RESERVED_ENDINGS = ("/checks", "/explain")  # parts of a trigger, by methods that a trigger itself has too
REQUIRED = ("name", "expiration", "match_criteria", "fire_criteria")
MAX_NAME_LENGTH = 200
MAX_CRITERIA = 1000
_FIRST_US = from_datetime(dt.datetime(2024, 1, 31, 23, 59, 59, tzinfo=dt.UTC))


class CompiledTrigger:
    """A definition, parsed once: what `eventproc.abc.Matcher` asks for."""

    def __init__(self, definition: TriggerDefinition, *, place: Place | None = None) -> None:
        where = place or Place().called(f"trigger {definition.name!r}")
        self.definition = definition
        self.traits = _distinguishing(where.at("distinguished_by"), definition.distinguished_by)
        names = [trait.name for trait in self.traits]
        self._match = _criteria(where.at("match_criteria"), definition.match_criteria, names, fires=False)
        self._fire = _criteria(where.at("fire_criteria"), definition.fire_criteria, names, fires=True)
        self._expiration = _expiration(where.at("expiration"), definition.expiration)
        self.fire_needs: Sequence[int] = tuple(criteria.number for criteria in self._fire)

    def could_match(self, event_type: str) -> bool:
        """Tell whether any event of this type could match."""
        return any(criteria.types.match(event_type) for criteria in self._match)

    def match(self, event: TraitEvent, checks: Checks) -> Mapping[str, Distinguishing] | None:
        """Return the values of the distinguishing traits if the event matches, else None."""
        for trait in self.traits:
            # The trait itself has to be there even where its value is taken from another one.
            if not has_trait(event, trait.name):
                checks.mismatch(f"not {trait.name!r}")
                return None
        for criteria in self._match:
            if criteria.match(event, checks):
                values = self._distinguish(event, criteria, checks)
                if values is not None:
                    checks.match()
                return values
        checks.mismatch("No matching criteria")
        return None

    def _distinguish(self, event: TraitEvent, criteria: Criteria, checks: Checks) -> dict[str, Distinguishing] | None:
        values: dict[str, Distinguishing] = {}
        for trait in self.traits:
            source = criteria.mapping.get(trait.name, trait.name)
            value = trait.of(event, source)
            if value is None:
                checks.mismatch(f"not {source!r}" if not has_trait(event, source) else f"{source!r} is no datetime")
                return None
            values[trait.name] = value
        return values

    def counts(self, event: TraitEvent, checks: Checks) -> Sequence[int]:
        """Return the indexes of the fire criteria that the event satisfies."""
        return [index for index, criteria in enumerate(self._fire) if criteria.match(event, checks)]

    def expires_us(self, first_us: int, last_us: int, now_us: int) -> int:
        """Return when a stream with these first and last event times expires."""
        try:
            return self._expiration.at({"first": first_us, "last": last_us, "timestamp": now_us})
        except TimexError:
            # Beyond the year 9999, or before the year 1: a stream that goes at once is seen, one that stays is not.
            return last_us


@dataclass(frozen=True, slots=True)
class _Distinguishing:
    name: str
    expression: TimeExpression | None = None

    def of(self, event: TraitEvent, source: str) -> Distinguishing | None:
        """Return the value; None where the event lacks it, or has no time where one is needed."""
        if self.expression is None:
            return trait_of(event, source)
        if source == "timestamp":
            time = event.time_us
        else:
            moment = moment_of(event.traits.get(source))
            if moment is None:
                return None
            time = from_datetime(moment)
        try:
            if not self.expression.is_range:
                return to_datetime(self.expression.at({"timestamp": time}))
            found = self.expression.range({"timestamp": time})
        except TimexError:
            return None
        return Span(found.begin_us, found.end_us)


def compile_trigger(definition: TriggerDefinition) -> CompiledTrigger:
    """Parse a definition. Raises InvalidInput for one that could not work."""
    return CompiledTrigger(definition)


def _distinguishing(place: Place, entries: Sequence[Any]) -> list[_Distinguishing]:
    traits: list[_Distinguishing] = []
    for index, entry in enumerate(entries):
        here = place.at(index)
        if isinstance(entry, Mapping):
            if len(entry) != 1:
                raise here.fail(f"one trait per entry, here are {len(entry)}: write one list item for each")
            ((name, text),) = entry.items()
            trait = _Distinguishing(
                here.text(name, what="the name of a trait"),
                read_time(here.at(str(name)), text, variables=("timestamp",)),
            )
        else:
            trait = _Distinguishing(here.text(entry, what="the name of a trait, or {trait: time expression},"))
        if any(other.name == trait.name for other in traits):
            raise here.fail(f"{trait.name!r} stands here twice")
        traits.append(trait)
    return traits


def _criteria(place: Place, entries: Sequence[Any], names: Sequence[str], *, fires: bool) -> tuple[Criteria, ...]:
    if len(entries) > MAX_CRITERIA:
        raise place.fail(f"{len(entries):,} entries; at most {MAX_CRITERIA:,}")
    return tuple(
        read_criteria(place.at(index), entry, distinguished_by=names, fires=fires)
        for index, entry in enumerate(entries)
    )


def _expiration(place: Place, text: Any) -> TimeExpression:
    expression = read_time(place, text, variables=("first", "last", "timestamp"))
    try:
        expression.at({"first": _FIRST_US, "last": _FIRST_US, "timestamp": _FIRST_US})
    except TimexError as error:
        raise place.fail(f"can not be evaluated: {error.message}") from error
    return expression


# ---------------------------------------------------------------------- reading


def read_trigger(
    value: Any, *, place: Place | None = None, pipelines: Collection[str] | None = None
) -> CompiledTrigger:
    """
    Read and compile what a file or request says of a trigger.

    `pipelines` are the known ones; None leaves that unchecked. Raises InvalidInput.
    """
    where = place or Place().called("trigger")
    if isinstance(value, Mapping) and isinstance(value.get("name"), str) and not where.title:
        where = where.called(f"trigger {value['name']!r}")
    given = where.mapping(value, known=KEYS, required=REQUIRED)
    if given.get("load_criteria"):
        where.at("load_criteria").complain(
            "winchester reads load_criteria and never uses them; a pipeline gets all events of its stream. Leave them "
            "out, and filter in the first handler of the pipeline"
        )
    if not given.get("fire_pipeline") and not given.get("expire_pipeline"):
        raise where.fail("say at least one of fire_pipeline and expire_pipeline")
    definition = TriggerDefinition(
        name=_name(where.at("name"), given["name"]),
        expiration=where.at("expiration").text(given["expiration"], what="a time expression", max_length=1000),
        match_criteria=_plain(_list(where.at("match_criteria"), given["match_criteria"], "criteria")),
        fire_criteria=_plain(_list(where.at("fire_criteria"), given["fire_criteria"], "criteria")),
        distinguished_by=_list(where.at("distinguished_by"), given.get("distinguished_by") or [], "traits"),
        fire_delay_s=_delay(where.at("fire_delay"), given.get("fire_delay", 0)),
        fire_pipeline=_pipeline(where.at("fire_pipeline"), given.get("fire_pipeline"), pipelines),
        expire_pipeline=_pipeline(where.at("expire_pipeline"), given.get("expire_pipeline"), pipelines),
        debug_level=where.at("debug_level").whole(given.get("debug_level", 0), lowest=0, highest=2),
    )
    compiled = CompiledTrigger(definition, place=where)
    if where.lenient:
        compiled.definition = _without_passed_over(definition, [trait.name for trait in compiled.traits])
    return compiled


def _without_passed_over(definition: TriggerDefinition, names: Sequence[str]) -> TriggerDefinition:
    """Leave out what was passed over with a warning, so that the definition stands on its own."""

    def known(entry: Mapping[str, Any], useless: str) -> dict[str, Any]:
        kept = {key: value for key, value in entry.items() if key in CRITERIA_KEYS and key != useless}
        if "map_distinguished_by" in kept:
            mapping = kept["map_distinguished_by"] or {}
            kept["map_distinguished_by"] = {trait: source for trait, source in mapping.items() if trait in names}
        return kept

    return replace(
        definition,
        match_criteria=tuple(known(entry, "number") for entry in definition.match_criteria),
        fire_criteria=tuple(known(entry, "map_distinguished_by") for entry in definition.fire_criteria),
    )


def _plain(value: Any) -> Any:
    """Write the times that YAML made as texts, so that the definition can be stored as JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, dt.date):
        moment = moment_of(value.isoformat())
        return moment.isoformat() if moment else str(value)
    return value


def _name(place: Place, value: Any) -> str:
    name = place.text(value, max_length=MAX_NAME_LENGTH)
    if name.endswith(RESERVED_ENDINGS):
        raise place.fail(
            f"a trigger's name can not end in {' or '.join(RESERVED_ENDINGS)}: over HTTP it would be taken for a part "
            f"of the trigger {name.rpartition('/')[0]!r}"
        )
    return name


def _list(place: Place, value: Any, what: str) -> tuple[Any, ...]:
    return tuple(place.items(value, what))


def _delay(place: Place, value: Any) -> float:
    if value in (0, None):
        return 0
    try:
        return parse_duration(value, "fire_delay")
    except InvalidInput as error:
        raise place.fail(error.message) from error


def _pipeline(place: Place, value: Any, pipelines: Collection[str] | None) -> str | None:
    if value is None or value == "":
        return None
    name = place.text(value, what="the name of a pipeline")
    if pipelines is not None and name not in pipelines:
        raise place.fail(f"unknown pipeline {name!r}; {hint(name, pipelines)}", pipeline=name)
    return name


def load_triggers(
    document: Document, *, pipelines: Collection[str] | None = None, lenient: bool = False
) -> tuple[list[CompiledTrigger], list[str]]:
    """
    Read a triggers.yaml: a list of definitions. Return the compiled triggers, in order, and warnings.

    With `lenient`, keys that winchester passes over in silence (unknown and misspelt ones, load_criteria) are passed
    over with a warning. Raises InvalidInput, naming file, line and the near key.
    """
    warnings: list[str] = []
    root = Place(document=document, lenient=lenient, warnings=warnings)
    triggers: list[CompiledTrigger] = []
    for index, entry in enumerate(root.items([] if document.value is None else document.value, "triggers")):
        here = root.at(index)
        name = entry.get("name") if isinstance(entry, Mapping) else None
        here = here.called(f"trigger {name!r}" if isinstance(name, str) else f"trigger {index + 1}")
        if any(other.definition.name == name for other in triggers):
            raise here.at("name").fail(f"there is a trigger {name!r} already; names must differ")
        triggers.append(read_trigger(entry, place=here, pipelines=pipelines))
    return triggers, warnings


def parse_triggers(
    text: str, *, name: str = "triggers.yaml", **options: Any
) -> tuple[list[CompiledTrigger], list[str]]:
    """Read the text of a triggers.yaml, see `load_triggers`."""
    return load_triggers(parse_document(text, name=name), **options)
