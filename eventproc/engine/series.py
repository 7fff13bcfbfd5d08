"""
Series of samples: insert, read, and statistics over windows of time; stored as chunks, or as the rows of a metric.

Times are int64 nanoseconds since 1970 UTC, values float64. Ranges include their start and not their end. The windows
follow btrdb's documented rules:

* `windows` begin at `start`, follow each other without gaps and are all `width` long; what is left over before `end`
  is dropped. Windows without samples are in the result: count 0, the statistics NaN.
* `aligned_windows` are 2**pointwidth long and begin at multiples of that: `start` and `end` are rounded down to such
  multiples, so the first window may begin before `start`. Windows without samples are left out.

NaN is a sample whose value is missing: `values`, `count`, `earliest`, `latest` and `nearest` see it, statistics do not
(their `count` counts the numbers they describe). The standard deviation is that of the population (ddof 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eventproc.abc import Tx
from eventproc.codec import chunks
from eventproc.errors import Conflict, DamagedData, InvalidInput, NotFound
from eventproc.model import Chunk, Series

Times: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]
Windows: TypeAlias = NDArray[np.void]  # of WINDOW_DTYPE
Point: TypeAlias = tuple[int, float]

WINDOW_DTYPE: Final = np.dtype(
    [("time", "<i8"), ("min", "<f8"), ("mean", "<f8"), ("max", "<f8"), ("count", "<i8"), ("stddev", "<f8")]
)
MIN_TIME_NS: Final = -(1 << 63)
MAX_TIME_NS: Final = (1 << 63) - 2  # the largest int64 is left for an end that lies behind every sample
MAX_WINDOWS: Final = 5_000_000  # of one answer; each is 48 bytes, also where there are no samples
MAX_POINTWIDTH: Final = 62

_TARGET: Final = chunks.TARGET_SAMPLES
_SLACK: Final = _TARGET // 4  # a rest smaller than this goes into the chunk before it
_BATCH: Final = 8 * _TARGET  # samples, about, that are fetched and decoded before their statistics are taken
_ROWS: Final = 1 << 16  # of a metric that are fetched at a time: as Python's objects they are 15 times as large


# --------------------------------------------------------------------------------------------------- writing


def insert(tx: Tx, uuid: str, times_ns: ArrayLike, values: ArrayLike, *, scale: chunks.Scale | None = None) -> int:
    """
    Store samples, in any order, and return how many different times they have.

    A sample at a time that is there already replaces it; of two at the same time in one call the last one counts.
    Only chunks that hold one of these times are rewritten (or the first or last chunk, when that has room).
    `scale` says how the values came about, if that is known: they are then stored in a fraction of the space.
    """
    times, numbers = _checked(times_ns, values)
    series = _series(tx, uuid)
    if len(times) == 0:
        return 0
    if series.layout == "metric":
        raise Conflict(f"series {uuid} is a metric ({series.name}): its samples come through the metrics' ports")
    tx.series.lock(uuid)
    series = tx.series.get(uuid) or series  # as it is now that nobody else can write
    touched = _touched(tx, series, int(times[0]), int(times[-1]))
    old: list[int] = []
    new: list[Chunk] = []
    for chunk, part in _assign(touched, times):
        if chunk is None:
            new += _chunks(uuid, times[part], numbers[part], scale)
        else:
            old.append(chunk.start_ns)
            new += _chunks(uuid, *_merge(chunk, times[part], numbers[part]), scale or chunks.scale_of(chunk.data))
    tx.series.replace_chunks(uuid, old, new)
    return len(times)


def _checked(times_ns: ArrayLike, values: ArrayLike) -> tuple[Times, Values]:
    """Return the arrays sorted by time, each time once, the last of equal ones kept."""
    times = np.asarray(times_ns)
    if times.dtype.kind not in "iu" and times.size:
        raise InvalidInput(f"times must be integers (nanoseconds since 1970 UTC), not {times.dtype}")
    if times.dtype.kind == "u" and times.size and int(times.max()) > MAX_TIME_NS:
        raise InvalidInput("a time is beyond the range of int64 nanoseconds")
    times = times.astype(np.int64, copy=False)
    numbers = np.asarray(values, dtype=np.float64)
    if times.ndim != 1 or times.shape != numbers.shape:
        raise InvalidInput(f"times and values must be of equal length, not {times.shape} and {numbers.shape}")
    if times.size and int(times.max()) > MAX_TIME_NS:
        raise InvalidInput("a time is beyond the range of int64 nanoseconds")
    return _unique(times, numbers)


def _unique(times: Times, values: Values) -> tuple[Times, Values]:
    if len(times) < 2 or (times[1:] > times[:-1]).all():
        return times, values
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    last = np.concatenate([times[1:] != times[:-1], [True]])
    return times[last], values[last]


def _touched(tx: Tx, series: Series, first: int, last: int) -> list[Chunk]:
    """Return the chunks around the new samples, with the outer one they continue, if they do."""
    found = tx.series.chunks(series.uuid, first, last + 1)
    if found or series.earliest_ns is None or series.latest_ns is None:
        return found
    if first > series.latest_ns:
        return tx.series.chunks(series.uuid, series.latest_ns, series.latest_ns + 1)
    if last < series.earliest_ns:
        return tx.series.chunks(series.uuid, series.earliest_ns, series.earliest_ns + 1)
    return found


def _assign(existing: Sequence[Chunk], times: Times) -> Iterator[tuple[Chunk | None, slice]]:
    """Say which new samples go into which chunk; None stands for new chunks of their own."""
    if not existing:
        yield None, slice(0, len(times))
        return
    begin = 0
    head = int(np.searchsorted(times, existing[0].start_ns))
    if head > 0 and existing[0].count + head > _TARGET:
        yield None, slice(0, head)
        begin = head
    for i, chunk in enumerate(existing):
        inside = int(np.searchsorted(times, chunk.end_ns, side="right"))
        behind = len(times) if i + 1 == len(existing) else int(np.searchsorted(times, existing[i + 1].start_ns))
        if chunk.count < _TARGET and behind > begin:
            yield chunk, slice(begin, behind)
        else:
            if inside > begin:
                yield chunk, slice(begin, inside)
            if behind > inside:
                yield None, slice(inside, behind)
        begin = behind


def _merge(chunk: Chunk, times: Times, values: Values) -> tuple[Times, Values]:
    old_times, old_values = _decode(chunk)
    return _unique(np.concatenate([old_times, times]), np.concatenate([old_values, values]))


def _chunks(uuid: str, times: Times, values: Values, scale: chunks.Scale | None) -> list[Chunk]:
    cuts = [*range(0, len(times), _TARGET), len(times)]
    if len(cuts) > 2 and cuts[-1] - cuts[-2] < _SLACK:
        del cuts[-2]
    made = []
    for begin, end in pairwise(cuts):
        data = chunks.encode(times[begin:end], values[begin:end], scale=scale)
        start_ns, end_ns = int(times[begin]), int(times[end - 1])
        made.append(Chunk(series=uuid, start_ns=start_ns, end_ns=end_ns, count=end - begin, data=data))
    return made


# --------------------------------------------------------------------------------------------------- reading


def values(tx: Tx, uuid: str, start_ns: int, end_ns: int) -> tuple[Times, Values]:
    """Return the samples of [start_ns, end_ns) in order of time."""
    start_ns, end_ns = _range(start_ns, end_ns)
    found = _chunks_of(tx, _series(tx, uuid), start_ns, end_ns)
    return _join([_cut(chunk, start_ns, end_ns) for chunk in found])


def page(tx: Tx, uuid: str, start_ns: int, end_ns: int, *, limit: int) -> tuple[Times, Values, int | None]:
    """
    Return the first samples of [start_ns, end_ns), `limit` or somewhat more, and the time from which to go on.

    Samples come in whole chunks, those of a metric in at most `_ROWS`, so that there may also be fewer; the time is
    None where nothing is left.
    """
    start_ns, end_ns = _range(start_ns, end_ns)
    found, following = _first_chunks(tx, _series(tx, uuid), start_ns, end_ns, limit=limit)
    times, numbers = _join([_cut(chunk, start_ns, end_ns) for chunk in found])
    return times, numbers, following


def count(tx: Tx, uuid: str, start_ns: int | None = None, end_ns: int | None = None) -> int:
    """Return the number of samples, of all or of [start_ns, end_ns); only the outer chunks are decoded."""
    series = _series(tx, uuid)
    if start_ns is None and end_ns is None:
        return series.count
    start, end = _range(MIN_TIME_NS if start_ns is None else start_ns, MAX_TIME_NS + 1 if end_ns is None else end_ns)
    total = 0
    for begin, found in _batches(tx, series, start, end):
        for chunk in found:
            whole = begin <= chunk.start_ns and chunk.end_ns < end
            total += chunk.count if whole else len(_cut(chunk, begin, end)[0])
    return total


def earliest(tx: Tx, uuid: str) -> Point | None:
    """Return the first sample's time and value, None for an empty series."""
    first = _series(tx, uuid).earliest_ns
    return None if first is None else _point(tx, uuid, first, first + 1, 0)


def latest(tx: Tx, uuid: str) -> Point | None:
    """Return the last sample's time and value, None for an empty series."""
    last = _series(tx, uuid).latest_ns
    return None if last is None else _point(tx, uuid, last, last + 1, -1)


def nearest(tx: Tx, uuid: str, time_ns: int, *, backward: bool = False) -> Point | None:
    """Return the first sample at or after a time, or with `backward` the last one before it; None if there is none."""
    series = _series(tx, uuid)
    if series.earliest_ns is None or series.latest_ns is None:
        return None
    first, last = series.earliest_ns, series.latest_ns
    if (backward and time_ns <= first) or (not backward and time_ns > last):
        return None
    time_ns = min(time_ns, last + 1) if backward else max(time_ns, first)
    reach = 1_000_000_000
    while True:  # the neighbour may be far: look further each time, at most 63 times
        start, end = (max(time_ns - reach, first), time_ns) if backward else (time_ns, min(time_ns + reach, last + 1))
        point = _point(tx, uuid, start, end, -1 if backward else 0)
        if point is not None or (start == first if backward else end == last + 1):
            return point
        reach *= 4


def _point(tx: Tx, uuid: str, start_ns: int, end_ns: int, index: int) -> Point | None:
    found = _chunks_of(tx, _series(tx, uuid), start_ns, end_ns)
    for chunk in reversed(found) if index < 0 else found:
        times, numbers = _cut(chunk, start_ns, end_ns)
        if len(times):
            return int(times[index]), float(numbers[index])
    return None


def _series(tx: Tx, uuid: str) -> Series:
    series = tx.series.get(uuid)
    if series is None:
        raise NotFound(f"there is no series {uuid}", uuid=uuid)
    return series


def _range(start_ns: int, end_ns: int) -> tuple[int, int]:
    if end_ns < start_ns:
        raise InvalidInput(f"the end {end_ns} lies before the start {start_ns}")
    return max(int(start_ns), MIN_TIME_NS), min(int(end_ns), MAX_TIME_NS + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows(Chunk):
    """Rows of a metric, read as if they were a chunk."""

    times: Times
    values: Values


def _chunks_of(tx: Tx, series: Series, start_ns: int, end_ns: int, *, limit: int | None = None) -> Sequence[Chunk]:
    """Return the chunks that overlap [start_ns, end_ns), the first `limit`; of a metric that many rows as one chunk."""
    if series.layout != "metric":
        return tx.series.chunks(series.uuid, start_ns, end_ns, limit=limit)
    metric = tx.metrics.by_uid(series.uuid)
    if metric is None or end_ns <= start_ns:
        return []
    # Rounded up: a time belongs to the range if it does so to the nanosecond.
    times_us, numbers = tx.samples.columns(metric.id, -(-start_ns // 1000), -(-end_ns // 1000), limit=limit)
    if not len(times_us):
        return []
    times = times_us * 1000
    return [
        _Rows(
            series=series.uuid,
            start_ns=int(times[0]),
            end_ns=int(times[-1]),
            count=len(times),
            data=b"",
            times=times,
            values=numbers,
        )
    ]


def _first_chunks(
    tx: Tx, series: Series, start_ns: int, end_ns: int, *, limit: int
) -> tuple[Sequence[Chunk], int | None]:
    """Return the chunks with about the first `limit` samples of a range, and the time to go on from, if any is left."""
    wanted = min(limit, _ROWS) if series.layout == "metric" else -(-limit // _TARGET)
    found = _chunks_of(tx, series, start_ns, end_ns, limit=wanted)
    held = sum(chunk.count for chunk in found) if series.layout == "metric" else len(found)
    following = found[-1].end_ns + 1 if held == wanted else end_ns
    return found, following if following < end_ns else None


def _batches(tx: Tx, series: Series, start_ns: int, end_ns: int) -> Iterator[tuple[int, Sequence[Chunk]]]:
    """Yield all chunks of a range, few at a time, and from which time on each few count; memory stays small."""
    begin: int | None = start_ns
    while begin is not None:
        found, following = _first_chunks(tx, series, begin, end_ns, limit=_BATCH)
        yield begin, found
        begin = following


def _decode(chunk: Chunk) -> tuple[Times, Values]:
    if isinstance(chunk, _Rows):
        return chunk.times, chunk.values
    try:
        return chunks.decode(chunk.data)
    except DamagedData as error:
        where = f"series {chunk.series}, {chunk.count} samples from {chunk.start_ns}"
        raise DamagedData(f"{error.message} ({where})", series=chunk.series, start_ns=chunk.start_ns) from error


def _cut(chunk: Chunk, start_ns: int, end_ns: int) -> tuple[Times, Values]:
    times, numbers = _decode(chunk)
    if start_ns <= chunk.start_ns and chunk.end_ns < end_ns:
        return times, numbers
    begin, end = np.searchsorted(times, [start_ns, end_ns])
    return times[begin:end], numbers[begin:end]


def _join(parts: Sequence[tuple[Times, Values]]) -> tuple[Times, Values]:
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([times for times, _ in parts]), np.concatenate([numbers for _, numbers in parts])


# --------------------------------------------------------------------------------------------------- windows


def windows(tx: Tx, uuid: str, start_ns: int, end_ns: int, width_ns: int) -> Windows:
    """
    Return statistics (`WINDOW_DTYPE`) of each whole window of `width_ns` from `start_ns` on, empty ones too.

    Raises InvalidInput for a width below 1 and for more than `MAX_WINDOWS` windows.
    """
    start_ns, end_ns = _range(start_ns, end_ns)
    if width_ns < 1:
        raise InvalidInput(f"the width of a window must be at least 1 ns, not {width_ns}")
    _series(tx, uuid)
    number = (end_ns - start_ns) // width_ns
    if number > MAX_WINDOWS:
        raise InvalidInput(
            f"that makes {number} windows, and {MAX_WINDOWS} are the limit: use a larger width, a shorter range, "
            "or aligned_windows, which leaves empty ones out",
            limit=MAX_WINDOWS,
        )
    result = np.empty(number, dtype=WINDOW_DTYPE)
    if number == 0:
        return result
    result["time"] = start_ns + width_ns * np.arange(number, dtype=np.int64)
    result["count"] = 0
    for name in ("min", "mean", "max", "stddev"):
        result[name] = np.nan
    filled = _statistics(tx, uuid, start_ns, start_ns + number * width_ns, width_ns)
    result[np.searchsorted(result["time"], filled["time"])] = filled
    return result


def aligned_windows(
    tx: Tx, uuid: str, start_ns: int, end_ns: int, pointwidth: int, *, limit: int | None = None
) -> Windows:
    """
    Return statistics (`WINDOW_DTYPE`) of the windows of 2**pointwidth ns that hold samples, the first `limit` of them.

    Raises InvalidInput for a pointwidth outside 0..62.
    """
    start_ns, end_ns = _range(start_ns, end_ns)
    if not 0 <= pointwidth <= MAX_POINTWIDTH:
        raise InvalidInput(f"the pointwidth must be 0 to {MAX_POINTWIDTH} (windows of 2**pointwidth ns)")
    _series(tx, uuid)
    width_ns = 1 << pointwidth
    return _statistics(tx, uuid, start_ns & -width_ns, end_ns & -width_ns, width_ns, limit=limit)


def _statistics(tx: Tx, uuid: str, start_ns: int, end_ns: int, width_ns: int, *, limit: int | None = None) -> Windows:
    """Return the windows with samples, with `limit` the first ones, from one batch of chunks after another."""
    parts = [np.empty(0, dtype=WINDOW_DTYPE)]
    begun = 0
    for begin, found in _batches(tx, _series(tx, uuid), start_ns, end_ns):
        times, numbers = _join([_cut(chunk, begin, end_ns) for chunk in found])
        part = _summaries(times, numbers, start_ns, width_ns)
        if not len(part):
            continue
        if len(parts[-1]) and parts[-1]["time"][-1] == part["time"][0]:
            # The batch ended inside a window: put its halves together.
            part[0] = _combine(parts[-1][-1], part[0])
            parts[-1] = parts[-1][:-1]
            begun -= 1
        parts.append(part)
        begun += len(part)
        if limit is not None and begun > limit:  # only the last one may be incomplete
            break
    return np.concatenate(parts)[:limit]


def _summaries(times: Times, numbers: Values, start_ns: int, width_ns: int) -> Windows:
    missing = np.isnan(numbers)
    if missing.any():
        times, numbers = times[~missing], numbers[~missing]
    if len(times) == 0:
        return np.empty(0, dtype=WINDOW_DTYPE)
    # Distances are below 2**64 and not always below 2**63, hence unsigned.
    index = (times.view(np.uint64) - np.int64(start_ns).view(np.uint64)) // np.uint64(width_ns)
    begins = np.concatenate([[0], np.flatnonzero(index[1:] != index[:-1]) + 1])
    counts = np.diff(begins, append=len(times))
    result = np.empty(len(begins), dtype=WINDOW_DTYPE)
    result["time"] = (index[begins] * np.uint64(width_ns) + np.int64(start_ns).view(np.uint64)).view(np.int64)
    result["count"] = counts
    result["min"] = np.minimum.reduceat(numbers, begins)
    result["max"] = np.maximum.reduceat(numbers, begins)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite samples have infinite or no statistics
        # A mean of equal values must not leave their range by a rounding error.
        mean = np.clip(np.add.reduceat(numbers, begins) / counts, result["min"], result["max"])
        deviations = numbers - np.repeat(mean, counts)
        result["mean"] = mean
        result["stddev"] = np.sqrt(np.add.reduceat(deviations * deviations, begins) / counts)
    return result


def _combine(left: np.void, right: np.void) -> np.void:
    """Put together two parts of one window (Chan, Golub, LeVeque)."""
    both = right.copy()
    n, m = int(left["count"]), int(right["count"])
    both["min"], both["max"] = min(left["min"], right["min"]), max(left["max"], right["max"])
    both["count"] = n + m
    with np.errstate(over="ignore", invalid="ignore"):
        distance = right["mean"] - left["mean"]
        both["mean"] = left["mean"] + distance * (m / (n + m))
        squares = left["stddev"] ** 2 * n + right["stddev"] ** 2 * m + distance**2 * (n / (n + m)) * m
        both["stddev"] = np.sqrt(squares / (n + m))
    return both
