"""
The outbox: how a transaction tells other systems of what it did.

`tx.outbox.add([...])` writes messages with everything else, or not at all; once the transaction is committed, wake the
topic "outbox". The notifier role claims what is due, hands it to the carrier of its kind, and deletes what that one
delivered. Delivery is at least once: a crash between delivery and deletion sends again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eventproc.model.outbox import NewOutgoing, Outgoing


class OutboxRows(Protocol):
    def add(self, messages: Sequence[NewOutgoing], *, now_us: int) -> None:
        """Write messages, to be sent after the commit, in this order."""

    def claim(self, *, kind: str, limit: int, lease_us: int, now_us: int) -> list[Outgoing]:
        """Lease pending messages of a kind that are due, oldest first; their `attempts` grows by one."""

    def delivered(self, leases: Sequence[tuple[int, int]]) -> set[int]:
        """Delete messages by (id, token); return the ids of those that were still ours."""

    def failed(self, message_id: int, token: int, *, error: str, retry_us: int | None, refusals: int = 0) -> bool:
        """
        Record a failed try, and how many `refusals` there are now one after another; `retry_us` None gives up.

        False for a lost lease.
        """

    def release(self, leases: Sequence[tuple[int, int]], *, due_us: int, error: str) -> None:
        """Give messages back that were not tried, because the other side is not there; their `attempts` shrinks."""

    def get(self, message_id: int) -> Outgoing | None: ...

    def page(self, *, state: str | None = None, after: int | None = None, limit: int = 100) -> list[Outgoing]:
        """Return messages newest first, starting behind id `after`."""

    def requeue(self, message_ids: Sequence[int], *, now_us: int) -> set[int]:
        """Have given-up messages tried again, as if they were new; return the ids of those that were."""

    def delete(self, message_ids: Sequence[int]) -> set[int]: ...
    def next_due_us(self, kind: str) -> int | None: ...
    def counts(self) -> dict[str, int]:
        """Return the number of messages by state."""

    def prune(self, before_us: int, *, limit: int) -> int:
        """Delete given-up messages that were written, or requeued, before that time."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    What became of one message: `error` None is delivered.

    `final`: refused for good. `unreachable`: it was not tried, for the other side is not there; with `later_s` that is
    so for this message's host only, and it is looked for again in so many seconds. `tries`: after so many of this kind
    one after another it is given up, for only a person can put right what is wrong.
    """

    error: str | None = None
    final: bool = False
    unreachable: bool = False
    tries: int | None = None
    later_s: float | None = None


class Carrier(ABC):
    """Delivers the messages of one kind."""

    kind: str

    @abstractmethod
    def deliver(self, messages: Sequence[Outgoing]) -> list[Delivery]:
        """Try each message in turn; return what became of it, in order. Never raises for a message's sake."""

    @abstractmethod
    def describe(self) -> str:
        """Say where messages go, without secrets."""

    @abstractmethod
    def close(self) -> None: ...
