"""Publishing of samples as nta.utils' message bus took them, without a broker in between."""

# ruff: noqa: N802, N803 - nta.utils' own names
from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self

from eventproc.compat.htmengine.session import connection


class MessageQueueNotFound(Exception):
    """There is no such queue; here: the message holds no samples."""


class MessageBusConnector:
    """
    Sends messages `{"protocol": "plain", "data": ["name value timestamp", ...]}` to the platform.

    The queue's name does not matter, for the platform has one way in for samples. With RabbitMQ configured, the
    broker's own queue works as before.
    """

    def publish(self, mqName: str, body: str | bytes, persistent: bool = True, exchange: str = "") -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002
        """Send samples; they are stored when this returns. Bad ones are refused singly, and counted in the answer."""
        try:
            message = json.loads(body)
            protocol, lines = message["protocol"], [str(line) for line in message["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise MessageQueueNotFound(f"{mqName}: not a message of samples: {error}") from error
        if protocol != "plain":
            raise MessageQueueNotFound(f"{mqName}: unknown protocol {protocol!r}")
        return connection().send_sample_lines(lines)

    def createMessageQueue(self, mqName: str, durable: bool = True) -> None:  # noqa: FBT001, FBT002
        """Nothing is to be done."""

    def isMessageQeueuePresent(self, mqName: str) -> bool:  # nta.utils spelt it so
        """Say yes: whatever the queue is called, samples are taken."""
        del mqName
        return True

    def close(self) -> None:
        """Nothing is to be done: the connection is the process's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
