"""
What a sandboxed run costs, against a fresh interpreter in the same minute on the same machine.

    python benchmarks/sandbox_spawn.py [--level A] [--runs 200] [--threads 2]

`run`: a fresh confined process for each call. `cell`: a fork of a loaded process for each call. `batch`: calls
through one child. `fresh`: `python -I` that imports dill and numpy and calls the same no-op, not confined at all.
All figures are wall time; the load average is printed with them, because on a busy machine they mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import dill

from eventproc.abc import Call, Program, RunSession
from eventproc.model import Effects, Limits
from eventproc.sandbox.forkserver import ForkServerSandbox

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


def fresh_interpreter(loaded: Program) -> None:
    subprocess.run([sys.executable, "-I", "-c", FRESH], input=loaded.blob, check=True)


def figures(level: str, runs: int, threads: int) -> dict[str, Any]:
    loaded = program()
    sandbox = ForkServerSandbox(levels=[level], allow_unsafe=True)
    one_run(sandbox, loaded)
    run = milliseconds(lambda: one_run(sandbox, loaded), runs)
    rate = runs_per_second(sandbox, loaded, runs, threads)
    cell = cell_calls(sandbox, loaded, runs)
    batch = calls_per_second(sandbox, loaded, 20_000)
    fresh = milliseconds(lambda: fresh_interpreter(loaded), max(10, runs // 20))
    sandbox.close()
    fresh_p50 = statistics.median(fresh)
    return {
        "level": level,
        "run_p50_ms": round(statistics.median(run), 2),
        "run_p95_ms": round(statistics.quantiles(run, n=20)[18], 2),
        "run_per_s": round(rate, 1),
        "cell_p50_ms": round(statistics.median(cell), 2),
        "cell_per_s": round(1000 * len(cell) / sum(cell), 1),
        "batch_calls_per_s": round(batch),
        "fresh_interpreter_p50_ms": round(fresh_p50, 1),
        "run_is_faster_than_fresh_by": round(fresh_p50 / statistics.median(run), 1),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", action="append", choices=("A", "B", "C", "none"))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for level in options.level or ["A"]:
        print(json.dumps(figures(level, options.runs, options.threads), indent=2))


if __name__ == "__main__":
    main()
