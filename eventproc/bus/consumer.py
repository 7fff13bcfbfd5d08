"""Takes messages from a queue in batches: what was stored is acknowledged, what can not be is set aside."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import pika
import structlog
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from eventproc.bus.amqp import Broker, close, is_there, keep_at_it
from eventproc.errors import BrokerUnavailable

REJECTED: Final = ".rejected"  # behind the queue's name: where messages go that nobody can read
MAX_BATCH: Final = 200  # messages

_TURN_S: Final = 0.5
_REASON_CHARS: Final = 1000

log = structlog.get_logger(__name__)

# Takes the bodies of a batch and returns, for each, None or why it can not be read. It returns once they are stored,
# and raises Unavailable when they can not be for now: then the batch comes again.
Take = Callable[[Sequence[bytes]], Sequence[str | None]]

_Message = tuple[int, pika.BasicProperties, bytes]  # with its delivery tag


class QueueConsumer:
    """
    Consumes a durable queue until it is stopped; with the broker gone it comes back when that does.

    Messages are acknowledged after `take` has returned, so each is taken at least once. One that can not be read is
    moved to the queue with `.rejected` behind its name, with its properties, and the reason in its header `reason`; its
    neighbours are not touched. A queue that is there is taken as it is, else it is made, durable. With `exchange`,
    which is made in the same way as a topic exchange, it gets what is published there under its name.
    """

    def __init__(
        self, url: str, queue: str, take: Take, *, max_batch: int = MAX_BATCH, exchange: str | None = None
    ) -> None:
        self._broker = Broker(url, purpose=f"consumer of {queue}")
        self._queue = queue
        self._take = take
        self._max_batch = max_batch
        self._exchange = exchange
        self._stopping = threading.Event()
        self.consuming = threading.Event()

    def describe(self) -> str:
        return f"queue {self._queue} of {self._broker}"

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Consume until `stop`."""
        keep_at_it(self._serve, self._stopping, self._lost)

    def _lost(self, reason: str, first: bool) -> None:  # noqa: FBT001 - as `keep_at_it` calls it
        log.log(logging.WARNING if first else logging.DEBUG, "consuming pauses", queue=self._queue, reason=reason)

    def _serve(self) -> None:
        connection = self._broker.connect()
        try:
            self._declare(connection)
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_qos(prefetch_count=2 * self._max_batch)
            waiting: list[_Message] = []

            def on_message(_channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
                waiting.append((method.delivery_tag, properties, body))

            channel.basic_consume(self._queue, on_message)
            self.consuming.set()
            while not self._stopping.is_set():
                self._turn(connection, channel, waiting)
        finally:
            self.consuming.clear()
            close(connection)

    def _declare(self, connection: BlockingConnection) -> None:
        for queue in (self._queue, self._queue + REJECTED):
            if not is_there(connection, "queue_declare", queue):
                connection.channel().queue_declare(queue, durable=True)
        if self._exchange is None:
            return
        if not is_there(connection, "exchange_declare", self._exchange):
            connection.channel().exchange_declare(self._exchange, "topic", durable=True)
        connection.channel().queue_bind(self._queue, self._exchange, self._queue)

    def _turn(self, connection: BlockingConnection, channel: BlockingChannel, waiting: list[_Message]) -> None:
        connection.process_data_events(time_limit=0 if waiting else _TURN_S)
        if not waiting:
            if not channel.is_open or not channel.consumer_tags:
                raise BrokerUnavailable(f"the broker ended the consumer of {self._queue}: was the queue deleted?")
            return
        batch = waiting[: self._max_batch]
        del waiting[: len(batch)]
        reasons = self._take([body for _, _, body in batch])
        for (_, properties, body), reason in zip(batch, reasons, strict=True):
            if reason is not None:
                self._set_aside(channel, properties, body, reason)
        channel.basic_ack(batch[-1][0], multiple=True)

    def _set_aside(self, channel: BlockingChannel, properties: pika.BasicProperties, body: bytes, reason: str) -> None:
        # Kept as it came, but for what the broker would refuse (another's user id) or end it by.
        properties.headers = {**(properties.headers or {}), "reason": reason[:_REASON_CHARS]}
        properties.delivery_mode = 2
        properties.user_id = properties.expiration = None
        channel.basic_publish("", self._queue + REJECTED, body, properties, mandatory=True)
        log.warning("a message can not be read", queue=self._queue, reason=reason)


__all__ = ["REJECTED", "QueueConsumer"]
