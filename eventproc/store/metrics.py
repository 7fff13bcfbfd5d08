"""Metrics: who they are, and how far their samples and scores have come."""

from __future__ import annotations

import fnmatch
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, bindparam, delete, func, insert, select, text, update

from eventproc.model import Metric, MetricBacklog, NewMetric
from eventproc.store.base import BulkUpdate, Rows, any_of, to_json
from eventproc.store.schema import BEHIND, ENOUGH, metric_states, metrics

DELETED: Final = -1  # the status of a metric whose samples are still to be deleted

_JOINED = metrics.join(metric_states, metric_states.c.id == metrics.c.id)
_STATE = [column for column in metric_states.c if column.name != "id"]
_SELECT = select(metrics, *_STATE).select_from(_JOINED)
_GET = _SELECT.where(metrics.c.id == bindparam("id"))
_BY_UID = _SELECT.where(metrics.c.uid == bindparam("uid"))
_BY_NAME = _SELECT.where(metrics.c.name == bindparam("name"))
_MANY = _SELECT.where(any_of(metrics.c.id, "ids"))
_BY_NAMES = _SELECT.where(any_of(metrics.c.name, "names"))
_IDS = select(metrics.c.name, metrics.c.id).where(any_of(metrics.c.name, "names"))
_INSERT_STATE = insert(metric_states)
_LOCK = select(metric_states.c.id).where(metric_states.c.id == bindparam("id")).with_for_update()
_SET_STATUS = (
    update(metric_states)
    .where(metric_states.c.id == bindparam("_id"), metric_states.c.status != DELETED)
    .values(status=bindparam("_status"))
)
_SET_SCORED = BulkUpdate(
    table=metric_states,
    params={"scored_rowid": BigInteger()},
    values=lambda p: {"scored_rowid": p("scored_rowid")},
)
_BACKLOG = select(
    metric_states.c.id,
    metric_states.c.status,
    metric_states.c.scored_rowid,
    metric_states.c.last_rowid,
    func.coalesce(metric_states.c.last_time_us, 0).label("last_time_us"),
)
_BEHIND = (
    _BACKLOG.where(text(BEHIND), metric_states.c.status == bindparam("status"), metric_states.c.id > bindparam("after"))
    .order_by(metric_states.c.id)
    .limit(bindparam("wanted"))
)
_ENOUGH = (
    _BACKLOG.where(text(ENOUGH), metric_states.c.id > bindparam("after"))
    .order_by(metric_states.c.id)
    .limit(bindparam("wanted"))
)
_BACKLOGS = _BACKLOG.where(any_of(metric_states.c.id, "ids"), metric_states.c.status != DELETED)
_COUNTS = (
    select(metric_states.c.status, func.count().label("found"))
    .where(metric_states.c.status != DELETED)
    .group_by(metric_states.c.status)
)
_DELETE = delete(metrics).where(metrics.c.id == bindparam("id"))
_RETIRE = update(metric_states).where(metric_states.c.id == bindparam("_id")).values(status=DELETED)


def _metric(row: Any) -> Metric:
    return Metric(
        id=row.id,
        uid=row.uid,
        name=row.name,
        resource=row.resource,
        description=row.description,
        tags=json.loads(row.tags_json) if row.tags_json != "{}" else {},
        unit=row.unit,
        created_us=row.created_us,
        owner_id=row.owner_id,
        status=row.status,
        last_rowid=row.last_rowid,
        last_time_us=row.last_time_us,
        scored_rowid=row.scored_rowid,
        rejected=row.rejected,
    )


def _backlog(row: Any) -> MetricBacklog:
    return MetricBacklog(
        metric_id=row.id,
        status=row.status,
        scored_rowid=row.scored_rowid,
        last_rowid=row.last_rowid,
        last_time_us=row.last_time_us,
    )


def _values(new: NewMetric, now_us: int) -> dict[str, Any]:
    return {
        "uid": str(uuid.uuid4()),
        "name": new.name,
        "resource": new.name if new.resource is None else new.resource,
        "description": f"Custom metric {new.name}" if new.description is None else new.description,
        "tags_json": to_json(dict(sorted(new.tags.items()))),
        "unit": new.unit,
        "created_us": now_us,
        "owner_id": new.owner_id,
    }


class SqlMetrics(Rows):
    """Metrics by id, uid or name."""

    def create(self, new: Sequence[NewMetric], *, now_us: int) -> list[tuple[Metric, bool]]:
        """Create metrics, each once by name; return, in order, the metric and whether it is new."""
        if not new:
            return []
        wanted = {metric.name: metric for metric in reversed(new)}
        known = self.ids(list(wanted))
        rows = [_values(wanted[name], now_us) for name in sorted(wanted) if name not in known]
        created: set[str] = set()
        if rows:
            created = self.work.bulk.insert_new(self.work.conn, metrics, rows, "name")
        if created:  # empty where others were quicker
            ids = self.ids(sorted(created))
            self.work.conn.execute(_INSERT_STATE, [_first_state(ids[name]) for name in sorted(created)])
        found = {row.name: _metric(row) for row in self._all(_BY_NAMES, {"names": list(wanted)})}
        result = []
        for metric in new:
            result.append((found[metric.name], metric.name in created))
            created.discard(metric.name)  # a name given twice is new once
        return result

    def get(self, metric_id: int) -> Metric | None:
        return self._one(_GET, {"id": metric_id})

    def by_uid(self, uid: str) -> Metric | None:
        return self._one(_BY_UID, {"uid": uid})

    def by_name(self, name: str) -> Metric | None:
        return self._one(_BY_NAME, {"name": name})

    def _one(self, statement: Any, params: Mapping[str, Any]) -> Metric | None:
        row = self._first(statement, params)
        return _metric(row) if row else None

    def many(self, metric_ids: Sequence[int]) -> dict[int, Metric]:
        return {row.id: _metric(row) for row in self._all(_MANY, {"ids": list(metric_ids)})}

    def ids(self, names: Sequence[str]) -> dict[str, int]:
        return {row.name: row.id for row in self._all(_IDS, {"names": list(names)})}

    def find(
        self,
        *,
        name: str | None = None,
        prefix: str | None = None,
        glob: str | None = None,
        tags: Mapping[str, str] | None = None,
        resource: str | None = None,
        status: int | None = None,
        after: str | None = None,
        limit: int = 1000,
    ) -> list[Metric]:
        """Return metrics by name, those behind the name `after`; what is given must all hold."""
        query = _SELECT.order_by(metrics.c.name)
        equal = {metrics.c.name: name, metrics.c.resource: resource, metric_states.c.status: status}
        query = query.where(*(column == value for column, value in equal.items() if value is not None))
        for start in (prefix, _literal_start(glob) if glob is not None else None):
            if start:
                query = query.where(func.substr(metrics.c.name, 1, len(start)) == start)
        if after is not None:
            query = query.where(metrics.c.name > after)
        if tags:
            query = query.where(metrics.c.tags_json != "{}")
        if not tags and glob is None:
            return [_metric(row) for row in self._all(query.limit(limit))]
        found: list[Metric] = []
        for row in self._all(query):
            if glob is not None and not fnmatch.fnmatchcase(row.name, glob):
                continue
            metric = _metric(row)
            if _has_tags(metric, tags or {}):
                found.append(metric)
            if len(found) >= limit:
                break
        return found

    def lock(self, metric_id: int) -> Metric | None:
        self.work.conn.execute(_LOCK, {"id": metric_id})
        return self.get(metric_id)

    def update(
        self,
        metric_id: int,
        *,
        resource: str | None = None,
        description: str | None = None,
        unit: str | None = None,
    ) -> bool:
        given = {"resource": resource, "description": description, "unit": unit}
        values = {name: value for name, value in given.items() if value is not None}
        if not values:
            return self.get(metric_id) is not None
        return self._changed(update(metrics).where(metrics.c.id == metric_id).values(**values)) > 0

    def set_status(self, metric_id: int, status: int, *, expected: Sequence[int] | None = None) -> bool:
        """Change the status, if it is one of `expected`."""
        statement = _SET_STATUS
        params: dict[str, Any] = {"_id": metric_id, "_status": int(status)}
        if expected is not None:
            statement = statement.where(any_of(metric_states.c.status, "_expected"))
            params["_expected"] = [int(one) for one in expected]
        return self._changed(statement, params) > 0

    def set_scored(self, rows: Sequence[tuple[int, int]]) -> None:
        """Set (metric id, scored_rowid)."""
        values = [{"id": metric_id, "scored_rowid": rowid} for metric_id, rowid in sorted(rows)]
        if values:
            self.work.bulk.update(self.work.conn, _SET_SCORED, values)

    def behind(self, status: int, *, after: int = 0, limit: int = 1000) -> list[MetricBacklog]:
        rows = self._all(_BEHIND, {"status": int(status), "after": after, "wanted": limit})
        return [_backlog(row) for row in rows]

    def enough(self, *, after: int = 0, limit: int = 1000) -> list[MetricBacklog]:
        return [_backlog(row) for row in self._all(_ENOUGH, {"after": after, "wanted": limit})]

    def backlogs(self, metric_ids: Sequence[int]) -> dict[int, MetricBacklog]:
        return {row.id: _backlog(row) for row in self._all(_BACKLOGS, {"ids": list(metric_ids)})}

    def counts(self) -> dict[int, int]:
        return {row.status: row.found for row in self._all(_COUNTS)}

    def delete(self, metric_id: int) -> bool:
        """Delete a metric; the rows of its samples follow in chunks."""
        self.work.conn.execute(_LOCK, {"id": metric_id})
        if not self._changed(_DELETE, {"id": metric_id}):
            return False
        self.work.conn.execute(_RETIRE, {"_id": metric_id})
        return True


def _first_state(metric_id: int) -> dict[str, Any]:
    return {
        "id": metric_id,
        "status": 0,
        "last_rowid": 0,
        "last_time_us": None,
        "scored_rowid": 0,
        "rejected": 0,
    }


def _literal_start(glob: str) -> str:
    for number, letter in enumerate(glob):
        if letter in "*?[":
            return glob[:number]
    return glob


def _has_tags(metric: Metric, tags: Mapping[str, str]) -> bool:
    return all(key in metric.tags and fnmatch.fnmatchcase(metric.tags[key], glob) for key, glob in tags.items())
