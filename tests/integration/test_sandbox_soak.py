"""Many runs leave nothing behind, and many at a time do not take from each other what is counted by user."""

# Handlers stand here as users write them.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_canaries import ORDINARY, environment, interpreter_for

ROOT = Path(__file__).parents[2]

THREADS = """
import threading
from concurrent.futures import ThreadPoolExecutor

from sandbox_world import run_one

from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox

def made_here():
    def handler(db):
        import threading

        met = threading.Barrier(11)
        threads = [threading.Thread(target=met.wait) for _ in range(10)]
        for thread in threads:
            thread.start()
        ep.emit("all started", {})
        met.wait()
        return "done"
    return handler

sandbox = ForkServerSandbox(levels=["A"])
with ThreadPoolExecutor(24) as pool:
    outcomes = list(pool.map(lambda _: run_one(sandbox, made_here(), limits=Limits(processes=40))[0], range(48)))
sandbox.close()
print([outcome.failure.message for outcome in outcomes if outcome.failure])
"""


@pytest.mark.slow
@pytest.mark.parametrize("level", ["A", "B"])
def test_many_runs_leave_nothing_behind(level):
    done = subprocess.run(
        [sys.executable, "benchmarks/sandbox_soak.py", "--level", level, "--runs", "200"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("who", ["root", "user"])
def test_runs_side_by_side_have_each_their_own_number_of_threads(who):
    """The kernel counts processes by user and user namespace; a limit that is set too early counts all runs as one."""
    if who == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    account = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []} if who == "user" and os.geteuid() == 0 else {}
    done = subprocess.run(
        [interpreter_for(who), "-c", THREADS],
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        **account,
    )
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stdout + done.stderr
