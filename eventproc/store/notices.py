"""Notices: written with the outcome, sent later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, case, exists, func, literal_column, select, update

from eventproc.model import Mailed, NewNotice, Notice, NoticeState
from eventproc.store.base import Rows, any_of, tuple_from_json, tuple_to_json
from eventproc.store.schema import notices, runs

_HANDLERS = select(runs.c.id, runs.c.handler_id).where(any_of(runs.c.id, "ids"))
_KNOWN = select(notices.c.run_id, notices.c.outcome, notices.c.serial).where(any_of(notices.c.run_id, "ids"))
_PENDING = notices.c.state == literal_column("'pending'")  # as the partial indexes have it
_DUE = (
    select(notices)
    .where(_PENDING, notices.c.due_us <= bindparam("now_us"))
    .order_by(notices.c.due_us, notices.c.id)
    .limit(bindparam("wanted"))
    .with_for_update(skip_locked=True)
)
_LEASE = (
    update(notices)
    .where(any_of(notices.c.id, "_ids"))
    .values(due_us=bindparam("_until_us"), token=notices.c.token + 1, attempts=notices.c.attempts + 1)
)
_OURS = update(notices).where(notices.c.id == bindparam("_id"), notices.c.token == bindparam("_token"), _PENDING)
_KEEP = _OURS.values(subject=bindparam("_subject"), message_id=bindparam("_message_id"), mail=bindparam("_mail"))
_SENT = _OURS.values(state="sent", sent_us=bindparam("_now_us"), error=None, refused_json=bindparam("_refused_json"))
_FAILED = _OURS.values(
    state=bindparam("_state"),
    error=bindparam("_error"),
    due_us=bindparam("_due_us"),
    recipients_json=bindparam("_recipients_json"),
    refused_json=bindparam("_refused_json"),
)
_GET = select(notices).where(notices.c.id == bindparam("id"))
_NEXT = select(func.min(notices.c.due_us)).where(_PENDING)
_LAST_SENT = select(func.max(notices.c.sent_us)).where(
    notices.c.handler_id == bindparam("handler_id"),
    notices.c.outcome == bindparam("outcome"),
    notices.c.sent_us.is_not(None),
)
_MAILS_SINCE = (
    select(notices.c.sent_us, func.count(notices.c.mail), func.count())
    .where(
        notices.c.handler_id == bindparam("handler_id"),
        notices.c.outcome == bindparam("outcome"),
        notices.c.sent_us.is_not(None),
        notices.c.sent_us > bindparam("since_us"),
    )
    .group_by(notices.c.sent_us)
    .order_by(notices.c.sent_us.desc())
    .limit(bindparam("wanted"))
)
_PENDING_OF = (notices.c.handler_id == bindparam("_handler_id"), notices.c.outcome == bindparam("_outcome"), _PENDING)
_OLDEST = select(notices.c.id, notices.c.due_us).where(*_PENDING_OF).order_by(notices.c.id).limit(1)
_WAITS = select(exists().where(*_PENDING_OF, notices.c.error.startswith(bindparam("_begins"))))
_HOLD = _OURS.values(error=bindparam("_error"), due_us=bindparam("_due_us"), attempts=notices.c.attempts - 1)
_PUT_OFF = (
    update(notices)
    .where(
        *_PENDING_OF,
        notices.c.id > bindparam("_after"),
        notices.c.due_us <= bindparam("_now_us"),
        notices.c.mail.is_(None),
    )
    .values(
        due_us=bindparam("_due_us"),
        error=case(
            (notices.c.error.startswith(bindparam("_keep")), notices.c.error),
            else_=bindparam("_error"),
        ),
    )
)
_CARRIER = notices.alias("carrier")
_CARRIED = (
    notices.c.handler_id
    == select(_CARRIER.c.handler_id).where(_CARRIER.c.id == bindparam("_carrier")).scalar_subquery(),
    notices.c.outcome == bindparam("_outcome"),
    _PENDING,
    notices.c.id > bindparam("_carrier"),
    notices.c.mail.is_(None),
)
_LEASED = select(_CARRIER.c.id).where(
    _CARRIER.c.id == bindparam("_carrier"),
    _CARRIER.c.token == bindparam("_token"),
    _CARRIER.c.state == literal_column("'pending'"),
)
_GATHER = (
    update(notices)
    .where(*_CARRIED, notices.c.recipients_json == bindparam("_recipients_json"), _LEASED.exists())
    .values(error=bindparam("_mark"), due_us=bindparam("_due_us"), token=notices.c.token + 1, attempts=0)
)
_GATHERED = select(notices).where(*_CARRIED, notices.c.error == bindparam("_mark")).limit(bindparam("_wanted"))
_FIRST_GATHERED = _GATHERED.order_by(notices.c.id)
_LAST_GATHERED = _GATHERED.order_by(notices.c.id.desc())
_SETTLE = (
    update(notices)
    .where(*_CARRIED, notices.c.id <= bindparam("_last"), notices.c.error == bindparam("_mark"))
    .values(
        state=bindparam("_state"),
        sent_us=bindparam("_sent_us"),
        error=bindparam("_error"),
        due_us=bindparam("_now_us"),
        refused_json=bindparam("_refused_json"),
    )
)


def _notice(row: Any) -> Notice:
    return Notice(
        id=row.id,
        run_id=row.run_id,
        outcome=row.outcome,
        serial=row.serial,
        recipients=tuple_from_json(row.recipients_json),
        refused=tuple_from_json(row.refused_json),
        state=NoticeState(row.state),
        attempts=row.attempts,
        due_us=row.due_us,
        created_us=row.created_us,
        sent_us=row.sent_us,
        error=row.error,
        message_id=row.message_id,
        subject=row.subject,
        mail=None if row.mail is None else bytes(row.mail),
        token=row.token,
    )


class SqlNotices(Rows):
    """Notices, each once by (run, outcome, serial)."""

    def add(self, new: Sequence[NewNotice], *, now_us: int) -> None:
        if not new:
            return
        ids = {"ids": list({notice.run_id for notice in new})}
        handlers = {row.id: row.handler_id for row in self._all(_HANDLERS, ids)}
        known = {tuple(row) for row in self._all(_KNOWN, ids)}
        rows = []
        for notice in sorted(new, key=lambda notice: notice.run_id):
            name = (notice.run_id, notice.outcome, notice.serial)
            if name in known or notice.run_id not in handlers:
                continue
            known.add(name)
            rows.append(self._values(notice, handlers[notice.run_id], now_us))
        if rows:
            self.work.bulk.insert_new(self.work.conn, notices, rows, "run_id")

    @staticmethod
    def _values(notice: NewNotice, handler_id: int, now_us: int) -> dict[str, Any]:
        return {
            "run_id": notice.run_id,
            "handler_id": handler_id,
            "outcome": notice.outcome,
            "serial": notice.serial,
            "recipients_json": tuple_to_json(notice.recipients),
            "refused_json": "[]",
            "state": "pending",
            "attempts": 0,
            "due_us": notice.due_us,
            "created_us": now_us,
            "token": 0,
        }

    def claim(self, *, limit: int, lease_us: int, now_us: int) -> list[Notice]:
        found = [_notice(row) for row in self._all(_DUE, {"now_us": now_us, "wanted": limit})]
        if not found:
            return []
        until_us = now_us + lease_us
        self.work.conn.execute(_LEASE, {"_ids": [notice.id for notice in found], "_until_us": until_us})
        return [
            replace(notice, token=notice.token + 1, attempts=notice.attempts + 1, due_us=until_us) for notice in found
        ]

    def keep_mail(self, notice_id: int, token: int, *, subject: str, message_id: str, mail: bytes) -> bool:
        """Keep the rendered mail, so that each try sends the same; False for a lost lease."""
        values = {"_id": notice_id, "_token": token, "_subject": subject, "_message_id": message_id, "_mail": mail}
        return self._changed(_KEEP, values) > 0

    def sent(self, notice_id: int, token: int, *, now_us: int, refused: Sequence[str] = ()) -> bool:
        """Record that it went out, but for the refused recipients; False for a lost lease."""
        notice = self.get(notice_id)
        if notice is None:
            return False
        gone = tuple_to_json(dict.fromkeys((*notice.refused, *refused)))
        values = {"_id": notice_id, "_token": token, "_now_us": now_us, "_refused_json": gone}
        return self._changed(_SENT, values) > 0

    def failed(
        self,
        notice_id: int,
        token: int,
        *,
        error: str,
        retry_us: int | None,
        now_us: int,
        recipients: Sequence[str] | None = None,
        refused: Sequence[str] = (),
    ) -> bool:
        notice = self.get(notice_id)
        if notice is None:
            return False
        values = {
            "_id": notice_id,
            "_token": token,
            "_state": "failed" if retry_us is None else "pending",
            "_error": error,
            "_due_us": now_us if retry_us is None else retry_us,
            "_recipients_json": tuple_to_json(notice.recipients if recipients is None else recipients),
            "_refused_json": tuple_to_json(dict.fromkeys((*notice.refused, *refused))),
        }
        return self._changed(_FAILED, values) > 0

    def get(self, notice_id: int) -> Notice | None:
        row = self._first(_GET, {"id": notice_id})
        return _notice(row) if row else None

    def page(self, *, run_id: int | None = None, after: int | None = None, limit: int = 100) -> list[Notice]:
        """Return notices newest first, starting behind id `after`."""
        query = select(notices).order_by(notices.c.id.desc()).limit(limit)
        if run_id is not None:
            query = query.where(notices.c.run_id == run_id)
        if after is not None:
            query = query.where(notices.c.id < after)
        return [_notice(row) for row in self._all(query)]

    def next_due_us(self) -> int | None:
        due: int | None = self._scalar(_NEXT)
        return due

    def last_sent_us(self, handler_id: int, outcome: str) -> int | None:
        sent: int | None = self._scalar(_LAST_SENT, {"handler_id": handler_id, "outcome": outcome})
        return sent

    def mails_since(self, handler_id: int, outcome: str, since_us: int, *, limit: int) -> list[Mailed]:
        params = {"handler_id": handler_id, "outcome": outcome, "since_us": since_us, "wanted": limit}
        return [Mailed(*row) for row in self._all(_MAILS_SINCE, params)]

    def oldest_pending(self, handler_id: int, outcome: str) -> tuple[int, int] | None:
        row = self._first(_OLDEST, {"_handler_id": handler_id, "_outcome": outcome})
        return None if row is None else (row.id, row.due_us)

    def waits(self, handler_id: int, outcome: str, begins: str) -> bool:
        return bool(self._scalar(_WAITS, {"_handler_id": handler_id, "_outcome": outcome, "_begins": begins}))

    def hold(self, notice_id: int, token: int, *, until_us: int, reason: str) -> bool:
        values = {"_id": notice_id, "_token": token, "_due_us": until_us, "_error": reason}
        return self._changed(_HOLD, values) > 0

    def put_off(
        self, handler_id: int, outcome: str, *, after: int, until_us: int, reason: str, keep: str, now_us: int
    ) -> int:
        values = {"_handler_id": handler_id, "_outcome": outcome, "_after": after, "_now_us": now_us}
        return self._changed(_PUT_OFF, values | {"_due_us": until_us, "_error": reason, "_keep": keep})

    def gather(self, carrier: Notice, *, mark: str, until_us: int) -> int:
        values = {"_carrier": carrier.id, "_token": carrier.token, "_outcome": carrier.outcome, "_mark": mark}
        to = tuple_to_json(carrier.recipients)
        return self._changed(_GATHER, values | {"_recipients_json": to, "_due_us": until_us})

    def gathered(self, carrier: Notice, *, mark: str, limit: int) -> tuple[list[Notice], Notice | None]:
        values = {"_carrier": carrier.id, "_outcome": carrier.outcome, "_mark": mark}
        last = self._first(_LAST_GATHERED, values | {"_wanted": 1})
        first = [_notice(row) for row in self._all(_FIRST_GATHERED, values | {"_wanted": limit})]
        return first, None if last is None else _notice(last)

    def settle(
        self,
        carrier: Notice,
        *,
        mark: str,
        last: int,
        state: NoticeState,
        now_us: int,
        error: str | None = None,
        refused: Sequence[str] = (),
    ) -> int:
        values = {
            "_carrier": carrier.id,
            "_outcome": carrier.outcome,
            "_mark": mark,
            "_last": last,
            "_state": state.value,
            "_sent_us": now_us if state is NoticeState.SENT else None,
            "_now_us": now_us,
            "_error": error,
            "_refused_json": tuple_to_json(refused),
        }
        return self._changed(_SETTLE, values)
