"""Libraries that handlers commonly use work inside with the default policy, at both levels and in a cell."""

# Handlers stand here as users write them.
# ruff: noqa: PTH123
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs, no-warn-return-any

from __future__ import annotations

import importlib.util
import json

import pytest
from sandbox_world import run_one

from eventproc.sandbox.forkserver import ForkServerSandbox


@pytest.fixture(scope="module", params=["A", "B"])
def sandbox(request):
    made = ForkServerSandbox(levels=[request.param])
    yield made
    made.close()


def result(sandbox, handler, isolation="run"):
    outcome, session = run_one(sandbox, handler, isolation=isolation)
    assert outcome.failure is None, (outcome.failure, session.text())
    return json.loads(outcome.result_json)


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"pip install {' '.join(missing)}")


@pytest.mark.parametrize("isolation", ["run", "cell"])
def test_numpy(sandbox, isolation):
    def handler(db):
        import numpy as np

        random = np.random.default_rng(1).normal(size=(200, 200))
        solved = np.linalg.solve(random, random @ np.ones(200))
        np.save("saved.npy", random)
        mapped = np.load("saved.npy", mmap_mode="r")
        return [round(float(solved.sum())), mapped.shape[0], round(float(abs(np.fft.fft(np.ones(8)))[0]))]

    assert result(sandbox, handler, isolation) == [200, 200, 8]


@needs("pandas")
def test_pandas(sandbox):
    def handler(db):
        import pandas as pd

        frame = pd.DataFrame({"at": pd.date_range("2024-01-01", periods=100, freq="h", tz="UTC"), "value": range(100)})
        frame.to_csv("frame.csv", index=False)
        daily = pd.read_csv("frame.csv", parse_dates=["at"]).set_index("at")["value"].resample("D").sum()
        return [len(daily), int(daily.sum())]

    assert result(sandbox, handler) == [5, 4950]


@needs("scipy")
def test_scipy(sandbox):
    def handler(db):
        import numpy as np
        from scipy import optimize, signal, stats

        root = optimize.brentq(lambda x: x * x - 2, 0, 2)
        b, a = signal.butter(4, 0.2)
        filtered = signal.filtfilt(b, a, np.ones(100))
        return [round(root, 6), round(float(filtered.mean()), 6), round(float(stats.norm.cdf(0)), 6)]

    assert result(sandbox, handler) == [1.414214, 1.0, 0.5]


@needs("matplotlib")
def test_matplotlib_draws_without_a_display(sandbox):
    def handler(db):
        import matplotlib as mpl
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots()
        axes.plot([1, 2, 3], [2, 1, 3])
        axes.set_title("drawn inside")
        figure.savefig("plot.png")
        figure.savefig("plot.pdf")
        with open("plot.png", "rb") as file:
            return [mpl.get_backend().lower(), file.read(8)[1:4].decode()]

    assert result(sandbox, handler) == ["agg", "PNG"]


@pytest.mark.parametrize("isolation", ["run", "cell"])
def test_the_standard_library(sandbox, isolation):
    def handler(db):
        import asyncio
        import concurrent.futures
        import queue
        import sqlite3
        import tempfile
        import threading
        import zoneinfo

        with tempfile.TemporaryDirectory() as directory, tempfile.NamedTemporaryFile(dir=directory) as file:
            file.write(b"x" * 1000)
            file.flush()
        base = sqlite3.connect("work.db")
        base.execute("pragma journal_mode=wal")
        base.execute("create table t (a)")
        with base:
            base.executemany("insert into t values (?)", [(number,) for number in range(100)])
        total = base.execute("select sum(a) from t").fetchone()[0]
        passed = queue.Queue()
        threads = [threading.Thread(target=passed.put, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        async def some():
            return await asyncio.gather(*(asyncio.to_thread(abs, -number) for number in range(5)))

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            squares = sum(pool.map(lambda number: number * number, range(10)))
        return [total, passed.qsize(), sum(asyncio.run(some())), squares, str(zoneinfo.ZoneInfo("UTC"))]

    assert result(sandbox, handler, isolation) == [4950, 20, 10, 285, "UTC"]
