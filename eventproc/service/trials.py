"""Asking what would happen, and making it happen again: why, dry run, replay."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from eventproc.abc import Tx
from eventproc.engine.accept import prepare
from eventproc.engine.dryrun import DryRun, dry_run
from eventproc.engine.explain import Explanation, why
from eventproc.engine.programs import environment_of
from eventproc.engine.replay import Replayed, ReplayQuery, replay
from eventproc.errors import InvalidInput, Unavailable
from eventproc.model import Event, HandlerRecord, NewEvent, Role, User
from eventproc.registry.globs import is_glob
from eventproc.service.context import ServiceContext
from eventproc.service.events import existing_event
from eventproc.service.handlers import existing_handler, require_handler_owner
from eventproc.service.rights import require
from eventproc.service.world import World

MAX_DRY_RUNS = 4  # at a time: they take the server's own threads and processes
DRY_RUN_WAIT_S = 10.0


class Trials:
    """Use cases around events and the handlers they run, or do not."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._world = World(context)
        self._slots = threading.BoundedSemaphore(MAX_DRY_RUNS)

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
            )
        finally:
            self._slots.release()

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
