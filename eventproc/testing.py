"""
A platform in memory, for tests of handlers: no server, no files, a clock that stands still, mails that are collected.

>>> from eventproc.testing import Harness
>>> with Harness() as platform:
...     _ = platform.add_hook("order.placed")
...     _ = platform.register(lambda db, total, **kw: total * 2, hook="order.placed", name="double")
...     _ = platform.emit("order.placed", {"total": 21})
...     platform.run_until_idle()
...     platform.runs[0].result
42

Handlers run on a thread of the test's own process, so a debugger steps into them; limits are not enforced.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

import numpy as np

from eventproc.abc import Clock, Sandbox, Store, Tx
from eventproc.blobs import MemoryBlobs
from eventproc.bus.memory import MemoryBus
from eventproc.client.pipelines import pipeline_part
from eventproc.codec.blob import pack, verify
from eventproc.codec.inline import with_inline_requirements
from eventproc.engine import series
from eventproc.engine.clock import ManualClock
from eventproc.engine.group import GroupCommit
from eventproc.engine.housekeeping import Housekeeper
from eventproc.engine.notifier import Notifier
from eventproc.engine.worker import Worker, WorkerSettings
from eventproc.errors import InvalidInput
from eventproc.model import (
    LEASED_STATES,
    SECOND_US,
    Accepted,
    Event,
    Failure,
    HandlerRecord,
    HookSpec,
    NewEvent,
    Role,
    Run,
    RunFilter,
    Sample,
    SampleScores,
    Series,
    Stream,
    StreamFilter,
    TriggerRecord,
    from_datetime,
    to_datetime,
)
from eventproc.model.marks import HandlerMark, marks_of
from eventproc.models import messages
from eventproc.models.display import rescale
from eventproc.models.lifecycle import Teller
from eventproc.notify import MemoryMailer, TemplateRenderer
from eventproc.plugins import bundled_dir, files_in
from eventproc.registry import CatalogueCache
from eventproc.registry.specs import load_specs
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.service.context import ServiceContext, ServiceSettings
from eventproc.service.facade import UseCases
from eventproc.service.hooks import sync_bundled_hooks
from eventproc.service.monitoring import find_metric
from eventproc.service.pipelines import part_from_json
from eventproc.service.vault import Vault
from eventproc.service.world import World
from eventproc.store.memory import MemoryStore

MAX_LISTED = 100_000
LONG_PAUSE_S = 0.02
LEASE_S = 3600.0  # of the harness's own clock, which only moves when the test says so


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run, as a test wants to see it."""

    id: int
    state: str
    hook: str
    handler: str
    event_id: str
    attempt: int
    result: Any
    failure: Failure | None
    logs: str
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


@dataclass(frozen=True, kw_only=True)
class EmittedEvent:
    """One accepted event."""

    id: str
    hook: str
    payload: Mapping[str, Any]
    tags: tuple[str, ...]
    key: str | None
    source: str
    time: dt.datetime
    caused_by_run: int | None


class NotIdle(AssertionError):
    """The platform still works after the time given."""


class _Dry(Exception):
    """Ends a transaction that only wanted to look."""


class _InTurn(Store):
    """
    The worker's way to the store: one transaction for writing at a time, as SQLite has it anyway.

    Runs that are just being claimed are locked on PostgreSQL, and would look like runs that wait for something.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Tx]:
        with self._turn, self._store.begin() as tx:
            yield tx

    def read(self) -> contextlib.AbstractContextManager[Tx]:
        return self._store.read()

    def join(self, session: Any) -> Tx:
        return self._store.join(session)

    def upgrade(self) -> None:
        self._store.upgrade()

    def revision(self) -> tuple[str | None, str]:
        return self._store.revision()

    def close(self) -> None:
        self._store.close()


class Harness:
    """
    The whole platform in memory. Use it as a context manager.

    With `wall`, `clock` is that of events and streams only; leases, retries and all else go by `wall`.
    """

    def __init__(
        self,
        *,
        sandbox: Sandbox | None = None,
        bundled_hooks: bool = True,
        store: Store | None = None,
        worker: WorkerSettings | None = None,
        settings: ServiceSettings | None = None,
        wall: Clock | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.wall: Clock = wall or self.clock  # of all but events and streams
        self.bus = MemoryBus()
        self.blobs = MemoryBlobs()
        self.mailer = MemoryMailer()
        self.store: Store = store or MemoryStore()
        self._in_turn = _InTurn(self.store)
        self.cache = CatalogueCache(self.store, event_clock=None if wall is None else self.clock)
        self._sandbox = sandbox or InProcessSandbox()
        self.store.upgrade()
        self._context = ServiceContext(
            store=self.store,
            bus=self.bus,
            blobs=self.blobs,
            sandbox=self._sandbox,
            clock=self.wall,
            cache=self.cache,
            group=GroupCommit(self.store),
            vault=Vault.random(),
            settings=settings or ServiceSettings(),
        )
        self.use = UseCases(self._context)
        with self.store.begin() as tx:
            known = tx.users.find("tester")
            self.admin = known or tx.users.add("tester", Role.ADMIN, now_us=self.wall.now_us())
            if bundled_hooks:
                specs, _ = load_specs(files_in(bundled_dir("hooks"), "hooks"), source="bundled")
                sync_bundled_hooks(tx, specs, now_us=self.wall.now_us())
        self._world = World(self._context)
        self._worker = Worker(
            store=self._in_turn,
            bus=self.bus,
            sandbox=self._sandbox,
            services=self._world,
            clock=self.wall,
            settings=worker or WorkerSettings(slots=1, lease_s=LEASE_S),
            cache=self.cache,
        )
        self._housekeeper = Housekeeper(
            store=self.store, bus=self.bus, blobs=self.blobs, clock=self.wall, cache=self.cache
        )
        self._notifier = Notifier(
            store=self.store, bus=self.bus, mailer=self.mailer, renderer=TemplateRenderer(), clock=self.wall
        )
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------- life

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._worker.run, name="harness-worker", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop(5.0)
        if self._thread is not None:
            self._thread.join(10.0)
        self._world.close()
        self._context.group.close()
        self._sandbox.close()
        self.bus.close()
        self.store.close()

    # ------------------------------------------------------------------------------------------- doing

    def add_hook(
        self, name: str, *, schema: Mapping[str, Any] | None = None, sample: Mapping[str, Any] | None = None
    ) -> HookSpec:
        """Add a hook."""
        definition = {"summary": "made by a test", "schema": dict(schema or {}), "sample": dict(sample or {})}
        return self.use.hooks.put(self.admin, name, definition)

    def load_hooks(self, *files: Path) -> list[HookSpec]:
        """Add the hooks of YAML files, as a project's `hooks/` holds them. Raises PluginError for a broken one."""
        specs, problems = load_specs(files)
        if problems:
            raise problems[0]
        with self.store.begin() as tx:
            for spec in specs:
                tx.hooks.put(spec, now_us=self.wall.now_us(), by="tester")
        return specs

    def set_secret(self, name: str, value: str) -> None:
        """Keep a secret for handlers that are registered with its name."""
        self.use.secrets.put(self.admin, name, value)

    def register(
        self,
        handler: Callable[..., Any],
        *,
        hook: str | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        notify_on_success: str | None = None,
        notify_on_failure: str | None = None,
        **options: Any,
    ) -> HandlerRecord:
        """Register a handler as `conn.register` would; what is not given is taken from its `@register(...)`."""
        marked = next((mark for mark in marks_of(handler) if hook in (None, mark.hook)), HandlerMark(name="", hook=""))
        if not (hook or marked.hook):
            raise InvalidInput("say on which hook: register(handler, hook=...)")
        plain_name = getattr(handler, "__name__", "handler").strip("<>").replace("_", "-")
        registered = self.use.handlers.register(
            self.admin,
            hook=hook or marked.hook,
            name=name or marked.name or plain_name,
            bundle=pack(handler),
            tags=marked.tags if tags is None else tuple(tags),
            notify_on_success=notify_on_success or marked.notify_on_success,
            notify_on_failure=notify_on_failure or marked.notify_on_failure,
            options=with_inline_requirements(handler, {**marked.options, **options}),
        )
        return registered.handler

    def register_pipeline(
        self,
        name: str,
        handlers: Sequence[Any],
        *,
        notify_on_success: str | None = None,
        notify_on_failure: str | None = None,
        naive: bool = False,
        setup: Sequence[str] = (),
        **options: Any,
    ) -> HandlerRecord:
        """Register a pipeline as `register_pipeline(name, handlers=[...], conn=...)` would."""
        return self.use.pipelines.register(
            self.admin,
            name=name,
            handlers=[
                part_from_json(data, bundle) for data, bundle in (pipeline_part(handler) for handler in handlers)
            ],
            notify_on_success=notify_on_success,
            notify_on_failure=notify_on_failure,
            options=options,
            naive=naive,
            setup=setup,
        )

    def add_trigger(self, **definition: Any) -> TriggerRecord:
        """Store a trigger, given by the keys of a triggers.yaml."""
        return self.use.triggers.put_one(self.admin, definition).triggers[0]

    @property
    def streams(self) -> list[Stream]:
        """All streams, the oldest first."""
        with self.store.read() as tx:
            return tx.streams.page(StreamFilter(), limit=MAX_LISTED, newest_first=False)

    def emit(
        self,
        hook: str,
        payload: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        tags: Sequence[str] = (),
        key: str | None = None,
        time: dt.datetime | None = None,
    ) -> Accepted:
        """Report an event; without a payload, the hook's sample is taken."""
        if payload is None:
            payload = self.use.hooks.get(self.admin, hook).sample
        event = NewEvent(
            hook=hook,
            payload=payload,
            id=id,
            tags=tuple(tags),
            key=key,
            time_us=from_datetime(time) if time is not None else None,
            source="test",
        )
        return self.use.events.emit(self.admin, event)

    def run_until_idle(self, timeout_s: float = 60.0) -> None:
        """
        Run everything that is due at the clock's time: schedules, streams, runs, what they emit, and mails.

        Retries and schedules that are due later stay: move `clock` and call it again.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._housekeeper.tick()
            self._wait_for_runs(deadline)
            self._notifier.turn()
            if self._idle() and not self._streams_are_due():
                return
            if time.monotonic() > deadline:
                raise NotIdle("streams go on firing without an end")

    def _streams_are_due(self) -> bool:
        with self.store.read() as tx:
            due_us = tx.streams.next_due_us()
        return due_us is not None and due_us <= self.clock.now_us()

    def expire_leases(self) -> int:
        """Take back runs whose worker is gone; return how many."""
        return self._housekeeper.expire_leases()

    def fire_streams(self) -> int:
        """Give the streams that are due to their pipelines; return how many."""
        return self._housekeeper.fire_streams()

    def settle(self, timeout_s: float = 600.0) -> None:
        """See all runs to their end that are due at the clock's time; nothing else happens."""
        deadline = time.monotonic() + timeout_s
        pause = 0.0005
        while True:
            counts = self._counts()
            if not any(counts.get(state, 0) for state in ("queued", "running", "committing")):
                return
            if pause >= LONG_PAUSE_S and self._idle():
                return  # what waits is paused, or ordered behind such
            if time.monotonic() > deadline:
                raise NotIdle(f"runs are still going on: {counts}")
            time.sleep(pause)
            pause = min(pause * 1.5, LONG_PAUSE_S)

    def _wait_for_runs(self, deadline: float) -> None:
        self.bus.wake("runs")
        pause = 0.0005
        while not self._idle():
            if time.monotonic() > deadline:
                raise NotIdle(f"runs are still going on: {self._counts()}")
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
            self.bus.wake("runs")

    def _counts(self) -> dict[str, int]:
        with self.store.read() as tx:
            return tx.runs.counts()

    def _idle(self) -> bool:
        """Tell whether nothing runs and nothing could be claimed: tried in a transaction that is undone."""
        claimable = 0
        with contextlib.suppress(_Dry), self._in_turn.begin() as tx:
            counts = tx.runs.counts()
            if any(counts.get(state, 0) for state in LEASED_STATES):
                return False
            claims = tx.runs.claim(
                worker="look", pythons=(), want_run=1, want_batch=1, lease_us=1, now_us=self.wall.now_us()
            )
            claimable = len(claims)
            raise _Dry
        return claimable == 0

    # ------------------------------------------------------------------------------------------- looking

    @property
    def runs(self) -> list[RunResult]:
        """All runs, the oldest first."""
        with self.store.read() as tx:
            found = tx.runs.page(RunFilter(), limit=MAX_LISTED)
            return [self._result(tx, run) for run in reversed(found)]

    def _result(self, tx: Tx, run: Run) -> RunResult:
        files = {}
        for record in tx.files.of_run(run.id):
            with self.blobs.open(record.code) as file:
                files[record.name] = file.read()
        return RunResult(
            id=run.id,
            state=str(run.state),
            hook=run.hook,
            handler=run.handler_name,
            event_id=run.event_id,
            attempt=run.attempt,
            result=None if run.result_json is None else json.loads(run.result_json),
            failure=run.failure,
            logs="".join(chunk.text for chunk in tx.runs.logs(run.id)),
            files=files,
        )

    @property
    def events(self) -> list[EmittedEvent]:
        """All events, the oldest first."""
        with self.store.read() as tx:
            return [_emitted(event) for event in tx.events.page(limit=MAX_LISTED, newest_first=False)]

    @property
    def mails(self) -> list[EmailMessage]:
        """All mails sent, the oldest first."""
        return [sent.parsed for sent in self.mailer.sent]

    @property
    def files(self) -> dict[str, bytes]:
        """All files uploaded, by name; of several with one name the newest."""
        return {name: data for run in self.runs for name, data in run.files.items()}

    # ------------------------------------------------------------------------------------------- series

    def add_series(
        self,
        name: str,
        times_ns: Sequence[int],
        values: Sequence[float],
        *,
        collection: str = "",
        uuid: str | None = None,
    ) -> str:
        """Store samples for handlers to read with `db`; return the series' UUID."""
        code = uuid or str(uuids.uuid5(uuids.NAMESPACE_URL, f"{collection}/{name}"))
        with self.store.begin() as tx:
            tx.series.put(Series(uuid=code, name=name, collection=collection, created_us=self.wall.now_us()))
            series.insert(tx, code, np.asarray(times_ns, np.int64), np.asarray(values, np.float64))
        return code

    def add_metric(self, name: str, *, resource: str | None = None) -> str:
        """Give the platform a metric with a model; return its uid."""
        spec = {"metricSpec": {"metric": name, "resource": resource}, "modelParams": {"min": 0, "max": 100}}
        return self.use.monitoring.monitor(self.admin, spec).metric.uid

    def add_samples(
        self, metric: str, values: Sequence[float], *, times: Sequence[float] | None = None, step: float = 300.0
    ) -> list[float]:
        """
        Store samples of a metric; return their times, seconds since 1970.

        Without `times` they follow the newest one, `step` seconds apart; a metric's first ones end now.
        """
        with self.store.begin() as tx:
            found = find_metric(tx, metric)
            if times is None:
                now = self.clock.now_us() / SECOND_US - step * len(values)
                last = now if found.last_time_us is None else found.last_time_us / SECOND_US
                times = [last + step * (place + 1) for place in range(len(values))]
            times_us = [round(when * SECOND_US) for when in times]
            done = tx.samples.add_batch([found.id] * len(values), times_us, list(values))
            if done.accepted != len(values):
                raise InvalidInput(f"{len(values) - done.accepted} samples are not newer than the one before them")
        return list(times)

    def add_scores(
        self,
        metric: str,
        anomalies: Sequence[float],
        *,
        values: Sequence[float] | None = None,
        times: Sequence[float] | None = None,
        step: float = 300.0,
    ) -> str:
        """
        Store samples with these anomaly scores, and report them as `inference.batch_done`; return the event's id.

        Handlers find them in their payload and with `db`. Values are 1.0 unless they are given; times as in
        `add_samples`.
        """
        given = [1.0] * len(anomalies) if values is None else list(values)
        if not given or len(given) != len(anomalies):
            raise InvalidInput(f"{len(anomalies)} scores need as many values, not {len(given)}")
        self.add_samples(metric, given, times=times, step=step)
        with self.store.begin() as tx:
            found = find_metric(tx, metric)
            model = tx.models.of_metric(found.id)
            if model is None:
                raise InvalidInput(f"the metric {found.name!r} has no model: give it one with add_metric")
            samples = tx.samples.after(found.id, found.last_rowid - len(given), limit=len(given))
            rows = [_scored(sample, float(anomaly)) for sample, anomaly in zip(samples, anomalies, strict=True)]
            tx.samples.set_scores(
                [SampleScores(found.id, row.rowid, row.raw_score, row.anomaly, row.display_value, None) for row in rows]
            )
            event = messages.batch_event(found, model, rows, duration_s=0.0)
            Teller(catalogue=self.use.context.catalogue, bus=self.bus).emit(tx, [event], now_us=self.clock.now_us())
        assert event.id is not None
        return event.id

    def values(self, uuid: str) -> tuple[list[int], list[float]]:
        """Return all samples of a series: what handlers inserted, too."""
        with self.store.read() as tx:
            times, values = series.values(tx, uuid, -(1 << 62), 1 << 62)
        return times.tolist(), values.tolist()


def _scored(sample: Sample, anomaly: float) -> messages.ScoredRow:
    return messages.ScoredRow(
        rowid=sample.rowid,
        time_us=sample.time_us,
        value=sample.value,
        raw_score=anomaly,
        anomaly=anomaly,
        display_value=rescale(anomaly),
        predictions=None,
    )


def _emitted(event: Event) -> EmittedEvent:
    return EmittedEvent(
        id=event.id,
        hook=event.hook,
        payload=json.loads(event.payload_json),
        tags=event.tags,
        key=event.key,
        source=event.source,
        time=to_datetime(event.time_us),
        caused_by_run=event.caused_by_run,
    )


def check_handler(
    handler: Callable[..., Any],
    hook: str | None = None,
    *,
    payload: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    secrets: Mapping[str, str] | None = None,
) -> RunResult:
    """
    Check that a handler would do on a real platform, and return its run on the hook's sample payload.

    It must pickle, load in a clean interpreter that has none of your files, take the payload, and return what JSON
    can hold. Raises InvalidHandler, or AssertionError with the failure's own words.
    """
    wanted = hook or next((mark.hook for mark in marks_of(handler)), None)
    if not wanted:
        raise InvalidInput("say on which hook: check_handler(handler, hook=...)")
    verify(pack(handler))
    with Harness() as harness:
        with harness.store.read() as tx:
            known = any(spec.name == wanted for spec in tx.hooks.all())
        if not known and payload is not None:
            harness.add_hook(wanted)
        for secret, value in (secrets or {}).items():
            harness.set_secret(secret, value)
        harness.register(handler, hook=wanted, name="checked", tags=())
        harness.emit(wanted, payload, tags=tags)
        harness.run_until_idle()
        run = harness.runs[0]
    if run.failure is not None:
        raise AssertionError(
            f"the handler failed ({run.failure.kind}): {run.failure.message}\n{run.failure.traceback or ''}"
        )
    return run


__all__ = ["EmittedEvent", "Harness", "NotIdle", "RunResult", "check_handler"]
