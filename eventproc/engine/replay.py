"""Replay: past events run their handlers again, in a round of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from eventproc.abc import Bus, Clock, Store, Tx
from eventproc.engine.accept import new_run
from eventproc.errors import InvalidInput
from eventproc.model import Event, HandlerRecord, NewRun, RunFilter
from eventproc.registry.catalogue import Catalogue, CatalogueCache
from eventproc.registry.filters import compile_filter

CHUNK = 200  # events in one transaction
MAX_EVENTS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayQuery:
    """
    Which events run which handlers again: all that match now, or only one.

    Without `current` a handler that has run on the event does so with the version of that run.
    """

    hook: str
    since_us: int
    until_us: int
    pattern: Mapping[str, Any] | None = None  # filter on the payload
    handler_id: int | None = None
    current: bool = True
    max_events: int = MAX_EVENTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    events: int  # that matched the query
    runs: tuple[int, ...]


def replay(store: Store, cache: CatalogueCache, query: ReplayQuery, *, clock: Clock, bus: Bus) -> Replayed:
    """
    Queue runs for stored events by time (until exclusive) and filter, oldest first.

    Each chunk of events is a transaction; what was queued before a failure stays queued.
    """
    accepts = compile_filter(query.pattern) if query.pattern is not None else None
    if query.since_us >= query.until_us:
        raise InvalidInput("the time range is empty: `since` must be before `until`")
    after: int | None = None
    events = 0
    runs: list[int] = []
    while True:
        with store.begin() as tx:
            page = tx.events.page(
                hook=query.hook,
                since_us=query.since_us,
                until_us=query.until_us,
                after=after,
                limit=CHUNK,
                newest_first=False,
            )
            found = [(event, json.loads(event.payload_json)) for event in page]
            wanted = [(event, payload) for event, payload in found if accepts is None or accepts(payload)]
            if events + len(wanted) > query.max_events:
                raise InvalidInput(f"more than {query.max_events:,} events match; narrow the time range or the filter")
            queued = _queue(tx, cache.current(tx), query, wanted, now_us=clock.now_us())
            if queued:
                tx.after_commit(lambda: bus.wake("runs"))
        events += len(wanted)
        runs += queued
        if len(page) < CHUNK:
            return Replayed(events=events, runs=tuple(runs))
        after = page[-1].seq


def _queue(
    tx: Tx, catalogue: Catalogue, query: ReplayQuery, events: list[tuple[Event, dict[str, Any]]], *, now_us: int
) -> list[int]:
    runs: list[tuple[int, NewRun]] = []
    for event, payload in events:
        for handler in catalogue.match(event, payload):
            if query.handler_id in (None, handler.id):
                number = tx.runs.next_round(event.seq, handler.id)
                run = new_run(handler, event, payload, now_us=now_us, round=number)
                runs.append((event.seq, run if query.current else _as_before(tx, run, event, handler)))
    return [run_id for _, run_id in tx.runs.add_many(runs, now_us=now_us)] if runs else []


def _as_before(tx: Tx, run: NewRun, event: Event, handler: HandlerRecord) -> NewRun:
    """Return the run with the version that ran on the event last, if one did."""
    earlier = tx.runs.page(RunFilter(event_id=event.id, handler_id=handler.id), limit=1)
    version = tx.handlers.version(handler.id, earlier[0].version) if earlier else None
    if version is None:
        return run
    return replace(run, version=version.version, isolation=version.options.isolation.value)
