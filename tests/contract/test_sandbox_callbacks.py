"""What every sandbox does around a call: callbacks, classes, batches, and the end."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821, BLE001
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import json
import threading

from sandbox_world import Session, call, failure, program, run_one

from eventproc.errors import Conflict
from eventproc.model import Limits

# ---------------------------------------------------------------------- callbacks


def test_commit_callbacks_wait_for_settle_and_run_in_order(sandbox):
    def handler(db):
        ep.on_commit(lambda: print("first"))
        ep.on_commit(lambda: print("second"))
        ep.on_rollback(lambda: print("never"))

    session = Session()
    child = sandbox.spawn(program(handler), Limits())
    (outcome,) = child.execute([(call(1), session)])
    assert outcome.callbacks
    assert outcome.rollbacks
    assert outcome.alive
    assert session.text() == ""
    assert child.settle(1, "commit") is None
    assert session.text() == "first\nsecond\n"
    assert child.settle(1, "commit") is None
    assert session.text() == "first\nsecond\n"
    child.close()


def test_only_callbacks_that_failed_are_repeated(sandbox):
    def handler(db):
        tries = []

        def flaky():
            tries.append(1)
            if len(tries) < 2:
                raise ConnectionError("not yet")
            print("flaky done")

        ep.on_commit(flaky)
        ep.on_commit(lambda: print("steady done"))

    session = Session()
    child = sandbox.spawn(program(handler), Limits())
    (outcome,) = child.execute([(call(1), session)])
    assert outcome.callbacks
    found = child.settle(1, "commit")
    assert found is not None
    assert found.type == "ConnectionError"
    assert "not yet" in found.message
    assert "flaky" in found.message
    assert child.settle(1, "commit") is None
    assert session.text() == "steady done\nflaky done\n"
    child.close()


def test_a_failing_handler_rolls_back_at_once_last_first(sandbox):
    def handler(db):
        ep.on_rollback(lambda: print("undo a"))
        ep.on_rollback(lambda: print("undo b"))
        raise ValueError("no")

    outcome, session = run_one(sandbox, handler)
    assert outcome.failure is not None
    assert outcome.failure.rolled_back is True
    assert not outcome.callbacks
    assert session.text() == "undo b\nundo a\n"


def test_a_result_that_can_not_be_kept_rolls_back_too(sandbox):
    def handler(db):
        ep.on_rollback(lambda: print("undo"))
        return object()

    outcome, session = run_one(sandbox, handler)
    assert outcome.failure is not None
    assert outcome.failure.kind == "result"
    assert outcome.failure.rolled_back is True
    assert session.text() == "undo\n"


def test_a_rollback_that_fails_is_reported(sandbox):
    def handler(db):
        def undo():
            raise OSError("stuck")

        ep.on_rollback(undo)
        raise ValueError("no")

    assert failure(sandbox, handler).rolled_back is False


def test_settle_rollback_runs_the_rollback_callbacks(sandbox):
    def handler(db):
        ep.on_commit(lambda: print("commit"))
        ep.on_rollback(lambda: print("rollback"))

    session = Session()
    child = sandbox.spawn(program(handler), Limits())
    list(child.execute([(call(1), session)]))
    assert child.settle(1, "rollback") is None
    assert child.settle(1, "commit") is None
    assert session.text() == "rollback\n"
    child.close()


def test_callbacks_read_and_log_but_can_not_ask_for_effects(sandbox):
    def handler(db):
        def after():
            ep.log.info("count %d", db.stream_from_uuid("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b").count())
            ep.emit("other.hook", {})

        ep.on_commit(after)

    row = {"uuid": "0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b", "name": "", "collection": "", "unit": ""}
    session = Session(
        {"stream": lambda args, body: (row, ()), "count": lambda args, body: ({"count": 3}, ())},
    )
    child = sandbox.spawn(program(handler), Limits())
    list(child.execute([(call(1), session)]))
    found = child.settle(1, "commit")
    child.close()
    assert found is not None
    assert "commit callback" in found.message
    assert "emit is not possible" in found.message
    assert session.text() == "INFO handler: count 3\n"
    assert "emit" not in [op for op, _, _ in session.asked]


def test_callbacks_of_each_call_of_a_batch_are_its_own(sandbox):
    def handler(db, n):
        ep.on_commit(lambda: print(f"commit {n} {ep.event.message_id}"))

    sessions = [Session() for _ in range(5)]
    child = sandbox.spawn(program(handler), Limits())
    outcomes = list(child.execute([(call(n, {"n": n}), session) for n, session in enumerate(sessions)]))
    assert all(outcome.callbacks for outcome in outcomes)
    for n in (3, 0, 4):
        assert child.settle(n, "commit") is None
    child.close()
    assert [session.text() for session in sessions] == ["commit 0 m-1\n", "", "", "commit 3 m-1\n", "commit 4 m-1\n"]


def test_settling_between_two_outcomes_of_a_batch_works(sandbox):
    def handler(db, n):
        ep.on_commit(lambda: print(f"commit {n}"))
        return n

    sessions = [Session() for _ in range(20)]
    child = sandbox.spawn(program(handler), Limits())
    seen = []
    for outcome in child.execute([(call(n, {"n": n}), session) for n, session in enumerate(sessions)]):
        seen.append(outcome.result_json)
        assert child.settle(outcome.run_id, "commit") is None
        assert sessions[outcome.run_id].text() == f"commit {outcome.run_id}\n"
    child.close()
    assert seen == [str(n) for n in range(20)]


def test_callbacks_only_discards_effects_and_keeps_callbacks(sandbox):
    def handler(db):
        ep.emit("other.hook", {})
        ep.on_commit(lambda: print("again"))

    session = Session()
    child = sandbox.spawn(program(handler), Limits())
    (outcome,) = child.execute([(call(1, callbacks_only=True), session)])
    assert outcome.callbacks
    assert session.discarded
    assert child.settle(1, "commit") is None
    assert session.text() == "again\n"
    child.close()


def test_a_thread_that_outlives_its_run_can_not_reach_the_platform(sandbox):
    def handler(db, n):
        import builtins
        import threading

        if n == 0:
            go = threading.Event()

            def late():
                go.wait()
                try:
                    db.collections()
                except Exception as error:
                    builtins.late_error = str(error)

            builtins.late_thread = threading.Thread(target=late, daemon=True)
            builtins.late_go = go
            builtins.late_thread.start()
            return None
        builtins.late_go.set()
        builtins.late_thread.join()
        return builtins.late_error

    child = sandbox.spawn(program(handler), Limits())
    outcomes = list(child.execute([(call(n, {"n": n}), Session()) for n in range(2)]))
    child.close()
    assert "over" in (outcomes[1].result_json or "")


def test_threads_that_print_and_ask_when_their_run_ends_break_nothing(sandbox):
    """Between two orders nobody listens to them: they wait, and the process is there for what comes next."""

    def handler(db, n):
        import contextlib
        import threading

        over, under_way = threading.Event(), threading.Barrier(3)

        def print_on():
            under_way.wait()
            while not over.is_set():
                print(f"of {n}")

        def ask_on():
            under_way.wait()
            with contextlib.suppress(Exception):  # the run is over
                while not over.is_set():
                    db.collections()

        for work in (print_on, ask_on):
            threading.Thread(target=work, daemon=True).start()
        under_way.wait()
        ep.on_commit(over.set)
        return n

    child = sandbox.spawn(program(handler), Limits())
    sessions = [Session({"collections": lambda args, body: ([], ())}) for _ in range(20)]
    for n, session in enumerate(sessions):
        (outcome,) = child.execute([(call(n, {"n": n}), session)])
        assert (outcome.failure, outcome.result_json) == (None, str(n))
        assert child.settle(n, "commit") is None
    assert child.alive
    child.close()


# ---------------------------------------------------------------------- classes


def test_a_class_gets_one_event_and_its_own_instance_per_run(sandbox):
    class Handler:
        seen = 0

        def handle_events(self, events, env):
            self.seen += 1
            (event,) = events
            return [
                self.seen,
                event["message_id"],
                event["event_type"],
                event["timestamp"].isoformat(),
                event["x"],
                env,
            ]

        def commit(self):
            print("commit", type(self.db).__name__)

        def rollback(self):
            print("rollback")

    sessions = [Session(), Session()]
    child = sandbox.spawn(program(Handler), Limits())
    outcomes = list(child.execute([(call(n, {"x": n}), session) for n, session in enumerate(sessions)]))
    assert [json.loads(outcome.result_json or "")[0] for outcome in outcomes] == [1, 1]
    assert json.loads(outcomes[1].result_json or "")[1:] == [
        "m-1",
        "test.hook",
        "2023-11-14T22:13:20.000001+00:00",
        1,
        {},
    ]
    assert child.settle(0, "commit") is None
    assert child.settle(1, "rollback") is None
    child.close()
    assert [session.text() for session in sessions] == ["commit Db\n", "rollback\n"]


def test_a_class_that_fails_is_rolled_back(sandbox):
    class Handler:
        def handle_events(self, events, env):
            raise ValueError("no")

        def rollback(self):
            print("rollback")

    outcome, session = run_one(sandbox, Handler)
    assert outcome.failure is not None
    assert outcome.failure.rolled_back is True
    assert session.text() == "rollback\n"


def test_a_class_without_handle_events_is_refused_when_loaded(sandbox):
    class Handler:
        def commit(self):
            pass

    assert "handle_events" in failure(sandbox, Handler).message


# ---------------------------------------------------------------------- batches and cancelling


def test_one_failure_in_a_batch_leaves_its_neighbours_alone(sandbox):
    def handler(db, n):
        if n % 3 == 0:
            raise ValueError(n)
        return n

    child = sandbox.spawn(program(handler), Limits())
    outcomes = list(child.execute([(call(n, {"n": n}), Session()) for n in range(30)]))
    child.close()
    assert [outcome.failure is not None for outcome in outcomes] == [n % 3 == 0 for n in range(30)]
    assert all(outcome.started and outcome.alive for outcome in outcomes)


def test_a_child_takes_several_batches(sandbox):
    child = sandbox.spawn(program(lambda db, n: n), Limits())
    for start in (0, 10):
        outcomes = list(child.execute([(call(n, {"n": n}), Session()) for n in range(start, start + 10)]))
        assert [outcome.result_json for outcome in outcomes] == [str(n) for n in range(start, start + 10)]
    child.close()


def test_kill_from_another_thread_ends_the_run_as_cancelled(sandbox):
    reached = threading.Event()

    def mark(args, body):
        reached.set()
        return {"id": "x"}, ()

    def handler(db):
        import time

        ep.emit("h", {})
        time.sleep(0.5)

    child = sandbox.spawn(program(handler), Limits())
    killer = threading.Thread(target=lambda: (reached.wait(30), child.kill()))
    killer.start()
    outcomes = list(child.execute([(call(1), Session({"emit": mark})), (call(2), Session())]))
    killer.join()
    child.kill()
    child.close()
    child.close()
    assert outcomes[0].failure is not None
    assert outcomes[0].failure.kind == "cancelled"
    assert outcomes[0].started
    assert not outcomes[1].started
    assert not outcomes[1].alive


def test_an_effect_in_a_callback_is_refused_by_the_platform_even_if_the_child_forgets(sandbox):
    def handler(db):
        def after():
            run = db._wire._run
            run.phase = "run"
            ep.emit("h", {})

        ep.on_commit(after)

    session = Session()
    child = sandbox.spawn(program(handler), Limits())
    list(child.execute([(call(1), session)]))
    found = child.settle(1, "commit")
    child.close()
    assert found is not None
    assert "settled already" in found.message
    assert Conflict.code == "conflict"
    assert session.asked == []


def test_the_report_says_what_is_enforced(sandbox):
    report = sandbox.report()
    assert report.level
    assert report.pythons
    assert set(report.layers).isdisjoint(report.missing)


def test_output_while_loading_belongs_to_the_first_call(sandbox):
    session = Session()
    child = sandbox.spawn(program(b"cbuiltins\nprint\n(Vloading\ntR0cbuiltins\nlen\n."), Limits())
    list(child.execute([(call(1), session)]))
    child.close()
    assert session.text() == "loading\n"
