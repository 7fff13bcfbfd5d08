"""From what a handler returns to JSON text, or to a clear word on what JSON can not hold."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any, List, Tuple

from . import shapes

_FAST = (str, int, bool, type(None))
MAX_DEPTH = 200  # of nested lists and dicts in a result
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class ResultError(Exception):
    """What the handler returned can not be kept; the text says which part and why."""


def to_json(value: Any) -> bytes:
    """Return the JSON text of a handler's result, UTF-8."""
    if value is None:
        return b"null"
    if type(value) in _FAST:
        return _text(value)
    return _text(_plain(value, [], 0))


def _text(value: Any) -> bytes:
    try:
        text = _encode(value).encode("utf-8", "backslashreplace")
    except ValueError as error:  # an int of more digits than Python will write
        raise ResultError(f"the result can not be written as JSON: {error}") from None
    problem = shapes.too_much(text)
    if problem is not None:
        raise ResultError(f"the result is {problem}; upload it with ep.upload_file instead")
    return text


def _plain(value: Any, path: List[str], depth: int) -> Any:
    kind = type(value)
    if kind in _FAST:
        return value
    if depth > MAX_DEPTH:
        raise ResultError(
            f"the result is nested deeper than {MAX_DEPTH} levels (or contains itself) at {_at(path)[:200]}"
        )
    if isinstance(value, float):
        return _finite(float(value), path)
    if isinstance(value, (str, int)):
        return value
    return _compound(value, kind, path, depth)


def _compound(value: Any, kind: type, path: List[str], depth: int) -> Any:
    if isinstance(value, dict):
        return {_key(key, path): _plain(item, [*path, f".{key}"], depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, [*path, f"[{index}]"], depth + 1) for index, item in enumerate(value)]
    if isinstance(value, (dt.date, dt.time)):  # a datetime is a date; class handlers return their events
        return value.isoformat().replace("+00:00", "Z")
    if kind.__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return _plain(value.item(), path, depth + 1)
    raise ResultError(f"{_at(path)} is {_article(kind)}, which JSON can not hold{_advice(value)}")


def _finite(value: float, path: List[str]) -> float:
    if not math.isfinite(value):
        raise ResultError(f"{_at(path)} is {value}, which JSON can not hold; return None or a str instead")
    return value


def _key(key: Any, path: List[str]) -> Any:
    if key is None or isinstance(key, (str, int, float)):
        return key
    raise ResultError(f"{_at(path)} has a key of type {_name(type(key))}; JSON objects have str keys")


def _at(path: List[str]) -> str:
    return "$" + "".join(path) if path else "the result"


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _article(kind: type) -> str:
    name = _name(kind)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} object"


def _advice(value: Any) -> str:
    for method, advice in _ADVICE:
        if hasattr(type(value), method):
            return f"; return {advice} instead"
    return "; return str, numbers, None, and lists and dicts of those"


_ADVICE: Tuple[Tuple[str, str], ...] = (
    ("tolist", "its .tolist()"),
    ("to_dict", "its .to_dict()"),
    ("isdisjoint", "sorted(it)"),
    ("hex", "its .hex() or upload it with ep.upload_file"),
    ("send", "list(it)"),
)
