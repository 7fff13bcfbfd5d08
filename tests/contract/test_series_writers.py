"""Writers of one series who meet lose nothing of each other, on every database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import eventproc
from eventproc.abc import Store
from eventproc.engine import series
from eventproc.engine.clock import ManualClock
from eventproc.ingress import import_archive
from eventproc.ingress.samples import SAMPLES, fault_record, pack
from eventproc.model import Series
from eventproc.registry.catalogue import CatalogueCache
from eventproc.registry.specs import load_specs

HOOKS = Path(eventproc.__file__).parents[1] / "hooks" / "ctingress.yaml"
ALL = (series.MIN_TIME_NS, series.MAX_TIME_NS + 1)


def test_samples_are_read_back_bit_for_bit(store: Store) -> None:
    times = np.arange(50_000, dtype=np.int64) ** 2 + (1 << 60)
    values = np.random.default_rng(1).normal(size=50_000)
    values[::7] = np.nan
    with store.begin() as tx:
        tx.series.put(Series(uuid="u", name="IA"))
        series.insert(tx, "u", times[::-1], values[::-1])
    with store.read() as tx:
        got_times, got_values = series.values(tx, "u", *ALL)
        assert series.windows(tx, "u", 1 << 60, (1 << 60) + 100, 10)["count"].sum() == 8  # ten, and two are missing
    assert got_times.tolist() == times.tolist()
    assert got_values.tobytes() == values.tobytes()


def test_writers_of_one_series_take_turns(shared_store: Store) -> None:
    with shared_store.begin() as tx:
        tx.series.put(Series(uuid="u", name="IA"))
    start = threading.Barrier(4)

    def write(writer: int) -> None:
        start.wait(timeout=30)
        for i in range(25):
            with shared_store.begin() as tx:
                series.insert(tx, "u", [i * 4 + writer, 1000 + i], [float(writer), float(i)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with shared_store.read() as tx:
        times, _ = series.values(tx, "u", *ALL)
    assert times.tolist() == [*range(100), *range(1000, 1025)]


def test_imports_of_one_device_at_once_all_arrive(shared_store: Store) -> None:
    specs, _ = load_specs([HOOKS])
    with shared_store.begin() as tx:
        for spec in specs:
            tx.hooks.put(spec, now_us=0, by="test")
    record, cache = fault_record(), CatalogueCache(shared_store)
    start = threading.Barrier(3)

    def run(day: int) -> str:
        cfg = record.cfg().replace(b"14/03/2026", b"%02d/04/2026" % day)
        archive = pack({"a.cfg": cfg, "a.dat": record.ascii()})
        start.wait(timeout=30)
        imported = import_archive(archive, name="a.zip", store=shared_store, clock=ManualClock(1), cache=cache)
        return str(imported.payload["DataSets"][0]["Streams"][0]["Uuid"])

    with ThreadPoolExecutor(3) as pool:
        (uuid,) = set(pool.map(run, (1, 2, 3)))
    with shared_store.read() as tx:
        assert series.count(tx, uuid) == 3 * SAMPLES
        assert len(tx.events.page()) == 3
