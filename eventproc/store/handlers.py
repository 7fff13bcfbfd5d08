"""Handlers and their immutable versions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, func, insert, select, text, update

from eventproc.abc import Registration
from eventproc.errors import Conflict, NotFound, UnknownHandler
from eventproc.model import HandlerRecord, HandlerVersion, User
from eventproc.store import cancelling
from eventproc.store.base import Rows, tuple_from_json, tuple_to_json
from eventproc.store.counters import bump, revision
from eventproc.store.options import options_from_json, options_to_json
from eventproc.store.schema import handler_versions as versions
from eventproc.store.schema import handlers

# The row lock of the conflicting insert makes concurrent callers take versions in turn.
_UPSERT = text(
    "INSERT INTO handlers (hook, name, live, owner_id, current_version, last_version, paused, created_us, created_by,"
    " updated_us, updated_by) VALUES (:hook, :name, :live, :owner_id, 0, 0, :paused, :now_us, :by, :now_us, :by)"
    " ON CONFLICT (hook, name, live) DO UPDATE SET last_version = handlers.last_version + 1,"
    " current_version = handlers.last_version + 1, updated_us = excluded.updated_us, updated_by = excluded.updated_by"
    " RETURNING id, last_version"
)
_ADD_VERSION = insert(versions)

_VERSION_COLUMNS = [column for column in versions.c if column.name != "blob"]
_VERSIONS = (
    select(*_VERSION_COLUMNS).where(versions.c.handler_id == bindparam("handler_id")).order_by(versions.c.version)
)
_VERSION = select(*_VERSION_COLUMNS).where(
    versions.c.handler_id == bindparam("handler_id"), versions.c.version == bindparam("version")
)
_BLOB = select(versions.c.blob).where(
    versions.c.handler_id == bindparam("handler_id"), versions.c.version == bindparam("version")
)

_OWN = (
    handlers.c.id,
    handlers.c.hook,
    handlers.c.name,
    handlers.c.owner_id,
    handlers.c.paused,
    handlers.c.created_us.label("h_created_us"),
    handlers.c.created_by.label("h_created_by"),
    handlers.c.updated_us,
    handlers.c.updated_by,
    handlers.c.deregistered_us,
)
_RECORD = select(*_OWN, *_VERSION_COLUMNS).join_from(
    handlers,
    versions,
    (versions.c.handler_id == handlers.c.id) & (versions.c.version == handlers.c.current_version),
)
_GET = _RECORD.where(handlers.c.id == bindparam("handler_id"))
_FIND = _RECORD.where(
    handlers.c.hook == bindparam("hook"), handlers.c.name == bindparam("name"), handlers.c.live.is_(True)
)
_LIVE = _RECORD.where(handlers.c.live.is_(True)).order_by(handlers.c.id)
_LIVE_OF_HOOK = _LIVE.where(handlers.c.hook == bindparam("hook"))

_OF_ID = update(handlers).where(handlers.c.id == bindparam("_id"), handlers.c.live.is_(True))
_TOUCHED: dict[str, Any] = {"updated_us": bindparam("_now_us"), "updated_by": bindparam("_by")}
_SET_CURRENT = _OF_ID.values(current_version=bindparam("_version"), **_TOUCHED)
_PAUSE = _OF_ID.values(paused=bindparam("_paused"), **_TOUCHED)
_DEREGISTER = _OF_ID.values(live=None, deregistered_us=bindparam("_now_us"), **_TOUCHED)
_COUNT = select(func.max(versions.c.version)).where(versions.c.handler_id == bindparam("handler_id"))


def version_of(row: Any) -> HandlerVersion:
    """Build the value from a row that has the version's columns."""
    return HandlerVersion(
        handler_id=row.handler_id,
        version=row.version,
        digest=row.digest,
        size=row.size,
        python=row.python,
        dill=row.dill,
        source=row.source,
        filename=row.filename,
        qualname=row.qualname,
        kind=row.kind,
        globals=tuple_from_json(row.globals_json),
        tags=tuple_from_json(row.tags_json),
        notify_on_success=row.notify_on_success,
        notify_on_failure=row.notify_on_failure,
        options=options_from_json(row.options_json),
        created_us=row.created_us,
        created_by=row.created_by,
        environment=row.environment,
    )


def _record(row: Any) -> HandlerRecord:
    return HandlerRecord(
        id=row.id,
        hook=row.hook,
        name=row.name,
        owner_id=row.owner_id,
        current=version_of(row),
        paused=bool(row.paused),
        created_us=row.h_created_us,
        created_by=row.h_created_by,
        updated_us=row.updated_us,
        updated_by=row.updated_by,
        deregistered_us=row.deregistered_us,
    )


class SqlHandlers(Rows):
    """Handlers by id, and by hook and name while they are registered."""

    def put(self, registration: Registration, *, owner: User, now_us: int) -> HandlerRecord:
        """Store the next version of (hook, name) and make it current; the first is version 0."""
        conn = self.work.conn
        bump(conn)
        values = {"hook": registration.hook, "name": registration.name, "live": True, "paused": False}
        row = conn.execute(_UPSERT, values | {"owner_id": owner.id, "now_us": now_us, "by": owner.name}).one()
        bundle = registration.bundle
        version = {
            "handler_id": row.id,
            "version": row.last_version,
            "digest": bundle.digest,
            "size": len(bundle.blob),
            "python": bundle.python,
            "dill": bundle.dill,
            "source": bundle.source,
            "filename": bundle.filename,
            "qualname": bundle.qualname,
            "kind": bundle.kind,
            "globals_json": tuple_to_json(bundle.globals),
            "tags_json": tuple_to_json(registration.tags),
            "notify_on_success": registration.notify_on_success,
            "notify_on_failure": registration.notify_on_failure,
            "options_json": options_to_json(registration.options),
            "created_us": now_us,
            "created_by": owner.name,
            "environment": registration.environment,
            "blob": bundle.blob,
        }
        conn.execute(_ADD_VERSION, [version])
        return self._existing(row.id)

    def _existing(self, handler_id: int) -> HandlerRecord:
        record = self.get(handler_id)
        if record is None:
            raise UnknownHandler(f"there is no handler {handler_id}", handler_id=handler_id)
        return record

    def get(self, handler_id: int) -> HandlerRecord | None:
        row = self._first(_GET, {"handler_id": handler_id})
        return _record(row) if row else None

    def find(self, hook: str, name: str) -> HandlerRecord | None:
        row = self._first(_FIND, {"hook": hook, "name": name})
        return _record(row) if row else None

    def live(self, hook: str | None = None) -> list[HandlerRecord]:
        rows = self._all(_LIVE) if hook is None else self._all(_LIVE_OF_HOOK, {"hook": hook})
        return [_record(row) for row in rows]

    def versions(self, handler_id: int) -> list[HandlerVersion]:
        return [version_of(row) for row in self._all(_VERSIONS, {"handler_id": handler_id})]

    def version(self, handler_id: int, version: int) -> HandlerVersion | None:
        row = self._first(_VERSION, {"handler_id": handler_id, "version": version})
        return version_of(row) if row else None

    def blob(self, handler_id: int, version: int) -> bytes | None:
        data = self._scalar(_BLOB, {"handler_id": handler_id, "version": version})
        return None if data is None else bytes(data)

    def set_current(self, handler_id: int, version: int, *, by: str, now_us: int) -> HandlerRecord:
        """Make a stored version current."""
        if self.version(handler_id, version) is None:
            last = self._scalar(_COUNT, {"handler_id": handler_id})
            if last is None:
                raise UnknownHandler(f"there is no handler {handler_id}", handler_id=handler_id)
            raise NotFound(
                f"handler {handler_id} has no version {version}; it has 0 to {last}", version=version, last=last
            )
        bump(self.work.conn)
        if not self._changed(_SET_CURRENT, {"_id": handler_id, "_version": version, "_by": by, "_now_us": now_us}):
            raise Conflict(f"handler {handler_id} is deregistered: register it again instead", handler_id=handler_id)
        return self._existing(handler_id)

    def set_paused(self, handler_id: int, *, paused: bool, by: str, now_us: int) -> bool:
        bump(self.work.conn)
        return self._changed(_PAUSE, {"_id": handler_id, "_paused": paused, "_by": by, "_now_us": now_us}) > 0

    def deregister(self, handler_id: int, *, by: str, now_us: int) -> bool:
        bump(self.work.conn)
        if not self._changed(_DEREGISTER, {"_id": handler_id, "_by": by, "_now_us": now_us}):
            return False
        cancelling.cancel_waiting_of(self.work.conn, handler_id, now_us=now_us)
        return True

    def revision(self) -> int:
        return revision(self.work.conn)
