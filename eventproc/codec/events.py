"""
Payloads as canonical JSON, and the digest by which the same content is known again.

Canonical means: members sorted by name, no blanks, UTF-8, no NaN or Infinity. NUL travels as the escape that JSON
has for it; lone surrogates, which no database can hold, are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eventproc.errors import InvalidPayload, TooLarge
from eventproc.model import MAX_PAYLOAD_BYTES

MAX_DEPTH = 64  # dicts and lists inside one another

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode
_dumps_head = json.JSONEncoder(separators=(",", ":")).encode
_NODES = (dict, list, tuple)


def payload_json(payload: Any, *, max_bytes: int = MAX_PAYLOAD_BYTES) -> str:
    """
    Return the payload as canonical JSON.

    Raises InvalidPayload, with the JSON path in `details["path"]`, for what JSON can not hold, and TooLarge.
    """
    if not isinstance(payload, Mapping):
        raise InvalidPayload(f"payload at $: must be a dict (a JSON object), not {type(payload).__name__}", path="$")
    _check_shape(payload)
    try:
        text = _dumps(payload)
        size = len(text) if text.isascii() else len(text.encode())
    except (TypeError, ValueError, RecursionError) as exc:
        raise _explain(payload, exc) from exc
    if size > max_bytes:
        raise TooLarge(
            f"the payload has {size:,} bytes as JSON, the limit is {max_bytes:,}", size=size, limit=max_bytes
        )
    return text


def content_digest(
    *,
    hook: str,
    payload_json: str,
    tags: Sequence[str] = (),
    key: str | None = None,
    source: str | None = None,
    time_us: int | None = None,
) -> str:
    """
    Return the digest of what the sender said, as 64 hex digits.

    `source` and `time_us` count only where the sender gave them; the order of tags does not count.
    """
    if not tags and key is None and source is None and time_us is None:
        head = f'["{hook}"]'
    else:
        head = _dumps_head([hook, sorted(tags), key, source, time_us])
    return hashlib.sha256(f"{head}\n{payload_json}".encode()).hexdigest()


def _check_shape(payload: Any) -> None:
    """Refuse what the encoder would let through: names that are no texts, and nesting that readers choke on."""
    level: list[Any] = [payload]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                for name, value in node.items():
                    if not isinstance(name, str):
                        raise _bad_name(payload, node, name)
                    if isinstance(value, _NODES):
                        below.append(value)
            else:
                below.extend([value for value in node if isinstance(value, _NODES)])
        if not below:
            return
        level = below
    raise InvalidPayload(f"payload: nested deeper than {MAX_DEPTH} levels", path="$", limit=MAX_DEPTH)


def _bad_name(payload: Any, node: Any, name: Any) -> InvalidPayload:
    path = next((path for path, value in _walk(payload) if value is node), "$")
    return InvalidPayload(f"payload at {path}: the name {name!r} is no text", path=path)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (JSON path, value) of everything in a payload that `_check_shape` let through."""
    pending: list[tuple[str, Any]] = [("$", value)]
    while pending:
        path, node = pending.pop()
        yield path, node
        if isinstance(node, Mapping):
            pending.extend((_member(path, name), item) for name, item in reversed(list(node.items())))
        elif isinstance(node, list | tuple):
            pending.extend((f"{path}[{index}]", item) for index, item in reversed(list(enumerate(node))))


def _member(path: str, name: Any) -> str:
    return f"{path}.{name}" if isinstance(name, str) and name.isidentifier() else f"{path}[{name!a}]"


def _explain(payload: Any, cause: Exception) -> InvalidPayload:
    for path, node in _walk(payload):
        problem = _problem(node)
        if problem:
            return InvalidPayload(f"payload at {path}: {problem}", path=path)
    return InvalidPayload(f"payload: can not be written as JSON: {cause}", path="$")


def _problem(node: Any) -> str | None:
    if isinstance(node, float) and not math.isfinite(node):
        return f"JSON has no {node!r}; send null or a text"
    if isinstance(node, Mapping):
        return next((f"the name {name!a} holds a lone surrogate" for name in node if _has_surrogate(name)), None)
    if isinstance(node, str):
        return "the text holds a lone surrogate (half of a character)" if _has_surrogate(node) else None
    if isinstance(node, int) and not isinstance(node, bool):
        return None if node.bit_length() < _MAX_BITS else "the number has too many digits"
    if node is None or isinstance(node, bool | float | list | tuple):
        return None
    return f"a {type(node).__name__} can not be written as JSON"


_MAX_BITS = 14_000  # Python refuses to write numbers of more than 4,300 digits


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)
