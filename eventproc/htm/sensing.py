"""Encoding and pooling: from a value and its time to active columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventproc.htm.dice import scatter
from eventproc.htm.jit import jit

Array = NDArray[Any]

# What `codes` of an encoder holds.
BITS, ON, TIME_BITS, TIME_ON, DAY_ON, WEEKEND_ON, SALT, DELTA_BITS, DELTA_ON, CATEGORY = range(10)

_FARTHEST = float(1 << 40)  # bucket
_FULL = 10_000  # a pooler's largest permanence


@jit()
def bucket_of(value: float, origin: float, resolution: float) -> Any:
    place = math.floor((value - origin) / resolution + 0.5)
    return int(min(max(place, -_FARTHEST), _FARTHEST))


@jit()
def encode(codes: Array, bucket: int, change: int, record: Array, bits: Array) -> Any:
    """
    Write the positions of the bits that are on and return their number.

    The value's `ON` bits are scattered by hashing; neighbouring buckets share all but one, categories none but by
    chance. Then the time of day (a cycle of `TIME_BITS`), the day of the week and the weekend (blocks of their own),
    and the change since the value before (in buckets, scattered as the value), each only where wanted.
    """
    hour, day = record[1], int(record[2])
    first = bucket * codes[ON] if codes[CATEGORY] else bucket
    count = _scattered((codes[SALT], codes[ON], codes[BITS], 0), first, bits, 0)
    base = int(codes[BITS])
    start = int(hour / 24.0 * codes[TIME_BITS])
    for i in range(codes[TIME_ON]):
        bits[count] = base + (start + i) % codes[TIME_BITS]
        count += 1
    base += int(codes[TIME_BITS])
    for i in range(codes[DAY_ON]):
        bits[count] = base + day * codes[DAY_ON] + i
        count += 1
    base += 7 * int(codes[DAY_ON])
    for i in range(codes[WEEKEND_ON]):
        bits[count] = base + (codes[WEEKEND_ON] if day >= 5 else 0) + i
        count += 1
    base += 2 * int(codes[WEEKEND_ON])
    return _scattered((codes[SALT] + 1, codes[DELTA_ON], codes[DELTA_BITS], base), change, bits, count)


@jit()
def _scattered(field: tuple[int, int, int, int], first: int, bits: Array, count: int) -> Any:
    """Scatter a field's bits (salt, bits that are on, bits, first bit) from number `first` on."""
    salt, on, size, base = field
    start = count
    for i in range(on):
        place = base + scatter(salt, first + i, size)
        known = False
        for j in range(start, count):
            known = known or bits[j] == place
        if not known:
            bits[count] = place
            count += 1
    return count


def _pool(bits: Array, joined: Array, order: Array, columns: Array) -> None:
    wanted = columns.shape[0]
    ranked = joined[bits].sum(axis=0, dtype=np.int64)[order]
    limit = np.partition(ranked, ranked.size - wanted)[ranked.size - wanted]
    chosen = ranked > limit
    chosen[np.nonzero(ranked == limit)[0][: wanted - int(chosen.sum())]] = True
    columns[:] = order[chosen]


def pooled(bits: Array, joined: Array, order: Array, active: int) -> Array:
    """Choose `active` columns as `pool` does, for Python."""
    columns = np.zeros(active, np.int64)
    _pool(bits, joined, order, columns)
    return columns


@jit(instead=_pool)
def pool(bits: Array, joined: Array, order: Array, columns: Array) -> None:
    """Choose the columns with the largest overlap, ties in a fixed random order (`order`)."""
    size, wanted = order.shape[0], columns.shape[0]
    overlap = np.zeros(size, np.uint16)
    for bit in bits:
        row = joined[bit]
        for c in range(size):
            overlap[c] += row[c]
    histogram = np.zeros(bits.shape[0] + 1, np.int64)
    for c in range(size):
        histogram[overlap[c]] += 1
    limit = bits.shape[0]
    above = 0
    while above + histogram[limit] < wanted:
        above += int(histogram[limit])
        limit -= 1
    left = wanted - above
    n = 0
    for c in order:
        if overlap[c] > limit:
            columns[n] = c
            n += 1
        elif overlap[c] == limit and left > 0:
            columns[n] = c
            n += 1
            left -= 1


@jit()
def pool_learn(bits: Array, joined: Array, permanence: Array, columns: Array, gains: Array) -> None:
    """Move the permanences of the winning columns towards the input; `gains` is (up, down, connected from)."""
    inputs = joined.shape[0]
    on = np.zeros(inputs, np.uint8)
    for i in range(bits.shape[0]):
        on[bits[i]] = 1
    for c in columns:
        for j in range(inputs):
            held = int(permanence[c, j])
            if held >= 0:  # else there is no potential synapse
                held = min(held + gains[0], _FULL) if on[j] else max(held - gains[1], 0)
                permanence[c, j] = held
                joined[j, c] = 1 if held >= gains[2] else 0
