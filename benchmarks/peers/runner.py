"""Runs a peer: sends its jobs, starts its worker, reads what the jobs noted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peers.environment import HERE, peers_python
from peers.job import RECORD

WAIT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How a peer is run; `{home}` and `{broker}` in its environment are filled in."""

    name: str
    app: str  # module beside this file
    worker: tuple[str, ...]  # arguments for the peers' interpreter
    environment: Mapping[str, str] = field(default_factory=dict)
    needs_broker: bool = False
    note: str = ""


def huey(name: str, *, fsync: bool, note: str) -> Peer:
    return Peer(
        name=name,
        app="huey_app",
        # Polls each 5 ms: with its default of 0.1 s and more its latency would look worse than it need be.
        worker=("-m", "huey.bin.huey_consumer", "huey_app.huey", "-w", "1", "-d", "0.005", "-m", "0.005", "-b", "1"),
        environment={"BENCH_DB": "{home}/huey.db", "BENCH_FSYNC": "1" if fsync else "0"},
        note=note,
    )


def dramatiq(name: str, *, threads: int, note: str) -> Peer:
    return Peer(
        name=name,
        app="dramatiq_app",
        worker=("-m", "dramatiq", "dramatiq_app", "--processes", "1", "--threads", str(threads)),
        environment={"BENCH_BROKER": "{broker}", "BENCH_QUEUE": "{queue}"},
        needs_broker=True,
        note=note,
    )


def celery(name: str, *arguments: str, note: str, **environment: str) -> Peer:
    return Peer(
        name=name,
        app="celery_app",
        worker=("-m", "celery", "-A", "celery_app", "worker", "-c", "1", "-l", "WARNING", *arguments),
        environment={"BENCH_BROKER": "{broker}", "BENCH_QUEUE": "{queue}", **environment},
        needs_broker=True,
        note=note,
    )


LEAN = ("--without-gossip", "--without-mingle", "--without-heartbeat")
PEERS = (
    huey("Huey, SQLite", fsync=True, note="its default: waits for the disk at each job"),
    huey("Huey, SQLite, no fsync", fsync=False, note="may lose the database in a power cut"),
    dramatiq("Dramatiq, 1 thread", threads=1, note="RabbitMQ, acknowledged after the job"),
    dramatiq("Dramatiq, 8 threads", threads=8, note="its default"),
    celery("Celery", note="its default: acknowledged before the job, so a crash loses it"),
    celery(
        "Celery, late acks, lean",
        *LEAN,
        note="acknowledged after the job, prefetch 64",
        BENCH_LATE="1",
        BENCH_PREFETCH="64",
    ),
)


class Running:
    """A peer with a place of its own for its files and its queue."""

    def __init__(self, peer: Peer, home: Path, broker: str | None) -> None:
        self.peer = peer
        self.out = home / "out"
        self.out.touch()
        self.log = home / "log"
        words = {"home": str(home), "broker": broker or "", "queue": f"bench-{uuid.uuid4().hex[:8]}"}
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(HERE),
            "BENCH_OUT": str(self.out),
            **{name: value.format(**words) for name, value in peer.environment.items()},
        }
        self._python = str(peers_python())

    def send(self, *arguments: str) -> float:
        """Send jobs; return the seconds it took."""
        command = [self._python, str(HERE / "job.py"), self.peer.app, *arguments]
        done = subprocess.run(command, env=self.environment, cwd=HERE, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{self.peer.name}: sending failed\n{done.stderr[-2000:]}")
        return float(json.loads(done.stdout.splitlines()[-1])["seconds"])

    @contextlib.contextmanager
    def worker(self) -> Iterator[None]:
        with self.log.open("ab") as log:
            command = [self._python, *self.peer.worker]
            process = subprocess.Popen(
                command, env=self.environment, cwd=HERE, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield
        finally:
            _end(process)

    def wait_for(self, count: int) -> None:
        """Wait until so many jobs have started."""
        deadline = time.monotonic() + WAIT_S
        while self.out.stat().st_size < count * RECORD.size:
            if time.monotonic() > deadline:
                sys.stderr.write(self.log.read_text(errors="replace")[-2000:])
                raise SystemExit(f"{self.peer.name}: the jobs did not end in time")
            time.sleep(0.02)

    def records(self) -> list[tuple[int, int]]:
        """Return when each job was sent and when it started, in nanoseconds."""
        return list(RECORD.iter_unpack(self.out.read_bytes()))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):  # what the worker forked is in its process group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def running(peer: Peer, broker: str | None) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="eventproc-bench-peer-", ignore_cleanup_errors=True) as home:
        yield Running(peer, Path(home), broker)
