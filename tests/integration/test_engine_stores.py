"""The engine on databases that several workers share: SQLite in a file and PostgreSQL."""

# ruff: noqa: F821 - `ep` is there for handlers

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
from engine_lab import Lab
from servers import PostgresServer, postgres_server

from eventproc.abc import Store
from eventproc.engine.clock import ManualClock
from eventproc.engine.housekeeping import Housekeeper
from eventproc.model import Accepted, NewEvent, RunState
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.store import open_store

S = RunState


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)])
def store(request, tmp_path) -> Store:
    url = f"sqlite:///{tmp_path}/x.db"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        url = server.url(server.create())
    store = open_store(url)
    store.upgrade()
    return store


def works(db, n, id=None):
    """Do one of the things that handlers do, by the event's number."""
    ep.emit("test.result", {"n": n}, id=id)
    if n % 10 == 1 and ep.event.attempt == 1:
        raise ValueError("only the second time")
    if n % 10 == 2:
        raise KeyError("never")
    if n % 10 == 3:
        ep.on_commit(lambda: print("committed", n))
    if n % 10 == 4:
        stream = db.create(collection="test", name=f"s{n}")
        db.insert(stream, [n, n + 1], [1.0, 2.0])
    return n


def test_three_workers_bring_each_event_to_its_end_and_write_each_effect_once(store):
    with Lab(store=store, sandbox=ForkServerSandbox()) as lab:
        lab.register(works, isolation="batch", retries={"max": 1, "backoff": "20ms"}, failure="a@example.com")
        for _ in range(3):
            lab.start(slots=1, batch_slots=1, batch_max=20)
        results = []
        for start in range(0, 300, 50):
            results += lab.accept(
                *(
                    # Every sixth pair of events wants its result under the same id, which only one can have.
                    NewEvent(
                        hook="test.happened",
                        payload={"n": n, "id": f"pair{n // 20}"} if n % 10 == 5 else {"n": n},
                        key=f"k{n % 7}" if n % 3 == 0 else None,
                    )
                    for n in range(start, start + 50)
                )
            )
        assert all(isinstance(result, Accepted) for result in results)
        ended = [lab.ended(result.runs[0], timeout_s=60) for result in results]
        by_kind: dict[int, Counter[RunState]] = {}
        for n, run in enumerate(ended):
            by_kind.setdefault(n % 10, Counter())[run.state] += 1
        for kind in (0, 1, 3, 4, 6, 7, 8, 9):
            assert by_kind[kind] == {S.SUCCEEDED: 30}, kind
        assert by_kind[2] == {S.FAILED: 30}
        assert by_kind[5] == {S.SUCCEEDED: 15, S.FAILED: 15}
        expected = {n for n, run in enumerate(ended) if run.state is S.SUCCEEDED}
        with store.read() as tx:
            events = tx.events.page(hook="test.result", limit=1000)
            assert len(tx.series.find(collection="test")) == 30
        assert sorted(json.loads(event.payload_json)["n"] for event in events) == sorted(expected)
        failed = [run for run in ended if run.state is S.FAILED]
        assert all(len(lab.notices(run.id)) == 1 for run in failed)
        assert len(lab.events("run.failed")) == len(failed)


def test_runs_of_one_key_keep_their_order_over_workers(store):
    def note(db, n):
        ep.emit("test.done", {"n": n})

    with Lab(store=store, sandbox=ForkServerSandbox()) as lab:
        lab.register(note, isolation="batch")
        runs = [lab.emit(payload={"n": n}, key="one").runs[0] for n in range(30)]
        for _ in range(2):
            lab.start(slots=1, batch_slots=1)
        for run in runs:
            lab.ended(run)
        assert [payload["n"] for payload in lab.events("test.done")] == list(range(30))


def test_lost_leases_are_taken_back_once_by_several_housekeepers(store):
    with Lab(store=store, clock=ManualClock()) as lab:
        lab.register(works, failure="a@example.com")
        runs = [lab.emit(payload={"n": 6}).runs[0] for _ in range(20)]
        for _ in range(4):
            with store.begin() as tx:
                claims = tx.runs.claim(
                    worker="gone", pythons=[], want_run=50, want_batch=0, lease_us=1000, now_us=lab.now_us()
                )
            assert len(claims) == 20
            lab.clock.advance(1)
            for keeper in [Housekeeper(store=store, bus=lab.bus, clock=lab.clock) for _ in range(2)]:
                keeper.expire_leases()
        assert {lab.run(run).state for run in runs} == {S.FAILED}
        assert all(len(lab.notices(run)) == 1 for run in runs)
        assert len(lab.events("run.failed")) == 20
