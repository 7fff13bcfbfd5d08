"""One user's long runs do not keep out all others."""

# Handlers stand here as users write them.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs

from __future__ import annotations

import pytest
from engine_lab import Lab
from waiting import wait_until

from eventproc.model import Role, RunState
from eventproc.sandbox.forkserver import ForkServerSandbox


@pytest.fixture
def lab():
    with Lab(sandbox=ForkServerSandbox()) as made:
        yield made


def sleeps(db, **payload):
    import time

    time.sleep(600)


def quick(db, **payload):
    return "done"


def running(lab, runs):
    return sum(lab.run(run).state is RunState.RUNNING for run in runs)


@pytest.mark.parametrize("isolation", ["run", "cell", "batch"])
def test_a_run_ends_though_another_user_has_runs_for_all_slots_that_never_end(lab, isolation):
    with lab.store.begin() as tx:
        mallory = tx.users.add("mallory", Role.DEVELOPER, now_us=lab.now_us())
    lab.register(sleeps, "test.long", owner=mallory, isolation=isolation)
    lab.register(quick, "test.quick", isolation=isolation)
    lab.start(slots=2, batch_slots=1, batch_hold_s=0.05)
    most = 1 if isolation == "batch" else 2
    long = [lab.emit("test.long").runs[0] for _ in range(8)]
    wait_until(lambda: running(lab, long) >= most, what="the long runs to have what they may have")
    for _ in range(3):
        assert lab.result_of("test.quick").state is RunState.SUCCEEDED
    for run in long:
        assert lab.run(run).state in {RunState.RUNNING, RunState.QUEUED}


def test_one_user_has_all_slots_and_not_the_one_that_is_kept_for_others(lab):
    with lab.store.begin() as tx:
        other = tx.users.add("other", Role.DEVELOPER, now_us=lab.now_us())
    lab.register(sleeps, "test.long")
    lab.register(quick, "test.quick", owner=other)
    lab.start(slots=3)
    long = [lab.emit("test.long").runs[0] for _ in range(4)]
    wait_until(lambda: running(lab, long) == 3, what="all slots to be taken")
    for _ in range(3):
        assert lab.result_of("test.quick").state is RunState.SUCCEEDED
        assert running(lab, long) == 3


def test_what_was_held_back_goes_on_as_soon_as_there_is_a_slot(lab):
    with lab.store.begin() as tx:
        other = tx.users.add("other", Role.DEVELOPER, now_us=lab.now_us())
    lab.register(quick, "test.other", owner=other)
    lab.register(quick, "test.quick")
    lab.start(slots=3, poll_s=300.0)  # nothing else makes the worker look again
    runs = [lab.emit("test.quick").runs[0] for _ in range(12)]
    assert {lab.ended(run).state for run in runs} == {RunState.SUCCEEDED}
