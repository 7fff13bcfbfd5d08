"""Triggers, their immutable versions, and what their checks came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, text, update

from eventproc.abc import Check
from eventproc.errors import NotFound
from eventproc.model import TriggerDefinition, TriggerRecord, User
from eventproc.store.base import Rows
from eventproc.store.counters import bump
from eventproc.store.schema import trigger_counts as counts
from eventproc.store.schema import trigger_versions as versions
from eventproc.store.schema import triggers

_UPSERT = text(
    "INSERT INTO triggers (name, live, owner_id, current_version, last_version, paused, created_us, created_by,"
    " updated_us, updated_by) VALUES (:name, :live, :owner_id, 0, 0, :paused, :now_us, :by, :now_us, :by)"
    " ON CONFLICT (name, live) DO UPDATE SET last_version = triggers.last_version + 1,"
    " current_version = triggers.last_version + 1, updated_us = excluded.updated_us, updated_by = excluded.updated_by"
    " RETURNING id, last_version"
)
_ADD_VERSION = insert(versions)
_RECORD = select(triggers, versions.c.definition_json).join_from(
    triggers,
    versions,
    (versions.c.trigger_id == triggers.c.id) & (versions.c.version == triggers.c.current_version),
)
_GET = _RECORD.where(triggers.c.id == bindparam("trigger_id"))
_FIND = _RECORD.where(triggers.c.name == bindparam("name"), triggers.c.live.is_(True))
_LIVE = _RECORD.where(triggers.c.live.is_(True)).order_by(triggers.c.id)
_OF_ID = update(triggers).where(triggers.c.id == bindparam("_id"), triggers.c.live.is_(True))
_TOUCHED: dict[str, Any] = {"updated_us": bindparam("_now_us"), "updated_by": bindparam("_by")}
_PAUSE = _OF_ID.values(paused=bindparam("_paused"), **_TOUCHED)
_DELETE = _OF_ID.values(live=None, deleted_us=bindparam("_now_us"), **_TOUCHED)
_LEAVE = text("UPDATE streams SET join_key = NULL WHERE trigger_id = :trigger_id AND join_key IS NOT NULL")
_ADD_CHECKS = text(
    "INSERT INTO trigger_counts (trigger_id, kind, name, checks, passed)"
    " VALUES (:trigger_id, :kind, :name, :checks, :passed) ON CONFLICT (trigger_id, kind, name) DO UPDATE SET"
    " checks = trigger_counts.checks + excluded.checks, passed = trigger_counts.passed + excluded.passed"
)
_CHECKS = (
    select(counts).where(counts.c.trigger_id == bindparam("trigger_id")).order_by(counts.c.kind.desc(), counts.c.name)
)
_CLEAR = delete(counts).where(counts.c.trigger_id == bindparam("trigger_id"))


def definition_to_json(definition: TriggerDefinition) -> str:
    """Write a definition; two that say the same have the same text."""
    return json.dumps(
        {
            "name": definition.name,
            "expiration": definition.expiration,
            "match_criteria": [dict(item) for item in definition.match_criteria],
            "fire_criteria": [dict(item) for item in definition.fire_criteria],
            "distinguished_by": [item if isinstance(item, str) else dict(item) for item in definition.distinguished_by],
            "fire_delay_s": definition.fire_delay_s,
            "fire_pipeline": definition.fire_pipeline,
            "expire_pipeline": definition.expire_pipeline,
            "debug_level": definition.debug_level,
        },
        ensure_ascii=False,
        separators=(",", ":"),
        sort_keys=True,
    )


def definition_from_json(text_: str) -> TriggerDefinition:
    """Read what `definition_to_json` wrote."""
    data: dict[str, Any] = json.loads(text_)
    for name in ("match_criteria", "fire_criteria", "distinguished_by"):
        data[name] = tuple(data[name])
    return TriggerDefinition(**data)


def _record(row: Any) -> TriggerRecord:
    return TriggerRecord(
        id=row.id,
        version=row.current_version,
        definition=definition_from_json(row.definition_json),
        owner_id=row.owner_id,
        paused=bool(row.paused),
        created_us=row.created_us,
        created_by=row.created_by,
        updated_us=row.updated_us,
        updated_by=row.updated_by,
        deleted_us=row.deleted_us,
    )


class SqlTriggers(Rows):
    """Triggers by id, and by name while they are not deleted."""

    def put(self, definition: TriggerDefinition, *, owner: User, now_us: int) -> TriggerRecord:
        bump(self.work.conn)  # first: whoever puts at the same time waits here
        written = definition_to_json(definition)
        known = self.find(definition.name)
        if known is not None and definition_to_json(known.definition) == written:
            return known
        values = {"name": definition.name, "live": True, "paused": False, "owner_id": owner.id}
        row = self.work.conn.execute(_UPSERT, values | {"now_us": now_us, "by": owner.name}).one()
        version = {"trigger_id": row.id, "version": row.last_version, "definition_json": written}
        self.work.conn.execute(_ADD_VERSION, [version | {"created_us": now_us, "created_by": owner.name}])
        record = self.get(row.id)
        if record is None:
            raise NotFound(f"there is no trigger {row.id}", trigger=row.id)
        return record

    def get(self, trigger_id: int) -> TriggerRecord | None:
        row = self._first(_GET, {"trigger_id": trigger_id})
        return _record(row) if row else None

    def find(self, name: str) -> TriggerRecord | None:
        row = self._first(_FIND, {"name": name})
        return _record(row) if row else None

    def live(self) -> list[TriggerRecord]:
        return [_record(row) for row in self._all(_LIVE)]

    def set_paused(self, trigger_id: int, *, paused: bool, by: str, now_us: int) -> bool:
        bump(self.work.conn)
        return self._changed(_PAUSE, {"_id": trigger_id, "_paused": paused, "_by": by, "_now_us": now_us}) > 0

    def delete(self, trigger_id: int, *, by: str, now_us: int) -> bool:
        bump(self.work.conn)
        if not self._changed(_DELETE, {"_id": trigger_id, "_by": by, "_now_us": now_us}):
            return False
        self._changed(_LEAVE, {"trigger_id": trigger_id})
        return True

    def add_checks(self, checks: Sequence[Check]) -> None:
        rows = [
            {
                "trigger_id": check.trigger_id,
                "kind": check.kind,
                "name": check.name,
                "checks": check.checks,
                "passed": check.passed,
            }
            for check in sorted(checks, key=lambda check: (check.trigger_id, check.kind, check.name))
        ]
        if rows:
            self.work.conn.execute(_ADD_CHECKS, rows)

    def checks(self, trigger_id: int) -> list[Check]:
        return [
            Check(trigger_id=row.trigger_id, kind=row.kind, name=row.name, checks=row.checks, passed=row.passed)
            for row in self._all(_CHECKS, {"trigger_id": trigger_id})
        ]

    def clear_checks(self, trigger_id: int) -> None:
        self._changed(_CLEAR, {"trigger_id": trigger_id})
