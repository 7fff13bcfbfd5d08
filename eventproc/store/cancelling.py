"""Cancelling runs that wait, for the handlers' and the runs' sake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, select, text, update

from eventproc.model import Failure
from eventproc.store.base import any_of
from eventproc.store.failures import failure_to_json
from eventproc.store.schema import WAITING, lanes, runs

DEREGISTERED: Final = Failure(kind="cancelled", message="the handler was deregistered")

AT_ONCE: Final = 10_000  # runs of a deregistered handler that are cancelled in one transaction

_WAITING = (
    select(runs.c.id)
    .where(
        runs.c.lane_id.in_(select(lanes.c.id).where(lanes.c.handler_id == bindparam("handler_id"))),
        text(WAITING),
    )
    .limit(bindparam("wanted"))
    .with_for_update(skip_locked=True)
)
_CANCEL = (
    update(runs)
    .where(any_of(runs.c.id, "_ids"), text(WAITING))
    .values(state="cancelled", finished_us=bindparam("_now_us"), failure_json=bindparam("_failure_json"))
)


def cancel(conn: Connection, run_ids: Sequence[int], failure: Failure, *, now_us: int) -> None:
    """Cancel those of the runs that wait."""
    values = {"_ids": list(run_ids), "_now_us": now_us, "_failure_json": failure_to_json(failure)}
    conn.execute(_CANCEL, values)


def cancel_waiting_of(conn: Connection, handler_id: int, *, now_us: int) -> None:
    """
    Cancel what waits for a handler that is gone, so many at once that the transaction stays short.

    The rest can not be claimed any more; it is cancelled by later calls, when leases are looked after.
    """
    ids = conn.execute(_WAITING, {"handler_id": handler_id, "wanted": AT_ONCE}).scalars().all()
    if ids:
        cancel(conn, ids, DEREGISTERED, now_us=now_us)
