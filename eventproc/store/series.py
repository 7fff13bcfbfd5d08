"""Series: the registry and the chunks of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, insert, select, text, update

from eventproc.errors import NotFound
from eventproc.model import Chunk, Series
from eventproc.store.base import Rows, any_of, to_json
from eventproc.store.schema import metric_samples, metric_states, metrics, series, series_chunks

METRICS: Final = "metrics"  # the collection of metrics

_PUT = text(
    "INSERT INTO series (uuid, name, collection, unit, tags_json, annotations_json, layout, points, earliest_ns,"
    " latest_ns, created_us, owner_id) VALUES (:uuid, :name, :collection, :unit, :tags_json, :annotations_json,"
    " :layout, :points, :earliest_ns, :latest_ns, :created_us, :owner_id) ON CONFLICT (uuid) DO NOTHING"
)
_GET = select(series).where(series.c.uuid == bindparam("uuid"))
_LOCK = select(series.c.uuid).where(series.c.uuid == bindparam("uuid")).with_for_update()
_ANNOTATE = update(series).where(series.c.uuid == bindparam("_uuid")).values(annotations_json=bindparam("_text"))
# Chunks never overlap, so only the last one that starts before `start_ns` can reach into the range.
_OVERLAPPING = text(
    "SELECT start_ns, end_ns, points, data FROM series_chunks WHERE series = :uuid AND start_ns < :end_ns"
    " AND start_ns >= COALESCE((SELECT max(start_ns) FROM series_chunks WHERE series = :uuid"
    " AND start_ns <= :start_ns), :start_ns) AND end_ns >= :start_ns ORDER BY start_ns"
)
_FIRST_OVERLAPPING = text(f"{_OVERLAPPING.text} LIMIT :wanted")
_OLD = (series_chunks.c.series == bindparam("uuid")) & any_of(series_chunks.c.start_ns, "old")
_POINTS = select(func.coalesce(func.sum(series_chunks.c.points), 0)).where(_OLD)
_DELETE = delete(series_chunks).where(_OLD)
_INSERT = insert(series_chunks)
# The ends come from the key's index and the number from the difference: a long series costs no more than a short one.
_SET_EXTENT = text(
    "UPDATE series SET points = points + :more,"
    " earliest_ns = (SELECT min(start_ns) FROM series_chunks WHERE series = :uuid),"
    " latest_ns = (SELECT end_ns FROM series_chunks WHERE series = :uuid ORDER BY start_ns DESC LIMIT 1)"
    " WHERE uuid = :uuid"
)

# A metric as a series. Its rows have no gaps, so that the first and the last one say how many there are.
_FIRST = (
    select(func.min(metric_samples.c.rowid))
    .where(metric_samples.c.metric_id == metrics.c.id)
    .correlate(metrics)
    .scalar_subquery()
)
_FIRST_TIME = (
    select(metric_samples.c.time_us)
    .where(metric_samples.c.metric_id == metrics.c.id)
    .order_by(metric_samples.c.rowid)
    .limit(1)
    .correlate(metrics)
    .scalar_subquery()
)
_METRICS = select(
    metrics,
    metric_states.c.last_rowid,
    metric_states.c.last_time_us,
    _FIRST.label("first"),
    _FIRST_TIME.label("first_us"),
).select_from(metrics.join(metric_states, metric_states.c.id == metrics.c.id))
_GET_METRIC = _METRICS.where(metrics.c.uid == bindparam("uid"))


def _metric_series(row: Any) -> Series:
    empty = row.first is None
    return Series(
        uuid=row.uid,
        name=row.name,
        collection=METRICS,
        unit=row.unit,
        tags=json.loads(row.tags_json),
        layout="metric",
        count=0 if empty else row.last_rowid - row.first + 1,
        earliest_ns=None if empty else row.first_us * 1000,
        latest_ns=None if empty else row.last_time_us * 1000,
        created_us=row.created_us,
        owner_id=row.owner_id,
    )


def _series(row: Any) -> Series:
    return Series(
        uuid=row.uuid,
        name=row.name,
        collection=row.collection,
        unit=row.unit,
        tags=json.loads(row.tags_json),
        annotations=json.loads(row.annotations_json),
        layout=row.layout,
        count=row.points,
        earliest_ns=row.earliest_ns,
        latest_ns=row.latest_ns,
        created_us=row.created_us,
        owner_id=row.owner_id,
    )


class SqlSeries(Rows):
    """Series by UUID."""

    def put(self, new: Series) -> Series:
        values = {
            "uuid": new.uuid,
            "name": new.name,
            "collection": new.collection,
            "unit": new.unit,
            "tags_json": to_json(dict(new.tags)),
            "annotations_json": to_json(dict(new.annotations)),
            "layout": new.layout,
            "points": new.count,
            "earliest_ns": new.earliest_ns,
            "latest_ns": new.latest_ns,
            "created_us": new.created_us,
            "owner_id": new.owner_id,
        }
        self.work.conn.execute(_PUT, values)
        stored = self.get(new.uuid)
        if stored is None:
            raise NotFound(f"series {new.uuid} was deleted a moment ago", uuid=new.uuid)
        return stored

    def get(self, uuid: str) -> Series | None:
        """Return a series, or a metric as one."""
        row = self._first(_GET, {"uuid": uuid})
        if row is not None:
            return _series(row)
        row = self._first(_GET_METRIC, {"uid": uuid})
        return _metric_series(row) if row else None

    def find(
        self,
        *,
        name: str | None = None,
        collection: str | None = None,
        prefix: bool = False,
        tags: Mapping[str, str] | None = None,
        limit: int = 1000,
    ) -> list[Series]:
        query = select(series).order_by(series.c.collection, series.c.name, series.c.uuid)
        if name is not None:
            query = query.where(series.c.name == name)
        if collection is not None and prefix:
            query = query.where(func.substr(series.c.collection, 1, len(collection)) == collection)
        elif collection is not None:
            query = query.where(series.c.collection == collection)
        if not tags:
            listed = [_series(row) for row in self._all(query.limit(limit))]
            return listed + self._metrics(name, collection, tags, limit - len(listed), prefix=prefix)
        found: list[Series] = []
        for row in self.work.conn.execute(query):
            candidate = _series(row)
            if all(candidate.tags.get(key) == value for key, value in tags.items()):
                found.append(candidate)
            if len(found) >= limit:
                break
        return found + self._metrics(name, collection, tags, limit - len(found), prefix=prefix)

    def _metrics(
        self, name: str | None, collection: str | None, tags: Mapping[str, str] | None, limit: int, *, prefix: bool
    ) -> list[Series]:
        """Return metrics as series: all of them are in one collection."""
        if collection is not None and not (METRICS.startswith(collection) if prefix else collection == METRICS):
            return []
        query = _METRICS.order_by(metrics.c.name)
        if name is not None:
            query = query.where(metrics.c.name == name)
        if not tags:
            return [_metric_series(row) for row in self._all(query.limit(max(0, limit)))]
        found = (_metric_series(row) for row in self._all(query.where(metrics.c.tags_json != "{}")))
        wanted = tags.items()
        return [one for one in found if all(one.tags.get(key) == value for key, value in wanted)][: max(0, limit)]

    def collections(self, prefix: str = "") -> list[str]:
        found = {row.collection for row in self._all(select(series.c.collection).distinct())}
        if self._first(select(metrics.c.id).limit(1)) is not None:
            found.add(METRICS)
        return sorted(collection for collection in found if collection.startswith(prefix))

    def set_annotations(self, uuid: str, annotations: Mapping[str, str]) -> bool:
        return self._changed(_ANNOTATE, {"_uuid": uuid, "_text": to_json(dict(annotations))}) > 0

    def chunks(self, uuid: str, start_ns: int, end_ns: int, *, limit: int | None = None) -> list[Chunk]:
        params = {"uuid": uuid, "start_ns": start_ns, "end_ns": end_ns}
        if limit is None:
            rows = self._all(_OVERLAPPING, params)
        else:
            rows = self._all(_FIRST_OVERLAPPING, params | {"wanted": limit})
        return [
            Chunk(series=uuid, start_ns=row.start_ns, end_ns=row.end_ns, count=row.points, data=bytes(row.data))
            for row in rows
        ]

    def replace_chunks(self, uuid: str, old: Sequence[int], new: Sequence[Chunk]) -> None:
        conn = self.work.conn
        more = sum(chunk.count for chunk in new)
        if old:
            gone = {"uuid": uuid, "old": list(old)}
            more -= int(conn.execute(_POINTS, gone).scalar_one())
            conn.execute(_DELETE, gone)
        if new:
            rows = [
                {
                    "series": uuid,
                    "start_ns": chunk.start_ns,
                    "end_ns": chunk.end_ns,
                    "points": chunk.count,
                    "data": chunk.data,
                }
                for chunk in new
            ]
            conn.execute(_INSERT, rows)
        conn.execute(_SET_EXTENT, {"uuid": uuid, "more": more})

    def lock(self, uuid: str) -> None:
        self.work.conn.execute(_LOCK, {"uuid": uuid})
