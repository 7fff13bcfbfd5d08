"""Failures as JSON text."""

from __future__ import annotations

import json
from typing import Any

from eventproc.model import Failure
from eventproc.store.base import to_json


def failure_to_json(failure: Failure | None) -> str | None:
    """Write a failure; what is None is left out."""
    if failure is None:
        return None
    values = {"kind": failure.kind, "message": failure.message, "type": failure.type}
    more = {"traceback": failure.traceback, "rolled_back": failure.rolled_back}
    return to_json({name: value for name, value in (values | more).items() if value is not None})


def failure_from_json(text: str | None) -> Failure | None:
    """Read what `failure_to_json` wrote."""
    if text is None:
        return None
    data: dict[str, Any] = json.loads(text)
    return Failure(**data)
