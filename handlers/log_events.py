"""
Write the types and ids of a pipeline's events into its run's log: a good first handler of any pipeline.

In a pipeline it takes a parameter: `{name: log-events, params: {members: true}}` writes the events' members too.
"""

from __future__ import annotations

from typing import Any

from eventproc import ep, register

LONGEST = 2000  # characters of an event's members that are written


@register(name="log-events", hook="*", isolation="batch")
class LogEvents:
    """Log events as they come, and hand them on as they are."""

    def __init__(self, members: bool = False) -> None:  # noqa: FBT001, FBT002 - given by name
        self.members = members

    def handle_events(self, events: list[dict[str, Any]], _env: dict[str, Any]) -> list[dict[str, Any]]:
        """Write one line for each event behind their number."""
        ep.log.info("%d events", len(events))
        for event in events:
            ep.log.info("%s %s at %s", event["event_type"], event["message_id"], event["timestamp"])
            if self.members:
                own = {name: event[name] for name in sorted(event)}
                ep.log.info("  %s", str(own)[:LONGEST])
        return events
