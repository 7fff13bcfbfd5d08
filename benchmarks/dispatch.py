"""
Dispatch of a no-op handler: how many accepted events a worker brings to a committed result in a second.

All systems get the same jobs, queued beforehand, and one worker process each, in turn, `--rounds` times; the ratio is
that of the medians. Rates begin with the first job's start, so that nobody's start-up counts.
For us the end is the last commit of a result. For the peers, which keep no results here, it is the start of the last
job: what comes after it (removing or acknowledging it) is not held against them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rig
import table
from peers import postgresql, runner
from peers.servers import servers

from eventproc.model import SECOND_US, RunState

US = "eventproc"


def ours(count: int, database: str | None, *, isolation: str = "batch", durability: str = "normal") -> float:
    with rig.rig(database, durability=durability) as platform:
        platform.register(rig.noop, isolation)
        platform.emit(count)
        with platform.worker():
            platform.wait_for_all()
        runs = platform.runs()
    assert len(runs) == count
    assert all(run.state is RunState.SUCCEEDED for run in runs), runs[0]
    begun = min(run.started_us for run in runs)
    ended = max(run.finished_us for run in runs)
    return count / ((ended - begun) / SECOND_US)


def theirs(peer: runner.Peer, count: int, broker: str | None) -> float:
    with runner.running(peer, broker) as running:
        running.send("enqueue", str(count))
        with running.worker():
            running.wait_for(count)
        started = [start for _, start in running.records()]
    return (count - 1) / ((max(started) - min(started)) / 1e9)


Contender = tuple[str, str, Callable[[], float]]


def contenders(count: int, postgres: str | None, broker: str | None, wanted: str) -> list[Contender]:
    found: list[Contender] = [
        (f"{US}, SQLite", "isolation batch", lambda: ours(count, None)),
        (f"{US}, SQLite, full", "waits for the disk at each commit", lambda: ours(count, None, durability="full")),
    ]
    if postgres is not None:
        databases = iter(range(1000))

        def on_postgres() -> float:
            return ours(count, postgresql.fresh(postgres, next(databases)))

        found.append((f"{US}, PostgreSQL", "isolation batch, fsync on", on_postgres))
    few = max(count // 10, 100)
    found.append((f"{US}, SQLite, isolation run", "a fresh process for each", lambda: ours(few, None, isolation="run")))
    found.append((f"{US}, SQLite, isolation cell", "a fork for each", lambda: ours(few, None, isolation="cell")))
    found += [
        (peer.name, peer.note, lambda peer=peer: theirs(peer, count, broker))
        for peer in runner.PEERS
        if broker is not None or not peer.needs_broker
    ]
    return [one for one in found if wanted.lower() in one[0].lower()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10_000, help="events (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only contenders whose name holds this text")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(table.machine(), file=sys.stderr)
    with contextlib.ExitStack() as stack:
        postgres, broker = stack.enter_context(servers(peers=not options.no_peers))
        names = contenders(options.n, postgres, broker, options.only)
        if options.no_peers:
            names = [one for one in names if one[0].startswith(US)]
        rates: dict[str, list[float]] = {name: [] for name, _, _ in names}
        for number in range(options.rounds):
            for name, _, measure in names:
                rates[name].append(measure())
                print(f"round {number + 1}: {name}: {rates[name][-1]:,.0f}/s", file=sys.stderr)
    report(names, rates, options)


def report(names: list[Contender], rates: dict[str, list[float]], options: argparse.Namespace) -> None:
    medians = {name: table.median(values) for name, values in rates.items()}
    peers = {name: rate for name, rate in medians.items() if not name.startswith(US)}
    fastest = max(peers.values(), default=None)
    rows = [
        {
            "system": name,
            "events/s": medians[name],
            "worst": min(rates[name]),
            "best": max(rates[name]),
            "ratio to the fastest peer": None if fastest is None else medians[name] / fastest,
            "note": note,
        }
        for name, note, _ in names
    ]
    table.show(f"Dispatch of {options.n:,} no-op events, median of {options.rounds}", rows, as_json=options.json)


if __name__ == "__main__":
    main()
