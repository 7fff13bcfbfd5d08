"""Cron schedules: when they are due, and the one event that each tick is."""

from __future__ import annotations

import datetime as dt
import itertools
import logging
from collections.abc import Iterator
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from eventproc.abc import Bus, Tx
from eventproc.engine.accept import accept_events
from eventproc.errors import EventConflict, EventprocError, InvalidInput, Unavailable
from eventproc.model import SECOND_US, NewEvent, Schedule, from_datetime, isoformat, to_datetime
from eventproc.registry.catalogue import Catalogue

log = logging.getLogger(__name__)

TICK_HOOK = "schedule.tick"
MAX_MISSED = 10_000  # ticks counted; more than that are said to be so many
_RETRY_US = 3600 * SECOND_US  # for a schedule that can not be read any more


def ticks(cron: str, timezone: str, from_us: int, *, reverse: bool = False) -> Iterator[int]:
    """
    Yield the times at which the schedule is due after (or, in reverse, before) `from_us`, that moment left out.

    Daylight saving follows Debian's cron: jobs at fixed times in the hour that is skipped run right after it, those
    in the repeated hour run once. Raises InvalidInput for a bad expression or zone.
    """
    start = to_datetime(from_us).astimezone(_zone(timezone))
    try:
        yield from map(from_datetime, CronSim(cron, start, reverse=reverse))
    except CronSimError as exc:
        raise InvalidInput(
            f"{cron!r} is no cron expression: {exc}; write five fields: minute hour day month weekday", path="$.cron"
        ) from exc


def _zone(timezone: str) -> dt.tzinfo:
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise InvalidInput(f"unknown time zone {timezone!r}; write it as Europe/Berlin", path="$.timezone") from None


def next_due_us(cron: str, timezone: str, after_us: int) -> int:
    """Return the next time after `after_us`. Raises InvalidInput for an expression that is never due."""
    for due_us in ticks(cron, timezone, after_us):
        return due_us
    raise InvalidInput(f"{cron!r} is never due", path="$.cron")


def fire_due(tx: Tx, catalogue: Catalogue, *, now_us: int, bus: Bus | None = None, limit: int = 100) -> int:
    """
    Emit one event for each due schedule and set when it is due next; return how many schedules were due.

    Of ticks that were missed only the latest is emitted. Its id says which tick it is, so that no tick is two events.
    Those of disabled users are let go.
    """
    due = tx.schedules.due(now_us=now_us, limit=limit)
    for schedule in due:
        try:
            if _is_silenced(tx, schedule):
                log.info("schedule %r does not fire: its owner is disabled", schedule.name)
            else:
                _fire(tx, catalogue, schedule, now_us=now_us, bus=bus)
            next_us = next_due_us(schedule.cron, schedule.timezone, now_us)
        except EventConflict:
            # The tick was an event before, of a schedule of the same name that said something else.
            log.warning("schedule %r: this tick was emitted before", schedule.name)
            next_us = next_due_us(schedule.cron, schedule.timezone, now_us)
        except Unavailable:
            raise
        except EventprocError as error:
            next_us = _refused(tx, schedule, error, now_us=now_us)
        tx.schedules.advance(schedule.id, next_us)
    return len(due)


def pull_back(tx: Tx, *, now_us: int) -> None:
    """
    Have schedules go on from now if the clock was set back: none waits for a time that was next by the old clock.

    Ticks that were emitted are not emitted again: their events' ids are known.
    """
    for schedule in tx.schedules.all():
        try:
            next_us = next_due_us(schedule.cron, schedule.timezone, now_us)
        except InvalidInput:
            continue  # told of when it is due
        if next_us < schedule.next_us:
            log.info("schedule %r: the clock was set back; it is next due at %s", schedule.name, isoformat(next_us))
            tx.schedules.advance(schedule.id, next_us)


def _is_silenced(tx: Tx, schedule: Schedule) -> bool:
    """Tell whether the schedule acts for a user who may not act any more."""
    owner = None if schedule.user_id is None else tx.users.get(schedule.user_id)
    return owner is not None and owner.disabled


def _fire(tx: Tx, catalogue: Catalogue, schedule: Schedule, *, now_us: int, bus: Bus | None) -> None:
    # The search goes backwards from the next second on: a tick at this very moment counts.
    back = ticks(schedule.cron, schedule.timezone, now_us + SECOND_US, reverse=True)
    due_us = max(schedule.next_us, next((tick for tick in back if tick <= now_us), schedule.next_us))
    event = NewEvent(
        hook=schedule.hook,
        payload=_payload(schedule, due_us),
        id=f"schedule:{schedule.name}:{isoformat(due_us)}",
        source=f"schedule:{schedule.name}",
        time_us=due_us,
        tags=schedule.tags,
    )
    (result,) = accept_events(tx, catalogue, [event], user_id=schedule.user_id, now_us=now_us, bus=bus)
    if isinstance(result, EventprocError):
        raise result


def _payload(schedule: Schedule, due_us: int) -> dict[str, object]:
    if schedule.hook != TICK_HOOK:
        return dict(schedule.payload)
    before = ticks(schedule.cron, schedule.timezone, schedule.next_us - SECOND_US)
    missed = sum(1 for _ in itertools.takewhile(lambda tick: tick < due_us, itertools.islice(before, MAX_MISSED)))
    return {**schedule.payload, "schedule": schedule.name, "due": isoformat(due_us), "missed": missed}


def _refused(tx: Tx, schedule: Schedule, error: EventprocError, *, now_us: int) -> int:
    """Write down why a tick is no event, where its owner can read it; return when to try again."""
    log.error("schedule %r did not fire: %s", schedule.name, error)
    detail = {"error": error.message, "code": error.code}
    tx.audit.add(
        user="engine", action="schedule.refused", object=f"schedule:{schedule.name}", detail=detail, now_us=now_us
    )
    try:
        return next_due_us(schedule.cron, schedule.timezone, now_us)
    except EventprocError:
        return now_us + _RETRY_US
