"""The end of a lease: finishing, renewing, and taking back what ran out. Each write is fenced by the token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, Integer, Text, bindparam, case, func, select, text, update

from eventproc.model import FINAL_STATES, Failure, Finish, Run, RunState
from eventproc.store.base import BulkUpdate, Work, any_of
from eventproc.store.cancelling import cancel_waiting_of
from eventproc.store.failures import failure_to_json
from eventproc.store.lanes import Lanes
from eventproc.store.reading import RunPages
from eventproc.store.roster import roster
from eventproc.store.schema import LEASED, UNSUCCEEDED, WAITING, handlers, runs

CANCELLED: Final = Failure(kind="cancelled", message="cancelled on request")

_HELD = select(runs.c.id, runs.c.token).where(any_of(runs.c.id, "ids"), text(LEASED))
_HELD = _HELD.order_by(runs.c.id).with_for_update()
_FINISH = BulkUpdate(
    table=runs,
    params={
        "state": Text(),
        "result_json": Text(),
        "failure_json": Text(),
        "due_us": BigInteger(),
        "finished_us": BigInteger(),
        "sandbox": Text(),
        "cpu_us": BigInteger(),
        "memory_bytes": BigInteger(),
        "uncounted": Integer(),
    },
    values=lambda param: {
        "state": param("state"),
        # The second transaction of a run with callbacks leaves alone what the first one recorded.
        "result_json": func.coalesce(param("result_json"), runs.c.result_json),
        "failure_json": param("failure_json"),
        "due_us": func.coalesce(param("due_us"), runs.c.due_us),
        "finished_us": param("finished_us"),
        "sandbox": func.coalesce(param("sandbox"), runs.c.sandbox),
        "cpu_us": func.coalesce(param("cpu_us"), runs.c.cpu_us),
        "memory_bytes": func.coalesce(param("memory_bytes"), runs.c.memory_bytes),
        "attempt": runs.c.attempt - param("uncounted"),
        "lease_until_us": case((param("state") == "committing", runs.c.lease_until_us), else_=None),
    },
)
_RENEW = update(runs).where(any_of(runs.c.id, "_ids")).values(lease_until_us=bindparam("_until_us"))
_REQUESTED = select(runs.c.id).where(any_of(runs.c.id, "ids"), text(LEASED), runs.c.cancel_requested.is_(True))
# Given back or to be repeated, though somebody asked to cancel it or its handler is gone.
_UNWANTED = (
    update(runs)
    .where(
        any_of(runs.c.id, "_ids"),
        text(WAITING),
        runs.c.cancel_requested.is_(True)
        | runs.c.handler_id.in_(select(handlers.c.id).where(handlers.c.live.is_(None))),
    )
    .values(state="cancelled", finished_us=bindparam("_now_us"), failure_json=bindparam("_failure_json"))
)
_EXPIRED = (
    select(runs.c.id, runs.c.state, runs.c.interruptions, runs.c.callbacks_only, runs.c.cancel_requested)
    .where(text(LEASED), text(UNSUCCEEDED), runs.c.lease_until_us <= bindparam("now_us"))
    .order_by(runs.c.id + 0)  # not in the order of the table: that would search all of history
    .limit(bindparam("wanted"))
    .with_for_update(skip_locked=True)
)
_TAKE_BACK = BulkUpdate(
    table=runs,
    params={"state": Text(), "failure_json": Text(), "finished_us": BigInteger()},
    values=lambda param: {
        "state": param("state"),
        "failure_json": param("failure_json"),
        "finished_us": param("finished_us"),
        "interruptions": runs.c.interruptions + 1,
        # Whoever still executes it must not finish it, nor renew.
        "token": runs.c.token + 1,
        "lease_until_us": None,
    },
)


def finish(work: Work, finishes: Sequence[Finish], *, now_us: int) -> set[int]:
    """Write transitions of leased runs, see `eventproc.abc.RunRows.finish`."""
    if not finishes:
        return set()
    rows = work.conn.execute(_HELD, {"ids": [item.run_id for item in finishes]})
    held = {row.id: row.token for row in rows}
    ours = {item.run_id: item for item in finishes if held.get(item.run_id) == item.token}
    if not ours:
        return set()
    work.bulk.update(work.conn, _FINISH, [_finish_values(item, now_us) for item in ours.values()])
    waiting = [item.run_id for item in ours.values() if item.state in (RunState.QUEUED, RunState.RETRYING)]
    if waiting:
        _drop_unwanted(work, waiting, now_us)
    return set(ours)


def _finish_values(item: Finish, now_us: int) -> dict[str, Any]:
    return {
        "id": item.run_id,
        "state": str(item.state),
        "result_json": item.result_json,
        "failure_json": failure_to_json(item.failure),
        "due_us": item.due_us,
        "finished_us": now_us if item.state in FINAL_STATES else None,
        "sandbox": item.sandbox,
        "cpu_us": item.cpu_us,
        "memory_bytes": item.memory_bytes,
        "uncounted": 0 if item.count_attempt else 1,
    }


def _drop_unwanted(work: Work, ids: Sequence[int], now_us: int) -> None:
    values = {"_ids": list(ids), "_now_us": now_us, "_failure_json": failure_to_json(CANCELLED)}
    work.conn.execute(_UNWANTED, values)


def renew(work: Work, leases: Sequence[tuple[int, int]], *, lease_us: int, now_us: int) -> set[int]:
    """Prolong leases, see `eventproc.abc.RunRows.renew`."""
    if not leases:
        return set()
    ids = [run_id for run_id, _ in leases]
    held = {(row.id, row.token) for row in work.conn.execute(_HELD, {"ids": ids})}
    ours = {run_id for run_id, token in leases if (run_id, token) in held}
    if ours:
        work.conn.execute(_RENEW, {"_ids": sorted(ours), "_until_us": now_us + lease_us})
    return ours - cancel_requests(work, list(ours))


def cancel_requests(work: Work, run_ids: Sequence[int]) -> set[int]:
    """Return those of the leased runs that somebody asked to cancel."""
    return {row.id for row in work.conn.execute(_REQUESTED, {"ids": list(run_ids)})} if run_ids else set()


def expire_leases(work: Work, *, now_us: int, max_interruptions: int, limit: int) -> list[Run]:
    """Take back leases that ran out, see `eventproc.abc.RunRows.expire_leases`."""
    _cancel_orphans(work, now_us)
    rows = work.conn.execute(_EXPIRED, {"now_us": now_us, "wanted": limit}).all()
    if not rows:
        return []
    changes = [_taken_back(row, now_us, max_interruptions) for row in rows]
    work.bulk.update(work.conn, _TAKE_BACK, changes)
    waiting = [change["id"] for change in changes if change["state"] == RunState.QUEUED]
    if waiting:
        _drop_unwanted(work, waiting, now_us)
    return RunPages(work).by_ids([row.id for row in rows])


def _taken_back(row: Any, now_us: int, max_interruptions: int) -> dict[str, Any]:
    failure: Failure | None = None
    state = RunState.QUEUED
    if row.state == RunState.COMMITTING:
        state = RunState.COMMIT_FAILED
        message = "the worker was lost while the commit callbacks ran; the run's effects are recorded"
        failure = Failure(kind="interrupted", message=message)
    elif row.interruptions >= max_interruptions:
        # The effects of a requeued commit_failed run are recorded: it may not end as one that has none.
        state = RunState.COMMIT_FAILED if row.callbacks_only else RunState.FAILED
        message = f"the worker was lost {row.interruptions + 1} times while it executed this run"
        failure = Failure(kind="lost", message=message)
    return {
        "id": row.id,
        "state": str(state),
        "failure_json": failure_to_json(failure),
        "finished_us": now_us if failure else None,
    }


def _cancel_orphans(work: Work, now_us: int) -> None:
    # An event may be accepted by somebody who does not yet know that the handler was deregistered.
    waiting, revision = Lanes(work).waiting()
    if not waiting:
        return
    live = roster(work, revision).entries
    for handler_id in sorted({lane.handler_id for lane in waiting if lane.handler_id not in live}):
        cancel_waiting_of(work.conn, handler_id, now_us=now_us)


__all__ = ["cancel_requests", "expire_leases", "finish", "renew"]
