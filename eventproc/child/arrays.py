"""Columns of numbers: numpy arrays where numpy is, array.array where it is not."""

from __future__ import annotations

import array
import functools
import struct
import sys
from typing import Any, List, NamedTuple, Sequence

WINDOW_FIELDS = ("time", "min", "mean", "max", "count", "stddev")
_WINDOW_TYPES = ("q", "d", "d", "d", "q", "d")


class Windows(NamedTuple):
    """Columns of statistics, where numpy is missing."""

    time: Any
    min: Any
    mean: Any
    max: Any
    count: Any
    stddev: Any


@functools.lru_cache(maxsize=1)
def _numpy() -> Any:
    """Return numpy, None where there is none: when it is first needed, for a handler may bring its own."""
    try:
        import numpy as np
    except ImportError:
        return None
    return np


def column(data: bytes, code: str) -> Any:
    """Return little-endian int64 ("q") or float64 ("d") bytes as an array that can be written to."""
    np = _numpy()
    if np is not None:
        return np.frombuffer(data, dtype="<i8" if code == "q" else "<f8").astype("i8" if code == "q" else "f8")
    numbers = array.array(code)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def joined(columns: Sequence[Any]) -> Any:
    """Return columns (or tables) of one type as one; the first one itself where there are no others."""
    if len(columns) == 1:
        return columns[0]
    np = _numpy()
    if np is not None:
        return np.concatenate(columns)
    if isinstance(columns[0], Windows):
        return Windows(*map(joined, zip(*columns)))
    for more in columns[1:]:
        columns[0].extend(more)
    return columns[0]


def windows(columns: Sequence[bytes]) -> Any:
    """Return the six columns of a windows query as one structured array (or `Windows` of columns)."""
    parts: List[Any] = [column(data, code) for data, code in zip(columns, _WINDOW_TYPES)]
    np = _numpy()
    if np is None:
        return Windows(*parts)
    table = np.empty(
        len(parts[0]),
        dtype=[(name, "i8" if code == "q" else "f8") for name, code in zip(WINDOW_FIELDS, _WINDOW_TYPES)],
    )
    for name, part in zip(WINDOW_FIELDS, parts):
        table[name] = part
    return table


def encode(times: Sequence[int], values: Any) -> bytes:
    """Return n int64 times followed by n float64 values, little-endian."""
    np = _numpy()
    if np is not None:
        stamps = np.ascontiguousarray(times, dtype="<i8").tobytes()
        return bytes(stamps + np.ascontiguousarray(values, dtype="<f8").tobytes())
    numbers = [float(value) for value in values]
    return struct.pack(f"<{len(times)}q", *times) + struct.pack(f"<{len(numbers)}d", *numbers)
