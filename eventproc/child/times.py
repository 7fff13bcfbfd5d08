"""Times as handlers write them: int nanoseconds, datetimes, ISO strings."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
MICROSECOND = dt.timedelta(microseconds=1)
_FRACTION = re.compile(r"[.,](\d+)")


def from_us(us: int) -> dt.datetime:
    """Return microseconds since 1970 as an aware UTC datetime, exactly."""
    return EPOCH + dt.timedelta(microseconds=us)


def to_ns(value: Any) -> int:
    """Return a time as int nanoseconds since 1970 UTC; naive datetimes and strings are taken as UTC."""
    if isinstance(value, bool):
        raise TypeError("a time is int nanoseconds, a datetime or an ISO 8601 string, not bool")
    if isinstance(value, int):
        return value
    if isinstance(value, dt.datetime):
        return _from_datetime(value)
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value).__module__ == "numpy":
        return _from_numpy(value)
    raise TypeError(f"a time is int nanoseconds, a datetime or an ISO 8601 string, not {type(value).__name__}")


def to_us(value: Any) -> int:
    """Return an event's time in microseconds."""
    return to_ns(value) // 1000


def _from_datetime(value: dt.datetime) -> int:
    aware = value if value.tzinfo else value.replace(tzinfo=dt.timezone.utc)
    ns = ((aware - EPOCH) // MICROSECOND) * 1000
    return ns + int(getattr(value, "nanosecond", 0))  # pandas' Timestamp is a datetime with nanoseconds


def _from_numpy(value: Any) -> int:
    if value.dtype.kind == "M":
        return int(value.astype("datetime64[ns]").astype("int64"))
    if value.dtype.kind in "iu":
        return int(value)
    return to_ns(value.item())


def _from_text(text: str) -> int:
    cleaned = text.strip()
    fraction = _FRACTION.search(cleaned)
    digits = fraction.group(1) if fraction else ""
    if fraction:
        cleaned = cleaned[: fraction.start()] + cleaned[fraction.end() :]
    if cleaned.endswith(("Z", "z")):
        cleaned = cleaned[:-1] + "+00:00"
    try:
        seconds = _from_datetime(dt.datetime.fromisoformat(cleaned))
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 time such as 2026-01-02T03:04:05.678Z") from None
    return seconds + int((digits + "000000000")[:9])
