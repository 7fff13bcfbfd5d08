"""
Rank the most unusual series over 2, 24 and 192 hours: run it by the clock, and mail it.

`eventproc schedules set morning "0 7 * * *" --tag ranking`, then
`eventproc handlers add anomaly_ranking --tag ranking --notify-on-success you@example.com`.
"""

from __future__ import annotations

from typing import Any

from eventproc import register

HOURS = (2, 24, 192)
SHOWN = 10


@register(name="anomaly-ranking", hook="schedule.tick", tags=["ranking"])
def anomaly_ranking(db: Any, **_tick: Any) -> str:
    """Return a table for each stretch of time, the most unusual series first."""
    lines: list[str] = []
    for hours in HOURS:
        found = db.anomalies(hours, limit=SHOWN)
        lines += (
            [f"the last {hours} hours", *(row(one) for one in found)] if found else [f"the last {hours} hours: calm"]
        )
        lines.append("")
    return "\n".join(lines).rstrip()


def row(one: dict[str, Any]) -> str:
    """Write one series as a line of the table."""
    name = f"{one['name']} ({one['resource']})"
    return f"  {one['anomaly']:.5f}  {one['rows']:5d} rows  {one['last']:%Y-%m-%d %H:%M}  {name}"
