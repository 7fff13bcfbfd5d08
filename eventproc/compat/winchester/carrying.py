"""Carrying the streams of a winchester database, with their events, over into the platform's own."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eventproc.abc import Bus, Clock, Handover, Joinable, Store, Tx
from eventproc.compat.winchester.modules.trigger_manager import new_event
from eventproc.engine.accept import prepare
from eventproc.errors import EventprocError
from eventproc.model import Distinguishing, Event, Failure, Span, StreamState, TriggerDefinition, from_datetime
from eventproc.registry.catalogue import Catalogue, CatalogueCache
from eventproc.registry.tally import NO_CHECKS
from eventproc.registry.traits import trait_event
from eventproc.registry.triggerset import Trigger, join_key, traits_json
from eventproc.store.winchester import WinchesterDatabase

PAGE: Final = 200  # streams read at a time
_UNDER_WAY: Final = {StreamState.FIRING: StreamState.ERROR, StreamState.EXPIRING: StreamState.EXPIRE_ERROR}
_STATES: Final = frozenset(StreamState) - {StreamState.COMMIT_ERROR}
_RESET: Final = {StreamState.RETRY_FIRE: StreamState.ERROR, StreamState.RETRY_EXPIRE: StreamState.EXPIRE_ERROR}
_EXPIRING: Final = frozenset({StreamState.EXPIRING, StreamState.EXPIRE_ERROR, StreamState.RETRY_EXPIRE})


class _Undo(Exception):
    """Ends a transaction of which nothing is to stay."""


class _Refused(Exception):
    """Says why a stream can not be carried over."""


@dataclass(slots=True)
class Carried:
    """What carrying over came to."""

    states: Counter[str] = field(default_factory=Counter)  # of streams that are new here, by their state here
    joined: int = 0  # streams whose events went into one that collects the same here already
    unchanged: int = 0  # streams that were carried over before
    completed: int = 0  # streams that had fired or expired, and were not asked for
    events: int = 0  # that are new here
    unknown: Counter[str] = field(default_factory=Counter)  # streams by the name of a trigger that is not here
    refused: list[dict[str, Any]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.unknown or self.refused)

    def as_dict(self) -> dict[str, Any]:
        return {
            "streams": sum(self.states.values()),
            "states": dict(sorted(self.states.items())),
            "joined": self.joined,
            "unchanged": self.unchanged,
            "completed": self.completed,
            "events": self.events,
            "unknown_triggers": dict(sorted(self.unknown.items())),
            "refused": self.refused,
        }


@dataclass(frozen=True, slots=True)
class _Source:
    """A stream as winchester has it, in the platform's terms."""

    state: StreamState
    trigger: Trigger
    traits: Mapping[str, Distinguishing]
    events: list[Event]  # stored, by time
    row: Mapping[str, Any]

    @property
    def fire_us(self) -> int | None:
        return _us(self.row["fire_timestamp"])

    def expire_us(self, now_us: int) -> int:
        found = _us(self.row["expire_timestamp"])
        first_us, last_us = self.events[0].time_us, self.events[-1].time_us
        return self.trigger.matcher.expires_us(first_us, last_us, now_us) if found is None else found


class Carrier:
    """
    Carries streams over, each with its events in a transaction of its own; what is there already stays as it is.

    A stream is known again by its trigger, its distinguishing traits and its events. Events are stored without running
    handlers, and only in the streams that they were in. The platform may run meanwhile; winchester should not.
    """

    def __init__(
        self,
        source: WinchesterDatabase,
        *,
        store: Store,
        cache: CatalogueCache,
        clock: Clock,
        bus: Bus,
        completed: bool = False,
        dry_run: bool = False,
    ) -> None:
        self._source = source
        self._store = store
        self._cache = cache
        self._clock = clock
        self._bus = bus
        self._completed = completed
        self._dry_run = dry_run
        self._done = Carried()

    def run(self, on_progress: Callable[[int], None] | None = None) -> Carried:
        """Carry over all there are. Raises StoreUnavailable when either database can not be used."""
        self._done = Carried()
        for row, events in self._rows():
            self._one(row, events)
            if on_progress is not None:
                on_progress(1)
        if not self._dry_run:
            self._bus.wake("streams")
        return self._done

    def _rows(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        after = None
        while True:
            with self._source.in_session() as session:
                rows = self._source.streams(session, after=after, oldest_first=True, limit=PAGE)
                wanted = [row for row in rows if self._is_wanted(row)]
                found = [(row, self._source.events(session, stream=row["id"])) for row in wanted]
            self._done.completed += len(rows) - len(wanted)
            yield from found
            if len(rows) < PAGE:
                return
            after = rows[-1]["id"]

    def _is_wanted(self, row: Mapping[str, Any]) -> bool:
        return self._completed or row["state"] != StreamState.COMPLETED

    def _one(self, row: dict[str, Any], events: list[dict[str, Any]]) -> None:
        try:
            with self._store.begin() as tx:
                catalogue = self._cache.current(tx)
                trigger = next((t for t in catalogue.triggers.triggers if t.record.name == row["name"]), None)
                if trigger is None:
                    self._done.unknown[row["name"]] += 1
                    return
                self._carry(tx, catalogue, trigger, row, events)
                self._undo_if_dry()
        except _Undo:
            pass
        except _Refused as error:
            self._done.refused.append({"stream": row["id"], "trigger": row["name"], "error": str(error)})

    def _undo_if_dry(self) -> None:
        if self._dry_run:
            raise _Undo

    def _carry(
        self, tx: Tx, catalogue: Catalogue, trigger: Trigger, row: dict[str, Any], events: list[dict[str, Any]]
    ) -> None:
        now_us = self._clock.now_us()
        traits = {name: _distinguishing(name, value) for name, value in row["traits"].items()}
        state = _checked(trigger.record.definition, traits, row, events)
        prepared = [_prepared(catalogue, trigger, event, now_us) for event in events]
        added = tx.events.add(prepared)
        stored = sorted((event for event, _ in added if event.seq), key=lambda event: (event.time_us, event.seq))
        if not stored:  # they were here, and are gone again
            self._done.unchanged += 1
            return
        source = _Source(state, trigger, traits, stored, row)
        before = self._held(tx, source)
        missing = [event for event in stored if event.seq not in before]
        if not missing or (before and source.state is not StreamState.ACTIVE):
            self._done.unchanged += 1
            return
        if source.state is StreamState.ACTIVE:
            self._collect(tx, source, missing, now_us)
        else:
            self._end(tx, source, now_us)
        self._done.events += sum(new for _, new in added)

    def _held(self, tx: Tx, source: _Source) -> set[int]:
        """Return those events that are in a stream like this one here."""
        holders = tx.streams.of_events([event.seq for event in source.events])
        shown = _sorted(json.loads(traits_json(source.traits)))
        alike: dict[int, bool] = {}
        for stream_id in {each for ids in holders.values() for each in ids}:
            stream = tx.streams.get(stream_id)
            alike[stream_id] = (
                stream is not None
                and stream.trigger_id == source.trigger.id
                and _sorted(stream.distinguished_by) == shown
            )
        return {seq for seq, ids in holders.items() if any(alike[each] for each in ids)}

    def _collect(self, tx: Tx, source: _Source, missing: Sequence[Event], now_us: int) -> None:
        key = join_key(source.trigger.id, source.traits)
        for _ in range(2):  # somebody else may make it in between
            there = tx.streams.joinable([key]).get(key)
            if there is not None:
                self._join(tx, source, there, missing, now_us)
                self._done.joined += 1
                return
            new = _stream(source, key, missing, now_us)
            if key in tx.streams.add([new], now_us=now_us):
                tx.streams.link([(new.id, event.seq) for event in missing])
                self._done.states[StreamState.ACTIVE.label] += 1
                return
        raise _Refused("others made the same stream at the same time: run this again")

    def _join(self, tx: Tx, source: _Source, there: Joinable, missing: Sequence[Event], now_us: int) -> None:
        """Put the events into the stream that collects the same here."""
        tx.streams.link([(there.id, event.seq) for event in missing])
        there.first_us = min(there.first_us, missing[0].time_us)
        there.last_us = max(there.last_us, missing[-1].time_us)
        there.events += len(missing)
        there.matched = _matched(source.trigger, tx.streams.events([there.id])[there.id])
        there.trigger_version = source.trigger.record.version
        there.expire_us = max(there.expire_us, source.expire_us(now_us))
        if there.fire_us is None:
            needs = source.trigger.matcher.fire_needs
            met = all(have >= need for have, need in zip(there.matched, needs, strict=True))
            there.fire_us = source.fire_us or (now_us + source.trigger.fire_delay_us if met else None)
        tx.streams.change([there], now_us=now_us)

    def _end(self, tx: Tx, source: _Source, now_us: int) -> None:
        """Add a stream that nothing joins any more."""
        new = _stream(source, None, source.events, now_us)
        if source.state is StreamState.RETRY_FIRE and new.fire_us is None:
            new.fire_us = now_us
        tx.streams.add([new], now_us=now_us)
        tx.streams.link([(new.id, event.seq) for event in source.events])
        state = (_UNDER_WAY | _RESET).get(source.state, source.state)
        failure = None if state is StreamState.COMPLETED else Failure(kind="pipeline", message=_why(source))
        handover = Handover(stream_id=new.id, state=state, expiring=source.state in _EXPIRING, failure=failure)
        tx.streams.hand_over([handover], now_us=now_us)
        if source.state in _RESET:
            tx.streams.reset([new.id], now_us=now_us)
            state = source.state
        self._done.states[state.label] += 1


def _stream(source: _Source, key: str | None, events: Sequence[Event], now_us: int) -> Joinable:
    record = source.trigger.record
    return Joinable(
        id=0,
        key=key,
        trigger_id=record.id,
        trigger_version=record.version,
        first_us=events[0].time_us,
        last_us=events[-1].time_us,
        events=len(events),
        matched=_matched(source.trigger, events),
        hops=max(event.hops for event in events),
        fire_us=source.fire_us,
        expire_us=source.expire_us(now_us),
        name=record.name,
        traits_json=traits_json(source.traits),
    )


def _checked(
    definition: TriggerDefinition,
    traits: Mapping[str, Distinguishing],
    row: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
) -> StreamState:
    """Return the state of a stream. Raises _Refused for one that has no place here."""
    names = {name if isinstance(name, str) else next(iter(name)) for name in definition.distinguished_by}
    if set(traits) != names:
        raise _Refused(
            f"it is distinguished by {', '.join(sorted(traits)) or 'nothing'}, its trigger here by "
            f"{', '.join(sorted(names)) or 'nothing'}"
        )
    if not events:
        raise _Refused("its events are gone: winchester has trimmed them")
    if row["state"] not in _STATES:
        raise _Refused(f"winchester has no state {row['state']!r}")
    return StreamState(row["state"])


def _prepared(catalogue: Catalogue, trigger: Trigger, event: Mapping[str, Any], now_us: int) -> Event:
    said = {name: event[name] for name in ("message_id", "event_type", "timestamp")}
    try:
        return prepare(
            catalogue, new_event({**event["traits"], **said}), user_id=trigger.record.owner_id, now_us=now_us
        )
    except EventprocError as error:
        raise _Refused(f"its event {event['message_id']}: {error.message}") from error


def _matched(trigger: Trigger, events: Sequence[Event]) -> list[int]:
    """Return, per fire criterion, how many events satisfy it."""
    counts = [0] * len(trigger.matcher.fire_needs)
    if counts:
        for event in events:
            seen = trait_event(event.hook, event.time_us, json.loads(event.payload_json))
            for index in trigger.matcher.counts(seen, NO_CHECKS):
                counts[index] += 1
    return counts


def _why(source: _Source) -> str:
    if source.state in _UNDER_WAY:
        return (
            f"it was {source.state.label} in winchester, whose worker ended or was still at work: its pipeline may "
            "have run; reset the stream to run it (again)"
        )
    return f"it was carried over from winchester in the state {source.state.label}, which keeps no reason"


def _us(moment: dt.datetime | None) -> int | None:
    return None if moment is None else from_datetime(moment)


def _distinguishing(name: str, value: Any) -> Distinguishing:
    if value is None:
        raise _Refused(f"its distinguishing trait {name!r} has no value")
    if isinstance(value, tuple):
        begin, end = value
        return Span(from_datetime(begin), from_datetime(end))
    found: Distinguishing = value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else value
    return found


def _sorted(traits: Mapping[str, Any]) -> str:
    return json.dumps(traits, sort_keys=True)


__all__ = ["Carried", "Carrier"]
