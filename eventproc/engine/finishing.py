"""Writes what became of runs: results, effects, notices and output of many runs in one transaction."""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from eventproc.abc import Bus, Clock, Store, Tx
from eventproc.engine.accept import accept_events
from eventproc.engine.batches import Batches
from eventproc.engine.counting import count_pipelines
from eventproc.engine.effects import NO_EFFECTS, apply_effects, check_emitted
from eventproc.engine.outcomes import Conclusion, failure_event_of, notice_of, unblocks_others
from eventproc.errors import EventprocError, Unavailable
from eventproc.model import PIPELINE, Claim, LogChunk, NewEvent, NewNotice, RunState
from eventproc.registry.catalogue import Catalogue, CatalogueCache

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


_Lease = tuple[int, int]  # run, fencing token


class Written(Enum):
    """What became of a conclusion."""

    YES = "yes"
    STALE = "stale"  # the lease was somebody else's: nothing was written


class _Spoilt(Exception):
    """One conclusion can not be written; its neighbours can."""

    def __init__(self, index: int, cause: Exception) -> None:
        super().__init__(str(cause))
        self.index = index
        self.cause = cause


Done = Callable[[Written | Exception], None]


@dataclass(slots=True)
class _Job:
    conclusion: Conclusion
    done: Done
    uncertain: bool = False  # a try to write it ended without an answer


@dataclass(slots=True)
class _Gathered:
    """What the conclusions of one transaction write together."""

    notices: list[NewNotice] = field(default_factory=list)
    failures: list[tuple[Claim, NewEvent]] = field(default_factory=list)
    logs: list[LogChunk] = field(default_factory=list)
    wake: set[str] = field(default_factory=set)


class Finisher:
    """
    Takes conclusions from the slots and writes them, fenced, in few transactions.

    While the store can not be used they are kept, and written when it is back: the store itself then says whose
    lease has run out. A conclusion whose effects can not be written is answered with the error; its neighbours are
    written.
    """

    def __init__(
        self, *, store: Store, bus: Bus, clock: Clock, cache: CatalogueCache, max_delay_s: float, max_items: int = 400
    ) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._cache = cache
        self._give_up_at: float | None = None
        self._batches: Batches[_Job] = Batches(
            self._write_all, name="finisher", max_delay_s=max_delay_s, max_items=max_items
        )

    def submit(self, conclusion: Conclusion, done: Done) -> None:
        """Queue a conclusion; `done` is called after the commit, in the finisher's thread, and must be quick."""
        self._batches.put(_Job(conclusion, done))

    def write(self, conclusion: Conclusion) -> Written | Exception:
        """Queue a conclusion and wait for what becomes of it."""
        answer: queue.SimpleQueue[Written | Exception] = queue.SimpleQueue()
        self.submit(conclusion, answer.put)
        return answer.get()

    def stop(self, *, within_s: float) -> None:
        """Write what waits, then end; a store that can not be used is waited for so long."""
        self._give_up_at = time.monotonic() + within_s
        self._batches.stop()

    # ---------------------------------------------------------------------------------------- writing

    def _write_all(self, jobs: list[_Job]) -> None:
        groups = [jobs]
        pause_s = _FIRST_PAUSE_S
        while groups:
            try:
                groups[:1] = self._write_once(groups[0])
            except Unavailable as error:
                left = [job for group in groups for job in group]
                if self._give_up_at is not None and time.monotonic() > self._give_up_at:
                    log.warning("%d run outcomes are lost: %s; the runs will be executed again", len(left), error)
                    for job in left:
                        _tell(job, error)
                    return
                log.warning("%d run outcomes wait for the store: %s", len(left), error)
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _write_once(self, jobs: list[_Job]) -> list[list[_Job]]:
        """Write all in one transaction; return the groups still to be written, when one of them spoilt it."""
        jobs = self._without_those_written(jobs)
        if not jobs:
            return []
        try:
            ours = self._transact([job.conclusion for job in jobs])
        except _Spoilt as spoilt:
            _tell(jobs[spoilt.index], spoilt.cause)
            rest = jobs[: spoilt.index] + jobs[spoilt.index + 1 :]
            return [rest] if rest else []
        except Unavailable:
            # The connection may have been lost after the commit: nobody knows whether this is written.
            for job in jobs:
                job.uncertain = True
            raise
        except Exception as error:
            if len(jobs) > 1:  # nobody knows whose fault it was: each gets a transaction of its own
                return [[job] for job in jobs]
            log.exception("the outcome of run %d can not be written", jobs[0].conclusion.run_id)
            _tell(jobs[0], error)
            return []
        for job in jobs:
            _tell(job, Written.YES if _lease_of(job.conclusion) in ours else Written.STALE)
        return []

    def _without_those_written(self, jobs: list[_Job]) -> list[_Job]:
        """
        Leave out those that an earlier try did write after all.

        To take them for stale would delete their files and roll back what is committed.
        """
        doubtful = [job for job in jobs if job.uncertain]
        if not doubtful:
            return jobs
        with self._store.read() as tx:
            written = {id(job) for job in doubtful if _is_written(tx, job.conclusion)}
        for job in doubtful:
            if id(job) in written:
                _tell(job, Written.YES)
        return [job for job in jobs if id(job) not in written]

    def _transact(self, conclusions: Sequence[Conclusion]) -> set[_Lease]:
        """Write all whose lease still holds and return their leases."""
        gathered = _Gathered()
        # A run may be here twice: its lease ran out while this waited for the store, and it came to this worker again.
        latest = dict(sorted(map(_lease_of, conclusions)))
        with self._store.begin() as tx:
            now_us = self._clock.now_us()
            asked = [each.finish for each in conclusions if latest[each.run_id] == each.finish.token]
            ours = {(run_id, latest[run_id]) for run_id in tx.runs.finish(asked, now_us=now_us)}
            streams = _stream_runs(conclusions)
            followed = sorted(run_id for run_id, _ in ours if run_id in streams)
            catalogue: Catalogue | None = None
            if followed:
                tx.streams.follow(followed, now_us=now_us)
                catalogue = self._cache.current(tx)
                count_pipelines(tx, catalogue, [each for each in conclusions if _lease_of(each) in ours])
            emitted: list[tuple[int, Conclusion]] = []
            for index, each in enumerate(conclusions):
                if _lease_of(each) not in ours:
                    continue
                if each.effects is not NO_EFFECTS and each.effects != NO_EFFECTS:
                    with _spoiling(index):
                        apply_effects(tx, each.claim, each.effects, now_us=now_us)
                    if each.effects.outgoing:
                        gathered.wake.add("outbox")
                    if each.effects.events:
                        emitted.append((index, each))
                _gather(gathered, each, now_us=now_us)
            if emitted:
                catalogue = catalogue or self._cache.current(tx)
                if _emit(tx, catalogue, emitted, now_us=now_us):
                    gathered.wake.add("runs")
            self._write_gathered(tx, gathered, catalogue, now_us=now_us)
        return ours

    def _write_gathered(self, tx: Tx, gathered: _Gathered, catalogue: Catalogue | None, *, now_us: int) -> None:
        if gathered.failures:
            catalogue = catalogue or self._cache.current(tx)
            if emit_failures(tx, catalogue, gathered.failures, now_us=now_us):
                gathered.wake.add("runs")
        if gathered.notices:
            tx.notices.add(gathered.notices, now_us=now_us)
            gathered.wake.add("notices")
        if gathered.logs:
            tx.runs.add_logs(gathered.logs)
        if gathered.wake:
            tx.after_commit(lambda: self._bus.wake(*sorted(gathered.wake)))


@contextlib.contextmanager
def _spoiling(index: int) -> Iterator[None]:
    """Say whose fault an exception was."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:
        raise _Spoilt(index, error) from error


def _emit(tx: Tx, catalogue: Catalogue, emitted: Sequence[tuple[int, Conclusion]], *, now_us: int) -> bool:
    """
    Accept the events of many runs, those of one handler in one go; tell whether runs were queued.

    Raises _Spoilt for the first run with one that is refused.
    """
    by_handler: dict[tuple[int, str], list[tuple[int, Conclusion]]] = {}
    for index, each in emitted:
        by_handler.setdefault((each.claim.owner_id, each.claim.handler_name), []).append((index, each))
    queued = False
    for (owner_id, name), group in by_handler.items():
        events = [event for _, each in group for event in each.effects.events]
        results = iter(accept_events(tx, catalogue, events, user_id=owner_id, now_us=now_us, source=f"handler:{name}"))
        for index, each in group:
            with _spoiling(index):
                if check_emitted(each.claim, list(itertools.islice(results, len(each.effects.events)))):
                    queued = True
    return queued


def _stream_runs(conclusions: Sequence[Conclusion]) -> set[int]:
    return {each.run_id for each in conclusions if each.claim.handler.kind == PIPELINE}


def _lease_of(conclusion: Conclusion) -> _Lease:
    return conclusion.run_id, conclusion.finish.token


def _is_written(tx: Tx, conclusion: Conclusion) -> bool:
    run = tx.runs.get(conclusion.run_id)
    # Whoever claimed it after us would have raised the number of its attempt.
    return run is not None and run.state is conclusion.finish.state and run.attempt == conclusion.claim.attempt


def _gather(gathered: _Gathered, conclusion: Conclusion, *, now_us: int) -> None:
    claim, finish = conclusion.claim, conclusion.finish
    gathered.logs.extend(conclusion.logs)
    if finish.state is RunState.QUEUED or (finish.state is not RunState.COMMITTING and unblocks_others(claim)):
        gathered.wake.add("runs")
    quiet = finish.state is RunState.SUCCEEDED and not conclusion.notify
    notice = (
        None
        if quiet
        else notice_of(claim.handler, finish.state, run_id=claim.run_id, serial=claim.serial, now_us=now_us)
    )
    if notice is not None:
        gathered.notices.append(notice)
    event = failure_event_of(claim, finish)
    if event is not None:
        gathered.failures.append((claim, event))


def emit_failures(tx: Tx, catalogue: Catalogue, failures: Sequence[tuple[Claim, NewEvent]], *, now_us: int) -> bool:
    """Emit `run.failed` events, each in the name of its handler's owner; tell whether runs were queued."""
    by_owner: dict[int, list[tuple[Claim, NewEvent]]] = {}
    for claim, event in failures:
        by_owner.setdefault(claim.owner_id, []).append((claim, event))
    queued = False
    for owner_id, group in by_owner.items():
        events = [event for _, event in group]
        results = accept_events(tx, catalogue, events, user_id=owner_id, now_us=now_us, source="engine")
        for (claim, _), result in zip(group, results, strict=True):
            if isinstance(result, EventprocError):
                # The failure itself is recorded all the same.
                log.warning("run.failed of run %d was not emitted: %s", claim.run_id, result)
            else:
                queued = queued or bool(result.runs)
    return queued


def _tell(job: _Job, answer: Written | Exception) -> None:
    try:
        job.done(answer)
    except Exception:  # the other runs of the transaction must hear of it all the same
        log.exception("run %d: its slot could not deal with %r", job.conclusion.run_id, answer)
