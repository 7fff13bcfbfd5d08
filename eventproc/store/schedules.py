"""Schedules by name."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import bindparam, delete, select, text, update

from eventproc.errors import NotFound
from eventproc.model import Schedule
from eventproc.store.base import Rows, to_json, tuple_from_json, tuple_to_json
from eventproc.store.schema import schedules

_PUT = text(
    "INSERT INTO schedules (name, cron, timezone, hook, tags_json, payload_json, next_us, paused, user_id)"
    " VALUES (:name, :cron, :timezone, :hook, :tags_json, :payload_json, :next_us, :paused, :user_id)"
    " ON CONFLICT (name) DO UPDATE SET cron = excluded.cron, timezone = excluded.timezone, hook = excluded.hook,"
    " tags_json = excluded.tags_json, payload_json = excluded.payload_json, next_us = excluded.next_us,"
    " paused = excluded.paused, user_id = excluded.user_id"
)
_ALL = select(schedules).order_by(schedules.c.name)
_GET = select(schedules).where(schedules.c.name == bindparam("name"))
_DELETE = delete(schedules).where(schedules.c.name == bindparam("name"))
_DUE = (
    select(schedules)
    .where(schedules.c.next_us <= bindparam("now_us"), schedules.c.paused.is_(False))
    .order_by(schedules.c.next_us, schedules.c.id)
    .limit(bindparam("wanted"))
    .with_for_update(skip_locked=True)
)
_ADVANCE = update(schedules).where(schedules.c.id == bindparam("_id")).values(next_us=bindparam("_next_us"))


def _schedule(row: Any) -> Schedule:
    return Schedule(
        id=row.id,
        name=row.name,
        cron=row.cron,
        timezone=row.timezone,
        hook=row.hook,
        tags=tuple_from_json(row.tags_json),
        payload=json.loads(row.payload_json),
        next_us=row.next_us,
        paused=bool(row.paused),
        user_id=row.user_id,
    )


class SqlSchedules(Rows):
    """Schedules by name."""

    def put(self, schedule: Schedule) -> Schedule:
        values = {
            "name": schedule.name,
            "cron": schedule.cron,
            "timezone": schedule.timezone,
            "hook": schedule.hook,
            "tags_json": tuple_to_json(schedule.tags),
            "payload_json": to_json(dict(schedule.payload)),
            "next_us": schedule.next_us,
            "paused": schedule.paused,
            "user_id": schedule.user_id,
        }
        self.work.conn.execute(_PUT, values)
        stored = self.get(schedule.name)
        if stored is None:
            raise NotFound(f"schedule {schedule.name!r} was deleted a moment ago", name=schedule.name)
        return stored

    def all(self) -> list[Schedule]:
        return [_schedule(row) for row in self._all(_ALL)]

    def get(self, name: str) -> Schedule | None:
        row = self._first(_GET, {"name": name})
        return _schedule(row) if row else None

    def delete(self, name: str) -> bool:
        return self._changed(_DELETE, {"name": name}) > 0

    def due(self, *, now_us: int, limit: int = 100) -> list[Schedule]:
        return [_schedule(row) for row in self._all(_DUE, {"now_us": now_us, "wanted": limit})]

    def advance(self, schedule_id: int, next_us: int) -> None:
        self.work.conn.execute(_ADVANCE, {"_id": schedule_id, "_next_us": next_us})
