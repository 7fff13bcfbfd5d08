"""Notifications from a broker's queue, as yagi hands them to winchester's handler, fed into a running platform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from eventproc.bus.consumer import QueueConsumer
from eventproc.client import Connection
from eventproc.compat.winchester.configuration import Configuration
from eventproc.compat.winchester.moving import Sender, passes
from eventproc.compat.winchester.replay import Read, read_notifications
from eventproc.errors import ConfigError, EventprocError, Unavailable
from eventproc.model import NewEvent

log = structlog.get_logger(__name__)


class QueueFeed:
    """
    Sends the events of a queue's notifications; a message is acknowledged once its event is stored.

    What can not be read, and what the platform refuses or fails on each time, is moved to the queue with `.rejected`
    behind its name, with the reason. While the platform is away messages stay where they are. Raises ConfigError.
    """

    def __init__(
        self,
        connection: Connection,
        configuration: Configuration,
        *,
        broker: str,
        queue: str,
        exchange: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        if configuration.distiller is None:
            raise ConfigError(f"{configuration.path}: distiller_config is missing, so notifications can not be read")
        self._sender = Sender(connection)
        self._configuration = configuration
        self._on_progress = on_progress
        self._counts = {"notifications": 0, "events": 0, "duplicates": 0, "dropped": 0, "rejected": 0}
        self.consumer = QueueConsumer(broker, queue, self._take, exchange=exchange)

    def run(self) -> dict[str, int]:
        """Consume until `stop`; return the counts."""
        self.consumer.run()
        return dict(self._counts)

    def stop(self) -> None:
        self.consumer.stop()

    def _take(self, bodies: Sequence[bytes]) -> list[str | None]:
        reasons: list[str | None] = [None] * len(bodies)
        events: list[tuple[int, NewEvent]] = []
        dropped = 0
        for place, body in enumerate(bodies):
            event, reason = self._read(body)
            reasons[place] = reason
            if event is not None:
                events.append((place, event))
            dropped += event is None and reason is None
        answers = self._send([event for _, event in events])
        duplicates = 0
        for (place, _), answer in zip(events, answers, strict=True):
            if "error" in answer:
                reasons[place] = answer["error"]["message"]
            else:
                duplicates += answer["duplicate"]
        self._count(bodies, reasons, dropped=dropped, duplicates=duplicates)
        return reasons

    def _read(self, body: bytes) -> tuple[NewEvent | None, str | None]:
        read = Read()
        try:
            [(_, event)] = read_notifications(self._configuration, iter([(1, body)]), read)
        except Exception as error:  # left in the queue it would come again, and nothing behind it
            log.exception("reading a notification failed")
            return None, f"reading it failed: {error!r}"
        return event, read.refused[0]["error"] if read.refused else None

    def _send(self, events: Sequence[NewEvent]) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        try:
            self._sender.send(events, answers)
        except EventprocError as error:
            if not passes(error):
                raise
            raise Unavailable(str(error)) from error
        return [answers[place] for place in range(len(events))]

    def _count(self, bodies: Sequence[bytes], reasons: Sequence[str | None], **some: int) -> None:
        rejected = sum(reason is not None for reason in reasons)
        stored = len(bodies) - rejected - some["dropped"] - some["duplicates"]
        new: dict[str, Any] = {"notifications": len(bodies), "events": stored, "rejected": rejected, **some}
        for name, number in new.items():
            self._counts[name] += number
        if self._on_progress is not None:
            self._on_progress(len(bodies))


__all__ = ["QueueFeed"]
