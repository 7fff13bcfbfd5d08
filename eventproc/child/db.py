"""`db`: the handler's connection to the platform, with the rights of the user who registered it."""

from __future__ import annotations

import uuid as uuids
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from . import arrays
from .channel import InvalidError
from .runs import Execution
from .times import from_us, to_ns, to_us

MAX_INSERT = 1 << 18  # samples in one request
MAX_SAMPLES = 8_000_000  # of one call of `values`: 128 MB
MAX_WINDOWS = 2_000_000  # of one call of `windows` or `aligned_windows`: 96 MB
MIN_TIME = -(1 << 63)
MAX_TIME = (1 << 63) - 1

_TOO_MANY_SAMPLES = (
    f"over {MAX_SAMPLES:,} samples lie in that range, the limit of one db.values: ask for shorter ranges one after "
    "another, or for db.windows"
)
_TOO_MANY_WINDOWS = (
    f"over {MAX_WINDOWS:,} windows lie in that range, the limit of one call: ask for wider windows, or for shorter "
    "ranges one after another"
)

NEAR_NS = 1_000_000_000  # first look so far from a time
FEW = 4096  # samples that may be fetched to find one

SeriesRef = Union[str, uuids.UUID, "Stream"]


class RawPoint(NamedTuple):
    """One sample."""

    time: int
    value: float


class StatPoint(NamedTuple):
    """Statistics of the samples in one window."""

    time: int
    min: float
    mean: float
    max: float
    count: int  # type: ignore[assignment]  # btrdb's name hides tuple.count
    stddev: float


class MetricSample(NamedTuple):
    """One sample of a metric; scores are None until it is scored."""

    time: Any  # aware UTC datetime
    value: float
    raw_score: Optional[float]
    anomaly: Optional[float]


def _uuid(series: SeriesRef) -> str:
    if isinstance(series, Stream):
        return str(series.uuid)
    if isinstance(series, uuids.UUID):
        return str(series)
    try:
        return str(uuids.UUID(series))
    except (ValueError, AttributeError, TypeError):
        raise InvalidError(f"{series!r} is no series: give a UUID or an object from db.streams", "invalid") from None


def _bound(value: Any, default: int) -> int:
    return default if value is None else to_ns(value)


class Wire:
    """How `db` and its streams ask the platform."""

    def __init__(self, run: Execution) -> None:
        self._run = run

    def ask(self, op: str, args: Dict[str, Any], bodies: Sequence[bytes] = ()) -> Tuple[Any, List[bytes]]:
        return self._run.ask(op, args, bodies)

    def pages(self, op: str, args: Dict[str, Any], most: int, too_many: str) -> Iterator[List[bytes]]:
        """Ask for page after page, each from where the one before it ended; InvalidError for over `most` rows."""
        count = 0
        while args.get("start") is not None:
            answer, parts = self.ask(op, args)
            count += answer["count"]
            if count > most:
                raise InvalidError(too_many, "too_large", {"limit": most})
            yield parts
            args = dict(args, start=answer.get("next"))

    def rows(self, args: Dict[str, Any]) -> List[Dict[str, Any]]:
        rows, _ = self.ask("streams", args)
        return list(rows)

    def row(self, uuid: str) -> Dict[str, Any]:
        row, _ = self.ask("stream", {"uuid": uuid})
        return dict(row)


class Stream:
    """A series, with btrdb's names; times are int nanoseconds since 1970 UTC."""

    def __init__(self, db: "Db", wire: Wire, row: Dict[str, Any]) -> None:
        self._db = db
        self._wire = wire
        self._row = row

    @property
    def uuid(self) -> uuids.UUID:
        return uuids.UUID(self._row["uuid"])

    @property
    def name(self) -> str:
        return str(self._row["name"])

    @property
    def collection(self) -> str:
        return str(self._row["collection"])

    @property
    def unit(self) -> str:
        return str(self._row["unit"])

    @property
    def btrdb(self) -> "Db":
        return self._db

    def tags(self, refresh: bool = False) -> Dict[str, str]:  # noqa: FBT001, FBT002  btrdb's signature
        """Return the tags; as in btrdb, name and unit are among them."""
        self._refresh(refresh)
        return {**self._row["tags"], "name": self.name, "unit": self.unit}

    def annotations(self, refresh: bool = False) -> Tuple[Dict[str, str], int]:  # noqa: FBT001, FBT002  btrdb's signature
        """Return the annotations and the version (always 0 here)."""
        self._refresh(refresh)
        return dict(self._row["annotations"]), 0

    def _refresh(self, wanted: bool) -> None:  # noqa: FBT001  private
        if wanted:
            self._row = self._wire.row(self._row["uuid"])

    def exists(self) -> bool:
        return bool(self._wire.rows({"uuids": [self._row["uuid"]]}))

    def version(self) -> int:
        return 0

    def values(self, start: Any, end: Any, version: int = 0) -> Tuple[Tuple[RawPoint, int], ...]:
        """Return (RawPoint, version) pairs of the samples in [start, end); `db.values` is faster for many."""
        times, values = self._db.values(self, start, end)
        return tuple((RawPoint(*pair), version) for pair in zip(times.tolist(), values.tolist()))

    def windows(
        self, start: Any, end: Any, width: int, depth: int = 0, version: int = 0
    ) -> Tuple[Tuple[StatPoint, int], ...]:
        """Return (StatPoint, version) pairs of windows of `width` nanoseconds."""
        del depth  # btrdb's precision hint; windows are exact here
        return _points(self._db.windows(self, start, end, width), version)

    def aligned_windows(
        self, start: Any, end: Any, pointwidth: int, version: int = 0
    ) -> Tuple[Tuple[StatPoint, int], ...]:
        """Return (StatPoint, version) pairs of windows of 2**pointwidth nanoseconds, aligned to that."""
        return _points(self._db.aligned_windows(self, start, end, pointwidth), version)

    def earliest(self, version: int = 0) -> Optional[Tuple[RawPoint, int]]:
        return self._edge("earliest", version)

    def latest(self, version: int = 0) -> Optional[Tuple[RawPoint, int]]:
        return self._edge("latest", version)

    def _edge(self, op: str, version: int) -> Optional[Tuple[RawPoint, int]]:
        point, _ = self._wire.ask(op, {"uuid": self._row["uuid"]})
        return None if point is None else (RawPoint(point["time"], point["value"]), version)

    def nearest(
        self,
        time: Any,
        version: int = 0,
        backward: bool = False,  # noqa: FBT001, FBT002  btrdb's signature
    ) -> Optional[Tuple[RawPoint, int]]:
        """Return the first sample at `time` or after it, or with `backward` the last one before it, or None."""
        at = to_ns(time)
        edge = self._edge("earliest" if backward else "latest", version)
        if edge is None or (edge[0].time >= at if backward else edge[0].time < at):
            return None
        width = NEAR_NS
        start, end = _reach(at, width, backward)
        while not self.count(start, end):
            width *= 16
            start, end = _reach(at, width, backward)
        while end - start > 1 and self.count(start, end) > FEW:
            middle = (start + end) // 2
            near, far = ((middle, end), (start, middle)) if backward else ((start, middle), (middle, end))
            start, end = near if self.count(*near) else far
        times, values = self._db.values(self, start, end)
        index = -1 if backward else 0
        return RawPoint(int(times[index]), float(values[index])), version

    def count(
        self,
        start: Any = None,
        end: Any = None,
        precise: bool = True,  # noqa: FBT001, FBT002  btrdb's signature
        version: int = 0,
    ) -> int:
        """Return the number of samples in [start, end)."""
        del precise, version
        args: Dict[str, Any] = {"uuid": self._row["uuid"]}
        if start is not None or end is not None:
            args.update(start=_bound(start, MIN_TIME), end=_bound(end, MAX_TIME))
        answer, _ = self._wire.ask("count", args)
        return int(answer["count"])

    def insert(self, data: Any, values: Any = None, merge: str = "never") -> int:
        """Insert (time, value) pairs, or columns of times and values; written when the run commits."""
        del merge
        if values is None:
            pairs = list(data)
            times: Any = [pair[0] for pair in pairs]
            values = [pair[1] for pair in pairs]
        else:
            times = data
        self._db.insert(self, times, values)
        return 0

    def update(
        self,
        tags: Optional[Dict[str, str]] = None,
        annotations: Optional[Dict[str, str]] = None,
        collection: Optional[str] = None,
        encoder: Any = None,
        replace: bool = False,  # noqa: FBT001, FBT002  btrdb's signature
    ) -> int:
        """Add to the annotations, or with `replace` set them anew; written when the run commits."""
        del encoder
        if tags is not None or collection is not None or annotations is None:
            raise InvalidError("of a series only the annotations can be changed: update(annotations={...})", "invalid")
        if not replace:
            annotations = {**self._row["annotations"], **annotations}
        self._wire.ask("set_annotations", {"uuid": self._row["uuid"], "annotations": dict(annotations)})
        self._row = dict(self._row, annotations=dict(annotations))
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other._row["uuid"] == self._row["uuid"]

    def __hash__(self) -> int:
        return hash(self._row["uuid"])

    def __repr__(self) -> str:
        return f"<Stream collection={self.collection} name={self.name} uuid={self.uuid}>"


def _reach(at: int, width: int, backward: bool) -> Tuple[int, int]:  # noqa: FBT001  private
    return (max(at - width, MIN_TIME), at) if backward else (at, min(at + width, MAX_TIME))


def _points(table: Any, version: int) -> Tuple[Tuple[StatPoint, int], ...]:
    rows = table.tolist() if hasattr(table, "tolist") else zip(*table)
    return tuple((StatPoint(*row), version) for row in rows)


class Db:
    """The platform as a handler sees it. All that it writes is kept until the run commits."""

    def __init__(self, run: Execution) -> None:
        self._wire = Wire(run)

    # ------------------------------------------------------------------ samples

    def values(self, series: SeriesRef, start: Any = None, end: Any = None) -> Tuple[Any, Any]:
        """
        Return the samples in [start, end) as (int64 nanoseconds, float64) arrays, at most `MAX_SAMPLES`.

        They are fetched page by page; what is committed meanwhile may be among them.
        """
        args = {"uuid": _uuid(series), "start": _bound(start, MIN_TIME), "end": _bound(end, MAX_TIME)}
        times: List[Any] = []
        values: List[Any] = []
        for parts in self._wire.pages("values", args, MAX_SAMPLES, _TOO_MANY_SAMPLES):
            times.append(arrays.column(parts[0], "q"))
            values.append(arrays.column(parts[1], "d"))
        return arrays.joined(times), arrays.joined(values)

    def windows(self, series: SeriesRef, start: Any, end: Any, width: int) -> Any:
        """
        Return time, min, mean, max, count, stddev of windows of `width` nanoseconds, at most `MAX_WINDOWS`.

        They are fetched page by page as a structured array; what is committed meanwhile may be in those not yet
        fetched. Each window is of one moment.
        """
        first, end, width = to_ns(start), to_ns(end), int(width)
        if width > 0 and (end - first) // width > MAX_WINDOWS:  # no need to fetch any
            raise InvalidError(_TOO_MANY_WINDOWS, "too_large", {"limit": MAX_WINDOWS})
        return self._windows("windows", {"uuid": _uuid(series), "start": first, "end": end, "width": width})

    def aligned_windows(self, series: SeriesRef, start: Any, end: Any, pointwidth: int) -> Any:
        """Return the same for windows of 2**pointwidth nanoseconds, aligned to that, without those that are empty."""
        args = {"uuid": _uuid(series), "start": to_ns(start), "end": to_ns(end), "pointwidth": int(pointwidth)}
        return self._windows("aligned_windows", args)

    def _windows(self, op: str, args: Dict[str, Any]) -> Any:
        pages = self._wire.pages(op, args, MAX_WINDOWS, _TOO_MANY_WINDOWS)
        return arrays.joined([arrays.windows(parts) for parts in pages])

    def insert(self, series: SeriesRef, times: Any, values: Any) -> None:
        """Insert samples; checked now, written when the run commits, not readable by this run."""
        uuid = _uuid(series)
        stamps = [to_ns(time) for time in times] if not _is_integers(times) else times
        if len(stamps) != len(values):
            raise InvalidError(f"{len(stamps)} times but {len(values)} values", "invalid")
        for at in range(0, max(len(stamps), 1), MAX_INSERT):
            piece = arrays.encode(stamps[at : at + MAX_INSERT], values[at : at + MAX_INSERT])
            self._wire.ask("insert", {"uuid": uuid}, [piece])

    # ------------------------------------------------------------------ streams

    def stream_from_uuid(self, uuid: SeriesRef) -> Stream:
        """Return the series of that UUID; raises LookupError when there is none."""
        return Stream(self, self._wire, self._wire.row(_uuid(uuid)))

    def streams(
        self,
        *identifiers: Union[str, uuids.UUID],
        name: Optional[str] = None,
        collection: Optional[str] = None,
        is_collection_prefix: bool = False,
        tags: Optional[Dict[str, str]] = None,
        limit: Optional[int] = None,
    ) -> List[Stream]:
        """Return the series named by UUID or "collection/name"; without identifiers, those that match."""
        if identifiers:
            return [self._identified(identifier) for identifier in identifiers]
        args = {"name": name, "collection": collection, "prefix": is_collection_prefix, "tags": tags, "limit": limit}
        return [
            Stream(self, self._wire, row)
            for row in self._wire.rows({key: value for key, value in args.items() if value})
        ]

    def _identified(self, identifier: Union[str, uuids.UUID]) -> Stream:
        if isinstance(identifier, str) and "/" in identifier:
            collection, _, name = identifier.rpartition("/")
            rows = self._wire.rows({"name": name, "collection": collection})
            if len(rows) != 1:
                raise InvalidError(f"{len(rows)} series are named {identifier!r}", "not_found")
            return Stream(self, self._wire, rows[0])
        return self.stream_from_uuid(identifier)

    def streams_in_collection(
        self,
        *collection: str,
        is_collection_prefix: bool = True,
        tags: Optional[Dict[str, str]] = None,
        annotations: Optional[Dict[str, str]] = None,
    ) -> List[Stream]:
        """Return the series whose collection is, or begins with, one of those given."""
        wanted = annotations or {}
        found = {
            stream: None
            for each in (collection or ("",))
            for stream in self.streams(
                collection=each, is_collection_prefix=is_collection_prefix or not each, tags=tags
            )
        }
        return [stream for stream in found if wanted.items() <= stream.annotations()[0].items()]

    def collections(self, prefix: str = "") -> List[str]:
        names, _ = self._wire.ask("collections", {"prefix": prefix})
        return list(names)

    def list_collections(self, starts_with: str = "") -> List[str]:
        return self.collections(starts_with)

    def create(
        self,
        uuid: Union[str, uuids.UUID, None] = None,
        collection: str = "",
        tags: Optional[Dict[str, str]] = None,
        annotations: Optional[Dict[str, str]] = None,
        *,
        name: Optional[str] = None,
        unit: Optional[str] = None,
    ) -> Stream:
        """Create a series, as btrdb does (name and unit may stand among the tags); written when the run commits."""
        labels = dict(tags or {})
        args = {
            "uuid": None if uuid is None else _uuid(uuid),
            "name": labels.pop("name", None) if name is None else name,
            "unit": labels.pop("unit", None) if unit is None else unit,
            "collection": collection,
            "tags": labels,
        }
        row, _ = self._wire.ask("create_stream", {key: value for key, value in args.items() if value})
        stream = Stream(self, self._wire, row)
        if annotations:
            stream.update(annotations=annotations, replace=True)
        return stream

    # ------------------------------------------------------------------ events

    def events(
        self,
        hook: Optional[str] = None,
        *,
        since: Any = None,
        until: Any = None,
        tag: Optional[str] = None,
        key: Optional[str] = None,
        limit: Optional[int] = None,
    ) -> List[Dict[str, Any]]:
        """Return past events as dicts, their `time` an aware UTC datetime where the platform gives microseconds."""
        args = {
            "hook": hook,
            "since_us": None if since is None else to_us(since),
            "until_us": None if until is None else to_us(until),
            "tag": tag,
            "key": key,
            "limit": limit,
        }
        rows, _ = self._wire.ask("events", {name: value for name, value in args.items() if value is not None})
        return [_with_time(row) for row in rows]

    # ------------------------------------------------------------------ metrics

    def samples(
        self, metric: str, *, since: Any = None, until: Any = None, limit: Optional[int] = None
    ) -> List[MetricSample]:
        """Return the latest samples of a metric (name or uid), oldest first, with their scores where they have any."""
        args = {
            "metric": str(metric),
            "start_us": None if since is None else to_us(since),
            "end_us": None if until is None else to_us(until),
            "limit": limit,
        }
        rows, _ = self._wire.ask("samples", {name: value for name, value in args.items() if value is not None})
        return [MetricSample(from_us(row[0]), row[1], row[2], row[3]) for row in rows]

    def anomalies(
        self, hours: float = 24, *, by: str = "metric", until: Any = None, limit: Optional[int] = None
    ) -> List[Dict[str, Any]]:
        """Return the metrics (or the most unusual of each resource) that were most unusual in the last hours."""
        args = {"hours": hours, "by": by, "end_us": None if until is None else to_us(until), "limit": limit}
        rows, _ = self._wire.ask("anomalies", {name: value for name, value in args.items() if value is not None})
        return [{**row, "last": from_us(row["last_us"])} for row in rows]

    def info(self) -> Dict[str, Any]:
        return {"name": "eventproc"}


def _with_time(row: Dict[str, Any]) -> Dict[str, Any]:
    if isinstance(row.get("time_us"), int):
        return {**row, "time": from_us(row["time_us"])}
    return row


def _is_integers(times: Any) -> bool:
    dtype = getattr(times, "dtype", None)
    return dtype is not None and dtype.kind in "iu"
