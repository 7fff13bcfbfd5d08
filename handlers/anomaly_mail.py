"""
Mail what became unusual: add it with `--notify-on-success you@example.com`, beside anomaly_watch.

The text that is returned is the mail. More than one within ten minutes is gathered into a digest.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

from eventproc import register

HOURS = 3  # of samples before, shown as a small curve
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60  # characters


@register(name="anomaly-mail", hook="anomaly.found", throttle="10m")
def anomaly_mail(
    db: Any,
    *,
    metric: str,
    resource: str,
    ts: float,
    value: float,
    anomaly: float,
    **_others: Any,
) -> str:
    """Return the text of the mail: what, when, how unusual, and the hours before."""
    from datetime import datetime, timedelta

    when = datetime.fromtimestamp(ts, UTC)
    lines = [
        f"Unusual behavior seen on: {resource}",
        "",
        f"metric    {metric}",
        f"value     {value:g}",
        f"time      {when:%Y-%m-%d %H:%M:%S} UTC",
        f"anomaly   {anomaly:.6f}",
    ]
    samples = db.samples(metric, since=when - timedelta(hours=HOURS), until=when + timedelta(seconds=1), limit=5000)
    numbers = [sample.value for sample in samples]
    if len(numbers) > 1:
        lines += ["", f"the {HOURS} hours before ({min(numbers):g} to {max(numbers):g}):", curve(numbers)]
    others = [one for one in db.anomalies(HOURS, until=when, limit=6) if one["name"] != metric]
    if others:
        lines += ["", "also unusual lately:", *(f"  {one['name']} ({one['anomaly']:.5f})" for one in others[:5])]
    return "\n".join(lines)


def curve(numbers: list[float]) -> str:
    """Draw numbers as a line of blocks."""
    size = max(1, len(numbers) // WIDTH)
    parts = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    heights = [max(part) for part in parts]
    low, high = min(heights), max(heights)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((height - low) * scale)] for height in heights)
