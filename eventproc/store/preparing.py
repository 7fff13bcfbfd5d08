"""Workers' own words, locks, and what registrations wait for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Text, bindparam, delete, insert, or_, select, text, update

from eventproc.abc.preparing import Preparation
from eventproc.model import Environment, WorkerState
from eventproc.store.base import Rows, any_of, tuple_from_json, tuple_to_json
from eventproc.store.schema import environments, handler_versions, handlers, preparations, workers

_STATE = text(
    "INSERT INTO workers (name, host, pythons_json, unused_json, seen_us)"
    " VALUES (:name, :host, :pythons_json, :unused_json, :seen_us)"
    " ON CONFLICT (name) DO UPDATE SET host = excluded.host, pythons_json = excluded.pythons_json,"
    " unused_json = excluded.unused_json, seen_us = excluded.seen_us"
).bindparams(bindparam("name", type_=Text))
_LIVE = select(workers).where(workers.c.seen_us >= bindparam("since_us")).order_by(workers.c.name)
_LEAVE = delete(workers).where(workers.c.name == bindparam("_name"))
_FORGET_WORKERS = delete(workers).where(workers.c.seen_us < bindparam("_before_us"))

_PUT = text(
    "INSERT INTO environments (digest, python, requirements_json, lock, created_us)"
    " VALUES (:digest, :python, :requirements_json, :lock, :now_us) ON CONFLICT (digest) DO NOTHING"
).bindparams(bindparam("digest", type_=Text))
_GET = select(environments).where(environments.c.digest == bindparam("digest"))
_ALL = select(environments).order_by(environments.c.created_us, environments.c.digest)
_USERS = (
    select(handler_versions.c.environment, handlers.c.hook, handlers.c.name)
    .join_from(
        handlers,
        handler_versions,
        (handler_versions.c.handler_id == handlers.c.id) & (handler_versions.c.version == handlers.c.current_version),
    )
    .where(handlers.c.live.is_(True), handler_versions.c.environment.is_not(None))
    .order_by(handlers.c.id)
)

_FREE = (
    preparations.c.answer_json.is_(None),
    preparations.c.until_us <= bindparam("now_us"),
    or_(preparations.c.python == "", any_of(preparations.c.python, "pythons")),
)
_WAITING = select(preparations.c.id).where(*_FREE).limit(1)
_NEXT = select(preparations).where(*_FREE).order_by(preparations.c.id).limit(1).with_for_update(skip_locked=True)
_MINE = (preparations.c.id == bindparam("_id"), preparations.c.worker == bindparam("_worker"))
_TAKE = (
    update(preparations)
    .where(preparations.c.id == bindparam("_id"))
    .values(worker=bindparam("_worker"), until_us=bindparam("_until_us"))
)
_RENEW = update(preparations).where(*_MINE).values(until_us=bindparam("_until_us"))
_ANSWER = (
    update(preparations)
    .where(*_MINE, preparations.c.answer_json.is_(None))
    .values(answer_json=bindparam("_answer_json"))
)
_ANSWERED = select(preparations.c.answer_json).where(preparations.c.id == bindparam("id"))
_DROP = delete(preparations).where(preparations.c.id == bindparam("_id"))
_FORGET = delete(preparations).where(preparations.c.created_us < bindparam("_before_us"))


class SqlWorkers(Rows):
    """Workers by name."""

    def state(self, worker: WorkerState) -> None:
        values = {
            "name": worker.name,
            "host": worker.host,
            "pythons_json": tuple_to_json(worker.pythons),
            "unused_json": json.dumps(dict(worker.unused)),
            "seen_us": worker.seen_us,
        }
        self.work.conn.execute(_STATE, values)

    def live(self, *, since_us: int) -> list[WorkerState]:
        return [
            WorkerState(
                name=row.name,
                host=row.host,
                pythons=tuple_from_json(row.pythons_json),
                unused=json.loads(row.unused_json),
                seen_us=row.seen_us,
            )
            for row in self._all(_LIVE, {"since_us": since_us})
        ]

    def leave(self, name: str) -> None:
        self._changed(_LEAVE, {"_name": name})

    def forget(self, *, before_us: int) -> int:
        """Remove those that were last seen before then."""
        return self._changed(_FORGET_WORKERS, {"_before_us": before_us})


def _environment(row: Any) -> Environment:
    return Environment(
        digest=row.digest, python=row.python, requirements=tuple_from_json(row.requirements_json), lock=row.lock
    )


class SqlEnvironments(Rows):
    """Locks by digest."""

    def put(self, environment: Environment, *, now_us: int) -> None:
        values = {
            "digest": environment.digest,
            "python": environment.python,
            "requirements_json": tuple_to_json(environment.requirements),
            "lock": environment.lock,
            "now_us": now_us,
        }
        self.work.conn.execute(_PUT, values)

    def get(self, digest: str) -> Environment | None:
        row = self._first(_GET, {"digest": digest})
        return _environment(row) if row else None

    def all(self) -> list[tuple[Environment, Sequence[str]]]:
        """Return each with the handlers whose current version uses it."""
        users: dict[str, list[str]] = {}
        for row in self._all(_USERS):
            users.setdefault(row.environment, []).append(f"{row.hook}/{row.name}")
        return [(_environment(row), users.get(row.digest, [])) for row in self._all(_ALL)]


class SqlPreparations(Rows):
    """What registrations wait for."""

    def ask(self, python: str, request_json: str, blob: bytes, *, now_us: int) -> int:
        values = {"python": python, "request_json": request_json, "blob": blob, "created_us": now_us, "until_us": 0}
        result = self.work.conn.execute(insert(preparations).values(**values))
        return int(result.inserted_primary_key[0])  # type: ignore[index]  # one row was inserted

    def waiting(self, *, pythons: Sequence[str], now_us: int) -> bool:
        return self._first(_WAITING, {"pythons": list(pythons), "now_us": now_us}) is not None

    def take(self, *, worker: str, pythons: Sequence[str], until_us: int, now_us: int) -> Preparation | None:
        """Take the oldest that nobody works on."""
        row = self._first(_NEXT, {"pythons": list(pythons), "now_us": now_us})
        if row is None:
            return None
        self._changed(_TAKE, {"_id": row.id, "_worker": worker, "_until_us": until_us})
        return Preparation(id=row.id, python=row.python, request_json=row.request_json, blob=bytes(row.blob))

    def renew(self, preparation_id: int, *, worker: str, until_us: int) -> bool:
        """Go on holding it."""
        return self._changed(_RENEW, {"_id": preparation_id, "_worker": worker, "_until_us": until_us}) > 0

    def answer(self, preparation_id: int, *, worker: str, answer_json: str) -> bool:
        values = {"_id": preparation_id, "_worker": worker, "_answer_json": answer_json}
        return self._changed(_ANSWER, values) > 0

    def answered(self, preparation_id: int) -> str | None:
        found: str | None = self._scalar(_ANSWERED, {"id": preparation_id})
        return found

    def drop(self, preparation_id: int) -> None:
        self._changed(_DROP, {"_id": preparation_id})

    def forget(self, *, before_us: int) -> int:
        """Remove what was asked before then."""
        return self._changed(_FORGET, {"_before_us": before_us})
