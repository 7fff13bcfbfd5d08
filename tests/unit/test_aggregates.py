"""Aggregates close their periods by the data's own time, and by the clock where nothing more comes."""

from __future__ import annotations

import pytest

from eventproc.bus.memory import MemoryBus
from eventproc.engine.clock import ManualClock
from eventproc.metrics.aggregates import Aggregator
from eventproc.model import NewMetric
from eventproc.model.annotations import Aggregate, AggregateFunction
from eventproc.store.memory import MemoryStore

MINUTE_US = 60_000_000
PERIOD_US = 5 * MINUTE_US
START_US = 1_700_000_100_000_000 // PERIOD_US * PERIOD_US


@pytest.fixture
def world():
    world = World()
    yield world
    world.store.close()


class World:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = ManualClock(START_US)
        self.aggregator = Aggregator(store=self.store, clock=self.clock, bus=MemoryBus())

    def add(self, function="mean", pattern="*.cpu", tags=None) -> None:
        wanted = Aggregate(
            name="all.cpu",
            pattern=pattern,
            tags=tags or {},
            function=AggregateFunction(function),
            period_us=PERIOD_US,
            wait_us=MINUTE_US,
        )
        with self.store.begin() as tx:
            tx.aggregates.add(wanted)

    def send(self, name: str, *samples: tuple[float, float], tags=None) -> None:
        with self.store.begin() as tx:
            metric, _ = tx.metrics.create([NewMetric(name=name, tags=tags or {})], now_us=1)[0]
            times = [START_US + round(minutes * MINUTE_US) for minutes, _ in samples]
            tx.samples.add_batch([metric.id] * len(times), times, [value for _, value in samples])

    def made(self) -> list[tuple[float, float]]:
        with self.store.read() as tx:
            metric = tx.metrics.by_name("all.cpu")
            rows = [] if metric is None else tx.samples.after(metric.id, 0)
        return [((row.time_us - START_US) / MINUTE_US, row.value) for row in rows]

    def state(self) -> Aggregate:
        with self.store.read() as tx:
            return tx.aggregates.all()[0]


@pytest.mark.parametrize(
    ("function", "values"),
    [("mean", [4.0, 10.0]), ("sum", [10.0, 10.0]), ("count", [2.0, 1.0]), ("min", [1.0, 10.0]), ("max", [6.0, 10.0])],
)
def test_each_function_over_two_members(world, function, values):
    world.add(function)
    world.send("a.cpu", (0, 1.0), (1, 3.0), (11, 0.0))
    world.send("b.cpu", (2, 6.0), (6, 10.0))
    assert world.aggregator.tick() == 2
    assert world.made() == [(0.0, values[0]), (5.0, values[1])]


def test_a_period_waits_for_members_that_are_late(world):
    world.add()
    world.send("a.cpu", (0, 1.0), (5.5, 2.0))
    assert world.aggregator.tick() == 0
    world.send("b.cpu", (4, 3.0))
    world.send("a.cpu", (6, 2.0))
    assert world.aggregator.tick() == 1
    assert world.made() == [(0.0, 2.0)]


def test_where_nothing_more_comes_the_clock_closes_the_period(world):
    world.add()
    world.send("a.cpu", (0, 1.0))
    assert world.aggregator.tick() == 0
    world.clock.advance(5 * 60)
    assert world.aggregator.tick() == 0
    world.clock.advance(61)
    assert world.aggregator.tick() == 1
    assert world.made() == [(0.0, 1.0)]
    assert world.aggregator.tick() == 0


def test_the_same_periods_however_the_samples_come(world):
    world.add("sum")
    for minute in range(60):
        world.send("a.cpu", (minute, float(minute)))
        world.send("b.cpu", (minute + 0.5, 1.0))
        world.aggregator.tick()
    world.clock.advance(2 * 3600)
    world.aggregator.tick()  # sees the last sample
    world.clock.advance(120)
    world.aggregator.tick()
    expected = [(5.0 * k, sum(range(5 * k, 5 * k + 5)) + 5.0) for k in range(12)]
    assert world.made() == expected
    assert world.state().periods == 12
    assert world.state().members == 2


def test_members_are_chosen_by_tags_and_an_aggregate_is_no_member_of_itself(world):
    world.add("sum", pattern=None, tags={"dc": "e*"})
    world.send("x", (0, 1.0), (20, 1.0), tags={"dc": "east"})
    world.send("y", (0, 5.0), (20, 1.0), tags={"dc": "west"})
    world.aggregator.tick()
    assert world.made() == [(0.0, 1.0)]


def test_a_paused_aggregate_makes_up_for_what_it_missed(world):
    world.add()
    with world.store.begin() as tx:
        tx.aggregates.pause("all.cpu", paused=True)
    world.send("a.cpu", (0, 1.0), (7, 2.0), (30, 3.0))
    assert world.aggregator.tick() == 0
    with world.store.begin() as tx:
        tx.aggregates.pause("all.cpu", paused=False)
    world.aggregator.tick()
    assert world.made() == [(0.0, 1.0), (5.0, 2.0)]


def test_two_aggregators_close_each_period_once(world):
    world.add()
    other = Aggregator(store=world.store, clock=world.clock, bus=MemoryBus())
    world.send("a.cpu", *((minute, 1.0) for minute in range(100)))
    counts = [world.aggregator.tick(), other.tick()]
    assert sum(counts) == 19
    assert len(world.made()) == 19
