"""Notifications from a broker's queue, as yagi hands them to winchester's handler, fed into a running platform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eventproc.bus.consumer import QueueConsumer
from eventproc.client import Connection
from eventproc.compat.winchester.configuration import Configuration
from eventproc.compat.winchester.replay import Read, read_notifications
from eventproc.errors import ConfigError
from eventproc.model import NewEvent


class QueueFeed:
    """
    Sends the events of a queue's notifications; a message is acknowledged once its event is stored.

    What can not be read, and what the platform refuses, is moved to the queue with `.rejected` behind its name, with
    the reason. While the platform is away messages stay where they are. Raises ConfigError.
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
        self._connection = connection
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
            read = Read()
            for _, event in read_notifications(self._configuration, iter([(place, body)]), read):
                if event is not None:
                    events.append((place, event))
            dropped += read.dropped
            if read.refused:
                reasons[place] = read.refused[0]["error"]
        answers = self._connection.emit_many([event for _, event in events]) if events else []
        duplicates = 0
        for (place, _), answer in zip(events, answers, strict=True):
            if "error" in answer:
                reasons[place] = answer["error"]["message"]
            else:
                duplicates += answer["duplicate"]
        self._count(bodies, reasons, dropped=dropped, duplicates=duplicates)
        return reasons

    def _count(self, bodies: Sequence[bytes], reasons: Sequence[str | None], **some: int) -> None:
        rejected = sum(reason is not None for reason in reasons)
        stored = len(bodies) - rejected - some["dropped"] - some["duplicates"]
        new: dict[str, Any] = {"notifications": len(bodies), "events": stored, "rejected": rejected, **some}
        for name, number in new.items():
            self._counts[name] += number
        if self._on_progress is not None:
            self._on_progress(len(bodies))


__all__ = ["QueueFeed"]
