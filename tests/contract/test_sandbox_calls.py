"""What every sandbox does with a call: arguments, results, exceptions, output."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import json

import pytest
from sandbox_world import Session, call, failure, program, result, run_one

from eventproc.model import Limits

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
