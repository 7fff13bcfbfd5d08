"""Runs as they stand: one, or pages of them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from typing import Any, Final

from sqlalchemy import Select, bindparam, select, text

from eventproc.model import DEAD_STATES, LEASED_STATES, Run, RunFilter, RunState
from eventproc.store.base import Rows, any_of
from eventproc.store.failures import failure_from_json
from eventproc.store.lanes import Lanes
from eventproc.store.schema import UNSUCCEEDED, events, handlers, lanes, runs

# Few runs are in these states at a time, or ever.
SELDOM: Final = frozenset({*LEASED_STATES, *DEAD_STATES, RunState.RETRYING, RunState.CANCELLED})

_SELECT = (
    select(runs, events.c.id.label("event_id"), lanes.c.hook, handlers.c.name.label("handler_name"))
    .join_from(runs, events, events.c.seq == runs.c.event_seq)
    .join(lanes, lanes.c.id == runs.c.lane_id)
    .join(handlers, handlers.c.id == runs.c.handler_id)
)
_GET = _SELECT.where(runs.c.id == bindparam("id"))
_BY_IDS = _SELECT.where(any_of(runs.c.id, "ids")).order_by(runs.c.id)
_HANDLERS = (
    select(runs.c.id, runs.c.handler_id, handlers.c.name)
    .join_from(runs, handlers, handlers.c.id == runs.c.handler_id)
    .where(any_of(runs.c.id, "ids"))
)
_EVENT_SEQ = select(events.c.seq).where(events.c.id == bindparam("id"))


def run_of(row: Any) -> Run:
    """Build the value from a row of `_SELECT`."""
    return Run(
        id=row.id,
        event_seq=row.event_seq,
        event_id=row.event_id,
        hook=row.hook,
        handler_id=row.handler_id,
        handler_name=row.handler_name,
        version=row.version,
        state=RunState(row.state),
        attempt=row.attempt,
        interruptions=row.interruptions,
        round=row.round,
        created_us=row.created_us,
        due_us=row.due_us,
        started_us=row.started_us,
        finished_us=row.finished_us,
        order_key=row.order_key,
        result_json=row.result_json,
        failure=failure_from_json(row.failure_json),
        worker=row.worker,
        sandbox=row.sandbox,
        cpu_us=row.cpu_us,
        memory_bytes=row.memory_bytes,
        callbacks_only=bool(row.callbacks_only),
        serial=row.serial,
    )


class RunPages(Rows):
    """Reads of runs."""

    def get(self, run_id: int) -> Run | None:
        row = self._first(_GET, {"id": run_id})
        return run_of(row) if row else None

    def by_ids(self, ids: Iterable[int]) -> list[Run]:
        wanted = list(ids)
        return [run_of(row) for row in self._all(_BY_IDS, {"ids": wanted})] if wanted else []

    def handlers_of(self, ids: Collection[int]) -> dict[int, tuple[int, str]]:
        """Return id and name of the handlers, by run."""
        rows = self._all(_HANDLERS, {"ids": list(ids)}) if ids else []
        return {row.id: (row.handler_id, row.name) for row in rows}

    def page(self, which: RunFilter, *, after: int | None, limit: int) -> list[Run]:
        """Return runs newest first, starting behind id `after`."""
        return list(reversed(self.by_ids(self.find(which, after=after, limit=limit))))

    def find(self, which: RunFilter, *, after: int | None, limit: int) -> list[int]:
        """
        Return the ids of runs newest first, starting behind id `after`.

        Each way in is an index that ends in the id: lanes, states, or the table itself. Where there are several lanes
        or states to look at, their first pages are merged, which is quicker than sorting all that they hold.
        """
        query: Select[Any] = select(runs.c.id)
        if after is not None:
            query = query.where(runs.c.id < after)
        if which.since_us is not None:
            query = query.where(runs.c.created_us >= which.since_us)
        if which.until_us is not None:
            query = query.where(runs.c.created_us < which.until_us)
        if which.event_id is not None:
            seq = self._scalar(_EVENT_SEQ, {"id": which.event_id})
            if seq is None:
                return []
            query = query.where(runs.c.event_seq == seq)
        query = query.order_by(runs.c.id.desc()).limit(limit)
        ways = [query.where(*way) for way in self._ways(which)]
        pages = [[row[0] for row in self._all(way)] for way in ways]
        return [run_id for run_id, _ in zip(heapq.merge(*pages, reverse=True), range(limit), strict=False)]

    def _ways(self, which: RunFilter) -> list[list[Any]]:
        lanes_ = self._lanes(which)
        if not which.states:
            return [[]] if lanes_ is None else [[runs.c.lane_id == lane_id] for lane_id in lanes_]
        ways: list[list[Any]] = []
        for state in which.states:
            is_state = runs.c.state == str(state)
            if state in SELDOM:
                ways.append([is_state, text(UNSUCCEEDED)])
                if lanes_ is not None:  # an expression: the index of states is the better one
                    ways[-1].append((runs.c.lane_id + 0).in_(lanes_))
            elif lanes_ is None:
                ways.append([is_state] if state == RunState.SUCCEEDED else [is_state, text(UNSUCCEEDED)])
            else:
                ways += [[is_state, runs.c.lane_id == lane_id] for lane_id in lanes_]
        return ways

    def _lanes(self, which: RunFilter) -> list[int] | None:
        if which.hook is None and which.handler_id is None:
            return None
        known = Lanes(self.work)
        of_handler = which.handler_id is not None
        found = known.of_handler(which.handler_id or 0) if of_handler else known.of_hook(which.hook or "")
        return [lane.id for lane in found if which.hook in (None, lane.hook)]
