"""The postman: delivers the outbox's messages of one kind, and records how it went."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from eventproc.abc import Bus, Carrier, Clock, Delivery, Store, Tx
from eventproc.errors import EventprocError
from eventproc.model import SECOND_US, Outgoing

TOPIC = "outbox"
STORE_PAUSE_S = 1.0  # after the store failed

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PostmanSettings:
    """How messages are delivered; times in seconds."""

    batch: int = 100  # messages leased at a time
    poll_s: float = 5.0  # between looks when no wake-up comes
    lease_s: float = 300.0
    backoff_s: float = 2.0  # before the second try; doubles from try to try
    backoff_max_s: float = 600.0
    jitter: float = 0.25  # fraction of the delay, added or taken away at random
    max_age_s: float = 3 * 86400.0  # a message that was tried in vain for so long is given up
    away_s: float = 1.0  # before the other side is looked for again when it was not there; doubles too
    away_max_s: float = 30.0


class Postman:
    """
    Delivers messages; `run` blocks until `stop` is called from another thread. Any number may work on one store.

    A message that the other side refuses for good, or does not take in `max_age_s`, is given up, and after a few tries
    one that lacks the right to be there: it stays, can be read and requeued. What was not tried, for the other side is
    not there, is never given up. Delivery is at least once: whoever is killed between a delivery and the transaction
    that notes it delivers again.
    """

    def __init__(
        self, *, store: Store, bus: Bus, carrier: Carrier, clock: Clock, settings: PostmanSettings | None = None
    ) -> None:
        self._store = store
        self._bus = bus
        self._carrier = carrier
        self._clock = clock
        self._settings = settings or PostmanSettings()
        self._away_s = 0.0  # how long to leave the other side alone
        self._stopping = threading.Event()
        self._done = threading.Event()

    def run(self) -> None:
        """Deliver messages until `stop` is called."""
        self._done.clear()
        listener = self._bus.listen(TOPIC)
        log.info("postman started", carrier=self._carrier.describe())
        try:
            while not self._stopping.is_set():
                try:
                    pause_s = 0.0 if self.turn() else self._idle_s()
                except Exception as error:  # noqa: BLE001  # the store may be away or a row odd: the others go on
                    level = log.warning if isinstance(error, EventprocError) else log.exception
                    level("postman: a turn failed, trying again", error=str(error))
                    self._stopping.wait(STORE_PAUSE_S)
                    continue
                if self._away_s:
                    self._stopping.wait(self._away_s)  # wake-ups would only lead to the same closed door
                elif pause_s > 0:
                    listener.wait(pause_s)
        finally:
            listener.close()
            self._carrier.close()
            self._done.set()
            log.info("postman stopped", carrier=self._carrier.describe())

    def stop(self, grace_s: float = 30.0) -> None:
        """Begin no further delivery, and wait so long for the one under way."""
        self._stopping.set()
        self._bus.wake(TOPIC)
        if not self._done.wait(grace_s):
            log.warning("postman: a delivery is still under way after the grace time", grace_s=grace_s)

    def turn(self) -> bool:
        """Work off one batch of due messages; return whether there may be more at once."""
        settings = self._settings
        with self._store.begin() as tx:
            messages = tx.outbox.claim(
                kind=self._carrier.kind,
                limit=settings.batch,
                lease_us=round(settings.lease_s * SECOND_US),
                now_us=self._clock.now_us(),
            )
        if not messages:
            self._away_s = 0.0
            return False
        verdicts = self._carrier.deliver(messages)
        away = [verdict for verdict in verdicts if verdict.unreachable and verdict.later_s is None]
        if len(away) == len(verdicts):
            self._away_s = min(max(settings.away_s, 2 * self._away_s), settings.away_max_s)
            log.warning("the outbox waits", carrier=self._carrier.describe(), reason=away[0].error)
        else:
            self._away_s = 0.0
        self._record(messages, verdicts)
        return len(messages) == settings.batch and not self._away_s

    def _record(self, messages: Sequence[Outgoing], verdicts: Sequence[Delivery]) -> None:
        now_us = self._clock.now_us()
        pairs = list(zip(messages, verdicts, strict=True))
        untried: dict[tuple[str, float], list[tuple[int, int]]] = defaultdict(list)
        for message, verdict in pairs:
            if verdict.unreachable:
                later_s = verdict.later_s or self._away_s or self._settings.away_s
                untried[verdict.error or "the other side is not there", later_s].append((message.id, message.token))
        with self._store.begin() as tx:
            tx.outbox.delivered([(message.id, message.token) for message, verdict in pairs if verdict.error is None])
            for (error, later_s), leases in untried.items():
                tx.outbox.release(leases, due_us=now_us + round(later_s * SECOND_US), error=error)
            for message, verdict in pairs:
                if verdict.error is not None and not verdict.unreachable:
                    self._failed(tx, message, verdict, now_us)

    def _failed(self, tx: Tx, message: Outgoing, verdict: Delivery, now_us: int) -> None:
        error = verdict.error or ""
        old = now_us - message.since_us > self._settings.max_age_s * SECOND_US
        refusals, enough = 0, False
        if verdict.tries is not None:
            refusals = message.refusals + 1
            error, enough = f"{error} (try {refusals} of {verdict.tries})", refusals >= verdict.tries
        delay_s = self._delay_s(message)
        retry_us = None if verdict.final or old or enough else now_us + round(delay_s * SECOND_US)
        if retry_us is None:
            log.warning("a message is given up", message=message.id, target=message.target, error=error)
        tx.outbox.failed(message.id, message.token, error=error, retry_us=retry_us, refusals=refusals)

    def _delay_s(self, message: Outgoing) -> float:
        settings = self._settings
        doubled_s = min(settings.backoff_s * 2.0 ** (min(message.attempts, 60) - 1), settings.backoff_max_s)
        own_s = message.patience("interval", 0.0) * message.attempts
        delay_s = min(own_s or doubled_s, message.patience("max", settings.backoff_max_s))
        return delay_s * random.uniform(1 - settings.jitter, 1 + settings.jitter)  # noqa: S311 - spreads load

    def _idle_s(self) -> float:
        with self._store.read() as tx:
            due_us = tx.outbox.next_due_us(self._carrier.kind)
        if due_us is None:
            return self._settings.poll_s
        return min(self._settings.poll_s, max(0.05, (due_us - self._clock.now_us()) / SECOND_US))


__all__ = ["TOPIC", "Postman", "PostmanSettings"]
