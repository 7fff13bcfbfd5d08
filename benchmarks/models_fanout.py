"""
Catch-up of one model over many samples, and one result to many handlers.

    python benchmarks/models_fanout.py [--samples 10000] [--handlers 100]

Catch-up: a metric with --samples samples is monitored; the time until the last of them is scored and committed, with
its events. Fan-out: --handlers handlers wait for `inference.batch_done`; the time from the commit of one sample to the
end of the last run, on a platform of its own processes. htmengine's own figure for one record is 0.05 s, and it hands
each result to each consumer by a broker; it can not be run here (Python 2).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from models_world import EPOCH, wave
from serving import Served
from waiting import wait_until

HTMENGINE_S = 0.05  # per record


def noop(db, **payload):
    """Do nothing."""


def send(served: Served, name: str, values: list[float], start: int = 0) -> None:
    host, _, port = served.endpoints["graphite"].rpartition(":")
    lines = [f"{name} {value!r} {EPOCH + (start + i) * 300}\n" for i, value in enumerate(values)]
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall("".join(lines).encode())
        client.shutdown(socket.SHUT_WR)
        client.recv(1)


def catch_up(served: Served, count: int) -> float:
    conn = served.connect()
    conn.monitor("warm", min=0, max=100)  # compiles, where that is not done yet
    send(served, "warm", wave(300))
    wait_until(lambda: conn.model("warm")["scored_rowid"] == 300, timeout_s=120)
    send(served, "late", wave(count))
    wait_until(lambda: _stored(conn, "late", count), timeout_s=120)
    started = time.perf_counter()
    conn.monitor("late", min=0, max=100)
    wait_until(lambda: conn.model("late")["scored_rowid"] == count, timeout_s=600)
    return time.perf_counter() - started


def _stored(conn: object, name: str, count: int) -> bool:
    with contextlib.suppress(LookupError):
        return bool(conn.model(name)["last_rowid"] == count)  # type: ignore[attr-defined]
    return False


def fan_out(served: Served, handlers: int, rounds: int) -> list[float]:
    conn = served.connect()
    conn.monitor("fan", min=0, max=100)
    wait_until(lambda: conn.model("fan")["status"] == "ACTIVE")
    send(served, "fan", wave(1))
    wait_until(lambda: conn.model("fan")["scored_rowid"] == 1)
    for number in range(handlers):
        conn.register(noop, hook="inference.batch_done", name=f"fan-{number}", isolation="batch")
    taken = []
    for turn in range(1, rounds + 1):
        started = time.perf_counter()
        send(served, "fan", wave(1, start=turn), start=turn)
        want = handlers * turn
        wait_until(lambda: sum(1 for _ in conn.runs(state="succeeded", limit=want + 1)) >= want, timeout_s=120)  # noqa: B023
        taken.append(time.perf_counter() - started)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--handlers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as directory:
        served = Served(Path(directory) / "data", EVENTPROC_GRAPHITE="127.0.0.1:0").start()
        try:
            seconds = catch_up(served, chosen.samples)
            rate = chosen.samples / seconds
            print(
                f"catch-up: {chosen.samples} samples in {seconds:.2f} s, {rate:,.0f}/s; "
                f"{rate * HTMENGINE_S:.0f} times htmengine's stated rate"
            )
            taken = fan_out(served, chosen.handlers, chosen.rounds)
            print(
                f"fan-out: one result to {chosen.handlers} handlers (isolation batch), sample to last run: "
                f"median {sorted(taken)[len(taken) // 2] * 1e3:.0f} ms, first {taken[0] * 1e3:.0f} ms"
            )
        finally:
            served.close()


if __name__ == "__main__":
    main()
