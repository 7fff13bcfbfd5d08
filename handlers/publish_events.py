"""
Publish events to the platform's broker: one JSON message each, its routing key the event's type.

As a handler it publishes every event of its hook to the exchange `events`. In a pipeline it takes parameters:
`{name: publish-events, params: {exchange: usage, event_types: ["*.verified"]}}`.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import json
from typing import Any

from eventproc import ep, register


@register(name="publish-events", hook="*")
class PublishEvents:
    """Publish events once the run has committed; the exchange, of type topic, is made when it is not there."""

    def __init__(self, exchange: str = "events", event_types: Any = "*", routing_key: str | None = None) -> None:
        self.exchange = exchange
        self.patterns = [event_types] if isinstance(event_types, str) else list(event_types)
        self.routing_key = routing_key  # None: the event's type

    def handle_events(self, events: list[dict[str, Any]], _env: dict[str, Any]) -> list[dict[str, Any]]:
        """Publish those of the types that are wanted; all go on to the next handler."""
        for event in events:
            name = event["event_type"]
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns):
                ep.publish(
                    self.exchange,
                    self.routing_key or name,
                    json.dumps(event, default=self.as_text),
                    content_type="application/json",
                    declare="topic",
                )
        return events

    @staticmethod
    def as_text(value: Any) -> str:
        """Write times as ISO 8601."""
        return value.isoformat() if isinstance(value, dt.datetime) else str(value)
