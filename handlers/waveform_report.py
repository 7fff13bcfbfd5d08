"""
Measure the waveforms of imported COMTRADE records and plot them.

For each stream: samples, rate, RMS, peak and dominant frequency. One plot per record is uploaded, as PNG where
matplotlib is installed, else as SVG. The text that is returned goes into the success mail.
"""

from __future__ import annotations

from typing import Any

from eventproc import ep, register

PLOTTED_STREAMS = 12  # of one record
PLOTTED_POINTS = 1500  # pairs of lowest and highest value, of one stream
SPECTRUM_POINTS = 1 << 18
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


@register(name="waveform-report", hook="ctingress.on_complete", timeout=300, memory="2GiB")
def waveform_report(db: Any, DataSets: list[dict[str, Any]], File: str, **_others: Any) -> str:  # noqa: N803 - the payload's own names
    """Return a table of measurements for each record of an archive, with links to the plots."""
    good = [item for item in DataSets if item["Success"]]
    lines = [f"{File}: {len(good)} of {len(DataSets)} records imported"]
    for item in DataSets:
        lines.append("")
        if item["Success"]:
            lines += report_record(db, item["Name"], item["Streams"] or [])
        else:
            lines.append(f"{item['Name']}: not imported: {item['Error']}")
    return "\n".join(lines)


def report_record(db: Any, name: str, streams: list[dict[str, Any]]) -> list[str]:
    """Measure and plot one record; return its lines of the report."""
    lines = [name, f"  {'stream':24} {'samples':>9} {'rate Hz':>10} {'RMS':>12} {'peak':>12} {'frequency Hz':>13}"]
    curves: list[Any] = []
    for stream in streams:
        series = db.stream_from_uuid(stream["Uuid"])
        times, values = db.values(series, stream["StartNs"], stream["EndNs"] + 1)
        label = f"{series.name} [{series.unit}]" if series.unit else series.name
        lines.append(f"  {series.name[:24]:24} {table_row(measure(times, values))}")
        if len(times) > 1 and len(curves) < PLOTTED_STREAMS:
            curves.append((label, *envelope(times, values)))
    if curves:
        path = plot(name, curves)
        lines.append(f"  plot: {ep.upload_file(path, path)}")
    return lines


def measure(times: Any, values: Any) -> dict[str, Any]:
    """Return samples, rate, RMS, peak and dominant frequency; None for what can not be told."""
    import numpy as np

    times, values = np.asarray(times, dtype=np.int64), np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    times, values = times[known], values[known]
    result: dict[str, Any] = {"samples": int(known.sum()), "rate": None, "rms": None, "peak": None, "frequency": None}
    if len(values) == 0:
        return result
    result["rms"] = float(np.sqrt(np.mean(np.square(values))))
    result["peak"] = float(np.max(np.abs(values)))
    if len(values) > 1:
        step_ns = float(np.median(np.diff(times)))
        if step_ns > 0:
            result["rate"] = 1e9 / step_ns
            result["frequency"] = dominant_frequency(times, values, step_ns)
    return result


def dominant_frequency(times: Any, values: Any, step_ns: float) -> float | None:
    """Return the strongest frequency in Hz, finer than the spectrum's grid; None for a flat or very short curve."""
    import numpy as np

    seconds = (times - times[0]) * 1e-9
    # Records may change their rate midway: the spectrum needs an even grid.
    count = min(int((times[-1] - times[0]) / step_ns) + 1, SPECTRUM_POINTS)
    if count < 8:
        return None
    even = np.interp(np.arange(count) * step_ns * 1e-9, seconds, values)
    even = even - even.mean()
    if not np.any(np.abs(even) > 1e-12 * max(1.0, float(np.max(np.abs(values))))):
        return None
    spectrum = np.abs(np.fft.rfft(even * np.hanning(count)))
    top = int(np.argmax(spectrum[1:])) + 1
    shift = 0.0
    if 1 <= top < len(spectrum) - 1:
        # Vertex of the parabola through the logarithms of the three highest points.
        left, middle, right = np.log(np.maximum(spectrum[top - 1 : top + 2], 1e-300))
        bend = left - 2 * middle + right
        shift = 0.5 * (left - right) / bend if bend else 0.0
    return float((top + shift) / (count * step_ns * 1e-9))


def table_row(found: dict[str, Any]) -> str:
    """Write measurements as the columns of the report."""
    widths = {
        "samples": (9, "d"),
        "rate": (10, ".1f"),
        "rms": (12, ".6g"),
        "peak": (12, ".6g"),
        "frequency": (13, ".3f"),
    }
    cells = []
    for name, (width, form) in widths.items():
        text = "-" if found[name] is None else format(found[name], form)
        cells.append(text.rjust(width))
    return " ".join(cells)


def envelope(times: Any, values: Any) -> tuple[Any, Any]:
    """Thin a curve out for plotting, keeping each piece's lowest and highest value: a short spike stays visible."""
    import numpy as np

    seconds = (np.asarray(times) - times[0]) * 1e-9
    values = np.asarray(values)
    if len(values) <= 2 * PLOTTED_POINTS:
        return seconds, values
    pieces = np.array_split(np.arange(len(values)), PLOTTED_POINTS)
    filled = np.where(np.isfinite(values), values, 0.0)
    picked = sorted(
        {int(piece[index]) for piece in pieces for index in (filled[piece].argmin(), filled[piece].argmax())}
    )
    return seconds[picked], values[picked]


def plot(name: str, curves: list[Any]) -> str:
    """Draw a record's curves into a file of the working directory; return its name."""
    stem = "".join(char if char.isalnum() else "-" for char in name.rpartition("/")[2].rpartition(".")[0]) or "record"
    try:
        import matplotlib as mpl
    except ImportError:
        return plot_svg(f"{stem}.svg", name, curves)
    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1 + 1.3 * len(curves)), layout="constrained")
    axes = figure.subplots(len(curves), 1, sharex=True, squeeze=False)
    for index, (label, seconds, values) in enumerate(curves):
        axis = axes[index][0]
        style = "steps-post" if set(values) <= {0, 1} else "default"  # digital channels know nothing in between
        axis.plot(seconds, values, linewidth=0.8, color=COLOURS[index % len(COLOURS)], drawstyle=style)
        axis.set_ylabel(label, fontsize=7, parse_math=False)  # a name may hold dollars
        axis.grid(visible=True, alpha=0.3)
    axes[-1][0].set_xlabel("seconds from the start of the record")
    figure.align_ylabels()
    figure.suptitle(name, fontsize=9, parse_math=False)
    figure.savefig(f"{stem}.png", dpi=110)
    return f"{stem}.png"


def plot_svg(path: str, name: str, curves: list[Any]) -> str:
    """Draw the same without any plotting package."""
    from math import isfinite
    from pathlib import Path
    from xml.sax.saxutils import escape

    width, height, left = 1000, 110, 150
    rows = []
    longest = max(float(seconds[-1]) for _, seconds, _ in curves) or 1.0
    for index, (label, seconds, values) in enumerate(curves):
        known = [(float(at), float(value)) for at, value in zip(seconds, values, strict=True) if isfinite(value)]
        low, high = min((value for _, value in known), default=0.0), max((value for _, value in known), default=1.0)
        top, across, down = 40 + index * height, (width - left - 10) / longest, (height - 20) / ((high - low) or 1.0)
        points = " ".join(f"{left + at * across:.1f},{top + (high - value) * down:.1f}" for at, value in known)
        rows.append(f'<text x="5" y="{top + 45}" font-size="11">{escape(label)}</text>')
        rows.append(f'<text x="5" y="{top + 60}" font-size="9">{low:.4g} … {high:.4g}</text>')
        rows.append(f'<polyline fill="none" stroke="{COLOURS[index % len(COLOURS)]}" points="{points}"/>')
    total = 60 + height * len(curves)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" font-family="sans-serif">'
    title = f'<text x="5" y="20" font-size="14">{escape(name)} ({longest:.6g} s)</text>'
    Path(path).write_text("\n".join([head, title, *rows, "</svg>"]), encoding="utf-8")
    return path
