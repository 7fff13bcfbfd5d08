"""The one place where a broker's URL becomes a connection, and pika's errors become ours."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from eventproc.errors import BrokerUnavailable, ConfigError, Unavailable

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 15.0
_ACCESS_REFUSED: Final = 403
_NOT_FOUND: Final = 404
_PRECONDITION_FAILED: Final = 406

# What a lost, refused or hanging connection raises; pika lets some of the socket's own errors through.
LOST: Final = (AMQPError, OSError)
_REFUSED: Final = (AuthenticationError, ProbableAuthenticationError, ProbableAccessDeniedError)


class Broker:
    """A RabbitMQ broker by its URL: `amqp://user:password@host:5672/vhost`, `amqps://` for TLS."""

    def __init__(self, url: str, *, purpose: str, heartbeat_s: int = 30, timeout_s: float = 5.0) -> None:
        """Raises ConfigError for what is no such URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
            raise ConfigError(
                "the broker's URL must look like amqp://user:password@host:5672/vhost (amqps:// for TLS); "
                f"it begins with {parts.scheme or 'nothing'}:// (EVENTPROC_BROKER_URL)"
            )
        try:
            parameters = pika.URLParameters(url)
            parameters.heartbeat = heartbeat_s
            parameters.connection_attempts = 1
            parameters.socket_timeout = parameters.stack_timeout = timeout_s
            parameters.blocked_connection_timeout = 3 * timeout_s
            parameters.client_properties = {
                "connection_name": f"eventproc {purpose} {socket.gethostname()}:{os.getpid()}"
            }
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the broker's URL can not be used: {error} (EVENTPROC_BROKER_URL)") from error
        self._parameters = parameters

    def __str__(self) -> str:
        parameters = self._parameters
        scheme = "amqps" if parameters.ssl_options else "amqp"
        vhost = "" if parameters.virtual_host == "/" else f"/{parameters.virtual_host}"
        return f"{scheme}://{parameters.host}:{parameters.port}{vhost}"

    def connect(self) -> BlockingConnection:
        """Open a connection. Raises BrokerUnavailable."""
        try:
            return BlockingConnection(self._parameters)
        except _REFUSED as error:
            raise BrokerUnavailable(f"the broker {self} refuses this user or its vhost ({describe(error)})") from error
        except LOST as error:
            raise BrokerUnavailable(f"the broker {self} can not be reached ({describe(error)})") from error


def is_there(connection: BlockingConnection, method: str, name: str) -> bool:
    """
    Tell whether the broker has a queue (`queue_declare`) or an exchange (`exchange_declare`) of that name.

    Who declares one that is there with other properties, such as one that is not durable, would be refused.
    """
    channel = connection.channel()
    try:
        getattr(channel, method)(name, passive=True)
    except ChannelClosedByBroker as error:  # which spares the connection
        if error.reply_code != _NOT_FOUND:
            raise
        return False
    channel.close()
    return True


def declare_exchange(connection: BlockingConnection, name: str, kind: str) -> None:
    """Make a durable exchange; one of that type that is there is taken as it is, durable or not."""
    channel = connection.channel()
    try:
        channel.exchange_declare(name, exchange_type=kind, durable=True)
    except ChannelClosedByBroker as error:  # which spares the connection
        if error.reply_code != _PRECONDITION_FAILED or "'type'" in error.reply_text:
            raise
        return
    channel.close()


def bind_queue(connection: BlockingConnection, name: str, exchange: str, routing_key: str) -> None:
    """Make a durable queue and bind it; one that is there is taken as it is, also where others have to bind it."""
    known = is_there(connection, "queue_declare", name)
    channel = connection.channel()
    try:
        if not known:
            channel.queue_declare(name, durable=True)
        channel.queue_bind(name, exchange, routing_key)
    except ChannelClosedByBroker as error:  # which spares the connection
        if not known or error.reply_code != _ACCESS_REFUSED:
            raise
        return
    channel.close()


def describe(error: BaseException) -> str:
    """Return an error's words; many of pika's have none of their own but those of what they wrap."""
    seen: set[int] = set()
    current: object = error
    while isinstance(current, BaseException) and id(current) not in seen:
        seen.add(id(current))
        inner = next((arg for arg in current.args if isinstance(arg, BaseException)), None)
        inner = inner or getattr(current, "exception", None)
        if inner is None:
            break
        current = inner
    text = str(current).strip()
    return text or type(current).__name__


def keep_at_it(serve: Callable[[], None], stopping: threading.Event, lost: Callable[[str, bool], None]) -> None:
    """
    Call `serve` until it returns or `stopping` is set; whenever it loses the broker, again, later and later.

    `lost` is told why, and whether that is the first time since it went well.
    """
    pause_s = FIRST_PAUSE_S
    while not stopping.is_set():
        begun = time.monotonic()
        try:
            serve()
        except Unavailable as error:
            reason = str(error)
        except LOST as error:
            reason = f"the connection was lost ({describe(error)})"
        else:
            return
        if time.monotonic() - begun > LONGEST_PAUSE_S:
            pause_s = FIRST_PAUSE_S
        lost(reason, pause_s == FIRST_PAUSE_S)
        stopping.wait(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def close(connection: BlockingConnection | None) -> None:
    """Close a connection that may be gone already."""
    if connection is not None:
        with contextlib.suppress(*LOST):
            if connection.is_open:
                connection.close()


__all__ = ["LOST", "Broker", "close", "describe", "keep_at_it"]
