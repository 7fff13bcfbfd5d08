"""What comes out of a child is hostile until it went through here."""

from __future__ import annotations

import json
import re
from typing import Any

from eventproc.child import shapes
from eventproc.child.frames import MAX_BODY, Decoder, FrameError
from eventproc.model import Failure

CHILD_KINDS = frozenset({"exception", "exit", "limit", "load", "result", "timeout"})
MAX_MESSAGE = 12_000  # characters
MAX_TYPE = 300
MAX_TRACEBACK = 70_000
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_ESCAPES = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def clean_text(text: str) -> str:
    """Escape what databases and encoders refuse: NUL and lone surrogates."""
    if not _UNSTORABLE.search(text):
        return text
    return _UNSTORABLE.sub(lambda found: "\\x00" if found[0] == "\0" else f"\\u{ord(found[0]):04x}", text)


def clean_json(value: Any) -> Any:
    """Clean all strings in a JSON value."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(key): clean_json(item) for key, item in value.items()}
    return value


def decode(data: bytes) -> str:
    """Decode bytes that claim to be UTF-8."""
    return clean_text(data.decode("utf-8", "backslashreplace"))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_parse = json.JSONDecoder(parse_constant=_refuse_constant).decode  # json.loads would make a decoder for each result


class HostileDecoder(Decoder):
    """
    Cuts what a child sends into frames, and makes no more objects of it than a slot may cost.

    What no database can hold is escaped in the headers.
    """

    def __init__(self, max_result: int) -> None:
        super().__init__(max_body=max(MAX_BODY, max_result))

    def parse(self, text: bytes) -> Any:
        problem = shapes.too_much(text)
        if problem is not None:
            raise FrameError(problem)
        header = json.loads(text.decode("utf-8"))  # bytes would be taken for UTF-16 and more, by how they begin
        return clean_json(header) if b"\0" in text or _ESCAPES.search(text) else header


def result_text(data: bytes) -> str:
    """Return a result as JSON text that everybody can read. Raises ValueError for anything else."""
    problem = shapes.too_much(data)
    if problem is not None:
        raise ValueError(problem)
    try:
        text = data.decode("utf-8")
        value = _parse(text)
        if _ESCAPES.search(data) or "\0" in text:
            return json.dumps(clean_json(value), ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return text


def failure_from(claim: Any, *, max_kinds: frozenset[str] = CHILD_KINDS) -> Failure | None:
    """Read the failure that a child claims; None stays None, nonsense becomes a failure too."""
    if claim is None:
        return None
    if not isinstance(claim, dict) or str(claim.get("kind")) not in max_kinds:
        return Failure(kind="sandbox", message="the handler's process reported a failure that can not be read")
    rolled_back = claim.get("rolled_back")
    return Failure(
        kind=str(claim["kind"]),
        message=_text(claim.get("message"), MAX_MESSAGE) or "",
        type=_text(claim.get("type"), MAX_TYPE),
        traceback=_text(claim.get("traceback"), MAX_TRACEBACK),
        rolled_back=rolled_back if isinstance(rolled_back, bool) else None,
    )


def _text(value: Any, limit: int) -> str | None:
    return clean_text(value[:limit]) if isinstance(value, str) else None
