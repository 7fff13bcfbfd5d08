"""
What a long history costs: claim, emit and listing at 1e3, 1e5 and 1e6 events.

    python benchmarks/store_history.py [--sizes 1000,100000,1000000] [--url postgresql://...] [--json]

Each event has one run that succeeded, one in a thousand failed. Figures are medians in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from eventproc.abc import Registration, Store, Tx
from eventproc.model import (
    Claim,
    Event,
    Failure,
    Finish,
    HandlerBundle,
    HandlerRecord,
    Isolation,
    NewRun,
    Options,
    Role,
    RunFilter,
    RunState,
)
from eventproc.store import open_store

SIZES = (1_000, 100_000, 1_000_000)
CHUNK = 2_000  # events in a transaction while history grows
REPEATS = 100
LEASE_US = 60_000_000
START_US = 1_700_000_000_000_000
STEP_US = 1_000_000  # between two events


class History:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.count = 0
        with store.begin() as tx:
            owner = tx.users.add("bench", Role.DEVELOPER, now_us=START_US)
            self.handlers = [self._register(tx, owner, name) for name in ("store", "mail", "plot")]

    @staticmethod
    def _register(tx: Tx, owner, name: str) -> HandlerRecord:
        bundle = HandlerBundle(
            blob=b"x" * 500, digest="d", python="3.11", dill="0.4", source=None, filename=None, qualname="f"
        )
        registration = Registration(
            hook="bench.*",
            name=name,
            bundle=bundle,
            tags=(),
            notify_on_success=None,
            notify_on_failure=None,
            options=Options(isolation=Isolation.BATCH),
        )
        return tx.handlers.put(registration, owner=owner, now_us=START_US)

    @property
    def now_us(self) -> int:
        return START_US + self.count * STEP_US

    def event(self) -> Event:
        number = self.count
        self.count += 1
        return Event(
            seq=0,
            id=f"{number * 2654435761 % 2**32:08x}-{number}",
            hook=f"bench.{number % 10}",
            source="bench",
            time_us=self.now_us,
            tags=(f"tag-{number % 100}",) if number % 10 == 0 else (),
            key=f"device-{number % 5000}",
            payload_json='{"metric": {"name": "cpu", "uid": 17}, "value": 12.5, "text": "' + "x" * 150 + '"}',
            digest=f"{number:064x}",
            trace_parent=None,
            hops=0,
            accepted_us=self.now_us,
        )

    def accept(self, count: int) -> None:
        with self.store.begin() as tx:
            added = tx.events.add([self.event() for _ in range(count)])
            runs = [
                (
                    event.seq,
                    NewRun(
                        handler_id=self.handlers[event.seq % 3].id, version=0, isolation="batch", order_key=event.key
                    ),
                )
                for event, _ in added
            ]
            tx.runs.add_many(runs, now_us=self.now_us)

    def claim(self, want: int) -> list[Claim]:
        with self.store.begin() as tx:
            return tx.runs.claim(
                worker="bench", pythons=(), want_run=0, want_batch=want, lease_us=LEASE_US, now_us=self.now_us
            )

    def finish(self, claims: list[Claim]) -> None:
        failure = Failure(kind="exception", message="boom", type="ValueError")
        finishes = [
            Finish(
                run_id=claim.run_id,
                token=claim.token,
                state=RunState.FAILED if claim.run_id % 1000 == 0 else RunState.SUCCEEDED,
                result_json='"ok"',
                failure=failure if claim.run_id % 1000 == 0 else None,
            )
            for claim in claims
        ]
        with self.store.begin() as tx:
            tx.runs.finish(finishes, now_us=self.now_us)

    def work_off(self) -> None:
        while claims := self.claim(CHUNK):
            self.finish(claims)

    def grow(self, size: int) -> None:
        began = time.monotonic()
        while self.count < size:
            self.accept(min(CHUNK, size - self.count))
            self.work_off()
            rate = self.count / (time.monotonic() - began + 1e-9)
            print(f"\r  history: {self.count:>9,} of {size:,} events ({rate:,.0f}/s)", end="", file=sys.stderr)
        print(file=sys.stderr)


def median_ms(action: Callable[[], object], repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def measure(history: History) -> dict[str, float]:
    store = history.store
    results = {
        "emit 1 (event and run)": median_ms(lambda: history.accept(1)),
        "emit 100 in a batch": median_ms(lambda: history.accept(100), 20),
    }
    claimed: list[list[Claim]] = []
    history.work_off()
    history.accept(3 * REPEATS + 10)
    results["claim 1"] = median_ms(lambda: claimed.append(history.claim(1)))
    results["finish 1"] = median_ms(lambda: history.finish(claimed.pop()))
    history.work_off()
    history.accept(30 * 100)
    results["claim 100"] = median_ms(lambda: claimed.append(history.claim(100)), 20)
    results["finish 100"] = median_ms(lambda: history.finish(claimed.pop()), 20)
    history.work_off()
    results["claim, nothing waits"] = median_ms(lambda: history.claim(10))

    def read(action: Callable[[Tx], object]) -> float:
        def run() -> None:
            with store.read() as tx:
                action(tx)

        return median_ms(run, 50)

    middle = history.count // 2
    lists: dict[str, Callable[[Tx], object]] = {
        "list runs, newest 100": lambda tx: tx.runs.page(RunFilter()),
        "list runs of a handler": lambda tx: tx.runs.page(RunFilter(handler_id=history.handlers[1].id)),
        "list failed runs": lambda tx: tx.runs.page(RunFilter(states=(RunState.FAILED,))),
        "list runs, page in the middle": lambda tx: tx.runs.page(RunFilter(), after=middle),
        "list events, newest 100": lambda tx: tx.events.page(),
        "list events of a hook": lambda tx: tx.events.page(hook="bench.7"),
        "list events of a tag": lambda tx: tx.events.page(tag="tag-30"),
        "list events of a key": lambda tx: tx.events.page(key="device-7"),
        "list events, page in the middle": lambda tx: tx.events.page(after=middle),
        "list events of an old hour": lambda tx: tx.events.page(
            since_us=START_US, until_us=START_US + 3_600_000_000, limit=100
        ),
        "counts of open and dead runs": lambda tx: tx.runs.counts(),
    }
    return results | {name: read(action) for name, action in lists.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="events of history, ascending")
    parser.add_argument("--url", help="database URL; a temporary SQLite file if not given")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="eventproc-bench-") as directory:
        path = Path(directory) / "history.db"
        store = open_store(given.url or f"sqlite:///{path}")
        store.upgrade()
        history = History(store)
        table: dict[int, dict[str, float]] = {}
        for size in sizes:
            history.grow(size)
            table[size] = measure(history)
        store.close()
        size_mb = path.stat().st_size / 1e6 if path.exists() else None
    if given.json:
        print(json.dumps({"median_ms": table, "database_mb": size_mb}))
        return
    print(f"{'median ms':<34}" + "".join(f"{size:>12,}" for size in sizes))
    for name in table[sizes[0]]:
        print(f"{name:<34}" + "".join(f"{table[size][name]:>12.3f}" for size in sizes))
    if size_mb:
        print(f"database: {size_mb:,.0f} MB")


if __name__ == "__main__":
    main()
