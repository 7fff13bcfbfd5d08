"""The triggers of one snapshot: which of them an event may match, and the key of the stream that it joins."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventproc.abc import Compile, Matcher
from eventproc.errors import EventprocError
from eventproc.model import Distinguishing, Span, TriggerRecord, from_datetime, isoformat
from eventproc.registry.triggers import compile_trigger

log = logging.getLogger(__name__)

_MAX_CACHED_TYPES = 10_000  # event types may be invented without end
_MAX_KEY = 400  # characters; a longer one is replaced by its digest


@dataclass(frozen=True, slots=True)
class Trigger:
    """A stored trigger that events are matched with."""

    record: TriggerRecord
    matcher: Matcher

    @property
    def id(self) -> int:
        return self.record.id

    @property
    def fire_delay_us(self) -> int:
        return round(self.record.definition.fire_delay_s * 1_000_000)


class TriggerSet:
    """An immutable snapshot; its cache fills up as it is used and is safe to share between threads."""

    def __init__(self, records: Sequence[TriggerRecord], compile_: Compile | None = None) -> None:
        self.triggers: tuple[Trigger, ...] = tuple(_compiled(records, compile_ or compile_trigger))
        self._by_type: dict[str, tuple[Trigger, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.triggers)

    def candidates(self, event_type: str) -> tuple[Trigger, ...]:
        """Return the triggers that an event of this type could match, in the order in which they were made."""
        found = self._by_type.get(event_type)
        if found is None:
            found = tuple(trigger for trigger in self.triggers if _may(trigger, event_type))
            if len(self._by_type) >= _MAX_CACHED_TYPES:
                self._by_type.clear()
            self._by_type[event_type] = found
        return found


def _may(trigger: Trigger, event_type: str) -> bool:
    # Where reasons are counted, an event of the wrong type is one of them.
    return trigger.record.definition.debug_level > 0 or trigger.matcher.could_match(event_type)


def _compiled(records: Sequence[TriggerRecord], compile_: Compile) -> list[Trigger]:
    found = []
    for record in records:
        if record.paused:
            continue
        try:
            found.append(Trigger(record, compile_(record.definition)))
        except EventprocError as error:
            # Checked when it was stored; one of another release must not stop the events of all others.
            log.warning("trigger %r can not be used: %s", record.name, error)
    return found


def traits_json(traits: Mapping[str, Distinguishing]) -> str:
    """Return distinguishing traits as they are shown: compact JSON, sorted by name."""
    shown = {name: _shown(value) for name, value in traits.items()}
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def join_key(trigger_id: int, traits: Mapping[str, Distinguishing]) -> str:
    """Return what streams are told apart by: 1, 1.0, true and "1" are four values, a datetime is no text."""
    keyed = [[name, _keyed(traits[name])] for name in sorted(traits)]
    key = f"{trigger_id}:" + json.dumps(keyed, ensure_ascii=False, separators=(",", ":"))
    if len(key) > _MAX_KEY:
        key = f"{trigger_id}:#{hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=24).hexdigest()}"
    return key


def _shown(value: Distinguishing) -> Any:
    if isinstance(value, Span):
        return {"begin": isoformat(value.begin_us), "end": isoformat(value.end_us)}
    return isoformat(from_datetime(value)) if isinstance(value, dt.datetime) else value


def _keyed(value: Distinguishing) -> Any:
    if isinstance(value, Span):
        return [value.begin_us, value.end_us]
    return {"at": from_datetime(value)} if isinstance(value, dt.datetime) else value
