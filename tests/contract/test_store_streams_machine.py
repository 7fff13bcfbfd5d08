"""Streams as a state machine: whatever is done in whatever order, each event is in one stream that ends once."""

from __future__ import annotations

import contextlib
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from stream_world import HOUR_US, PlainMatcher, make_trigger

from eventproc.abc import Registration
from eventproc.engine.accept import accept_events
from eventproc.engine.firing import fire_due_streams
from eventproc.model import (
    PIPELINE_HOOK,
    Failure,
    Finish,
    HandlerBundle,
    HookSpec,
    NewEvent,
    Options,
    Role,
    RunState,
    StreamFilter,
    StreamState,
)
from eventproc.registry import CatalogueCache
from eventproc.store.memory import MemoryStore

LEASE_US = 1_000_000
WHO = st.sampled_from("ab")
OUTCOMES = st.sampled_from([RunState.SUCCEEDED, RunState.COMMITTING, RunState.FAILED, RunState.RETRYING, None])
LIVE = {StreamState.ACTIVE, StreamState.RETRY_FIRE, StreamState.RETRY_EXPIRE}
WITH_RUN = {StreamState.FIRING: False, StreamState.EXPIRING: True}


class Undone(Exception):
    """Ends a transaction that shall leave nothing."""


class Streams(RuleBasedStateMachine):
    """A feeder, a worker and an operator in one."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.cache = CatalogueCache(self.store, compile_trigger=PlainMatcher)
        self.now_us = HOUR_US
        self.accepted: dict[str, str] = {}
        self.claims: list[object] = []

    @initialize(pipelines=st.sets(st.sampled_from(["usage", "late"])))
    def begin(self, pipelines: set[str]) -> None:
        with self.store.begin() as tx:
            self.user = tx.users.add("ada", Role.DEVELOPER, now_us=0)
            tx.hooks.put(HookSpec(name="*", summary=""), now_us=0, by="test")
            tx.triggers.put(make_trigger(), owner=self.user, now_us=0)
            for name in pipelines:
                self._register(tx, name)

    def _register(self, tx, name: str) -> None:
        bundle = HandlerBundle(
            blob=b"x", digest="d", python="3.11", dill="", source=None, filename=None, qualname="q", kind="pipeline"
        )
        registration = Registration(
            hook=PIPELINE_HOOK,
            name=name,
            bundle=bundle,
            tags=(),
            notify_on_success=None,
            notify_on_failure=None,
            options=Options(),
        )
        tx.handlers.put(registration, owner=self.user, now_us=self.now_us)

    @rule(events=st.lists(st.tuples(WHO, st.sampled_from(["part", "part", "end"]), st.integers(-3, 3)), max_size=6))
    def accept(self, events: list[tuple[str, str, int]]) -> None:
        self._accept(events)

    @rule(events=st.lists(st.tuples(WHO, st.just("end"), st.integers(0, 1)), min_size=1, max_size=3))
    def accept_and_roll_back(self, events: list[tuple[str, str, int]]) -> None:
        known = dict(self.accepted)
        with contextlib.suppress(Undone):
            self._accept(events, undo=True)
        self.accepted = known

    def _accept(self, events: list[tuple[str, str, int]], *, undo: bool = False) -> None:
        new = []
        for who, kind, shift in events:
            name = f"e{len(self.accepted)}"
            self.accepted[name] = who
            at_us = self.now_us + shift * 1_000_000
            new.append(NewEvent(hook=f"test.{kind}", id=name, payload={"id": who}, time_us=at_us))
        with self.store.begin() as tx:
            accept_events(tx, self.cache.current(tx), new, user_id=None, now_us=self.now_us)
            if undo:
                raise Undone

    @rule()
    def report_again(self) -> None:
        names = list(self.accepted)[-3:]
        with self.store.begin() as tx:
            stored = [tx.events.get(name) for name in names]
            again = [
                NewEvent(hook=event.hook, id=event.id, payload={"id": self.accepted[event.id]}, time_us=event.time_us)
                for event in stored
                if event is not None
            ]
            accept_events(tx, self.cache.current(tx), again, user_id=None, now_us=self.now_us)

    @rule(seconds=st.sampled_from([0.5, 2, 1800, 3600, 7200]))
    def time_passes(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)

    @rule(limit=st.integers(1, 3))
    def fire(self, limit: int) -> None:
        with self.store.begin() as tx:
            fire_due_streams(tx, self.cache.current(tx), now_us=self.now_us, limit=limit)

    @rule()
    def claim(self) -> None:
        with self.store.begin() as tx:
            self.claims += tx.runs.claim(
                worker="w", pythons=(), want_run=2, want_batch=2, lease_us=LEASE_US, now_us=self.now_us
            )

    @rule(outcome=OUTCOMES)
    def finish(self, outcome: RunState | None) -> None:
        """End the oldest claim, perhaps long after its lease is somebody else's; None: the worker dies."""
        if not self.claims:
            return
        claim = self.claims.pop(0)
        if outcome is None:
            return
        failure = Failure(kind="exception", message="boom") if outcome is RunState.FAILED else None
        done = Finish(run_id=claim.run_id, token=claim.token, state=outcome, failure=failure, due_us=self.now_us)
        with self.store.begin() as tx:
            if tx.runs.finish([done], now_us=self.now_us):
                tx.streams.follow([claim.run_id], now_us=self.now_us)

    @rule()
    def leases_run_out(self) -> None:
        with self.store.begin() as tx:
            runs = tx.runs.expire_leases(now_us=self.now_us, max_interruptions=1)
            tx.streams.follow([run.id for run in runs], now_us=self.now_us)

    @rule()
    def reset(self) -> None:
        with self.store.begin() as tx:
            tx.streams.reset([stream.id for stream in tx.streams.page(StreamFilter())], now_us=self.now_us)

    @rule()
    def cancel(self) -> None:
        with self.store.begin() as tx:
            ids = [stream.run_id for stream in tx.streams.page(StreamFilter()) if stream.run_id is not None]
            done, _ = tx.runs.cancel(ids[:1], now_us=self.now_us, reason="test")
            tx.streams.follow(sorted(done), now_us=self.now_us)

    @invariant()
    def each_event_is_in_one_stream(self) -> None:
        with self.store.read() as tx:
            streams = tx.streams.page(StreamFilter(), limit=10_000)
            held = tx.streams.events([stream.id for stream in streams])
        assert Counter(event.id for events in held.values() for event in events) == Counter(list(self.accepted))
        for stream in streams:
            events = held[stream.id]
            assert stream.events == len(events) > 0
            assert {self.accepted[event.id] for event in events} == {stream.distinguished_by["id"]}
            times = [event.time_us for event in events]
            assert (stream.first_us, stream.last_us) == (min(times), max(times))
            ends = sum(event.hook == "test.end" for event in events)
            assert (list(stream.matched), stream.fire_us is not None) == ([ends], ends > 0)

    @invariant()
    def at_most_one_stream_of_each_kind_can_be_joined(self) -> None:
        with self.store.read() as tx:
            streams = tx.streams.page(StreamFilter(), limit=10_000)
        joinable = Counter(stream.distinguished_by["id"] for stream in streams if stream.joinable)
        assert not joinable or max(joinable.values()) == 1
        assert all(stream.state is StreamState.ACTIVE for stream in streams if stream.joinable)

    @invariant()
    def streams_and_runs_are_in_step(self) -> None:
        with self.store.read() as tx:
            assert tx.streams.out_of_step(limit=10) == []
            for stream in tx.streams.page(StreamFilter(), limit=10_000):
                run = tx.runs.get(stream.run_id) if stream.run_id is not None else None
                if stream.state in WITH_RUN:
                    assert run is not None
                    assert run.state in (RunState.QUEUED, RunState.RUNNING, RunState.RETRYING)
                    assert (run.hook == "stream.expired") is WITH_RUN[stream.state]
                if run is not None and run.state in (RunState.SUCCEEDED, RunState.COMMITTING):
                    assert stream.state is StreamState.COMPLETED
                if stream.state in LIVE and stream.fire_us is None:
                    assert stream.expire_us > 0

    def teardown(self) -> None:
        self.store.close()


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=15, stateful_step_count=30, suppress_health_check=list(HealthCheck))
