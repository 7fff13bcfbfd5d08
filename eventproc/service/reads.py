"""What a handler may read: series and events, as they were committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eventproc.abc import Tx
from eventproc.engine import series as samples
from eventproc.errors import InvalidInput, NotFound
from eventproc.model import Event, Series
from eventproc.service import args as take
from eventproc.service.aggregates import rank
from eventproc.service.context import ServiceContext
from eventproc.service.events import hooks_meant
from eventproc.service.monitoring import find_metric

PAGE_SAMPLES = 1 << 20  # about, in one answer: 16 MiB; a handler's `db.values` asks for page after page
PAGE_WINDOWS = 1 << 18  # in one answer: 12 MiB; asked for likewise
MAX_EVENTS = 1000
MAX_METRIC_SAMPLES = 100_000
MAX_STREAMS = 10_000
WINDOW_FIELDS = ("time", "min", "mean", "max", "count", "stddev")

Answer = tuple[Any, Sequence[bytes]]
Read = Callable[[Mapping[str, Any]], Answer]


def stream_dict(series: Series) -> dict[str, Any]:
    """Write a series as handlers see it; `earliest` and `latest` are nanoseconds."""
    return {
        "uuid": series.uuid,
        "name": series.name,
        "collection": series.collection,
        "unit": series.unit,
        "tags": dict(series.tags),
        "annotations": dict(series.annotations),
        "count": series.count,
        "earliest": series.earliest_ns,
        "latest": series.latest_ns,
    }


def event_dict(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "id": event.id,
        "hook": event.hook,
        "source": event.source,
        "time_us": event.time_us,
        "tags": list(event.tags),
        "key": event.key,
        "payload": json.loads(event.payload_json),
    }


def existing(tx: Tx, uuid: str) -> Series:
    found = tx.series.get(uuid)
    if found is None:
        raise NotFound(f"there is no stream {uuid}", uuid=uuid)
    return found


class Reads:
    """The reading requests, each in a read transaction of its own."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def ops(self) -> dict[str, Read]:
        return {
            "values": self.values,
            "windows": self.windows,
            "aligned_windows": self.aligned_windows,
            "earliest": self.earliest,
            "latest": self.latest,
            "count": self.count,
            "streams": self.streams,
            "stream": self.stream,
            "collections": self.collections,
            "annotations": self.annotations,
            "events": self.events,
            "samples": self.samples,
            "anomalies": self.anomalies,
        }

    def values(self, args: Mapping[str, Any]) -> Answer:
        """Return a page of samples, and as `next` the time from which to ask for more, null behind the last one."""
        uuid, start, end = _range(args)
        with self._context.store.read() as tx:
            existing(tx, uuid)
            times, values, following = samples.page(tx, uuid, start, end, limit=PAGE_SAMPLES)
        return {"count": len(times), "next": following}, [_raw(times, "<i8"), _raw(values, "<f8")]

    def windows(self, args: Mapping[str, Any]) -> Answer:
        """Return a page of windows, and as `next` where the one behind it begins, null where there is none."""
        uuid, start, end = _range(args)
        width = take.integer(args, "width")
        border = min(end, start + PAGE_WINDOWS * max(width, 0))
        with self._context.store.read() as tx:
            existing(tx, uuid)
            table = samples.windows(tx, uuid, start, border, width)
        return _window_answer(table, border if border + width <= end else None)

    def aligned_windows(self, args: Mapping[str, Any]) -> Answer:
        """Return a page of windows, and as `next` the time from which to ask for more, null behind the last one."""
        uuid, start, end = _range(args)
        pointwidth = take.integer(args, "pointwidth")
        with self._context.store.read() as tx:
            existing(tx, uuid)
            table = samples.aligned_windows(tx, uuid, start, end, pointwidth, limit=PAGE_WINDOWS)
        full = len(table) == PAGE_WINDOWS
        return _window_answer(table, int(table["time"][-1]) + (1 << pointwidth) if full else None)

    def earliest(self, args: Mapping[str, Any]) -> Answer:
        return self._point(args, samples.earliest)

    def latest(self, args: Mapping[str, Any]) -> Answer:
        return self._point(args, samples.latest)

    def _point(self, args: Mapping[str, Any], find: Callable[[Tx, str], tuple[int, float] | None]) -> Answer:
        uuid = take.uuid_text(args.get("uuid"))
        with self._context.store.read() as tx:
            existing(tx, uuid)
            found = find(tx, uuid)
        return (None if found is None else {"time": int(found[0]), "value": float(found[1])}), ()

    def count(self, args: Mapping[str, Any]) -> Answer:
        uuid = take.uuid_text(args.get("uuid"))
        start, end = take.optional_integer(args, "start"), take.optional_integer(args, "end")
        with self._context.store.read() as tx:
            existing(tx, uuid)
            return {"count": samples.count(tx, uuid, start, end)}, ()

    def streams(self, args: Mapping[str, Any]) -> Answer:
        uuids = [take.uuid_text(item) for item in take.text_list(args, "uuids")[:MAX_STREAMS]]
        with self._context.store.read() as tx:
            if uuids:
                rows = (tx.series.get(uuid) for uuid in uuids)
                return [stream_dict(series) for series in rows if series is not None], ()
            found = tx.series.find(
                name=take.optional_text(args, "name"),
                collection=take.optional_text(args, "collection"),
                prefix=bool(args.get("prefix")),
                tags=take.texts(args, "tags") or None,
                limit=take.limit(args, default=1000, highest=MAX_STREAMS),
            )
        return [stream_dict(series) for series in found], ()

    def stream(self, args: Mapping[str, Any]) -> Answer:
        with self._context.store.read() as tx:
            return stream_dict(existing(tx, take.uuid_text(args.get("uuid")))), ()

    def collections(self, args: Mapping[str, Any]) -> Answer:
        with self._context.store.read() as tx:
            return tx.series.collections(take.optional_text(args, "prefix") or ""), ()

    def annotations(self, args: Mapping[str, Any]) -> Answer:
        with self._context.store.read() as tx:
            return dict(existing(tx, take.uuid_text(args.get("uuid"))).annotations), ()

    def events(self, args: Mapping[str, Any]) -> Answer:
        with self._context.store.read() as tx:
            found = tx.events.page(
                hook=hooks_meant(tx, take.optional_text(args, "hook")),
                tag=take.optional_text(args, "tag"),
                key=take.optional_text(args, "key"),
                since_us=take.optional_integer(args, "since_us"),
                until_us=take.optional_integer(args, "until_us"),
                limit=take.limit(args, default=100, highest=MAX_EVENTS),
            )
        return [event_dict(event) for event in found], ()

    def samples(self, args: Mapping[str, Any]) -> Answer:
        """Return (time_us, value, raw score, anomaly likelihood) of a metric's samples, scores null until scored."""
        start, end = take.optional_integer(args, "start_us"), take.optional_integer(args, "end_us")
        with self._context.store.read() as tx:
            metric = find_metric(tx, take.text(args, "metric"))
            limit = take.limit(args, default=10_000, highest=MAX_METRIC_SAMPLES)
            found = tx.samples.query(metric.id, start_us=start, end_us=end, limit=limit, newest_first=True)
        return [[one.time_us, one.value, one.raw_score, one.anomaly_score] for one in reversed(found)], ()

    def anomalies(self, args: Mapping[str, Any]) -> Answer:
        """Return the metrics that were most unusual in the last hours."""
        hours = args.get("hours", 24)
        if isinstance(hours, bool) or not isinstance(hours, int | float):
            raise InvalidInput(f"'hours' must be a number, not {hours!r:.100}", argument="hours")
        with self._context.store.read() as tx:
            found = rank(
                tx,
                hours=hours,
                end_us=take.optional_integer(args, "end_us"),
                by_resource=args.get("by") == "resource",
                limit=take.limit(args, default=20, highest=MAX_EVENTS),
            )
        rows = [
            {
                "uid": one.uid,
                "name": one.name,
                "resource": one.resource,
                "score": one.score,
                "anomaly": one.worst,
                "rows": one.rows,
                "last_us": one.last_us,
            }
            for one in found.metrics
        ]
        return rows, ()


def _range(args: Mapping[str, Any]) -> tuple[str, int, int]:
    uuid, start, end = take.uuid_text(args.get("uuid")), take.integer(args, "start"), take.integer(args, "end")
    if end < start:
        raise InvalidInput(f"'end' ({end}) lies before 'start' ({start})", argument="end")
    return uuid, start, end


def _window_answer(table: np.ndarray[Any, Any], following: int | None) -> Answer:
    formats = {"time": "<i8", "count": "<i8"}
    columns = [_raw(table[name], formats.get(name, "<f8")) for name in WINDOW_FIELDS]
    return {"count": len(table), "next": following}, columns


def _raw(array: np.ndarray[Any, Any], dtype: str) -> bytes:
    return np.ascontiguousarray(array, dtype=dtype).tobytes()
