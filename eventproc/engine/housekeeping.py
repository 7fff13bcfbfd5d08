"""What must happen by the clock: schedules, lost leases, retention, forgotten files, wake-ups of what is due."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from eventproc.abc import Blobs, Bus, Clock, RetentionPolicy, Store, Tx
from eventproc.abc.traits import Horizon
from eventproc.engine.accept import accept_events
from eventproc.engine.firing import fire_due_streams
from eventproc.engine.outcomes import failure_event, notice_of
from eventproc.engine.schedules import fire_due, pull_back
from eventproc.engine.steadiness import Steadiness
from eventproc.errors import EventprocError, Unavailable
from eventproc.model import SECOND_US, STREAM_HOOKS, NewEvent, NewNotice, Run, RunState, isoformat
from eventproc.model.playing import GONE_S
from eventproc.model.quiet import PURGED, QUEUE_DEPTH
from eventproc.registry.catalogue import CatalogueCache

log = logging.getLogger(__name__)

DAY_S = 86_400
WAITS = "retention_waits"  # the name in the database of why nothing is deleted; empty: nothing holds it up
SAMPLES_PER_ROW = 10  # samples are deleted in longer chunks than other rows: they are small and lie side by side

DEFAULT_POLICY = RetentionPolicy(
    events_s=30 * DAY_S,
    runs_s=30 * DAY_S,
    failed_runs_s=90 * DAY_S,
    logs_s=14 * DAY_S,
    files_s=30 * DAY_S,
    notices_s=30 * DAY_S,
    audit_s=365 * DAY_S,
    dedup_s=7 * DAY_S,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HousekeeperSettings:
    """How often the duties are done; times in seconds."""

    policy: RetentionPolicy = field(default_factory=lambda: DEFAULT_POLICY)
    max_interruptions: int = 3
    poll_s: float = 1.0
    leases_every_s: float = 2.0
    retention_every_s: float = 60.0
    traits_every_s: float = 60.0
    depth_every_s: float = 60.0
    orphans_every_s: float = 3600.0
    orphans_older_s: float = DAY_S  # longer than any run may take: a running one has no rows yet
    chunk: int = 500  # rows of each kind in one transaction
    breath_s: float = 0.02  # between two of those, so that others can write


@dataclass(slots=True)
class _Duty:
    """Something done every so often."""

    name: str
    every_s: float
    work: Callable[[], object]
    next_at: float = 0.0


class Housekeeper:
    """
    Does its duties until it is stopped. Several may run: each duty is safe to be done twice.

    `tick` does at once what is due now; tests and playback call it after moving the clock.
    """

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        clock: Clock,
        blobs: Blobs | None = None,
        cache: CatalogueCache | None = None,
        settings: HousekeeperSettings | None = None,
        steadiness: Steadiness | None = None,
        others: Sequence[tuple[str, float, Callable[[], object]]] = (),
    ) -> None:
        self.settings = settings = settings or HousekeeperSettings()
        self._store = store
        self._bus = bus
        self._clock = clock
        self._blobs = blobs
        self._cache = cache or CatalogueCache(store)
        self._woken_us = clock.now_us()
        self._told_us: int | None = None
        self._seen_us: int | None = None
        self._horizon: Horizon | None = None
        self._steadiness = steadiness
        self._waits: bool | None = None  # retention does, as it was told last
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._thread_id: int | None = None
        self._duties = [
            _Duty("schedules", 0.0, self.fire_schedules),
            _Duty("streams", 0.0, self.fire_streams),
            _Duty("due runs", 0.0, self.wake_due_runs),
            _Duty("streams in step", settings.leases_every_s, self.keep_in_step),
            _Duty("leases", settings.leases_every_s, self.expire_leases),
            _Duty("retention", settings.retention_every_s, self._if_steady(self.prune)),
            _Duty("queue depth", settings.depth_every_s, self.tell_depth),
            _Duty("orphans", settings.orphans_every_s, self._if_steady(self.delete_orphans)),
            *(_Duty(*each) for each in others),
        ]
        self._traits = _Duty("traits", settings.traits_every_s, self.sum_up_traits)

    def run(self) -> None:
        """Do the duties until `stop`."""
        self._thread_id = threading.get_ident()
        listener = self._bus.listen("schedules", "streams")
        # It may take minutes, on a database that has long been filled: nothing that is due waits for it.
        summing = threading.Thread(target=self._sum_up_on, name="traits", daemon=True)
        summing.start()
        try:
            while not self._stop.is_set():
                self._do_duties(all_of_them=False)
                try:
                    listener.wait(self._until_due_s())
                except EventprocError as error:
                    log.warning("no wake-ups for now: %s", error)
                    self._stop.wait(self.settings.poll_s)
        finally:
            listener.close()
            self._stop.set()
            summing.join()
            self._ended.set()

    def stop(self, grace_s: float = 30.0) -> None:
        """End after the duty at hand; waits for that unless called in the thread that is in `run`."""
        self._stop.set()
        self._bus.wake("schedules")
        if self._thread_id not in (None, threading.get_ident()):
            self._ended.wait(grace_s)

    def tick(self) -> None:
        """Do all duties once."""
        self._do_duties(all_of_them=True)
        self._do(self._traits)

    def _sum_up_on(self) -> None:
        while not self._stop.is_set():
            self._do(self._traits)
            self._stop.wait(self._traits.every_s)

    def _do_duties(self, *, all_of_them: bool) -> None:
        for duty in self._duties:
            now = time.monotonic()
            if self._stop.is_set() or (now < duty.next_at and not all_of_them):
                continue
            duty.next_at = now + duty.every_s
            self._do(duty)

    def _do(self, duty: _Duty) -> None:
        try:
            duty.work()
        except Unavailable as error:
            log.warning("%s: tried again later: %s", duty.name, error)
        except Exception:  # the other duties must not suffer for it
            log.exception("%s: a fault; it is tried again later", duty.name)

    # ---------------------------------------------------------------------------------------- schedules, due runs

    def fire_schedules(self) -> int:
        """Emit the events of due schedules; return how many were due."""
        now_us = self._clock.now_us()
        if self._seen_us is None or now_us < self._seen_us - SECOND_US:
            with self._store.begin() as tx:
                pull_back(tx, now_us=now_us)
        self._seen_us = now_us
        with self._store.read() as tx:
            if not any(schedule.next_us <= now_us and not schedule.paused for schedule in tx.schedules.all()):
                return 0
        fired = 0
        while not self._stop.is_set():
            with self._store.begin() as tx:
                count = fire_due(tx, self._cache.current(tx), now_us=now_us, bus=self._bus)
            fired += count
            if count == 0:
                break
        return fired

    def fire_streams(self) -> int:
        """Give streams that are due to their pipelines; return how many."""
        now_us = self._clock.now_us()
        if not self._any_due():
            return 0
        total = 0
        while not self._stop.is_set():
            with self._store.begin() as tx:
                done = fire_due_streams(
                    tx, self._cache.current(tx), now_us=now_us, limit=self.settings.chunk, bus=self._bus
                )
            total += done.total
            if done.total < self.settings.chunk:
                break
        return total

    def _any_due(self) -> bool:
        with self._store.read() as tx:
            due_us = tx.streams.next_due_us()
            return due_us is not None and due_us <= self._present_us(tx) and not self._are_played(tx)

    def _are_played(self, tx: Tx) -> bool:
        """Tell whether a playback is at work, which lets streams fire and expire itself, each at its time."""
        state = tx.playback.get() if self._cache.current(tx).playing else None
        return state is not None and self._clock.now_us() - state.seen_us < GONE_S * SECOND_US

    def _present_us(self, tx: Tx) -> int:
        return self._cache.current(tx).present_us(self._clock.now_us())

    def _until_due_s(self) -> float:
        """Return how long to wait for the next stream that is due, at most the polling interval."""
        try:
            with self._store.read() as tx:
                due_us = tx.streams.next_due_us()
                if due_us is None or self._are_played(tx):
                    return self.settings.poll_s
                return max(0.0, min(self.settings.poll_s, (due_us - self._present_us(tx)) / SECOND_US))
        except EventprocError:
            return self.settings.poll_s

    def keep_in_step(self) -> int:
        """Let streams follow runs that ended where nobody thought of them (cancelled, say); return how many."""
        with self._store.read() as tx:
            run_ids = tx.streams.out_of_step(limit=self.settings.chunk)
        if run_ids:
            with self._store.begin() as tx:
                tx.streams.follow(run_ids, now_us=self._clock.now_us())
        return len(run_ids)

    def wake_due_runs(self) -> bool:
        """Wake workers when a run has become due since the last look."""
        # Of the time since then: what is due longer and waits behind a limit or an order would hide the others.
        with self._store.read() as tx:
            due_us = tx.runs.next_due_us(after_us=self._woken_us)
        now_us = self._clock.now_us()
        due = due_us is not None and due_us <= now_us
        self._woken_us = now_us
        if due:
            self._bus.wake("runs")
        return due

    def sum_up_traits(self) -> int:
        """Sum up events for searches by traits, once none can come between them; return how many blocks."""
        with self._store.read() as tx:
            past, present = self._horizon, tx.events.horizon()
            if past is not None and not tx.events.passed(past):
                return 0
        done = 0
        while past is not None and not self._stop.is_set():
            with self._store.read() as tx:
                block = tx.events.next_block(past.seq)
            if block is None:
                break
            with self._store.begin() as tx:
                tx.events.keep_block(block)
            done += 1
            self._stop.wait(self.settings.breath_s)
        self._horizon = present
        return done

    # ---------------------------------------------------------------------------------------- leases

    def expire_leases(self) -> int:
        """Take back leases that ran out; runs that end with that get their notice and `run.failed`."""
        total = 0
        while not self._stop.is_set():
            with self._store.begin() as tx:
                now_us = self._clock.now_us()
                runs = tx.runs.expire_leases(
                    now_us=now_us, max_interruptions=self.settings.max_interruptions, limit=self.settings.chunk
                )
                self._tell_of(tx, runs, now_us=now_us)
                tx.streams.follow([run.id for run in runs if run.hook in STREAM_HOOKS], now_us=now_us)
                if any(run.state is RunState.QUEUED for run in runs):
                    tx.after_commit(lambda: self._bus.wake("runs"))
            total += len(runs)
            if runs:
                log.warning("%d leases ran out and were taken back", len(runs))
            if len(runs) < self.settings.chunk:
                break
        return total

    def _tell_of(self, tx: Tx, runs: Sequence[Run], *, now_us: int) -> None:
        ended = [run for run in runs if run.state in (RunState.FAILED, RunState.COMMIT_FAILED)]
        if not ended:
            return
        events = tx.events.by_seq(sorted({run.event_seq for run in ended}))
        notices: list[NewNotice] = []
        for run in ended:
            version = tx.handlers.version(run.handler_id, run.version)
            handler = tx.handlers.get(run.handler_id)
            if version is None or handler is None:
                continue
            notice = notice_of(version, run.state, run_id=run.id, serial=run.serial, now_us=now_us)
            if notice is not None:
                notices.append(notice)
            event = failure_event(
                events[run.event_seq],
                version,
                run.handler_name,
                run_id=run.id,
                attempt=run.attempt,
                state=run.state,
                failure=run.failure,
            )
            if event is not None:
                catalogue = self._cache.current(tx)
                results = accept_events(tx, catalogue, [event], user_id=handler.owner_id, now_us=now_us, bus=self._bus)
                for error in results:
                    if isinstance(error, EventprocError):
                        log.warning("run.failed of run %d was not emitted: %s", run.id, error)
        if notices:
            tx.notices.add(notices, now_us=now_us)
            tx.after_commit(lambda: self._bus.wake("notices"))

    # ---------------------------------------------------------------------------------------- retention

    def _if_steady(self, work: Callable[[], object]) -> Callable[[], object]:
        """Let work that deletes what is old wait while the clock is not to be believed."""

        def guarded() -> None:
            if not self._must_wait():
                work()

        return guarded

    def _must_wait(self) -> bool:
        if self._steadiness is None:
            return False
        ahead_us, rest_s = self._steadiness.look()
        waits = ahead_us > 0
        if waits != self._waits:
            self._tell_waiting(ahead_us, rest_s)
            self._waits = waits
        return waits

    def _tell_waiting(self, ahead_us: int, rest_s: float) -> None:
        """Write into the log, and into the database for `doctor`, that retention waits or does so no more."""
        if ahead_us:
            until_us = self._clock.now_us() + round(rest_s * SECOND_US)
            says = (
                f"the clock jumped ahead by {ahead_us / SECOND_US / DAY_S:,.1f} days: nothing is deleted until "
                f"{isoformat(until_us)}, or until it is set back. If its time is right, restart `eventproc serve` and "
                "retention goes on at once"
            )
            log.warning("retention: %s", says)
        else:
            says = ""
            if self._waits:
                log.info("retention goes on: the clock was set back, or has stayed for a day")
        with self._store.begin() as tx:
            if (tx.get_meta(WAITS) or "") != says:
                tx.set_meta(WAITS, says)

    def prune(self) -> dict[str, int]:
        """Delete what is past its time, in chunks; return how many of each kind."""
        totals: dict[str, int] = {}
        while not self._stop.is_set():
            with self._store.begin() as tx:
                counts = tx.retention.prune(
                    self.settings.policy, now_us=self._clock.now_us(), limit=self.settings.chunk
                )
            for kind, count in counts.items():
                totals[kind] = totals.get(kind, 0) + count
            if not any(counts.values()):
                break
            self._stop.wait(self.settings.breath_s)
        for kind, count in self._prune_metrics().items():
            totals[kind] = totals.get(kind, 0) + count
        files = self._delete_expired_files()
        if files:
            totals["files"] = totals.get("files", 0) + files
        if any(totals.values()):
            log.info("retention: %s", ", ".join(f"{count} {kind}" for kind, count in sorted(totals.items()) if count))
            self._tell_listeners(
                PURGED, lambda _: {"deleted": {kind: count for kind, count in totals.items() if count}}
            )
        return totals

    def tell_depth(self) -> None:
        """Say how much waits, where somebody asks for it; once in so long by the clock, which may stand still."""
        now_us = self._clock.now_us()
        if self._told_us is not None and now_us < self._told_us + round(self.settings.depth_every_s * SECOND_US):
            return
        self._told_us = now_us
        self._tell_listeners(
            QUEUE_DEPTH,
            lambda tx: {
                "runs": tx.runs.counts(),
                "streams": {state.name.lower(): count for state, count in tx.streams.counts().items()},
                "outbox": tx.outbox.counts(),
            },
        )

    def _tell_listeners(self, hook: str, payload: Callable[[Tx], dict[str, object]]) -> None:
        with self._store.read() as tx:
            if not self._cache.current(tx).wanted(hook):
                return
        with self._store.begin() as tx:
            event = NewEvent(hook=hook, payload=payload(tx))
            now_us = self._clock.now_us()
            results = accept_events(
                tx, self._cache.current(tx), [event], user_id=None, now_us=now_us, source="engine", bus=self._bus
            )
        for error in results:
            if isinstance(error, EventprocError):
                log.warning("%s was not emitted: %s", hook, error)

    def _prune_metrics(self) -> dict[str, int]:
        """Delete old samples, those of deleted metrics, old counts of refused ones and messages given up."""
        policy, now_us = self.settings.policy, self._clock.now_us()

        def before(keep_s: int | None) -> int | None:
            return None if keep_s is None else now_us - keep_s * SECOND_US

        samples, rejects, outbox = before(policy.samples_s), before(policy.rejects_s), before(policy.outbox_s)
        totals = {"samples": 0, "refused samples": 0, "messages": 0}
        while not self._stop.is_set():
            limit = self.settings.chunk * SAMPLES_PER_ROW
            with self._store.begin() as tx:
                gone = {
                    "samples": tx.samples.purge_deleted(limit=limit)
                    + (0 if samples is None else tx.samples.prune(samples, limit=limit)),
                    "refused samples": 0 if rejects is None else tx.rejects.prune(rejects, limit=self.settings.chunk),
                    "messages": 0 if outbox is None else tx.outbox.prune(outbox, limit=self.settings.chunk),
                }
            for kind, count in gone.items():
                totals[kind] += count
            if not any(gone.values()):
                break
            self._stop.wait(self.settings.breath_s)
        return totals

    def _delete_expired_files(self) -> int:
        total = 0
        while not self._stop.is_set():
            with self._store.begin() as tx:
                codes = tx.retention.expired_files(
                    now_us=self._clock.now_us(), policy=self.settings.policy, limit=self.settings.chunk
                )
            if self._blobs is not None:
                # A crash between the commit and this leaves bytes without a row: orphans, found later.
                for code in codes:
                    self._blobs.delete(code)
            total += len(codes)
            if len(codes) < self.settings.chunk:
                break
            self._stop.wait(self.settings.breath_s)
        return total

    def delete_orphans(self) -> int:
        """Delete the bytes of files whose run never came to be written; return how many."""
        if self._blobs is None:
            return 0
        older_than_us = self._clock.now_us() - round(self.settings.orphans_older_s * SECOND_US)
        codes = self._blobs.codes(older_than_us=older_than_us)
        deleted = 0
        while chunk := list(itertools.islice(codes, self.settings.chunk)):
            with self._store.read() as tx:
                known = tx.files.exists(chunk)
            deleted += sum(self._blobs.delete(code) for code in chunk if code not in known)
        if deleted:
            log.info("deleted the bytes of %d files whose runs were never written", deleted)
        return deleted
