"""What `register` without a connection leaves on a function or class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HANDLER_MARK = "__eventproc_handler__"  # attribute: a tuple of HandlerMark


@dataclass(frozen=True, kw_only=True, slots=True)
class HandlerMark:
    """A registration that has not been sent to any platform yet."""

    name: str
    hook: str
    notify_on_success: str | None = None
    notify_on_failure: str | None = None
    tags: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def marks_of(target: object) -> tuple[HandlerMark, ...]:
    """Return the marks on a function or class itself; what a class inherits is not its own."""
    try:
        marks = vars(target).get(HANDLER_MARK, ())
    except TypeError:
        return ()
    return tuple(mark for mark in marks if isinstance(mark, HandlerMark)) if isinstance(marks, tuple) else ()
