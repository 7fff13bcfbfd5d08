"""Delivers the outbox's messages of kind "http"."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx
import structlog

from eventproc.abc import Carrier, Delivery
from eventproc.model import Outgoing
from eventproc.model.outbox import ACCEPT, LOGIN, PATIENCE
from eventproc.notify.answers import ask
from eventproc.notify.login import PASSING, Login, LoginFailed, Tokens

_TIMEOUT_S: Final = 10.0
_CONNECT_S: Final = 10.0  # at most, however long an answer may take
_TURN_S: Final = 10.0  # a host's messages of a turn, but for one that takes longer by itself
_END_S: Final = 240.0  # nor waited for longer; with two logins that is less than the postman's lease
_LOGINS: Final = 5  # tries in all, where who logs in is refused
_MEND: Final = "; put the login right, then requeue the message"
_ANSWER_BYTES: Final = 16384
_ANSWER_CHARS: Final = 200
_AWAY_S: Final = 2.0  # before a host that was not there is looked for again; doubles
_AWAY_MAX_S: Final = 60.0
_AWAY_SHARE: Final = 4.0  # or so many times what looking took: all others wait for it a fifth of the time at most
_FORGET_S: Final = 3600.0
_SEND_ERRORS: Final = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, ValueError)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Away:
    error: str
    pause_s: float
    until: float


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.text}".rstrip(": ")


class HttpCarrier(Carrier):
    """
    Posts messages; any answer of 2xx is a delivery.

    Messages to one host go one after another, hosts at the same time, so that one that hangs does not hold up the
    others: a turn is over when all hosts are, so it lasts for `turn_s`, or for one message that takes longer. What a
    host has not come to by then waits for the next. A host that is not there, or says nothing for as long as an answer
    usually may take, is left alone for a while that grows. Redirects are not followed: an address that moved is for its
    owner to correct. `deliver` and `close` are for one thread.
    """

    kind = "http"

    def __init__(self, *, timeout_s: float = _TIMEOUT_S, turn_s: float = _TURN_S) -> None:
        self._timeout_s = timeout_s
        self._turn_s = turn_s
        self._client = httpx.AsyncClient(timeout=timeout_s, follow_redirects=False, trust_env=False)
        self._tokens = Tokens(self._client)
        self._away: dict[str, _Away] = {}
        self._runner = asyncio.Runner()

    def describe(self) -> str:
        return "webhooks"

    def deliver(self, messages: Sequence[Outgoing]) -> list[Delivery]:
        return self._runner.run(self._deliver(messages))

    def close(self) -> None:
        if not self._client.is_closed:
            self._runner.run(self._client.aclose())
            self._runner.close()

    async def _deliver(self, messages: Sequence[Outgoing]) -> list[Delivery]:
        now = time.monotonic()
        self._away = {host: away for host, away in self._away.items() if away.until > now - _FORGET_S}
        by_host: dict[str, list[Outgoing]] = defaultdict(list)
        for message in messages:
            by_host[_host(message.target)].append(message)
        verdicts: dict[int, Delivery] = {}
        for found in await asyncio.gather(*(self._to_one_host(host, mine) for host, mine in by_host.items())):
            verdicts.update(found)
        return [verdicts[message.id] for message in messages]

    async def _to_one_host(self, host: str, messages: Sequence[Outgoing]) -> dict[int, Delivery]:
        verdicts: dict[int, Delivery] = {}
        began = time.monotonic()
        silent_s = took_s = 0.0
        for message in messages:
            now = time.monotonic()
            away = self._away.get(host)
            if away is not None and away.until > now:  # it would hang as long as the one before
                verdicts[message.id] = Delivery(away.error, unreachable=True, later_s=away.until - now)
                continue
            if took_s and now + took_s > began + self._turn_s:  # others wait for this host
                verdicts[message.id] = Delivery(
                    "it waits for its turn: the host is slow", unreachable=True, later_s=1.0
                )
                continue
            limit_s = message.patience("timeout", self._timeout_s)
            try:
                verdicts[message.id] = await self._post(message, limit_s, began + _END_S)
                silent_s = 0.0
                self._away.pop(host, None)
            except Exception as error:  # whatever it is, the other messages are to go out, and once
                verdicts[message.id] = Delivery(_describe(error))
                if isinstance(error, TimeoutError | httpx.TimeoutException):
                    silent_s += limit_s
                elif not isinstance(error, httpx.TransportError):
                    log.exception("a message could not be sent", message=message.id)
                if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) or silent_s >= self._timeout_s:
                    self._leave_alone(host, _describe(error), took_s=max(silent_s, time.monotonic() - now))
            took_s = time.monotonic() - now
        return verdicts

    def _leave_alone(self, host: str, error: str, *, took_s: float) -> None:
        before = self._away.get(host)
        pause_s = _AWAY_S if before is None else min(2 * before.pause_s, _AWAY_MAX_S)
        self._away[host] = _Away(error, pause_s, time.monotonic() + max(pause_s, _AWAY_SHARE * took_s))

    async def _post(self, message: Outgoing, limit_s: float, end: float) -> Delivery:
        headers = {name: value for name, value in message.headers.items() if not name.startswith((LOGIN, PATIENCE))}
        method = headers.pop("method", "POST")
        accepted = headers.pop(ACCEPT, "").split(",")
        login = Login.of(message)
        headers.setdefault("content-type", "application/json")
        headers.setdefault("user-agent", "eventproc")
        headers.setdefault("accept-encoding", "identity")
        headers.setdefault("idempotency-key", f"eventproc-{message.created_us}-{message.id}")
        try:
            if login is not None:
                headers["x-auth-token"] = await self._tokens.get(login)
            answer = await self._request(method, message, headers, min(limit_s, end - time.monotonic()))
            if login is not None and answer.status == httpx.codes.UNAUTHORIZED:  # the token is too old
                headers["x-auth-token"] = await self._tokens.get(login, refused=headers["x-auth-token"])
                answer = await self._request(method, message, headers, min(limit_s, end - time.monotonic()))
        except LoginFailed as error:
            return Delivery(f"{error}{_MEND}", tries=_LOGINS) if error.refused else Delivery(str(error))
        except _SEND_ERRORS as error:
            return Delivery(f"it can not be sent: {error}", final=True)
        if 200 <= answer.status < 300 or str(answer.status) in accepted:
            return Delivery()
        if login is not None and answer.status == httpx.codes.UNAUTHORIZED:
            return Delivery(
                f"the token of {login.user!r} from {login.server} is refused: {answer}{_MEND}", tries=_LOGINS
            )
        return Delivery(str(answer), final=answer.status < 500 and answer.status not in PASSING)

    async def _request(self, method: str, message: Outgoing, headers: dict[str, str], limit_s: float) -> _Answer:
        timeout = httpx.Timeout(limit_s, connect=min(limit_s, _CONNECT_S))
        request = self._client.build_request(
            method, message.target, content=message.body, headers=headers, timeout=timeout
        )
        answer, body = await ask(self._client, request, within_s=limit_s, most=_ANSWER_BYTES)
        text = " ".join(body.decode("utf-8", "replace").split())[:_ANSWER_CHARS]
        return _Answer(answer.status_code, answer.reason_phrase, text)


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "Timeout: there was no answer in time"
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:  # it will say so when it is sent
        return ""


__all__ = ["HttpCarrier"]
