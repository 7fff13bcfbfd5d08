"""A version's options as JSON text; what users write is parsed by the registry."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from eventproc.model import Concurrency, Isolation, Limits, Options, Rate, Retries
from eventproc.store.base import to_json


def options_to_json(options: Options) -> str:
    """Write only what differs from the defaults, so that old rows follow new defaults of fields they never named."""
    return to_json({name: value for name, value in dataclasses.asdict(options).items() if value != _DEFAULTS[name]})


def options_from_json(text: str) -> Options:
    """Read what `options_to_json` wrote; fields that a later version added have their defaults."""
    if text == "{}":
        return Options()
    data: dict[str, Any] = json.loads(text)
    makers: dict[str, Any] = {
        "limits": Limits,
        "retries": Retries,
        "concurrency": Concurrency,
        "rate": Rate,
    }
    for name, maker in makers.items():
        if data.get(name) is not None:
            data[name] = maker(**data[name])
    for name in ("secrets", "network", "requirements"):
        if name in data:
            data[name] = tuple(data[name])
    if "isolation" in data:
        data["isolation"] = Isolation(data["isolation"])
    return Options(**data)


_DEFAULTS = dataclasses.asdict(Options())
