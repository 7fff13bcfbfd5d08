"""Playing recorded days into a platform that runs: its triggers, pipelines, handlers and workers do what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventproc.abc import Bus, Clock, Store
from eventproc.engine.clock import ManualClock
from eventproc.engine.playback import Playback
from eventproc.engine.preparing import LIVE_S
from eventproc.errors import Conflict, Unavailable
from eventproc.model import SECOND_US, Role
from eventproc.playback import run
from eventproc.playback.place import StoredPlace
from eventproc.playback.recording import Recording, Watch
from eventproc.registry.catalogue import CatalogueCache

SHORTEST_LOOK_S = 0.001
LONGEST_LOOK_S = 0.05
WORKER_S = 15.0  # for a worker to say that it is there: a platform that has just started may be slow to
STUCK_S = 5.0  # so long nothing runs that could: it waits for something that does not come


def play_into(
    path: Path,
    *,
    store: Store,
    cache: CatalogueCache,
    clock: Clock,
    bus: Bus,
    speed: float | None = None,
    expire: bool = True,
    on_progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """
    Play a recording into a platform whose workers run; return what it came to.

    All that an event causes runs to its end before the next one that is due later. A playback that was stopped goes on
    behind the last event that was played. Raises Unavailable where no worker runs, and Conflict where another
    playback or other streams are in the way.
    """
    if cache.event_clock is not None:
        raise Conflict("the platform takes its time from EVENTPROC_TIME_SYNC: play with that service, or without it")
    store.upgrade()
    waiter = _Waiter(store, clock)
    waiter.check_workers()
    place = StoredPlace.take_up(store, cache, clock, path)
    waiter.place = place
    player = Playback(
        store=store,
        cache=cache,
        clock=ManualClock(place.at_us),
        wall=clock,
        bus=bus,
        settle=waiter.settle,
        user_id=_admin(store),
        speed=speed,
        on_progress=on_progress,
        place=place,
    )
    return run(player, Recording(path, watch=watch), place, expire=expire)


class _Waiter:
    """Waits for the platform's workers."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.place: StoredPlace | None = None
        self._store = store
        self._clock = clock
        self._stuck_us: int | None = None  # what was due by then could not start

    def settle(self) -> None:
        """See all runs to their end that are due, by the world's time."""
        pause_s, stuck_since, stuck_us = SHORTEST_LOOK_S, 0.0, None
        while True:
            running, waiting = self._look()
            if not (running or waiting):
                return
            if running:
                stuck_us = None
            elif stuck_us is None:
                stuck_since, stuck_us = time.monotonic(), self._clock.now_us()
            elif time.monotonic() - stuck_since > STUCK_S:
                self.check_workers()
                self._stuck_us = stuck_us  # ordered behind a retry, or held back by a limit: once is enough
                return
            if self.place is not None:
                self.place.beat()
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)

    def _look(self) -> tuple[bool, bool]:
        with self._store.read() as tx:
            counts = tx.runs.counts()
            due_us = tx.runs.next_due_us(after_us=self._stuck_us)
        running = any(counts.get(state, 0) for state in ("running", "committing"))
        return running, due_us is not None and due_us <= self._clock.now_us()

    def check_workers(self) -> None:
        """Raise Unavailable unless a worker was seen lately, or is in a moment."""
        until = time.monotonic() + WORKER_S
        while not self._any_worker():
            if time.monotonic() > until:
                raise Unavailable(
                    "no worker runs on this database: start `eventproc serve`, or play here with `--triggers FILE`"
                )
            time.sleep(LONGEST_LOOK_S)

    def _any_worker(self) -> bool:
        with self._store.read() as tx:
            return bool(tx.workers.live(since_us=self._clock.now_us() - round(LIVE_S * SECOND_US)))


def _admin(store: Store) -> int | None:
    with store.read() as tx:
        admins = [user.id for user in tx.users.all() if user.role == Role.ADMIN and not user.disabled]
    return min(admins, default=None)
