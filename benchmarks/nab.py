"""
Run a detector over a NAB-style corpus and score it as NAB does.

    python benchmarks/nab.py DIR --detector default --seeds 1,2,3 --range prefix --out results/

DIR holds data/CATEGORY/FILE.csv and windows.json (or NAB's own labels/combined_windows.json). One fixed parameter set
serves all files; file names are never looked at, and records are seen in order.
`--range prefix`: the detector learns the range of values from its learning period, as a live system must;
`--range file`: minimum and maximum of each file are given in advance, as Numenta's detectors get them.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import htm_nabscore as nab
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eventproc.htm import find_detector

FIXED = 0.66  # the threshold docs/htm.rst recommends for the default detector
console = Console()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One file and one seed."""

    series: nab.Series
    detector: str
    options: dict[str, Any]
    seed: int
    known_range: bool


def detect(job: Job) -> NDArray[np.float64]:
    """Score one file, record by record."""
    options = {"learning": job.series.probation, **job.options}
    if job.detector != "gaussian":
        options["seed"] = job.seed
    if job.known_range:
        low, high = float(job.series.values.min()), float(job.series.values.max())
        room = (high - low) * 0.2
        options |= {"minimum": low - room, "maximum": high + room}
    detector = find_detector(job.detector)(**options)
    return detector.score_many(job.series.values, job.series.seconds)


def run(jobs: list[Job], workers: int) -> list[NDArray[np.float64]]:
    """Run all jobs on all cores, the longest first."""
    order = sorted(range(len(jobs)), key=lambda i: -len(jobs[i].series.values))
    with ProcessPoolExecutor(workers) as pool:
        found = pool.map(detect, [jobs[i] for i in order])
        scores = dict(zip(order, track(found, "files", total=len(jobs), console=console), strict=True))
    return [scores[i] for i in range(len(jobs))]


def write(out: Path, name: str, corpus: list[nab.Series], scores: list[NDArray[np.float64]]) -> None:
    """Write results in NAB's layout: a file per series, a file per profile, thresholds, final results."""
    steps = [nab.steps(series, each) for series, each in zip(corpus, scores, strict=True)]
    best = {profile: nab.sweep(steps, profile) for profile in nab.PROFILES}
    folder = out / "results" / name
    for series, each in zip(corpus, scores, strict=True):
        category, file = series.name.split("/")
        path = folder / category / f"{name}_{file}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as lines:
            rows = csv.writer(lines, lineterminator="\n")
            rows.writerow(["timestamp", "value", "anomaly_score", "label"])
            rows.writerows(zip(series.stamps, series.values, each, series.labels, strict=True))
    for profile, (_, threshold) in best.items():
        with (folder / f"{name}_{profile}_scores.csv").open("w", newline="") as lines:
            rows = csv.writer(lines, lineterminator="\n")
            rows.writerow(
                ["Detector", "Profile", "File", "Threshold", "Score", "Windows", "Found", "FP", "Total_Count"]
            )
            for series, one in zip(corpus, steps, strict=True):
                found, false = nab.counts(one, threshold)
                score = nab.raw_score(one, profile, threshold)
                rows.writerow(
                    [name, profile, series.name, threshold, score, one.windows, found, false, len(series.values)]
                )
    thresholds = {name: {profile: {"score": s, "threshold": t} for profile, (s, t) in best.items()}}
    (out / "config").mkdir(exist_ok=True)
    (out / "config" / "thresholds.json").write_text(json.dumps(thresholds, indent=4) + "\n")
    finals = {name: {profile: score for profile, (score, _) in best.items()}}
    (out / "results" / "final_results.json").write_text(json.dumps(finals, indent=4) + "\n")


def report(title: str, corpus: list[nab.Series], runs: dict[int, list[NDArray[np.float64]]]) -> None:
    """Print a row per seed: the three profiles, at a fixed threshold, and with thresholds chosen on other files."""
    table = Table(title=title)
    columns = (
        "seed",
        *nab.PROFILES,
        "threshold",
        f"at {FIXED}",
        "half 1",
        "half 2",
        "crossed",
        "random halves",
        "lowest",
    )
    for column in columns:
        table.add_column(column, justify="right")
    first = np.array([nab.half(series.name) == "choose" for series in corpus])
    ways = nab.splits([series.name for series in corpus])
    lines = []
    for seed, scores in track(list(runs.items()), "scoring", console=console, transient=True):
        steps = [nab.steps(series, each) for series, each in zip(corpus, scores, strict=True)]
        halves = [[one for one, mine in zip(steps, first, strict=True) if mine == which] for which in (True, False)]
        line = [nab.sweep(steps, profile)[0] for profile in nab.PROFILES]
        line += [nab.sweep(steps, "standard")[1], nab.at(steps, "standard", FIXED)]
        line += [nab.sweep(part, "standard")[0] for part in halves] + [nab.crossed(steps, first, "standard")]
        many = [nab.crossed(steps, way, "standard") for way in ways]
        line += [statistics.fmean(many), min(many)]
        lines.append(line)
        table.add_row(str(seed), *_shown(line))
    if len(lines) > 1:
        table.add_section()
        for word, fold in (("mean", statistics.fmean), ("lowest", min)):
            table.add_row(word, *_shown([fold(column) for column in zip(*lines, strict=True)]))
    console.print(table)
    console.print(
        "crossed: each half with the threshold chosen on the other; random halves: the mean of that over"
        f" {len(ways)} ways to halve the corpus, each directory evenly"
    )


def _shown(line: Iterable[float]) -> list[str]:
    return [f"{number:.2f}" if i == 3 else f"{number:.1f}" for i, number in enumerate(line)]


def per_file(corpus: list[nab.Series], scores: list[NDArray[np.float64]]) -> None:
    """Print what was found in each file at the threshold of the standard profile."""
    steps = [nab.steps(series, each) for series, each in zip(corpus, scores, strict=True)]
    _, threshold = nab.sweep(steps, "standard")
    table = Table("file", "windows", "found", "false", "score", title=f"files, threshold {threshold:.2f}")
    for series, one in zip(corpus, steps, strict=True):
        found, false = nab.counts(one, threshold)
        score = nab.raw_score(one, "standard", threshold)
        table.add_row(series.name, str(one.windows), str(found), str(false), f"{score:.2f}")
    console.print(table)


def plot(out: Path, corpus: list[nab.Series], scores: list[NDArray[np.float64]]) -> None:
    """Draw each file with its windows and scores, where matplotlib is installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        console.print("matplotlib is not installed: no plots")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    for series, each in zip(corpus, scores, strict=True):
        figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(12, 5))
        above.plot(series.values, linewidth=0.6)
        below.plot(each, linewidth=0.6)
        for first, last in series.windows:
            above.axvspan(first, last, alpha=0.2, color="red")
        below.axvspan(0, series.probation, alpha=0.1, color="grey")
        above.set_title(series.name)
        path = out / "plots" / f"{series.name.replace('/', '_')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=80)
        plt.close(figure)


def option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        read = json.loads(value)
    except json.JSONDecodeError:
        read = value
    return name, tuple(read) if isinstance(read, list) else read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--detector", default="default", help="default, htm, statistics, gaussian, numenta, htm.core, ..."
    )
    parser.add_argument("--set", action="append", default=[], type=option, metavar="NAME=JSON", help="a parameter")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--range", choices=("prefix", "file"), default="prefix")
    parser.add_argument("--half", choices=("choose", "report"), help="only the files of one half of the corpus")
    parser.add_argument("--out", type=Path, help="write results and plots there (of the first seed)")
    parser.add_argument("--files", action="store_true", help="show each file (of the first seed)")
    parser.add_argument("--plots", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()

    corpus = [series for series in nab.load(given.directory) if given.half in (None, nab.half(series.name))]
    seeds = [1] if given.detector in ("statistics", "gaussian") else [int(seed) for seed in given.seeds.split(",")]
    jobs = [
        Job(
            series=series,
            detector=given.detector,
            options=dict(given.set),
            seed=seed,
            known_range=given.range == "file" and given.detector not in ("statistics", "gaussian"),
        )
        for seed in seeds
        for series in corpus
    ]
    scores = run(jobs, given.jobs)
    runs = {seed: scores[i * len(corpus) : (i + 1) * len(corpus)] for i, seed in enumerate(seeds)}
    report(f"{given.detector}, range from the {given.range}, {len(corpus)} files", corpus, runs)
    if given.files:
        per_file(corpus, runs[seeds[0]])
    if given.out:
        write(given.out, given.detector, corpus, runs[seeds[0]])
        if given.plots:
            plot(given.out, corpus, runs[seeds[0]])


if __name__ == "__main__":
    main()
