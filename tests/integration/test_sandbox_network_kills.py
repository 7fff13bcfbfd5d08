"""kill -9 of any process of the sandbox while a handler waits for a connection: nothing is left behind."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from process_tree import alive, below, parent, private_directories
from sandbox_world import Session, call, program, run_one
from serving import Served
from waiting import wait_until

from eventproc.model import Limits, NetworkGrant, NetworkPolicy, Policy
from eventproc.sandbox.forkserver import ForkServerSandbox

TESTS = Path(__file__).parents[1]
POLICY = Policy(network=NetworkPolicy(grant=NetworkGrant.ANY))


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that leaves callers waiting: nobody takes them, and there is no room for more."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@pytest.fixture(params=["A", "B"])
def level(request):
    return request.param


def connects():
    """Return a handler whose threads wait for connections."""

    def handler(db, port):
        import socket
        import threading

        def connect():
            with socket.socket() as made:
                made.connect(("127.0.0.1", port))

        threads = [threading.Thread(target=connect) for _ in range(4)]
        for thread in threads:
            thread.start()
        ep.emit("ready", {})
        for thread in threads:
            thread.join()

    return handler


def dialing() -> int:
    """Return how many connections this worker is making for handlers."""
    return sum(thread.name == "eventproc-connect" for thread in threading.enumerate())


def dialers() -> int:
    return sum(thread.name == "eventproc-dialer" for thread in threading.enumerate())


@pytest.mark.parametrize("victim", ["handler", "monitor", "zygote"])
def test_whoever_is_killed_meanwhile_the_worker_lets_go_of_the_connections(tmp_path, level, silent, victim):
    tmp_path.chmod(0o711)
    sandbox = ForkServerSandbox(scratch=tmp_path, levels=[level], spares=0, policy=POLICY)
    try:
        zygote = sandbox.zygote_pid()
        before = below(zygote)
        place = f"127.0.0.1:{silent}"
        child = sandbox.spawn(replace(program(connects()), network=(place,)), Limits(timeout_s=120))
        outcomes = []
        run = threading.Thread(
            target=lambda: outcomes.extend(
                child.execute([(call(1, {"port": silent}), Session()), (call(2), Session())])
            )
        )
        run.start()
        wait_until(lambda: dialing() == 4, what="four connections to be under way")
        everybody = below(zygote) - before
        monitor = next(pid for pid in everybody if parent(pid) not in everybody)
        handler = next(pid for pid in everybody if parent(pid) == monitor)
        os.kill({"handler": handler, "monitor": monitor, "zygote": parent(monitor)}[victim], signal.SIGKILL)
        if (level, victim) == ("B", "zygote"):  # without namespaces a run outlives its zygote: the worker ends it
            child.kill()
        run.join(60)
        assert not run.is_alive()
        child.close()
        assert outcomes[0].failure.kind in {"signal", "sandbox", "cancelled"}
        assert outcomes[1].started is False
        wait_until(lambda: not alive(handler), what="the handler's end")
        wait_until(lambda: dialers() == 0 and dialing() == 0, what="the end of the connections", timeout_s=30)
        wait_until(lambda: len(private_directories(tmp_path)) == 0, what="the private directory's removal")
        again, _ = run_one(sandbox, lambda db: "fine", network=(place,))
        assert again.result_json == '"fine"'
    finally:
        sandbox.close()


WORKER = """
import sys, threading, time
sys.path[:0] = [{tests!r}, {here!r}]
from dataclasses import replace
from pathlib import Path
from sandbox_world import *
from test_sandbox_network_kills import POLICY, connects, dialing
from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox
sandbox = ForkServerSandbox(scratch=Path({scratch!r}), levels=[{level!r}], policy=POLICY)
child = sandbox.spawn(replace(program(connects()), network=("127.0.0.1:{port}",)), Limits())
def tell():
    while dialing() < 4:
        time.sleep(0.01)
    print("ready", flush=True)
threading.Thread(target=tell).start()
list(child.execute([(call(1, {{"port": {port}}}), Session())]))
"""


def test_a_worker_killed_meanwhile_leaves_nothing(tmp_path, level, silent):
    tmp_path.chmod(0o711)
    code = WORKER.format(
        tests=str(TESTS), here=str(Path(__file__).parent), scratch=str(tmp_path), level=level, port=silent
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd="/") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        everybody = below(worker.pid)
        worker.kill()
    wait_until(lambda: not any(alive(pid) for pid in everybody), what=f"the end of {everybody}")
    wait_until(lambda: not private_directories(tmp_path), what="the private directories' removal")


def test_on_a_platform_the_run_is_tried_again(tmp_path, silent):
    """The worker is killed while a handler waits; the next one finds that the place does not answer any more."""
    served = Served(tmp_path / "data", EVENTPROC_WORKER__LEASE="2s", EVENTPROC_POLICY__NETWORK="any")
    served.start()
    try:
        conn = served.connect()
        conn.put_hook("far", summary="x", sample={})

        def waits(db, port, **kwargs):
            import socket

            if ep.event.attempt > 1:
                return "tried again"
            print("calling", flush=True)
            with socket.socket() as made:
                made.connect(("127.0.0.1", port))
            return "connected"

        conn.register(waits, hook="far", name="waits", network=[f"127.0.0.1:{silent}"], timeout="60s")
        (run_id,) = conn.emit("far", {"port": silent})["runs"]
        wait_until(lambda: "calling" in "".join(chunk["text"] for chunk in conn.logs(run_id)), what="the call")
        worker = served.pid_of("worker")
        assert worker is not None
        everybody = below(worker)
        assert served.kill_role("worker") == worker
        wait_until(lambda: not any(alive(pid) for pid in everybody), what=f"the end of {everybody}")
        run = conn.wait(run_id)
        assert (run["state"], run["result"]) == ("succeeded", "tried again")
    finally:
        served.close()
