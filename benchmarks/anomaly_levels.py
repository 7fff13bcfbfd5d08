"""
What a threshold on `anomaly` means: how often records reach it, inside and outside of labelled windows.

    python benchmarks/anomaly_levels.py DIR [--range learnt|estimated|file] [--models default,table,...]

DIR is a NAB-style corpus (see nab.py). Every file goes through the platform's own scorer, with the parameters that
`eventproc models monitor` makes: `default` is our detector on the platform's scale, `table`, `one_sided` and
`two_sided` are htmengine's anomaly service as three generations of it computed, on the memory of htmengine's models
(`numenta_cpp`). Alarms that follow each other within an hour are one. A week is that of the file's own times.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import htm_nabscore as nab
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eventproc.models.parameters import model_params
from eventproc.models.scorer import Scorer
from eventproc.models.specs import RECORDS_NEEDED, estimate_range, parse_spec

THRESHOLDS = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
WEEK_S, HOUR_S = 7 * 86_400, 3_600
console = Console()


def options_of(model: str, learning: int) -> dict[str, Any]:
    """Give what a user writes into a specification's `options`."""
    if model in ("table", "one_sided", "two_sided"):
        return {"detector": "numenta_cpp", "likelihood": model}
    return {"detector": model, "parameters": {"learning": learning}}


def parameters(series: nab.Series, model: str, known: str) -> dict[str, Any]:
    """Give the model's parameters as the platform makes them of what it may know of the range."""
    given = {"metricSpec": {"metric": "m"}, "options": options_of(model, series.probation)}
    values = series.values[:RECORDS_NEEDED] if known == "estimated" else series.values
    reach = (None, None) if known == "learnt" else estimate_range(float(values.min()), float(values.max()))
    return model_params(parse_spec(given), *reach)


def scores(series: nab.Series, model: str, known: str) -> NDArray[np.float64]:
    """Score a file as the platform does."""
    scorer = Scorer.new(parameters(series, model, known)["detector"])
    return scorer.score(series.values, (series.seconds * 1e6).astype(np.int64)).anomaly


def task(given: tuple[nab.Series, str, str]) -> NDArray[np.float64]:
    return scores(*given)


@dataclass
class Level:
    """What happened at one threshold, over all files."""

    inside: int = 0  # records that reach it
    outside: int = 0
    alarms: int = 0  # outside, those within an hour taken together
    found: int = 0  # windows
    noisy: list[float] = field(default_factory=list)  # false alarms per week, by file


@dataclass
class Tally:
    """All that was counted for one model."""

    levels: dict[float, Level] = field(default_factory=lambda: {one: Level() for one in THRESHOLDS})
    inside: int = 0  # records
    outside: int = 0
    windows: int = 0
    weeks: float = 0.0

    def add(self, series: nab.Series, found: NDArray[np.float64]) -> None:
        """Count a file's records behind its learning period."""
        start, label = series.probation, series.labels.astype(bool)
        rest, inside = found[start:], label[start:]
        weeks = float(series.seconds[-1] - series.seconds[start]) / WEEK_S
        self.inside += int(inside.sum())
        self.outside += int((~inside).sum())
        self.weeks += weeks
        self.windows += len(series.windows)
        for threshold, level in self.levels.items():
            over = rest >= threshold
            level.inside += int((over & inside).sum())
            level.outside += int((over & ~inside).sum())
            alarms = sum(1 for _ in alarms_of(series.seconds[start:][over & ~inside]))
            level.alarms += alarms
            level.noisy.append(alarms / weeks)
            level.found += sum(bool((found[a : b + 1] >= threshold).any()) for a, b in series.windows)


def alarms_of(seconds: NDArray[np.float64]) -> Iterator[float]:
    """Give the beginnings of alarms."""
    last = -np.inf
    for time in seconds.tolist():
        if time - last > HOUR_S:
            yield time
        last = time


def show(model: str, tally: Tally) -> None:
    table = Table(
        "anomaly ≥",
        "records inside",
        "outside",
        "windows found",
        "false alarms per metric and week",
        "median file",
        title=f"{model}: {tally.windows} windows, {tally.weeks:.0f} metric weeks",
    )
    for threshold, level in tally.levels.items():
        table.add_row(
            f"{threshold}",
            f"{100 * level.inside / tally.inside:.2f} %",
            f"{100 * level.outside / tally.outside:.3f} %",
            f"{level.found} ({100 * level.found / tally.windows:.0f} %)",
            f"{level.alarms / tally.weeks:.2f}",
            f"{float(np.median(level.noisy)):.2f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--models", default="default,table,one_sided,two_sided")
    parser.add_argument("--range", choices=("learnt", "estimated", "file"), default="estimated")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    corpus = nab.load(given.directory)
    for model in given.models.split(","):
        tally = Tally()
        with ProcessPoolExecutor(given.jobs) as pool:
            found = pool.map(task, [(series, model, given.range) for series in corpus])
            for series, each in zip(corpus, track(found, model, total=len(corpus), console=console), strict=True):
                tally.add(series, each)
        show(model, tally)


if __name__ == "__main__":
    main()
