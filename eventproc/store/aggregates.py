"""Aggregates over metrics, and the ranking of the most unusual metrics."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import bindparam, delete, func, select, text, update

from eventproc.model.annotations import Aggregate, AggregateFunction, Ranked
from eventproc.store.base import Rows, to_json
from eventproc.store.schema import aggregates, metric_samples, metric_states, metrics

_ADD = text(
    "INSERT INTO aggregates (name, pattern, tags_json, function, period_us, wait_us, paused, created_us, owner_id,"
    " members, periods) VALUES (:name, :pattern, :tags_json, :function, :period_us, :wait_us, :paused, :created_us,"
    " :owner_id, 0, 0) ON CONFLICT (name) DO NOTHING"
)
_GET = select(aggregates).where(aggregates.c.name == bindparam("name"))
_ALL = select(aggregates).order_by(aggregates.c.name)
_LOCK = select(aggregates).where(aggregates.c.id == bindparam("id")).with_for_update()
_DELETE = delete(aggregates).where(aggregates.c.name == bindparam("name"))
_PAUSE = update(aggregates).where(aggregates.c.name == bindparam("_name")).values(paused=bindparam("_paused"))
_MOVE = (
    update(aggregates)
    .where(aggregates.c.id == bindparam("_id"))
    .values(
        next_us=bindparam("_next_us"),
        newest_us=bindparam("_newest_us"),
        seen_us=bindparam("_seen_us"),
        members=bindparam("_members"),
        periods=bindparam("_periods"),
        message=bindparam("_message"),
    )
)
UNUSUAL = 0.9  # anomaly likelihood from which on the index of samples holds them

_BARS = (
    select(
        metric_samples.c.metric_id,
        func.max(metric_samples.c.display_value).label("highest"),
        func.max(metric_samples.c.anomaly_score).label("worst"),
        func.count().label("found"),
        func.max(metric_samples.c.time_us).label("last_us"),
    )
    .where(
        text(f"metric_samples.anomaly_score >= {UNUSUAL}"),
        metric_samples.c.time_us > bindparam("start_us"),
        metric_samples.c.time_us <= bindparam("end_us"),
    )
    .group_by(
        metric_samples.c.metric_id,
        text("(metric_samples.time_us - :first_us) / :bar_us").bindparams(
            bindparam("first_us", required=True), bindparam("bar_us", required=True)
        ),
    )
    .subquery("bars")
)
_SCORE = func.sum(_BARS.c.highest)
_RANK = (
    select(
        metrics.c.id,
        metrics.c.uid,
        metrics.c.name,
        metrics.c.resource,
        _SCORE.label("score"),
        func.max(_BARS.c.worst).label("worst"),
        func.sum(_BARS.c.found).label("found"),
        func.max(_BARS.c.last_us).label("last_us"),
    )
    .join(metrics, metrics.c.id == _BARS.c.metric_id)
    .group_by(metrics.c.id, metrics.c.uid, metrics.c.name, metrics.c.resource)
    .order_by(_SCORE.desc(), metrics.c.name)
    .limit(bindparam("wanted"))
)
_NEWEST = select(func.max(metric_states.c.last_time_us)).where(metric_states.c.status > 0)


def _aggregate(row: Any) -> Aggregate:
    return Aggregate(
        id=row.id,
        name=row.name,
        pattern=row.pattern,
        tags=json.loads(row.tags_json),
        function=AggregateFunction(row.function),
        period_us=row.period_us,
        wait_us=row.wait_us,
        paused=bool(row.paused),
        created_us=row.created_us,
        owner_id=row.owner_id,
        next_us=row.next_us,
        newest_us=row.newest_us,
        seen_us=row.seen_us,
        members=row.members,
        periods=row.periods,
        message=row.message,
    )


class SqlAggregates(Rows):
    """Aggregates by name."""

    def add(self, new: Aggregate) -> Aggregate | None:
        values = {
            "name": new.name,
            "pattern": new.pattern,
            "tags_json": to_json(dict(new.tags)),
            "function": new.function.value,
            "period_us": new.period_us,
            "wait_us": new.wait_us,
            "paused": new.paused,
            "created_us": new.created_us,
            "owner_id": new.owner_id,
        }
        return self.get(new.name) if self._changed(_ADD, values) else None

    def get(self, name: str) -> Aggregate | None:
        row = self._first(_GET, {"name": name})
        return _aggregate(row) if row else None

    def all(self) -> list[Aggregate]:
        return [_aggregate(row) for row in self._all(_ALL)]

    def pause(self, name: str, *, paused: bool) -> bool:
        return self._changed(_PAUSE, {"_name": name, "_paused": paused}) > 0

    def delete(self, name: str) -> bool:
        return self._changed(_DELETE, {"name": name}) > 0

    def lock(self, aggregate_id: int) -> Aggregate | None:
        row = self._first(_LOCK, {"id": aggregate_id})
        return _aggregate(row) if row else None

    def move(self, moved: Aggregate) -> None:
        """Write where it stands."""
        values = {
            "_id": moved.id,
            "_next_us": moved.next_us,
            "_newest_us": moved.newest_us,
            "_seen_us": moved.seen_us,
            "_members": moved.members,
            "_periods": moved.periods,
            "_message": moved.message,
        }
        self.work.conn.execute(_MOVE, values)


class SqlRanking(Rows):
    """The most unusual metrics."""

    def newest_us(self) -> int | None:
        found: int | None = self._scalar(_NEWEST)
        return found

    def rank(self, *, start_us: int, end_us: int, bar_us: int, limit: int) -> list[Ranked]:
        """Return the metrics that were most unusual in start_us < time <= end_us, the most unusual first."""
        values = {
            "start_us": start_us,
            "end_us": end_us,
            "first_us": start_us + 1,
            "bar_us": bar_us,
            "wanted": limit,
        }
        return [
            Ranked(
                metric_id=row.id,
                uid=row.uid,
                name=row.name,
                resource=row.resource,
                score=float(row.score),
                worst=float(row.worst),
                rows=int(row.found),
                last_us=row.last_us,
            )
            for row in self._all(_RANK, values)
        ]
