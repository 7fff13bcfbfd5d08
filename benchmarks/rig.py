"""
The platform under measurement: real settings, real store, real wake-ups, a real worker process.

The worker is `eventproc serve --role worker`, the same process that runs in production; events are accepted through
the engine in this process, as the API does it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import traced
from peers.job import PAYLOAD

from eventproc.abc import Registration
from eventproc.codec.blob import pack
from eventproc.config import load
from eventproc.engine.accept import accept_events
from eventproc.errors import EventprocError
from eventproc.model import HookSpec, Isolation, NewEvent, Options, RunState
from eventproc.wiring import Platform

HOOK = "bench.job"
WAIT_S = 300.0


def noop(db, **payload):
    """Do nothing."""


def stamp(db, **payload):  # noqa: ARG001  # called like this
    """Return when it started."""
    import time

    return time.time_ns()


class Rig:
    """One platform on one database, with one handler."""

    def __init__(self, home: Path, database: str | None, *, durability: str = "normal") -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EVENTPROC_")},
            "EVENTPROC_DATA": str(home),
            "EVENTPROC_DURABILITY": durability,
            "EVENTPROC_LOG_LEVEL": "warning",
        }
        if database is not None:
            self.environment["EVENTPROC_DATABASE_URL"] = database
        for name in [name for name in os.environ if name.startswith("EVENTPROC_")]:
            del os.environ[name]  # of the rig before
        os.environ.update({name: value for name, value in self.environment.items() if name.startswith("EVENTPROC_")})
        self.platform = Platform(load())
        self.platform.prepare()
        self.store, self.bus, self.clock = self.platform.store, self.platform.bus, self.platform.clock
        with self.store.begin() as tx:
            tx.hooks.put(HookSpec(name=HOOK, summary="a job"), now_us=self.clock.now_us(), by="bench")

    def register(self, function: Any, isolation: str, name: str = "job") -> int:
        """Register a handler of the benchmark's hook; return its id."""
        registration = Registration(
            hook=HOOK,
            name=name,
            bundle=pack(function),
            tags=(),
            notify_on_success=None,
            notify_on_failure=None,
            options=Options(isolation=Isolation(isolation)),
        )
        with self.store.begin() as tx:
            owner = tx.users.all()[0]
            return tx.handlers.put(registration, owner=owner, now_us=self.clock.now_us()).id

    def emit(self, count: int, *, batch: int = 200, prefix: str = "e") -> float:
        """Accept events in batches, each batch in one transaction; return the seconds it took."""
        begun = time.perf_counter()
        for start in range(0, count, batch):
            events = [
                NewEvent(hook=HOOK, payload=PAYLOAD, id=f"{prefix}-{start + offset}")
                for offset in range(min(batch, count - start))
            ]
            self.accept(events)
        return time.perf_counter() - begun

    def accept(self, events: Sequence[NewEvent]) -> None:
        with self.store.begin() as tx:
            results = accept_events(
                tx, self.platform.cache.current(tx), events, user_id=None, now_us=self.clock.now_us(), bus=self.bus
            )
        refused = [result for result in results if isinstance(result, EventprocError)]
        if refused:
            raise refused[0]

    @contextlib.contextmanager
    def worker(self, trace: Path | None = None) -> Iterator[subprocess.Popen[str]]:
        """
        Run a worker process; it is ready when the block is entered, and ended in good order.

        With `trace` it writes there when it did what, see `traced.py`.
        """
        command, environment = [sys.executable, "-m", "eventproc", "serve", "--role", "worker"], self.environment
        if trace is not None:
            command = [sys.executable, str(Path(__file__).with_name("traced.py"))]
            environment = {**environment, traced.TRACE_FILE: str(trace)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == "ready":
                    break
            else:
                raise SystemExit(f"the worker ended with status {process.wait()}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_for_all(self) -> None:
        """Wait until no run is waiting or under way."""
        deadline = time.monotonic() + WAIT_S
        while self.unfinished():
            if time.monotonic() > deadline:
                raise SystemExit("the runs did not end in time")
            time.sleep(0.02)

    def unfinished(self) -> int:
        with self.store.read() as tx:
            counts = tx.runs.counts()
        return sum(count for state, count in counts.items() if not RunState(state).final)

    def runs(self) -> list[Any]:
        """Return all runs."""
        from eventproc.model import RunFilter

        found: list[Any] = []
        with self.store.read() as tx:
            while page := tx.runs.page(RunFilter(), after=found[-1].id if found else None, limit=5000):
                found += page
        return found

    def close(self) -> None:
        self.platform.close()


@contextlib.contextmanager
def rig(database: str | None = None, *, durability: str = "normal") -> Iterator[Rig]:
    """Set up a platform in a directory of its own: SQLite unless a database is given."""
    with tempfile.TemporaryDirectory(prefix="eventproc-bench-") as home:
        made = Rig(Path(home) / "data", database, durability=durability)
        try:
            yield made
        finally:
            made.close()
