"""Messages that handlers send to other systems: what may be sent, and where to."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from eventproc.errors import Forbidden, InvalidInput
from eventproc.model import NewOutgoing
from eventproc.model.network import NetworkPolicy, Place
from eventproc.model.outbox import ACCEPT, LOGIN, PATIENCE
from eventproc.service import args as take

METHODS = ("POST", "PUT", "PATCH", "DELETE")
EXCHANGE_TYPES = ("topic", "direct", "fanout")
OWN = ("amq.", "eventproc")  # beginnings of exchanges and queues that are the broker's, or the platform's
MAX_NAME = 200  # characters; AMQP allows 255 bytes
MAX_URL = 2000
MAX_BODY_BYTES = 1 << 20
MAX_HEADERS = 50
MIN_PATIENCE = 1.0  # seconds: what is shorter only wears out the other side, and all who post there
MAX_PATIENCE = {"timeout": 120.0, "interval": 86400.0, "max": 86400.0}  # seconds
_PORTS = {"http": 80, "https": 443}
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")


def to_broker(args: Mapping[str, Any], body: bytes) -> NewOutgoing:
    """Return the message that a handler publishes. Raises InvalidInput."""
    exchange = take.text(args, "exchange", max_length=MAX_NAME)
    routing_key = take.optional_text(args, "routing_key", max_length=MAX_NAME) or ""
    if exchange.startswith(OWN) or "/" in exchange:
        raise InvalidInput(f"handlers can not publish to the exchange {exchange!r}", argument="exchange")
    headers = {f"header.{name}": value for name, value in _headers(args).items()}
    headers["content_type"] = take.text(args, "content_type", max_length=MAX_NAME)
    declare = take.optional_text(args, "declare")
    if declare is not None:
        if declare not in EXCHANGE_TYPES:
            raise InvalidInput(f"declare: {declare!r} is none of {', '.join(EXCHANGE_TYPES)}", argument="declare")
        headers["declare"] = declare
    queue = take.optional_text(args, "queue", max_length=MAX_NAME)
    if queue:
        if queue.startswith(OWN):
            raise InvalidInput(f"handlers can not publish to the queue {queue!r}", argument="queue")
        headers["queue"] = queue
    return NewOutgoing(kind="amqp", target=f"{exchange}/{routing_key}", body=_body(body), headers=headers)


def to_web(args: Mapping[str, Any], body: bytes, policy: NetworkPolicy) -> NewOutgoing:
    """
    Return the request that a handler posts.

    Handlers are let to no place by this that they could not be let to by themselves. Raises InvalidInput, Forbidden.
    """
    url = take.text(args, "url", max_length=MAX_URL)
    method = take.text(args, "method")
    if method not in METHODS:
        raise InvalidInput(f"method {method!r} is none of {', '.join(METHODS)}", argument="method")
    _check_place(_place(url), policy)
    headers = {**_headers(args), "method": method}
    owned = next((name for name in headers if name.lower().startswith((LOGIN, PATIENCE, ACCEPT))), None)
    if owned is not None:
        raise InvalidInput(f"the header {owned!r} is not yours to send", argument="headers")
    headers |= _login(args, policy) | _accepted(args) | _patience(args)
    return NewOutgoing(kind="http", target=url, body=_body(body), headers=headers)


def _login(args: Mapping[str, Any], policy: NetworkPolicy) -> dict[str, str]:
    given = take.texts(args, "login")
    if given and sorted(given) != ["key", "server", "user"]:
        raise InvalidInput("a login has server, user and key", argument="login")
    if given:
        _check_place(_place(given["server"]), policy)
    return {LOGIN + name: value for name, value in given.items()}


def _accepted(args: Mapping[str, Any]) -> dict[str, str]:
    given = args.get("accept") or []
    if not isinstance(given, list) or not all(type(code) is int and 300 <= code < 600 for code in given):
        raise InvalidInput("accept: a list of HTTP statuses from 300 to 599", argument="accept")
    return {ACCEPT: ",".join(map(str, given))} if given else {}


def _patience(args: Mapping[str, Any]) -> dict[str, str]:
    given = args.get("patience") or {}
    if not isinstance(given, Mapping):
        raise InvalidInput(f"patience: {given!r} is no mapping of timeout, interval and max", argument="patience")
    found = {}
    for name, value in given.items():
        most = MAX_PATIENCE.get(name) if isinstance(name, str) else None
        if most is None:
            raise InvalidInput(f"patience: {name!r} is none of {', '.join(MAX_PATIENCE)}", argument="patience")
        if type(value) not in (int, float) or not MIN_PATIENCE <= value <= most:
            raise InvalidInput(
                f"{name}: {value!r} is no number of seconds from {MIN_PATIENCE:g} to {most:g}", argument=name
            )
        found[PATIENCE + name] = repr(value)
    return found


def _place(url: str) -> Place:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        raise InvalidInput(f"{url!r} is no URL: {error}", argument="url") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidInput(f"{url!r} is no URL such as https://example.com/hook", argument="url")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("the URL holds a name and password; send them in a header", argument="url")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Place.parse(f"{host}:{port}")


def _check_place(place: Place, policy: NetworkPolicy) -> None:
    refusal = policy.refusal(place)
    if refusal is None and place.address is None:
        refusal = next((why for address in _addresses(place) if (why := policy.refusal(place, address))), None)
    if refusal is not None:
        raise Forbidden(f"{place} can not be reached: {refusal}", place=str(place))


def _addresses(place: Place) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError:
        return []  # it may be there when the message is sent; then it is tried again
    return [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]


def _headers(args: Mapping[str, Any]) -> dict[str, str]:
    headers = take.texts(args, "headers")
    if len(headers) > MAX_HEADERS:
        raise InvalidInput(f"{len(headers)} headers; at most {MAX_HEADERS}", argument="headers")
    for name in headers:
        if not _HEADER.fullmatch(name):
            raise InvalidInput(f"{name!r} is no name of a header", argument="headers")
    return headers


def _body(body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise InvalidInput(f"a message of {len(body):,} bytes; at most {MAX_BODY_BYTES:,}", limit=MAX_BODY_BYTES)
    return body
