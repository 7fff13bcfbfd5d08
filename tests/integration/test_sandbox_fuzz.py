"""
Random system calls with random arguments: whatever a handler does to its process and its wires, the worker goes on.

Each run has a seed of its own, so that the one that broke something can be run again alone.
"""

# Handlers stand here as users write them.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs

from __future__ import annotations

import contextlib
import dataclasses
import platform
import time
from collections import Counter

import pytest
from sandbox_canaries import SECRET, Canaries
from sandbox_world import Session, call, program
from serving import parents_of_all
from slowness import SLOWER
from waiting import wait_until

from eventproc.codec.blob import pack
from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox

pytestmark = pytest.mark.slow

FUZZ_S = 7.0 * SLOWER
RUNS = 2000  # at most
LIMITS = Limits(
    timeout_s=0.5 * SLOWER,
    cpu_s=0.5 * SLOWER,
    memory_bytes=300 << 20,
    file_bytes=1 << 20,
    open_files=64,
    scratch_bytes=4 << 20,
)
LIMITS_OF_GOOD = Limits(timeout_s=20 * SLOWER)
# exit, exit_group, and what does nothing but wait: pause, sigsuspend, sigtimedwait, futex, nanosleep, poll, select,
# epoll_wait, wait, getevents. Also what never returns from here and would end most runs early: sigreturn, u(ret)probe.
LEFT_OUT = {
    "x86_64": [
        *(60, 231, 34, 130, 128, 202, 35, 230, 7, 271, 23, 270, 232, 281, 441, 61, 247, 208, 333, 449),
        *(15, 335, 336),
    ],
    "aarch64": [93, 94, 133, 137, 98, 101, 115, 73, 72, 22, 441, 260, 95, 4, 449, 139],
}
SETTINGS = [("A", "run"), ("B", "run"), ("A", "cell")]


def fuzz(db, *, seed, calls, numbers, path, pids):
    """Make random system calls on three threads; return how many, and how many of them the kernel carried out."""
    import ctypes
    import os
    import random
    import threading
    import time

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    paths = [path, ".", "/", "f", "f/f", "/tmp", "/dev/null", "/proc/self/mem", "/proc/self/fd/3", "/etc/passwd", ""]
    strings = [ctypes.create_string_buffer(each.encode(), 64) for each in paths]
    pages = ctypes.create_string_buffer(1 << 16)
    made = [0, 0]
    for name in ("f", "g"):
        os.open(name, os.O_RDWR | os.O_CREAT)
    os.pipe()

    def argument(dice):
        kinds = (
            lambda: dice.choice([0, 1, -1, -100, 1 << 31, (1 << 63) - 1, 1 << 12, 0o777, os.getpid(), *pids]),
            lambda: dice.getrandbits(64),
            lambda: 1 << dice.randrange(64),
            lambda: ctypes.addressof(dice.choice(strings)),
            lambda: ctypes.addressof(pages) + dice.randrange(1 << 16),
            lambda: dice.randrange(12),  # a small number, or an open file
        )
        return dice.choice(kinds)() & ((1 << 64) - 1)

    def play(number):
        dice = random.Random(f"{seed}/{number}")
        pages[:256] = bytes(dice.randrange(256) for _ in range(256))
        for _ in range(calls):
            arguments = [ctypes.c_ulong(argument(dice)) for _ in range(6)]
            result = libc.syscall(ctypes.c_long(dice.choice(numbers)), *arguments)
            made[0] += 1
            made[1] += result >= 0

    threads = [threading.Thread(target=play, args=(number,), daemon=True) for number in range(3)]
    end = time.monotonic() + 0.3
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return made


def good(db, n):
    with open("work", "w") as file:  # noqa: PTH123 - as users do
        file.write("x" * 1000)
    print("works")
    return n + 1


class Fuzzing:
    """Runs seeds one after another, in fresh processes or in cells that are replaced when they are broken."""

    def __init__(self, sandbox: ForkServerSandbox, isolation: str) -> None:
        self.sandbox = sandbox
        self.programs = {
            name: dataclasses.replace(program(pack(handler).blob), isolation=isolation)
            for name, handler in (("fuzz", fuzz), ("good", good))
        }
        self.keep = isolation == "cell"
        self.child = None

    def run(self, seed: int, payload: dict) -> tuple[str, list[int]]:
        if self.child is None or not self.child.alive:
            self.close()
            self.child = self.sandbox.spawn(self.programs["fuzz"], LIMITS)
        (outcome,) = self.child.execute([(call(seed, {"seed": seed, **payload}), Session())])
        assert (outcome.run_id, outcome.started) == (seed, True), seed
        if not self.keep or not outcome.alive:
            self.close()
        if outcome.failure is not None:
            return outcome.failure.kind, [0, 0]
        text = outcome.result_json or ""
        # Whoever writes into the channel may make up a result: it is its own.
        made = [int(part) for part in text.strip("[]").split(",")] if text.count(",") == 1 else [0, 0]
        return "returned", made

    def check_good(self, seed: int) -> None:
        child = self.sandbox.spawn(self.programs["good"], LIMITS_OF_GOOD)
        session = Session()
        (outcome,) = child.execute([(call(seed, {"n": seed}), session)])
        child.close()
        assert (outcome.failure, outcome.result_json) == (None, str(seed + 1)), f"after seed {seed}"
        assert session.text() == "works\n"

    def close(self) -> None:
        if self.child is not None:
            self.child.close()
            self.child = None


@pytest.mark.parametrize(("level", "isolation"), SETTINGS)
def test_random_system_calls_harm_nobody_but_their_run(level, isolation):
    sandbox = ForkServerSandbox(levels=[level])
    canaries = Canaries()
    with canaries.stack, contextlib.closing(sandbox):
        zygote = sandbox.zygote_pid()
        fuzzing = Fuzzing(sandbox, isolation)
        numbers = [each for each in range(451) if each not in LEFT_OUT[platform.machine()]]
        pids = [victim.pid for victim in canaries.victims]
        payload = {"calls": 300, "numbers": numbers, "path": str(canaries.file), "pids": pids}
        ended: Counter[str] = Counter()
        calls = done = 0
        until = time.monotonic() + FUZZ_S
        for seed in range(RUNS):
            if time.monotonic() > until:
                break
            # Every other run is short: one that makes many calls seldom lives to tell how many.
            how, made = fuzzing.run(seed, payload if seed % 2 else {**payload, "calls": 20})
            ended[how] += 1
            calls, done = calls + made[0], done + made[1]
            if seed % 10 == 9:
                fuzzing.check_good(seed)
        fuzzing.close()
        fuzzing.check_good(RUNS)
        print(f"level {level}, {isolation}: {calls} calls counted, {done} carried out; runs {dict(ended)}")
        assert ended.total() >= 5
        assert calls > 0
        assert sandbox.zygote_pid() == zygote
        assert canaries.touched() == []
        assert canaries.file.read_text() == SECRET
    wait_until(lambda: zygote not in parents_of_all(), what="the fork server and all below it to be gone")
