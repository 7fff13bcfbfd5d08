"""Short ways to define triggers and let events join, for tests of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventproc.abc import Checks
from eventproc.model import Distinguishing, TraitEvent, TriggerDefinition

HOUR_US = 3_600_000_000


def make_trigger(name: str = "day", **values: Any) -> TriggerDefinition:
    """A trigger of all events, distinguished by `id`, that fires with the event of type `test.end`."""
    defaults: dict[str, Any] = {
        "expiration": "$last + 1h",
        "match_criteria": ({"event_type": "test.*"},),
        "fire_criteria": ({"event_type": "test.end"},),
        "distinguished_by": ("id",),
        "fire_pipeline": "usage",
        "expire_pipeline": "late",
    }
    return TriggerDefinition(name=name, **(defaults | values))


class PlainMatcher:
    """Understands what `make_trigger` makes: event types, also ending in `*`, numbers, trait names, `$last + Nh`."""

    def __init__(self, definition: TriggerDefinition) -> None:
        self.definition = definition
        self.fire_needs: Sequence[int] = [int(item.get("number", 1)) for item in definition.fire_criteria]
        self._life_us = int(definition.expiration.split("+")[1].strip(" h")) * HOUR_US

    def could_match(self, event_type: str) -> bool:
        return any(_is_type(item, event_type) for item in self.definition.match_criteria)

    def match(self, event: TraitEvent, checks: Checks) -> Mapping[str, Distinguishing] | None:
        names = [str(name) for name in self.definition.distinguished_by]
        missing = [name for name in names if name not in event.traits]
        if missing:
            checks.mismatch(f"not {missing[0]!r}")
            return None
        if not checks.check(any(_is_type(c, event.event_type) for c in self.definition.match_criteria), "Wrong type"):
            return None
        return {name: event.traits[name] for name in names}

    def counts(self, event: TraitEvent, checks: Checks) -> Sequence[int]:
        found = [i for i, item in enumerate(self.definition.fire_criteria) if _is_type(item, event.event_type)]
        checks.check(bool(found), "Wrong event type")
        return found

    def expires_us(self, first_us: int, last_us: int, now_us: int) -> int:
        del first_us, now_us
        return last_us + self._life_us


def _is_type(criteria: Mapping[str, Any], event_type: str) -> bool:
    wanted = criteria.get("event_type", "*")
    return event_type.startswith(wanted[:-1]) if wanted.endswith("*") else event_type == wanted
