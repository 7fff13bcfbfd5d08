"""Lanes: where runs of one handler on one hook wait, by isolation, with or without order. Rows never change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, select, text

from eventproc.store.base import Rows, any_of
from eventproc.store.schema import WAITING, lanes

_ADD = text(
    "INSERT INTO lanes (handler_id, hook, isolation, ordered) VALUES (:handler_id, :hook, :isolation, :ordered)"
    " ON CONFLICT (handler_id, hook, isolation, ordered) DO NOTHING"
)
_OF_NAME = select(lanes).where(
    lanes.c.handler_id == bindparam("handler_id"),
    lanes.c.hook == bindparam("hook"),
    lanes.c.isolation == bindparam("isolation"),
    lanes.c.ordered == bindparam("ordered"),
)
_BY_ID = select(lanes).where(any_of(lanes.c.id, "ids"))
_OF_HANDLER = select(lanes).where(lanes.c.handler_id == bindparam("handler_id")).order_by(lanes.c.id)
_OF_HOOK = select(lanes).where(lanes.c.hook == bindparam("hook")).order_by(lanes.c.id)

# Steps from lane to lane through the index: the cost is the number of lanes with runs waiting, not of the runs.
WAITING_LANES: Final = text(
    "WITH RECURSIVE waiting(lane_id) AS ("  # noqa: S608 - WAITING is a constant
    f" SELECT min(lane_id) FROM runs WHERE {WAITING}"
    f" UNION ALL SELECT (SELECT min(lane_id) FROM runs WHERE {WAITING} AND runs.lane_id > waiting.lane_id)"
    " FROM waiting WHERE waiting.lane_id IS NOT NULL"
    ") SELECT lane_id, (SELECT value FROM counters WHERE name = 'revision') FROM waiting WHERE lane_id IS NOT NULL"
)


LaneName = tuple[int, str, str, bool]  # handler, hook, isolation, ordered


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane's row."""

    id: int
    handler_id: int
    hook: str
    isolation: str
    ordered: bool

    @property
    def name(self) -> LaneName:
        return (self.handler_id, self.hook, self.isolation, self.ordered)


def _lane(row: Any) -> Lane:
    return Lane(row.id, row.handler_id, row.hook, row.isolation, bool(row.ordered))


class Lanes(Rows):
    """Lanes, remembered once committed."""

    def of(self, names: Iterable[LaneName]) -> dict[LaneName, int]:
        """Return the ids of the lanes of these names, making those that are missing."""
        cache = self.work.caches.lanes
        found = {name: cache.get(name) for name in names}
        for name in sorted(name for name, lane_id in found.items() if lane_id is None):
            found[name] = self._get_or_add(name).id
        return {name: lane_id for name, lane_id in found.items() if lane_id is not None}

    def _get_or_add(self, name: LaneName) -> Lane:
        values = dict(zip(("handler_id", "hook", "isolation", "ordered"), name, strict=True))
        row = self._first(_OF_NAME, values)
        if row is None:
            self.work.conn.execute(_ADD, values)
            row = self.work.conn.execute(_OF_NAME, values).one()
        return self._remember([_lane(row)])[0]

    def by_id(self, ids: Sequence[int]) -> list[Lane]:
        cache = self.work.caches.lane_by_id
        known = {lane_id: cache[lane_id] for lane_id in ids if lane_id in cache}
        missing = [lane_id for lane_id in ids if lane_id not in known]
        if missing:
            fetched = self._remember([_lane(row) for row in self._all(_BY_ID, {"ids": missing})])
            known |= {lane.id: lane for lane in fetched}
        return [known[lane_id] for lane_id in ids if lane_id in known]

    def waiting(self) -> tuple[list[Lane], int]:
        """Return the lanes in which runs wait, due or not, in the order of their ids, and the present revision."""
        rows = self._all(WAITING_LANES)
        return self.by_id([row[0] for row in rows]), rows[0][1] if rows else 0

    def of_handler(self, handler_id: int) -> list[Lane]:
        return [_lane(row) for row in self._all(_OF_HANDLER, {"handler_id": handler_id})]

    def of_hook(self, hook: str) -> list[Lane]:
        return [_lane(row) for row in self._all(_OF_HOOK, {"hook": hook})]

    def _remember(self, found: list[Lane]) -> list[Lane]:
        caches = self.work.caches

        def keep() -> None:
            for lane in found:
                caches.lane_by_id[lane.id] = lane
                caches.lanes[lane.name] = lane.id

        self.work.actions.append(keep)
        return found
