"""Isolation `cell` through the worker: a warm process per handler version, and nothing that runs share."""

# Handlers stand here as users write them, with `ep` out of nowhere.
# ruff: noqa: F821, PTH123
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from engine_lab import Lab
from serving import parents_of_all
from waiting import wait_until

from eventproc.abc import Registration
from eventproc.codec.blob import pack
from eventproc.model import Role, RunState
from eventproc.registry import parse_options
from eventproc.sandbox.forkserver import ForkServerSandbox

S = RunState


@pytest.fixture(params=["A", "B"])
def lab(request):
    with Lab(sandbox=ForkServerSandbox(levels=[request.param])) as made:
        made.level = request.param
        yield made


seen = 0


def counts(db, **payload):
    """Return what the runs before left behind: in a global, in a module, in a file; and whose child this is."""
    import os
    import sys

    global seen
    seen += 1
    sys.left = getattr(sys, "left", 0) + 1
    with open("left", "a") as file:
        file.write("x")
        file.flush()
        return [seen, sys.left, file.tell(), os.getppid()]


def misbehaves(db, what="", **payload):
    import os
    import threading
    import time

    if what == "segfault":
        import ctypes

        ctypes.string_at(1)
    if what == "exit":
        os._exit(3)
    if what == "memory":
        bytearray(1 << 30)
    if what == "cpu":
        while True:
            pass
    if what == "time":
        time.sleep(60)
    if what == "lingers":
        threading.Thread(target=time.sleep, args=(3600,)).start()
        ep.on_rollback(lambda: None)
    if what == "commit":
        ep.on_commit(lambda: os._exit(4))
    return "fine"


def idle(worker):
    return list(worker._children._idle)


def test_what_a_run_leaves_in_memory_or_files_is_not_there_for_the_next(lab):
    lab.register(counts, isolation="cell")
    lab.start(slots=1)
    results = [json.loads(lab.result_of().result_json) for _ in range(4)]
    assert [result[:3] for result in results] == [[1, 1, 1]] * 4
    many = [lab.emit().runs[0] for _ in range(20)]
    assert [json.loads(lab.ended(run).result_json)[:3] for run in many] == [[1, 1, 1]] * 20


def test_one_warm_process_serves_all_runs_of_a_version_and_ends_when_nobody_needs_it(lab):
    lab.register(counts, isolation="cell")
    worker = lab.start(slots=1, child_idle_s=0.5)
    kept = [(lab.result_of(), wait_until(lambda: idle(worker), what="the cell to be idle")) for _ in range(2)]
    (first,), (second,) = kept[0][1], kept[1][1]
    assert first.child is second.child
    assert second.calls == 2
    wait_until(lambda: not idle(worker), what="the idle cell to be ended")
    assert lab.result_of().state is S.SUCCEEDED


def test_a_crash_or_an_overrun_costs_its_run_only(lab):
    lab.register(misbehaves, isolation="cell", timeout="4s", cpu="0.5s", memory="300MB")
    lab.start(slots=1)
    bad = ["segfault", "exit", "memory", "cpu", "time", "commit"]
    order = [what for each in bad for what in (each, "")]
    runs = [lab.emit(payload={"what": what}).runs[0] for what in order]
    ended = [lab.ended(run, timeout_s=60) for run in runs]
    assert [run.state for run in ended[1::2]] == [S.SUCCEEDED] * len(bad)
    assert {run.attempt for run in ended} == {1}
    assert [run.failure.kind for run in ended[:10:2]] == ["signal", "exit", "limit", "limit", "timeout"]
    for run, word in zip(ended[4:10:2], ("memory", "cpu", "timeout"), strict=True):
        assert word in run.failure.message
    assert (ended[10].state, ended[10].result_json) == (S.COMMIT_FAILED, '"fine"')


def test_nothing_of_a_run_goes_on_once_it_is_over(lab):
    """A thread and a rollback that nobody will ask for do not keep its process alive behind the cell."""
    lab.register(misbehaves, isolation="cell")
    worker = lab.start(slots=1)
    assert lab.result_of(payload={"what": "lingers"}).state is S.SUCCEEDED
    (warm,) = wait_until(lambda: idle(worker), what="the cell to be idle")
    if lab.level == "A":
        cell = warm.child._link._pid
        assert cell in parents_of_all()
        # The next run's fork waits there already.
        wait_until(lambda: [*parents_of_all().values()].count(cell) == 1, what="the run's process to be gone")
    else:
        assert warm.child._child is None


@pytest.mark.parametrize("isolation", ["cell", "batch"])
def test_a_thread_that_works_on_when_no_run_does_ends_its_process(lab, isolation):
    """In a cell that is one of the loaded process, in a batch any run's."""

    class Spins:
        def __call__(self, db, **payload):
            return "fine"

        def __setstate__(self, state):
            import threading

            def spin():
                while True:
                    pass

            threading.Thread(target=spin, daemon=True).start()

        def __getstate__(self):
            return {"some": "state"}

    lab.register(Spins(), isolation=isolation, name="spins")
    worker = lab.start(slots=1, child_idle_s=3600.0)
    assert lab.result_of().state is S.SUCCEEDED
    if isolation == "cell" and lab.level == "B":  # each call has a process of its own, and none is left
        (warm,) = wait_until(lambda: idle(worker), what="the place of a process to be idle")
        assert warm.child._child is None
        return
    wait_until(lambda: not idle(worker), what="the process to be ended")
    assert lab.result_of().state is S.SUCCEEDED


def test_users_and_versions_have_cells_of_their_own(lab):
    def where(db, **payload):
        import os

        return [os.getppid(), os.getpid()]

    lab.register(where, isolation="cell", name="same")
    with lab.store.begin() as tx:
        eve = tx.users.add("eve", Role.DEVELOPER, now_us=lab.now_us())
        hers = Registration(
            hook="test.hers", name="same", bundle=pack(where), tags=(), notify_on_success=None,
            notify_on_failure=None, options=parse_options({"isolation": "cell"}),
        )  # fmt: skip
        tx.handlers.put(hers, owner=eve, now_us=lab.now_us())
    worker = lab.start(slots=1)
    for hook in ("test.happened", "test.hers") * 2:
        assert lab.result_of(hook).state is S.SUCCEEDED
    wait_until(lambda: len(idle(worker)) == 2, what="both cells to be idle")
    assert len({warm.key for warm in idle(worker)}) == 2
    assert [warm.calls for warm in idle(worker)] == [2, 2]
    lab.register(counts, isolation="cell", name="same")
    assert json.loads(lab.result_of().result_json)[:3] == [1, 1, 1]
    wait_until(lambda: len(idle(worker)) == 3, what="the new version's cell to be idle")


def test_runs_at_one_time_have_a_cell_each(lab):
    def waits(db, **payload):
        import time

        began = time.monotonic()
        print("begun", flush=True)
        while payload["n"] < 2 and not db.events(hook="test.go"):
            time.sleep(0.005)
        return [began, time.monotonic()]

    lab.register(waits, isolation="cell")
    lab.start(slots=2)
    runs = [lab.emit(payload={"n": n}).runs[0] for n in range(2)]
    for run in runs:
        wait_until(lambda run=run: "begun" in lab.logs(run), what=f"run {run} to begin")
    lab.emit("test.go")
    spans = sorted(json.loads(lab.ended(run).result_json) for run in runs)
    assert all(before[1] > after[0] for before, after in pairwise(spans))


def test_a_running_call_is_cancelled_at_once_and_the_next_is_served(lab):
    lab.register(misbehaves, isolation="cell", timeout="50s")
    lab.start(slots=1, lease_s=600)
    (run_id,) = lab.emit(payload={"what": "time"}).runs
    lab.in_state(run_id, S.RUNNING)
    with lab.store.begin() as tx:
        tx.runs.cancel([run_id], now_us=lab.now_us(), reason="by test")
        tx.after_commit(lambda: lab.bus.wake("cancel"))
    assert lab.ended(run_id).state is S.CANCELLED
    assert lab.result_of().state is S.SUCCEEDED
