"""
How much JSON one side may ask the other to make objects of: each value costs some hundred bytes, and `[` only one.

Looked at in the text, before anything is made of it. The child's half uses this to refuse in the handler's own terms
what the worker's half would end its process for.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Iterator, Optional

MAX_VALUES = 250_000  # in one text: 30 MB of objects at the most
MAX_DEPTH = 220  # of nested lists and objects: some more than of results and payloads, which have others around them
PIECE = 1 << 16  # bytes looked at in one go
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def too_much(text: bytes) -> Optional[str]:
    """Say what of a JSON text is more than may be sent, None if nothing is; whether it is JSON is not looked at."""
    if len(text) <= MAX_DEPTH or _fits(text):
        return None
    structure = b"".join(_structure(text))
    if _values(structure) > MAX_VALUES:
        return f"more than {MAX_VALUES:,} JSON values"
    brackets = structure.replace(b",", b"")
    if brackets and max(accumulate(map(_STEPS.__getitem__, brackets))) > MAX_DEPTH:
        return f"JSON that is nested deeper than {MAX_DEPTH} levels"
    return None


def _structure(text: bytes) -> Iterator[bytes]:
    """Yield the brackets and commas that stand outside of strings."""
    text = text.replace(rb"\\", b"").replace(rb"\"", b"")  # backslashes stand in strings only
    inside = 0
    for at in range(0, len(text), PIECE):
        parts = text[at : at + PIECE].split(b'"')
        yield b"".join(parts[inside::2]).translate(None, _NO_STRUCTURE)
        inside = (inside + len(parts) - 1) % 2


def _fits(text: bytes) -> bool:
    """Say whether it can not be too much, even if all that is in its strings counted."""
    return _opened(text) <= MAX_DEPTH and _values(text) <= MAX_VALUES


def _opened(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _values(text: bytes) -> int:
    """Count what is outside of strings; no text has more values, with its keys half as many again."""
    return _opened(text) + text.count(b",") + 1
