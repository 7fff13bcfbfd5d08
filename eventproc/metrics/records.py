"""Samples as JSON, one object in each line: `{"name": "web.requests", "value": 3.5, "time": 1700000000.25}`."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

import msgspec
import numpy as np

from eventproc.metrics.batch import NOW, Batch, Refusal
from eventproc.metrics.names import join_name
from eventproc.model import RejectReason, from_datetime

_decode = msgspec.json.Decoder().decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def parse_json_lines(body: bytes) -> Batch:
    """
    Read objects with `name` (or `metric`), `value`, and perhaps `time` (or `timestamp`) and `tags`.

    A time is a number of seconds since 1970 or an ISO-8601 text (UTC unless it says otherwise); without one it is now.
    A line that is none of that is refused by itself. A body that is one JSON array is read item by item.
    """
    names: list[bytes] = []
    seconds: list[float] = []
    values: list[float] = []
    numbers: list[int] = []
    refusals: list[Refusal] = []
    for number, line in enumerate(_lines(body)):
        if not line.strip():
            continue
        read = _read(line)
        if isinstance(read, RejectReason):
            refusals.append(Refusal(read, "", line[:400].decode("utf-8", "backslashreplace"), number))
            continue
        name, value, second = read
        names.append(name)
        values.append(value)
        seconds.append(second)
        numbers.append(number)
    return Batch(
        names=names,
        seconds=np.array(seconds, dtype=np.float64),
        values=np.array(values, dtype=np.float64),
        lines=np.array(numbers, dtype=np.int64),
        refusals=refusals,
    )


def _lines(body: bytes) -> list[bytes]:
    """Split the body; an array becomes a line for each of its items."""
    if body.lstrip()[:1] == b"[":
        try:
            return [bytes(item) for item in _decode_array(body)]
        except (msgspec.DecodeError, RecursionError):
            pass  # not as a whole: line by line then, each refused or not by itself
    return body.split(b"\n")


def _read(line: bytes) -> tuple[bytes, float, float] | RejectReason:
    try:
        item: Any = _decode(line)
    except (msgspec.DecodeError, RecursionError):
        return RejectReason.UNREADABLE
    if not isinstance(item, dict):
        return RejectReason.UNREADABLE
    name = _name(item)
    value = item.get("value")
    second = _seconds(item.get("time", item.get("timestamp")))
    if name is None:
        return RejectReason.BAD_NAME
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        return RejectReason.BAD_VALUE
    return RejectReason.BAD_TIME if second is None else (name, float(value), second)


def _name(item: dict[str, Any]) -> bytes | None:
    name = item.get("name", item.get("metric"))
    tags = item.get("tags") or {}
    if not isinstance(name, str) or not isinstance(tags, dict):
        return None
    if tags:
        name = join_name(name, {str(key): str(tag) for key, tag in tags.items()})
    return name.encode("utf-8", "surrogatepass")


def _seconds(time: Any) -> float | None:
    if time is None:
        return NOW
    if isinstance(time, int | float) and not isinstance(time, bool):
        return float(time) if abs(time) < 1e300 else None
    if isinstance(time, str):
        try:
            return from_datetime(dt.datetime.fromisoformat(time)) / 1e6
        except (ValueError, OverflowError):
            return None
    return None
