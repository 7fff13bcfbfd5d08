"""Handlers with allow_subprocess: processes and programs work inside, and all of them together are contained."""

# Handlers stand here as users write them.
# ruff: noqa: PTH208
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined,attr-defined"

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sandbox_world import Session, call, program, run_one
from waiting import wait_until

from eventproc.model import Limits, Policy
from eventproc.sandbox.forkserver import ForkServerSandbox

SMALL = Limits(timeout_s=20, memory_bytes=400 << 20, processes=30)


@pytest.fixture(scope="module")
def sandbox():
    made = ForkServerSandbox(levels=["A"])
    yield made
    made.close()


def result(sandbox, handler, payload=None, *, limits=None):
    outcome, session = run_one(sandbox, handler, payload, limits=limits, allow_subprocess=True)
    assert outcome.failure is None, (outcome.failure, session.text())
    return json.loads(outcome.result_json)


def failure(sandbox, handler, *, limits):
    outcome, session = run_one(sandbox, handler, limits=limits, allow_subprocess=True)
    assert outcome.failure is not None, (outcome.result_json, session.text())
    return outcome.failure


# ---------------------------------------------------------------------- it works


def test_programs_run_with_their_output_and_status(sandbox):
    def handler(db):
        import subprocess
        import sys

        shell = subprocess.run(
            ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True, text=True, check=False
        )
        python = subprocess.run(
            [sys.executable, "-c", "import json; print(1 + 1)"], capture_output=True, text=True, check=False
        )
        return [shell.stdout, shell.stderr, shell.returncode, python.stdout]

    assert result(sandbox, handler) == ["out\n", "err\n", 3, "2\n"]


def test_a_fork_of_the_handlers_own_knows_that_it_has_none_of_its_threads(sandbox):
    def handler(db):
        import os
        import threading

        waits = threading.Event()
        thread = threading.Thread(target=waits.wait)
        thread.start()
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, b"%d" % threading.active_count())
            os._exit(0)
        os.wait()
        waits.set()
        thread.join()
        return int(os.read(read, 10))

    assert result(sandbox, handler) == 1


def test_what_a_program_prints_is_captured(sandbox):
    def handler(db):
        import subprocess

        subprocess.run(["/bin/echo", "from a program"], check=True)

    outcome, session = run_one(sandbox, handler, allow_subprocess=True)
    assert outcome.failure is None
    assert "from a program" in session.text("stdout")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works(sandbox, method):
    def handler(db, method):
        import multiprocessing

        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    assert result(sandbox, handler, {"method": method}) == [1, 2, 3]


def test_queues_managers_executors_and_shared_memory_work(sandbox):
    def handler(db):
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing.shared_memory import SharedMemory

        import numpy as np

        found = []
        with ProcessPoolExecutor(2) as pool:
            found.append(sum(pool.map(abs, range(-10, 0))))
        with multiprocessing.Manager() as manager:
            shared = manager.dict()
            process = multiprocessing.Process(target=shared.update, args=({"x": 1},))
            process.start()
            process.join()
            found.append(shared["x"])
        queue = multiprocessing.Queue()
        process = multiprocessing.Process(target=queue.put, args=("said",))
        process.start()
        found.append(queue.get())
        process.join()
        memory = SharedMemory(create=True, size=8000)
        array = np.ndarray((1000,), dtype=np.float64, buffer=memory.buf)
        array[:] = 2.0
        again = SharedMemory(name=memory.name)
        found.append(float(np.ndarray((1000,), dtype=np.float64, buffer=again.buf).sum()))
        del array
        again.close()
        memory.close()
        memory.unlink()
        return found

    assert result(sandbox, handler) == [55, 1, "said", 2000.0]


def test_asyncio_starts_programs(sandbox):
    async def handler(db):
        import asyncio

        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=-1, stdout=-1)
        out, _ = await process.communicate(b"through a pipe")
        return out.decode()

    assert result(sandbox, handler) == "through a pipe"


# ---------------------------------------------------------------------- together they are bounded


def test_memory_of_all_processes_counts_together(sandbox):
    def handler(db):
        import os
        import time

        for _ in range(8):
            if os.fork() == 0:
                kept = bytearray(b"x") * (100 << 20)
                time.sleep(60)
                os._exit(len(kept) % 2)
        time.sleep(60)

    found = failure(sandbox, handler, limits=SMALL)
    assert found.kind == "limit"
    assert "memory limit of 400 MiB" in found.message
    assert "memory=..." in found.message


def test_what_forks_share_is_counted_once(sandbox):
    def handler(db):
        import os
        import time

        kept = bytearray(b"x") * (150 << 20)
        for _ in range(6):
            if os.fork() == 0:
                time.sleep(0.5)
                os._exit(kept[0] - ord("x"))
        return [os.wait()[1] for _ in range(6)]

    assert result(sandbox, handler, limits=SMALL) == [0] * 6


def test_cpu_time_of_all_processes_counts_together(sandbox):
    def handler(db):
        import os
        import signal
        import time

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(3):
            if os.fork() == 0:
                while True:
                    pass
        time.sleep(60)

    found = failure(sandbox, handler, limits=replace(SMALL, cpu_s=0.2))
    assert found.kind == "limit"
    assert "CPU time limit of 0.2 s" in found.message


def test_processes_are_counted_and_the_failure_says_how_many(sandbox):
    def handler(db):
        import os
        import time

        for _ in range(200):
            if os.fork() == 0:
                time.sleep(60)

    found = failure(sandbox, handler, limits=SMALL)
    assert "limit of 30" in found.message
    assert "processes=..." in found.message


def test_threads_over_the_limit_say_how_to_raise_it(sandbox):
    def handler(db):
        import threading
        import time

        for _ in range(200):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    outcome, _ = run_one(sandbox, handler, limits=SMALL)
    assert outcome.failure.kind == "limit"
    assert "processes=..." in outcome.failure.message


def named(mark: str) -> list[int]:
    """Return the processes of this host that have the mark in their command line."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and mark.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("way", ["returns", "crashes", "is killed", "loses its monitor", "loses its zygote"])
def test_nothing_outlives_the_run(sandbox, way):
    def handler(db, mark, way):
        import os
        import subprocess
        import time

        for number in range(2):
            subprocess.Popen(["/bin/sh", "-c", f"sleep 3599; : {mark}-{number}"], start_new_session=True)
        if os.fork() == 0:  # a daemon with all that belongs to one
            os.setsid()
            if os.fork() == 0:
                subprocess.run(["/bin/sh", "-c", f"trap '' TERM HUP INT; sleep 3599; : {mark}-2"], check=False)
            os._exit(0)
        ep.emit("ready", {})  # noqa: F821
        if way == "crashes":
            os.abort()
        if way != "returns":
            time.sleep(60)

    assert run_one(sandbox, lambda db: 1)[0].failure is None
    mark = f"outlive-{way.replace(' ', '-')}-{time.monotonic_ns()}"
    child = sandbox.spawn(replace(program(handler), allow_subprocess=True), SMALL)

    def ready(args, body):
        wait_until(lambda: all(named(f"{mark}-{number}") for number in range(3)), what="the daemons")
        monitor = parent(parent(named(f"{mark}-0")[0]))
        if way == "is killed":
            child.kill()
        elif way.startswith("loses"):
            os.kill(monitor if way == "loses its monitor" else parent(monitor), signal.SIGKILL)
        return {"id": "x"}, ()

    session = Session({"emit": ready})
    list(child.execute([(call(1, {"mark": mark, "way": way}), session)]))
    child.close()
    assert [op for op, _, _ in session.asked] == ["emit"]
    assert run_one(sandbox, lambda db: 1, allow_subprocess=True)[0].result_json == "1"
    wait_until(lambda: not named(mark), what="the end of all that the handler started")


def test_a_refused_process_says_how_to_allow_it(sandbox):
    def handler(db, how):
        import os
        import subprocess

        if how == "spawn":  # what subprocess does from Python 3.13 on
            os.posix_spawn("/bin/true", ["true"], {})
        subprocess.run(["/bin/true"], check=True)

    for how in ("spawn", "run"):
        refused, _ = run_one(sandbox, handler, {"how": how})
        assert "Operation not permitted" in refused.failure.message
        assert "allow_subprocess=True" in refused.failure.message


def test_the_next_run_of_that_monitor_may_start_nothing(sandbox):
    def handler(db):
        import subprocess

        subprocess.run(["/bin/true"], check=True)

    assert run_one(sandbox, handler, allow_subprocess=True)[0].failure is None
    for _ in range(4):
        refused, _ = run_one(sandbox, handler)
        assert "allow_subprocess=True" in refused.failure.message


# ---------------------------------------------------------------------- refusals


def test_level_b_refuses_it_in_words():
    made = ForkServerSandbox(levels=["B"])
    try:
        for outcome_failure in (
            made.check(replace(program(lambda db: 1), allow_subprocess=True), Limits()),
            run_one(made, lambda db: 1, allow_subprocess=True)[0].failure,
        ):
            assert outcome_failure is not None
            assert "level A" in outcome_failure.message
            assert "doctor" in outcome_failure.message
    finally:
        made.close()


def test_an_operator_who_takes_it_back_stops_runs_too():
    made = ForkServerSandbox(levels=["A"], policy=Policy(allow_subprocess=False))
    try:
        outcome, _ = run_one(made, lambda db: 1, allow_subprocess=True)
        assert "policy.allow_subprocess" in outcome.failure.message
    finally:
        made.close()
