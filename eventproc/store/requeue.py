"""Cancelling by hand, and another chance for the dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Boolean, Integer, select, text, update

from eventproc.model import Failure
from eventproc.store import cancelling
from eventproc.store.base import BulkUpdate, Work, any_of
from eventproc.store.lanes import Lanes
from eventproc.store.options import options_from_json
from eventproc.store.schema import LEASED, handler_versions, handlers, lanes, runs

_LOCKED = select(runs.c.id, runs.c.state).where(any_of(runs.c.id, "ids"), text("state <> 'succeeded'"))
_LOCKED = _LOCKED.order_by(runs.c.id).with_for_update()
_ASK = update(runs).where(any_of(runs.c.id, "_ids"), text(LEASED)).values(cancel_requested=True)

_DEAD = (
    select(
        runs.c.id,
        runs.c.state,
        runs.c.handler_id,
        runs.c.version,
        runs.c.lane_id,
        runs.c.callbacks_only,
        lanes.c.hook,
        lanes.c.ordered,
        handlers.c.current_version,
        handler_versions.c.options_json,
    )
    .join_from(runs, lanes, lanes.c.id == runs.c.lane_id)
    .join(handlers, handlers.c.id == runs.c.handler_id)
    .join(
        handler_versions,
        (handler_versions.c.handler_id == handlers.c.id) & (handler_versions.c.version == handlers.c.current_version),
    )
    .where(
        any_of(runs.c.id, "ids"),
        text("runs.state IN ('failed', 'commit_failed', 'cancelled')"),
        handlers.c.live.is_(True),
    )
    .order_by(runs.c.id)
    .with_for_update(of=runs)
)
_REQUEUE = BulkUpdate(
    table=runs,
    params={
        "version": Integer(),
        "lane_id": BigInteger(),
        "callbacks_only": Boolean(),
        "fresh": Integer(),
        "due_us": BigInteger(),
    },
    values=lambda param: {
        "state": "queued",
        "version": param("version"),
        "lane_id": param("lane_id"),
        "callbacks_only": param("callbacks_only"),
        "attempt": runs.c.attempt * (1 - param("fresh")),
        "due_us": param("due_us"),
        "interruptions": 0,
        "serial": runs.c.serial + 1,
        "cancel_requested": False,
        "failure_json": None,
        "finished_us": None,
    },
)


def cancel(work: Work, run_ids: Sequence[int], *, now_us: int, reason: str) -> tuple[set[int], set[int]]:
    """Cancel waiting runs, ask for the end of leased ones, see `eventproc.abc.RunRows.cancel`."""
    if not run_ids:
        return set(), set()
    states = {row.id: row.state for row in work.conn.execute(_LOCKED, {"ids": list(run_ids)})}
    waiting = {run_id for run_id, state in states.items() if state in ("queued", "retrying")}
    leased = {run_id for run_id, state in states.items() if state in ("running", "committing")}
    if waiting:
        failure = Failure(kind="cancelled", message=reason)
        cancelling.cancel(work.conn, sorted(waiting), failure, now_us=now_us)
    if leased:
        work.conn.execute(_ASK, {"_ids": sorted(leased)})
    return waiting, leased


def requeue(work: Work, run_ids: Sequence[int], *, now_us: int, current: bool) -> set[int]:
    """Queue dead and cancelled runs of registered handlers again, see `eventproc.abc.RunRows.requeue`."""
    if not run_ids:
        return set()
    rows = work.conn.execute(_DEAD, {"ids": list(run_ids)}).all()
    if not rows:
        return set()
    work.bulk.update(work.conn, _REQUEUE, [_requeued(work, row, now_us, current=current) for row in rows])
    return {row.id for row in rows}


def _requeued(work: Work, row: Any, now_us: int, *, current: bool) -> dict[str, Any]:
    recorded = row.state == "commit_failed" or bool(row.callbacks_only)
    # Callbacks belong to the code whose effects are recorded, so such a run keeps its version.
    switch = current and not recorded and row.version != row.current_version
    lane_id = row.lane_id
    if switch:
        isolation = str(options_from_json(row.options_json).isolation)
        name = (row.handler_id, row.hook, isolation, bool(row.ordered))
        lane_id = Lanes(work).of([name])[name]
    return {
        "id": row.id,
        "version": row.current_version if switch else row.version,
        "lane_id": lane_id,
        "callbacks_only": recorded,
        "fresh": 0 if recorded else 1,
        "due_us": now_us,
    }
