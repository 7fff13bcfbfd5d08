"""A picture of a scored series: values, scores, and what somebody labelled. Needs matplotlib (`plots` extra)."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventproc.errors import ConfigError

Array = NDArray[np.float64]

MOST_PIECES = 4000  # of a curve; each is drawn with its lowest and its highest point
BAD, SCORE, LABEL, LEARNING = "#d62728", "#ff7f0e", "#d62728", "#7f7f7f"


def check_matplotlib() -> None:
    """Raise ConfigError, saying how to get it, where matplotlib is missing."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ConfigError("plots need matplotlib, which is not installed: pip install 'eventproc[plots]'") from error
    mpl.use("Agg")


def draw(
    path: Path,
    seconds: Array,
    values: Array,
    scores: Array,
    *,
    threshold: float,
    title: str = "",
    value_name: str = "value",
    windows: Sequence[tuple[float, float]] = (),
    learning: int = 0,
    zone: dt.tzinfo = dt.UTC,
) -> None:
    """
    Draw a series and its scores into a file; the suffix says what kind (png, svg, pdf).

    Args:
        path: The file to write.
        seconds: Times, seconds since 1970 UTC.
        values: Values.
        scores: Anomaly scores, 0 to 1.
        threshold: From which score on a row is marked.
        title: Heading.
        value_name: Name of the value's axis.
        windows: Labelled intervals, seconds since 1970 UTC.
        learning: Number of records at the beginning that the detector only learnt.
        zone: Zone of the axis of times.

    """
    check_matplotlib()
    from matplotlib import dates  # noqa: PLC0415 - see above
    from matplotlib.figure import Figure  # noqa: PLC0415

    days = seconds / 86_400.0
    figure = Figure(figsize=(12, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(*_thinned(days, values), linewidth=0.8, color="#1f77b4")
    below.plot(*_thinned(days, scores), linewidth=0.9, color=SCORE)
    marked = scores >= threshold
    above.plot(days[marked], values[marked], "o", markersize=5, color=BAD, label=f"score ≥ {threshold:g}")
    below.axhline(threshold, linewidth=0.8, linestyle="--", color=BAD)
    for number, (first, last) in enumerate(windows):
        for axes in (above, below):
            axes.axvspan(
                first / 86_400.0, last / 86_400.0, alpha=0.2, color=LABEL, label="labelled" if number == 0 else None
            )
    if 0 < learning <= days.size and days.size:
        for axes in (above, below):
            axes.axvspan(days[0], days[min(learning, days.size) - 1], alpha=0.12, color=LEARNING, label="learning")
    above.set_ylabel(value_name, parse_math=False)  # names of columns and files may hold dollars
    above.set_title(title, parse_math=False)
    below.set(ylabel="anomaly score", ylim=(-0.02, 1.05))
    locator = dates.AutoDateLocator(tz=zone)  # type: ignore[no-untyped-call]
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=zone))  # type: ignore[no-untyped-call]
    _legend(above)
    figure.savefig(path, dpi=110)


def _legend(axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, names, loc="upper right", fontsize="small")


def _thinned(days: Array, numbers: Array) -> tuple[Array, Array]:
    """Keep each piece's lowest and highest point, so that no short spike is lost."""
    if numbers.size <= 2 * MOST_PIECES:
        return days, numbers
    edges = np.linspace(0, numbers.size, MOST_PIECES + 1).astype(np.intp)
    picked = set()
    for start, end in itertools.pairwise(edges.tolist()):
        piece = numbers[start:end]
        picked |= {int(start + piece.argmin()), int(start + piece.argmax())}
    chosen = np.array(sorted(picked))
    return days[chosen], numbers[chosen]


def spans_of(seconds: Array, labels: Array) -> list[tuple[float, float]]:
    """Turn labels by row into intervals of time."""
    inside = np.concatenate([[False], labels > 0, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return [(float(seconds[a]), float(seconds[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]
