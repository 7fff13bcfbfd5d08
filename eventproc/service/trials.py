"""Asking what would happen, and making it happen again: why, dry run, replay."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventproc.abc import Tx
from eventproc.engine.accept import prepare
from eventproc.engine.dryrun import DryRun, dry_run
from eventproc.engine.explain import Explanation, why
from eventproc.engine.firing import stream_event
from eventproc.engine.programs import environment_of
from eventproc.engine.replay import Replayed, ReplayQuery, replay
from eventproc.errors import InvalidInput, Unavailable
from eventproc.model import Environment, Event, HandlerRecord, NewEvent, Role, Stream, StreamState, User
from eventproc.registry.globs import is_glob
from eventproc.service.context import ServiceContext
from eventproc.service.events import existing_event
from eventproc.service.handlers import existing_handler, require_handler_owner
from eventproc.service.pipelines import existing_pipeline
from eventproc.service.rights import require
from eventproc.service.streams import existing_stream
from eventproc.service.turns import Turns
from eventproc.service.world import World

MAX_DRY_RUNS = 4  # at a time: they take the server's own threads and processes
DRY_RUN_WAIT_S = 10.0
MAX_WAITING = 16  # of all users, those under way included


class Trials:
    """Use cases around events and the handlers they run, or do not."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._world = World(context)
        self._slots = threading.BoundedSemaphore(MAX_DRY_RUNS)
        self._turns = Turns("dry runs", most=MAX_WAITING, of_one=MAX_DRY_RUNS)

    def why(self, principal: User, event_id: str, handler_id: int) -> Explanation:
        """Say why the event did or did not run the handler."""
        require(principal, Role.VIEWER, "reading events")
        with self._context.store.read() as tx:
            event = existing_event(tx, event_id)
            handler = existing_handler(tx, handler_id)
            return why(tx, self._context.catalogue(tx), event, handler, now_us=self._context.clock.now_us())

    def dry_run(
        self,
        principal: User,
        handler_id: int,
        *,
        event_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        hook: str | None = None,
    ) -> DryRun:
        """Execute one's own handler on a stored event or on a payload; nothing it asks for is written."""
        require(principal, Role.DEVELOPER, "dry runs")
        if (event_id is None) == (payload is None):
            raise InvalidInput("give either 'event_id' or 'payload'", path="$")
        with self._context.store.read() as tx:
            handler = existing_handler(tx, handler_id)
            require_handler_owner(tx, principal, handler)
            if event_id is not None:
                event = existing_event(tx, event_id)
            else:
                event = self._made_up(tx, principal, handler=handler, hook=hook, payload=payload or {}, tags=tags)
            blob = tx.handlers.blob(handler_id, handler.current.version)
            environment = environment_of(tx, handler.current)
        if blob is None:
            raise Unavailable(f"the blob of handler {handler_id} can not be read")
        return self._try(principal, handler, blob, event, environment)

    def dry_run_pipeline(
        self,
        principal: User,
        name: str,
        *,
        stream_id: int | None = None,
        events: Sequence[NewEvent] | None = None,
    ) -> DryRun:
        """
        Run one's own pipeline on a stored stream or on events that are given; nothing it asks for is written.

        Events are checked as if they were reported, and handed over by time. commit() is not called, rollback() is.
        """
        require(principal, Role.DEVELOPER, "dry runs")
        if (stream_id is None) == (events is None):
            raise InvalidInput("give either 'stream' or 'events'", path="$")
        with self._context.store.read() as tx:
            pipeline = existing_pipeline(tx, name)
            require_handler_owner(tx, principal, pipeline)
            if stream_id is not None:
                stream, held = existing_stream(tx, stream_id), tx.streams.events([stream_id])[stream_id]
            else:
                held = self._held(tx, principal, events or ())
                stream = _made_up_stream(held)
            if not held:
                raise InvalidInput("a stream holds at least one event", path="$.events")
            about = stream_event(stream, name, expiring=False)
            event = prepare(
                self._context.catalogue(tx),
                replace(about, id=None, hops=0),
                user_id=principal.id,
                now_us=self._context.clock.now_us(),
                source="dry-run",
            )
            blob = tx.handlers.blob(pipeline.id, pipeline.current.version)
            environment = environment_of(tx, pipeline.current)
        if blob is None:
            raise Unavailable(f"the code of pipeline {name!r} can not be read")
        return self._try(principal, pipeline, blob, event, environment, held=held)

    def _try(
        self,
        principal: User,
        handler: HandlerRecord,
        blob: bytes,
        event: Event,
        environment: Environment | None,
        *,
        held: Sequence[Event] | None = None,
    ) -> DryRun:
        with self._turns.turn(principal):
            if not self._slots.acquire(timeout=DRY_RUN_WAIT_S):
                raise Unavailable(f"{MAX_DRY_RUNS} dry runs are under way already; try again in a moment")
            try:
                return dry_run(
                    self._context.sandbox,
                    self._world,
                    handler=handler,
                    version=handler.current,
                    blob=blob,
                    event=event,
                    environment=environment,
                    held=held,
                )
            finally:
                self._slots.release()

    def _held(self, tx: Tx, principal: User, events: Sequence[NewEvent]) -> list[Event]:
        """Check events as they would be checked when they are reported, in the order of a stream."""
        catalogue = self._context.catalogue(tx)
        prepared = [
            prepare(
                catalogue,
                event,
                user_id=principal.id,
                now_us=self._context.clock.now_us(),
                source="dry-run",
                max_payload_bytes=self._context.settings.max_payload_bytes,
            )
            for event in events
        ]
        return sorted(prepared, key=lambda event: event.time_us)

    def _made_up(
        self,
        tx: Tx,
        principal: User,
        *,
        handler: HandlerRecord,
        hook: str | None,
        payload: Mapping[str, Any],
        tags: Sequence[str],
    ) -> Event:
        if hook is None and is_glob(handler.hook):
            raise InvalidInput(
                f"the handler is registered on the pattern {handler.hook!r}: say which 'hook' the payload is of",
                path="$.hook",
            )
        return prepare(
            self._context.catalogue(tx),
            NewEvent(hook=hook or handler.hook, payload=payload, tags=tags),
            user_id=principal.id,
            now_us=self._context.clock.now_us(),
            source="dry-run",
            max_payload_bytes=self._context.settings.max_payload_bytes,
        )

    def replay(
        self,
        principal: User,
        *,
        hook: str,
        since_us: int,
        until_us: int,
        pattern: Mapping[str, Any] | None = None,
        handler_id: int | None = None,
        current: bool = True,
    ) -> Replayed:
        """Queue runs for past events, of all handlers that match or of one's own one."""
        require(principal, Role.DEVELOPER, "replaying events")
        context = self._context
        with context.store.read() as tx:
            context.catalogue(tx).spec_for_event(hook)
            if handler_id is not None:
                require_handler_owner(tx, principal, existing_handler(tx, handler_id))
        query = ReplayQuery(
            hook=hook,
            since_us=since_us,
            until_us=until_us,
            pattern=pattern,
            handler_id=handler_id,
            current=current,
        )
        done = replay(context.store, context.cache, query, clock=context.clock, bus=context.bus)
        with context.store.begin() as tx:
            detail = {"since_us": since_us, "until_us": until_us, "handler": handler_id, "runs": len(done.runs)}
            context.audit(tx, principal, "event.replay", f"hook:{hook}", **detail)
        return done


def _made_up_stream(held: Sequence[Event]) -> Stream:
    times = [event.time_us for event in held] or [0]
    return Stream(
        id=0,
        trigger_id=0,
        trigger_version=0,
        name="dry-run",
        distinguished_by={},
        state=StreamState.FIRING,
        serial=0,
        joinable=False,
        first_us=min(times),
        last_us=max(times),
        events=len(held),
        matched=(),
        fire_us=None,
        expire_us=max(times),
        hops=0,
        attempts=0,
        run_id=None,
        failure=None,
        created_us=0,
        updated_us=0,
    )
