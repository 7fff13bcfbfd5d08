"""Runs: queued with their event, leased, finished."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import bindparam, func, insert, select, text

from eventproc.errors import NotFound
from eventproc.model import Claim, Finish, LogChunk, NewRun, Occupied, Run, RunFilter
from eventproc.store import claim, finish, requeue
from eventproc.store.base import Rows, any_of
from eventproc.store.due import LONG_AGO_US, next_due_us
from eventproc.store.lanes import LaneName, Lanes
from eventproc.store.reading import RunPages
from eventproc.store.schema import OPEN, UNSUCCEEDED, WAITING, events, lanes, run_logs, runs

_HOOKS = select(events.c.seq, events.c.hook).where(any_of(events.c.seq, "seqs"))
_KNOWN = select(runs.c.event_seq, runs.c.handler_id, runs.c.round).where(any_of(runs.c.event_seq, "seqs"))
_COUNTS = (
    select(runs.c.state, func.count())
    .where(text(UNSUCCEEDED), text(f"({OPEN} OR state IN ('failed', 'commit_failed'))"))
    .group_by(runs.c.state)
)
_ROUND = select(func.max(runs.c.round)).where(
    runs.c.event_seq == bindparam("event_seq"), runs.c.handler_id == bindparam("handler_id")
)
_ADD_LOGS = insert(run_logs)
_LOGS = (
    select(run_logs)
    .where(run_logs.c.run_id == bindparam("run_id"), run_logs.c.id > bindparam("after"))
    .order_by(run_logs.c.id)
    .limit(bindparam("wanted"))
)
_BACKLOG = select(func.count()).where(
    runs.c.lane_id.in_(select(lanes.c.id).where(lanes.c.handler_id == bindparam("handler_id"))), text(WAITING)
)


class SqlRuns(Rows):
    """Runs by id."""

    held_back = False

    def add(self, event_seq: int, runs: Sequence[NewRun], *, now_us: int) -> list[int]:
        return [run_id for _, run_id in self.add_many([(event_seq, run) for run in runs], now_us=now_us)]

    def add_many(self, new: Sequence[tuple[int, NewRun]], *, now_us: int) -> list[tuple[int, int]]:
        if not new:
            return []
        work = self.work
        hooks, known = self._hooks_and_known({seq for seq, _ in new})
        wanted: dict[tuple[int, int, int], NewRun] = {}
        for seq, run in new:
            name = (seq, run.handler_id, run.round)
            if name not in known:
                wanted.setdefault(name, run)
        if not wanted:
            return []
        lanes_of = {name: _lane_name(run, hooks.get(name[0])) for name, run in wanted.items()}
        lane_ids = Lanes(work).of(set(lanes_of.values()))
        ids = work.bulk.serials(work.conn, runs, len(wanted))
        rows = [
            _values(run_id, name[0], run, lane_ids[lanes_of[name]], now_us)
            for run_id, (name, run) in zip(ids, wanted.items(), strict=True)
        ]
        if work.bulk.name != "sqlite":  # see SqlEvents.add: no waiting in a circle
            rows.sort(key=lambda row: (row["event_seq"], row["handler_id"], row["round"]))
        added = work.bulk.insert_new(work.conn, runs, rows, "id")
        return [(name[0], run_id) for run_id, name in zip(ids, wanted, strict=True) if run_id in added]

    def _hooks_and_known(self, seqs: set[int]) -> tuple[dict[int, str], set[tuple[int, int, int]]]:
        """Return the hooks of events by seq, and the (event, handler, round) of the runs that they have."""
        fresh = self.work.new_events
        # What this transaction has stored itself needs no look; from its first runs on it does.
        hooks = {seq: fresh.pop(seq) for seq in seqs if seq in fresh}
        others = {"seqs": list(seqs - hooks.keys())}
        if not others["seqs"]:
            return hooks, set()
        hooks |= {row.seq: row.hook for row in self._all(_HOOKS, others)}
        return hooks, {(row.event_seq, row.handler_id, row.round) for row in self._all(_KNOWN, others)}

    def claim(
        self,
        *,
        worker: str,
        pythons: Sequence[str],
        want_run: int,
        want_batch: int,
        lease_us: int,
        now_us: int,
        run_slots: Occupied | None = None,
        batch_slots: Occupied | None = None,
    ) -> list[Claim]:
        """Lease due runs."""
        shares = claim.Shares(run=run_slots, batch=batch_slots)
        claims = claim.claim(
            self.work,
            worker=worker,
            pythons=pythons,
            wanted=claim.Wanted(run=want_run, batch=want_batch),
            shares=shares,
            lease_us=lease_us,
            now_us=now_us,
        )
        self.held_back = shares.held_back
        return claims

    def renew(self, leases: Sequence[tuple[int, int]], *, lease_us: int, now_us: int) -> set[int]:
        return finish.renew(self.work, leases, lease_us=lease_us, now_us=now_us)

    def cancel_requests(self, run_ids: Sequence[int]) -> set[int]:
        return finish.cancel_requests(self.work, run_ids)

    def finish(self, finishes: Sequence[Finish], *, now_us: int) -> set[int]:
        """Write transitions of leased runs in few statements; return the ids that were still ours."""
        return finish.finish(self.work, finishes, now_us=now_us)

    def expire_leases(self, *, now_us: int, max_interruptions: int, limit: int = 1000) -> list[Run]:
        """Take back leases that ran out. Return the runs as they now stand."""
        return finish.expire_leases(self.work, now_us=now_us, max_interruptions=max_interruptions, limit=limit)

    def next_due_us(self, *, after_us: int | None = None) -> int | None:
        """Return when the next queued or retrying run is due, with `after_us` the first that is due later."""
        return next_due_us(self.work, LONG_AGO_US if after_us is None else after_us)

    def get(self, run_id: int) -> Run | None:
        return RunPages(self.work).get(run_id)

    def page(self, which: RunFilter, *, after: int | None = None, limit: int = 100) -> list[Run]:
        return RunPages(self.work).page(which, after=after, limit=limit)

    def find(self, which: RunFilter, *, after: int | None = None, limit: int = 100) -> list[int]:
        return RunPages(self.work).find(which, after=after, limit=limit)

    def handlers_of(self, run_ids: Collection[int]) -> dict[int, tuple[int, str]]:
        return RunPages(self.work).handlers_of(run_ids)

    def counts(self) -> dict[str, int]:
        return dict([tuple(row) for row in self._all(_COUNTS)])

    def cancel(self, run_ids: Sequence[int], *, now_us: int, reason: str) -> tuple[set[int], set[int]]:
        return requeue.cancel(self.work, run_ids, now_us=now_us, reason=reason)

    def requeue(self, run_ids: Sequence[int], *, now_us: int, current: bool) -> set[int]:
        """Queue failed, commit_failed and cancelled runs again, with their own version or the current one."""
        return requeue.requeue(self.work, run_ids, now_us=now_us, current=current)

    def next_round(self, event_seq: int, handler_id: int) -> int:
        last = self._scalar(_ROUND, {"event_seq": event_seq, "handler_id": handler_id})
        return 0 if last is None else int(last) + 1

    def add_logs(self, chunks: Sequence[LogChunk]) -> None:
        rows = [
            {
                "run_id": chunk.run_id,
                "attempt": chunk.attempt,
                "stream": chunk.stream,
                "at_us": chunk.at_us,
                "text": chunk.text,
            }
            for chunk in chunks
        ]
        if rows:
            self.work.conn.execute(_ADD_LOGS, rows)

    def logs(self, run_id: int, *, after: int = 0, limit: int = 1000) -> list[LogChunk]:
        rows = self._all(_LOGS, {"run_id": run_id, "after": after, "wanted": limit})
        return [
            LogChunk(
                run_id=row.run_id, attempt=row.attempt, stream=row.stream, at_us=row.at_us, text=row.text, id=row.id
            )
            for row in rows
        ]

    def backlog(self, handler_id: int) -> int:
        return int(self._scalar(_BACKLOG, {"handler_id": handler_id}))


def _lane_name(run: NewRun, hook: str | None) -> LaneName:
    if hook is None:
        raise NotFound(f"there is no event for the run of handler {run.handler_id}", handler_id=run.handler_id)
    return (run.handler_id, hook, str(run.isolation), run.order_key is not None)


def _values(run_id: int, event_seq: int, run: NewRun, lane_id: int, now_us: int) -> dict[str, Any]:
    return {
        "id": run_id,
        "event_seq": event_seq,
        "handler_id": run.handler_id,
        "version": run.version,
        "round": run.round,
        "lane_id": lane_id,
        "state": "queued",
        "attempt": 0,
        "interruptions": 0,
        "serial": 0,
        "token": 0,
        "order_key": run.order_key,
        "limit_key": run.limit_key,
        "rate_key": run.rate_key,
        "created_us": now_us,
        "due_us": run.due_us or now_us,
        "cancel_requested": False,
        "callbacks_only": False,
    }
