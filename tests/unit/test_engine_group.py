"""Group commit: writes of many threads share transactions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager

import pytest

from eventproc.abc import Store, Tx
from eventproc.engine.batches import Batches
from eventproc.engine.group import GroupCommit
from eventproc.errors import StoreUnavailable, Unavailable
from eventproc.store.memory import MemoryStore


class Counting:
    """A store that counts its transactions and can be held up or taken away."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.transactions = 0
        self.gate = threading.Event()
        self.gate.set()
        self.away = False

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        self.gate.wait(60)
        if self.away:
            raise StoreUnavailable
        self.transactions += 1
        with self.inner.begin() as tx:
            yield tx


@pytest.fixture
def store():
    inner = MemoryStore()
    yield Counting(inner)
    inner.close()


def put(name):
    def write(tx):
        tx.set_meta(name, "1")
        return name

    return write


def known(store, *names):
    with store.inner.read() as tx:
        return [name for name in names if tx.get_meta(name)]


def test_writes_that_come_together_share_a_transaction(store):
    group = GroupCommit(store)
    store.gate.clear()
    first = group.submit(put("first"))
    others = [group.submit(put(f"n{number}")) for number in range(50)]
    store.gate.set()
    assert [future.result(60) for future in [first, *others]] == ["first", *(f"n{number}" for number in range(50))]
    assert store.transactions <= 2
    group.close()


def test_a_write_that_fails_does_not_fail_its_neighbours(store):
    group = GroupCommit(store, max_delay_s=0.05)

    def bad(tx):
        tx.set_meta("bad", "1")
        raise ValueError("no")

    group.run(put("before"))
    futures = [group.submit(put("a")), group.submit(bad), group.submit(put("b")), group.submit(bad)]
    wait(futures, 10)
    assert [future.exception() is None for future in futures] == [True, False, True, False]
    assert str(futures[1].exception()) == "no"
    assert known(store, "a", "b", "bad") == ["a", "b"]
    group.close()


def test_many_failing_writes_end_too(store):
    group = GroupCommit(store, max_delay_s=0.05)
    group.run(put("before"))

    def bad(_tx):
        raise KeyError("x")

    futures = [group.submit(bad if number % 2 else put(f"n{number}")) for number in range(40)]
    wait(futures, 10)
    assert [future.exception() is None for future in futures] == [number % 2 == 0 for number in range(40)]
    group.close()


def test_a_store_that_is_away_fails_all_that_wait_and_the_next_ones_work(store):
    group = GroupCommit(store)
    store.away = True
    with pytest.raises(StoreUnavailable):
        group.run(put("a"), timeout_s=60)
    store.away = False
    assert group.run(put("b"), timeout_s=60) == "b"
    group.close()


def test_stop_writes_what_waits_and_refuses_more(store):
    group = GroupCommit(store, max_delay_s=0.2)
    group.run(put("first"))
    futures = [group.submit(put(f"n{number}")) for number in range(5)]
    group.close()
    assert all(future.done() for future in futures)
    assert len(known(store, *(f"n{number}" for number in range(5)))) == 5
    with pytest.raises(Unavailable):
        group.submit(put("late"))
    group.close()


def test_a_cancelled_write_is_left_out(store):
    group = GroupCommit(store)
    store.gate.clear()
    group.submit(put("first"))
    second = group.submit(put("second"))
    cancelled = second.cancel()
    store.gate.set()
    group.run(put("third"))
    assert cancelled
    assert known(store, "first", "second", "third") == ["first", "third"]
    group.close()


def test_items_are_handled_in_order_and_a_fault_does_not_end_the_thread(caplog):
    seen: list[int] = []
    done = threading.Event()

    def handle(items):
        if 3 in items:
            raise RuntimeError("boom")
        seen.extend(items)
        if 5 in items:
            done.set()

    batches = Batches(handle, name="test", max_items=1)
    for number in range(6):
        batches.put(number)
    assert done.wait(60)
    batches.stop()
    assert seen == [0, 1, 2, 4, 5]
    assert "boom" in caplog.text
