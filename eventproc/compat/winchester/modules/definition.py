"""winchester.definition: trigger definitions that match events given as dicts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from eventproc.compat.winchester.modules.debugging import DebugManager
from eventproc.errors import InvalidInput
from eventproc.model import Span, TraitEvent, from_datetime, to_datetime
from eventproc.registry.triggers import CompiledTrigger, TimeExpression, parse, read_trigger


class DefinitionError(Exception):
    """A trigger's definition is malformed."""


def _naive(value: Any) -> Any:
    if isinstance(value, Span):
        return TimeRange(_naive(to_datetime(value.begin_us)), _naive(to_datetime(value.end_us)))
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value


def _event(event: Mapping[str, Any]) -> TraitEvent:
    traits = {
        name: value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo is None else value
        for name, value in event.items()
        if isinstance(value, str | int | float | dt.datetime) and name not in ("event_type", "timestamp")
    }
    return TraitEvent(event["event_type"], from_datetime(event["timestamp"]), traits)


class TimeRange:
    """A range of naive datetimes, with the names of timex."""

    def __init__(self, begin: dt.datetime, end: dt.datetime) -> None:
        self.begin = begin
        self.end = end

    @property
    def timestamp(self) -> dt.datetime:
        return self.begin

    def __contains__(self, moment: dt.datetime) -> bool:
        return self.begin <= moment < self.end

    def __eq__(self, other: object) -> bool:
        return (getattr(other, "begin", None), getattr(other, "end", None)) == (self.begin, self.end)

    def __hash__(self) -> int:
        return hash((self.begin, self.end))


class TriggerDefinition:
    """A definition with the keys of triggers.yaml, compiled once."""

    def __init__(self, config: Mapping[str, Any], debug_manager: DebugManager | None = None) -> None:
        try:
            self._compiled: CompiledTrigger = read_trigger(config)
        except InvalidInput as error:
            raise DefinitionError(error.message) from error
        definition = self._compiled.definition
        self.name = definition.name
        self.debug_level = definition.debug_level
        self.distinguished_by = list(definition.distinguished_by)
        self.fire_delay = definition.fire_delay_s
        self.fire_pipeline = definition.fire_pipeline
        self.expire_pipeline = definition.expire_pipeline
        self.fire_criteria = list(definition.fire_criteria)
        self.match_criteria = list(definition.match_criteria)
        self.load_criteria: list[Any] = []
        self.expiration: TimeExpression = parse(definition.expiration)
        self.debugger = (debug_manager or DebugManager()).get_debugger(self)

    def match(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return what `get_distinguishing_traits` takes if the event matches, else None."""
        return self._compiled.match(_event(event), self.debugger.get_group("Match"))

    def get_distinguishing_traits(self, event: Mapping[str, Any], matching: Mapping[str, Any]) -> dict[str, Any]:
        """Return the distinguishing traits, as naive datetimes and ranges of them."""
        del event
        return {name: _naive(value) for name, value in matching.items()}

    def get_fire_timestamp(self, timestamp: dt.datetime) -> dt.datetime:
        return timestamp + dt.timedelta(seconds=self.fire_delay)

    def should_fire(self, events: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether a stream of these events fires."""
        group = self.debugger.get_group("Fire")
        counts = [0] * len(self._compiled.fire_needs)
        for event in events:
            for index in self._compiled.counts(_event(event), group):
                counts[index] += 1
        met = all(have >= need for have, need in zip(counts, self._compiled.fire_needs, strict=True))
        return group.match() if met else group.mismatch("Not enough matching criteria")


__all__ = ["DefinitionError", "TimeRange", "TriggerDefinition"]
