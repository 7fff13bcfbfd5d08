"""What the finisher writes when outcomes wait for the store."""

from __future__ import annotations

import queue
from contextlib import contextmanager

import pytest
from engine_lab import Lab

from eventproc.engine.finishing import Finisher, Written
from eventproc.engine.outcomes import Conclusion
from eventproc.errors import EventConflict
from eventproc.model import SECOND_US, Effects, Finish, NewEvent, RunState

LEASE_US = 5 * SECOND_US


@pytest.fixture
def lab():
    with Lab() as made:
        yield made


class Gate:
    """A store that is closed for a while."""

    def __init__(self, store):
        self.store = store
        self.opened = queue.SimpleQueue()

    @contextmanager
    def begin(self):
        self.opened.get()
        self.opened.put(None)
        with self.store.begin() as tx:
            yield tx

    def read(self):
        return self.store.read()


def claim_again(lab, now_us):
    """Let the run's lease run out, and claim it anew."""
    with lab.store.begin() as tx:
        tx.runs.expire_leases(now_us=now_us, max_interruptions=3)
        (claim,) = tx.runs.claim(worker="one", pythons=[], want_run=1, want_batch=0, lease_us=LEASE_US, now_us=now_us)
    return claim


def conclusion(claim, text):
    return Conclusion(
        claim=claim,
        finish=Finish(run_id=claim.run_id, token=claim.token, state=RunState.SUCCEEDED, result_json=f'"{text}"'),
        effects=Effects(events=(NewEvent(hook="test.result", payload={"from": text}),)),
    )


@pytest.mark.parametrize("late_first", [False, True])
def test_two_outcomes_of_one_run_that_waited_together_count_once(lab, *, late_first):
    """The lease ran out while the first outcome waited, the same worker got the run again: only the second counts."""
    lab.register(lambda db: None, name="nothing")
    (run_id,) = lab.emit().runs
    now_us = lab.now_us()
    early = claim_again(lab, now_us)
    late = claim_again(lab, now_us + 2 * LEASE_US)
    assert early.run_id == late.run_id == run_id
    gate = Gate(lab.store)
    finisher = Finisher(store=gate, bus=lab.bus, clock=lab.clock, cache=lab.cache, max_delay_s=0.2)
    answers = {}
    conclusions = {"early": conclusion(early, "early"), "late": conclusion(late, "late")}
    for name in sorted(conclusions, reverse=late_first):
        finisher.submit(conclusions[name], lambda written, name=name: answers.__setitem__(name, written))
    gate.opened.put(None)
    finisher.stop(within_s=30)
    assert answers == {"early": Written.STALE, "late": Written.YES}
    assert lab.events("test.result") == [{"from": "late"}]
    assert lab.run(run_id).result_json == '"late"'


def claims_of(lab, count):
    for _ in range(count):
        lab.emit()
    now_us = lab.now_us()
    with lab.store.begin() as tx:
        return tx.runs.claim(worker="one", pythons=[], want_run=count, want_batch=0, lease_us=LEASE_US, now_us=now_us)


def made(claim, *events):
    return Conclusion(
        claim=claim,
        finish=Finish(run_id=claim.run_id, token=claim.token, state=RunState.SUCCEEDED),
        effects=Effects(events=events),
    )


def test_events_of_many_runs_written_together_keep_to_their_runs(lab):
    """One of three emits an id that is taken: its neighbours are written, it is not, and nor are its other events."""
    lab.register(lambda db: None, name="nothing")
    first, spoilt, last = claims_of(lab, 3)
    lab.emit("test.result", {"from": "before"}, id="taken")
    gate = Gate(lab.store)
    finisher = Finisher(store=gate, bus=lab.bus, clock=lab.clock, cache=lab.cache, max_delay_s=0.2)
    answers = {}

    def event(name, **more):
        return NewEvent(hook="test.result", payload={"from": name}, **more)

    for name, conclusion_ in {
        "first": made(first, event("first"), event("first")),
        "spoilt": made(spoilt, event("spoilt"), event("spoilt", id="taken")),
        "last": made(last, event("last", caused_by_run=last.run_id)),
    }.items():
        finisher.submit(conclusion_, lambda answer, name=name: answers.__setitem__(name, answer))
    gate.opened.put(None)
    finisher.stop(within_s=30)
    assert (answers["first"], answers["last"]) == (Written.YES, Written.YES)
    assert isinstance(answers["spoilt"], EventConflict)
    assert [payload["from"] for payload in lab.events("test.result")] == ["before", "first", "first", "last"]
    states = {name: lab.run(claim.run_id).state for name, claim in (("first", first), ("spoilt", spoilt))}
    assert states == {"first": RunState.SUCCEEDED, "spoilt": RunState.RUNNING}
