"""Samples of metrics: rows numbered per metric, written in batches, read by number or time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sqlalchemy import BigInteger, bindparam, select, text, update

from eventproc.abc.metrics import BatchResult
from eventproc.model import Sample, SampleScores, SampleStatistics, SampleWindow, StoredRange
from eventproc.store.base import BulkUpdate, Rows, any_of
from eventproc.store.metrics import DELETED
from eventproc.store.schema import metric_samples, metric_states
from eventproc.store.scrub import OLDEST, Scrubbed, Tails, scrub

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_PLACE_KEY: Final = "*samples"  # among the hooks that retention remembers its place in; no hook has that name
LOOK_AT: Final = 2000  # metrics that one call of `prune` looks at

_TAILS = (
    select(metric_states.c.id, metric_states.c.last_rowid, metric_states.c.last_time_us, metric_states.c.status)
    .where(any_of(metric_states.c.id, "ids"), metric_states.c.status != DELETED)
    .order_by(metric_states.c.id)  # so that two batches never wait for each other in a circle
    .with_for_update()
)
_MOVE_TAILS = BulkUpdate(
    table=metric_states,
    params={"last_rowid": BigInteger(), "last_time_us": BigInteger(), "rejected": BigInteger()},
    values=lambda p: {
        "last_rowid": p("last_rowid"),
        "last_time_us": p("last_time_us"),
        "rejected": metric_states.c.rejected + p("rejected"),
    },
)

_SAMPLES = select(metric_samples)
_AFTER = (
    _SAMPLES.where(metric_samples.c.metric_id == bindparam("id"), metric_samples.c.rowid > bindparam("after"))
    .order_by(metric_samples.c.rowid)
    .limit(bindparam("wanted"))
)
# The first row behind a place is looked for, because retention may have taken the next ones.
_BEHIND_EACH = (
    "SELECT s.* FROM {places} p JOIN metric_samples s ON s.metric_id = {id} AND s.rowid > {rowid}"
    " AND s.rowid < :wanted + (SELECT min(f.rowid) FROM metric_samples f WHERE f.metric_id = {id}"
    " AND f.rowid > {rowid}) ORDER BY s.metric_id, s.rowid"
)
_AFTER_MANY = {
    "sqlite": text(
        _BEHIND_EACH.format(
            places="json_each(:places)", id="json_extract(p.value, '$[0]')", rowid="json_extract(p.value, '$[1]')"
        )
    ),
    "postgresql": text(
        _BEHIND_EACH.format(
            places="unnest(CAST(:ids AS bigint[]), CAST(:rowids AS bigint[]))",
            id="p.id",
            rowid="p.place",
        ).replace(") p JOIN", ") AS p(id, place) JOIN")
    ),
}
_MIDDLE = "(SELECT time_us FROM metric_samples WHERE metric_id = :id AND rowid = (lo + hi) / 2) < :time_us"
_PLACE = text(
    "WITH RECURSIVE bounds(lo, hi) AS ("  # noqa: S608 - constants
    # One by one: SQLite finds one end of an index at once, but walks through all of it for both.
    "SELECT COALESCE((SELECT min(rowid) FROM metric_samples WHERE metric_id = :id), 1),"
    " COALESCE((SELECT max(rowid) FROM metric_samples WHERE metric_id = :id), 0) + 1"
    f" UNION ALL SELECT CASE WHEN {_MIDDLE} THEN (lo + hi) / 2 + 1 ELSE lo END,"
    f" CASE WHEN {_MIDDLE} THEN hi ELSE (lo + hi) / 2 END FROM bounds WHERE lo < hi)"
    " SELECT lo FROM bounds WHERE lo >= hi"
).bindparams(bindparam("id", type_=BigInteger()), bindparam("time_us", type_=BigInteger()))
_COLUMNS = (
    select(metric_samples.c.time_us, metric_samples.c.value)
    .where(metric_samples.c.metric_id == bindparam("id"))
    .order_by(metric_samples.c.rowid)
)
_WINDOWS = text(
    "SELECT (time_us - :start_us) / :width_us AS number, count(*) AS found, min(value) AS low, avg(value) AS mean,"
    " max(value) AS high, max(anomaly_score) AS anomaly FROM metric_samples WHERE metric_id = :id"
    " AND rowid >= :first AND rowid < :behind GROUP BY 1 ORDER BY 1 LIMIT :wanted"
).bindparams(*(bindparam(name, type_=BigInteger()) for name in ("start_us", "width_us", "id", "first", "behind")))
_STATISTICS = text(
    "SELECT count(*) AS found, min(value) AS low, max(value) AS high FROM metric_samples WHERE metric_id = :id"
)
_SCORES: Final = ("raw_score", "anomaly_score", "display_value", "predictions_json")
_SET_SCORES = {
    "sqlite": (
        "UPDATE metric_samples SET raw_score = ?, anomaly_score = ?, display_value = ?, predictions_json = ?"
        " WHERE metric_id = ? AND rowid = ?"
    ),
    "postgresql": (
        "UPDATE metric_samples s SET raw_score = g.raw_score, anomaly_score = g.anomaly_score,"
        " display_value = g.display_value, predictions_json = g.predictions_json"
        " FROM unnest(%s::float8[], %s::float8[], %s::float8[], %s::text[], %s::bigint[], %s::bigint[])"
        " AS g(raw_score, anomaly_score, display_value, predictions_json, metric_id, place)"
        " WHERE s.metric_id = g.metric_id AND s.rowid = g.place"
    ),
}
_CLEAR_SCORES = (
    update(metric_samples)
    .where(metric_samples.c.metric_id == bindparam("id"), metric_samples.c.raw_score.is_not(None))
    .values(dict.fromkeys(_SCORES))
)
_FIRST_TIMES = text(
    "SELECT id, (SELECT s.time_us FROM metric_samples s WHERE s.metric_id = m.id ORDER BY s.rowid LIMIT 1) AS first_us"
    " FROM metric_states m WHERE id > :place ORDER BY id LIMIT :wanted"
)
_DELETE_BEFORE = text("DELETE FROM metric_samples WHERE metric_id = :id AND rowid < :behind")
_FIRST_ROW = text("SELECT min(rowid) FROM metric_samples WHERE metric_id = :id")
_RETIRED = text("SELECT id FROM metric_states WHERE status = -1 ORDER BY id LIMIT 1")
_FORGET = text("DELETE FROM metric_states WHERE id = :id")


def _sample(row: Any) -> Sample:
    return Sample(*row)


class SqlSamples(Rows):
    """Samples by metric and rowid."""

    # ------------------------------------------------------------------------------------------- writing

    def add_batch(self, metric_ids: ArrayLike, times_us: ArrayLike, values: ArrayLike) -> BatchResult:
        """Store samples of many metrics in a few statements; see the port."""
        ids, times, numbers = _arrays(metric_ids, times_us, values)
        tails, statuses = self._tails(ids)
        clean = scrub(ids, times, numbers, tails)
        if len(clean.order):
            columns = {
                "metric_id": clean.ids,
                "rowid": clean.rowids,
                "time_us": times[clean.order],
                "value": numbers[clean.order],
            }
            self.work.bulk.load(self.work.conn, metric_samples, columns)
        self._move_tails(clean, tails)
        stored = zip(
            tails.ids[clean.tails].tolist(),
            statuses[clean.tails].tolist(),
            clean.firsts.tolist(),
            clean.lasts.tolist(),
            strict=True,
        )
        return BatchResult(verdicts=clean.verdicts, stored=[StoredRange(*part) for part in stored])

    def _tails(self, ids: NDArray[np.int64]) -> tuple[Tails, NDArray[np.int64]]:
        rows = self._all(_TAILS, {"ids": np.unique(ids).tolist()})
        found = [
            (row.id, row.last_rowid, OLDEST if row.last_time_us is None else row.last_time_us, row.status)
            for row in rows
        ]
        table = np.array(found, dtype=np.int64).reshape(-1, 4)
        return Tails(ids=table[:, 0], rowids=table[:, 1], times_us=table[:, 2]), table[:, 3]

    def _move_tails(self, clean: Scrubbed, tails: Tails) -> None:
        rowids, times_us = tails.rowids.copy(), tails.times_us.copy()
        rowids[clean.tails] = clean.lasts
        times_us[clean.tails] = clean.newest_us
        changed = np.flatnonzero((rowids != tails.rowids) | (clean.rejected > 0))
        rows = [
            {"id": metric_id, "last_rowid": rowid, "last_time_us": time_us, "rejected": rejected}
            for metric_id, rowid, time_us, rejected in zip(
                tails.ids[changed].tolist(),
                rowids[changed].tolist(),
                times_us[changed].tolist(),
                clean.rejected[changed].tolist(),
                strict=True,
            )
        ]
        if rows:
            self.work.bulk.update(self.work.conn, _MOVE_TAILS, rows)

    def set_scores(self, rows: Sequence[SampleScores]) -> None:
        if not rows:
            return
        values = [
            (
                _float(row.raw_score),
                _float(row.anomaly_score),
                _float(row.display_value),
                row.predictions_json,
                row.metric_id,
                row.rowid,
            )
            for row in rows
        ]
        statement = _SET_SCORES[self.work.bulk.name]
        if self.work.bulk.name == "sqlite":
            self.work.conn.exec_driver_sql(statement, values)
        else:
            self.work.conn.exec_driver_sql(statement, tuple(list(column) for column in zip(*values, strict=True)))

    def clear_scores(self, metric_id: int) -> None:
        self.work.conn.execute(_CLEAR_SCORES, {"id": metric_id})

    # ------------------------------------------------------------------------------------------- reading

    def after(self, metric_id: int, rowid: int, *, limit: int = 1000) -> list[Sample]:
        return [_sample(row) for row in self._all(_AFTER, {"id": metric_id, "after": rowid, "wanted": limit})]

    def after_many(self, places: Sequence[tuple[int, int]], *, limit: int = 100) -> dict[int, list[Sample]]:
        """Return, for (metric id, rowid) pairs, at most `limit` samples each behind that rowid."""
        if not places:
            return {}
        params: dict[str, Any] = {"wanted": limit}
        if self.work.bulk.name == "sqlite":
            params["places"] = json.dumps([list(place) for place in places])
        else:
            params["ids"], params["rowids"] = [place[0] for place in places], [place[1] for place in places]
        found: dict[int, list[Sample]] = {}
        for row in self._all(_AFTER_MANY[self.work.bulk.name], params):
            found.setdefault(row[0], []).append(_sample(row))
        return found

    def query(
        self,
        metric_id: int,
        *,
        start_us: int | None = None,
        end_us: int | None = None,
        after_rowid: int | None = None,
        limit: int | None = None,
        min_score: float | None = None,
        scored: bool = False,
        newest_first: bool = False,
    ) -> list[Sample]:
        """Return samples with start_us <= time < end_us, behind `after_rowid` in the chosen direction."""
        rowid = metric_samples.c.rowid
        query = _SAMPLES.where(metric_samples.c.metric_id == metric_id, *self._between(metric_id, start_us, end_us))
        if after_rowid is not None:
            query = query.where(rowid < after_rowid if newest_first else rowid > after_rowid)
        if min_score is not None:
            query = query.where(metric_samples.c.anomaly_score >= min_score)
        if scored:
            query = query.where(metric_samples.c.anomaly_score.is_not(None))
        query = query.order_by(rowid.desc() if newest_first else rowid)
        if limit is not None:
            query = query.limit(limit)
        return [_sample(row) for row in self._all(query)]

    def _between(self, metric_id: int, start_us: int | None, end_us: int | None) -> list[Any]:
        found: list[Any] = []
        if start_us is not None:
            found.append(metric_samples.c.rowid >= self.place(metric_id, start_us))
        if end_us is not None:
            found.append(metric_samples.c.rowid < self.place(metric_id, end_us))
        return found

    def place(self, metric_id: int, time_us: int) -> int:
        return int(self._scalar(_PLACE, {"id": metric_id, "time_us": time_us}))

    def columns(
        self, metric_id: int, start_us: int | None = None, end_us: int | None = None, *, limit: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        query = _COLUMNS.where(*self._between(metric_id, start_us, end_us)).limit(limit)
        rows = self._all(query, {"id": metric_id})
        times, values = zip(*rows, strict=True) if rows else ((), ())
        return np.array(times, dtype=np.int64), np.array(values, dtype=np.float64)

    def windows(
        self, metric_id: int, start_us: int, end_us: int, width_us: int, *, limit: int = 10_000
    ) -> list[SampleWindow]:
        params = {
            "id": metric_id,
            "start_us": start_us,
            "width_us": width_us,
            "first": self.place(metric_id, start_us),
            "behind": self.place(metric_id, end_us),
            "wanted": limit,
        }
        return [
            SampleWindow(
                start_us=start_us + row.number * width_us,
                count=row.found,
                min=row.low,
                mean=float(row.mean),
                max=row.high,
                anomaly=row.anomaly,
            )
            for row in self._all(_WINDOWS, params)
        ]

    def statistics(self, metric_id: int) -> SampleStatistics | None:
        row = self._first(_STATISTICS, {"id": metric_id})
        return SampleStatistics(min=row.low, max=row.high, count=row.found) if row.found else None

    # ------------------------------------------------------------------------------------------- deleting

    def prune(self, before_us: int, *, limit: int) -> int:
        """Delete at most `limit` samples from before that time; a call looks at some of the metrics only."""
        places = self.work.caches.pruned
        gone = 0
        while gone < limit:
            place = places.get(_PLACE_KEY, 0)
            rows = self._all(_FIRST_TIMES, {"place": place, "wanted": LOOK_AT})
            for row in rows:
                if row.first_us is not None and row.first_us < before_us:
                    gone += self._prune_one(row.id, before_us, limit - gone)
                    if gone >= limit:
                        return gone  # perhaps not done with this one: the next call looks at it again
                places[_PLACE_KEY] = row.id
            if len(rows) < LOOK_AT:
                places[_PLACE_KEY] = 0
                break
        return gone

    def _prune_one(self, metric_id: int, before_us: int, limit: int) -> int:
        first = int(self._scalar(_FIRST_ROW, {"id": metric_id}))
        behind = min(self.place(metric_id, before_us), first + limit)
        return self._changed(_DELETE_BEFORE, {"id": metric_id, "behind": behind})

    def purge_deleted(self, *, limit: int) -> int:
        gone = 0
        while gone < limit:
            metric_id = self._scalar(_RETIRED)
            if metric_id is None:
                break
            first = self._scalar(_FIRST_ROW, {"id": metric_id})
            if first is None:
                self.work.conn.execute(_FORGET, {"id": metric_id})
                continue
            gone += self._changed(_DELETE_BEFORE, {"id": metric_id, "behind": first + limit - gone})
        return gone


def _arrays(
    metric_ids: ArrayLike, times_us: ArrayLike, values: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    ids = np.asarray(metric_ids, dtype=np.int64)
    times = np.asarray(times_us, dtype=np.int64)
    numbers = np.asarray(values, dtype=np.float64)
    if not len(ids) == len(times) == len(numbers):
        raise ValueError(f"{len(ids)} metric ids, {len(times)} times and {len(numbers)} values are given")
    return ids, times, numbers


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)
