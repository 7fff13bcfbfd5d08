"""
Queries by htmengine's names. `engineFactory().connect()` is a session on the platform, over HTTP.

Rows have htmengine's columns as attributes; times are naive UTC datetimes. `fields` and `sort` take `schema`'s columns.
"""

# ruff: noqa: N802, N803 - htmengine's own names
from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from eventproc.client import Connection
from eventproc.compat.htmengine.exceptions import ObjectNotFoundError, translated
from eventproc.compat.htmengine.repository import schema
from eventproc.compat.htmengine.session import connection

PAGE = 1000


class MetricStatus(IntEnum):
    """A metric's status."""

    UNMONITORED = 0
    ACTIVE = 1
    CREATE_PENDING = 2
    ERROR = 4
    PENDING_DATA = 8


class Engine:
    """Stands where SQLAlchemy's engine stood."""

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a session."""
        yield connection()

    begin = connect


def engineFactory(config: Any = None) -> Engine:
    """Return the engine; the configuration's [repository] is not looked at, the platform has its own database."""
    del config
    return Engine()


def getMetric(conn: Connection, metricId: str, fields: Sequence[schema.Column] | None = None) -> SimpleNamespace:
    """Return a metric by its uid (or name). Raises ObjectNotFoundError."""
    with translated():
        return _metric(conn.model(metricId), fields)


def getCustomMetricByName(
    conn: Connection, name: str, fields: Sequence[schema.Column] | None = None
) -> SimpleNamespace:
    """Return a metric by its name. Raises ObjectNotFoundError."""
    return getMetric(conn, name, fields)


def getCustomMetrics(conn: Connection, fields: Sequence[schema.Column] | None = None) -> list[SimpleNamespace]:
    """Return all monitored metrics."""
    return [_metric(row, fields) for row in conn.models()]


getAllModels = getCustomMetrics  # noqa: N816 - htmengine's name


def getMetricWithSharedLock(conn: Connection, metricId: str) -> SimpleNamespace:
    """Return a metric; nothing is locked, for each step of the platform is a transaction of its own."""
    return getMetric(conn, metricId)


def getMetricStats(conn: Connection, metricId: str) -> dict[str, float]:
    """Return the smallest and largest value stored, as `min` and `max`."""
    values = [row.metric_value for row in getMetricData(conn, metricId)]
    if not values:
        raise ObjectNotFoundError(f"the metric {metricId!r} has no data")
    return {"min": min(values), "max": max(values)}


def getMetricData(  # noqa: PLR0917 - htmengine's arguments
    conn: Connection,
    metricId: str,
    fields: Sequence[schema.Column] | None = None,
    rowid: int | None = None,
    fromTimestamp: dt.datetime | None = None,
    toTimestamp: dt.datetime | None = None,
    start: int | None = None,
    stop: int | None = None,
    limit: int | None = None,
    score: float | None = None,
    sort: schema.Order | schema.Column | None = None,
) -> list[SimpleNamespace]:
    """
    Return rows of a metric, in the order of `rowid` unless `sort` says otherwise.

    `rowid`, the times, and `start`/`stop` (rowids) exclude one another; `score` above 0: rows with at least that
    anomaly score, 0: rows that have one. Times are naive UTC; both ends belong to the range.
    """
    given = [rowid is not None, bool(fromTimestamp or toTimestamp), start is not None or stop is not None]
    if sum(given) > 1:
        raise ValueError("rowid, timestamps and start/stop exclude one another")
    params = {
        "start": _utc(fromTimestamp),
        "end": _utc(None if toTimestamp is None else toTimestamp + dt.timedelta(microseconds=1)),
        "min_score": score or None,
        "scored": "true" if score == 0 else None,
    }
    with translated():
        rows = [_row(metricId, one) for one in _samples(conn, metricId, params)]
    if rowid is not None:
        rows = [row for row in rows if row.rowid == rowid]
    rows = [row for row in rows if (start is None or row.rowid >= start) and (stop is None or row.rowid <= stop)]
    if sort is not None:
        order = sort.asc() if isinstance(sort, schema.Column) else sort
        rows.sort(key=lambda row: _key(getattr(row, order.column)), reverse=order.descending)
    rows = rows if limit is None else rows[:limit]
    return [_picked(row, fields) for row in rows]


def getUnprocessedModelDataCount(conn: Connection) -> int:
    """Return the number of rows that active models have still to score."""
    return int(conn.models_status()["waiting"])


def getProcessedMetricDataCount(conn: Connection, metricId: str) -> int:
    """Return the number of rows that have been scored."""
    return len(getMetricData(conn, metricId, score=0))


def getMetricIdsSortedByDisplayValue(conn: Connection, period: float) -> dict[str, float]:
    """Return the uids of the most unusual metrics of the last hours with their ranks' values, highest first."""
    answer = conn.request("GET", "/anomalies", params={"hours": period, "limit": PAGE})
    return {one["uid"]: one["score"] for one in answer["items"]}


def addMetric(conn: Connection, name: str, server: str | None = None) -> str:
    """Create a metric; return its uid."""
    with translated():
        return str(conn.create_metric(name, resource=server)["uid"])


def deleteModel(conn: Connection, metricId: str) -> None:
    """Take a metric's model and scores away. Raises ObjectNotFoundError."""
    with translated():
        conn.unmonitor(metricId)


def deleteMetric(conn: Connection, metricId: str) -> None:
    """Delete a metric with its data. Raises ObjectNotFoundError."""
    with translated():
        conn.delete_metric(metricId)


def _samples(conn: Connection, which: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    wanted = {name: value for name, value in params.items() if value is not None}
    after: str | None = None
    while True:
        page = conn.request(
            "GET",
            f"/metrics/{quote(which, safe='/')}/samples",
            params={**wanted, "limit": PAGE, **({"after": after} if after else {})},
        )
        yield from page["items"]
        after = page["next"]
        if after is None:
            return


def _row(uid: str, one: Mapping[str, Any]) -> SimpleNamespace:
    predictions = one["predictions"]
    return SimpleNamespace(
        uid=uid,
        rowid=one["rowid"],
        timestamp=_naive(one["time"]),
        metric_value=one["value"],
        raw_anomaly_score=one["raw_score"],
        anomaly_score=one["anomaly"],
        display_value=one["display_value"],
        multi_step_best_predictions=None if predictions is None else json.dumps(predictions),
    )


def _metric(one: Mapping[str, Any], fields: Sequence[schema.Column] | None) -> SimpleNamespace:
    def text(value: Any) -> str | None:
        return None if value is None else json.dumps(value)

    row = SimpleNamespace(
        uid=one["uid"],
        datasource=one["datasource"],
        name=one["name"],
        description=one["description"],
        server=one["resource"],
        location=one["location"],
        parameters=text(one["parameters"]),
        status=one["status_code"],
        message=one["message"],
        collector_error=None,
        last_timestamp=None if one["last_timestamp"] is None else _naive(one["last_timestamp"]),
        poll_interval=300,
        tag_name=None,
        model_params=text(one["model_params"]),
        last_rowid=one["last_rowid"],
    )
    return _picked(row, fields)


def _picked(row: SimpleNamespace, fields: Sequence[schema.Column] | None) -> SimpleNamespace:
    if fields is None:
        return row
    return SimpleNamespace(**{column.name: getattr(row, column.name) for column in fields})


def _key(value: Any) -> tuple[bool, Any]:
    return value is not None, value  # nulls first, as MySQL has them


def _naive(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC).replace(tzinfo=None)


def _utc(when: dt.datetime | None) -> str | None:
    if when is None:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).isoformat()
