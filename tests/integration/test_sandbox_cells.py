"""Isolation `cell`: loaded once, forked for each call, nothing carried from one to the next."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821, NPY002, PTH101, PTH102, PTH103, PTH116, PTH208
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from sandbox_world import Session, call, program

from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox


@pytest.fixture(scope="module", params=["A", "B"])
def sandbox(request):
    made = ForkServerSandbox(levels=[request.param])
    yield made
    made.close()


def cell(sandbox, handler, limits=None):
    return sandbox.spawn(dataclasses.replace(program(handler), isolation="cell"), limits or Limits())


def run(child, number, payload=None, session=None):
    (outcome,) = child.execute([(call(number, payload), session or Session())])
    return outcome


def test_memory_and_files_are_not_carried_from_call_to_call(sandbox):
    def handler(db, n):
        import builtins
        import pathlib

        seen = [getattr(builtins, "left", None), sorted(map(str, pathlib.Path().iterdir()))]
        builtins.left = n
        pathlib.Path("deep/er").mkdir(parents=True)
        pathlib.Path("file").write_text("x")
        return seen

    child = cell(sandbox, handler)
    assert [run(child, n, {"n": n}).result_json for n in range(5)] == ["[null,[]]"] * 5
    outcomes = list(child.execute([(call(n, {"n": n}), Session()) for n in range(5, 10)]))
    child.close()
    assert [outcome.result_json for outcome in outcomes] == ["[null,[]]"] * 5


def test_a_crash_costs_its_call_only(sandbox):
    def handler(db, n):
        import ctypes
        import os

        if n == 1:
            ctypes.string_at(0)
        if n == 2:
            os._exit(7)
        return n

    child = cell(sandbox, handler)
    outcomes = list(child.execute([(call(n, {"n": n}), Session()) for n in range(4)]))
    child.close()
    assert [outcome.started for outcome in outcomes] == [True] * 4
    assert [outcome.result_json for outcome in outcomes] == ["0", None, None, "3"]
    assert "SIGSEGV" in outcomes[1].failure.message
    assert outcomes[2].failure.kind == "exit"
    assert "7" in outcomes[2].failure.message


def test_callbacks_run_in_the_fork_that_asked_for_them(sandbox):
    def handler(db, n):
        state = [n]
        ep.on_commit(lambda: print("commit", state, ep.event.message_id))

    child = cell(sandbox, handler)
    for n in range(4):
        session = Session()
        outcome = run(child, n, {"n": n}, session)
        assert outcome.callbacks
        assert child.settle(n, "commit") is None
        assert session.text() == f"commit [{n}] m-1\n"
    child.close()


def test_a_callback_that_fails_can_be_repeated(sandbox):
    def handler(db):
        tries = []

        def flaky():
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError(len(tries))

        ep.on_commit(flaky)

    child = cell(sandbox, handler)
    run(child, 1)
    assert [child.settle(1, "commit") is None for _ in range(3)] == [False, False, True]
    child.close()


def test_a_callback_that_ends_its_process_is_reported(sandbox):
    def handler(db):
        import os

        ep.on_commit(lambda: os._exit(3))

    child = cell(sandbox, handler)
    run(child, 1)
    assert "3" in child.settle(1, "commit").message
    child.close()


def test_callbacks_that_nobody_settled_make_room_for_the_next_call(sandbox):
    def handler(db, n):
        ep.on_commit(lambda: print("late"))
        ep.on_rollback(lambda: print("never"))
        return n

    child = cell(sandbox, handler)
    assert [run(child, n, {"n": n}).result_json for n in range(3)] == ["0", "1", "2"]
    child.close()


def test_a_call_over_its_limits_ends_alone_or_with_the_cell(sandbox):
    def handler(db, what):
        import time

        if what == "memory":
            return len(bytearray(1 << 30))
        if what == "cpu":
            while True:
                pass
        if what == "sleep":
            time.sleep(100)
        return what

    for timeout_s, calls in ((20, ["memory", "cpu", "fine"]), (2, ["sleep", "fine"])):
        child = cell(sandbox, handler, Limits(timeout_s=timeout_s, cpu_s=0.2, memory_bytes=200 << 20))
        outcomes = [run(child, n, {"what": what}) for n, what in enumerate(calls)]
        child.close()
        expected = ["timeout"] if "sleep" in calls else ["limit", "limit"]
        assert [outcome.failure.kind for outcome in outcomes[:-1]] == expected
        assert outcomes[-1].result_json == '"fine"'


def test_a_fork_can_not_fork_nor_start_programs(sandbox):
    def handler(db):
        import os

        said = []
        for act in (
            os.fork,
            lambda: os.execv("/bin/true", ["true"]),
            lambda: os.posix_spawn("/bin/true", ["true"], {}),
        ):
            try:
                act()
                said.append("done")
            except OSError as error:
                said.append(error.errno)
        return said

    child = cell(sandbox, handler)
    assert json.loads(run(child, 1).result_json) == [1, 1, 1]
    child.close()


def test_a_call_can_not_spoil_the_next_one(sandbox):
    """It marks its directory, and tries to take limits, the wire and life from the process behind it."""

    def handler(db):
        import os
        import resource
        import signal

        found = [oct(os.stat(".").st_mode), os.listxattr("."), os.get_blocking(3), resource.getrlimit(7)]
        os.chmod(".", 0o500)
        os.set_blocking(3, False)
        for act in (
            lambda: os.setxattr(".", "user.left", b"x"),
            lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3)),
            lambda: os.kill(os.getppid(), signal.SIGSTOP),
            lambda: os.kill(os.getppid(), signal.SIGKILL),
            lambda: os.kill(-1, signal.SIGKILL),
        ):
            try:
                act()
            except OSError:
                continue
        return found

    child = cell(sandbox, handler, Limits(timeout_s=10))
    outcomes = [run(child, n) for n in range(3)]
    child.close()
    assert [outcome.failure for outcome in outcomes] == [None] * 3
    results = [outcome.result_json for outcome in outcomes]
    assert json.loads(results[0])[1:3] == [[], True]
    assert results[1:] == results[:1] * 2


def test_a_blob_that_can_not_be_loaded_fails_each_call(sandbox):
    child = cell(sandbox, b"cno_such_module\nx\n.")
    assert [run(child, n).failure.kind for n in range(2)] == ["load", "load"]
    child.close()


def test_a_killed_cell_is_cancelled_and_its_forks_are_gone(sandbox):
    def handler(db):
        ep.emit("pid", {})
        import time

        time.sleep(100)

    child = cell(sandbox, handler)
    session = Session({"emit": lambda args, body: (child.kill(), ({"id": "x"}, ()))[-1]})
    outcome = run(child, 1, session=session)
    child.close()
    assert outcome.failure.kind == "cancelled"
    assert os.getpid()


def test_what_a_handler_imports_is_imported_before_the_cell_forks(sandbox):
    """Each run would import it anew otherwise; what is not there is left for the run to tell."""

    def handler(db, missing):
        import sys

        there = "graphlib" in sys.modules
        import graphlib  # noqa: F401

        if missing:
            import no_such_module_anywhere  # noqa: F401
        return there

    child = cell(sandbox, handler)
    told = [run(child, number, {"missing": False}).result_json for number in range(2)]
    failed = run(child, 3, {"missing": True}).failure
    child.close()
    level_a = sandbox.report().level == "A"  # at B, each call has a process of its own
    assert told == ["true" if level_a else "false"] * 2
    assert failed.type == "ModuleNotFoundError"


def test_no_two_runs_draw_the_same_random_numbers(sandbox):
    def handler(db):
        import random

        import numpy as np

        return [random.random(), np.random.random()]

    child = cell(sandbox, handler)
    drawn = [json.loads(run(child, n).result_json) for n in range(5)]
    child.close()
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 5


def test_what_one_run_nests_or_closes_is_not_there_for_the_next(sandbox):
    def handler(db, n):
        import os

        seen = sorted(os.listdir())
        os.makedirs("closed/inner")
        os.chmod("closed", 0o300)
        for _ in range(150):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        return seen

    child = cell(sandbox, handler)
    assert [run(child, n, {"n": n}).result_json for n in range(3)] == ["[]"] * 3
    child.close()


def test_threads_that_a_handler_started_when_it_was_loaded_are_known_to_be_gone_in_a_run(sandbox):
    """They are of the loaded process: a run that waited for one would wait for ever."""

    class WithThread:
        def __call__(self, db):
            import threading

            ghost = next((each for each in threading.enumerate() if each.name == "of the load"), None)
            return [ghost is None, threading.main_thread() is threading.current_thread()]

        def __setstate__(self, state):
            import threading

            threading.Thread(target=threading.Event().wait, name="of the load", daemon=True).start()

        def __getstate__(self):
            return {"some": "state"}

    child = cell(sandbox, WithThread())
    told = [json.loads(run(child, number).result_json) for number in range(2)]
    child.close()
    level_a = sandbox.report().level == "A"  # at B, each call has a process of its own, with its thread
    assert told == [[level_a, True]] * 2


def test_locks_that_a_thread_without_an_object_held_are_free_in_a_run():
    """`threading` does not count threads of `_thread`, and C libraries start theirs like that."""

    class WithLock:
        def __call__(self, db):
            return self.log.lock.acquire(blocking=False)

        def __setstate__(self, state):
            import _thread
            import logging

            self.log = logging.Handler()
            held, never = _thread.allocate_lock(), _thread.allocate_lock()
            held.acquire()
            never.acquire()

            def hold():
                self.log.lock.acquire()
                held.release()
                never.acquire()

            _thread.start_new_thread(hold, ())
            held.acquire()

        def __getstate__(self):
            return {"some": "state"}

    sandbox = ForkServerSandbox(levels=["A"])  # at B each call has a process of its own, with its thread
    child = cell(sandbox, WithLock())
    told = [run(child, number).result_json for number in range(2)]
    child.close()
    sandbox.close()
    assert told == ["true"] * 2


def test_threads_and_locks_work_in_each_run(sandbox):
    def handler(db):
        import logging
        import threading
        from concurrent.futures import ThreadPoolExecutor

        logging.getLogger("mine").warning("said")
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda number: number * 2, range(3)))
        return [found, threading.active_count()]

    child = cell(sandbox, handler)
    session = Session()
    told = [json.loads(run(child, number, session=session).result_json) for number in range(3)]
    child.close()
    assert told == [[[0, 2, 4], 1]] * 3
    assert session.text().count("said") == 3


def test_processes_that_a_handler_starts_when_it_is_loaded_end_its_cell(sandbox):
    """Each would have the whole memory limit for itself, and would still be there when the run is over."""

    class Forks:
        def __call__(self, db):
            import time

            time.sleep(60)

        def __setstate__(self, state):
            import os
            import time

            for _ in range(10):
                if os.fork() == 0:
                    held = bytearray(b"x" * (30 << 20))
                    time.sleep(600)
                    os._exit(len(held))

        def __getstate__(self):
            return {"some": "state"}

    child = cell(sandbox, Forks(), Limits(memory_bytes=100 << 20, timeout_s=30))
    outcome = run(child, 1)
    child.close()
    if sandbox.report().level == "A":
        assert outcome.failure.kind == "sandbox"
        assert "allow_subprocess=True" in outcome.failure.message
    else:  # each call has a process of its own, which may not fork at all
        assert outcome.failure.kind == "load"
