"""
Latency: from the call that emits an event (or sends a job) to the first line of the handler, with an idle worker.

Events come one at a time in even time, slower than the worker takes them. The time includes the sender's own commit or
publish, the wake-up, the claim and, with isolation run, the fork of a fresh process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rig
import table
import traced
from peers import postgresql, runner
from peers.job import PAYLOAD
from peers.servers import servers

from eventproc.model import NewEvent, RunState

US = "eventproc"
WARM_UP = 20  # jobs left out: the first ones pay for imports, connections and loading the handler


def ours(
    count: int, rate: float, database: str | None, isolation: str, *, durability: str = "normal", trace: bool = False
) -> list[float]:
    stages = Path(tempfile.mkstemp(prefix="eventproc-trace-")[1]) if trace else None
    with rig.rig(database, durability=durability) as platform:
        platform.register(rig.stamp, isolation)
        sent: dict[str, int] = {}
        accepted: dict[str, int] = {}
        with platform.worker(stages):
            begun = time.perf_counter()
            for number in range(count + WARM_UP):
                time.sleep(max(0.0, begun + number / rate - time.perf_counter()))
                sent[f"e-{number}"] = time.time_ns()
                platform.accept([NewEvent(hook=rig.HOOK, payload=PAYLOAD, id=f"e-{number}")])
                accepted[f"e-{number}"] = time.time_ns()
            platform.wait_for_all()
        runs = sorted(platform.runs(), key=lambda run: run.id)
    assert len(runs) == len(sent)
    assert all(run.state is RunState.SUCCEEDED for run in runs), runs[0]
    started = {run.event_id: json.loads(run.result_json) for run in runs[WARM_UP:]}
    if stages is not None:
        show_stages(stages, sent, accepted, started)
    return [(at - sent[event]) / 1e6 for event, at in started.items()]


def show_stages(path: Path, sent: dict[str, int], accepted: dict[str, int], started: dict[str, int]) -> None:
    """Say on standard error how long each step took, in the order in which they come."""
    stamps = {line["event"]: line for line in map(json.loads, path.read_text().splitlines())}
    path.unlink()
    rows: dict[str, list[float]] = {name: [] for name in traced.STAGES}
    for event, at in started.items():
        known = {**stamps[event], "accepted": accepted[event], "started": at}
        last = sent[event]
        for name in traced.STAGES:
            rows[name].append((known[name] - last) / 1e6)
            last = known[name]
    for name, words in traced.STAGES.items():
        p50, p99 = (table.percentile(rows[name], part) for part in (50, 99))
        print(f"    {words:45} p50 {p50:6.2f}  p99 {p99:6.2f} ms", file=sys.stderr)


def theirs(peer: runner.Peer, count: int, rate: float, broker: str | None) -> list[float]:
    with runner.running(peer, broker) as running, running.worker():
        running.send("enqueue", "1")
        running.wait_for(1)  # the worker is up
        running.send("pace", str(count + WARM_UP), str(rate))
        running.wait_for(count + WARM_UP + 1)
        records = sorted(running.records())
    return [(start - sent) / 1e6 for sent, start in records[WARM_UP + 1 :]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=300, help="events for each system (default %(default)s)")
    parser.add_argument("--rate", type=float, default=25.0, help="events in a second (default %(default)s)")
    parser.add_argument("--only", default="", help="only contenders whose name holds this text")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--trace", action="store_true", help="say for our systems how long each step takes")
    parser.add_argument("--durability", default="normal", choices=["normal", "full"], help="of SQLite's commits")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(table.machine(), file=sys.stderr)
    rows = []
    with contextlib.ExitStack() as stack:
        postgres, broker = stack.enter_context(servers(peers=not options.no_peers))
        for name, note, measure in contenders(options, postgres, broker):
            times = measure()
            rows.append(
                {
                    "system": name,
                    "p50 ms": table.percentile(times, 50),
                    "p90 ms": table.percentile(times, 90),
                    "p99 ms": table.percentile(times, 99),
                    "worst ms": max(times),
                    "note": note,
                }
            )
            print(f"{name}: p50 {rows[-1]['p50 ms']:.2f} ms, p99 {rows[-1]['p99 ms']:.2f} ms", file=sys.stderr)
    title = f"From emit to handler start, {options.n} events at {options.rate:g}/s, idle worker"
    table.show(title, rows, as_json=options.json)


Contender = tuple[str, str, Callable[[], list[float]]]


def contenders(options: argparse.Namespace, postgres: str | None, broker: str | None) -> list[Contender]:
    n, rate = options.n, options.rate

    def here(database: str | None, isolation: str) -> Callable[[], list[float]]:
        how = {"durability": options.durability, "trace": options.trace}
        return lambda: ours(n, rate, database, isolation, **how)

    found: list[Contender] = [
        (f"{US}, SQLite, isolation batch", "a warm process", here(None, "batch")),
        (f"{US}, SQLite, isolation run", "a fresh process for each", here(None, "run")),
    ]
    if postgres is not None:
        url = postgresql.fresh(postgres, 0)
        found.append((f"{US}, PostgreSQL, isolation batch", "a warm process", here(url, "batch")))
    if not options.no_peers:
        found += [
            (peer.name, peer.note, lambda peer=peer: theirs(peer, n, rate, broker))
            for peer in runner.PEERS
            if broker is not None or not peer.needs_broker
        ]
    return [one for one in found if options.only.lower() in one[0].lower()]


if __name__ == "__main__":
    main()
