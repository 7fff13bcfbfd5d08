"""Write every event into its run's log: good for finding out what a process emits, and as a first handler."""

from __future__ import annotations

from typing import Any

from eventproc import ep, register

LONGEST = 2000  # characters of the payload that are written


@register(name="log-event", hook="*", isolation="batch")
def log_event(_db: Any, /, **payload: Any) -> str:
    """Log the event's head and its payload, cut to a length that can be read."""
    import json

    event = ep.event
    text = json.dumps(payload, sort_keys=True, ensure_ascii=False, default=str)
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
    tags = ", ".join(event.tags) or "no tags"
    ep.log.info("%s %s at %s (%s)", event.event_type, event.message_id, event.timestamp.isoformat(), tags)
    ep.log.info("%s", shown)
    return f"{event.event_type} {event.message_id}: {len(payload)} members"
