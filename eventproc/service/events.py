"""Emitting events, looking at them, and sending past ones through again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from eventproc.abc import Tx
from eventproc.engine.accept import Result, accept_events
from eventproc.errors import EventprocError, InvalidInput, NotFound
from eventproc.model import Accepted, Event, NewEvent, Role, User
from eventproc.registry import globs
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require


class Events:
    """Use cases around events."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    # ------------------------------------------------------------------------------------------ emitting

    def emit(self, principal: User, event: NewEvent) -> Accepted:
        """Accept one event, in one transaction with others that come at the same time."""
        result = self.submit(principal, [event]).result()[0]
        if isinstance(result, EventprocError):
            raise result
        return result

    def emit_many(self, principal: User, events: Sequence[NewEvent]) -> list[Result]:
        """Accept events; each is refused by itself, its place then holds the error."""
        return self.submit(principal, events).result()

    def submit(self, principal: User, events: Sequence[NewEvent]) -> Future[list[Result]]:
        """Hand events to the next shared transaction; the future has, in order, what became of each."""
        require(principal, Role.EMITTER, "emitting events")
        context = self._context
        if len(events) > context.settings.max_batch:
            raise InvalidInput(
                f"{len(events):,} events in one request, and {context.settings.max_batch:,} are allowed; "
                "send them in parts",
                limit=context.settings.max_batch,
            )

        def accept(tx: Tx) -> list[Result]:
            return accept_events(
                tx,
                context.catalogue(tx),
                events,
                user_id=principal.id,
                now_us=context.clock.now_us(),
                max_payload_bytes=context.settings.max_payload_bytes,
                bus=context.bus,
            )

        return context.group.submit(accept)

    # ------------------------------------------------------------------------------------------ looking

    def page(
        self,
        principal: User,
        *,
        hook: str | None = None,
        tag: str | None = None,
        key: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        after: int | None = None,
        limit: int = 100,
        traits: Mapping[str, Any] | None = None,
    ) -> list[Event]:
        """Return events, newest first; `hook` may be a pattern, such as `stream.*`, or `!stream.*` for all others."""
        require(principal, Role.VIEWER, "listing events")
        with self._context.store.read() as tx:
            return tx.events.page(
                hook=hooks_meant(tx, hook),
                tag=tag,
                key=key,
                since_us=since_us,
                until_us=until_us,
                after=after,
                limit=limit,
                traits=traits,
            )

    def get(self, principal: User, event_id: str) -> Event:
        require(principal, Role.VIEWER, "reading events")
        with self._context.store.read() as tx:
            return existing_event(tx, event_id)


def hooks_meant(tx: Tx, hook: str | None) -> str | list[str] | None:
    """Return the hooks that a name or pattern means, as `tx.events.page` takes them."""
    if hook is None or not globs.is_pattern(hook):
        return hook
    return globs.chosen(hook, tx.events.hooks())


def existing_event(tx: Tx, event_id: str) -> Event:
    event = tx.events.get(event_id)
    if event is None:
        raise NotFound(f"there is no event {event_id!r} (or not any more)", event=event_id)
    return event
