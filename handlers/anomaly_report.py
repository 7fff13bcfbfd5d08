"""
Keep a CSV of values and scores, and a plot, for each anomaly; their links are in the text that is returned.

The plot is a PNG where matplotlib is installed, else an SVG.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

from eventproc import ep, register

HOURS = 24  # of samples in the report
MARKED = 0.99999


@register(name="anomaly-report", hook="anomaly.found", timeout=120)
def anomaly_report(db: Any, *, metric: str, ts: float, **_others: Any) -> str:
    """Upload `report.csv` and `report.png` (or `.svg`) of the hours before the anomaly."""
    import csv
    from datetime import datetime, timedelta
    from pathlib import Path

    when = datetime.fromtimestamp(ts, UTC)
    samples = db.samples(metric, since=when - timedelta(hours=HOURS), until=when + timedelta(seconds=1))
    with Path("report.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["timestamp", "value", "raw_score", "anomaly_score"])
        rows.writerows((f"{s.time:%Y-%m-%d %H:%M:%S}", s.value, s.raw_score, s.anomaly) for s in samples)
    table = ep.upload_file("report.csv", "report.csv")
    picture = plot(metric, samples)
    return f"{metric}: {len(samples)} samples\ntable: {table}\nplot: {ep.upload_file(picture, picture)}"


def plot(metric: str, samples: list[Any]) -> str:
    """Draw values and scores; return the file's name."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return plot_svg(metric, samples)
    times = [sample.time for sample in samples]
    figure = Figure(figsize=(10, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(times, [sample.value for sample in samples], linewidth=0.8)
    marked = [sample for sample in samples if (sample.anomaly or 0) >= MARKED]
    above.plot([sample.time for sample in marked], [sample.value for sample in marked], "o", color="#d62728")
    below.plot(times, [sample.anomaly or 0.0 for sample in samples], linewidth=0.8, color="#ff7f0e")
    above.set_title(metric, parse_math=False)  # a name may hold dollars
    above.set(ylabel="value")
    below.set(xlabel="UTC", ylabel="anomaly", ylim=(-0.02, 1.05))
    figure.savefig("report.png", dpi=100)
    return "report.png"


def plot_svg(metric: str, samples: list[Any]) -> str:
    """Draw the same without any plotting package."""
    from pathlib import Path
    from xml.sax.saxutils import escape

    width, height = 1000.0, 200.0
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="460" font-family="sans-serif">']
    parts.append(f'<text x="5" y="18">{escape(metric)}</text>')
    for top, numbers, colour in (
        (30.0, [sample.value for sample in samples], "#1f77b4"),
        (250.0, [sample.anomaly or 0.0 for sample in samples], "#ff7f0e"),
    ):
        low, high = min(numbers, default=0.0), max(numbers, default=1.0)
        step, scale = width / max(1, len(numbers) - 1), height / ((high - low) or 1.0)
        points = " ".join(f"{i * step:.1f},{top + (high - n) * scale:.1f}" for i, n in enumerate(numbers))
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{points}"/>')
    Path("report.svg").write_text("\n".join([*parts, "</svg>"]), encoding="utf-8")
    return "report.svg"
