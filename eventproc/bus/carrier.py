"""Delivers the outbox's messages of kind "amqp", each confirmed by the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pika
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError

from eventproc.abc import Carrier, Delivery
from eventproc.bus.amqp import LOST, Broker, bind_queue, close, declare_exchange, describe
from eventproc.errors import BrokerUnavailable, InvalidInput
from eventproc.model import Outgoing

_PROPERTIES: Final = ("content_type", "content_encoding", "type", "message_id", "expiration", "app_id")
_HEADER: Final = "header."
_NAME_BYTES: Final = 255  # of exchanges, routing keys and properties
_FOREVER: Final = frozenset({403, 406})  # access refused; declared otherwise: another try gives the same answer


class RabbitMQCarrier(Carrier):
    """
    Publishes with publisher confirms: what `deliver` calls delivered is the broker's.

    A message to a named exchange that no queue is bound to is delivered too, as ever with AMQP; one to the default
    exchange whose queue does not exist is not, and neither is one with a `queue` that is not there any more.
    """

    kind = "amqp"

    def __init__(self, url: str) -> None:
        # Nothing reads from the connection between two deliveries, so heartbeats must not end it for being quiet.
        self._broker = Broker(url, purpose="outbox", heartbeat_s=600)
        self._connection: BlockingConnection | None = None
        self._channel: BlockingChannel | None = None
        self._declared: set[tuple[str, str]] = set()
        self._bound: set[tuple[str, str, str]] = set()

    def describe(self) -> str:
        return str(self._broker)

    def deliver(self, messages: Sequence[Outgoing]) -> list[Delivery]:
        """Publish each message in turn; with the broker gone the rest is not tried."""
        verdicts: list[Delivery] = []
        gone: str | None = None
        for message in messages:
            verdict = Delivery(gone, unreachable=True) if gone else self._deliver(message)
            gone = verdict.error if verdict.unreachable else None
            verdicts.append(verdict)
        return verdicts

    def close(self) -> None:
        close(self._connection)
        self._connection = self._channel = None

    def _deliver(self, message: Outgoing) -> Delivery:
        while True:
            fresh = self._channel is None
            try:
                self._publish(self._open(), message)
            except BrokerUnavailable as error:
                return Delivery(str(error), unreachable=True)
            except ChannelClosedByBroker as error:
                self._channel = None
                return Delivery(f"{error.reply_text} ({error.reply_code})", final=error.reply_code in _FOREVER)
            except (UnroutableError, NackError) as error:
                queue = message.headers.get("queue") or _target(message)[1]
                unroutable = isinstance(error, UnroutableError)
                self._bound.clear()  # one that was deleted is made again at the next try
                return Delivery(f"there is no queue {queue!r}" if unroutable else "the broker did not take it")
            except InvalidInput as error:
                return Delivery(str(error), final=True)
            except LOST as error:
                self.close()
                if fresh:
                    return Delivery(f"the connection to {self._broker} was lost ({describe(error)})", unreachable=True)
                # The connection may have been dead for long: once more on a new one.
            else:
                return Delivery()

    def _open(self) -> BlockingChannel:
        if self._channel is not None and self._channel.is_open:
            return self._channel
        if self._connection is None or not self._connection.is_open:
            self._connection = self._broker.connect()
        channel = self._connection.channel()
        channel.confirm_delivery()
        self._channel = channel
        self._declared.clear()
        self._bound.clear()
        return channel

    def _publish(self, channel: BlockingChannel, message: Outgoing) -> None:
        exchange, routing_key = _target(message)
        properties = _properties(message)
        # Past this point such a message would spoil the channel for its neighbours.
        for text in (exchange, routing_key, *(message.headers.get(name, "") for name in _PROPERTIES)):
            if len(text.encode()) > _NAME_BYTES:
                raise InvalidInput(f"{text[:40]!r}… is longer than the {_NAME_BYTES} bytes that AMQP allows")
        kind = message.headers.get("declare")
        if kind and exchange and (exchange, kind) not in self._declared:
            declare_exchange(channel.connection, exchange, kind)
            self._declared.add((exchange, kind))
        queue = message.headers.get("queue")
        if queue and exchange and (queue, exchange, routing_key) not in self._bound:
            bind_queue(channel.connection, queue, exchange, routing_key)
            self._bound.add((queue, exchange, routing_key))
        mandatory = not exchange or bool(queue)
        channel.basic_publish(exchange, routing_key, message.body, properties, mandatory=mandatory)


def _target(message: Outgoing) -> tuple[str, str]:
    exchange, _, routing_key = message.target.partition("/")
    return exchange, routing_key


def _properties(message: Outgoing) -> pika.BasicProperties:
    given: dict[str, Any] = {name: message.headers[name] for name in _PROPERTIES if name in message.headers}
    # By its id a consumer can tell a message that was sent twice, see `Carrier`.
    given.setdefault("message_id", f"eventproc-{message.created_us}-{message.id}")
    headers = {name.removeprefix(_HEADER): text for name, text in message.headers.items() if name.startswith(_HEADER)}
    return pika.BasicProperties(delivery_mode=2, headers=headers or None, **given)


__all__ = ["RabbitMQCarrier"]
