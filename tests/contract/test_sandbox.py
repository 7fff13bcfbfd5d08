"""What every sandbox does: results, failures, requests, callbacks."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821, BLE001
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import json
import struct
import threading

import pytest
from sandbox_world import Session, call, program, run_one

from eventproc.abc import Sandbox
from eventproc.errors import Conflict, InvalidPayload, NotFound
from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.sandbox.memory import InProcessSandbox

MAKERS = {
    "level-A": lambda: ForkServerSandbox(levels=["A"]),
    "level-B": lambda: ForkServerSandbox(levels=["B"]),
    "in-process": InProcessSandbox,
}


@pytest.fixture(scope="module", params=MAKERS)
def sandbox(request):
    made = MAKERS[request.param]()
    yield made
    made.close()


def result(sandbox: Sandbox, handler, payload=None, **kwargs):
    outcome, _ = run_one(sandbox, handler, payload, **kwargs)
    assert outcome.failure is None, outcome.failure
    return json.loads(outcome.result_json)


def failure(sandbox: Sandbox, handler, payload=None, **kwargs):
    outcome, _ = run_one(sandbox, handler, payload, **kwargs)
    assert outcome.started
    assert outcome.failure is not None
    return outcome.failure


# ---------------------------------------------------------------------- results


@pytest.mark.parametrize(
    "value", [None, "text ü€😀", 1, 1.5, True, [], {"a": [1, {"b": None}]}, "x" * 100_000, "\x00nul", "\x1b[31m"]
)
def test_a_result_comes_back_as_it_was(sandbox, value):
    assert result(sandbox, lambda db: value) == ("\\x00nul" if value == "\x00nul" else value)


def test_tuples_and_numpy_scalars_become_json(sandbox):
    def handler(db):
        import numpy as np

        return {"t": (1, 2), "i": np.int64(3), "f": np.float32(0.5), 4: "int key"}

    assert result(sandbox, handler) == {"t": [1, 2], "i": 3, "f": 0.5, "4": "int key"}


def test_lone_surrogates_in_a_result_are_escaped(sandbox):
    outcome, _ = run_one(sandbox, lambda db: "\ud800!")
    assert json.loads(outcome.result_json) == "\\ud800!"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda db: {"a": [1, {2, 3}]}, ["$.a[1]", "set", "sorted"]),
        (lambda db: object(), ["the result", "object"]),
        (lambda db: {"x": b"bytes"}, ["$.x", "bytes"]),
        (lambda db: [float("nan")], ["$[0]", "nan"]),
        (lambda db: {(1, 2): 3}, ["key", "tuple"]),
        (lambda db: (i for i in range(3)), ["generator"]),
    ],
)
def test_what_json_can_not_hold_is_named_with_its_place(sandbox, make, words):
    found = failure(sandbox, make)
    assert found.kind == "result"
    for word in words:
        assert word in found.message


def test_a_result_that_contains_itself_is_refused(sandbox):
    def handler(db):
        loop = []
        loop.append(loop)
        return loop

    assert failure(sandbox, handler).kind == "result"


def test_a_result_over_its_limit_says_so(sandbox):
    found = failure(sandbox, lambda db: "x" * 5000, limits=Limits(result_bytes=4096))
    assert found.kind == "result"
    assert "4 KiB" in found.message


def test_a_coroutine_is_awaited(sandbox):
    async def handler(db):
        import asyncio

        await asyncio.sleep(0)
        return "done"

    assert result(sandbox, handler) == "done"


# ---------------------------------------------------------------------- arguments


def test_the_payload_comes_as_keywords_and_db_by_position(sandbox):
    def handler(db, a, *, b=2, **rest):
        return [type(db).__name__, a, b, rest]

    assert result(sandbox, handler, {"a": 1, "c": 3}) == ["Db", 1, 2, {"c": 3}]


def test_missing_members_are_named(sandbox):
    def handler(db, metric, results):
        return None

    found = failure(sandbox, handler, {"metric": 1, "other": 2})
    assert (found.kind, found.type) == ("exception", "TypeError")
    assert "'results'" in found.message
    assert "test.hook" in found.message


def test_surplus_members_are_named(sandbox):
    found = failure(sandbox, lambda db, a: a, {"a": 1, "extra": 2})
    assert "'extra'" in found.message
    assert "**kwargs" in found.message


def test_a_member_named_like_the_first_parameter_is_a_clear_error(sandbox):
    def handler(db, **kwargs):
        return None

    found = failure(sandbox, handler, {"db": 1})
    assert "'db'" in found.message
    assert "/, ..." in found.message


def test_a_positional_only_first_parameter_leaves_its_name_to_the_payload(sandbox):
    def handler(db, /, **kwargs):
        return kwargs["db"]

    assert result(sandbox, handler, {"db": 7}) == 7


def test_a_handler_without_parameters_is_told(sandbox):
    assert "handler(db, **payload)" in failure(sandbox, lambda: None).message


# ---------------------------------------------------------------------- exceptions


def test_an_exception_shows_type_message_traceback_and_cause(sandbox):
    def handler(db):
        def inner():
            raise KeyError("deep")

        try:
            inner()
        except KeyError as error:
            raise ValueError("outer") from error

    found = failure(sandbox, handler, with_source=True)
    assert (found.kind, found.type, found.message) == ("exception", "ValueError", "outer")
    assert found.traceback is not None
    assert "in inner" in found.traceback
    assert "direct cause" in found.traceback
    assert 'raise KeyError("deep")' in found.traceback
    assert "runner.py" not in found.traceback


def test_an_exception_whose_str_raises_is_described(sandbox):
    def handler(db):
        class Evil(Exception):
            def __str__(self):
                raise RuntimeError("no")

            __repr__ = __str__

        raise Evil

    found = failure(sandbox, handler)
    assert found.kind == "exception"
    assert "Evil" in (found.type or "")


def test_an_exception_whose_str_is_no_str_and_exits_is_described(sandbox):
    def handler(db):
        class Evil(Exception):
            def __str__(self):
                raise SystemExit(3)

        raise Evil

    assert failure(sandbox, handler).kind == "exception"


def test_a_huge_message_is_cut(sandbox):
    def handler(db):
        raise ValueError("x" * 10_000_000)

    found = failure(sandbox, handler)
    assert len(found.message) < 20_000
    assert "cut" in found.message


def test_sys_exit_is_told_apart(sandbox):
    def handler(db):
        import sys

        sys.exit(3)

    found = failure(sandbox, handler)
    assert found.kind == "exit"
    assert "3" in found.message


def test_keyboard_interrupt_is_an_exception(sandbox):
    def handler(db):
        raise KeyboardInterrupt

    assert failure(sandbox, handler).type == "KeyboardInterrupt"


def test_what_the_platform_refuses_a_handler_has_a_name_without_our_insides(sandbox):
    def handler(db):
        ep.emit("some.hook", {"what": object()})

    found = failure(sandbox, handler)
    assert found.kind == "exception"
    assert found.type == "InvalidError"


def test_deep_recursion_is_an_exception(sandbox):
    def handler(db):
        def down():
            return down()

        return down()

    assert failure(sandbox, handler).type == "RecursionError"


# ---------------------------------------------------------------------- loading


def test_a_corrupt_blob_is_a_load_failure(sandbox):
    assert failure(sandbox, b"\x80\x04garbage").kind == "load"
    assert failure(sandbox, b"").kind == "load"


def test_a_missing_module_is_named(sandbox):
    found = failure(sandbox, b"cno_such_module_anywhere\nthing\n.")
    assert found.kind == "load"
    assert "'no_such_module_anywhere'" in found.message


def test_a_blob_that_is_not_callable_is_refused(sandbox):
    import pickle

    assert "dict" in failure(sandbox, pickle.dumps({"a": 1})).message


def test_another_python_is_refused_with_both_versions(sandbox):
    child = sandbox.spawn(program(lambda db: 1, python="2.9"), Limits())
    outcomes = list(child.execute([(call(1), Session()), (call(2), Session())]))
    child.close()
    assert [outcome.run_id for outcome in outcomes] == [1, 2]
    assert outcomes[0].failure is not None
    assert outcomes[0].failure.kind == "load"
    assert "2.9" in outcomes[0].failure.message
    assert "3." in outcomes[0].failure.message


def test_check_loads_without_calling(sandbox):
    def handler(db):
        raise AssertionError

    assert sandbox.check(program(handler), Limits()) is None
    found = sandbox.check(program(b"cno_such_module_anywhere\nthing\n."), Limits())
    assert found is not None
    assert found.kind == "load"


# ---------------------------------------------------------------------- output


def test_output_is_captured_in_order_and_by_stream(sandbox):
    def handler(db):
        import logging
        import sys

        print("out", end="")
        print("more")
        sys.stderr.write("err\n")
        logging.getLogger("mine").warning("logged %d", 1)
        ep.log.info("via ep")
        sys.stdout.buffer.write(b"\xff bytes")

    _, session = run_one(sandbox, handler)
    assert session.text("stdout") == "outmore\n\\xff bytes"
    assert session.text("stderr") == "err\n"
    assert session.text("log") == "WARNING mine: logged 1\nINFO handler: via ep\n"


def test_output_over_its_limit_is_cut_once_and_says_so(sandbox):
    def handler(db):
        for _ in range(1000):
            print("x" * 100)
        return "still here"

    outcome, session = run_one(sandbox, handler, limits=Limits(output_bytes=5000))
    assert outcome.failure is None
    assert session.text().count("cut here") == 1
    assert len(session.text()) < 6000


def test_output_belongs_to_its_own_call(sandbox):
    def handler(db, n):
        print(f"call {n}")

    child = sandbox.spawn(program(handler), Limits())
    sessions = [Session() for _ in range(100)]
    outcomes = list(child.execute([(call(n, {"n": n}), session) for n, session in enumerate(sessions)]))
    child.close()
    assert len(outcomes) == 100
    assert [session.text() for session in sessions] == [f"call {n}\n" for n in range(100)]


# ---------------------------------------------------------------------- ep


def test_ep_knows_the_event_without_import(sandbox):
    def handler(db):
        event = ep.event
        return [event.message_id, event.event_type, event.timestamp.isoformat(), event.tags, event.key, event.attempt]

    assert result(sandbox, handler) == ["m-1", "test.hook", "2023-11-14T22:13:20.000001+00:00", ["a"], "k", 1]


def test_emit_asks_the_platform_and_returns_the_id(sandbox):
    def handler(db):
        return ep.emit("other.hook", {"x": [1, "ü"]}, tags=["t"], key="k", time="2026-01-02T03:04:05Z")

    session = Session({"emit": lambda args, body: ({"id": "new-id"}, ())})
    outcome, _ = run_one(sandbox, handler, session=session)
    assert outcome.result_json == '"new-id"'
    ((op, args, _),) = session.asked
    assert op == "emit"
    assert args == {
        "hook": "other.hook",
        "payload": {"x": [1, "ü"]},
        "tags": ["t"],
        "key": "k",
        "time_us": 1_767_323_045_000_000,
    }


def test_a_refused_request_is_an_exception_that_can_be_caught(sandbox):
    def refuse(args, body):
        raise InvalidPayload("$.x is missing", path="$.x")

    def handler(db):
        try:
            ep.emit("other.hook", {})
        except ValueError as error:
            return [type(error).__name__, str(error), error.code, error.details]

    session = Session({"emit": refuse})
    outcome, _ = run_one(sandbox, handler, session=session)
    assert json.loads(outcome.result_json) == [
        "InvalidError",
        "$.x is missing",
        "invalid_payload",
        {"path": "$.x"},
    ]


def test_a_fault_inside_the_platform_ends_the_run_and_says_whose_fault_it_was(sandbox):
    def broken(args, body):
        raise ZeroDivisionError

    def handler(db):
        try:
            ep.emit("other.hook", {})
        except BaseException:
            return "swallowed"

    outcome, _ = run_one(sandbox, handler, session=Session({"emit": broken}))
    assert outcome.failure is not None
    assert outcome.failure.kind == "sandbox"
    assert "internal error" in outcome.failure.message


def test_a_file_is_uploaded_in_pieces(sandbox, tmp_path):
    stored = bytearray()

    def write(args, body):
        stored.extend(body)
        return None, ()

    def handler(db):
        import tempfile

        with tempfile.NamedTemporaryFile(suffix=".bin") as file:
            file.write(b"0123456789" * 300_000)
            file.flush()
            return ep.upload_file(file.name, "data.bin")

    session = Session(
        {
            "upload_open": lambda args, body: ({"code": "c" * 32, "url": "u"}, ()),
            "upload_write": write,
            "upload_close": lambda args, body: ({"size": len(stored), "url": "http://x/" + "c" * 32}, ()),
        }
    )
    outcome, _ = run_one(sandbox, handler, session=session)
    assert outcome.failure is None, outcome.failure
    assert json.loads(outcome.result_json) == "http://x/" + "c" * 32
    assert bytes(stored) == b"0123456789" * 300_000
    assert session.asked[0][1] == {"name": "data.bin", "size": 3_000_000}
    assert max(len(body) for _, _, body in session.asked) <= 1 << 20


def test_uploading_what_is_not_there_is_a_clear_error(sandbox):
    found = failure(sandbox, lambda db: ep.upload_file("/no/such/file"))
    assert found.type == "FileNotFoundError"
    assert "/no/such/file" in found.message


# ---------------------------------------------------------------------- db


def test_values_are_arrays(sandbox):
    uuid = "0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b"

    def handler(db, uuid):
        times, values = db.values(uuid, 0, "1970-01-01T00:00:00.000000005Z")
        values[0] += 1
        return [str(times.dtype), times.tolist(), str(values.dtype), values.tolist()]

    session = Session(
        {"values": lambda args, body: ({"count": 2}, [struct.pack("<2q", 1, 2), struct.pack("<2d", 0.5, 1.5)])}
    )
    outcome, _ = run_one(sandbox, handler, {"uuid": uuid}, session=session)
    assert json.loads(outcome.result_json) == ["int64", [1, 2], "float64", [1.5, 1.5]]
    assert session.asked == [("values", {"uuid": uuid, "start": 0, "end": 5}, b"")]


def test_windows_are_one_structured_array(sandbox):
    columns = [struct.pack("<1q", 0), *(struct.pack("<1d", x) for x in (1.0, 2.0, 3.0))]
    columns += [struct.pack("<1q", 9), struct.pack("<1d", 0.1)]

    def handler(db):
        table = db.windows("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b", 0, 100, 10)
        return [list(table.dtype.names), table.tolist()]

    session = Session({"windows": lambda args, body: ({"count": 1}, columns)})
    outcome, _ = run_one(sandbox, handler, session=session)
    assert json.loads(outcome.result_json) == [
        ["time", "min", "mean", "max", "count", "stddev"],
        [[0, 1.0, 2.0, 3.0, 9, 0.1]],
    ]


def test_streams_have_btrdbs_names_and_shapes(sandbox):
    uuid = "0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b"
    row = {
        "uuid": uuid,
        "name": "L1",
        "collection": "plant/a",
        "unit": "V",
        "tags": {"phase": "A"},
        "annotations": {"note": "x"},
        "count": 2,
        "earliest": 1,
        "latest": 2,
    }
    session = Session(
        {
            "stream": lambda args, body: (row, ()),
            "streams": lambda args, body: ([row], ()),
            "values": lambda args, body: ({"count": 1}, [struct.pack("<1q", 1), struct.pack("<1d", 0.5)]),
            "earliest": lambda args, body: ({"time": 1, "value": 0.5}, ()),
            "latest": lambda args, body: (None, ()),
            "count": lambda args, body: ({"count": 2}, ()),
            "insert": lambda args, body: (None, ()),
        }
    )

    def handler(db, uuid):
        stream = db.stream_from_uuid(uuid)
        ((point, version),) = stream.values(0, 10)
        stream.insert([(5, 1.0), (6, 2.0)])
        return {
            "identity": [str(stream.uuid), stream.name, stream.collection, stream.unit, stream.tags()["phase"]],
            "annotations": stream.annotations()[0],
            "point": [point.time, point.value, version],
            "earliest": stream.earliest()[0].value,
            "latest": stream.latest(),
            "count": stream.count(),
            "same": db.streams("plant/a/L1") == [stream],
        }

    outcome, _ = run_one(sandbox, handler, {"uuid": uuid}, session=session)
    assert outcome.failure is None, outcome.failure
    assert json.loads(outcome.result_json) == {
        "identity": [uuid, "L1", "plant/a", "V", "A"],
        "annotations": {"note": "x"},
        "point": [1, 0.5, 0],
        "earliest": 0.5,
        "latest": None,
        "count": 2,
        "same": True,
    }
    inserted = next(body for op, _, body in session.asked if op == "insert")
    assert inserted == struct.pack("<2q", 5, 6) + struct.pack("<2d", 1.0, 2.0)


def test_a_stream_that_is_not_there_is_a_lookup_error(sandbox):
    def missing(args, body):
        raise NotFound("no series of that UUID")

    def handler(db):
        try:
            db.stream_from_uuid("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b")
        except LookupError as error:
            return str(error)

    outcome, _ = run_one(sandbox, handler, session=Session({"stream": missing}))
    assert json.loads(outcome.result_json) == "no series of that UUID"


def test_requests_from_threads_of_the_handler_are_answered(sandbox):
    def handler(db):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as pool:
            return sorted(pool.map(lambda n: ep.emit("h", {"n": n}), range(50)))

    session = Session({"emit": lambda args, body: ({"id": f"{args['payload']['n']:02d}"}, ())})
    outcome, _ = run_one(sandbox, handler, session=session)
    assert json.loads(outcome.result_json) == [f"{n:02d}" for n in range(50)]


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
