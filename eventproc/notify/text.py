"""Making hostile text harmless, and cutting what is too long with a note of how much went."""

from __future__ import annotations

import unicodedata

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_KEEP = "\n\t"


def clean_text(text: str) -> str:
    r"""
    Return text that any mail can carry: no controls, no lone surrogates, nothing that turns the writing direction.

    Line ends become `\n`. What is taken out leaves a replacement character behind.
    """
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    if unified.isascii() and unified.isprintable():
        return unified
    return "".join(char if char in _KEEP or _harmless(char) else _REPLACEMENT for char in unified)


def clean_line(text: str, limit: int) -> str:
    """Return one line of at most `limit` characters: what would break a header or a table becomes a space."""
    line = " ".join(clean_text(text).replace(_REPLACEMENT, " ").split())
    return line if len(line) <= limit else line[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def cut_end(text: str, limit: int) -> str:
    """Keep the beginning."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[... {len(text) - limit:,} more characters were cut here]"


def cut_start(text: str, limit: int) -> str:
    """Keep the end."""
    if len(text) <= limit:
        return text
    return f"[{len(text) - limit:,} characters before this were cut ...]\n{text[-limit:]}"


def cut_middle(text: str, limit: int) -> str:
    """Keep a quarter from the beginning and the rest from the end: that is where tracebacks say the most."""
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head
    return f"{text[:head]}\n[... {len(text) - limit:,} characters were cut here ...]\n{text[-tail:]}"


def _harmless(char: str) -> bool:
    """Cc: controls; Cs: lone surrogates; Zl, Zp: line ends; Cf: joiners are needed, overrides are not."""
    category = unicodedata.category(char)
    if category == "Cf":
        return char in "\u200c\u200d\u00ad"
    return category not in ("Cc", "Cs", "Zl", "Zp")
