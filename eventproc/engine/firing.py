"""
Streams fire and expire: each that is due is given to a run of its pipeline, in the transaction that says so.

A run has leases, retries and a dead letter; its stream only follows it. What is due and has no pipeline ends at once.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventproc.abc import Bus, Check, Handover, Tx
from eventproc.engine.accept import accept_events
from eventproc.errors import EventprocError
from eventproc.model import (
    PIPELINE_HOOK,
    STREAM_EXPIRED,
    STREAM_FIRED,
    Accepted,
    Claim,
    Event,
    Failure,
    HandlerRecord,
    NewEvent,
    NewRun,
    Stream,
    StreamState,
    TriggerRecord,
    isoformat,
)
from eventproc.registry.catalogue import Catalogue
from eventproc.registry.paths import key_at
from eventproc.registry.tally import COUNTER

log = logging.getLogger(__name__)

MAX_CALL_BYTES = 48 << 20  # of a stream's events as a child is given them


@dataclass(frozen=True, slots=True)
class _Due:
    """A due stream on its way to a pipeline."""

    stream: Stream
    expiring: bool
    pipeline: HandlerRecord
    event: NewEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Fired:
    """What one look at the due streams came to."""

    fired: int = 0
    expired: int = 0
    failed: int = 0  # those whose pipeline is not there

    @property
    def total(self) -> int:
        return self.fired + self.expired + self.failed


def fire_due_streams(tx: Tx, catalogue: Catalogue, *, now_us: int, limit: int, bus: Bus | None = None) -> Fired:
    """
    Give at most `limit` due streams to runs; those that fire come before those that expire.

    What is due goes by the catalogue's event clock, if it has one.
    """
    present_us = catalogue.present_us(now_us)
    firing = tx.streams.due(now_us=present_us, limit=limit, expiring=False)
    room = limit - len(firing)
    expiring = tx.streams.due(now_us=present_us, limit=room, expiring=True) if room > 0 else []
    if not (firing or expiring):
        return Fired()
    pass_ = _Pass(tx, catalogue, now_us)
    for stream in firing:
        pass_.add(stream, expiring=False)
    for stream in expiring:
        pass_.add(stream, expiring=True)
    failed = pass_.write(bus)
    return Fired(fired=len(firing), expired=len(expiring), failed=failed)


class _Pass:
    """The due streams of one transaction."""

    def __init__(self, tx: Tx, catalogue: Catalogue, now_us: int) -> None:
        self._tx = tx
        self._catalogue = catalogue
        self._now_us = now_us
        self._triggers: dict[int, TriggerRecord | None] = {}
        self._pipelines = {record.name: record for record in catalogue.handlers if record.hook == PIPELINE_HOOK}
        self._due: list[_Due] = []
        self._ended: list[Handover] = []
        self._counts: Counter[tuple[int, str]] = Counter()  # by trigger, in winchester's words

    def add(self, stream: Stream, *, expiring: bool) -> None:
        if stream.trigger_id not in self._triggers:
            self._triggers[stream.trigger_id] = self._tx.triggers.get(stream.trigger_id)
        trigger = self._triggers[stream.trigger_id]
        definition = trigger.definition if trigger is not None else None
        name = definition and (definition.expire_pipeline if expiring else definition.fire_pipeline)
        way = "expire" if expiring else "fire"
        self._count(trigger, f"Streams {way}d")
        if not name:
            self._count(trigger, f"No {way} pipeline for '{stream.name}'")
            self._ended.append(Handover(stream_id=stream.id, state=StreamState.COMPLETED, expiring=expiring))
        elif name not in self._pipelines:
            self._count(trigger, f"Unknown pipeline '{name}'")
            self._refuse(stream, f"there is no pipeline {name!r}: register it, then reset the stream", expiring)
        else:
            event = stream_event(stream, name, expiring=expiring)
            self._due.append(_Due(stream, expiring, self._pipelines[name], event))

    def _count(self, trigger: TriggerRecord | None, name: str) -> None:
        if trigger is not None and trigger.definition.debug_level > 0:
            self._counts[trigger.id, name] += 1

    def _refuse(self, stream: Stream, why: str, expiring: bool) -> None:  # noqa: FBT001 - which way it goes
        self._ended.append(
            Handover(
                stream_id=stream.id,
                state=StreamState.EXPIRE_ERROR if expiring else StreamState.ERROR,
                expiring=expiring,
                failure=Failure(kind="pipeline", message=why),
            )
        )

    def write(self, bus: Bus | None) -> int:
        """Write what became of all; return how many had no pipeline that could take them."""
        results = accept_events(
            self._tx,
            self._catalogue,
            [due.event for due in self._due],
            user_id=None,
            now_us=self._now_us,
            source="engine",
            bus=bus,
        )
        runs: list[tuple[int, NewRun]] = []
        taken: list[tuple[_Due, int]] = []
        for due, result in zip(self._due, results, strict=True):
            if isinstance(result, Accepted):
                runs.append((result.seq, _run_of(due, self._now_us)))
                taken.append((due, result.seq))
            else:
                self._refuse(due.stream, f"its event was refused: {_message(result)}", due.expiring)
        run_ids = dict(self._tx.runs.add_many(runs, now_us=self._now_us)) if runs else {}
        given = [_given(due, run_ids[seq]) for due, seq in taken]
        self._tx.streams.hand_over([*self._ended, *given], now_us=self._now_us)
        counted = self._counts.items()
        self._tx.triggers.add_checks(
            [
                Check(trigger_id=each, kind=COUNTER, name=name, checks=number, passed=0)
                for (each, name), number in counted
            ]
        )
        if bus is not None and given:
            self._tx.after_commit(lambda: bus.wake("runs"))
        return sum(1 for each in self._ended if each.failure is not None)


def _run_of(due: _Due, now_us: int) -> NewRun:
    options = due.pipeline.current.options
    payload = due.event.payload
    return NewRun(
        handler_id=due.pipeline.id,
        version=due.pipeline.current.version,
        isolation=options.isolation.value,
        limit_key=key_at(payload, options.concurrency.key) if options.concurrency and options.concurrency.key else None,
        rate_key=key_at(payload, options.rate.key) if options.rate and options.rate.key else None,
        due_us=now_us,
    )


def _message(result: Accepted | EventprocError) -> str:
    return result.message if isinstance(result, EventprocError) else ""


def _given(due: _Due, run_id: int) -> Handover:
    state = StreamState.EXPIRING if due.expiring else StreamState.FIRING
    return Handover(stream_id=due.stream.id, state=state, expiring=due.expiring, run_id=run_id)


def stream_event(stream: Stream, pipeline: str, *, expiring: bool) -> NewEvent:
    """Return the event that tells a pipeline, and whoever listens, of a stream."""
    hook = STREAM_EXPIRED if expiring else STREAM_FIRED
    return NewEvent(
        hook=hook,
        # A stream is given to a pipeline once in each serial.
        id=f"{hook}.{stream.id}.{stream.serial}",
        payload={
            "stream": stream.id,
            "trigger": stream.name,
            "pipeline": pipeline,
            "distinguished_by": stream.distinguished_by,
            "first": isoformat(stream.first_us),
            "last": isoformat(stream.last_us),
            "events": stream.events,
        },
        hops=stream.hops,
    )


def stream_of(claim: Claim) -> int:
    """Return the id of the stream that a pipeline's run works on."""
    return int(json.loads(claim.event.payload_json)["stream"])


def call_payload(claim: Claim, events: Sequence[Event]) -> bytes:
    """Return what the child is given of a stream: {stream_id, stream_name, events: [[id, hook, time, payload], …]}."""
    payload: Mapping[str, Any] = json.loads(claim.event.payload_json)
    dumps = json.dumps
    parts = [f"[{dumps(event.id)},{dumps(event.hook)},{event.time_us},{event.payload_json}]" for event in events]
    head = f'{{"stream_id":{payload["stream"]},"stream_name":{dumps(payload["trigger"])},"events":['
    return f"{head}{','.join(parts)}]}}".encode()
