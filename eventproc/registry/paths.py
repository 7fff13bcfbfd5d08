"""Payload paths such as "metric.name": what ordering and limit keys are read by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MAX_KEY_LENGTH = 255  # characters; longer values are replaced by their digest


def value_at(payload: Any, path: str) -> Any:
    """Return the value under a dotted path, None where a step is missing; a member of that very name comes first."""
    if isinstance(payload, Mapping) and path in payload:
        return payload[path]
    value = payload
    for step in path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def key_at(payload: Any, path: str) -> str | None:
    """Return the JSON text of the value under a path, None where there is none."""
    value = value_at(payload, path)
    if value is None:
        return None
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return text if len(text) <= MAX_KEY_LENGTH else hashlib.sha256(text.encode()).hexdigest()
