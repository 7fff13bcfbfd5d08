"""Traits: what triggers see of an event."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from eventproc.errors import InvalidInput
from eventproc.model import DATETIMES, Trait, TraitEvent

_SCALARS = (str, int, float, bool)


def traits_of(payload: Mapping[str, Any]) -> dict[str, Trait]:
    """
    Return a payload's top-level scalars; members that it lists under `_datetimes` as aware UTC datetimes.

    What is listed there and is no ISO 8601 text stays what it is; one without an offset is taken for UTC.
    """
    traits: dict[str, Trait] = {name: value for name, value in payload.items() if isinstance(value, _SCALARS)}
    listed = payload.get(DATETIMES)
    if isinstance(listed, list):
        for name in listed:
            text = traits.get(name) if isinstance(name, str) else None
            moment = _moment(text) if isinstance(text, str) else None
            if moment is not None:
                traits[name] = moment
    return traits


def trait_event(hook: str, time_us: int, payload: Mapping[str, Any]) -> TraitEvent:
    """Return an event as triggers see it."""
    return TraitEvent(hook, time_us, traits_of(payload))


def _moment(text: str) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(text)
        return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None


def parse_trait(text: str) -> tuple[str, Any]:
    """Read `name:value`; the value is JSON if it can be read as that, else a text. Raises InvalidInput."""
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise InvalidInput(f"a trait is name:value, not {text[:100]!r}", path="trait")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def hint_of(text: str) -> str | None:
    """Say how to compare with a text what is read as something else, None for what is read as a text already."""
    name, value = parse_trait(text)
    if isinstance(value, str):
        return None
    kind = "number" if type(value) in (int, float) else type(value).__name__
    said = text.partition(":")[2]
    return f"{said} is read as a {kind}; to look for the text: -t '{name}:{json.dumps(said)}'"
