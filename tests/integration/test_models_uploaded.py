"""Detectors of users on the real sandbox: what they score, and that what they do wrong is their metrics' alone."""

# Detectors stand here as users write them.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from models_world import ModelsWorld, wave
from waiting import wait_until

from eventproc.abc import Registration
from eventproc.codec.blob import pack
from eventproc.errors import InvalidHandler, InvalidInput
from eventproc.model import DETECTOR_HOOK, Limits, MetricStatus, Options, Role
from eventproc.models import lifecycle
from eventproc.models.uploaded import Uploads
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.store.memory import MemoryStore


class Steps:
    """Scores how far a value is from the last one."""

    def __init__(self, scale: float = 100.0) -> None:
        self.scale = scale
        self.last = None
        self.seen = 0

    def score_one(self, x):
        return 0.0 if self.last is None else min(1.0, abs(x - self.last) / self.scale)

    def learn_one(self, x):
        self.last = x
        self.seen += 1


def expected(values: list[float], scale: float = 100.0) -> list[float]:
    one, found = Steps(scale), []
    for value in values:
        found.append(one.score_one(value))
        one.learn_one(value)
    return found


@pytest.fixture(scope="module")
def sandbox():
    made = ForkServerSandbox()
    yield made
    made.close()


@pytest.fixture
def world(sandbox):
    store = MemoryStore()
    made = ModelsWorld(store, uploads=Uploads(store, lambda: sandbox))
    with store.begin() as tx:
        made.owner = tx.users.add("dev", Role.DEVELOPER, now_us=1)
    yield made
    made.runner.close()
    store.close()


def upload(world: ModelsWorld, detector: type, name: str = "mine", **limits: float) -> None:
    options = Options(limits=replace(Limits(timeout_s=20.0, cpu_s=20.0), **limits))
    registration = Registration(
        hook=DETECTOR_HOOK,
        name=name,
        bundle=pack(detector, detector=True),
        tags=(),
        notify_on_success=None,
        notify_on_failure=None,
        options=options,
    )
    with world.store.begin() as tx:
        tx.handlers.put(registration, owner=world.owner, now_us=1)


def until(world: ModelsWorld, condition: Callable[[], bool], what: str) -> None:
    def done() -> bool:
        world.runner.tick()
        return condition()

    wait_until(done, timeout_s=60, what=what)


def monitored(world: ModelsWorld, name: str = "cpu", **options):
    metric = world.metric(name)
    world.monitor(metric, options={"detector": "user:mine", **options})
    return metric


def scored(world: ModelsWorld, metric, count: int) -> list[float | None]:
    until(world, lambda: world.now(metric).scored_rowid == count, f"{count} scored samples")
    return [score for _, score in world.scores(metric)]


def in_error(world: ModelsWorld, metric) -> str:
    until(world, lambda: world.status(metric) == MetricStatus.ERROR, "the metric to be in ERROR")
    return world.model(metric).message


def test_it_scores_whatever_the_batches_and_with_parameters(world):
    upload(world, Steps)
    one, other = monitored(world), monitored(world, "other", parameters={"scale": 50.0})
    values = wave(60)
    for start in range(0, 60, 20):
        world.send(one, values[start : start + 20])
        assert scored(world, one, start + 20) == expected(values)[: start + 20]
    world.send(other, values)
    assert scored(world, other, 60) == expected(values, 50.0)


def test_the_state_outlives_the_worker(world, sandbox):
    upload(world, Steps)
    metric = monitored(world)
    values = wave(30)
    world.send(metric, values[:17])
    scored(world, metric, 17)
    world.runner.close()
    world.uploads = Uploads(world.store, lambda: sandbox)
    world.runner = world.new_runner("two")
    world.send(metric, values[17:])
    assert scored(world, metric, 30) == expected(values)


def test_only_so_many_detectors_stay_in_memory(world, sandbox):
    started, ended = [], []

    class Counted:
        def __init__(self, child):
            self.child = child
            started.append(self)

        def __getattr__(self, name):
            return getattr(self.child, name)

        def close(self):
            self.child.close()
            ended.append(self)

    class Counting:
        def spawn(self, program, limits):
            return Counted(sandbox.spawn(program, limits))

    world.runner.close()
    world.uploads = Uploads(world.store, Counting, max_children=1)
    world.runner = world.new_runner("small")
    metrics = []
    for name in ("first", "second"):
        upload(world, Steps, name)
        metrics.append(monitored(world, name, detector=f"user:{name}"))
    values = wave(10)
    for start in (0, 5):
        for metric in metrics:
            world.send(metric, values[start : start + 5])
            assert scored(world, metric, start + 5) == expected(values)[: start + 5]
    assert len(started) >= 4  # each has had to make room for the other
    assert ended == started[:-1]


class WithTimesAndState:
    def __init__(self):
        self.times = []

    def score_one(self, x, t):
        return 1.0 if self.times and t - self.times[-1] > 1000 else 0.0

    def learn_one(self, x, t):
        self.times = [t]

    def save(self):
        return repr(self.times).encode()

    @classmethod
    def load(cls, saved):
        one = cls()
        one.times = [float(text) for text in saved.decode()[1:-1].split(",") if text]
        return one


def test_it_may_know_the_time_and_save_itself(world):
    upload(world, WithTimesAndState)
    metric = monitored(world)
    world.send(metric, [1.0, 2.0])
    scored(world, metric, 2)
    world.send(metric, [3.0], step=5000)
    assert scored(world, metric, 3) == [0.0, 0.0, 1.0]


class Exits(Steps):
    def score_one(self, x):
        import os

        if x > 90:
            os._exit(3)
        return 0.0


class Loops(Steps):
    def score_one(self, x):
        while x > 90:
            pass
        return 0.0


class Raises(Steps):
    def learn_one(self, x):
        if x > 90:
            print("about to fail")
            raise ValueError("no such level")


class Huge(Steps):
    def learn_one(self, x):
        if x > 90:
            self.all = b"x" * (2 << 20)


class Words(Steps):
    def score_one(self, x):
        return "very" if x > 90 else 0.0


class Connects(Steps):
    def score_one(self, x):
        import socket

        if x > 90:
            socket.create_connection(("127.0.0.1", 1), timeout=1)
        return 0.0


class NoPickle(Steps):
    def learn_one(self, x):
        if x > 90:
            self.frame = __import__("sys")._getframe()


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (Exits, "exit"),
        (Loops, "timeout"),
        (Raises, "ValueError: no such level"),
        (Huge, "state"),
        (Words, "a score is a number"),
        (Connects, "no network"),
        (NoPickle, "pickle"),
    ],
)
def test_what_goes_wrong_puts_its_metric_into_error_and_loses_nothing(world, detector, words):
    upload(world, detector, timeout_s=1.5 if detector is Loops else 20.0)
    upload(world, Steps, "good")
    metric, other = monitored(world), world.metric("other")
    world.monitor(other, options={"detector": "user:good"})
    world.send(metric, [1.0, 2.0])
    scored(world, metric, 2)
    world.send(metric, [3.0, 95.0, 4.0])
    world.send(other, [1.0, 51.0])
    message = in_error(world, metric)
    assert words in message
    assert "user:mine version 0" in message
    if detector is Raises:
        assert "about to fail" in message
    assert scored(world, other, 2) == [0.0, 0.5]
    world.send(metric, [5.0])
    assert [score for _, score in world.scores(metric)] == [0.0, 0.0] + [None] * 4
    upload(world, Steps)
    world.do(lifecycle.retry, metric, fresh=True)  # with the version that is current now
    until(world, lambda: world.now(metric).scored_rowid == 6, "the samples of the meantime to be scored")
    assert world.scores(metric)[3][1] == 0.92
    told = [row["rowid"] for event in world.events("inference.batch_done") for row in _rows(event, metric)]
    assert sorted(told) == [1, 2, 3, 4, 5, 6]


def _rows(event, metric):
    import json

    read = json.loads(event.payload_json)
    return read["results"] if read["metric"]["uid"] == metric.uid else []


class Nans(Steps):
    def score_one(self, x):
        return math.nan if x > 90 else 7.5


def test_a_score_that_is_no_number_costs_its_row_alone(world):
    upload(world, Nans)
    metric = monitored(world)
    world.send(metric, [1.0, 95.0, 2.0])
    assert scored(world, metric, 3) == [1.0, None, 1.0]  # what is over 1 counts as 1
    [event] = world.events("inference.batch_rejected")
    assert "[2]" in event.payload_json


class Shares(Steps):
    everything = []  # noqa: RUF012 - as users write it

    def score_one(self, x):
        self.everything.append(x)
        return len(self.everything) / 100


def test_nothing_that_a_class_keeps_to_itself_reaches_another_metric(world):
    upload(world, Shares)
    one, other = monitored(world), monitored(world, "other")
    world.send(one, [1.0, 2.0])
    world.send(other, [1.0, 2.0])
    assert scored(world, one, 2) == scored(world, other, 2) == [0.01, 0.02]


def test_historical_likelihoods_work_on_its_scores(world):
    upload(world, Steps)
    metric = monitored(world, likelihood=_likelihood())
    world.send(metric, wave(450, spikes=(420,)))
    found = scored(world, metric, 450)
    assert found[:90] == [0.0] * 90
    assert max(found[300:420]) < 0.99 < max(found[420:])


def _likelihood() -> str:
    from eventproc.models.specs import LIKELIHOODS

    return LIKELIHOODS[-1]


def test_versions_are_pinned_and_unknown_names_refused(world):
    upload(world, Steps)
    metric = monitored(world)
    upload(world, Nans)
    world.send(metric, [1.0, 51.0])
    assert scored(world, metric, 2) == [0.0, 0.5]
    with pytest.raises(InvalidInput, match=r"no detector is registered as 'user:min'.*user:mine"):
        world.monitor(world.metric("other"), options={"detector": "user:min"})
    with pytest.raises(InvalidInput, match="takes 'parameters' only"):
        world.monitor(world.metric("more"), options={"detector": "user:mine", "timeOfDay": True})


def test_what_is_no_detector_is_refused_where_it_is_sent_from():
    class Half:
        def score_one(self, x):
            return 0

    with pytest.raises(InvalidHandler, match="score_one"):
        pack(Half, detector=True)
    with pytest.raises(InvalidHandler, match="score_one"):
        pack(lambda db: 1, detector=True)


def test_detectors_of_a_disabled_user_stop_and_go_on_where_they_were(world):
    upload(world, Steps)
    metric = monitored(world)
    values = wave(60)
    world.send(metric, values[:20])
    assert scored(world, metric, 20) == expected(values[:20])
    with world.store.begin() as tx:
        tx.users.update(world.owner.id, disabled=True)
    world.send(metric, values[20:40])
    assert "while its user 'dev' is disabled" in in_error(world, metric)
    assert world.now(metric).scored_rowid == 20
    with world.store.begin() as tx:
        tx.users.update(world.owner.id, disabled=False)
    world.do(lifecycle.retry, metric)
    assert scored(world, metric, 40) == expected(values[:40])
