"""
Wake-ups between hosts: a fanout exchange on the broker, on top of the sockets of each host.

Processes of one host wake each other as ever, without the broker. What they wake is published too, and every process
that listens hears what other hosts published. With the broker gone nothing but those wake-ups is missing: everybody
polls. When it is back, everybody is woken once for all topics, since nobody knows what was missed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import structlog
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.spec import BasicProperties

from eventproc.abc import Bus, Listener
from eventproc.bus.amqp import LOST, Broker, close, keep_at_it
from eventproc.bus.local import LocalBus

EXCHANGE: Final = "eventproc.wakeups"

_TURN_S: Final = 1.0
_JOIN_S: Final = 5.0

log = structlog.get_logger(__name__)


class _Link(threading.Thread):
    """One connection and its thread: publishes what others put down, hears what other hosts published."""

    def __init__(self, broker: Broker, place: str, hear: Callable[[set[str]], None]) -> None:
        super().__init__(name="bus-broker", daemon=True)
        self._broker = broker
        self._place = place
        self._hear = hear
        self._lock = threading.Lock()
        self._outgoing: set[str] = set()
        self._connection: BlockingConnection | None = None
        self._stopping = threading.Event()
        self.connected = threading.Event()

    def publish(self, topics: set[str]) -> None:
        """Have topics published soon; never blocks."""
        with self._lock:
            waiting = bool(self._outgoing)
            self._outgoing |= topics
            connection = self._connection
        if not waiting and connection is not None:
            self._nudge(connection)

    def stop(self) -> None:
        self._stopping.set()
        with self._lock:
            connection = self._connection
        if connection is not None:
            self._nudge(connection)

    @staticmethod
    def _nudge(connection: BlockingConnection) -> None:
        try:
            connection.add_callback_threadsafe(lambda: None)  # ends its wait for events
        except LOST:
            return  # it is being lost, and its own thread will see that

    def run(self) -> None:
        keep_at_it(self._serve, self._stopping, self._lost)

    def _lost(self, reason: str, first: bool) -> None:  # noqa: FBT001 - as `keep_at_it` calls it
        if first:
            log.warning("no wake-ups between hosts for now; polling goes on", reason=reason)

    def _serve(self) -> None:
        connection = self._broker.connect()
        try:
            channel = connection.channel()
            channel.exchange_declare(EXCHANGE, exchange_type="fanout", durable=False)
            queue = channel.queue_declare("", exclusive=True, auto_delete=True, arguments={"x-max-length": 1000})
            channel.queue_bind(queue.method.queue, EXCHANGE)
            channel.basic_consume(queue.method.queue, self._on_message, auto_ack=True, exclusive=True)
            with self._lock:
                self._connection = connection
                self._outgoing.add("*")  # the others may have missed us as we missed them
            self._hear({"*"})
            self.connected.set()
            while not self._stopping.is_set():
                self._flush(channel)
                connection.process_data_events(time_limit=_TURN_S)
        finally:
            self.connected.clear()
            with self._lock:
                self._connection = None
            close(connection)

    def _flush(self, channel: BlockingChannel) -> None:
        with self._lock:
            topics, self._outgoing = self._outgoing, set()
        if topics:
            properties = BasicProperties(app_id=self._place, expiration="60000")
            channel.basic_publish(EXCHANGE, "", "+".join(sorted(topics)).encode(), properties)

    def _on_message(self, _channel: Any, _method: Any, properties: BasicProperties, body: bytes) -> None:
        if properties.app_id != self._place:
            self._hear(set(body.decode("ascii", "replace").split("+")))


class RabbitMQBus(Bus):
    """
    Wake-ups over `local` for this host and over the broker for the others.

    `place` names this host's data directory: what was published from there was heard there already. The connection
    is made in the background, at the first wake-up or listener; the broker need not be there.
    """

    def __init__(self, url: str, local: LocalBus, *, place: str) -> None:
        self._broker = Broker(url, purpose="wake-ups")
        self._local = local
        self._place = place
        self._lock = threading.Lock()
        self._link: _Link | None = None
        self._closed = False

    def wake(self, *topics: str) -> None:
        if not topics:
            return
        self._local.wake(*topics)
        link = self._started()
        if link is not None:
            link.publish(set(topics))

    def listen(self, *topics: str) -> Listener:
        listener = self._local.listen(*topics)
        self._started()
        return listener

    def connected(self, timeout_s: float) -> bool:
        """Wait for the connection to the broker; tell whether it is there."""
        link = self._started()
        return link is not None and link.connected.wait(timeout_s)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
        if link is not None:
            link.stop()
            link.join(_JOIN_S)
        self._local.close()

    def _started(self) -> _Link | None:
        with self._lock:
            if self._link is None and not self._closed:
                self._link = _Link(self._broker, self._place, self._local.hear)
                self._link.start()
            return self._link


__all__ = ["EXCHANGE", "RabbitMQBus"]
