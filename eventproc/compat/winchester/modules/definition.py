"""winchester.definition: criteria and trigger definitions that match events given as dicts."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from eventproc.abc import Checks
from eventproc.compat.winchester.modules.debugging import DebugManager, NoOpGroup
from eventproc.compat.winchester.modules.timex import TimeExpression, TimeRange, parse
from eventproc.errors import InvalidInput
from eventproc.model import Span, TraitEvent, from_datetime, to_datetime
from eventproc.registry.documents import Place
from eventproc.registry.triggers import read_trigger
from eventproc.registry.triggers.criteria import read_criteria, read_test

logger = logging.getLogger("winchester.definition")

Event = Mapping[str, Any]


class DefinitionError(Exception):
    """A trigger's definition is malformed."""


@contextmanager
def _checked() -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise DefinitionError(error.message) from error


def _naive(value: Any) -> Any:
    if isinstance(value, Span):
        return TimeRange(_naive(to_datetime(value.begin_us)), _naive(to_datetime(value.end_us)))
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value


def _event(event: Event) -> TraitEvent:
    traits = {
        name: value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo is None else value
        for name, value in event.items()
        if isinstance(value, str | int | float | dt.datetime) and name not in ("event_type", "timestamp")
    }
    when = event.get("timestamp") or dt.datetime.now(dt.UTC)
    return TraitEvent(event.get("event_type", ""), from_datetime(when), traits)


class Criterion:
    """What one trait must be: equal to `expr`."""

    kind: str | None = None  # the key of triggers.yaml that stands before the expression

    def __init__(self, expr: Any, name: str) -> None:
        self.trait_name = name
        self.value = expr
        with _checked():
            said = expr if self.kind is None else {self.kind: expr}
            self._test = read_test(Place().called(f"trait {name!r}"), name, said)

    def match(self, event: Event, debug_group: Checks) -> bool:
        return self._test.match(_event(event), debug_group)


class NumericCriterion(Criterion):
    """A whole number that equals, or compares with, another: `5`, `"> 5"`."""

    kind = "int"


class FloatCriterion(Criterion):
    """The same for numbers of any kind."""

    kind = "float"


class TimeCriterion(Criterion):
    """A datetime that is a moment or lies in a range, as a time expression says it."""

    kind = "datetime"


_CRITERIA = {"int": NumericCriterion, "float": FloatCriterion, "datetime": TimeCriterion}


class Criteria:
    """One entry of match_criteria or fire_criteria."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        warnings: list[str] = []
        mapping = config.get("map_distinguished_by") or {}
        if not isinstance(mapping, Mapping):
            raise DefinitionError(f"criteria: map_distinguished_by is a mapping of traits to traits, not {mapping!r}")
        with _checked():
            # Read as fire criteria are, for the number; whether the mapping fits is for the definition to check.
            said = {key: value for key, value in config.items() if key != "map_distinguished_by"}
            where = Place(lenient=True, warnings=warnings).called("criteria")
            self._compiled = read_criteria(where, said, distinguished_by=(), fires=True)
        for warning in warnings:
            logger.warning("%s", warning)
        self.included_types = list(self._compiled.types.included)
        self.excluded_types = list(self._compiled.types.excluded)
        self.number = self._compiled.number
        self.timestamp: TimeExpression | None = parse(config["timestamp"]) if config.get("timestamp") else None
        self.map_distinguished_by = dict(mapping)
        self.traits = {name: _criterion(name, said) for name, said in (config.get("traits") or {}).items()}

    def match_type(self, event_type: str) -> bool:
        """Tell whether events of that type can match."""
        return self._compiled.types.match(event_type)

    def match(self, event: Event, debug_group: Checks) -> bool:
        return self._compiled.match(_event(event), debug_group)


def _criterion(name: str, said: Any) -> Criterion:
    if isinstance(said, Mapping) and len(said) == 1:
        ((kind, expression),) = said.items()
        return _CRITERIA[kind](expression, name) if kind in _CRITERIA else Criterion(said, name)
    return Criterion(said, name)


class TriggerDefinition:
    """A definition with the keys of triggers.yaml, compiled once. What is passed over is said in the log."""

    def __init__(self, config: Mapping[str, Any], debug_manager: DebugManager | None = None) -> None:
        warnings: list[str] = []
        with _checked():
            self._compiled = read_trigger(config, place=Place(lenient=True, warnings=warnings))
        for warning in warnings:
            logger.warning("%s", warning)
        definition = self._compiled.definition
        self.name = definition.name
        self.debug_level = definition.debug_level
        self.distinguished_by = list(definition.distinguished_by)
        self.fire_delay = definition.fire_delay_s
        self.fire_pipeline = definition.fire_pipeline
        self.expire_pipeline = definition.expire_pipeline
        self.fire_criteria = [Criteria(entry) for entry in definition.fire_criteria]
        self.match_criteria = [Criteria(entry) for entry in definition.match_criteria]
        self.load_criteria = [Criteria(entry) for entry in config.get("load_criteria") or ()]
        self.expiration = parse(definition.expiration)
        self.debugger = (debug_manager or DebugManager()).get_debugger(self)

    def match(self, event: Event) -> Criteria | None:
        """Return the first of the match criteria that the event meets, else None."""
        read = _event(event)
        if self._compiled.match(read, self.debugger.get_group("Match")) is None:
            return None
        quiet = NoOpGroup()  # the outcome is counted already
        return next(criteria for criteria in self.match_criteria if criteria._compiled.match(read, quiet))  # noqa: SLF001 - of this module

    def get_distinguishing_traits(self, event: Event, matching_criteria: Criteria) -> dict[str, Any]:
        """Return the distinguishing traits of an event that matched: naive datetimes, and ranges of them."""
        read = _event(event)
        mapping = matching_criteria.map_distinguished_by
        traits: dict[str, Any] = {}
        for trait in self._compiled.traits:
            source = mapping.get(trait.name, trait.name)
            value = trait.of(read, source)
            if value is None:
                raise KeyError(source)
            traits[trait.name] = _naive(value)
        return traits

    def get_fire_timestamp(self, timestamp: dt.datetime) -> dt.datetime:
        return timestamp + dt.timedelta(seconds=self.fire_delay)

    def should_fire(self, events: Sequence[Event]) -> bool:
        """Tell whether a stream of these events fires."""
        group = self.debugger.get_group("Fire")
        counts = [0] * len(self.fire_criteria)
        for event in map(_event, events):
            for index in self._compiled.counts(event, group):
                counts[index] += 1
        met = all(have >= criteria.number for have, criteria in zip(counts, self.fire_criteria, strict=True))
        return group.match() if met else group.mismatch("Not enough matching criteria")


__all__ = [
    "Criteria",
    "Criterion",
    "DefinitionError",
    "FloatCriterion",
    "NumericCriterion",
    "TimeCriterion",
    "TimeRange",
    "TriggerDefinition",
]
