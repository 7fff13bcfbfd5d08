"""kill -9 of any process of the sandbox, at any time: nothing is left behind, and the worker knows."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821, PTH208
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined,func-returns-value"

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from process_tree import alive, below, parent, private_directories
from sandbox_world import Session, call, program, run_one
from waiting import wait_until

from eventproc.abc import Outcome
from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.sandbox.launcher import MAX_IDLE_MONITORS

TESTS = Path(__file__).parents[1]


@pytest.fixture(params=["A", "B", "none"])
def level(request):
    return request.param


@pytest.fixture
def sandbox(tmp_path, level):
    tmp_path.chmod(0o711)
    made = ForkServerSandbox(scratch=tmp_path, levels=[level], allow_unsafe=True, spares=0)
    yield made
    made.close()


def family(db):
    """Fork a daemon, then tell everybody's process ids and sleep."""
    import os
    import signal
    import time

    try:
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
            os._exit(0)
    except PermissionError:
        pass
    ep.emit("ready", {})
    time.sleep(3600)


def make_family():
    import types

    return types.FunctionType(family.__code__, {"__builtins__": __builtins__}, "<locals>.family")


class Busy:
    """A run under way on a thread, with all its processes known."""

    def __init__(self, sandbox: ForkServerSandbox) -> None:
        zygote = sandbox.zygote_pid()
        before = below(zygote)
        ready = threading.Event()
        self.session = Session({"emit": lambda args, body: (ready.set(), ({"id": "x"}, ()))[-1]})
        self.child = sandbox.spawn(program(make_family()), Limits(timeout_s=120))
        self.outcomes: list[Outcome] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert ready.wait(30)
        self.all = below(zygote) - before
        self.monitor = next(pid for pid in self.all if parent(pid) not in self.all)
        self.zygote = parent(self.monitor)
        self.handler = next(pid for pid in self.all if parent(pid) == self.monitor)

    def _run(self) -> None:
        self.outcomes.extend(self.child.execute([(call(1), self.session), (call(2), Session())]))

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.child.close()
        return self.outcomes

    def gone(self) -> None:
        theirs = self.all - {self.monitor}  # which stays, for the next handler
        wait_until(lambda: not any(alive(pid) for pid in theirs), what=f"the end of {theirs}")


def test_killing_the_monitor_ends_the_tree_and_is_noticed(sandbox, tmp_path):
    busy = Busy(sandbox)
    os.kill(busy.monitor, signal.SIGKILL)
    outcomes = busy.join()
    assert outcomes[0].started
    assert outcomes[0].failure.kind == "sandbox"
    assert "lost" in outcomes[0].failure.message
    assert not outcomes[1].started
    busy.gone()
    wait_until(lambda: not alive(busy.monitor), what="the monitor's end")
    assert run_one(sandbox, lambda db: 1)[0].result_json == "1"
    wait_until(lambda: not private_directories(tmp_path), what="the private directories' removal")


def test_killing_the_handlers_process_is_a_signal(sandbox, tmp_path):
    busy = Busy(sandbox)
    os.kill(busy.handler, signal.SIGKILL)
    outcomes = busy.join()
    assert outcomes[0].failure.kind == "signal"
    assert "SIGKILL" in outcomes[0].failure.message
    busy.gone()
    wait_until(lambda: not private_directories(tmp_path), what="the private directories' removal")


def test_a_killed_zygote_is_started_again(sandbox, level):
    busy = Busy(sandbox)
    started = sandbox.zygote_pid()
    os.kill(busy.zygote, signal.SIGKILL)
    wait_until(lambda: not alive(busy.zygote) and not alive(started), what="the zygote's end")
    assert run_one(sandbox, lambda db: 1)[0].result_json == "1"
    assert sandbox.zygote_pid() != started
    if level == "A":  # it is the first process of the namespace that its children live in
        assert busy.join()[0].failure.kind == "sandbox"
    else:
        assert alive(busy.handler)
        busy.child.kill()
        assert busy.join()[0].failure.kind == "cancelled"
    busy.gone()


def test_closing_the_sandbox_ends_its_zygote(tmp_path, level):
    made = ForkServerSandbox(scratch=tmp_path, levels=[level], allow_unsafe=True)
    zygote = made.zygote_pid()
    made.close()
    assert not alive(zygote)
    made.close()


WORKER = """
import sys
sys.path.insert(0, {tests!r})
from sandbox_world import *
from pathlib import Path
from eventproc.sandbox.forkserver import ForkServerSandbox
def make():
    def family(db):
        import os, time
        try:
            if os.fork() == 0:
                os.setsid()
                time.sleep(3600)
        except PermissionError:
            pass
        ep.emit("ready", {{}})
        time.sleep(3600)
    return family
sandbox = ForkServerSandbox(scratch=Path({scratch!r}), levels=[{level!r}], allow_unsafe=True)
child = sandbox.spawn(program(make()), Limits())
session = Session({{"emit": lambda args, body: (print("ready", flush=True), ({{"id": "x"}}, ()))[1]}})
list(child.execute([(call(1), session)]))
"""


def test_killing_the_worker_ends_everything_below_it(tmp_path, level):
    tmp_path.chmod(0o711)
    code = WORKER.format(tests=str(TESTS), scratch=str(tmp_path), level=level)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd="/") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        everybody = below(worker.pid)
        assert len(everybody) >= 3  # zygote, monitor, handler, perhaps a daemon
        worker.kill()
    wait_until(lambda: not any(alive(pid) for pid in everybody), what=f"the end of {everybody}")
    wait_until(lambda: not private_directories(tmp_path), what="the private directories' removal")


def test_many_children_leave_nothing_behind(sandbox, tmp_path):
    def run_some(count: int) -> None:
        for _ in range(count):
            assert run_one(sandbox, lambda db: 1)[0].failure is None

    zygote = sandbox.zygote_pid()
    run_some(5)  # what is opened once is open now
    fds = len(os.listdir("/proc/self/fd"))
    run_some(40)
    # A busy machine has some monitors more, since the last one has not always ended its handler; each has a socket.
    most = MAX_IDLE_MONITORS
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= fds + most, what="the closing of the handlers' channels")
    wait_until(lambda: len(below(zygote)) <= 1 + most, what="the handlers' end")
    wait_until(lambda: not private_directories(tmp_path), what="the private directories' removal")


def test_closing_the_sandbox_ends_monitors_and_spare_children(tmp_path, level):
    tmp_path.chmod(0o711)
    made = ForkServerSandbox(scratch=tmp_path, levels=[level], allow_unsafe=True, spares=2)
    for _ in range(3):
        assert run_one(made, lambda db: 1)[0].failure is None
    zygote = made.zygote_pid()
    everybody = below(zygote) | {zygote}
    made.close()
    wait_until(lambda: not any(alive(pid) for pid in everybody), what=f"the end of {everybody}")
    wait_until(lambda: not private_directories(tmp_path), what="the private directories' removal")


def test_nothing_of_a_handler_is_there_for_the_next_one_of_the_same_monitor(sandbox):
    def handler(db):
        import os
        import threading
        import time
        from pathlib import Path

        left = sorted(os.listdir("."))
        Path("left-behind").touch()
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        return left

    for _ in range(6):
        assert run_one(sandbox, handler)[0].result_json == "[]"


def test_a_spare_child_that_was_killed_meanwhile_is_replaced(tmp_path):
    made = ForkServerSandbox(scratch=tmp_path, levels=["A"], spares=2)
    for _ in range(2):
        assert run_one(made, lambda db: 1)[0].failure is None
    started = made.zygote_pid()
    everybody = below(started) | {started}
    os.kill(started, signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in everybody), what="the zygote's end")
    for _ in range(3):
        assert run_one(made, lambda db: 1)[0].result_json == "1"
    made.close()


@pytest.mark.parametrize("level", ["B", "none"])
def test_a_host_that_cleans_up_its_tmp_costs_no_run(level, monkeypatch, tmp_path):
    """As systemd-tmpfiles does with what nobody touched for ten days."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = ForkServerSandbox(levels=[level], allow_unsafe=True, spares=1)

    def handler(db):
        from pathlib import Path

        return Path("note.txt").write_text("note")

    try:
        for _ in range(3):
            outcome, _ = run_one(made, handler)
            assert outcome.failure is None, outcome.failure
            assert outcome.result_json == "4"
            for path in tmp_path.iterdir():
                shutil.rmtree(path, ignore_errors=True)  # a child may be starting in it
    finally:
        made.close()


def test_children_run_side_by_side(sandbox):
    def handler(db):
        ep.emit("meet", {})
        return "met"

    meeting = threading.Barrier(8, timeout=60)
    answers = {"emit": lambda args, body: (meeting.wait(), ({"id": "x"}, ()))[1]}
    results: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda: results.append(run_one(sandbox, handler, session=Session(answers))[0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [outcome.result_json for outcome in results] == ['"met"'] * 8
