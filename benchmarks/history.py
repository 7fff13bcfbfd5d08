"""
History: what a million past events do to emitting, claiming and listing.

The database is filled with finished runs in steps; at each size the same work is measured: accept a batch, claim and
finish its runs, list events and runs, look one up.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import rig
import table
from peers import postgresql
from peers.servers import servers

from eventproc.model import SECOND_US, Finish, RunFilter, RunState

BATCH = 1000
REPEATS = 20


def fill(platform: rig.Rig, count: int, step: int) -> None:
    """Add events whose runs have ended."""
    for start in range(0, count, BATCH):
        platform.emit(min(BATCH, count - start), batch=BATCH, prefix=f"past-{step}-{start}")
        work_off(platform)


def work_off(platform: rig.Rig) -> int:
    """Claim all that waits and finish it, as a worker whose handlers take no time."""
    done = 0
    while True:
        with platform.store.begin() as tx:
            claims = claim(platform, tx, BATCH)
        if not claims:
            return done
        with platform.store.begin() as tx:
            tx.runs.finish(
                [
                    Finish(run_id=claim.run_id, token=claim.token, state=RunState.SUCCEEDED, result_json="null")
                    for claim in claims
                ],
                now_us=platform.clock.now_us(),
            )
        done += len(claims)


def claim(platform: rig.Rig, tx: Any, count: int) -> Any:
    return tx.runs.claim(
        worker="bench",
        pythons=(),
        want_run=0,
        want_batch=count,
        lease_us=60 * SECOND_US,
        now_us=platform.clock.now_us(),
    )


def timed(action: Callable[[], Any]) -> float:
    """Return the median time in milliseconds."""
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        action()
        times.append((time.perf_counter() - begun) * 1000)
    return table.median(times)


def measure(platform: rig.Rig, size: int) -> dict[str, Any]:
    numbers = iter(range(1_000_000))

    def emit() -> None:
        platform.emit(100, batch=100, prefix=f"now-{size}-{next(numbers)}")

    def claim_100() -> None:
        with platform.store.begin() as tx:
            claims.extend(claim(platform, tx, 100))

    def list_events() -> None:
        with platform.store.read() as tx:
            tx.events.page(hook=rig.HOOK, limit=100)

    def list_runs() -> None:
        with platform.store.read() as tx:
            tx.runs.page(RunFilter(states=(RunState.SUCCEEDED,)), limit=100)

    def middle_page() -> None:
        with platform.store.read() as tx:
            tx.runs.page(RunFilter(), after=size // 2, limit=100)

    def get_event() -> None:
        with platform.store.read() as tx:
            tx.events.get("past-0-0-0")

    claims: list[Any] = []
    row = {"events of history": f"{size:,}", "emit 100, ms": timed(emit), "claim 100, ms": timed(claim_100)}
    with platform.store.begin() as tx:
        finishes = [Finish(run_id=each.run_id, token=each.token, state=RunState.SUCCEEDED) for each in claims]
        begun = time.perf_counter()
        tx.runs.finish(finishes, now_us=platform.clock.now_us())
        row["finish 100, ms"] = (time.perf_counter() - begun) * 1000 * 100 / max(1, len(claims))
    row["list events, ms"] = timed(list_events)
    row["list runs, ms"] = timed(list_runs)
    row["a page in the middle, ms"] = timed(middle_page)
    row["one event, ms"] = timed(get_event)
    work_off(platform)
    return row


def curve(title: str, database: str | None, sizes: list[int], *, as_json: bool) -> None:
    rows = []
    with rig.rig(database) as platform:
        platform.register(rig.noop, "batch")
        there = 0
        for step, size in enumerate(sizes):
            begun = time.perf_counter()
            fill(platform, size - there, step)
            there = size
            print(f"{title}: {size:,} events after {time.perf_counter() - begun:.0f} s more", file=sys.stderr)
            rows.append(measure(platform, size))
    table.show(f"{title}: the same work on a growing history (medians of {REPEATS})", rows, as_json=as_json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,100000,1000000", help="events of history (default %(default)s)")
    parser.add_argument("--postgresql", action="store_true", help="measure PostgreSQL too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(table.machine(), file=sys.stderr)
    sizes = [int(size) for size in options.sizes.split(",")]
    curve("SQLite", None, sizes, as_json=options.json)
    if options.postgresql:
        with servers(peers=False) as (postgres, _):
            if postgres is not None:
                curve("PostgreSQL", postgresql.fresh(postgres, 0), sizes, as_json=options.json)


if __name__ == "__main__":
    main()
