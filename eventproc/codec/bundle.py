"""
A packed handler as JSON, for the HTTP API: the pickled bytes in base64, the rest as it is.

Nothing here unpickles anything, and dill is not imported: the API server handles blobs as opaque bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from eventproc.errors import HandlerTooLarge, InvalidHandler, InvalidInput
from eventproc.model import HandlerBundle

MAX_BLOB_BYTES = 10 << 20  # unless the caller says otherwise
KINDS = ("function", "class", "detector")

_TEXTS = ("digest", "python", "dill", "qualname")
_OPTIONAL_TEXTS = ("source", "filename")
_FIELDS = frozenset({"blob", "kind", "globals", *_TEXTS, *_OPTIONAL_TEXTS})


class HandlerWarning(UserWarning):
    """Something about a handler that its author should know; it was accepted all the same."""


class HandlerSizeWarning(HandlerWarning):
    """A handler is so large that every run will feel it."""


def digest_of(blob: bytes) -> str:
    """Return the digest that names a blob: SHA-256 in hex."""
    return hashlib.sha256(blob).hexdigest()


def bundle_to_json(bundle: HandlerBundle) -> dict[str, Any]:
    """Return the JSON object that `bundle_from_json` reads."""
    return {
        "blob": base64.b64encode(bundle.blob).decode("ascii"),
        "digest": bundle.digest,
        "python": bundle.python,
        "dill": bundle.dill,
        "source": bundle.source,
        "filename": bundle.filename,
        "qualname": bundle.qualname,
        "kind": bundle.kind,
        "globals": list(bundle.globals),
    }


def bundle_from_json(data: Any, *, max_bytes: int = MAX_BLOB_BYTES) -> HandlerBundle:
    """
    Read a bundle out of a request's body.

    Raises InvalidInput for a field that is missing, unknown or of the wrong type, HandlerTooLarge for a blob over
    `max_bytes`, InvalidHandler where blob and digest do not belong together.
    """
    if not isinstance(data, Mapping):
        raise InvalidInput(f"bundle: expected an object, got {type(data).__name__}")
    if unknown := sorted(str(name) for name in data if name not in _FIELDS):
        raise InvalidInput(f"bundle: unknown field {unknown[0]!r}; known: {', '.join(sorted(_FIELDS))}")
    blob = _blob(data.get("blob"), max_bytes)
    texts = {name: _text(data, name) for name in _TEXTS}
    kind = data.get("kind", "function")
    if kind not in KINDS:
        raise InvalidInput(f"bundle.kind: {kind!r} is none of {', '.join(KINDS)}")
    if texts["digest"] != digest_of(blob):
        raise InvalidHandler(
            "bundle: the blob does not have the digest that was sent with it; it was damaged on the way",
            expected=texts["digest"],
            actual=digest_of(blob),
        )
    return HandlerBundle(
        blob=blob,
        **texts,
        source=_optional_text(data, "source"),
        filename=_optional_text(data, "filename"),
        kind=kind,
        globals=_names(data.get("globals", ())),
    )


def _blob(value: Any, max_bytes: int) -> bytes:
    if not isinstance(value, str):
        raise InvalidInput("bundle.blob: expected base64 text")
    # Base64 makes four characters of three bytes: refuse before decoding what can not fit.
    if len(value) * 3 // 4 > max_bytes + 3:
        raise HandlerTooLarge(f"the pickled handler is over the limit of {max_bytes} bytes", limit=max_bytes)
    try:
        blob = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"bundle.blob: not base64: {error}") from error
    if not blob:
        raise InvalidInput("bundle.blob: empty")
    if len(blob) > max_bytes:
        raise HandlerTooLarge(
            f"the pickled handler has {len(blob)} bytes, the limit is {max_bytes}", size=len(blob), limit=max_bytes
        )
    return blob


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"bundle.{name}: expected text, got {'nothing' if value is None else repr(value)[:40]}")
    return value


def _optional_text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"bundle.{name}: expected text or null, got {type(value).__name__}")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise InvalidInput("bundle.globals: expected a list of names")
    return tuple(value)
