"""Forks of a cell that are killed, leave early, or have threads that still speak: no other call pays for it."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821, PTH123
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading

import pytest
from process_tree import alive, below
from sandbox_world import Session, call, program
from waiting import wait_until

from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox

LARGE = 3 << 20  # bytes of an order: many times what a pipe or a socket holds


@pytest.fixture(scope="module")
def sandbox():
    made = ForkServerSandbox(levels=["A"])  # elsewhere each call has a process of its own
    yield made
    made.close()


def cell(sandbox, handler, limits=None):
    return sandbox.spawn(dataclasses.replace(program(handler), isolation="cell"), limits or Limits(timeout_s=60))


def run(child, number, payload=None, session=None):
    (outcome,) = child.execute([(call(number, payload), session or Session())])
    return outcome


def forks_of(child):
    return below(child._link.pid)


def waiting_fork(child):
    """Return the fork that waits for the next order, once nothing else is there."""
    return wait_until(lambda: len(forks_of(child)) == 1 and forks_of(child), what="one fork that waits").pop()


def echoing():
    """Return a handler that travels by value."""

    def echo(db, n, text=""):
        return [n, len(text)]

    return echo


@pytest.mark.parametrize("size", [0, LARGE])
def test_a_fork_that_is_killed_while_it_waits_costs_no_call(sandbox, size):
    child = cell(sandbox, echoing())
    told = [run(child, 0, {"n": 0}).result_json]
    for n in range(1, 6):
        victim = waiting_fork(child)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda gone=victim: not alive(gone), what="its end")
        told.append(run(child, n, {"n": n, "text": "x" * size}).result_json)
    child.close()
    assert told == ["[0,0]", *(f"[{n},{size}]" for n in range(1, 6))]


@pytest.mark.parametrize("size", [0, LARGE])
def test_forks_that_are_killed_at_any_moment_cost_no_call_but_their_own(sandbox, size):
    child = cell(sandbox, echoing())
    run(child, 0, {"n": 0})
    over = threading.Event()

    def kill_now_and_then():
        while not over.wait(0.002):
            for pid in forks_of(child):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        outcomes = [run(child, n, {"n": n, "text": "x" * size}) for n in range(1, 31)]
    finally:
        over.set()
        killer.join()
    assert {outcome.started for outcome in outcomes} == {True}
    for n, outcome in enumerate(outcomes, 1):
        if outcome.failure is None:
            assert outcome.result_json == f"[{n},{size}]"
        else:
            assert outcome.failure.kind == "signal"
            assert "SIGKILL" in outcome.failure.message
    run(child, 98, {"n": 98})  # may be given to one that was killed last, and has not quite ended
    assert run(child, 99, {"n": 99}).result_json == "[99,0]"
    child.close()


def test_a_fork_that_is_killed_while_its_callbacks_wait_is_told(sandbox):
    def handler(db, n):
        ep.on_commit(lambda: None)
        return n

    child = cell(sandbox, handler)
    assert run(child, 1, {"n": 1}).callbacks
    for pid in forks_of(child):
        os.kill(pid, signal.SIGKILL)
    assert child.settle(1, "commit").kind in {"signal", "exit"}
    assert run(child, 2, {"n": 2}).result_json == "2"
    assert child.settle(2, "commit") is None
    child.close()


def test_a_fork_that_exits_as_if_all_was_well_is_told_at_once(sandbox):
    def handler(db, n):
        import os

        if n == 1:
            os._exit(0)
        ep.on_commit(lambda: os._exit(0))

    child = cell(sandbox, handler, Limits(timeout_s=600))
    failure = run(child, 1, {"n": 1}).failure
    assert (failure.kind, "exit code 0" in failure.message) == ("exit", True)
    assert run(child, 2, {"n": 2}).callbacks
    assert "exit code 0" in child.settle(2, "commit").message
    assert child.alive
    child.close()


def test_what_a_crashed_fork_did_not_read_is_in_nobodys_way(sandbox):
    """The next call gets another cell: in this one the answer, or a part of it, stands before the next order."""

    def handler(db, n):
        import os
        import threading

        for number in range(1500):  # so that the cell has something to do while the next order comes
            open(f"f{number}", "w").close()
        if n == 1:
            db.collections()
            threading.Timer(0.05, os._exit, [3]).start()
            while True:
                db.collections()
        return n

    child = cell(sandbox, handler)
    large = Session({"collections": lambda args, body: (["x" * 100] * 20_000, ())})
    outcomes = list(child.execute([(call(n, {"n": n}), large) for n in range(3)]))
    assert [outcome.started for outcome in outcomes] == [True, True, False]
    assert outcomes[0].result_json == "0"
    assert (outcomes[1].failure.kind, outcomes[1].alive) == ("exit", False)
    assert not child.alive
    child.close()


def test_a_thread_that_asks_while_its_run_ends_costs_no_other_call(sandbox):
    def handler(db, n):
        import threading

        for number in range(1500):
            open(f"f{number}", "w").close()
        asked = threading.Event()

        def ask():
            while True:
                asked.set()
                ep.emit("some", {})

        threading.Thread(target=ask, daemon=True).start()
        asked.wait()
        return n

    child = cell(sandbox, handler)
    assert [run(child, n, {"n": n}).result_json for n in range(5)] == [str(n) for n in range(5)]
    child.close()


def test_threads_of_the_load_that_print_neither_speak_in_a_run_nor_stop_it(sandbox):
    class Prints:
        def __call__(self, db, n):
            print(f"said in {n}")
            return n

        def __setstate__(self, state):
            import logging
            import threading

            def chatter():
                while True:
                    print("from", end=" ")
                    print("the load")
                    logging.getLogger("load").warning("heard of the load")

            self.threads = [threading.Thread(target=chatter, daemon=True) for _ in range(3)]
            for thread in self.threads:
                thread.start()

        def __getstate__(self):
            return {"some": "state"}

    child = cell(sandbox, Prints())
    assert run(child, 0, {"n": 0}).result_json == "0"  # hears what was said while it was loaded
    for n in range(1, 20):
        session = Session()
        assert run(child, n, {"n": n}, session).result_json == str(n)
        assert session.text() == f"said in {n}\n"
    child.close()


def test_a_handler_that_puts_its_own_functions_in_the_place_of_others_runs_as_it_would_elsewhere(sandbox):
    class Patches:
        def __call__(self, db, n):
            return n

        def __setstate__(self, state):
            import json

            def refuse(*args, **kwargs):
                print("called by whom?")
                raise RuntimeError("not for you")

            json.loads = json.dumps = json.load = refuse

        def __getstate__(self):
            return {"some": "state"}

    child = cell(sandbox, Patches())
    session = Session()
    assert [run(child, n, {"n": n}, session).result_json for n in range(5)] == [str(n) for n in range(5)]
    assert session.text() == ""
    child.close()


def test_half_a_line_that_was_printed_while_it_was_loaded_is_said_once(sandbox):
    class Prints:
        def __call__(self, db):
            print("and here")

        def __setstate__(self, state):
            print("there", end=" ")

        def __getstate__(self):
            return {"some": "state"}

    child = cell(sandbox, Prints())
    sessions = [Session() for _ in range(3)]
    for n, session in enumerate(sessions):
        run(child, n, session=session)
    child.close()
    assert [session.text() for session in sessions] == ["there and here\n", "and here\n", "and here\n"]


def test_a_worker_that_goes_away_in_the_middle_of_an_order_leaves_no_process(sandbox):
    child = cell(sandbox, echoing())
    run(child, 0, {"n": 0})
    family = {child._link.pid, *forks_of(child)}
    child._link.channel.send(b"\xff\xff\xff\x00\xff\xff\xff\x00{")  # the beginning of 32 MB
    child.close()
    wait_until(lambda: not any(alive(pid) for pid in family), what=f"the end of {family}")


def test_no_fork_holds_the_way_to_another(sandbox):
    """Only the cell can hand an order over: in a call there is nothing but the wire to the worker."""

    def handler(db):
        import os

        seen = []
        for fd in range(256):
            try:
                os.fstat(fd)
                seen.append(fd)
            except OSError:
                continue
        return seen

    child = cell(sandbox, handler)
    assert [json.loads(run(child, n).result_json) for n in range(3)] == [[0, 1, 2, 3]] * 3
    child.close()
