"""The worker: claims due runs, has them executed, sees to their leases, and stops in good order."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from eventproc.abc import Bus, Clock, Listener, Sandbox, Services, Store
from eventproc.engine.children import Blobs, Children
from eventproc.engine.execution import ExecutionSettings, Executor
from eventproc.engine.finishing import Finisher
from eventproc.engine.leases import Ending, Leases
from eventproc.engine.slots import Slots
from eventproc.errors import EventprocError, Unavailable
from eventproc.model import SECOND_US, Claim, Event, Isolation
from eventproc.registry.catalogue import CatalogueCache

log = logging.getLogger(__name__)

_KILLED_S = 10.0  # for slots whose children were killed
_FLUSH_S = 5.0  # for outcomes that wait for the store when everything else has ended
_numbers = itertools.count(1)


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{next(_numbers)}"


def _cores() -> int:
    return os.cpu_count() or 1


def _idle_children() -> int:
    """
    Give how many idle children (6.5 MB each, a minute long) a sixteenth of the memory holds, 32 to 128.

    A result that goes to more handlers than this starts all of their children each time: the one used longest ago
    goes first, and is the next one to be needed.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(32, min(128, memory // 16 // 6_500_000))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """How a worker works; times in seconds."""

    name: str = field(default_factory=_name)
    slots: int = field(default_factory=lambda: min(8, 2 * _cores()))  # runs of isolation run and cell at a time
    batch_slots: int = field(default_factory=lambda: min(4, _cores()))  # children of isolation batch at a time
    lease_s: float = 30.0
    poll_s: float = 1.0
    finish_delay_s: float = 0.004
    batch_max: int = 200
    batch_target_s: float = 0.05
    batch_hold_s: float = 0.5
    commit_tries: int = 4
    commit_pause_s: float = 0.1
    child_max_calls: int = 10_000
    child_idle_s: float = 60.0
    children_max_idle: int = field(default_factory=_idle_children)
    blob_cache_bytes: int = 64 << 20


class Companion(Protocol):
    """What works beside the claiming of runs, on threads of its own."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


class _Pause:
    """How long to leave the store alone after it could not be used."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def failed(self) -> float:
        self._next_s = min(max(0.1, self._next_s * 2), 5.0)
        return self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing

    def worked(self) -> None:
        self._next_s = 0.0


class Worker:
    """
    Runs until it is stopped; any number of workers share one store.

    Wake-ups make it quick, polling makes it sure: with the bus gone it still finds all work.
    """

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        sandbox: Sandbox,
        services: Services,
        clock: Clock,
        settings: WorkerSettings | None = None,
        cache: CatalogueCache | None = None,
        beside: Sequence[Companion] = (),
    ) -> None:
        self.settings = settings = settings or WorkerSettings()
        self._store = store
        self._bus = bus
        self._clock = clock
        report = sandbox.report()
        self._sandbox = sandbox
        self._beside = tuple(beside)
        self._leases = Leases(store=store, clock=clock, lease_s=settings.lease_s)
        self._children = Children(
            sandbox=sandbox,
            blobs=Blobs(store, max_bytes=settings.blob_cache_bytes),
            max_calls=settings.child_max_calls,
            idle_s=settings.child_idle_s,
            max_idle=settings.children_max_idle,
        )
        self._finisher = Finisher(
            store=store,
            bus=bus,
            clock=clock,
            cache=cache or CatalogueCache(store),
            max_delay_s=settings.finish_delay_s,
        )
        self._executor = Executor(
            children=self._children,
            services=services,
            leases=self._leases,
            finisher=self._finisher,
            clock=clock,
            stream_events=self._stream_events,
            settings=ExecutionSettings(
                sandbox_label=", ".join([report.level, *report.layers]),
                batch_max=settings.batch_max,
                batch_target_s=settings.batch_target_s,
                batch_hold_s=settings.batch_hold_s,
                commit_tries=settings.commit_tries,
                commit_pause_s=settings.commit_pause_s,
            ),
        )
        # SimpleQueue: putting into it is safe even from a signal handler that interrupts the reader.
        self._inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop_within_s: float | None = None
        self._ended = threading.Event()
        self._thread_id: int | None = None
        self._look_for_cancels = threading.Event()
        self._more_run = self._more_batch = True
        self._held_back = False  # somebody's runs may wait for a slot of theirs
        self._claimed_us = 0  # when the store was last asked for runs

    # ---------------------------------------------------------------------------------------- from outside

    def stop(self, grace_s: float = 30.0) -> None:
        """
        Claim nothing more; give running handlers `grace_s`, then give their runs back. Returns when `run` is over.

        Safe in a signal handler of the thread that is in `run`; then it returns at once.
        """
        self._stop_within_s = grace_s
        self._inbox.put("stop")
        if self._thread_id not in (None, threading.get_ident()):
            self._ended.wait()

    def run(self) -> None:
        """Work until `stop`."""
        self._thread_id = threading.get_ident()
        listener = self._bus.listen("runs", "cancel")
        run_slots, batch_slots = self._make_slots()
        threads = [
            threading.Thread(target=self._listen, args=(listener,), name="worker-listen", daemon=True),
            threading.Thread(target=self._tick, name="worker-leases", daemon=True),
        ]
        for thread in threads:
            thread.start()
        for companion in self._beside:
            companion.start()
        try:
            self._claim_until_stopped(run_slots, batch_slots)
        finally:
            for companion in self._beside:
                companion.stop()
            self._drain(run_slots, batch_slots)
            self._ended.set()
            self._look_for_cancels.set()
            self._bus.wake("cancel")  # ends the listener's wait
            for thread in threads:
                thread.join()
            listener.close()

    def _stream_events(self, stream_ids: Sequence[int]) -> Mapping[int, Sequence[Event]]:
        with self._store.read() as tx:
            return tx.streams.events(stream_ids)

    def _make_slots(self) -> tuple[Slots, Slots]:
        def freed() -> None:
            self._inbox.put("slot")

        work = self._executor.run
        return (
            Slots(self.settings.slots, work, name="run-slot", freed=freed),
            Slots(self.settings.batch_slots, work, name="batch-slot", freed=freed),
        )

    # ---------------------------------------------------------------------------------------- claiming

    def _claim_until_stopped(self, run_slots: Slots, batch_slots: Slots) -> None:
        pause = _Pause()
        look_at = time.monotonic()
        while self._stop_within_s is None:
            now = time.monotonic()
            if now >= look_at:  # wake-ups may be lost: now and then everything is looked at
                self._more_run = self._more_batch = True
                look_at = now + self.settings.poll_s
            want_run = run_slots.free if self._more_run else 0
            want_batch = self._batch_room(batch_slots) if self._more_batch else 0
            if not (want_run or want_batch):
                self._wait(look_at - now)
                continue
            try:
                if not self._claim(run_slots, batch_slots, want_run, want_batch):
                    look_at = time.monotonic() + self._until_due()
                pause.worked()
            except Unavailable as error:
                log.warning("claiming waits for the store: %s", error)
                self._sleep(pause.failed())
            except EventprocError:
                log.exception("runs could not be claimed")
                self._sleep(pause.failed())

    def _batch_room(self, slots: Slots) -> int:
        """Return how many runs of isolation batch to claim, so that about two helpings lie ready for each slot."""
        helping = round(self.settings.batch_target_s / max(self._executor.durations.mean_s, 1e-6))
        target = 2 * slots.count * min(max(1, helping), self.settings.batch_max)
        backlog = slots.backlog
        return target - backlog if backlog <= target // 2 else 0

    def _claim(self, run_slots: Slots, batch_slots: Slots, want_run: int, want_batch: int) -> bool:
        """Claim and hand out; tell whether anything was there."""
        with self._store.begin() as tx:
            self._claimed_us = self._clock.now_us()
            claims = tx.runs.claim(
                worker=self.settings.name,
                pythons=self._sandbox.pythons(),
                want_run=want_run,
                want_batch=want_batch,
                lease_us=round(self.settings.lease_s * SECOND_US),
                now_us=self._claimed_us,
                run_slots=run_slots.occupied(),
                batch_slots=batch_slots.occupied(),
            )
            # Of a slot that has become free since, the inbox tells; what was not asked for may still be held back.
            self._held_back = tx.runs.held_back or (self._held_back and not (want_run and want_batch))
        self._leases.add(claims)
        batches: dict[tuple[int, int], list[Claim]] = {}
        for claim in claims:
            if claim.handler.options.isolation is Isolation.BATCH:
                batches.setdefault((claim.handler.handler_id, claim.handler.version), []).append(claim)
            else:
                run_slots.put([claim])
        for batch in batches.values():
            batch_slots.put(batch)
        got_batch = sum(map(len, batches.values()))
        if want_run:
            self._more_run = len(claims) - got_batch >= want_run
        if want_batch:
            self._more_batch = got_batch >= want_batch
        return bool(claims)

    def _until_due(self) -> float:
        """Return how long to wait for the next run that becomes due, at most the polling interval."""
        # What was due and not claimed waits for something else: a limit, an earlier run, a Python that is not here.
        with self._store.read() as tx:
            due_us = tx.runs.next_due_us(after_us=self._claimed_us)
        if due_us is None:
            return self.settings.poll_s
        return max(0.0, min((due_us - self._clock.now_us()) / SECOND_US, self.settings.poll_s))

    def _wait(self, timeout_s: float) -> None:
        """Wait for a message, and read all that are there."""
        with contextlib.suppress(queue.Empty):  # silence is an answer too
            message = self._inbox.get(timeout=max(0.0, timeout_s))
            while True:
                if message == "runs" or (message == "slot" and self._held_back):
                    self._more_run = self._more_batch = True
                message = self._inbox.get_nowait()

    def _sleep(self, seconds: float) -> None:
        """Leave the store alone for a while; only a stop cuts it short."""
        until = time.monotonic() + seconds
        while self._stop_within_s is None and (left := until - time.monotonic()) > 0:
            self._wait(left)

    # ---------------------------------------------------------------------------------------- the other threads

    def _listen(self, listener: Listener) -> None:
        while not self._ended.is_set():
            try:
                topics = listener.wait(1.0)
            except EventprocError as error:
                log.warning("no wake-ups for now: %s", error)
                self._ended.wait(1.0)
                continue
            if "runs" in topics:
                self._inbox.put("runs")
            if "cancel" in topics:
                self._look_for_cancels.set()

    def _tick(self) -> None:
        """Renew leases at a third of their length, look for cancelled runs, end idle children."""
        every_s = self.settings.lease_s / 3
        renew_at = time.monotonic() + every_s
        while not self._ended.is_set():
            asked = self._look_for_cancels.wait(min(1.0, max(0.0, renew_at - time.monotonic())))
            self._look_for_cancels.clear()
            try:
                if asked:
                    self._leases.look_for_cancels()
                if time.monotonic() >= renew_at:
                    self._leases.renew()
                    renew_at = time.monotonic() + every_s
            except Unavailable as error:
                log.warning("leases could not be renewed: %s", error)
                self._ended.wait(min(1.0, every_s / 3))
            except Exception:  # leases run out without this thread
                log.exception("a fault while renewing leases")
                self._ended.wait(min(1.0, every_s / 3))
            self._children.reap()

    # ---------------------------------------------------------------------------------------- the end

    def _drain(self, run_slots: Slots, batch_slots: Slots) -> None:
        deadline = time.monotonic() + (self._stop_within_s or 0.0)
        self._executor.stop()
        for slots in (run_slots, batch_slots):
            slots.stop()
        in_time = [slots.join(max(0.0, deadline - time.monotonic())) for slots in (run_slots, batch_slots)]
        if not all(in_time):
            log.warning("%d runs did not end in time; they are given back", len(self._leases))
            self._leases.end_all(Ending.STOPPING)
            for slots in (run_slots, batch_slots):
                slots.join(_KILLED_S)
        self._children.close()
        self._finisher.stop(within_s=max(_FLUSH_S, deadline - time.monotonic()))
