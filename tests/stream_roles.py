"""Feeders and workers of streams as processes: `python stream_roles.py feed|work|die-before-commit URL ...`."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from eventproc.blobs import MemoryBlobs
from eventproc.bus.memory import MemoryBus
from eventproc.engine.accept import accept_events
from eventproc.engine.clock import SystemClock
from eventproc.engine.group import GroupCommit
from eventproc.engine.housekeeping import Housekeeper, HousekeeperSettings
from eventproc.engine.worker import Worker, WorkerSettings
from eventproc.errors import EventprocError, Unavailable
from eventproc.model import Accepted, NewEvent
from eventproc.registry import CatalogueCache
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.service.context import ServiceContext
from eventproc.service.vault import Vault
from eventproc.service.world import World
from eventproc.store import open_store

BATCH = 20
# The same in all processes of one test, and near to the time on the clock.
START_US = int(os.environ.get("EVENTPROC_TEST_START_US", time.time_ns() // 1000))


def event_of(number: int, length: int) -> NewEvent:
    """Return the event of that number; each `length` in a row belong together, the last of them lets them fire."""
    kind = "end" if number % length == length - 1 else "part"
    payload = {"group": number // length, "number": number}
    return NewEvent(hook=f"feed.{kind}", id=f"n{number}", payload=payload, time_us=START_US + number)


def feed(url: str, first: int, last: int, length: int) -> None:
    """Report the events from `first` to `last`, in a random order, some twice; what fails is reported again."""
    store = open_store(url)
    cache = CatalogueCache(store)
    dice = random.Random(first)
    numbers = [*range(first, last), *dice.choices(range(first, last), k=(last - first) // 20)]
    dice.shuffle(numbers)
    while numbers:
        batch, rest = numbers[:BATCH], numbers[BATCH:]
        try:
            with store.begin() as tx:
                events = [event_of(number, length) for number in batch]
                results = accept_events(tx, cache.current(tx), events, user_id=None, now_us=SystemClock().now_us())
        except Unavailable:
            time.sleep(dice.random() / 50)
            continue
        for result in results:
            if not isinstance(result, Accepted):
                raise result
        numbers = rest
    store.close()


class Doomed:
    """A store that ends this process after the first transaction that leaves a run `committing`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Any]:
        with self._inner.begin() as tx:
            yield tx
            left = tx.runs.counts().get("committing", 0)
        if left:
            os.kill(os.getpid(), signal.SIGKILL)


def work(url: str, *, doomed: bool = False) -> None:
    """Fire streams and run their pipelines until stdin closes."""
    clock = SystemClock()
    store: Any = open_store(url)
    if doomed:
        store = Doomed(store)
    bus = MemoryBus()
    cache, sandbox = CatalogueCache(store), InProcessSandbox()
    context = ServiceContext(
        store=store,
        bus=bus,
        blobs=MemoryBlobs(),
        sandbox=sandbox,
        clock=clock,
        cache=cache,
        group=GroupCommit(store),
        vault=Vault.random(),
    )
    world = World(context)
    worker = Worker(
        store=store,
        bus=bus,
        sandbox=sandbox,
        services=world,
        clock=clock,
        settings=WorkerSettings(slots=2, batch_slots=2, lease_s=2.0, poll_s=0.1),
        cache=cache,
    )
    keeper = Housekeeper(
        store=store,
        bus=bus,
        clock=clock,
        cache=cache,
        settings=HousekeeperSettings(poll_s=0.1, leases_every_s=0.3, max_interruptions=1000, chunk=50),
    )
    threads = [threading.Thread(target=each.run, daemon=True) for each in (worker, keeper)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    keeper.stop(5.0)
    worker.stop(5.0)


if __name__ == "__main__":
    try:
        if sys.argv[1] == "feed":
            feed(sys.argv[2], *map(int, sys.argv[3:6]))
        else:
            work(sys.argv[2], doomed=sys.argv[1] == "die-before-commit")
    except EventprocError as error:
        sys.exit(f"{type(error).__name__}: {error}")
