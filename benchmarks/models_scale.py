"""
How many models keep up, what one costs, and how long a sample waits.

    python benchmarks/models_scale.py [--models 2000] [--seconds 20] [--postgresql | --database URL]

A slice of models stands for many: what counts is samples per second, and a model at one sample per five minutes is a
300th of a sample per second. All models have learnt --learnt samples (--history of them are stored): a model's saved
state grows until some 10,000. *Cold*: memory holds next to none of them, so that every sample costs loading a
checkpoint, replaying what came since, scoring, and now and then saving: how 100,000 models in 1 GiB behave. *Warm*: all
are in memory. Latency is from the commit of the sample by another process to the commit of its score, at a steady rate
of --load of what was found possible.

The only published figure to compare with is htmengine's own: it takes 0.05 s per record to estimate what remains
(20 records/s and core); it can not be run here (Python 2).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from models_world import ModelsWorld, wave

from eventproc.engine.clock import SystemClock
from eventproc.model import SECOND_US, MetricStatus, NewMetric
from eventproc.model.anomaly import Checkpoint, NewModel
from eventproc.models.parameters import model_params
from eventproc.models.runner import ModelRunner, RunnerSettings
from eventproc.models.scorer import Scorer
from eventproc.models.shares import Shares
from eventproc.models.specs import parse_spec
from eventproc.store import open_store

PERIOD_S = 300
HTMENGINE = 20.0  # records/s and core


class Timed(ModelRunner):
    """Notes when the scores of samples were committed, and what telling of them took."""

    waits: list[float]
    telling_s = 0.0  # processor time

    def _tell(self, tx: Any, jobs: Any, *, now_us: int) -> None:
        started = time.thread_time()
        super()._tell(tx, jobs, now_us=now_us)
        self.telling_s += time.thread_time() - started

    def _keep(self, jobs: Any, written: set[int]) -> None:
        now_us = time.time_ns() // 1000
        by_id = {job.metric.id: job for job in jobs}
        for metric_id in written:
            job = by_id[metric_id]
            self.waits += [(now_us - row.time_us) / SECOND_US for row in job.rows]
        super()._keep(jobs, written)


def fill(world: ModelsWorld, count: int, history: int, learnt: int = 0) -> tuple[list[int], dict[str, Any]]:
    """Make models that have all learnt the same, by learning it once: what is stored, or more."""
    spec = {"metricSpec": {"metric": "m"}, "modelParams": {"min": 0, "max": 100}}
    params = model_params(parse_spec(spec))
    start_us = time.time_ns() // 1000 - (history + 10) * PERIOD_S * SECOND_US
    values = wave(history)
    times = [start_us + i * PERIOD_S * SECOND_US for i in range(history)]
    ids: list[int] = []
    for at in range(0, count, 100):
        names = [NewMetric(name=f"scale.{i}") for i in range(at, min(at + 100, count))]
        with world.store.begin() as tx:
            some = [metric.id for metric, _ in tx.metrics.create(names, now_us=start_us)]
            tx.samples.add_batch([i for i in some for _ in times], times * len(some), values * len(some))
        ids += some
    import numpy as np

    scorer = Scorer.new(params["detector"])
    before = max(0, learnt - history)
    earlier = [times[0] - (before - i) * PERIOD_S * SECOND_US for i in range(before)]
    scorer.score(np.array(wave(before, start=-before) + values), np.array(earlier + times))
    saved = scorer.save(history)
    for at in range(0, count, 200):
        with world.store.begin() as tx:
            checkpoints = []
            for metric_id in ids[at : at + 200]:
                new = NewModel(metric_id=metric_id, spec=spec, params=params, command_id="benchmark")
                model = tx.models.put(new, now_us=start_us)
                tx.models.set_defined(metric_id, now_us=start_us)
                tx.metrics.set_status(metric_id, MetricStatus.ACTIVE)
                checkpoints.append(Checkpoint(metric_id=metric_id, model_id=model.id, rowid=history, data=saved))
            tx.models.put_checkpoints(checkpoints)
            tx.metrics.set_scored([(metric_id, history) for metric_id in ids[at : at + 200]])
    return ids, params


def feed(url: str, ids: list[int], rate: float, seconds: float, ready: Any) -> None:
    """Send one sample after the other at a steady rate, the wall clock as their time, in batches of a tenth second."""
    store = open_store(url)
    ready.set()
    started = time.monotonic()
    sent, place = 0, 0
    while (elapsed := time.monotonic() - started) < seconds:
        due = int(elapsed * rate) - sent
        if due > 0:
            chosen = [ids[(place + i) % len(ids)] for i in range(min(due, len(ids)))]
            now_us = time.time_ns() // 1000
            with store.begin() as tx:
                tx.samples.add_batch(chosen, [now_us] * len(chosen), wave(len(chosen), start=place))
            sent, place = sent + len(chosen), place + len(chosen)
        time.sleep(0.1)
    store.close()


def runner_of(world: ModelsWorld, name: str, threads: int, memory: int) -> Timed:
    runner = Timed(
        store=world.store,
        bus=world.bus,
        clock=SystemClock(),
        teller=world.teller,
        shares=Shares(world.store, SystemClock(), name),
        settings=RunnerSettings(threads=threads, memory=memory),
    )
    runner.waits = []
    return runner


def backlog(world: ModelsWorld, ids: list[int], runner: Timed, rounds: int) -> float:
    """Give every model one sample, so many times; return samples per second of scoring."""
    spent, scored = 0.0, 0
    for turn in range(rounds):
        now_us = time.time_ns() // 1000
        with world.store.begin() as tx:
            tx.samples.add_batch(ids, [now_us] * len(ids), wave(len(ids), start=turn))
        before, started = runner.rows_scored, time.perf_counter()
        while runner.tick():
            pass
        spent += time.perf_counter() - started
        scored += runner.rows_scored - before
    return scored / spent


def steady(url: str, ids: list[int], runner: Timed, *, rate: float, seconds: float) -> list[float]:
    """Feed from another process and score meanwhile; return how long each sample waited."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    feeder = context.Process(target=feed, args=(url, ids, rate, seconds, ready))
    feeder.start()
    ready.wait()
    runner.waits = []
    while feeder.is_alive() or runner.tick():
        if not runner.tick():
            time.sleep(0.005)
    feeder.join()
    return sorted(runner.waits)


def percentile(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def swap_times(world: ModelsWorld, params: dict[str, Any], metric_id: int) -> tuple[float, float, int, int]:
    """Return seconds to load and to save a model, its bytes on the disk and in memory."""
    with world.store.read() as tx:
        saved = tx.models.checkpoints([metric_id])[metric_id].data
    loads, saves = [], []
    for _ in range(100):
        started = time.perf_counter()
        scorer, rowid = Scorer.load(params["detector"], saved)
        loads.append(time.perf_counter() - started)
        started = time.perf_counter()
        scorer.save(rowid)
        saves.append(time.perf_counter() - started)
    return sorted(loads)[50], sorted(saves)[50], len(saved), scorer.live_bytes()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--history", type=int, default=300)
    parser.add_argument("--learnt", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--load", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--database")
    parser.add_argument("--postgresql", action="store_true", help="start a server for it")
    parser.add_argument("--dir")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.dir))
        url = chosen.database or f"sqlite:///{directory}/scale.db"
        if chosen.postgresql:
            from peers.postgresql import postgresql

            url = stack.enter_context(postgresql())
        store = open_store(url)
        store.upgrade()
        world = ModelsWorld(store)
        print(f"load {os.getloadavg()[0]:.1f}, {chosen.threads} threads, {url.split(':')[0]}; filling …", flush=True)
        ids, params = fill(world, chosen.models, chosen.history, chosen.learnt)
        load_s, save_s, disk, live = swap_times(world, params, ids[0])
        print(f"one model: {disk / 1000:.1f} kB saved, {live / 1000:.0f} kB in memory")
        print(f"swap in {load_s * 1e3:.2f} ms, save {save_s * 1e3:.2f} ms (median of 100)", flush=True)
        report(world, chosen, url, ids)
        size = sum(path.stat().st_size for path in Path(directory).glob("scale.db*"))
        if size:
            print(f"database: {size / 1e6:.0f} MB, {size / len(ids) / 1000:.0f} kB per model, history and all")
        store.close()


def report(world: ModelsWorld, chosen: argparse.Namespace, url: str, ids: list[int]) -> None:
    for kind, memory in (("cold", 16 << 20), ("warm", 16 << 30)):
        runner = runner_of(world, kind, chosen.threads, memory)
        runner.tick()
        if kind == "warm":
            backlog(world, ids, runner, 1)  # loads them all
        runner.telling_s, spent = 0.0, time.process_time()
        rate = backlog(world, ids, runner, chosen.rounds)
        spent, samples = time.process_time() - spent, len(ids) * chosen.rounds
        waits = steady(url, ids, runner, rate=rate * chosen.load, seconds=chosen.seconds)
        runner.close()
        print(
            f"{kind}: {rate:,.0f} samples/s = {rate * PERIOD_S:,.0f} models at one sample per 5 min; "
            f"{rate / HTMENGINE / chosen.threads:.0f} times htmengine's stated rate per core"
        )
        print(
            f"      at {rate * chosen.load:,.0f}/s: p50 {percentile(waits, 0.5) * 1e3:.0f} ms, "
            f"p99 {percentile(waits, 0.99) * 1e3:.0f} ms over {len(waits)} samples",
            flush=True,
        )
        print(
            f"      processor time per sample {spent / samples * 1e6:,.0f} us, of which the batch's event "
            f"{runner.telling_s / samples * 1e6:.0f} us",
            flush=True,
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB")


if __name__ == "__main__":
    main()
