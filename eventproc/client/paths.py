"""Names and ids as segments of a URL's path."""

from __future__ import annotations

from urllib.parse import quote

from eventproc.errors import InvalidInput

_DOTS = {".": "%2E", "..": "%2E%2E"}  # clients and proxies take these out of paths unless they are escaped


def segment(text: str) -> str:
    """Make a text, whatever it holds, one segment of a path. Raises InvalidInput for what is no text, or empty."""
    if not isinstance(text, str) or not text:
        raise InvalidInput(f"a name or id is a text, not {text!r:.60}")
    try:
        return _DOTS.get(text) or quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidInput(f"the name or id {text!a:.60} holds half of a character") from None
