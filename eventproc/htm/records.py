"""Records as people give them, and as kernels take them: value, time of day and day of the week in a time zone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

When = datetime | np.datetime64 | float | int | None

_DAY = 86_400.0
_QUARTER = 900.0  # seconds: no zone changes its offset within one
_FIRST_DAY = 3  # 1970-01-01 was a Thursday


def zone_named(name: str) -> tzinfo:
    """Find a time zone by its IANA name."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"no time zone is named {name!r}") from error


def seconds(when: When, zone: tzinfo) -> float:
    """Give a time as seconds since 1970 UTC; a datetime without zone is local time, None is no time (NaN)."""
    if when is None:
        return float("nan")
    if isinstance(when, datetime):
        return (when if when.tzinfo else when.replace(tzinfo=zone)).timestamp()
    if isinstance(when, np.datetime64):
        return float(when.astype("datetime64[us]").astype(np.int64)) / 1e6
    return float(when)


def many_seconds(times: Any, count: int, zone: tzinfo) -> NDArray[np.float64]:
    """Give all times as seconds since 1970 UTC; `times` is None, an array (datetime64, seconds) or a sequence."""
    if times is None:
        return np.full(count, np.nan)
    if isinstance(times, np.ndarray) and times.dtype.kind == "M":
        found = times.astype("datetime64[us]").astype(np.int64) / 1e6
    elif isinstance(times, np.ndarray) and times.dtype.kind in "iuf":
        found = times.astype(np.float64)
    else:
        found = np.array([seconds(when, zone) for when in times], np.float64)
    if found.shape != (count,):
        raise ValueError(f"there are {count} values and {found.size} times")
    return found


def rows(values: Sequence[float] | NDArray[Any], times: Any, zone: tzinfo) -> NDArray[np.float64]:
    """Make the kernels' records: value, hour (0 to 24) and day of the week (0: Monday); without time 0 and 0."""
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1:
        raise ValueError("values must be a sequence of numbers")
    found = np.zeros((numbers.size, 3))
    found[:, 0] = numbers
    utc = many_seconds(times, numbers.size, zone)
    known = np.isfinite(utc)
    local = utc[known] if zone is UTC else _local(utc[known], zone)
    found[known, 1] = np.mod(local, _DAY) / 3600.0
    found[known, 2] = np.mod(np.floor(local / _DAY) + _FIRST_DAY, 7)
    return found


def _local(utc: NDArray[np.float64], zone: tzinfo) -> NDArray[np.float64]:
    quarters, where = np.unique(np.floor(utc / _QUARTER), return_inverse=True)
    offsets = [datetime.fromtimestamp(quarter * _QUARTER, zone).utcoffset() for quarter in quarters]
    shifts = np.array([0.0 if offset is None else offset.total_seconds() for offset in offsets])
    return utc + (shifts[where] if shifts.size else 0.0)


def only(x: Any) -> Any:
    """Take the value out of a record with one feature, river's way."""
    if isinstance(x, Mapping):
        if len(x) != 1:
            raise ValueError(f"a record must have one value, this has {len(x)}: {', '.join(map(str, x)) or 'none'}")
        return next(iter(x.values()))
    return x


def number(x: Any) -> float:
    x = only(x)
    return float("nan") if x is None else float(x)


def category(x: Any) -> float:
    """Give a word, or a number that stands for itself, a code of 39 bits; NaN: missing."""
    x = only(x)
    if not isinstance(x, str):
        code = number(x)
        if not math.isfinite(code):
            return float("nan")
        x = repr(code)
    return float(int.from_bytes(hashlib.sha256(x.encode()).digest()[:5], "little") >> 1)


def numbers(values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    return np.array([number(x) for x in values], np.float64)
