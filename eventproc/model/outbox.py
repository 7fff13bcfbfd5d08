"""The outbox: messages to other systems, written in the transaction that they tell of, sent later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class OutgoingState(StrEnum):
    PENDING = "pending"
    FAILED = "failed"  # gave up, or refused for good; one that is delivered is deleted


LOGIN: Final = "login."  # what the names of headers begin with that are for logging in
ACCEPT: Final = "accept-status"
PATIENCE: Final = "patience."  # what the names of headers begin with that say how long to wait for what


@dataclass(frozen=True, kw_only=True, slots=True)
class NewOutgoing:
    """
    A message to be sent.

    kind "amqp": `target` is `EXCHANGE/ROUTING-KEY` (both may be empty; what comes before the first slash is the
    exchange), `headers` are its properties: `content_type`, `content_encoding`, `type`, `message_id`, `expiration`,
    `app_id`, and as headers of the message all whose names start with `header.`. `declare` = `fanout`, `direct` or
    `topic` declares the exchange (durable) before the first message; without it the exchange must exist. `queue` is
    made too, durable, and bound to the exchange under the routing key.
    kind "http": `target` is a URL, `headers` are its headers, POST unless `method` says otherwise. `login.server`,
    `login.user` and `login.key` are of an identity service that gives the token to send; `accept-status` lists answers
    that are as good as 2xx. `patience.timeout` is how long an answer may take, `patience.interval` the pause before the
    second try (before the third it is twice that, and so on), `patience.max` the longest pause, all in seconds.
    """

    kind: str
    target: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    due_us: int | None = None  # None: at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """A message that waits, or one that was given up."""

    id: int
    kind: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    state: OutgoingState
    attempts: int
    due_us: int
    created_us: int
    error: str | None
    token: int
    since_us: int  # when it was written, or requeued; the ids that receivers see are made of `created_us`
    refusals: int  # one after another, that only a person can put right

    def patience(self, name: str, default: float) -> float:
        """Return a time in seconds that the message brings along, else the default."""
        said = self.headers.get(PATIENCE + name)
        return default if said is None else float(said)
