"""The outbox, for those who look after the platform."""

from __future__ import annotations

from collections.abc import Sequence

from eventproc.engine.postman import TOPIC
from eventproc.errors import NotFound
from eventproc.model import Outgoing, Role, User
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require


class Outbox:
    """Use cases around messages to other systems. They can hold anything, so only an admin sees them."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def page(
        self, principal: User, *, state: str | None = None, after: int | None = None, limit: int = 100
    ) -> list[Outgoing]:
        require(principal, Role.ADMIN, "listing the outbox")
        with self._context.store.read() as tx:
            return tx.outbox.page(state=state, after=after, limit=limit)

    def get(self, principal: User, message_id: int) -> Outgoing:
        require(principal, Role.ADMIN, "reading the outbox")
        with self._context.store.read() as tx:
            found = tx.outbox.get(message_id)
        if found is None:
            raise NotFound(f"there is no message {message_id} in the outbox: what is delivered leaves it")
        return found

    def requeue(self, principal: User, message_ids: Sequence[int]) -> list[int]:
        """Have given-up messages tried again; return the ids of those that will be."""
        require(principal, Role.ADMIN, "requeueing messages")
        context = self._context
        with context.store.begin() as tx:
            done = sorted(tx.outbox.requeue(message_ids, now_us=context.clock.now_us()))
            if done:
                context.audit(tx, principal, "outbox.requeue", "outbox", messages=done)
                context.wake_after(tx, TOPIC)
        return done

    def delete(self, principal: User, message_id: int) -> None:
        require(principal, Role.ADMIN, "deleting messages")
        with self._context.store.begin() as tx:
            if not tx.outbox.delete([message_id]):
                raise NotFound(f"there is no message {message_id} in the outbox: what is delivered leaves it")
            self._context.audit(tx, principal, "outbox.delete", f"outbox:{message_id}")
