"""Registering what handler files mark: each by itself, so that a broken one leaves its neighbours alone."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from eventproc.client import Connection
from eventproc.errors import EventprocError
from eventproc.plugins import MarkedHandler


def register_marked(
    connection: Connection,
    file: Path,
    found: MarkedHandler,
    *,
    tags: list[str] | None,
    success: str | None,
    failure: str | None,
) -> dict[str, Any]:
    """Register one marked handler; return the server's answer, or the error."""
    mark = replace(
        found.mark,
        tags=tuple(tags) if tags is not None else found.mark.tags,
        notify_on_success=success or found.mark.notify_on_success,
        notify_on_failure=failure or found.mark.notify_on_failure,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = connection.send_registration(found.target, mark)
        except EventprocError as error:
            said = {"code": error.code, "message": f"{file}: {mark.name}: {error.message}"}
            return {"file": str(file), "name": mark.name, "hook": mark.hook, "error": said}
    texts = dict.fromkeys(str(warning.message).removeprefix(f"{mark.name}: ") for warning in caught)
    return {"file": str(file), **answer, "warnings": list(texts)}
