"""The outbox: messages to other systems, written with what they tell of, sent later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from eventproc.model import NewOutgoing, Outgoing, OutgoingState
from eventproc.store.base import Rows, any_of, to_json
from eventproc.store.schema import outbox

_PENDING = outbox.c.state == "pending"
_FAILED = outbox.c.state == "failed"
_INSERT = insert(outbox)
_DUE = (
    select(outbox)
    .where(_PENDING, outbox.c.kind == bindparam("kind"), outbox.c.due_us <= bindparam("now_us"))
    .order_by(outbox.c.due_us, outbox.c.id)
    .limit(bindparam("wanted"))
    .with_for_update(skip_locked=True)
)
_LEASE = (
    update(outbox)
    .where(any_of(outbox.c.id, "_ids"))
    .values(due_us=bindparam("_until_us"), token=outbox.c.token + 1, attempts=outbox.c.attempts + 1)
)
_HELD = select(outbox.c.id, outbox.c.token).where(any_of(outbox.c.id, "ids"), _PENDING).with_for_update()
_DELETE = delete(outbox).where(any_of(outbox.c.id, "ids"))
_FAIL = (
    update(outbox)
    .where(outbox.c.id == bindparam("_id"), outbox.c.token == bindparam("_token"), _PENDING)
    .values(
        state=bindparam("_state"),
        error=bindparam("_error"),
        due_us=bindparam("_due_us"),
        refusals=bindparam("_refusals"),
    )
)
_RELEASE = (
    update(outbox)
    .where(any_of(outbox.c.id, "_ids"))
    .values(
        due_us=bindparam("_due_us"),
        error=bindparam("_error"),
        attempts=outbox.c.attempts - 1,
        token=outbox.c.token + 1,
    )
)
_REQUEUE = (
    update(outbox)
    .where(any_of(outbox.c.id, "_ids"), _FAILED)
    .values(
        state="pending",
        due_us=bindparam("_now_us"),
        since_us=bindparam("_now_us"),
        attempts=0,
        refusals=0,
        token=outbox.c.token + 1,
    )
    .returning(outbox.c.id)
)
_GET = select(outbox).where(outbox.c.id == bindparam("id"))
_NEXT = select(func.min(outbox.c.due_us)).where(_PENDING, outbox.c.kind == bindparam("kind"))
_COUNTS = select(outbox.c.state, func.count().label("found")).group_by(outbox.c.state)
_PRUNE = delete(outbox).where(
    outbox.c.id.in_(
        select(outbox.c.id)
        .where(outbox.c.since_us < bindparam("before_us"), _FAILED)
        .order_by(outbox.c.since_us)
        .limit(bindparam("wanted"))
    )
)


def _outgoing(row: Any) -> Outgoing:
    return Outgoing(
        id=row.id,
        kind=row.kind,
        target=row.target,
        headers=json.loads(row.headers_json),
        body=bytes(row.body),
        state=OutgoingState(row.state),
        attempts=row.attempts,
        due_us=row.due_us,
        created_us=row.created_us,
        error=row.error,
        token=row.token,
        since_us=row.since_us,
        refusals=row.refusals,
    )


class SqlOutbox(Rows):
    """Messages to other systems."""

    def add(self, messages: Sequence[NewOutgoing], *, now_us: int) -> None:
        """Write messages, to be sent after the commit, in this order."""
        rows = [
            {
                "kind": message.kind,
                "target": message.target,
                "headers_json": to_json(dict(message.headers)),
                "body": message.body,
                "state": "pending",
                "attempts": 0,
                "due_us": now_us if message.due_us is None else message.due_us,
                "created_us": now_us,
                "token": 0,
                "since_us": now_us,
            }
            for message in messages
        ]
        if rows:
            self.work.conn.execute(_INSERT, rows)

    def claim(self, *, kind: str, limit: int, lease_us: int, now_us: int) -> list[Outgoing]:
        """Lease pending messages of a kind that are due, oldest first; their `attempts` grows by one."""
        found = [_outgoing(row) for row in self._all(_DUE, {"kind": kind, "now_us": now_us, "wanted": limit})]
        if not found:
            return []
        until_us = now_us + lease_us
        self.work.conn.execute(_LEASE, {"_ids": [message.id for message in found], "_until_us": until_us})
        return [
            replace(message, token=message.token + 1, attempts=message.attempts + 1, due_us=until_us)
            for message in found
        ]

    def delivered(self, leases: Sequence[tuple[int, int]]) -> set[int]:
        """Delete messages by (id, token); return the ids of those that were still ours."""
        ours = self._ours(leases)
        if ours:
            self.work.conn.execute(_DELETE, {"ids": sorted(ours)})
        return ours

    def _ours(self, leases: Sequence[tuple[int, int]]) -> set[int]:
        if not leases:
            return set()
        tokens = dict(leases)
        rows = self._all(_HELD, {"ids": sorted(tokens)})
        return {row.id for row in rows if row.token == tokens[row.id]}

    def failed(self, message_id: int, token: int, *, error: str, retry_us: int | None, refusals: int = 0) -> bool:
        """Record a failed try; `retry_us` None gives up. False for a lost lease."""
        values = {
            "_id": message_id,
            "_token": token,
            "_state": "failed" if retry_us is None else "pending",
            "_error": error,
            "_due_us": 0 if retry_us is None else retry_us,
            "_refusals": refusals,
        }
        return self._changed(_FAIL, values) > 0

    def release(self, leases: Sequence[tuple[int, int]], *, due_us: int, error: str) -> None:
        """Give messages back that were not tried, because the other side is not there; their `attempts` shrinks."""
        ours = self._ours(leases)
        if ours:
            self.work.conn.execute(_RELEASE, {"_ids": sorted(ours), "_due_us": due_us, "_error": error})

    def get(self, message_id: int) -> Outgoing | None:
        row = self._first(_GET, {"id": message_id})
        return _outgoing(row) if row else None

    def page(self, *, state: str | None = None, after: int | None = None, limit: int = 100) -> list[Outgoing]:
        """Return messages newest first, starting behind id `after`."""
        query = select(outbox).order_by(outbox.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(outbox.c.state == state)
        if after is not None:
            query = query.where(outbox.c.id < after)
        return [_outgoing(row) for row in self._all(query)]

    def requeue(self, message_ids: Sequence[int], *, now_us: int) -> set[int]:
        """Have given-up messages tried again, as if they were new; return the ids of those that were."""
        if not message_ids:
            return set()
        rows = self._all(_REQUEUE, {"_ids": sorted(message_ids), "_now_us": now_us})
        return {row.id for row in rows}

    def delete(self, message_ids: Sequence[int]) -> set[int]:
        if not message_ids:
            return set()
        rows = self._all(_DELETE.returning(outbox.c.id), {"ids": sorted(message_ids)})
        return {row.id for row in rows}

    def next_due_us(self, kind: str) -> int | None:
        due: int | None = self._scalar(_NEXT, {"kind": kind})
        return due

    def counts(self) -> dict[str, int]:
        """Return the number of messages by state."""
        return {row.state: row.found for row in self._all(_COUNTS)}

    def prune(self, before_us: int, *, limit: int) -> int:
        """Delete given-up messages that were written, or requeued, before that time."""
        return self._changed(_PRUNE, {"before_us": before_us, "wanted": limit})
