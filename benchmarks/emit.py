"""
Emitting: how many events a second are accepted, checked, written and dispatched.

One thread, batches of several sizes, one transaction for each batch; with and without a handler that matches (then
each event also queues a run). The peers' rate of sending jobs, one by one as their APIs do it, stands beside it.
The CPU time of this process for each event says what a quiet machine would do: 50 microseconds are 20,000 a second.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rig
import table
from peers import postgresql, runner
from peers.servers import servers

US = "eventproc"
Rate = tuple[float, float | None]  # events in a second, and microseconds of our CPU for each
Contender = tuple[str, int, Callable[[], Rate]]


def ours(count: int, batch: int, database: str | None, *, handler: bool) -> Rate:
    with rig.rig(database) as platform:
        if handler:
            platform.register(rig.noop, "batch")
        platform.emit(min(200, count), prefix="warm-up")
        cpu = time.process_time()
        seconds = platform.emit(count, batch=batch)
        return count / seconds, (time.process_time() - cpu) / count * 1e6


def theirs(peer: runner.Peer, count: int, broker: str | None) -> Rate:
    with runner.running(peer, broker) as running:
        return count / running.send("enqueue", str(count)), None


def contenders(options: argparse.Namespace, postgres: str | None, broker: str | None) -> list[Contender]:
    n = options.n
    found: list[Contender] = []
    number = 0
    for handler in (False, True):
        kind = "one run each" if handler else "no handler"
        for batch in (1, 100, 1000):
            few = min(n, 2000) if batch == 1 else n
            found.append(
                (f"{US}, SQLite, {kind}", batch, lambda f=few, b=batch, h=handler: ours(f, b, None, handler=h))
            )
            if postgres is not None:
                number += 1
                found.append(
                    (
                        f"{US}, PostgreSQL, {kind}",
                        batch,
                        lambda f=few, b=batch, h=handler, i=number: ours(
                            f, b, postgresql.fresh(postgres, i), handler=h
                        ),
                    )
                )
    if not options.no_peers:
        found += [
            (peer.name, 1, lambda peer=peer: theirs(peer, min(n, 5000), broker))
            for peer in runner.PEERS
            if broker is not None or not peer.needs_broker
        ]
    return [one for one in found if options.only.lower() in one[0].lower()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=40_000, help="events (default %(default)s)")
    parser.add_argument("--only", default="", help="only contenders whose name holds this text")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(table.machine(), file=sys.stderr)
    rows = []
    with contextlib.ExitStack() as stack:
        postgres, broker = stack.enter_context(servers(peers=not options.no_peers))
        for name, batch, measure in contenders(options, postgres, broker):
            rate, cpu_us = measure()
            rows.append({"system": name, "batch": batch, "events/s": rate, "CPU us/event": cpu_us})
            print(f"{name}, batches of {batch}: {rate:,.0f}/s", file=sys.stderr)
    table.show(f"Emitting {options.n:,} events", rows, as_json=options.json)


if __name__ == "__main__":
    main()
