"""
Times inside the platform are `int` microseconds since 1970-01-01 UTC, and their names end in `_us`.

Series times are `int` nanoseconds and end in `_ns`. People see aware UTC datetimes.
"""

from __future__ import annotations

import datetime as dt

SECOND_US = 1_000_000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def to_datetime(us: int) -> dt.datetime:
    """Convert microseconds to an aware UTC datetime, exactly."""
    return EPOCH + dt.timedelta(microseconds=us)


def from_datetime(value: dt.datetime) -> int:
    """Convert a datetime to microseconds, exactly; a naive one is taken as UTC."""
    aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    return (aware - EPOCH) // dt.timedelta(microseconds=1)


def checked(us: int) -> int:
    """Return a time if it can be written; raise OverflowError outside of the years 1 to 9999, as zones can lead to."""
    to_datetime(us)
    return us


def isoformat(us: int) -> str:
    """Write microseconds as `2026-01-02T03:04:05.000006Z`."""
    return to_datetime(us).isoformat(timespec="microseconds").replace("+00:00", "Z")
