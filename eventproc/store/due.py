"""When the next run may start."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, func, select, text

from eventproc.store.base import Work
from eventproc.store.lanes import Lanes
from eventproc.store.limits import Allowance
from eventproc.store.roster import roster
from eventproc.store.schema import WAITING, runs

NEVER: Final = 0  # a window that ended before this is over; none did

_FIRST = select(func.min(runs.c.due_us)).where(runs.c.lane_id == bindparam("lane_id"), text(WAITING))


def next_due_us(work: Work) -> int | None:
    """
    Return when the next run of a lane that is not paused is due; for an exhausted rate, when it resumes.

    That can lie in the past: the run then waits behind its order key or a limit by key.
    """
    known = roster(work)
    earliest: int | None = None
    for lane in Lanes(work).waiting():
        entry = known.runnable(lane.handler_id, lane.hook)
        due: int | None = work.conn.execute(_FIRST, {"lane_id": lane.id}).scalar() if entry else None
        if entry is None or due is None:
            continue
        if entry.limited:
            allowance = Allowance(work, entry.options, lane.handler_id, NEVER)
            if allowance.full():
                continue  # the end of one of its runs wakes the workers
            due = max(due, allowance.resumes_us() or due)
        earliest = due if earliest is None else min(earliest, due)
    return earliest
