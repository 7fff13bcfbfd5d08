"""
Claiming runs: first the lanes where runs wait, then the first due runs of each in turn.

What it costs depends on the number of lanes with runs waiting and of runs taken; neither on history nor on the
backlog of what is paused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, select, update

from eventproc.model import Claim, Isolation, Occupied
from eventproc.store.base import Work, any_of
from eventproc.store.candidates import COUNT_HEAD, LIMITED_WINDOW, STATEMENTS, TAKING, window
from eventproc.store.events import SqlEvents
from eventproc.store.lanes import Lane, Lanes
from eventproc.store.limits import Allowance
from eventproc.store.roster import Entry, Roster, roster, versions_by_name
from eventproc.store.schema import handlers, runs

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


class Shares:
    """How many slots an owner may still have."""

    def __init__(self, *, run: Occupied | None, batch: Occupied | None) -> None:
        self.contended: frozenset[bool] = frozenset()
        self.held_back = False  # whether somebody would have got more
        self._slots = {False: run, True: batch}
        self._held = {kind: Counter(slots.by_owner) if slots else Counter() for kind, slots in self._slots.items()}
        self._batches: set[int] = set()  # handlers that have got a slot for a batch

    def of(self, lane: Lane, entry: Entry, wanted: int) -> int:
        """Return how many of `wanted` runs the handler's owner may have."""
        kind = lane.isolation == Isolation.BATCH
        slots, held = self._slots[kind], self._held[kind]
        if slots is None or (kind and kind not in self.contended):
            return wanted
        # Alone an owner has those slots only, whoever the runs under way belonged to.
        room = max(0, slots.most - (held[entry.owner_id] if kind in self.contended else held.total()))
        if kind and (room or entry.id in self._batches):
            room = wanted
        self.held_back = self.held_back or room < wanted
        return min(wanted, room)

    def take(self, lane: Lane, entry: Entry, taken: int) -> None:
        if lane.isolation != Isolation.BATCH:
            self._held[False][entry.owner_id] += taken
        elif taken and entry.id not in self._batches:
            self._batches.add(entry.id)
            self._held[True][entry.owner_id] += 1


@dataclass(kw_only=True, slots=True)
class _Claiming:
    work: Work
    worker: str
    pythons: frozenset[str]
    lease_until_us: int
    now_us: int
    wanted: Wanted
    shares: Shares
    taken: list[Any] = field(default_factory=list)
    allowances: dict[int, Allowance] = field(default_factory=dict)

    def run(self) -> list[Claim]:
        waiting, revision = Lanes(self.work).waiting()
        if not waiting:
            return []
        known = roster(self.work, revision)
        self.shares.contended = known.contended
        lanes = self._lanes(known, waiting)
        self._take_turns(lanes)
        while lanes:  # again with those that may have more, as long as there is room
            left = Counter(self._kind(lane) for lane, _ in lanes)
            full = []
            for lane, entry in lanes:
                share = -(-self.wanted.of(lane) // left[self._kind(lane)])
                left[self._kind(lane)] -= 1
                if share > 0 and self._take(lane, entry, share) == share:
                    full.append((lane, entry))
            lanes = [(lane, entry) for lane, entry in full if self.wanted.of(lane) > 0]
        return self._claims(known)

    @staticmethod
    def _kind(lane: Lane) -> bool:
        return lane.isolation == Isolation.BATCH

    def _lanes(self, known: Roster, waiting: Sequence[Lane]) -> list[tuple[Lane, Entry]]:
        found = []
        for lane in waiting:
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
        usable = [version for version, python in entry.pythons.items() if not self.pythons or python in self.pythons]
        wanted = self.shares.of(lane, entry, wanted) if usable else 0
        if wanted < 1:
            return 0
        params = {
            "lane_id": lane.id,
            "now_us": self.now_us,
            "handler_id": entry.id,
            "from_key": "",
            "window": window(wanted),
        }
        some = len(usable) < len(entry.pythons)
        if some:
            params["versions"] = usable
        search = _Search(
            claiming=self, lane=lane, params=params, some_versions=some, allowance=self.allowances.get(entry.id)
        )
        if not lane.ordered and search.allowance is None:
            found = search.take(wanted)
        else:
            found = search.find("window" if lane.ordered else "plain", wanted)
        if lane.ordered and len(found) < wanted and search.goes_on_behind_window():
            found += search.find_by_key(wanted - len(found))
        self.wanted.take(lane, len(found))
        self.shares.take(lane, entry, len(found))
        self.taken += found
        return len(found)

    def lease(self, rows: Sequence[Any]) -> None:
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


@dataclass(kw_only=True, slots=True)
class _Search:
    """Finds runs of one lane and leases them at once: what is leased is no candidate any more."""

    claiming: _Claiming
    lane: Lane
    params: dict[str, Any]
    some_versions: bool
    allowance: Allowance | None

    def find(self, way: str, wanted: int) -> list[Any]:
        work, allowance = self.claiming.work, self.allowance
        keyed = allowance is not None and allowance.keyed
        statement = STATEMENTS[(work.bulk.name, way, keyed, self.some_versions)]
        found: list[Any] = []
        while len(found) < wanted:
            ask = wanted - len(found)
            if allowance is not None:
                ask = min(ask, allowance.most())
                self.params |= allowance.excluded()
            if ask < 1:
                break
            rows = work.conn.execute(statement, self.params | {"wanted": ask}).all()
            fit = [row for row in rows if allowance is None or allowance.admit(row)]
            self.claiming.lease(fit)
            found += fit
            if len(rows) < ask:
                if not keyed or self.params["window"] >= LIMITED_WINDOW or not self.goes_on_behind_window():
                    break
                self.params["window"] = LIMITED_WINDOW
            elif len(fit) == ask:
                break
        return found

    def take(self, wanted: int) -> list[Any]:
        """Lease the first due ones: in a lane without order and without limits any will do."""
        claiming = self.claiming
        lease = {"wanted": wanted, "lease_until_us": claiming.lease_until_us, "worker": claiming.worker}
        statement = TAKING[(claiming.work.bulk.name, self.some_versions)]
        rows = claiming.work.conn.execute(statement, self.params | lease).all()
        return sorted(rows, key=lambda row: (row.due_us, row.id))

    def goes_on_behind_window(self) -> bool:
        waiting = self.claiming.work.conn.execute(COUNT_HEAD, self.params).scalar() or 0
        return bool(waiting >= self.params["window"])

    def find_by_key(self, wanted: int) -> list[Any]:
        turns = self.claiming.work.caches.turns
        self.params["from_key"] = start = turns.get(self.lane.id, "")
        found = self.find("by key", wanted)
        if len(found) < wanted and start:  # once around
            self.params["from_key"] = ""
            found += self.find("by key", wanted - len(found))
        turns[self.lane.id] = found[-1].order_key if found else ""
        return found


def claim(
    work: Work, *, worker: str, pythons: Sequence[str], wanted: Wanted, shares: Shares, lease_us: int, now_us: int
) -> list[Claim]:
    """Lease due runs, see `eventproc.abc.RunRows.claim`."""
    claiming = _Claiming(
        work=work,
        worker=worker,
        pythons=frozenset(pythons),
        lease_until_us=now_us + lease_us,
        now_us=now_us,
        wanted=wanted,
        shares=shares,
    )
    return claiming.run()
