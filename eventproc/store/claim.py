"""
Claiming runs: first the lanes where runs wait, then the first due runs of each in turn.

What it costs depends on the number of lanes with runs waiting and of runs taken; neither on history nor on the
backlog of what is paused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, select, text, update

from eventproc.model import Claim, Isolation
from eventproc.store.base import IntList, TextList, Work, any_of
from eventproc.store.events import SqlEvents
from eventproc.store.lanes import Lane, Lanes
from eventproc.store.limits import Allowance
from eventproc.store.roster import Entry, Roster, roster, versions_by_name
from eventproc.store.schema import LEASED, OPEN, WAITING, handlers, runs

# A run waits for the earlier ones of its order key, and for any that runs: a requeued one may be older than those.
_CANDIDATES = f"""
SELECT r.id, r.event_seq, r.handler_id, r.version, r.token, r.attempt, r.interruptions, r.serial, r.callbacks_only,
 r.limit_key, r.rate_key
FROM runs r
WHERE r.lane_id = :lane_id AND r.{WAITING} AND r.due_us <= :now_us
 AND (r.order_key IS NULL OR (
  NOT EXISTS (SELECT 1 FROM runs p WHERE p.handler_id = r.handler_id AND p.order_key = r.order_key
   AND p.order_key IS NOT NULL AND p.{OPEN} AND p.id < r.id)
  AND NOT EXISTS (SELECT 1 FROM runs q WHERE q.handler_id = r.handler_id AND q.order_key = r.order_key
   AND q.order_key IS NOT NULL AND q.{LEASED})))
 {{more}}
ORDER BY r.due_us, r.id LIMIT :wanted {{lock}}
"""  # noqa: S608 - put together from constants

_LOCK = {"sqlite": "", "postgresql": "FOR UPDATE OF r SKIP LOCKED"}
_NOT_IN = {
    "sqlite": "coalesce(r.{column}, '') NOT IN (SELECT value FROM json_each(:{name}))",
    "postgresql": "coalesce(r.{column}, '') <> ALL (:{name})",
}
_IN_VERSIONS = {
    "sqlite": "r.version IN (SELECT value FROM json_each(:versions))",
    "postgresql": "r.version = ANY (:versions)",
}


def _statement(dialect: str, *, keyed: bool, versions: bool) -> Any:
    more, params = "", []
    if keyed:
        for column, name in (("limit_key", "no_limits"), ("rate_key", "no_rates")):
            more += " AND " + _NOT_IN[dialect].format(column=column, name=name)
            params.append(bindparam(name, type_=TextList()))
    if versions:
        more += " AND " + _IN_VERSIONS[dialect]
        params.append(bindparam("versions", type_=IntList()))
    return text(_CANDIDATES.format(more=more, lock=_LOCK[dialect])).bindparams(*params)


_STATEMENTS = {
    (dialect, keyed, versions): _statement(dialect, keyed=keyed, versions=versions)
    for dialect in ("sqlite", "postgresql")
    for keyed in (False, True)
    for versions in (False, True)
}
_TAKE = (
    update(runs)
    .where(any_of(runs.c.id, "_ids"))
    .values(
        state="running",
        lease_until_us=bindparam("_lease_until_us"),
        worker=bindparam("_worker"),
        token=runs.c.token + 1,
        attempt=runs.c.attempt + 1,
        started_us=bindparam("_now_us"),
        finished_us=None,
    )
)
# Workers that claim under a limit must see each other's starts: they take turns by the handler's row.
_TURN = (
    select(handlers.c.id).where(any_of(handlers.c.id, "ids")).order_by(handlers.c.id).with_for_update(key_share=True)
)


@dataclass(kw_only=True, slots=True)
class Wanted:
    """What a claim may still take, by kind of isolation."""

    run: int
    batch: int

    def of(self, lane: Lane) -> int:
        return self.batch if lane.isolation == Isolation.BATCH else self.run

    def take(self, lane: Lane, taken: int) -> None:
        if lane.isolation == Isolation.BATCH:
            self.batch -= taken
        else:
            self.run -= taken


@dataclass(kw_only=True, slots=True)
class _Claiming:
    work: Work
    worker: str
    pythons: frozenset[str]
    lease_until_us: int
    now_us: int
    wanted: Wanted
    taken: list[Any] = field(default_factory=list)
    allowances: dict[int, Allowance] = field(default_factory=dict)

    def run(self) -> list[Claim]:
        known = roster(self.work)
        lanes = self._lanes(known)
        self._take_turns(lanes)
        hungry = True
        while hungry:
            hungry = False
            for position, (lane, entry) in enumerate(lanes):
                left = self.wanted.of(lane)
                same_kind = sum(1 for other, _ in lanes[position:] if self._kind(other) == self._kind(lane))
                share = -(-left // same_kind)
                if share < 1:
                    continue
                taken = self._take(lane, entry, share)
                hungry = hungry or taken == share
            hungry = hungry and any(self.wanted.of(lane) > 0 for lane, _ in lanes)
        return self._claims(known)

    @staticmethod
    def _kind(lane: Lane) -> bool:
        return lane.isolation == Isolation.BATCH

    def _lanes(self, known: Roster) -> list[tuple[Lane, Entry]]:
        found = []
        for lane in Lanes(self.work).waiting():
            entry = known.runnable(lane.handler_id, lane.hook)
            if entry is not None and self.wanted.of(lane) > 0:
                found.append((lane, entry))
        # The next claim begins with the next lane.
        caches = self.work.caches
        start = next((i for i, (lane, _) in enumerate(found) if lane.id > caches.turn), 0)
        found = found[start:] + found[:start]
        if found:
            caches.turn = found[0][0].id
        return found

    def _take_turns(self, lanes: Sequence[tuple[Lane, Entry]]) -> None:
        limited = sorted({entry.id for _, entry in lanes if entry.limited})
        if limited:
            if self.work.bulk.name != "sqlite":
                self.work.conn.execute(_TURN, {"ids": limited})
            entries = {entry.id: entry for _, entry in lanes}
            for handler_id in limited:
                self.allowances[handler_id] = Allowance(self.work, entries[handler_id].options, handler_id, self.now_us)

    def _take(self, lane: Lane, entry: Entry, wanted: int) -> int:
        params: dict[str, Any] = {"lane_id": lane.id, "now_us": self.now_us}
        usable = [version for version, python in entry.pythons.items() if not self.pythons or python in self.pythons]
        if not usable:
            return 0
        some = len(usable) < len(entry.pythons)
        if some:
            params["versions"] = usable
        allowance = self.allowances.get(entry.id)
        found: list[Any] = []
        while len(found) < wanted:
            params["wanted"] = wanted - len(found)
            if allowance is not None:
                params["wanted"] = min(params["wanted"], allowance.most())
                params |= allowance.excluded()
            statement = _STATEMENTS[(self.work.bulk.name, allowance is not None, some)]
            rows = self.work.conn.execute(statement, params).all() if params["wanted"] > 0 else []
            fit = [row for row in rows if allowance is None or allowance.admit(row)]
            self._lease(fit)
            found += fit
            if len(rows) < params["wanted"] or (allowance is None) or not rows:
                break
        self.wanted.take(lane, len(found))
        self.taken += found
        return len(found)

    def _lease(self, rows: Sequence[Any]) -> None:
        if rows:
            values = {"_ids": [row.id for row in rows], "_lease_until_us": self.lease_until_us}
            self.work.conn.execute(_TAKE, values | {"_worker": self.worker, "_now_us": self.now_us})

    def _claims(self, known: Roster) -> list[Claim]:
        if not self.taken:
            return []
        for allowance in self.allowances.values():
            allowance.write()
        events = SqlEvents(self.work).by_seq(list({row.event_seq for row in self.taken}))
        versions = versions_by_name(self.work, {(row.handler_id, row.version) for row in self.taken})
        self.taken.sort(key=lambda row: (row.handler_id, row.version))  # stable: due order stays within a version
        return [
            Claim(
                run_id=row.id,
                token=row.token + 1,
                attempt=row.attempt + 1,
                interruptions=row.interruptions,
                lease_until_us=self.lease_until_us,
                owner_id=known.entries[row.handler_id].owner_id,
                handler_name=known.entries[row.handler_id].name,
                handler=versions[(row.handler_id, row.version)],
                event=events[row.event_seq],
                callbacks_only=bool(row.callbacks_only),
                serial=row.serial,
            )
            for row in self.taken
        ]


def claim(
    work: Work, *, worker: str, pythons: Sequence[str], want_run: int, want_batch: int, lease_us: int, now_us: int
) -> list[Claim]:
    """Lease due runs, see `eventproc.abc.RunRows.claim`."""
    claiming = _Claiming(
        work=work,
        worker=worker,
        pythons=frozenset(pythons),
        lease_until_us=now_us + lease_us,
        now_us=now_us,
        wanted=Wanted(run=want_run, batch=want_batch),
    )
    return claiming.run()
