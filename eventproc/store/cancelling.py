"""Cancelling runs that wait, for the handlers' and the runs' sake."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, select, text, update

from eventproc.model import Failure
from eventproc.store.failures import failure_to_json
from eventproc.store.schema import WAITING, lanes, runs

DEREGISTERED: Final = Failure(kind="cancelled", message="the handler was deregistered")

_CANCEL_WAITING = (
    update(runs)
    .where(
        runs.c.lane_id.in_(select(lanes.c.id).where(lanes.c.handler_id == bindparam("_handler_id"))),
        text(WAITING),
    )
    .values(state="cancelled", finished_us=bindparam("_now_us"), failure_json=bindparam("_failure_json"))
)


def cancel_waiting_of(conn: Connection, handler_id: int, *, now_us: int) -> int:
    """Cancel what waits for a handler that is gone."""
    failure = failure_to_json(DEREGISTERED)
    values = {"_handler_id": handler_id, "_now_us": now_us, "_failure_json": failure}
    return conn.execute(_CANCEL_WAITING, values).rowcount
