"""The worker with real processes: limits, cancelling, crashes, and workers that are killed."""

# ruff: noqa: F821 - `ep` is there for handlers

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from engine_lab import Lab
from waiting import wait_until

from eventproc.bus.local import LocalBus
from eventproc.engine.housekeeping import Housekeeper
from eventproc.model import RunState
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.store import open_store

S = RunState


@pytest.fixture
def lab():
    with Lab(sandbox=ForkServerSandbox()) as made:
        yield made


def calls(db, **payload):
    """Return the how manieth call of its process this is."""
    import os
    import sys

    if payload.get("die"):
        os.kill(os.getpid(), 9)
    sys.calls = getattr(sys, "calls", 0) + 1
    return sys.calls


def waits(db, **payload):
    """Wait for the event test.go in the first attempts; handlers see nothing of the test but the platform."""
    import time

    print(f"attempt {ep.event.attempt}", flush=True)
    ep.emit("test.result", {"attempt": ep.event.attempt})
    while ep.event.attempt < payload.get("until", 2) and not db.events(hook="test.go"):
        time.sleep(0.005)
    return "ended"


def begun(lab, run_id, attempt=1):
    wait_until(lambda: f"attempt {attempt}\n" in lab.logs(run_id), what=f"attempt {attempt} of run {run_id}")


def test_isolation_run_gives_each_run_its_own_process_and_batch_shares_one(lab):
    lab.register(calls)
    lab.register(calls, "test.batch", name="batch", isolation="batch")
    lab.start(batch_slots=1)
    assert [lab.result_of().result_json for _ in range(3)] == ["1", "1", "1"]
    assert [lab.result_of("test.batch").result_json for _ in range(3)] == ["1", "2", "3"]


def test_a_warm_process_is_replaced_after_so_many_calls(lab):
    lab.register(calls, isolation="batch")
    lab.start(batch_slots=1, child_max_calls=2)
    assert [lab.result_of().result_json for _ in range(6)] == ["1", "2", "1", "2", "1", "2"]


@pytest.mark.parametrize(("most", "calls_of_the_first"), [(2, "2"), (1, "1"), (0, "1")])
def test_idle_processes_are_bounded_and_the_one_used_longest_ago_goes(lab, most, calls_of_the_first):
    for hook in ("test.one", "test.two"):
        lab.register(calls, hook, name=hook, isolation="batch")
    worker = lab.start(batch_slots=1, children_max_idle=most)
    assert [lab.result_of(hook).result_json for hook in ("test.one", "test.two")] == ["1", "1"]
    wait_until(lambda: len(worker._children._idle) == most, what=f"{most} idle processes")
    assert lab.result_of("test.one").result_json == calls_of_the_first


def dies_later(db, **payload):
    import os
    import threading

    if payload.get("die"):
        threading.Timer(0.05, os._exit, [1]).start()
    return os.getpid()


def test_a_warm_process_that_died_while_it_was_idle_is_no_later_runs_fault(lab):
    lab.register(dies_later, isolation="batch")
    worker = lab.start(batch_slots=1)
    assert lab.result_of(payload={"die": True}).state is S.SUCCEEDED
    idle = wait_until(lambda: list(worker._children._idle), what="the process to be idle")
    wait_until(lambda: not idle[0].child.alive, what="the process to be gone")
    after = lab.result_of()
    assert (after.state, after.attempt) == (S.SUCCEEDED, 1)


def dies_in_commit(db, **payload):
    import os

    ep.emit("test.result", {})
    ep.on_commit(lambda: os._exit(3) if not db.events(hook="test.go") else print("committed"))
    return "done"


def test_a_process_that_dies_in_its_commit_callbacks_is_an_interruption_that_a_requeue_makes_good(lab):
    lab.register(dies_in_commit)
    lab.start()
    run = lab.result_of()
    assert (run.state, run.failure.kind, run.result_json) == (S.COMMIT_FAILED, "interrupted", '"done"')
    assert "commit callbacks were interrupted" in run.failure.message
    assert "exit code 3" in run.failure.message
    lab.emit("test.go")
    with lab.store.begin() as tx:
        assert tx.runs.requeue([run.id], now_us=lab.now_us(), current=False) == {run.id}
    lab.bus.wake("runs")
    run = wait_until(lambda: (now := lab.run(run.id)).state is S.SUCCEEDED and now, what="the callbacks")
    assert lab.logs(run.id).endswith("committed\n")
    assert len(lab.events("test.result")) == 1


def test_a_run_that_takes_its_process_down_fails_alone(lab):
    lab.register(calls, isolation="batch", failure="a@example.com")
    runs = [lab.emit(payload={"die": n in (3, 7)}).runs[0] for n in range(12)]
    lab.start(batch_slots=1)
    ended = [lab.ended(run) for run in runs]
    assert [run.state is S.FAILED for run in ended] == [n in (3, 7) for n in range(12)]
    assert ended[3].failure.kind == "signal"
    assert {run.attempt for run in ended} == {1}
    assert [len(lab.notices(run.id)) for run in ended] == [int(n in (3, 7)) for n in range(12)]


def test_a_concurrency_limit_holds_over_all_workers(lab):
    def slow(db, **payload):
        import time

        began = time.monotonic()
        time.sleep(0.03)
        return [began, time.monotonic()]

    lab.register(slow, concurrency=1)
    runs = [lab.emit(payload={"n": n}).runs[0] for n in range(6)]
    lab.start(slots=3)
    lab.start(slots=3)
    spans = sorted(json.loads(lab.ended(run).result_json) for run in runs)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_runs_without_a_limit_overlap(lab):
    lab.register(waits)
    runs = [lab.emit().runs[0] for _ in range(2)]
    lab.start(slots=2)
    for run in runs:
        begun(lab, run)
    lab.emit("test.go")
    assert all(lab.ended(run).state is S.SUCCEEDED for run in runs)


def test_a_running_handler_is_cancelled_at_once(lab):
    lab.register(waits, failure="a@example.com")
    lab.start(lease_s=600)
    (run_id,) = lab.emit().runs
    begun(lab, run_id)
    with lab.store.begin() as tx:
        assert tx.runs.cancel([run_id], now_us=lab.now_us(), reason="by test") == (set(), {run_id})
        tx.after_commit(lambda: lab.bus.wake("cancel"))
    run = lab.ended(run_id)
    assert (run.state, run.failure.kind) == (S.CANCELLED, "cancelled")
    assert lab.events("test.result") == []
    assert lab.notices(run_id) == []
    lab.register(calls, "test.next", name="next")
    assert lab.result_of("test.next").state is S.SUCCEEDED


def test_a_cancel_request_without_wake_up_is_seen_when_leases_are_renewed(lab):
    lab.register(waits, isolation="batch")
    lab.start(lease_s=0.6)
    runs = [lab.emit().runs[0] for _ in range(3)]
    begun(lab, runs[0])
    with lab.store.begin() as tx:
        tx.runs.cancel([runs[0]], now_us=lab.now_us(), reason="by test")
    assert lab.ended(runs[0]).state is S.CANCELLED
    lab.emit("test.go")
    assert [lab.ended(run).state for run in runs[1:]] == [S.SUCCEEDED] * 2


def test_a_long_run_keeps_its_lease(lab):
    lab.register(waits)
    lab.start(lease_s=0.6)
    keeper = Housekeeper(store=lab.store, bus=lab.bus, clock=lab.clock)
    (run_id,) = lab.emit().runs
    begun(lab, run_id)
    deadline = time.monotonic() + 1.5
    wait_until(lambda: keeper.expire_leases() or time.monotonic() > deadline, what="three leases' time")
    lab.emit("test.go")
    run = lab.ended(run_id)
    assert (run.state, run.attempt, run.interruptions) == (S.SUCCEEDED, 1, 0)


def test_a_run_whose_lease_was_lost_is_killed_and_writes_nothing(lab):
    lab.register(waits)
    lab.start(lease_s=0.6)
    (run_id,) = lab.emit().runs
    begun(lab, run_id)
    with lab.store.begin() as tx:
        tx.runs.expire_leases(now_us=lab.now_us() + 3600 * 10**6, max_interruptions=3)
    run = lab.ended(run_id)
    assert (run.state, run.attempt, run.interruptions) == (S.SUCCEEDED, 2, 1)
    assert lab.events("test.result") == [{"attempt": 2}]


@pytest.mark.parametrize("isolation", ["run", "batch", "cell"])
def test_a_handler_that_does_not_end_in_time_is_killed_and_its_run_given_back(lab, isolation):
    lab.register(waits, isolation=isolation, failure="a@example.com")
    worker = lab.start()
    runs = [lab.emit().runs[0] for _ in range(2)]
    begun(lab, runs[0])
    worker.stop(0.05)
    found = [lab.run(run) for run in runs]
    assert {run.state for run in found} == {S.QUEUED}
    assert {run.attempt for run in found} == {0}
    assert lab.events("test.result") == []
    lab.emit("test.go")
    lab.start()
    assert [lab.ended(run).state for run in runs] == [S.SUCCEEDED] * 2
    assert len(lab.events("test.result")) == 2


def test_a_batch_that_takes_too_long_is_shared_with_other_workers(lab):
    lab.register(waits, isolation="batch")
    runs = [lab.emit().runs[0]] + [lab.emit(payload={"until": 0}).runs[0] for _ in range(5)]
    lab.start(batch_slots=1, batch_hold_s=0.1)
    begun(lab, runs[0])
    lab.emit("test.go")
    assert [lab.ended(run).state for run in runs] == [S.SUCCEEDED] * 6


# --------------------------------------------------------------------------------------------------- kill -9

WORKER = """
    import sys
    sys.path.insert(0, {tests!r})
    from engine_lab import Lab
    from eventproc.bus.local import LocalBus
    from eventproc.sandbox.forkserver import ForkServerSandbox
    from eventproc.store import open_store

    lab = Lab(store=open_store({url!r}), sandbox=ForkServerSandbox(), bus=LocalBus({bus!r}))
    lab.start(lease_s=1.0, slots=2, batch_slots=1)
    print("ready", flush=True)
    sys.stdin.read()
"""


def handler(db, n):
    import time

    ep.emit("test.result", {"n": n})
    time.sleep(0.002)
    if n % 3 == 0:
        ep.on_commit(lambda: print("committed"))
    return n


@contextmanager
def killable_worker(url: str, bus: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker in a process group of its own; what is left of it at the end is killed."""
    script = textwrap.dedent(WORKER.format(tests=str(Path(__file__).parents[1]), url=url, bus=str(bus)))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        try:
            yield worker
        finally:
            with contextlib.suppress(ProcessLookupError):  # it may be gone already
                os.killpg(worker.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["run", "batch", "cell"])
def test_workers_killed_again_and_again_lose_nothing_and_record_each_effect_once(tmp_path, isolation):
    url, bus = f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "bus"
    store = open_store(url)
    store.upgrade()
    count = {"run": 60, "cell": 200, "batch": 600}[isolation]
    with Lab(store=store, bus=LocalBus(bus)) as lab:
        lab.register(handler, isolation=isolation)
        for n in range(count):
            lab.emit(payload={"n": n})
        keeper = Housekeeper(store=store, bus=lab.bus, clock=lab.clock)

        def unfinished() -> int:
            keeper.expire_leases()
            return len(lab.runs(hook="test.happened", states=(S.QUEUED, S.RUNNING, S.COMMITTING, S.RETRYING)))

        for kill_after_s in (0.0, 0.05, 0.1):
            with killable_worker(url, bus):
                left = unfinished()
                wait_until(lambda left=left: unfinished() < left, what="some work")
                deadline = time.monotonic() + kill_after_s
                wait_until(lambda until=deadline: time.monotonic() > until, what="the moment to kill")
        assert unfinished()
        with killable_worker(url, bus) as worker:
            wait_until(lambda: unfinished() == 0, timeout_s=90, what="all runs to end")
            worker.communicate(b"")
        runs = lab.runs(hook="test.happened")
        assert len(runs) == count
        assert any(run.interruptions for run in runs)
        for run in runs:
            # Only callbacks that were under way at the moment of the kill may be lost, and that is said.
            assert run.state is S.SUCCEEDED or (run.state, run.failure.kind) == (S.COMMIT_FAILED, "interrupted")
        assert sum(run.state is S.COMMIT_FAILED for run in runs) <= 3 * 3
        with store.read() as tx:
            events = tx.events.page(hook="test.result", limit=10_000)
        assert sorted(json.loads(event.payload_json)["n"] for event in events) == list(range(count))
