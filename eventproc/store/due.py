"""When the next run may start."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, func, select, text

from eventproc.store.base import Work
from eventproc.store.lanes import Lane, Lanes
from eventproc.store.limits import Allowance
from eventproc.store.roster import Entry, roster
from eventproc.store.schema import WAITING, runs

LONG_AGO_US: Final = -(1 << 62)

_FIRST = select(func.min(runs.c.due_us)).where(
    runs.c.lane_id == bindparam("lane_id"), text(WAITING), runs.c.due_us > bindparam("after_us")
)


def next_due_us(work: Work, after_us: int) -> int | None:
    """Return the first time behind `after_us` at which a run may start, see `eventproc.abc.RunRows.next_due_us`."""
    waiting, revision = Lanes(work).waiting()
    if not waiting:
        return None
    known = roster(work, revision)
    times = []
    for lane in waiting:
        entry = known.runnable(lane.handler_id, lane.hook)
        due = _due(work, lane, entry, after_us) if entry is not None else None
        if due is not None:
            times.append(due)
    return min(times, default=None)


def _due(work: Work, lane: Lane, entry: Entry, after_us: int) -> int | None:
    resumes: int | None = None
    if entry.limited:
        allowance = Allowance(work, entry.options, lane.handler_id, after_us)
        if allowance.full():
            return None  # the end of one of its runs wakes the workers
        resumes = allowance.resumes_us()
    wanted = LONG_AGO_US if resumes is not None else after_us  # those that waited for the rate start with its window
    due: int | None = work.conn.execute(_FIRST, {"lane_id": lane.id, "after_us": wanted}).scalar()
    return due if due is None or resumes is None else max(due, resumes)
