"""Messages of samples from a queue: each line and each message is judged by itself."""

from __future__ import annotations

import json

import pytest

from eventproc.bus.memory import MemoryBus
from eventproc.engine.clock import ManualClock
from eventproc.errors import StoreUnavailable
from eventproc.metrics.intake import Intake
from eventproc.metrics.queue import QueueIntake
from eventproc.registry.catalogue import CatalogueCache
from eventproc.store.memory import MemoryStore


def message(*lines: str, **members) -> bytes:
    return json.dumps({"protocol": "plain", "data": lines} | members).encode()


@pytest.fixture
def store():
    made = MemoryStore()
    made.upgrade()
    yield made
    made.close()


@pytest.fixture
def queue(store):
    return QueueIntake(Intake(store=store, clock=ManualClock(), cache=CatalogueCache(store), bus=MemoryBus()), "q")


def values(store, name: str) -> list[float]:
    with store.read() as tx:
        metric = tx.metrics.by_name(name)
        return [] if metric is None else [sample.value for sample in tx.samples.after(metric.id, 0, limit=100)]


def test_the_lines_of_all_messages_are_stored(queue, store):
    assert queue.take([message("a 1 100", "b 2.5 100"), message("a 3 200.25")]) == [None, None]
    assert values(store, "a") == [1.0, 3.0]
    assert values(store, "b") == [2.5]


def test_a_bad_line_is_refused_by_itself(queue, store):
    assert queue.take([message("a 1 100", "nonsense", "a x 200", "a 2 3\nb 1 1", "ü 1 1", "a 4 300")]) == [None]
    assert values(store, "a") == [1.0, 4.0]
    with store.read() as tx:
        assert sum(reject.count for reject in tx.rejects.page()) == 4


@pytest.mark.parametrize(
    "poison",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"protocol": "plain"}',
        message("a 1 1", protocol="pickle"),
        message(data={"a": 1}),
        message(data=[1]),
        b'{"protocol": "plain", "data": ["a 1 1"',
    ],
)
def test_a_message_that_is_none_is_named_and_its_neighbours_are_stored(queue, store, poison):
    first, reason, last = queue.take([message("a 1 100"), poison, message("a 2 200")])
    assert (first, last) == (None, None)
    assert reason.startswith("not a message of samples")
    assert values(store, "a") == [1.0, 2.0]
    with store.read() as tx:
        [reject] = tx.rejects.page()
    assert (reject.reason, reject.count, reject.source) == ("unreadable", 1, "queue q")


def test_a_message_that_comes_twice_changes_nothing(queue, store):
    for _ in range(2):
        assert queue.take([message("a 1 100", "a 2 200")]) == [None]
    assert values(store, "a") == [1.0, 2.0]


def test_while_the_store_is_away_nothing_is_taken(queue, store, monkeypatch):
    def away(*_args, **_options):
        raise StoreUnavailable("locked")

    with monkeypatch.context() as patched:
        patched.setattr(store, "begin", away)
        with pytest.raises(StoreUnavailable):
            queue.take([message("a 1 100")])
    queue.take([message("a 1 100")])
    assert values(store, "a") == [1.0]
