"""
Events join streams: in the transaction that accepts them, many at a time, in a fixed number of statements.

What an event costs does not depend on how long its stream is: times and the numbers of events that satisfy each fire
criterion are kept in the stream's row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventproc.abc import Joinable, Tx
from eventproc.errors import StoreUnavailable
from eventproc.model import Distinguishing, Event, TraitEvent
from eventproc.registry.tally import FIRE, MATCH, Counting
from eventproc.registry.traits import trait_event
from eventproc.registry.triggerset import Trigger, TriggerSet, join_key, traits_json

_TRIES = 20  # how often somebody else may be quicker to make a stream

Item = tuple[Event, Mapping[str, Any], int]  # an event just stored, its payload, and its present time


@dataclass(slots=True)
class _Move:
    """An event on its way into a stream."""

    key: str
    trigger: Trigger
    traits: Mapping[str, Distinguishing]
    event: Event
    satisfies: Sequence[int]
    present_us: int


@dataclass(slots=True)
class Joined:
    """What joining came to."""

    counting: Counting = field(default_factory=Counting)
    streams: dict[int, list[int]] = field(default_factory=dict)  # by event: the streams that it joined
    next_us: int | None = None  # when the first of the streams that changed fires or expires

    def note_due(self, stream: Joinable) -> None:
        due_us = stream.expire_us if stream.fire_us is None else stream.fire_us
        self.next_us = due_us if self.next_us is None else min(self.next_us, due_us)


def join(tx: Tx, triggers: TriggerSet, items: Sequence[Item], *, now_us: int) -> Joined:
    """
    Let events join the streams of all triggers that they match; what is written says that it was at `now_us`.

    A stream that has expired is not joined any more: the event begins another one. Raises StoreUnavailable when
    others were quicker too often.
    """
    joined = Joined()
    moves = _moves(triggers, items, joined.counting)
    for _ in range(_TRIES):
        if not moves:
            return joined
        moves = _Batch(tx, joined).write(moves, now_us=now_us)
    raise StoreUnavailable("other transactions make the same streams all the time: try again")


def _moves(triggers: TriggerSet, items: Sequence[Item], counting: Counting) -> list[_Move]:
    moves = []
    for event, payload, present_us in items:
        candidates = triggers.candidates(event.hook)
        if not candidates:
            continue
        seen = trait_event(event.hook, event.time_us, payload)
        for trigger in candidates:
            traits = trigger.matcher.match(seen, counting.group(trigger, MATCH))
            if traits is not None:
                satisfies = _satisfied(trigger, seen, counting)
                moves.append(_Move(join_key(trigger.id, traits), trigger, traits, event, satisfies, present_us))
    return moves


def _satisfied(trigger: Trigger, event: TraitEvent, counting: Counting) -> Sequence[int]:
    if not trigger.matcher.fire_needs:
        return ()
    return trigger.matcher.counts(event, counting.group(trigger, FIRE))


class _Batch:
    """One try to write moves."""

    def __init__(self, tx: Tx, joined: Joined) -> None:
        self._tx = tx
        self._joined = joined
        self._open: dict[str, Joinable] = {}
        self._new: list[Joinable] = []
        self._changed: dict[int, Joinable] = {}
        self._members: list[tuple[Joinable, _Move]] = []

    def write(self, moves: Sequence[_Move], *, now_us: int) -> list[_Move]:
        """Write the moves; return those whose stream somebody else made first."""
        tx = self._tx
        self._open = tx.streams.joinable(sorted({move.key for move in moves}))
        self._recount(moves)
        for move in moves:
            self._place(move)
        tx.streams.change(list(self._changed.values()), now_us=now_us)  # first: it frees the keys of what has expired
        inserted = tx.streams.add(self._new, now_us=now_us)
        lost = {stream.key for stream in self._new if stream.key is not None and stream.key not in inserted}
        kept = [(stream, move) for stream, move in self._members if stream.key is None or stream.key not in lost]
        tx.streams.link([(stream.id, move.event.seq) for stream, move in kept])
        self._note(kept)
        return [move for stream, move in self._members if stream.key is not None and stream.key in lost]

    def _note(self, kept: Iterable[tuple[Joinable, _Move]]) -> None:
        made = {id(stream) for stream in self._new}
        for stream, move in kept:
            self._joined.streams.setdefault(move.event.seq, []).append(stream.id)
            self._joined.note_due(stream)
            self._joined.counting.count(move.trigger, "New stream" if id(stream) in made else "Added events")
            made.discard(id(stream))

    def _place(self, move: _Move) -> None:
        now_us = move.present_us
        stream = self._open.get(move.key)
        if stream is not None and stream.expire_us <= now_us:
            stream.key = None
            if stream.id:
                self._changed[stream.id] = stream
            stream = None
        if stream is None:
            stream = self._open[move.key] = _begin(move)
            self._new.append(stream)
        else:
            _extend(stream, move.event)
            if stream.id:
                self._changed[stream.id] = stream
        trigger = move.trigger
        for index in move.satisfies:
            stream.matched[index] += 1
        stream.expire_us = trigger.matcher.expires_us(stream.first_us, stream.last_us, now_us)
        if stream.fire_us is None and self._fires(stream, trigger):
            stream.fire_us = now_us + trigger.fire_delay_us
        self._members.append((stream, move))

    def _fires(self, stream: Joinable, trigger: Trigger) -> bool:
        needs = trigger.matcher.fire_needs
        met = all(have >= need for have, need in zip(stream.matched, needs, strict=True))
        if met:
            self._joined.counting.count(trigger, "Ready to fire")
        elif trigger.record.definition.debug_level > 0:
            self._joined.counting.group(trigger, FIRE).mismatch("Not enough matching criteria")
        return met

    def _recount(self, moves: Sequence[_Move]) -> None:
        """Count anew in streams of an earlier version of their trigger: its criteria were others."""
        versions = {move.key: move.trigger for move in moves}
        old = [(s, versions[key]) for key, s in self._open.items() if s.trigger_version != versions[key].record.version]
        if not old:
            return
        events = self._tx.streams.events([stream.id for stream, _ in old])
        for stream, trigger in old:
            stream.trigger_version = trigger.record.version
            stream.matched = [0] * len(trigger.matcher.fire_needs)
            for event in events[stream.id]:
                seen = trait_event(event.hook, event.time_us, json.loads(event.payload_json))
                for index in _satisfied(trigger, seen, Counting()):
                    stream.matched[index] += 1


def _begin(move: _Move) -> Joinable:
    event, trigger = move.event, move.trigger
    return Joinable(
        id=0,
        key=move.key,
        trigger_id=trigger.id,
        trigger_version=trigger.record.version,
        first_us=event.time_us,
        last_us=event.time_us,
        events=1,
        matched=[0] * len(trigger.matcher.fire_needs),
        hops=event.hops,
        fire_us=None,
        expire_us=0,
        name=trigger.record.name,
        traits_json=traits_json(move.traits),
    )


def _extend(stream: Joinable, event: Event) -> None:
    stream.first_us = min(stream.first_us, event.time_us)
    stream.last_us = max(stream.last_us, event.time_us)
    stream.events += 1
    stream.hops = max(stream.hops, event.hops)
