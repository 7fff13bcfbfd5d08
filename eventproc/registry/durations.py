"""Durations, sizes and rates as people write them: "1h30m", "512MB", "10/m"."""

from __future__ import annotations

import math
import re
from typing import Any

from eventproc.errors import InvalidInput
from eventproc.model.units import DURATION_UNITS, MAX_SECONDS, bytes_in, seconds_in

MAX_COUNT = (1 << 31) - 1
_RATE = re.compile(r"(\d+)\s*/\s*(.+)")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def parse_duration(value: Any, what: str) -> float:
    """Return seconds; takes a number of seconds or a text such as "90s", "10m", "1h30m", "30d"."""
    number = _number(value)
    if number is None and isinstance(value, str):
        number = seconds_in(value)
    if number is None or number <= 0:
        raise InvalidInput(
            f"{what}: {_short(value)} is no duration; "
            'give seconds above 0, or a text such as "90s", "10m", "1h30m", "30d"',
            field=what,
        )
    if number > MAX_SECONDS:
        raise InvalidInput(f"{what}: {_short(value)} is more than 100 years", field=what)
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def format_duration(seconds: float) -> str:
    """Write seconds as `parse_duration` reads them, in the largest unit that keeps the number whole."""
    for unit in ("w", "d", "h", "m"):
        if seconds % DURATION_UNITS[unit] == 0:
            return f"{int(seconds // DURATION_UNITS[unit])}{unit}"
    return f"{seconds:f}".rstrip("0").rstrip(".") + "s"


def parse_size(value: Any, what: str) -> int:
    """Return bytes; takes a number of bytes or a text such as "512MB" (10**6) or "1GiB" (2**30)."""
    number = _number(value)
    if number is None and isinstance(value, str):
        number = bytes_in(value)
    if number is None or not 1 <= number < 2.0**63:
        raise InvalidInput(
            f'{what}: {_short(value)} is no size; give bytes above 0, or a text such as "512MB" or "1GiB"', field=what
        )
    return int(number)


def parse_rate(value: str, what: str) -> tuple[int, float]:
    """Return (count, seconds) of a text such as "10/m", "5/10s" or "100 / 1h"."""
    if found := _RATE.fullmatch(value.strip()):
        per = found[2].strip()
        count = int(found[1]) if len(found[1]) <= len(str(MAX_COUNT)) else 0
        if 0 < count <= MAX_COUNT:
            return count, parse_duration(per if per[0].isdigit() else f"1{per}", what)
    raise InvalidInput(f'{what}: {_short(value)} is no rate; write it as "10/m", "5/10s" or "100/h"', field=what)
