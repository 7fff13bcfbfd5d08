"""Durations and sizes as people write them, in settings as in registrations: "1h30m", "250ms", "512MB"."""

from __future__ import annotations

import re

MAX_SECONDS = 100 * 366 * 86_400.0  # what is longer is a mistake, and would not fit beside today as a time
DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 1 << 10,
    "m": 1 << 20,
    "g": 1 << 30,
    "t": 1 << 40,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e\d+)?")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|min|s|m|h|d|w)\s*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def seconds_in(text: str) -> float | None:
    """Return the seconds of a text such as "90" (seconds), "90s", "1h30m" or "250ms"; None where it is no duration."""
    text = text.strip().lower()
    if _NUMBER.fullmatch(text):
        return float(text)
    total, at = 0.0, 0
    while found := _PART.match(text, at):
        total += float(found[1]) * DURATION_UNITS[found[2]]
        at = found.end()
    return total if text and at == len(text) else None


def bytes_in(text: str) -> float | None:
    """Return the bytes of a text such as "1048576", "512MB" (10**6) or "1GiB" (2**30); None where it is no size."""
    found = _SIZE.fullmatch(text.strip().lower())
    return float(found[1]) * SIZE_UNITS[found[2]] if found and found[2] in SIZE_UNITS else None
