"""Handlers that misbehave: each costs its own run, never its neighbours, and its owner reads why."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821, BLE001, PTH109, PTH123, PTH208, SIM105, SIM115, NPY002
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import json
import os
import tracemalloc

import pytest
from sandbox_world import Session, call, program, run_one
from waiting import wait_until

from eventproc.model import Failure, Limits
from eventproc.sandbox.forkserver import ForkServerSandbox


@pytest.fixture(scope="module")
def sandbox():
    made = ForkServerSandbox()
    yield made
    made.close()


@pytest.fixture(scope="module")
def unconfined():
    """Handlers may fork here."""
    made = ForkServerSandbox(levels=["none"], allow_unsafe=True)
    yield made
    made.close()


def failed(sandbox, handler, **kwargs) -> Failure:
    outcome, _ = run_one(sandbox, handler, **kwargs)
    assert outcome.started
    assert outcome.failure is not None
    return outcome.failure


def test_a_result_of_100_mb_is_refused_by_its_size(sandbox):
    found = failed(sandbox, lambda db: "x" * 100_000_000)
    assert found.kind == "result"
    assert "1 MiB" in found.message
    assert "95.3674 MiB" in found.message


def test_invalid_utf8_on_the_file_descriptors_is_shown_escaped(sandbox):
    def handler(db):
        import os

        os.write(1, b"caf\xc3\xa9 \xff\xfe\x00\n")
        os.write(2, b"\xf0\x9f")
        os.write(2, b"\x98\x80\n")

    outcome, session = run_one(sandbox, handler)
    assert outcome.failure is None
    assert session.text("stdout") == "café \\xff\\xfe\\x00\n"
    assert session.text("stderr") == "😀\n"


def test_os_exit_is_told_apart_from_an_exception(sandbox):
    def handler(db):
        import os

        os._exit(7)

    found = failed(sandbox, handler)
    assert found.kind == "exit"
    assert "exit code 7" in found.message
    assert found.rolled_back is False


def test_a_segfault_is_a_signal_by_name_with_the_line_it_happened_on(sandbox):
    def handler(db):
        import ctypes

        ctypes.string_at(0)

    outcome, session = run_one(sandbox, handler)
    assert outcome.failure is not None
    assert outcome.failure.kind == "signal"
    assert "SIGSEGV" in outcome.failure.message
    assert "in handler" in session.text("stderr")


def test_abort_is_a_signal(sandbox):
    def handler(db):
        import os

        os.abort()

    assert "SIGABRT" in failed(sandbox, handler).message


def test_a_sleeper_is_stopped_with_a_traceback_and_rolls_back(sandbox):
    def handler(db):
        import time

        ep.on_rollback(lambda: print("undone"))
        time.sleep(3600)

    outcome, session = run_one(sandbox, handler, limits=Limits(timeout_s=0.3))
    assert outcome.failure is not None
    assert outcome.failure.kind == "timeout"
    assert "0.3 s" in outcome.failure.message
    assert "timeout=" in outcome.failure.message
    assert "in handler" in (outcome.failure.traceback or "")
    assert outcome.failure.rolled_back is True
    assert session.text() == "undone\n"


def test_a_sleeper_that_ignores_everything_is_killed(sandbox):
    def handler(db):
        import signal
        import time

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGPROF, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                pass

    outcome, _ = run_one(sandbox, handler, limits=Limits(timeout_s=0.3))
    assert outcome.failure is not None
    assert outcome.failure.kind == "timeout"
    assert outcome.failure.rolled_back is False
    assert not outcome.alive


def test_cpu_over_its_limit_is_named(sandbox):
    def handler(db):
        while True:
            pass

    found = failed(sandbox, handler, limits=Limits(cpu_s=0.2))
    assert found.kind == "limit"
    assert "CPU time limit of 0.2 s" in found.message
    assert "in handler" in (found.traceback or "")


def test_cpu_burnt_where_no_exception_can_reach_is_killed(sandbox):
    def handler(db):
        import signal

        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        while True:
            pass

    found = failed(sandbox, handler, limits=Limits(cpu_s=0.2))
    assert found.kind == "limit"
    assert "CPU time" in found.message


def test_memory_over_its_limit_is_named(sandbox):
    def handler(db):
        return len(bytearray(400 << 20))

    assert "256 MiB" in failed(sandbox, handler, limits=Limits(memory_bytes=256 << 20)).message
    outcome, _ = run_one(sandbox, lambda db: len(bytearray(200 << 20)), limits=Limits(memory_bytes=256 << 20))
    assert outcome.failure is None


def test_a_file_over_its_limit_is_named(sandbox):
    def handler(db):
        with open("big", "wb") as file:
            file.writelines(bytes(1 << 20) for _ in range(100))

    found = failed(sandbox, handler, limits=Limits(file_bytes=8 << 20))
    assert found.kind == "limit"
    assert "8 MiB" in found.message
    assert "files=" in found.message


def test_open_files_over_their_limit_are_named(sandbox):
    def handler(db):
        kept = [open("/dev/null") for _ in range(1000)]
        return len(kept)

    found = failed(sandbox, handler, limits=Limits(open_files=64))
    assert found.kind == "limit"
    assert "64" in found.message


def test_flooding_stdout_is_cut_and_does_not_stop_the_run(sandbox):
    def handler(db):
        import os

        for _ in range(200):
            os.write(1, b"y" * 100_000)
        return "done"

    outcome, session = run_one(sandbox, handler, limits=Limits(output_bytes=10_000))
    assert outcome.result_json == '"done"'
    assert len(session.text()) < 11_000
    assert session.text().count("cut here") == 1


def test_flooding_stdout_for_ever_ends_with_the_timeout(sandbox):
    def handler(db):
        while True:
            try:
                print("y" * 1000)
            except BaseException:
                pass

    outcome, _ = run_one(sandbox, handler, limits=Limits(output_bytes=10_000, timeout_s=0.5))
    assert outcome.failure is not None
    assert outcome.failure.kind == "timeout"


GARBAGE = [
    b"\xff" * 100,
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x02\x00\x00\x00\x00\x00\x00\x00[]",
    b"\x05\x00\x00\x00\x00\x00\x00\x00{'x'}",
    b"\x0a\x00\x00\x00\x00\x00\x00\x00" + b"[" * 10,
    (2_000_000).to_bytes(4, "little") + bytes(4) + b"[" * 2_000_000,
    (13).to_bytes(4, "little") + bytes(4) + b'{"t":"reply"}',
    (25).to_bytes(4, "little") + bytes(4) + b'{"t":"done","id":[],"n":1}'[:25],
    (18).to_bytes(4, "little") + (3).to_bytes(4, "little") + b'{"t":"x","n":[-1]}abc',
    (24).to_bytes(4, "little") + bytes(4) + b'{"t":"ask","op":5,"a":{}}'[:24],
    (26).to_bytes(4, "little") + bytes(4) + b'{"t":"log","s":"other123"}',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_on_the_channel_costs_the_run_only(sandbox, garbage):
    def handler(db, garbage):
        import time

        data = bytes.fromhex(garbage)
        while data:
            data = data[os.write(3, data) :]
        time.sleep(3600)

    child = sandbox.spawn(program(handler), Limits(timeout_s=20))
    outcomes = list(child.execute([(call(n, {"garbage": garbage.hex()}), Session()) for n in range(2)]))
    child.close()
    assert outcomes[0].failure is not None
    assert outcomes[0].failure.kind == "sandbox"
    assert "protocol" in outcomes[0].failure.message
    assert not outcomes[1].started
    good, _ = run_one(sandbox, lambda db: "fine")
    assert good.result_json == '"fine"'


BOMBS = {
    "empty lists": ('{"t":"ask","op":"emit","a":{"x":[', "[],", 1_300_000, "[]]}}", "250,000 JSON values"),
    "objects": ('{"t":"ask","op":"emit","a":{"x":[', '{"a":0},', 480_000, "0]}}", "250,000 JSON values"),
    "keys": ('{"t":"ask","op":"emit","a":{"x":{"b":0', ',"%d":0', 300_000, "}}}", "250,000 JSON values"),
    "depth": ('{"t":"ask","op":"emit","a":{"x":', "[", 100_000, "", "220 levels"),
    "quotes": (
        '{"t":"ask","op":"emit","a":{"\\\\":"\\"","x":[',
        "[],",
        1_300_000,
        "[]]}}",
        "250,000 JSON values",
    ),
    "size": ('{"t":"ask","op":"emit","a":{"x":"', "y", 5_000_000, '"}}', "frame of 5,0"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_fill_the_worker_as_objects_ends_the_run(sandbox, bomb):
    def handler(db, begin, middle, times, end):
        import time

        inside = "".join(middle % n for n in range(times)) if "%" in middle else middle * times
        header = (begin + inside + end).encode()
        data = len(header).to_bytes(4, "little") + bytes(4) + header
        while data:
            data = data[os.write(3, data) :]
        time.sleep(3600)

    begin, middle, times, end, says = BOMBS[bomb]
    payload = {"begin": begin, "middle": middle, "times": times, "end": end}
    failed(sandbox, lambda db: 1 / 0)  # what is made once shall not count
    tracemalloc.start()
    try:
        found = failed(sandbox, handler, payload=payload, limits=Limits(timeout_s=30))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.kind == "sandbox"
    assert "broke the protocol" in found.message
    assert says in found.message
    assert peak < 40 << 20


def test_a_request_of_too_much_is_refused_to_the_handler_that_can_go_on(sandbox):
    def handler(db):
        refused = []
        for payload in ({"x": [[]] * 200_000}, {"x": "y" * 5_000_000}):
            try:
                ep.emit("a.b", payload)
            except ValueError as error:
                refused.append(str(error))
        return refused

    outcome, _ = run_one(sandbox, handler)
    many, large = json.loads(outcome.result_json)
    assert "250,000 JSON values" in many
    assert "5,000,0" in large
    assert "4,194,304" in large


def test_a_forged_outcome_can_only_be_its_own(sandbox):
    def handler(db):
        import time

        header = b'{"t":"done","id":1,"failure":null}'
        os.write(3, len(header).to_bytes(4, "little") + (8).to_bytes(4, "little") + header + b'"forged"')
        header = b'{"t":"done","id":2,"failure":null}'
        os.write(3, len(header).to_bytes(4, "little") + (8).to_bytes(4, "little") + header + b'"forged"')
        time.sleep(3600)

    outcome, _ = run_one(sandbox, handler)
    assert outcome.result_json == '"forged"'


@pytest.mark.parametrize(
    "text", [b"[" * 100_000 + b"]" * 100_000, b"nul", b"NaN", b"\xff\xff", b"1" * 100_000, b"{", b""]
)
def test_a_forged_result_that_is_no_json_is_a_failure(sandbox, text):
    def handler(db, text):
        import time

        data = bytes.fromhex(text)
        header = b'{"t":"done","id":1,"failure":null}'
        data = len(header).to_bytes(4, "little") + len(data).to_bytes(4, "little") + header + data
        while data:
            data = data[os.write(3, data) :]
        time.sleep(3600)

    outcome, _ = run_one(sandbox, handler, {"text": text.hex()}, limits=Limits(timeout_s=20))
    assert outcome.failure is not None
    assert outcome.failure.kind == "result"


def test_a_forged_failure_is_cleaned(sandbox):
    def handler(db):
        import json
        import time

        failure = {"kind": "exception", "message": "a\x00b\ud800" + "x" * 50_000, "type": 5, "traceback": ["no"]}
        header = json.dumps({"t": "done", "id": 1, "failure": failure}).encode()
        os.write(3, len(header).to_bytes(4, "little") + bytes(4) + header)
        time.sleep(3600)

    outcome, _ = run_one(sandbox, handler)
    found = outcome.failure
    assert found is not None
    assert found.message.startswith("a\\x00b\\ud800x")
    assert len(found.message) < 20_000
    assert found.type is None
    json.dumps(found.message).encode()


def test_closing_the_channel_ends_in_a_failure(sandbox):
    def handler(db):
        import os

        os.close(3)

    assert failed(sandbox, handler, limits=Limits(timeout_s=5)).kind in {"exit", "sandbox", "timeout"}


def test_a_crash_in_a_batch_costs_one_event(sandbox):
    def handler(db, n):
        import os

        if n == 5:
            os.kill(os.getpid(), 9)
        return n

    child = sandbox.spawn(program(handler), Limits())
    outcomes = list(child.execute([(call(n, {"n": n}), Session()) for n in range(10)]))
    again = list(child.execute([(call(11, {"n": 1}), Session())]))
    child.close()
    assert [outcome.run_id for outcome in outcomes] == list(range(10))
    assert [outcome.result_json for outcome in outcomes[:5]] == ["0", "1", "2", "3", "4"]
    assert outcomes[5].started
    assert outcomes[5].failure is not None
    assert outcomes[5].failure.kind == "signal"
    assert [outcome.started for outcome in outcomes[6:]] == [False] * 4
    assert not again[0].started


def test_settling_after_a_crash_says_that_it_was_interrupted(sandbox):
    def handler(db, n):
        import os

        ep.on_commit(lambda: None)
        if n == 1:
            os._exit(1)

    child = sandbox.spawn(program(handler), Limits())
    outcomes = list(child.execute([(call(n, {"n": n}), Session()) for n in range(2)]))
    assert outcomes[0].callbacks
    found = child.settle(0, "commit")
    child.close()
    assert found is not None
    assert found.kind == "interrupted"


def test_a_callback_that_kills_its_process_is_reported(sandbox):
    def handler(db):
        import os

        ep.on_commit(lambda: os._exit(4))

    child = sandbox.spawn(program(handler), Limits())
    list(child.execute([(call(1), Session())]))
    found = child.settle(1, "commit")
    child.close()
    assert found is not None
    assert found.kind == "exit"
    assert "exit code 4" in found.message


def test_a_blob_that_crashes_while_it_is_loaded_is_a_load_failure(sandbox):
    blob = b"cos\n_exit\n(I3\ntR."
    found = sandbox.check(program(blob), Limits())
    assert found is not None
    assert found.kind == "load"
    assert "exit code 3" in found.message
    outcome, _ = run_one(sandbox, blob)
    assert outcome.failure is not None
    assert outcome.failure.kind == "load"


def test_a_blob_that_never_ends_loading_times_out(sandbox):
    blob = b"ctime\nsleep\n(I3600\ntR."
    found = sandbox.check(program(blob), Limits(timeout_s=0.3))
    assert found is not None
    assert found.kind == "timeout"


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def forker(db):
    import os
    import signal
    import time

    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork() > 0:
                os._exit(0)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            with open(f"{os.getcwd()}/{os.getpid()}", "w"):
                pass
            time.sleep(3600)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    while len([name for name in os.listdir(".") if name.isdigit()]) < 3:
        time.sleep(0.01)
    return [int(name) for name in os.listdir(".") if name.isdigit()]


def make_forker():
    import types

    return types.FunctionType(forker.__code__, {"__builtins__": __builtins__}, "<locals>.forker")


def test_what_a_handler_forked_does_not_outlive_it(unconfined):
    outcome, _ = run_one(unconfined, make_forker())
    assert outcome.failure is None, outcome.failure
    daemons = json.loads(outcome.result_json or "")
    assert len(daemons) == 3
    wait_until(lambda: not any(alive(pid) for pid in daemons), what="the daemons' end")


def test_a_fork_that_comes_back_from_the_handler_does_not_speak_twice(unconfined):
    def handler(db, n):
        import os

        pid = os.fork()
        if pid == 0:
            return "copy"
        os.waitpid(pid, 0)
        return n

    child = unconfined.spawn(program(handler), Limits())
    outcomes = list(child.execute([(call(n, {"n": n}), Session()) for n in range(3)]))
    child.close()
    assert [outcome.result_json for outcome in outcomes] == ["0", "1", "2"]


def test_children_see_a_clean_environment(sandbox, monkeypatch):
    monkeypatch.setenv("EVENTPROC_CANARY", "secret-canary-value")

    def handler(db):
        import os

        return [dict(os.environ), sorted(os.listdir("/proc/self/fd"))]

    fresh = ForkServerSandbox()
    outcome, _ = run_one(fresh, handler)
    fresh.close()
    environ, fds = json.loads(outcome.result_json or "")
    assert "secret-canary-value" not in json.dumps(environ)
    assert set(environ) <= {
        "EXECUTOR_CONTEXT", "DOWNLOADS_ENDPOINT", "PATH", "LANG", "HOME", "TMPDIR", "MPLBACKEND", "LC_CTYPE",
        "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    }  # fmt: skip
    assert len(fds) == 5  # stdin, stdout, stderr, the channel, and the directory being listed


def test_random_numbers_differ_between_children(sandbox):
    def handler(db):
        import random
        import uuid

        import numpy as np

        return [random.random(), float(np.random.random()), str(uuid.uuid4())]

    results = [run_one(sandbox, handler)[0].result_json for _ in range(2)]
    first, second = (json.loads(result or "") for result in results)
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_requests_whose_answers_are_never_read_do_not_fill_the_worker(sandbox):
    def handler(db):
        import os

        header = b'{"t":"ask","op":"values","a":{}}'
        frame = len(header).to_bytes(4, "little") + bytes(4) + header
        while True:
            os.write(3, frame)

    answered = []

    def answer(args, body):
        answered.append(1)
        return None, [bytes(100_000)]

    outcome, _ = run_one(sandbox, handler, limits=Limits(timeout_s=0.5), session=Session({"values": answer}))
    assert outcome.failure is not None
    assert outcome.failure.kind == "timeout"
    assert len(answered) < 100


def test_much_output_while_large_calls_wait_does_not_jam(sandbox):
    def handler(db, big):

        for _ in range(100):
            print("z" * 30_000)
            os.write(2, b"e" * 30_000)
        return len(big)

    child = sandbox.spawn(program(handler), Limits(timeout_s=60))
    outcomes = list(child.execute([(call(n, {"big": "b" * 900_000}), Session()) for n in range(8)]))
    child.close()
    assert [outcome.result_json for outcome in outcomes] == ["900000"] * 8


@pytest.mark.parametrize("level", ["A", "B"])
def test_directories_whose_names_are_no_utf8_are_as_good_as_others(tmp_path, level):
    tmp_path.chmod(0o711)
    strange = tmp_path / os.fsdecode(b"caf\xe9")
    strange.mkdir()
    made = ForkServerSandbox(scratch=strange, levels=[level])
    child = made.spawn(program(lambda db: 1), Limits())
    (outcome,) = child.execute([(call(1), Session())])
    child.close()
    made.close()
    assert outcome.result_json == "1"
