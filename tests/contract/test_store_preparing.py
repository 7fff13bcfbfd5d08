"""Contract of the store: what workers have, locks of packages, and what registrations wait for."""

from __future__ import annotations

import threading

from store_world import World, make_registration

from eventproc.abc import Store
from eventproc.model import Environment, WorkerState

LOCK = Environment.of(
    "3.11", ("paint",), "colours==2.0 \\\n    --hash=sha256:00\npaint==1.1 \\\n    --hash=sha256:11\n"
)


def worker(name: str, seen_us: int, *pythons: str) -> WorkerState:
    return WorkerState(name=name, host="a", pythons=pythons, unused={"/usr/bin/python3.7": "old"}, seen_us=seen_us)


def test_live_workers_are_those_that_spoke_lately(store: Store):
    with store.begin() as tx:
        tx.workers.state(worker("b", 100, "3.11"))
        tx.workers.state(worker("a", 200, "3.11"))
        tx.workers.state(worker("a", 300, "3.11", "3.9"))
    with store.read() as tx:
        assert tx.workers.live(since_us=100) == [worker("a", 300, "3.11", "3.9"), worker("b", 100, "3.11")]
        assert [each.name for each in tx.workers.live(since_us=101)] == ["a"]
    with store.begin() as tx:
        assert tx.workers.forget(before_us=200) == 1
        tx.workers.leave("a")
        tx.workers.leave("nobody")
        assert tx.workers.live(since_us=0) == []


def test_a_lock_is_kept_by_its_digest_with_who_uses_it(store: Store):
    owner = World(store).user()
    with store.begin() as tx:
        tx.environments.put(LOCK, now_us=1)
        tx.environments.put(LOCK, now_us=2)
        assert tx.environments.get(LOCK.digest) == LOCK
        assert tx.environments.get("other") is None
        assert LOCK.packages == ("colours==2.0", "paint==1.1")
        assert tx.environments.all() == [(LOCK, [])]
        registration = make_registration(name="painter", environment=LOCK.digest)
        record = tx.handlers.put(registration, owner=owner, now_us=3)
        assert record.current.environment == LOCK.digest
        assert tx.environments.all() == [(LOCK, ["test.happened/painter"])]
        tx.handlers.put(make_registration(name="painter"), owner=owner, now_us=4)
        assert tx.environments.all() == [(LOCK, [])]
        assert tx.handlers.versions(record.id)[0].environment == LOCK.digest


def test_a_preparation_is_taken_by_one_who_has_its_python_and_answered_once(store: Store):
    with store.begin() as tx:
        number = tx.preparations.ask("3.9", '{"a":1}', b"\0blob", now_us=10)
        assert not tx.preparations.waiting(pythons=["3.11"], now_us=10)
        assert tx.preparations.take(worker="w", pythons=["3.11"], until_us=50, now_us=10) is None
        assert tx.preparations.waiting(pythons=["3.11", "3.9"], now_us=10)
    with store.begin() as tx:
        taken = tx.preparations.take(worker="w", pythons=["3.9"], until_us=50, now_us=10)
        assert taken is not None
        assert (taken.id, taken.python, taken.request_json, taken.blob) == (number, "3.9", '{"a":1}', b"\0blob")
        assert tx.preparations.take(worker="v", pythons=["3.9"], until_us=60, now_us=49) is None
        assert tx.preparations.renew(number, worker="w", until_us=100)
        assert tx.preparations.take(worker="v", pythons=["3.9"], until_us=150, now_us=99) is None
        assert tx.preparations.answered(number) is None
        later = tx.preparations.take(worker="v", pythons=["3.9"], until_us=200, now_us=100)
        assert later is not None
        assert later.id == number
        assert not tx.preparations.renew(number, worker="w", until_us=300)
        assert not tx.preparations.answer(number, worker="w", answer_json="too late")
        assert tx.preparations.answer(number, worker="v", answer_json="yes")
        assert not tx.preparations.answer(number, worker="v", answer_json="again")
        assert tx.preparations.answered(number) == "yes"
        assert not tx.preparations.waiting(pythons=["3.9"], now_us=1000)
        tx.preparations.drop(number)
        assert tx.preparations.answered(number) is None


def test_one_of_an_unknown_python_is_for_everybody_and_the_oldest_comes_first(store: Store):
    with store.begin() as tx:
        first = tx.preparations.ask("", "{}", b"", now_us=10)
        tx.preparations.ask("3.11", "{}", b"", now_us=20)
        taken = tx.preparations.take(worker="w", pythons=["3.11"], until_us=50, now_us=30)
        assert taken is not None
        assert taken.id == first
        assert tx.preparations.forget(before_us=20) == 1
        assert tx.preparations.forget(before_us=21) == 1


def test_several_who_take_at_once_get_different_ones(shared_store: Store):
    with shared_store.begin() as tx:
        asked = {tx.preparations.ask("3.11", "{}", b"", now_us=1) for _ in range(8)}
    taken = []

    def take(name: str) -> None:
        while True:
            with shared_store.begin() as tx:
                found = tx.preparations.take(worker=name, pythons=["3.11"], until_us=100, now_us=2)
            if found is None:
                return
            taken.append(found.id)

    threads = [threading.Thread(target=take, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(asked)
