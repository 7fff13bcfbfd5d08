"""
The statistical streams: how far five views of a series lie beyond all they showed before.

The discord stream works on integers, so that its distances, kept step by step, never drift.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventproc.htm.jit import jit

Array = NDArray[Any]

# What `rule` of the streams, the likelihood and the conclusion holds: see parameters.Parameters.
LEARNING, KNOWN, SETTLE, TOLERANCE, MEMORY, REPORT, MARGIN, HISTORY, MEAN_FLOOR, VARIANCE_FLOOR, SOFT, PAD = range(12)
# What `spans` holds.
VARIATION_SPAN, LEVEL_SPAN, SHAPE_SPAN = range(3)
# What `Watch.unit` holds: origin and unit of the coded values, and the largest code so far.
ORIGIN, UNIT, LARGEST = range(3)
# What `Watch.clock` holds.
SEEN = 0
# Columns of what `run` returns.
SCORE, STRENGTH, CAUSE, RAW, AVERAGE, USUAL, SPREAD, SURPRISE = range(8)
VALUE, SEASON, VARIATION, LEVEL, SHAPE, HTM, EXPECTED, TRAINING = range(8, 16)
COLUMNS = 16
STREAMS = 5  # VALUE to SHAPE

# How a stream's range behaves: it stays, it fades, it fades and only its upper end counts.
_STAYS, _FADES, _UPPER = range(3)
_DRAWN = 10.0
_LARGEST_CODE = 1 << 24  # the sum of 48 squares of differences fits 63 bits, also while one value is four times that


class Watch(NamedTuple):
    """The streams' state."""

    recent: Array  # float64[64] last values, a ring
    bounds: Array  # float64[5, 3] highest, lowest and mean of each stream
    season: Array  # float64[2, 216] level and number of records: 48 hours of working days and weekends, 168 of the week
    coded: Array  # int32[2 * ring] last values as integers, twice, so that a window never wraps
    near: Array  # int64[lags + 1] squared distance of the last values to those so far back; found again when loaded
    unit: Array  # float64[3]
    reported: Array  # float64[] last reported scores, a ring
    clock: Array  # int64[2]
    pending: Array  # float64[records, 3] value, hour and day, until the encoder's range is known


@jit()
def excess(bound: Array, x: float, t: int, rule: Array, kind: int) -> Any:
    """Say how far x lies beyond all before, in parts of their range: 0 to 1, 0.5 at the tolerance; then remember it."""
    if t == 0:
        bound[0], bound[1], bound[2] = x, x, x
    high, low, mean = bound[0], bound[1], bound[2]
    width = high - low
    beyond = 0.0
    if t >= rule[SETTLE]:
        if width > 0.0:
            beyond = max(0.0, (x - high) / width)
            if kind != _UPPER:
                beyond = max(beyond, (low - x) / width)
        elif x > high or (kind != _UPPER and x < low):
            beyond = 1.0  # what never changed changes
    span = t + 1.0
    if kind != _STAYS:
        high -= (high - mean) / rule[MEMORY]
        low += (mean - low) / rule[MEMORY]
        span = min(span, rule[MEMORY])
    bound[2] = mean + (x - mean) / span
    bound[0] = max(high, x)
    bound[1] = min(low, x)
    return beyond / (beyond + rule[TOLERANCE])


@jit()
def deviation(recent: Array, t: int, span: int) -> Any:
    """Standard deviation of the last `span` values."""
    count = min(t + 1, span)
    mean = average(recent, t, span)
    total = 0.0
    for i in range(count):
        off = recent[(t - i) % recent.shape[0]] - mean
        total += off * off
    return math.sqrt(total / count)


@jit()
def average(recent: Array, t: int, span: int) -> Any:
    count = min(t + 1, span)
    total = 0.0
    for i in range(count):
        total += recent[(t - i) % recent.shape[0]]
    return total / count


@jit()
def code(w: Watch, t: int, value: float) -> None:
    """Append the value to the ring of integers; one value can widen the range known so far four times at most."""
    ring = w.coded.shape[0] // 2
    if t == 0:
        w.unit[ORIGIN] = value
    off = value - w.unit[ORIGIN]
    if w.unit[UNIT] == 0.0 and off != 0.0:
        w.unit[UNIT] = max(math.ldexp(1.0, math.frexp(abs(off))[1] - 13), 1e-290)
        w.unit[LARGEST] = 4096.0
    place = 0.0
    if w.unit[UNIT] > 0.0:
        limit = 4.0 * w.unit[LARGEST]
        place = math.floor(min(max(off / w.unit[UNIT], -limit), limit) + 0.5)
        w.unit[LARGEST] = max(w.unit[LARGEST], abs(place))
    w.coded[t % ring] = int(place)
    w.coded[t % ring + ring] = int(place)


@jit()
def coarsen(w: Watch, t: int, span: int) -> None:
    """Halve all integers once they grow too large for exact sums."""
    while w.unit[LARGEST] > _LARGEST_CODE:
        w.unit[UNIT] *= 2.0
        w.unit[LARGEST] = math.floor(w.unit[LARGEST] / 2.0)
        w.coded[:] = w.coded >> 1
        measure(w, t, span)


def _measure(w: Watch, t: int, span: int) -> None:
    ring, lags = w.coded.shape[0] // 2, w.near.shape[0] - 1
    w.near[:] = 0
    for i in range(min(span, t + 1)):
        last = (t - i) % ring + ring
        end = min(t - i, lags)
        if end >= span:
            here = w.coded[last - end : last + 1].astype(np.int64)
            w.near[span : end + 1] += (here[-1] - here[:-span][::-1]) ** 2


@jit(instead=_measure)
def measure(w: Watch, t: int, span: int) -> None:
    """Find the distances again from the ring (integers: the same sums as kept step by step)."""
    ring, lags = w.coded.shape[0] // 2, w.near.shape[0] - 1
    w.near[:] = 0
    for i in range(min(span, t + 1)):
        last = (t - i) % ring + ring
        here = int(w.coded[last])
        for lag in range(span, min(t - i, lags) + 1):
            off = here - int(w.coded[last - lag])
            w.near[lag] += off * off


def _discord(w: Watch, t: int, span: int) -> float:
    ring, lags = w.coded.shape[0] // 2, w.near.shape[0] - 1
    last = t % ring + ring
    here = w.coded.astype(np.int64)
    end = min(t, lags)
    if end >= span:
        w.near[span : end + 1] += (here[last] - here[last - end : last - span + 1][::-1]) ** 2
    end = min(t - span, lags)
    if end >= span:
        old = last - span
        w.near[span : end + 1] -= (here[old] - here[old - end : old - span + 1][::-1]) ** 2
    end = min(t - span + 1, lags)
    if end < span:
        return 0.0
    return math.sqrt(int(w.near[span : end + 1].min()) / span) * float(w.unit[UNIT])


@jit(instead=_discord)
def discord(w: Watch, t: int, span: int) -> Any:
    """Measure the smallest root-mean-square distance of the last `span` values to any `span` values before."""
    ring, lags = w.coded.shape[0] // 2, w.near.shape[0] - 1
    last = t % ring + ring
    now = int(w.coded[last])
    for lag in range(span, min(t, lags) + 1):
        off = now - int(w.coded[last - lag])
        w.near[lag] += off * off
    end = min(t - span, lags)
    old = last - span
    now = int(w.coded[old])
    for lag in range(span, end + 1):
        off = now - int(w.coded[old - lag])
        w.near[lag] -= off * off
    end = min(t - span + 1, lags)
    if end < span:
        return 0.0
    smallest = w.near[span]
    for lag in range(span + 1, end + 1):
        smallest = min(smallest, w.near[lag])
    return math.sqrt(smallest / span) * w.unit[UNIT]


@jit()
def unseasonal(season: Array, value: float, hour: int, day: int) -> Any:
    """
    Say how far a value lies off the level of its hour, and remember it.

    The level is that of the hour of this day of the week, drawn to that of the hour of working days or weekends as if
    that had been seen ten times: a day of its own counts as soon as it is known.
    """
    kind, own = (24 if day >= 5 else 0) + hour, 48 + 24 * day + hour
    off = 0.0
    if season[1, kind] > 0.0:
        seen = season[1, own]
        off = value - (seen * season[0, own] + _DRAWN * season[0, kind]) / (seen + _DRAWN)
    for place in (kind, own):
        season[1, place] += 1.0
        season[0, place] += (value - season[0, place]) * max(0.05, 1.0 / season[1, place])
    return off


@jit()
def observe(w: Watch, record: Array, rule: Array, spans: Array, row: Array) -> None:
    """Let all streams see the record; their parts of the score go into the row."""
    t, value, day = int(w.clock[SEEN]), record[0], int(record[2])
    w.recent[t % w.recent.shape[0]] = value
    row[VALUE] = excess(w.bounds[0], value, t, rule, _STAYS)
    off = unseasonal(w.season, value, int(record[1]), day)
    row[SEASON] = excess(w.bounds[1], off, t, rule, _STAYS)
    row[VARIATION] = excess(w.bounds[2], deviation(w.recent, t, spans[VARIATION_SPAN]), t, rule, _FADES)
    row[LEVEL] = excess(w.bounds[3], average(w.recent, t, spans[LEVEL_SPAN]), t, rule, _FADES)
    code(w, t, value)
    distance = discord(w, t, spans[SHAPE_SPAN])
    coarsen(w, t, spans[SHAPE_SPAN])
    row[SHAPE] = excess(w.bounds[4], distance, t, rule, _UPPER)
