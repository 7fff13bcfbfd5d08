"""Durations, sizes and rates as people write them: "1h30m", "512MB", "10/m"."""

from __future__ import annotations

import math
import re
from typing import Any

from eventproc.errors import InvalidInput

MAX_SECONDS = 100 * 366 * 86400.0  # what is longer is a mistake, and would not fit beside today as a time
MAX_COUNT = (1 << 31) - 1
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|min|s|m|h|d|w)\s*")
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
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
        number = _duration_text(value.strip())
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


def _duration_text(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        total, at = 0.0, 0
        while found := _DURATION.match(text, at):
            total += float(found[1]) * _SECONDS[found[2]]
            at = found.end()
        return total if text and at == len(text) else None


def format_duration(seconds: float) -> str:
    """Write seconds as `parse_duration` reads them, in the largest unit that keeps the number whole."""
    for unit in ("w", "d", "h", "m"):
        if seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return f"{seconds:f}".rstrip("0").rstrip(".") + "s"


def parse_size(value: Any, what: str) -> int:
    """Return bytes; takes a number of bytes or a text such as "512MB" (10**6) or "1GiB" (2**30)."""
    number = _number(value)
    if number is None and isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        factor = _BYTES.get(found[2].lower())
        number = None if factor is None else float(found[1]) * factor
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
