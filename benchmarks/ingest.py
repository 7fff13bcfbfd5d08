"""
Samples in Graphite's plaintext protocol, from one connection to the disk: samples a second, ours beside carbon-cache.

Each listener is a process of its own, as it is in use: ours is `eventproc serve --role listener` on SQLite and on
PostgreSQL, carbon-cache runs without its limits. The lines are made beforehand. "taken" is until the last line was
read from the socket, "stored" until the last sample of every metric can be read from the disk by another process (for
carbon: it is in its whisper file; it keeps what it has not written yet in memory and loses it when it dies).
"CPU us" is the listener's own processor time for each sample: 10 microseconds are 100,000 a second and core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import table
from peers import postgresql
from peers.carbon import carbon
from peers.rabbitmq import ServerMissing

from eventproc.metrics.load import Load
from eventproc.store import open_store

STEP_S = 300


@dataclass(frozen=True)
class Target:
    """Where to send, whose processor time counts, and how to know that all is on the disk."""

    port: int
    pid: int
    finished: Callable[[], bool]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def ours(database: str | None, load: Load) -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="eventproc-ingest-") as directory:
        data = Path(directory) / "data"
        url = database or f"sqlite:///{data}/eventproc.db"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EVENTPROC_")} | {
            "EVENTPROC_DATA": str(data),
            "EVENTPROC_DATABASE_URL": url,
            "EVENTPROC_GRAPHITE": "127.0.0.1:0",
            "EVENTPROC_GRAPHITE_PICKLE": "off",
            "EVENTPROC_LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "eventproc", "serve", "--role", "listener"]
        process = subprocess.Popen(command, env=environ, cwd=directory, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            if "ready" not in process.stdout.readline():
                raise SystemExit("the listener does not start")
            import json

            port = json.loads((data / "endpoints.json").read_text())["graphite"].rpartition(":")[2]
            store = open_store(url)

            def finished() -> bool:
                with store.read() as tx:
                    found = tx.metrics.find(prefix=f"{load.prefix}.", limit=load.metrics + 1)
                return sum(one.last_rowid for one in found) >= load.metrics * load.rounds

            yield Target(int(port), process.pid, finished)
            store.close()
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


@contextlib.contextmanager
def carbons(load: Load) -> Iterator[Target]:
    last = load.start_s + (load.rounds - 1) * load.step_s
    with carbon() as running:
        yield Target(running.port, running.pid, lambda: running.finished(last, load.metrics) >= load.metrics)


def measure(target: Target, load: Load, limit_s: float) -> dict[str, float | None]:
    blocks = [block for _, block in load.blocks(size=2000)]
    count = load.metrics * load.rounds
    cpu = cpu_seconds(target.pid)
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", target.port), timeout=limit_s) as client:
        for block in blocks:
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)
    taken = time.monotonic() - begun
    stored: float | None = None
    while time.monotonic() - begun < limit_s:
        if target.finished():
            stored = time.monotonic() - begun
            break
        time.sleep(0.02)
    used = cpu_seconds(target.pid) - cpu
    return {
        "taken/s": count / taken,
        "stored/s": None if stored is None else count / stored,
        "CPU us": used / count * 1e6 if stored is not None else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1_000_000, help="samples (default %(default)s)")
    parser.add_argument("--metrics", type=int, default=1000, help="metrics (default %(default)s)")
    parser.add_argument("--carbon-n", type=int, default=300_000, help="samples for carbon-cache (default %(default)s)")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for each (default %(default)s)")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(table.machine(), file=sys.stderr)
    now = int(time.time()) // STEP_S * STEP_S

    def load(count: int) -> Load:
        rounds = max(1, count // options.metrics)
        return Load(metrics=options.metrics, rounds=rounds, start_s=now - rounds * STEP_S, step_s=STEP_S)

    rows: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        contenders = [("eventproc, SQLite", load(options.n), lambda one: ours(None, one))]
        try:
            server = stack.enter_context(postgresql.postgresql())
            contenders.append(
                ("eventproc, PostgreSQL", load(options.n), lambda one: ours(postgresql.fresh(server, 1), one))
            )
        except ServerMissing as error:
            print(error, file=sys.stderr)
        if not options.no_peers:
            contenders.append(("carbon-cache", load(options.carbon_n), carbons))
        for name, one, start in contenders:
            with start(one) as target:
                figures = measure(target, one, options.limit)
            rows.append({"system": name, "samples": one.metrics * one.rounds, **figures})
            print(rows[-1], file=sys.stderr)
    table.show(f"Samples of {options.metrics:,} metrics from one connection", rows, as_json=options.json)
    base = next((row["stored/s"] for row in rows if row["system"] == "carbon-cache"), None)
    if base and not options.json:
        for row in rows[:-1]:
            if row["stored/s"]:
                print(f"{row['system']}: {row['stored/s'] / base:.1f} times carbon-cache")  # type: ignore[operator]


if __name__ == "__main__":
    main()
