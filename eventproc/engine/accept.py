"""Acceptance: events are checked, written and dispatched, with the runs they cause, in the caller's transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventproc.abc import Bus, Tx
from eventproc.codec.events import content_digest, payload_json
from eventproc.engine.joining import Item, join
from eventproc.errors import EventConflict, EventprocError, InvalidInput
from eventproc.model import MAX_HOPS, MAX_PAYLOAD_BYTES, Accepted, Event, HandlerRecord, NewEvent, NewRun
from eventproc.registry.catalogue import Catalogue
from eventproc.registry.checks import check_event_id, check_key, check_source, check_tags, check_trace_parent
from eventproc.registry.paths import key_at

# What a datetime can show: the years 1 to 9999.
_MIN_TIME_US = -62_135_596_800_000_000
_MAX_TIME_US = 253_402_300_799_999_999

Result = Accepted | EventprocError


def prepare(
    catalogue: Catalogue,
    event: NewEvent,
    *,
    user_id: int | None,
    now_us: int,
    present_us: int | None = None,
    source: str = "api",
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
) -> Event:
    """
    Check a reported event and fill in what its sender left out; nothing is written.

    `present_us` is the time of an event that brings none, when it is not `now_us`.
    Raises the EventprocError that tells the sender what is wrong.
    """
    catalogue.spec_for_event(event.hook)
    if event.hops > MAX_HOPS:
        raise InvalidInput(
            f"the event is number {event.hops} in a chain of events that caused each other, and {MAX_HOPS} are "
            "allowed: is there a loop of handlers?",
            hops=event.hops,
            limit=MAX_HOPS,
        )
    text = payload_json(event.payload, max_bytes=max_payload_bytes)
    catalogue.validate(event.hook, event.payload)
    tags = check_tags(event.tags)
    return Event(
        seq=0,
        id=uuid.uuid4().hex if event.id is None else check_event_id(event.id),
        hook=event.hook,
        source=source if event.source is None else check_source(event.source),
        time_us=_check_time(event.time_us)
        if event.time_us is not None
        else now_us
        if present_us is None
        else present_us,
        tags=tags,
        key=check_key(event.key),
        payload_json=text,
        digest=content_digest(
            hook=event.hook,
            payload_json=text,
            tags=tags,
            key=event.key,
            source=event.source,
            time_us=event.time_us,
        ),
        trace_parent=check_trace_parent(event.trace_parent),
        hops=event.hops,
        accepted_us=now_us,
        user_id=user_id,
        caused_by_run=event.caused_by_run,
    )


def fits(catalogue: Catalogue, event: NewEvent) -> bool:
    """Tell whether an event would be accepted, unless its id is in use."""
    try:
        prepare(catalogue, event, user_id=None, now_us=0)
    except EventprocError:
        return False
    return True


def accept_events(
    tx: Tx,
    catalogue: Catalogue,
    events: Sequence[NewEvent],
    *,
    user_id: int | None,
    now_us: int,
    present_us: Sequence[int] | None = None,
    source: str = "api",
    max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    bus: Bus | None = None,
) -> list[Result]:
    """
    Accept events, queue the runs they cause and let them join streams; return, in order, what became of each.

    Each event is refused by itself: its place then holds the error. An id known with the same content is a
    duplicate and changes nothing; with other content it is an EventConflict. `present_us` gives each event a present
    time of its own, which its streams go by; by default it is the catalogue's event clock's, else `now_us`. `bus` is
    woken after the commit.
    """
    times = [catalogue.present_us(now_us)] * len(events) if present_us is None else present_us
    results: list[Result | None] = [None] * len(events)
    prepared: list[tuple[int, Event]] = []
    for index, new in enumerate(events):
        try:
            ready = prepare(
                catalogue,
                new,
                user_id=user_id,
                now_us=now_us,
                present_us=times[index],
                source=source,
                max_payload_bytes=max_payload_bytes,
            )
        except EventprocError as error:
            results[index] = error
        else:
            prepared.append((index, ready))
    runs: list[tuple[int, NewRun]] = []
    fresh: list[Item] = []
    stored = tx.events.add([event for _, event in prepared]) if prepared else []
    for (index, asked), (event, is_new) in zip(prepared, stored, strict=True):
        results[index] = _result(asked, event, is_new=is_new)
        if is_new:
            payload = events[index].payload
            fresh.append((event, payload, times[index]))
            handlers = catalogue.match(event, payload)
            runs.extend((event.seq, new_run(handler, event, payload, now_us=now_us)) for handler in handlers)
    if runs:
        _queue(tx, runs, results, now_us=now_us, bus=bus)
    if fresh and catalogue.triggers:
        _join(tx, catalogue, fresh, results, now_us=now_us, bus=bus)
    return [result for result in results if result is not None]


def _queue(
    tx: Tx, runs: list[tuple[int, NewRun]], results: list[Result | None], *, now_us: int, bus: Bus | None
) -> None:
    queued: dict[int, list[int]] = {}
    for seq, run_id in tx.runs.add_many(runs, now_us=now_us):
        queued.setdefault(seq, []).append(run_id)
    for index, result in enumerate(results):
        if isinstance(result, Accepted) and not result.duplicate and result.seq in queued:
            results[index] = replace(result, runs=tuple(queued[result.seq]))
    if bus is not None:
        tx.after_commit(lambda: bus.wake("runs"))


def _join(
    tx: Tx, catalogue: Catalogue, fresh: Sequence[Item], results: list[Result | None], *, now_us: int, bus: Bus | None
) -> None:
    joined = join(tx, catalogue.triggers, fresh, now_us=now_us)
    for index, result in enumerate(results):
        if isinstance(result, Accepted) and not result.duplicate and result.seq in joined.streams:
            results[index] = replace(result, streams=tuple(joined.streams[result.seq]), due_us=joined.next_us)
    tally = catalogue.tally
    if tally is not None and joined.counting.counts:
        tx.after_commit(lambda: tally.add(joined.counting.counts))
    if bus is not None and joined.next_us is not None:
        tx.after_commit(lambda: bus.wake("streams"))


def _result(asked: Event, stored: Event, *, is_new: bool) -> Result:
    if is_new:
        return Accepted(id=stored.id, seq=stored.seq, duplicate=False)
    if stored.digest == asked.digest:
        return Accepted(id=stored.id, seq=stored.seq, duplicate=True)
    return EventConflict(
        f"the event id {asked.id!r} is already used for an event with other content; "
        "give each event an id of its own, or none",
        id=asked.id,
    )


def new_run(
    handler: HandlerRecord,
    event: Event,
    payload: Mapping[str, Any],
    *,
    now_us: int,
    round: int = 0,
) -> NewRun:
    """Return the run of a handler's current version on an event."""
    options = handler.current.options
    if options.order_by == "key":
        order_key = event.key
    else:
        order_key = key_at(payload, options.order_by) if options.order_by else None
    return NewRun(
        handler_id=handler.id,
        version=handler.current.version,
        isolation=options.isolation.value,
        order_key=order_key,
        limit_key=key_at(payload, options.concurrency.key) if options.concurrency and options.concurrency.key else None,
        rate_key=key_at(payload, options.rate.key) if options.rate and options.rate.key else None,
        due_us=now_us,
        round=round,
    )


def _check_time(time_us: Any) -> int:
    if isinstance(time_us, bool) or not isinstance(time_us, int) or not _MIN_TIME_US <= time_us <= _MAX_TIME_US:
        raise InvalidInput(f"time {time_us!r} is no time in microseconds between the years 1 and 9999", field="time")
    return time_us
