"""Reading the arguments of a handler's request, with errors that name the argument."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from eventproc.errors import InvalidInput

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1


def text(args: Mapping[str, Any], name: str, *, max_length: int = 1000) -> str:
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name!r} must be a text, not {value!r:.100}", argument=name)
    return check_text(value, name, max_length=max_length)


def optional_text(args: Mapping[str, Any], name: str, *, max_length: int = 1000) -> str | None:
    value = args.get(name)
    if value is None or value == "":
        return None
    return text(args, name, max_length=max_length)


def check_text(value: str, name: str, *, max_length: int) -> str:
    if len(value) > max_length or "\x00" in value or not value.isprintable():
        raise InvalidInput(f"{name!r} must be at most {max_length} printable characters", argument=name)
    return value


def integer(args: Mapping[str, Any], name: str) -> int:
    value = args.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not INT64_MIN <= value <= INT64_MAX:
        raise InvalidInput(f"{name!r} must be an integer of 64 bits, not {value!r:.100}", argument=name)
    return value


def optional_integer(args: Mapping[str, Any], name: str) -> int | None:
    return None if args.get(name) is None else integer(args, name)


def limit(args: Mapping[str, Any], *, default: int, highest: int) -> int:
    """Return the argument `limit`, between 1 and `highest`."""
    value = optional_integer(args, "limit")
    return default if value is None else max(1, min(value, highest))


def uuid_text(value: object, name: str = "uuid") -> str:
    """Return a UUID in its canonical form."""
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise InvalidInput(f"{name!r} must be a UUID, not {value!r:.100}", argument=name) from None


def texts(args: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a mapping of text to text (tags, annotations); missing is empty."""
    value = args.get(name) or {}
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise InvalidInput(f"{name!r} must map text to text", argument=name)
    return dict(value)


def text_list(args: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = args.get(name) or ()
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise InvalidInput(f"{name!r} must be a list of texts", argument=name)
    return tuple(value)
