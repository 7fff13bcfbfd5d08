"""
What a sandboxed run costs, against a fresh interpreter and against bubblewrap, in turn on the same machine.

    python benchmarks/sandbox_spawn.py [--level A] [--runs 200] [--rounds 5] [--threads 2] [--cells 2 4] [--where]

`run`: a fresh confined process for each call. `cell`: a fork of a loaded process for each call, in one cell and in as
many as `--cells` says, which is what a worker's slots do. `batch`: calls through one child. `fresh`: `python -I` that
imports dill and numpy and calls the same no-op, not confined at all. `bubblewrap`: the same in a bubblewrap sandbox
with all its namespaces, but no system call filter and no limits (apt-get install bubblewrap). `--where` shows where the
time goes, step by step for a run and for a cell's call, and the processor time of the latter.
All figures are wall time; the load average is printed with them, because on a busy machine they mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dill

from eventproc.abc import Call, Child, Program, RunSession
from eventproc.model import Effects, Limits
from eventproc.sandbox import launcher
from eventproc.sandbox.forkserver import ForkServerSandbox

TRACED = Path(__file__).with_name("traced_zygote.py")
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
EVENT = b'{"message_id":"m","event_type":"bench","timestamp":0,"tags":[],"key":null,"attempt":1}'
FRESH = "import sys, dill, numpy; dill.loads(sys.stdin.buffer.read())(None)"


class NoSession(RunSession):
    """Answers nothing and keeps nothing."""

    def call(self, op, args, body):
        raise NotImplementedError(op)

    def log(self, stream, text):
        pass

    def effects(self):
        return Effects()

    def discard(self):
        pass


def program() -> Program:
    def handler(_db):
        return None

    return Program(blob=dill.dumps(handler, recurse=True), digest="", python=PYTHON, kind="function", name="no-op")


def call(number: int) -> Call:
    return Call(run_id=number, attempt=1, event_json=EVENT, payload_json=b"{}", hook="bench")


def milliseconds(action: Callable[[], Any], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append((time.perf_counter() - started) * 1000)
    return taken


def one_run(sandbox: ForkServerSandbox, loaded: Program) -> None:
    child = sandbox.spawn(loaded, Limits())
    (outcome,) = child.execute([(call(1), NoSession())])
    child.close()
    assert outcome.failure is None, outcome.failure


def runs_per_second(sandbox: ForkServerSandbox, loaded: Program, runs: int, threads: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: one_run(sandbox, loaded), range(runs)))
    return runs / (time.perf_counter() - started)


def calls_per_second(sandbox: ForkServerSandbox, loaded: Program, calls: int) -> float:
    child = sandbox.spawn(loaded, Limits())
    session = NoSession()
    list(child.execute([(call(0), session)]))
    started = time.perf_counter()
    assert (
        sum(outcome.failure is None for outcome in child.execute([(call(n), session) for n in range(calls)])) == calls
    )
    taken = time.perf_counter() - started
    child.close()
    return calls / taken


def cell_calls(sandbox: ForkServerSandbox, loaded: Program, calls: int) -> list[float]:
    child = sandbox.spawn(replace(loaded, isolation="cell"), Limits())
    session = NoSession()
    list(child.execute([(call(0), session)]))
    taken = milliseconds(lambda: list(child.execute([(call(1), session)])), calls)
    child.close()
    return taken


def cells_per_second(sandbox: ForkServerSandbox, loaded: Program, calls: int, cells: int) -> float:
    """Return the rate of so many cells of one version, each with a thread that gives it one call after the other."""
    children = [sandbox.spawn(replace(loaded, isolation="cell"), Limits()) for _ in range(cells)]
    session = NoSession()
    for child in children:
        list(child.execute([(call(0), session)]))

    def give(child: Child) -> None:
        for _ in range(calls // cells):
            list(child.execute([(call(1), session)]))

    started = time.perf_counter()
    with ThreadPoolExecutor(cells) as pool:
        list(pool.map(give, children))
    taken = time.perf_counter() - started
    for child in children:
        child.close()
    return calls // cells * cells / taken


def fresh_interpreter(loaded: Program) -> None:
    subprocess.run([sys.executable, "-I", "-c", FRESH], input=loaded.blob, check=True)


def bubblewrap() -> list[str] | None:
    """Return the command line up to the program, None where it is not installed or may not work."""
    if shutil.which("bwrap") is None:
        return None
    shown = {"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", sys.prefix, sys.base_prefix}
    binds = [word for path in sorted(shown) if Path(path).exists() for word in ("--ro-bind", path, path)]
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", *binds]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", str(256 << 20), "--tmpfs", "/tmp"]
    works = subprocess.run([*command, "/bin/true"], capture_output=True, env={}, check=False).returncode == 0
    return command if works else None


def in_bubblewrap(command: list[str], loaded: Program) -> None:
    subprocess.run([*command, sys.executable, "-I", "-c", FRESH], input=loaded.blob, env={}, check=True)


def p50(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def stages(sandbox: ForkServerSandbox, loaded: Program, times: int) -> dict[str, float]:
    """Return the medians of the steps of one run, in milliseconds."""
    taken: dict[str, list[float]] = {"start": [], "load the blob": [], "call": [], "let go": []}
    for _ in range(times):
        marks = [time.perf_counter()]
        child = sandbox.spawn(loaded, Limits())
        marks.append(time.perf_counter())
        child.wait_loaded()  # type: ignore[attr-defined]
        marks.append(time.perf_counter())
        list(child.execute([(call(1), NoSession())]))
        marks.append(time.perf_counter())
        child.close()
        marks.append(time.perf_counter())
        for name, begun, ended in zip(taken, marks, marks[1:], strict=False):
            taken[name].append((ended - begun) * 1000)
    return {name: p50(values) for name, values in taken.items()}


def where_time_goes(loaded: Program, level: str, runs: int) -> dict[str, Any]:
    """Return the steps of a run with a child at hand and without, and what a whole run costs with fewer layers."""
    found: dict[str, Any] = {}
    for name, spares in (("with a child started ahead", 1), ("without", 0)):
        sandbox = ForkServerSandbox(levels=[level], allow_unsafe=True, spares=spares)
        one_run(sandbox, loaded)
        found[name] = stages(sandbox, loaded, runs)
        sandbox.close()
    for fewer in ("none", "C", "B", "A"):
        sandbox = ForkServerSandbox(levels=[fewer], allow_unsafe=True, spares=0)
        one_run(sandbox, loaded)
        found[f"whole run at level {fewer}, without"] = p50(milliseconds(lambda: one_run(sandbox, loaded), runs))  # noqa: B023
        sandbox.close()
    return found


class Stamps(NoSession):
    """Keeps what a traced cell writes to its stderr."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def log(self, stream, text):
        del stream
        self._text.append(text)

    def of(self, who: str) -> list[dict[str, list[int]]]:
        found = [json.loads(line) for line in "".join(self._text).splitlines()]
        return [each[who] for each in found if who in each]


ON_THE_WAY = {  # what ends with which stamp, from the worker's sending to its hearing
    "the cell hears of it": ("begun", "heard"),
    "the cell hands it over": ("heard", "handed over"),
    "the waiting fork takes it": ("handed over", "taken"),
    "the fork runs it": ("taken", "answered"),
    "the worker hears the answer": ("answered", "ended"),
}
IN_THE_CELL = {
    "fork the next": ("fork begins", "next fork made"),
    "wait for the end of the last": ("next fork made", "fork ended"),
    "empty the directory": ("fork ended", "directory emptied"),
}
IN_THE_FORK = {"seed": ("forked", "reseeded"), "confine": ("reseeded", "confined"), "run": ("taken", "answered")}


def where_a_cell_spends(level: str, loaded: Program, calls: int) -> dict[str, Any]:
    """Return medians of the steps of a cell's call in milliseconds, page faults, and processor time of each part."""
    sandbox = ForkServerSandbox(levels=[level], allow_unsafe=True)
    before, launcher.ZYGOTE = launcher.ZYGOTE, TRACED
    try:
        child = sandbox.spawn(replace(loaded, isolation="cell"), Limits(output_bytes=1 << 30))
        session = Stamps()
        list(child.execute([(call(0), session)]))
        pid = child._link.pid  # type: ignore[attr-defined]  # noqa: SLF001 - there is nothing public
        begun, ended, used = [], [], [_used(pid)]
        for _ in range(calls):
            begun.append(time.monotonic_ns())
            list(child.execute([(call(1), session)]))
            ended.append(time.monotonic_ns())
        used.append(_used(pid))
        list(child.execute([(call(1), session)]))  # brings what the cell said after the last one
        child.close()
    finally:
        launcher.ZYGOTE = before
        sandbox.close()
    forks, cells = session.of("fork")[1 : calls + 1], session.of("cell")[1 : calls + 1]
    ways = [
        {**fork, **cell, "begun": [start, 0], "ended": [end, 0]}  # a fork has its parent's stamps of before
        for start, end, cell, fork in zip(begun, ended, cells, forks, strict=True)
    ]
    return {
        "on the way, ms": _steps(ways, ON_THE_WAY),
        "meanwhile in the cell, ms": _steps(cells, IN_THE_CELL),
        "in the fork, before and while it runs, ms": _steps(forks, IN_THE_FORK),
        "page faults of a fork": round(statistics.median(fork["sent"][1] for fork in forks)),
        "processor time of a call, ms": {
            name: round((used[1][name] - used[0][name]) / calls, 2) for name in ("worker", "cell", "fork")
        },
    }


def _steps(rows: list[dict[str, list[int]]], steps: dict[str, tuple[str, str]]) -> dict[str, float]:
    return {name: p50([(row[last][0] - row[first][0]) / 1e6 for row in rows]) for name, (first, last) in steps.items()}


def _used(pid: int) -> dict[str, float]:
    """Return the processor time so far of this process, of a cell and of its forks, in milliseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    mine = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "worker": (mine.ru_utime + mine.ru_stime) * 1000,
        "cell": (int(fields[11]) + int(fields[12])) * TICK_MS,
        "fork": (int(fields[13]) + int(fields[14])) * TICK_MS,
    }


def figures(level: str, runs: int, threads: int, rounds: int, cells: list[int]) -> dict[str, Any]:
    """Measure us and the peers in turn, some rounds of it."""
    loaded = program()
    sandbox = ForkServerSandbox(levels=[level], allow_unsafe=True)
    one_run(sandbox, loaded)
    wrapped = bubblewrap()
    run: list[float] = []
    cell: list[float] = []
    fresh: list[float] = []
    bwrap: list[float] = []
    rates: list[float] = []
    several: dict[int, list[float]] = {count: [] for count in cells}
    batches: list[float] = []
    share = max(5, runs // rounds)
    for _ in range(rounds):
        run += milliseconds(lambda: one_run(sandbox, loaded), share)
        rates.append(runs_per_second(sandbox, loaded, share, threads))
        cell += cell_calls(sandbox, loaded, share)
        for count, found in several.items():
            found.append(cells_per_second(sandbox, loaded, 2 * share, count))
        batches.append(calls_per_second(sandbox, loaded, 20_000 // rounds))
        fresh += milliseconds(lambda: fresh_interpreter(loaded), max(5, share // 20))
        if wrapped:
            bwrap += milliseconds(lambda: in_bubblewrap(wrapped, loaded), max(5, share // 20))
    sandbox.close()
    return {
        "level": level,
        "run_p50_ms": p50(run),
        "run_p95_ms": round(statistics.quantiles(run, n=20)[18], 2),
        "run_per_s": round(statistics.median(rates), 1),
        "cell_p50_ms": p50(cell),
        "cell_per_s": round(1000 * len(cell) / sum(cell), 1),
        "cells_per_s": {count: round(statistics.median(found), 1) for count, found in several.items()},
        "batch_calls_per_s": round(statistics.median(batches)),
        "fresh_interpreter_p50_ms": p50(fresh),
        "bubblewrap_p50_ms": p50(bwrap) if bwrap else "left out: apt-get install --no-install-recommends bubblewrap",
        "run_is_faster_than_fresh_by": round(statistics.median(fresh) / statistics.median(run), 1),
        "run_is_faster_than_bubblewrap_by": round(statistics.median(bwrap) / statistics.median(run), 1)
        if bwrap
        else None,
        "aims": "run 5 ms and 200/s, cell 2.5 ms and 500/s, batch 10,000/s, on a quiet machine of two cores",
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", action="append", choices=("A", "B", "C", "none"))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cells", type=int, nargs="*", default=[2, 4], help="cells of one version at a time")
    parser.add_argument("--where", action="store_true", help="show where the time goes, step by step and by level")
    options = parser.parse_args()
    for level in options.level or ["A"]:
        print(json.dumps(figures(level, options.runs, options.threads, options.rounds, options.cells), indent=2))
        if options.where:
            print(json.dumps(where_time_goes(program(), level, options.runs), indent=2))
        if options.where and level == "A":  # elsewhere a cell's calls are runs
            print(json.dumps(where_a_cell_spends(level, program(), options.runs), indent=2))


if __name__ == "__main__":
    main()
