"""A platform's worth of metrics and models over a store, with a clock that the test moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventproc.abc import Store
from eventproc.bus.memory import MemoryBus
from eventproc.model import SECOND_US, Event, Metric, MetricStatus, NewMetric, Sample
from eventproc.models import lifecycle
from eventproc.models.lifecycle import Teller
from eventproc.models.runner import ModelRunner, RunnerSettings
from eventproc.models.shares import Shares, ShareSettings
from eventproc.models.specs import parse_spec
from eventproc.models.uploaded import Uploads
from eventproc.registry.catalogue import CatalogueCache
from eventproc.registry.specs import load_specs
from eventproc.service.hooks import sync_bundled_hooks

HOOKS = Path(__file__).parents[1] / "hooks"
EPOCH = 1_386_201_600  # 2013-12-05, seconds
STEP = 300


class ManualClock:
    def __init__(self) -> None:
        self.us = EPOCH * SECOND_US

    def now_us(self) -> int:
        return self.us


def wave(count: int, *, start: int = 0, spikes: Sequence[int] = ()) -> list[float]:
    """Values of a day's rhythm with some reproducible noise; `spikes` are far out."""
    values = []
    for i in range(start, start + count):
        noise = ((i * 2_654_435_761) >> 7) % 1000 / 1000
        values.append(50 + 20 * math.sin(i / 46) + 3 * noise + (300 if i in spikes else 0))
    return values


@dataclass
class ModelsWorld:
    """Metrics, a runner, and short ways to look at what became of them."""

    store: Store
    exchange: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    uploads: Uploads | None = None

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus()
        specs, broken = load_specs(sorted(HOOKS.glob("*.yaml")), source="bundled")
        assert not broken
        with self.store.begin() as tx:
            sync_bundled_hooks(tx, specs, now_us=self.clock.us)
        cache = CatalogueCache(self.store)
        self.teller = Teller(catalogue=cache.current, bus=self.bus, exchange=self.exchange)
        self.runner = self.new_runner("one")

    def new_runner(self, name: str, full_speed: Callable[[], bool] = lambda: True, **settings: Any) -> ModelRunner:
        """Make another worker."""
        shares = Shares(
            self.store,
            self.clock,
            name,
            settings=ShareSettings(lease_s=15.0),
            monotonic=lambda: self.clock.us / SECOND_US,
        )
        return ModelRunner(
            store=self.store,
            bus=self.bus,
            clock=self.clock,
            teller=self.teller,
            shares=shares,
            settings=RunnerSettings(threads=1, **{**self.settings, **settings}),
            full_speed=full_speed,
            uploads=self.uploads,
        )

    def metric(self, name: str = "cpu", **values: Any) -> Metric:
        with self.store.begin() as tx:
            return tx.metrics.create([NewMetric(name=name, **values)], now_us=self.clock.us)[0][0]

    def send(self, metric: Metric, values: Sequence[float], *, step: int = STEP) -> None:
        """Store samples behind those that there are."""
        with self.store.begin() as tx:
            current = tx.metrics.get(metric.id)
            assert current is not None
            last = current.last_time_us or (EPOCH - step) * SECOND_US
            times = [last + (i + 1) * step * SECOND_US for i in range(len(values))]
            done = tx.samples.add_batch([metric.id] * len(values), times, list(values))
            assert done.accepted == len(values)

    def monitor(self, metric: Metric, **spec: Any) -> Metric:
        given = parse_spec({"metricSpec": {"uid": metric.uid}, **spec})
        with self.store.begin() as tx:
            return lifecycle.monitor(tx, self.teller, metric, given, now_us=self.clock.us)

    def do(self, step: Any, metric: Metric, **options: Any) -> Any:
        """Take a step of the life cycle in a transaction of its own."""
        with self.store.begin() as tx:
            return step(tx, self.teller, metric, now_us=self.clock.us, **options)

    def settle(self, runner: ModelRunner | None = None, limit: int = 500) -> None:
        """Let a worker work until nothing waits."""
        for _ in range(limit):
            if (runner or self.runner).tick() == 0:
                return
        raise AssertionError("the worker does not come to rest")

    def now(self, metric: Metric) -> Metric:
        with self.store.read() as tx:
            found = tx.metrics.get(metric.id)
        assert found is not None
        return found

    def status(self, metric: Metric) -> MetricStatus:
        return MetricStatus(self.now(metric).status)

    def model(self, metric: Metric) -> Any:
        with self.store.read() as tx:
            return tx.models.of_metric(metric.id)

    def samples(self, metric: Metric) -> list[Sample]:
        with self.store.read() as tx:
            return tx.samples.after(metric.id, 0, limit=100_000)

    def scores(self, metric: Metric) -> list[tuple[float | None, float | None]]:
        return [(sample.raw_score, sample.anomaly_score) for sample in self.samples(metric)]

    def events(self, hook: str) -> list[Event]:
        with self.store.read() as tx:
            return tx.events.page(hook=hook, limit=100_000, newest_first=False)

    def outgoing(self) -> list[Any]:
        with self.store.read() as tx:
            return sorted(tx.outbox.page(limit=100_000), key=lambda message: message.id)
