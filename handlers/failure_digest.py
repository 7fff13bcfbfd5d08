"""Report a failed run together with how often its handler failed in the last day."""

from __future__ import annotations

from typing import Any

from eventproc import ep, register

WINDOW_HOURS = 24
MOST_EVENTS = 1000  # of the window that are looked at


@register(name="failure-digest", hook="run.failed", throttle="1h")
def failure_digest(
    db: Any,
    *,
    run: int,
    state: str,
    handler: dict[str, Any],
    event: dict[str, Any],
    failure: dict[str, Any],
    **_others: Any,
) -> str:
    """Return a short text for the success mail: this failure, and the window's failures by handler and kind."""
    from datetime import timedelta

    since = ep.event.timestamp - timedelta(hours=WINDOW_HOURS)
    recent = db.events("run.failed", since=since, limit=MOST_EVENTS)
    lines = [
        f"run {run} of {handler['name']} (version {handler['version']}) on {event['hook']}: {state}",
        f"  event {event['id']} of {event['time']}",
        f"  {failure['kind']}: {first_line(failure['message'])}",
        "",
        f"failures in the last {WINDOW_HOURS} hours:",
    ]
    lines += [f"  {count:5d}  {name}: {kind}" for (name, kind), count in tally(recent)] or ["  none but this one"]
    if len(recent) == MOST_EVENTS:
        lines.append(f"  (only {MOST_EVENTS} were counted)")
    return "\n".join(lines)


def tally(events: list[dict[str, Any]]) -> list[tuple[tuple[str, str], int]]:
    """Count failures by handler and kind, the most frequent first."""
    counts: dict[tuple[str, str], int] = {}
    for event in events:
        payload = event["payload"]
        group = (payload["handler"]["name"], payload["failure"]["kind"])
        counts[group] = counts.get(group, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def first_line(text: str) -> str:
    """Return a message's first line."""
    return text.strip().split("\n", 1)[0][:200]
