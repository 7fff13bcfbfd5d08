"""
The role `models`: makes models that were asked for, and scores samples, many metrics to a cycle.

A cycle reads what waits (one page of metrics, in turn), scores it in threads with the interpreter's lock released, and
writes scores, places, events and messages in one transaction that checks the leases of the metrics' shares. What a
model in memory has learnt beyond the last commit is thrown away with it; it comes back from its checkpoint and the
stored samples, bit by bit the same.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from eventproc.abc import Bus, Clock, Store, Tx
from eventproc.errors import Conflict, EventprocError, InvalidInput, NotFound, Unavailable
from eventproc.model import SECOND_US, Metric, MetricBacklog, MetricStatus, NewEvent
from eventproc.model.anomaly import SHARDS, Checkpoint, Model
from eventproc.model.quiet import CHECKPOINT_SAVED, LIKELIHOOD_REFRESHED, MODEL_LOADED
from eventproc.models import lifecycle, messages
from eventproc.models.jobs import Job, Resident
from eventproc.models.lifecycle import Teller
from eventproc.models.scorer import Scorer
from eventproc.models.shares import Shares
from eventproc.models.specs import RECORDS_NEEDED, USER
from eventproc.models.uploaded import Uploads

log = logging.getLogger(__name__)

TOPICS: Final = (lifecycle.TOPIC, "samples")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerSettings:
    """Sizes in bytes, times in seconds."""

    threads: int = 2
    memory: int = 1 << 30  # of models in memory
    checkpoint_every: int = 100  # rows of a model that stays in memory
    checkpoint_cold: int = 16  # rows of one that has to be loaded for every few rows
    poll_s: float = 1.0
    page: int = 256  # metrics in a cycle
    live_rows: int = 12  # a metric with at most so many rows waiting is live, one with more has a backlog
    backlogs: int = 8  # metrics with a backlog in a cycle that has live ones
    rows: int = 128  # of one metric in a cycle
    rows_alone: int = 1024  # of one metric in a cycle of few
    slow_metrics: int = 4  # in a cycle, and
    slow_rows: int = 32  # of each, while kernels are being compiled: a second's work, so that leases are kept
    uploads: int = 4  # detectors of users that work at a time
    max_failures: int = 5  # of a model in a row, before its metric is in ERROR
    longest_rest_s: float = 300.0


class ModelRunner:
    """
    Does what is to be done for the metrics of its shares, until it is stopped.

    `tick` does one cycle; tests and playback call it after moving the clock.
    """

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        clock: Clock,
        teller: Teller,
        shares: Shares,
        settings: RunnerSettings | None = None,
        full_speed: Callable[[], bool] = lambda: True,  # asked before each cycle that scores
        uploads: Uploads | None = None,  # where detectors of users are to be had
    ) -> None:
        self.settings = settings or RunnerSettings()
        self.rows_scored = 0
        self._store, self._bus, self._clock, self._teller, self._shares = store, bus, clock, teller, shares
        self._full_speed = full_speed
        self._residents: OrderedDict[int, Resident] = OrderedDict()  # by metric, least recently used first
        self._held = 0  # bytes
        self._tight = False  # whether models had to leave memory of late
        self._cursor = 0
        self._served: dict[int, int] = {}  # of metrics with a backlog: the turn in which each was served last
        self._turn = 0
        self._pool = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="model")
        self._uploads = uploads
        self._away: dict[int, tuple[Job, Future[None]]] = {}  # metrics that a detector of a user's is working on
        self._away_pool = ThreadPoolExecutor(self.settings.uploads, thread_name_prefix="detector")
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._thread_id: int | None = None

    # ------------------------------------------------------------------------------------------- life

    def run(self) -> None:
        """Work until `stop`."""
        self._thread_id = threading.get_ident()
        listener = self._bus.listen(*TOPICS)
        try:
            while not self._stop.is_set():
                if not self._try_tick():
                    self._rest(listener.wait)
        finally:
            listener.close()
            self._end()

    def _try_tick(self) -> bool:
        try:
            return self.tick() > 0
        except Unavailable as error:
            log.warning("models wait for the store: %s", error)
            self._stop.wait(self.settings.poll_s)
            return False

    def _rest(self, wait: Callable[[float], object]) -> None:
        try:
            wait(self.settings.poll_s)
        except EventprocError as error:
            log.warning("no wake-ups for now: %s", error)
            self._stop.wait(self.settings.poll_s)

    def stop(self, grace_s: float = 30.0) -> None:
        """End after the cycle at hand; waits for that unless called in the thread that is in `run`."""
        self._stop.set()
        self._bus.wake(lifecycle.TOPIC)
        if self._thread_id not in (None, threading.get_ident()):
            self._ended.wait(grace_s)

    def _end(self) -> None:
        self._pool.shutdown()
        self._away_pool.shutdown(wait=False, cancel_futures=True)
        if self._uploads is not None:
            self._uploads.close()
        self._away_pool.shutdown()
        try:
            self._shares.leave()
        except Unavailable as error:
            log.warning("the shares could not be given back, they run out by themselves: %s", error)
        self._ended.set()

    def close(self) -> None:
        """End for good, for those who call `tick` instead of `run`."""
        self._end()

    @property
    def loaded(self) -> int:
        """Number of models in memory."""
        return len(self._residents)

    def tick(self) -> int:
        """Do one cycle; return how much was looked at (0: nothing waits)."""
        lost = self._shares.beat_if_due()
        if lost:
            self._forget([metric_id for metric_id in self._residents if metric_id % SHARDS in lost])
        return self._activate() + self._define() + self._score()

    # ------------------------------------------------------------------------------------------- new models

    def _activate(self) -> int:
        """Estimate the range of values of metrics that now have enough samples."""
        after, done = 0, 0
        while True:
            with self._store.read() as tx:
                page = tx.metrics.enough(after=after, limit=1000)
                metrics = tx.metrics.many([one.metric_id for one in page if self._shares.mine(one.metric_id)])
            for metric in metrics.values():
                done += self._activate_one(metric)
            if len(page) < 1000:
                return done
            after = page[-1].metric_id

    def _activate_one(self, metric: Metric) -> int:
        try:
            with self._store.begin() as tx:
                lifecycle.activate(tx, self._teller, metric, now_us=self._clock.now_us(), needed=RECORDS_NEEDED)
        except (Conflict, NotFound):  # not enough rows after all, or not waiting any more
            return 0
        except InvalidInput as error:
            with self._store.begin() as tx:
                locked = tx.metrics.lock(metric.id)
                if locked is not None and locked.status == MetricStatus.PENDING_DATA:
                    lifecycle.fail(tx, self._teller, locked, message=error.message, now_us=self._clock.now_us())
        return 1

    def _define(self) -> int:
        """Make the models that were asked for."""
        with self._store.read() as tx:
            wanted = self._undefined(tx)
            metrics = tx.metrics.many([model.metric_id for model in wanted])
        tried = [(metrics[m.metric_id], m, _trial(m, self._uploads)) for m in wanted if m.metric_id in metrics]
        tried = [one for one in tried if one[0].status == MetricStatus.CREATE_PENDING]
        if not tried:
            return 0
        with self._store.begin() as tx:
            now_us = self._clock.now_us()
            held = self._shares.still_held(tx, [metric.id for metric, _, _ in tried])
            for metric, model, error in tried:
                if metric.id not in held:
                    continue
                if error is None:
                    lifecycle.defined(tx, self._teller, metric, model, now_us=now_us)
                else:
                    lifecycle.define_failed(tx, self._teller, metric, model, error=error, now_us=now_us)
        return len(tried)

    def _undefined(self, tx: Tx) -> list[Model]:
        """Find a page of ours: those of others may be many, and not done for a while."""
        found: list[Model] = []
        after, limit = 0, self.settings.page
        while len(found) < limit:
            page = tx.models.undefined(now_us=self._clock.now_us(), after=after, limit=limit)
            found += [model for model in page if self._shares.mine(model.metric_id)]
            if len(page) < limit:
                break
            after = page[-1].metric_id
        return found

    # ------------------------------------------------------------------------------------------- scores

    def _score(self) -> int:
        with self._store.read() as tx:
            page = tx.metrics.behind(MetricStatus.ACTIVE, after=self._cursor, limit=self.settings.page)
            started_over = self._cursor == 0
            self._cursor = page[-1].metric_id if len(page) == self.settings.page else 0
            mine = [one for one in page if self._shares.mine(one.metric_id) and one.metric_id not in self._away]
            slow = bool(mine) and not self._full_speed()
            jobs = self._jobs(tx, self._choose_few(mine) if slow else self._choose(mine), slow=slow)
        self._finish_away()
        sent = [job for job in jobs if _uses_upload(job.model)]
        self._send_away(sent)
        jobs = [job for job in jobs if not _uses_upload(job.model)]
        if jobs:
            parts = min(len(jobs), 2 * self.settings.threads)
            list(self._pool.map(_work, [jobs[part::parts] for part in range(parts)]))
            self._finish(jobs)
        if not page and not started_over:
            return 1  # the end of the round: look at the beginning again before resting
        return len(jobs) if self._cursor == 0 else len(page)

    def _choose(self, page: Sequence[MetricBacklog]) -> list[MetricBacklog]:
        """Take all live metrics of the page, and of those with a backlog the ones that wait longest for a turn."""
        live = [one for one in page if one.last_rowid - one.scored_rowid <= self.settings.live_rows]
        late = [one for one in page if one.last_rowid - one.scored_rowid > self.settings.live_rows]
        if live and len(late) > self.settings.backlogs:
            late.sort(key=lambda one: self._served.get(one.metric_id, 0))
            late = late[: self.settings.backlogs]
        self._note_turn(late)
        return live + late

    def _choose_few(self, page: Sequence[MetricBacklog]) -> list[MetricBacklog]:
        """Take few metrics of the page, those that wait longest for a turn."""
        few = sorted(page, key=lambda one: self._served.get(one.metric_id, 0))[: self.settings.slow_metrics]
        self._note_turn(few)
        return few

    def _note_turn(self, served: Sequence[MetricBacklog]) -> None:
        self._turn += 1
        if len(self._served) > 100_000:
            self._served.clear()
        self._served.update((one.metric_id, self._turn) for one in served)

    def _jobs(self, tx: Tx, chosen: Sequence[MetricBacklog], *, slow: bool) -> list[Job]:
        """Read all that the chosen metrics' turns need."""
        ids = [one.metric_id for one in chosen]
        metrics, models = tx.metrics.many(ids), tx.models.of_metrics(ids)
        now_us = self._clock.now_us()
        chosen = [one for one in chosen if _may_work(metrics.get(one.metric_id), models.get(one.metric_id), now_us)]
        for one in chosen:
            resident = self._residents.get(one.metric_id)
            if resident is not None and not _usable(resident, models[one.metric_id], one):
                self._forget([one.metric_id])
        checkpoints = tx.models.checkpoints([one.metric_id for one in chosen if one.metric_id not in self._residents])
        checkpoints = {
            key: found
            for key, found in checkpoints.items()
            if found.model_id == models[key].id and found.rowid <= metrics[key].scored_rowid
        }
        places = [(one.metric_id, self._place(one, checkpoints, models)) for one in chosen]
        rows = self.settings.rows if len(chosen) > self.settings.backlogs else self.settings.rows_alone
        rows = self.settings.slow_rows if slow else rows
        samples = tx.samples.after_many(places, limit=rows)
        return [
            Job(
                metric=metrics[one.metric_id],
                model=models[one.metric_id],
                scored_rowid=one.scored_rowid,
                last_rowid=one.last_rowid,
                samples=samples.get(one.metric_id, ()),
                resident=self._residents.get(one.metric_id),
                checkpoint=checkpoints.get(one.metric_id),
                save_after=self._save_after(one.metric_id, models[one.metric_id]),
                uploads=self._uploads,
            )
            for one in chosen
        ]

    def _place(self, one: MetricBacklog, checkpoints: dict[int, Checkpoint], models: dict[int, Model]) -> int:
        resident, checkpoint = self._residents.get(one.metric_id), checkpoints.get(one.metric_id)
        if resident is not None:
            return resident.rowid
        return models[one.metric_id].origin_rowid if checkpoint is None else checkpoint.rowid

    def _send_away(self, jobs: Sequence[Job]) -> None:
        """Let detectors of users work on their own, so that one that hangs holds up nobody else's metrics."""
        for job in jobs:
            future = self._away_pool.submit(job.work)
            self._away[job.metric.id] = (job, future)
            future.add_done_callback(lambda _: self._bus.wake(lifecycle.TOPIC))

    def _finish_away(self) -> None:
        done = [job for job, future in self._away.values() if future.done()]
        for job in done:
            del self._away[job.metric.id]
        if done:
            self._finish(done)

    def _save_after(self, metric_id: int, model: Model) -> int:
        if _uses_upload(model):
            return 1  # nobody promises that it does the same thing twice
        cold = self._tight and metric_id not in self._residents
        return self.settings.checkpoint_cold if cold else self.settings.checkpoint_every

    def _finish(self, jobs: Sequence[Job]) -> None:
        """Write what came of a cycle, together; if one job spoils it, one by one."""
        try:
            with self._store.begin() as tx:
                written = self._write(tx, jobs)
        except Unavailable:
            self._forget([job.metric.id for job in jobs])
            raise
        except Exception as error:
            if not isinstance(error, EventprocError):  # a fault of ours, which must not stop the other metrics
                log.exception("results of %d metrics could not be written", len(jobs))
            if len(jobs) > 1:
                log.warning("a cycle's results are written one by one: %s", error)
                for job in jobs:
                    self._finish([job])
                return
            self._forget([jobs[0].metric.id])
            self._note_failure(jobs[0], str(error))
            return
        self._keep(jobs, written)

    def _keep(self, jobs: Sequence[Job], written: set[int]) -> None:
        for job in jobs:
            resident = job.resident
            self._forget([job.metric.id])
            if job.metric.id not in written or resident is None:
                continue
            if job.saved is not None:
                resident.saved_rowid = job.saved.rowid
            self._held += resident.size
            self._residents[job.metric.id] = resident
            self.rows_scored += len(job.rows)
        self._tight = self._held > self.settings.memory * 0.95
        while self._held > self.settings.memory and len(self._residents) > 1:
            _, gone = self._residents.popitem(last=False)
            self._held -= gone.size

    def _forget(self, metric_ids: Sequence[int]) -> None:
        for metric_id in metric_ids:
            gone = self._residents.pop(metric_id, None)
            if gone is not None:
                self._held -= gone.size

    def _write(self, tx: Tx, jobs: Sequence[Job]) -> set[int]:
        """Write the results of those metrics that are still ours and as they were; return their ids."""
        now_us = self._clock.now_us()
        ids = [job.metric.id for job in jobs]
        standing = tx.models.standing(ids)
        held = self._shares.still_held(tx, ids)
        good: list[Job] = []
        bad: list[Job] = []
        for job in jobs:
            place = standing.get(job.metric.id)
            if place is None or job.metric.id not in held or place.status != MetricStatus.ACTIVE:
                continue
            if place.model_id != job.model.id or place.scored_rowid != job.scored_rowid:
                continue
            (good if job.error is None and job.damaged is None else bad).append(job)
        self._write_scores(tx, good)
        self._tell(tx, good, now_us=now_us)
        for job in bad:
            self._write_failure(tx, job, now_us=now_us)
        return {job.metric.id for job in good}

    def _write_scores(self, tx: Tx, jobs: Sequence[Job]) -> None:
        tx.samples.set_scores([row for job in jobs for row in job.scores()])
        tx.metrics.set_scored([(job.metric.id, job.reached) for job in jobs if job.reached > job.scored_rowid])
        tx.models.put_checkpoints([job.saved for job in jobs if job.saved is not None])
        known = [
            (job.metric.id, job.resident.scorer.summary()) for job in jobs if job.resident is not None and job.rows
        ]
        tx.models.set_likelihoods([(metric_id, summary) for metric_id, summary in known if summary])
        tx.models.settle([job.metric.id for job in jobs if job.model.failures])

    def _tell(self, tx: Tx, jobs: Sequence[Job], *, now_us: int) -> None:
        events = [
            messages.batch_event(job.metric, job.model, job.rows, duration_s=job.seconds) for job in jobs if job.rows
        ]
        events += [
            messages.rejected_event(job.metric, reason="the detector gave no number", rowids=job.rejected)
            for job in jobs
            if job.rejected
        ]
        self._teller.emit(tx, events, now_us=now_us)
        self._teller.tell_listeners(
            tx, MODEL_LOADED, lambda: [_loaded(job) for job in jobs if job.loading_s is not None], now_us=now_us
        )
        self._teller.tell_listeners(
            tx,
            CHECKPOINT_SAVED,
            lambda: [_saved(job, job.saved) for job in jobs if job.saved is not None],
            now_us=now_us,
        )
        self._teller.tell_listeners(
            tx, LIKELIHOOD_REFRESHED, lambda: [event for job in jobs for event in _refreshed(job)], now_us=now_us
        )
        exchange = self._teller.exchange
        if exchange is not None and events:
            told = [messages.inference_message(job.metric, job.model, job.rows) for job in jobs if job.rows]
            tx.outbox.add([messages.outgoing(exchange, message) for message in told], now_us=now_us)
            tx.after_commit(lambda: self._bus.wake("outbox"))

    # ------------------------------------------------------------------------------------------- failures

    def _write_failure(self, tx: Tx, job: Job, *, now_us: int) -> None:
        if job.damaged is not None:
            self._write_damage(tx, job, job.damaged, now_us=now_us)
            return
        assert job.error is not None
        failures = self.settings.max_failures if job.final else job.model.failures + 1
        rowid = job.samples[0].rowid if job.samples else job.scored_rowid
        where = "" if job.final else f"scoring failed at sample {rowid} or behind: "
        message = f"{where}{job.error}"
        log.warning("metric %s: %s", job.metric.name, message)
        if failures >= self.settings.max_failures:
            lifecycle.fail(tx, self._teller, job.metric, message=message, now_us=now_us)
            return
        rest_s = min(2.0**failures, self.settings.longest_rest_s)
        tx.models.failed(job.metric.id, message=message, retry_us=now_us + round(rest_s * SECOND_US))

    def _write_damage(self, tx: Tx, job: Job, damage: str, *, now_us: int) -> None:
        """Have a model without usable checkpoint made again from its samples; where some are gone, it is in ERROR."""
        first = tx.samples.after(job.metric.id, job.model.origin_rowid, limit=1)
        if first and first[0].rowid == job.model.origin_rowid + 1 and job.checkpoint is not None:
            log.warning("metric %s: %s; its model is made again from its samples", job.metric.name, damage)
            tx.models.drop_checkpoints(job.metric.id)
            return
        message = (
            f"{damage}, and the samples it learnt from (from {job.model.origin_rowid + 1} on) are gone: "
            "`eventproc models retry --fresh` trains a new model on those that are left"
        )
        log.error("metric %s: %s", job.metric.name, message)
        lifecycle.fail(tx, self._teller, job.metric, message=message, now_us=now_us)

    def _note_failure(self, job: Job, error: str) -> None:
        job.error, job.damaged, job.rows, job.saved = error, None, [], None
        with self._store.begin() as tx:
            self._write(tx, [job])


def _work(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.work()


def _uses_upload(model: Model) -> bool:
    return model.params is not None and str(model.params["detector"]["name"]).startswith(USER)


def _trial(model: Model, uploads: Uploads | None) -> str | None:
    """Make the model once; return what is wrong with it. One of a user's detectors is made with its first samples."""
    try:
        assert model.params is not None
        Scorer.new(model.params["detector"], uploads)
    except Exception as error:  # noqa: BLE001 - a detector of somebody else may raise anything
        return f"the model can not be made: {type(error).__name__}: {error}"
    return None


def _loaded(job: Job) -> NewEvent:
    checkpoint = job.checkpoint
    return messages.metric_event(
        MODEL_LOADED,
        job.metric,
        rowid=job.model.origin_rowid if checkpoint is None else checkpoint.rowid,
        checkpoint=checkpoint is not None,
        duration=round(job.loading_s or 0.0, 6),
    )


def _saved(job: Job, saved: Checkpoint) -> NewEvent:
    return messages.metric_event(CHECKPOINT_SAVED, job.metric, rowid=saved.rowid, bytes=len(saved.data), kind="full")


def _refreshed(job: Job) -> list[NewEvent]:
    return [
        messages.metric_event(
            LIKELIHOOD_REFRESHED, job.metric, last_rowid=rowid, mean=known.mean, stdev=known.deviation
        )
        for rowid, known in job.fits
    ]


def _may_work(metric: Metric | None, model: Model | None, now_us: int) -> bool:
    if metric is None or model is None or model.params is None or metric.status != MetricStatus.ACTIVE:
        return False
    return model.retry_us is None or model.retry_us <= now_us


def _usable(resident: Resident, model: Model, one: MetricBacklog) -> bool:
    return resident.model_id == model.id and resident.rowid <= one.last_rowid
