"""
Regular expressions out of users' schemas: each search comes to an end.

The standard library's engine holds the interpreter while it searches, and needs exponential time for some patterns:
one payload could stop a whole process. The one used here gives up in time and lets other threads work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import regex

from eventproc.errors import InvalidInput

BUDGET_S = 0.5  # for all searches in one payload


class TooSlow(Exception):
    """A search took too long; the text says which."""


class _Budget(threading.local):
    until: float | None = None


_budget = _Budget()


@contextmanager
def limited_time() -> Iterator[None]:
    """Let the searches of this block take `BUDGET_S` together."""
    before, _budget.until = _budget.until, time.monotonic() + BUDGET_S
    try:
        yield
    finally:
        _budget.until = before


class Pattern:
    """Has those methods of `re.Pattern` that checks of schemas use."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        try:
            self._compiled = regex.compile(pattern)
        except regex.error as error:
            raise InvalidInput(f"schema: {pattern!r} is no regular expression: {error}", pattern=pattern) from error

    def search(self, text: str) -> Any:
        """Return what `re.search` would. Raises TooSlow."""
        return self._in_time(self._compiled.search, text)

    def match(self, text: str) -> Any:
        """Return what `re.match` would. Raises TooSlow."""
        return self._in_time(self._compiled.match, text)

    def _in_time(self, look: Callable[..., Any], text: str) -> Any:
        left_s = BUDGET_S if _budget.until is None else max(1e-3, _budget.until - time.monotonic())
        try:
            return look(text, timeout=left_s, concurrent=True)
        except TimeoutError:
            raise TooSlow(
                f"the pattern {self.pattern!r} takes too long on a text of {len(text):,} characters; write it so that "
                "no two of its repeats fit the same characters, or send shorter texts"
            ) from None


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Pattern:
    return Pattern(pattern)
