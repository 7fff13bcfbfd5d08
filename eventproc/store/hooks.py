"""Hook specs."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import bindparam, delete, select, text, update

from eventproc.model import HookSpec
from eventproc.store.base import Rows, to_json
from eventproc.store.counters import bump
from eventproc.store.schema import hooks, users

_SELECT = select(hooks, users.c.name.label("owner")).outerjoin_from(hooks, users, users.c.id == hooks.c.owner_id)
_ALL = _SELECT.order_by(hooks.c.name)
_GET = _SELECT.where(hooks.c.name == bindparam("name"))
_PUT = text(
    "INSERT INTO hooks (name, summary, schema_json, sample_json, keep_s, keep_idle_s, source, paused,"
    " updated_us, updated_by, owner_id) VALUES (:name, :summary, :schema_json, :sample_json, :keep_s, :keep_idle_s,"
    " :source, :paused, :updated_us, :updated_by, :owner_id)"
    " ON CONFLICT (name) DO UPDATE SET summary = excluded.summary,"
    " schema_json = excluded.schema_json, sample_json = excluded.sample_json, keep_s = excluded.keep_s,"
    " keep_idle_s = excluded.keep_idle_s, source = excluded.source, updated_us = excluded.updated_us,"
    " updated_by = excluded.updated_by"
)
_DELETE = delete(hooks).where(hooks.c.name == bindparam("name"))
_PAUSE = update(hooks).where(hooks.c.name == bindparam("_name")).values(paused=bindparam("_paused"))


def _spec(row: Any) -> HookSpec:
    return HookSpec(
        name=row.name,
        summary=row.summary,
        schema=json.loads(row.schema_json),
        sample=json.loads(row.sample_json),
        keep_s=row.keep_s,
        keep_idle_s=row.keep_idle_s,
        source=row.source,
        paused=bool(row.paused),
        owner_id=row.owner_id,
        owner=row.owner,
    )


class SqlHooks(Rows):
    """Hook specs by name."""

    def put(self, spec: HookSpec, *, now_us: int, by: str) -> None:
        """Insert or replace the spec of that name; `paused` and `owner_id` are left as they were."""
        bump(self.work.conn)
        values = {
            "name": spec.name,
            "summary": spec.summary,
            "schema_json": to_json(dict(spec.schema)),
            "sample_json": to_json(dict(spec.sample)),
            "keep_s": spec.keep_s,
            "keep_idle_s": spec.keep_idle_s,
            "source": spec.source,
            "paused": spec.paused,
            "updated_us": now_us,
            "updated_by": by,
            "owner_id": spec.owner_id,
        }
        self.work.conn.execute(_PUT, values)

    def get(self, name: str) -> HookSpec | None:
        row = self._first(_GET, {"name": name})
        return _spec(row) if row else None

    def all(self) -> list[HookSpec]:
        return [_spec(row) for row in self._all(_ALL)]

    def delete(self, name: str) -> bool:
        bump(self.work.conn)
        return self._changed(_DELETE, {"name": name}) > 0

    def set_paused(self, name: str, *, paused: bool) -> bool:
        bump(self.work.conn)
        return self._changed(_PAUSE, {"_name": name, "_paused": paused}) > 0
