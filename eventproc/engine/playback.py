"""
Playback: recorded events go through the triggers again at their own times, with all that fires and expires between.

Before each event everything that is due by its time happens, to its end. Events are accepted many at a time all the
same: a batch that turns out to reach beyond something that became due is undone, and cut there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from eventproc.abc import Bus, Clock, Store, Tx
from eventproc.engine.accept import Result, accept_events, fits
from eventproc.engine.clock import ManualClock
from eventproc.engine.firing import fire_due_streams
from eventproc.errors import EventprocError
from eventproc.model import SECOND_US, Accepted, NewEvent
from eventproc.registry.catalogue import Catalogue, CatalogueCache

MAX_BATCH = 1000
FIRE_LIMIT = 500  # streams in one transaction
NAP_S = 1.0  # longest sleep between two signs of life


@dataclass(slots=True)
class Played:
    """What a playback came to."""

    events: int = 0  # accepted, without duplicates
    duplicates: int = 0
    refused: list[tuple[int, EventprocError]] = field(default_factory=list)  # by the event's number, from 1
    fired: int = 0
    expired: int = 0
    failed: int = 0  # streams whose pipeline is not there


class Place(Protocol):
    """Keeps in the store where a playback is, see `eventproc.playback.place`."""

    @property
    def at_us(self) -> int:
        """The present time of events and streams."""

    @property
    def position(self) -> int:
        """How many events of the recording were played."""

    def keep(self, tx: Tx, *, at_us: int, position: int | None = None) -> None:
        """Write the present time, and how many events were played. Raises Conflict for a playback that was ended."""

    def beat(self) -> None:
        """Give a sign of life, if the last was long ago."""


class _Overrun(Exception):
    """The batch goes beyond something that one of its events made due."""

    def __init__(self, due_us: int) -> None:
        super().__init__(due_us)
        self.due_us = due_us


class Playback:
    """
    Plays events into a store whose clock it moves.

    With `wall`, `clock` is that of events and streams only (the cache's event clock): runs are retried, leased and kept
    by `wall`, so that a day of years ago is not past its time as soon as it is stored.
    `settle` has to see all runs to their end that are due at the clock's time. With `every_s` streams fire and expire
    at steps of so many seconds only, as with a worker that looks now and then; with `every_s` None they do so when
    `drain` is called; by default exactly when they are due. `speed` is how many times faster than real time events
    come, None for as fast as it goes. With a `place` others work on the store too: it tells them the time, and a
    playback goes on behind the events that were played.
    """

    def __init__(
        self,
        *,
        store: Store,
        cache: CatalogueCache,
        clock: ManualClock,
        bus: Bus,
        settle: Callable[[], None],
        wall: Clock | None = None,
        user_id: int | None = None,
        every_s: float | None = 0.0,
        speed: float | None = None,
        on_progress: Callable[[int], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        place: Place | None = None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._wall = wall
        self._bus = bus
        self._settle = settle
        self._user_id = user_id
        self._every_us = None if every_s is None else round(every_s * SECOND_US)
        self._speed = speed
        self._progress = on_progress or (lambda _count: None)
        self._sleep = sleep
        self._monotonic = monotonic
        self._place = place
        self._number = 0  # events read so far
        self._now_us: int | None = None if place is None else place.at_us  # the latest time of an event
        self._began: tuple[float, int] | None = None  # on the monotonic clock, and the time of the first event
        self._drained_us: int | None = None
        self._size = 64  # of the next batch
        self._catalogue: Catalogue | None = None  # as of the last batch
        self.played = Played()

    def play(self, events: Iterable[NewEvent]) -> Played:
        """Play all events, in the order given; what is due later than the last of them stays."""
        waiting: list[tuple[NewEvent, int]] = []
        skipped = 0
        with self._store.read() as tx:
            self._catalogue = self._cache.current(tx)
        if self._place is not None:
            self._number = skipped = self._place.position
            self._clock.set(self._place.at_us)
        for event in islice(events, skipped, None):
            self._number += 1
            waiting.append((event, self._time_of(event)))
            if len(waiting) >= (1 if self._speed else MAX_BATCH):
                waiting = self._advance(waiting, everything=self._speed is not None)
        self._advance(waiting, everything=True)
        return self.played

    def drain(self, until_us: int | None = None) -> Played:
        """Let streams fire and expire that are due by then, in the order of their times; None: all there are."""
        while (due_us := self._next_due()) is not None and (until_us is None or due_us <= until_us):
            self._fire_at(due_us)
        if until_us is not None:
            self._clock.set(max(until_us, self._clock.now_us()))
        return self.played

    def look(self, at_us: int) -> Played:
        """Let everything fire and expire that is due by then, all at that time, as a worker that looks then does."""
        self._fire_at(at_us)
        return self.played

    def advance(self, at_us: int) -> None:
        """Say that it is that time now, for something that is not an event has been seen."""
        self._now_us = max(at_us, self._now_us or at_us)

    # ---------------------------------------------------------------------------------------- events

    def _time_of(self, event: NewEvent) -> int:
        """Return the present time at which an event comes: it never goes backwards, and no refused one moves it."""
        assert self._catalogue is not None
        if not fits(self._catalogue, event):
            return self._clock.now_us() if self._now_us is None else self._now_us
        at_us = event.time_us if event.time_us is not None else self._clock.now_us()
        if self._now_us is None:
            self._clock.set(at_us)
        self._now_us = at_us if self._now_us is None else max(self._now_us, at_us)
        if self._began is None:
            self._began = (self._monotonic(), self._now_us)
        return self._now_us

    def _advance(self, waiting: list[tuple[NewEvent, int]], *, everything: bool) -> list[tuple[NewEvent, int]]:
        """Accept events from the front, until fewer than half a batch are left."""
        at = 0
        while at < len(waiting) and (everything or len(waiting) - at > MAX_BATCH // 2):
            self._wait_until(waiting[at][1])
            self._let_due_happen(waiting[at][1])
            at += self._accept(waiting, at)
        return waiting[at:]

    def _wait_until(self, at_us: int) -> None:
        """Sleep until an event comes; what is due before happens when its time comes."""
        if not self._speed:
            return
        while self._every_us == 0 and (due_us := self._next_due()) is not None and due_us < at_us:
            self._sleep_until(due_us)
            self.drain(due_us)
        self._sleep_until(at_us)

    def _sleep_until(self, at_us: int) -> None:
        if not self._speed or self._began is None:
            return
        began, first_us = self._began
        until = began + (at_us - first_us) / SECOND_US / self._speed
        while (wait_s := until - self._monotonic()) > 0:
            self._sleep(min(wait_s, NAP_S))
            if self._place is not None:
                self._place.beat()

    def _let_due_happen(self, now_us: int) -> None:
        if self._every_us is None:
            return
        if self._place is not None:
            self._settle()  # others may have begun something
        if self._every_us == 0:
            self.drain(now_us)
            return
        if self._drained_us is None or now_us - self._drained_us >= self._every_us:
            self._drained_us = now_us
            if (due_us := self._next_due()) is not None and due_us <= now_us:
                self._fire_at(now_us)

    def _accept(self, waiting: Sequence[tuple[NewEvent, int]], at: int) -> int:
        """Accept some events in one transaction; return how many."""
        batch = waiting[at : at + self._size]
        batch = batch[: self._until(batch)]
        while True:
            try:
                results = self._try(batch, self._number - len(waiting) + at + len(batch))
            except _Overrun as overrun:
                batch = batch[: _cut(batch, overrun.due_us)]
                self._size = max(8, len(batch))
            else:
                break
        if len(batch) >= self._size:
            self._size = min(MAX_BATCH, self._size * 2)
        first = self._number - len(waiting) + at + 1
        self._note(results, first)
        self._clock.set(max(batch[-1][1], self._clock.now_us()))
        return len(batch)

    def _until(self, batch: Sequence[tuple[NewEvent, int]]) -> int:
        """Return how many events come before the next thing that is due already."""
        if self._every_us == 0:
            due_us = self._next_due()
            return len(batch) if due_us is None else _cut(batch, due_us)
        if self._every_us is not None and self._drained_us is not None:
            return _cut(batch, self._drained_us + self._every_us)
        return len(batch)

    def _try(self, batch: Sequence[tuple[NewEvent, int]], position: int) -> list[Result]:
        with self._store.begin() as tx:
            if self._place is not None:
                self._place.keep(tx, at_us=max(batch[-1][1], self._clock.now_us()), position=position)
            self._catalogue = self._cache.current(tx)
            results = accept_events(
                tx,
                self._catalogue,
                [event for event, _ in batch],
                user_id=self._user_id,
                now_us=self._written_us(batch[-1][1]),
                present_us=[now_us for _, now_us in batch],
                source="playback",
                bus=self._bus,
            )
            if self._every_us == 0 and len(batch) > 1:
                due = [
                    result.due_us for result in results if isinstance(result, Accepted) and result.due_us is not None
                ]
                if due and min(due) <= batch[-1][1]:
                    raise _Overrun(min(due))
        return results

    def _note(self, results: Sequence[Result], first: int) -> None:
        for number, result in enumerate(results, start=first):
            if not isinstance(result, Accepted):
                self.played.refused.append((number, result))
            elif result.duplicate:
                self.played.duplicates += 1
            else:
                self.played.events += 1
        self._progress(len(results))

    # ---------------------------------------------------------------------------------------- firing

    def _next_due(self) -> int | None:
        with self._store.read() as tx:
            times = (tx.streams.next_due_us(), tx.runs.next_due_us() if self._wall is None else None)
        return min((at for at in times if at is not None), default=None)

    def _written_us(self, at_us: int) -> int:
        return at_us if self._wall is None else self._wall.now_us()

    def _fire_at(self, at_us: int) -> None:
        """Move the clock there, and let all that is due happen, with what follows from it."""
        self._clock.set(max(at_us, self._clock.now_us()))
        now_us = self._clock.now_us()
        while True:
            with self._store.begin() as tx:
                if self._place is not None:
                    self._place.keep(tx, at_us=now_us)
                catalogue = self._cache.current(tx)
                written_us = self._written_us(now_us)
                done = fire_due_streams(tx, catalogue, now_us=written_us, limit=FIRE_LIMIT, bus=self._bus)
            self.played.fired += done.fired
            self.played.expired += done.expired
            self.played.failed += done.failed
            self._settle()
            if not done.total:
                return


def _cut(batch: Sequence[tuple[NewEvent, int]], due_us: int) -> int:
    """Return how many events come before that time; the first one does in any case."""
    return next((index for index, (_, now_us) in enumerate(batch) if index and now_us >= due_us), len(batch))
