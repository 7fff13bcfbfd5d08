"""
Measure the anomaly model on this machine: python benchmarks/htm_speed.py [--records 100000]

Times are processor time where one process does the work (other processes may be busy), wall time for the start of one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eventproc.htm import AnomalyModel, NumentaHTM, Statistics, process_models

START = """
import time; began = time.perf_counter()
from eventproc.htm import AnomalyModel
AnomalyModel().process_one(1.0, 0.0)
print(time.perf_counter() - began)
"""
console = Console()


def series(count: int) -> NDArray[np.float64]:
    """A daily wave with noise, bursts and now and then another level: neither quite learnable nor quite random."""
    rng = np.random.default_rng(1)
    wave = np.sin(np.arange(count) / 288 * 2 * np.pi) * 10 + rng.normal(0, 1, count)
    wave[rng.integers(0, count, count // 200)] += 15
    return wave + np.repeat(rng.normal(0, 2, count // 5000 + 1), 5000)[:count]


def timed(work: Callable[[], object], *, repeat: int = 5) -> float:
    """Seconds of processor time of the quickest of some runs."""
    best = float("inf")
    for _ in range(repeat):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def by_age(kind: type[AnomalyModel], records: int) -> list[tuple[str, str]]:
    """Cost per record at each age of the model."""
    model, values = kind(), series(records)
    times = np.arange(records) * 300.0
    lines, start = [], 0
    marks = [mark for mark in (1000, 10_000, 100_000, 1_000_000) if mark <= records]
    for mark in track(marks, kind.kind, console=console, transient=True):
        while start < mark - 1000:
            end = min(mark - 1000, start + 10_000)
            model.process_many(values[start:end], times[start:end])
            start = end
        began = time.process_time()
        model.process_many(values[start:mark], times[start:mark])
        spent = (time.process_time() - began) / (mark - start)
        lines.append((f"{kind.kind}: per record, at record {mark:,}", f"{spent * 1e6:.1f} µs"))
        start = mark
    return lines


def one_by_one() -> list[tuple[str, str]]:
    """Cost of single calls, and the slowest of them."""
    model, values = AnomalyModel(), series(8000)
    model.process_many(values[:5000], np.arange(5000) * 300.0)
    spent = []
    for i in range(5000, 8000):
        began = time.process_time_ns()
        model.process_one(values[i], i * 300.0)
        spent.append((time.process_time_ns() - began) / 1000)
    asked = timed(lambda: [model.score_one(x, 0.0) for x in values[:300]]) / 300
    middle, late = np.percentile(spent, [50, 99])
    return [
        ("process_one, median", f"{middle:.0f} µs"),
        ("process_one, 99th percentile", f"{late:.0f} µs"),
        ("score_one", f"{asked * 1e6:.0f} µs"),
    ]


def refits() -> list[tuple[str, str]]:
    """Cost of a record at which the historical likelihood is fitted anew, against all others."""
    detector, values = NumentaHTM(), series(11_000)
    detector.score_many(values[:9000])
    spent = []
    for value in values[9000:]:
        began = time.process_time_ns()
        detector.process_one(value)
        spent.append((time.process_time_ns() - began) / 1000)
    due = np.arange(9000, 11_000) % 100 == 0
    fitted, usual = np.median(np.array(spent)[due]), np.median(np.array(spent)[~due])
    return [
        ("numenta, process_one, median", f"{usual:.0f} µs"),
        ("numenta, a record with a refit (8,640 records of history)", f"{fitted:.0f} µs, {fitted / usual:.2f} times"),
    ]


def foresight() -> list[tuple[str, str]]:
    """What best next values add."""
    values = series(6000)
    lines = []
    for steps in ((1,), (1, 2, 3, 4, 5)):
        model = AnomalyModel(predict_steps=steps)
        model.process_many(values[:5000])
        began = time.process_time()
        model.process_many(values[5000:])
        spent = (time.process_time() - began) / 1000
        lines.append((f"default with {len(steps)} step(s) predicted, per record", f"{spent * 1e6:.0f} µs"))
        lines.append(("saved", f"{len(model.save()) / 1e3:.0f} kB"))
    return lines


def sizes() -> list[tuple[str, str]]:
    """Creation, state, save and load after 10,000 records."""
    model, values = AnomalyModel(), series(10_100)
    model.process_many(values[:10_000], np.arange(10_000) * 300.0)
    saved = model.save()
    model.process_many(values[10_000:])
    return [
        ("creation", f"{timed(AnomalyModel) * 1e3:.2f} ms"),
        ("live", f"{model.live_bytes() / 1e3:.0f} kB"),
        ("saved", f"{len(saved) / 1e3:.0f} kB"),
        ("saved as difference, 100 records later", f"{len(model.save(base=saved)) / 1e3:.0f} kB"),
        ("save", f"{timed(model.save) * 1e3:.2f} ms"),
        ("load", f"{timed(lambda: AnomalyModel.load(saved)) * 1e3:.2f} ms"),
    ]


def many_models() -> list[tuple[str, str]]:
    """A thousand models, ten records each, in one call."""
    models = [AnomalyModel() for _ in range(1000)]
    batches = [(series(10), None)] * 1000
    lines = []
    for threads in (1, 2):
        began = time.perf_counter()
        process_models(models, batches, threads=threads)
        spent = time.perf_counter() - began
        lines.append((f"1,000 models, 10 records each, {threads} thread(s)", f"{spent * 1e3:.0f} ms (wall)"))
    return lines


def start() -> list[tuple[str, str]]:
    """Import, first model and first score in a fresh process, the cache warm."""
    spent = [
        float(subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    return [("import, first model, first score (warm cache)", f"{min(spent):.2f} s (wall)")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    given = parser.parse_args()
    AnomalyModel().process_one(1.0)  # compile
    lines = [
        *by_age(AnomalyModel, given.records),
        *by_age(Statistics, given.records),
        *one_by_one(),
        *refits(),
        *foresight(),
        *sizes(),
        *many_models(),
        *start(),
    ]
    table = Table("what", "measured")
    for line in lines:
        table.add_row(*line)
    console.print(table)


if __name__ == "__main__":
    main()
