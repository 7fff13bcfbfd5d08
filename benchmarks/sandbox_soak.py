"""
Very many runs, in a row and side by side: what the sandbox holds must not grow.

    python benchmarks/sandbox_soak.py [--level A] [--runs 10000] [--parallel 24]

After a warm-up and again after the runs it counts the processes below this one, open files, threads and memory of
this process and its fork server, mounts as the fork server sees them, control groups and private directories left.
Exit status 1, and a word, where something grew. Each run prints, writes a file and starts a thread; every tenth may
start processes and leaves one behind; every fiftieth crashes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dill

from eventproc.abc import Program
from eventproc.model import Limits
from eventproc.sandbox.forkserver import ForkServerSandbox

sys.path.insert(0, str(Path(__file__).parent))
from sandbox_spawn import PYTHON, NoSession, call

LIMITS = Limits(processes=40, memory_bytes=400 << 20)
SETTLED = 15  # looks that show the same
ALLOWED = {  # growth that is no leak: monitors that wait for work, caches, the allocator's leave
    "processes": 4,
    "open files": 8,
    "threads": 4,
    "fork server's open files": 0,
    "memory, MiB": 24,
    "fork server's memory, MiB": 8,
    "mounts": 0,
    "private directories": 2,  # of processes that were started ahead
    "control groups": 0,
}


def ordinary() -> Any:
    def handler(_db):
        import threading
        from pathlib import Path

        print("some output")
        Path("file.txt").write_text("x" * 1000)
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        return "done"

    return handler


def family() -> Any:
    def handler(_db):
        import os
        import subprocess
        import time

        subprocess.run(["/bin/true"], check=True)
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        return "done"

    return handler


def crashing() -> Any:
    def handler(_db):
        import os

        os.abort()

    return handler


def program(handler: Any, **asked: Any) -> Program:
    blob = dill.dumps(handler, recurse=True)
    return replace(Program(blob=blob, digest="", python=PYTHON, kind="function", name="soak"), **asked)


class Soak:
    """The sandbox under trial."""

    def __init__(self, level: str, scratch: Path) -> None:
        self._scratch = scratch
        self._level = level
        self._sandbox = ForkServerSandbox(levels=[level], scratch=scratch)
        self._ordinary = program(ordinary())
        self._family = program(family(), allow_subprocess=True) if level == "A" else self._ordinary
        self._crashing = program(crashing())

    def run(self, number: int) -> None:
        chosen = self._crashing if number % 50 == 49 else self._family if number % 10 == 9 else self._ordinary
        child = self._sandbox.spawn(chosen, LIMITS)
        (outcome,) = child.execute([(call(number), NoSession())])
        child.close()
        if (outcome.failure is None) == (chosen is self._crashing):
            raise AssertionError(f"run {number}: {outcome.failure}")

    def many(self, count: int, parallel: int) -> float:
        """Do so many runs, and return the time it took."""
        started = time.perf_counter()
        with ThreadPoolExecutor(parallel) as pool:
            for _ in pool.map(self.run, range(count)):
                pass
        return time.perf_counter() - started

    def held(self) -> dict[str, int]:
        """Count what is held, once things have settled."""
        gc.collect()
        zygote = self._zygote()
        found, steady = self._count(zygote), 0
        for _ in range(100):  # killed processes take a moment to go, and the fork server buries each second
            time.sleep(0.1)
            again = self._count(zygote)
            steady = steady + 1 if again == found else 0
            if steady > SETTLED:
                break
            found = again
        return found

    def _zygote(self) -> int:
        """Return the fork server itself: at level A what we started only waits for it."""
        started = self._sandbox.zygote_pid()
        if self._level != "A":  # then it is what we started, and below it are monitors that come and go
            return started
        below = [pid for pid in descendants(os.getpid()) if parent_of(pid) == started]
        return below[0] if below and b"zygote" in Path(f"/proc/{below[0]}/cmdline").read_bytes() else started

    def _count(self, zygote: int) -> dict[str, int]:
        return {
            "processes": len(list(descendants(os.getpid()))),
            "open files": len(list(Path("/proc/self/fd").iterdir())),
            "threads": threading.active_count(),
            "fork server's open files": len(list(Path(f"/proc/{zygote}/fd").iterdir())),
            "memory, MiB": resident(os.getpid()) >> 20,
            "fork server's memory, MiB": resident(zygote) >> 20,
            "mounts": len(Path(f"/proc/{zygote}/mountinfo").read_text().splitlines()),
            "private directories": len(list(self._scratch.rglob("eventproc-run-*"))),
            "control groups": len(list(Path("/sys/fs/cgroup").rglob("eventproc-run-*"))),
        }

    def close(self) -> None:
        self._sandbox.close()


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def descendants(ancestor: int) -> Iterator[int]:
    parents = {int(path.name): parent_of(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
        yield from more


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(level: str, runs: int, parallel: int) -> dict[str, Any]:
    """Do the runs one after the other, then as many side by side; return what was held before and after."""
    with tempfile.TemporaryDirectory(prefix="eventproc-soak-") as directory:
        scratch = Path(directory)
        scratch.chmod(0o711)
        trial = Soak(level, scratch)
        try:
            trial.many(max(100, parallel * 4), parallel)
            before = trial.held()
            in_a_row = trial.many(runs, 1)
            side_by_side = trial.many(runs, parallel)
            after = trial.held()
        finally:
            trial.close()
    grown = {name: after[name] - before[name] for name in after if after[name] - before[name] > ALLOWED[name]}
    return {
        "level": level,
        "runs": 2 * runs,
        "in_a_row_per_s": round(runs / in_a_row, 1),
        f"by_{parallel}_per_s": round(runs / side_by_side, 1),
        "before": before,
        "after": after,
        "grown": grown,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=("A", "B"), default="A")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--parallel", type=int, default=24)
    options = parser.parse_args(arguments)
    found = soak(options.level, options.runs, options.parallel)
    print(json.dumps(found, indent=2))
    for name, growth in found["grown"].items():
        print(f"{name} grew by {growth}", file=sys.stderr)
    return 1 if found["grown"] else 0


if __name__ == "__main__":
    sys.exit(main())
