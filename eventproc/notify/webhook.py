"""Delivers the outbox's messages of kind "http"."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

import httpx

from eventproc.abc import Carrier, Delivery
from eventproc.model import Outgoing
from eventproc.model.outbox import ACCEPT, LOGIN, PATIENCE
from eventproc.notify.login import PASSING, Login, LoginFailed, Tokens

_TIMEOUT_S: Final = 10.0
_HOSTS: Final = 8  # at a time
_TURN_S: Final = 100.0  # for one host; together with one slow answer and a login that is less than the postman's lease
_LOGINS: Final = 5  # tries in all, where who logs in is refused
_MEND: Final = "; put the login right, then requeue the message"
_ANSWER_CHARS: Final = 200


class HttpCarrier(Carrier):
    """
    Posts messages; any answer of 2xx is a delivery.

    Messages to one host go one after another, hosts at the same time, so that one that hangs does not hold up the
    others. Redirects are not followed: an address that moved is for its owner to correct.
    """

    kind = "http"

    def __init__(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._client = httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=False)
        self._tokens = Tokens(self._client)
        self._pool = ThreadPoolExecutor(_HOSTS, thread_name_prefix="webhooks")

    def describe(self) -> str:
        return "webhooks"

    def deliver(self, messages: Sequence[Outgoing]) -> list[Delivery]:
        by_host: dict[str, list[Outgoing]] = defaultdict(list)
        for message in messages:
            by_host[_host(message.target)].append(message)
        verdicts: dict[int, Delivery] = {}
        for found in self._pool.map(self._to_one_host, by_host.values()):
            verdicts.update(found)
        return [verdicts[message.id] for message in messages]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _to_one_host(self, messages: Sequence[Outgoing]) -> dict[int, Delivery]:
        verdicts: dict[int, Delivery] = {}
        gone: str | None = None
        until = time.monotonic() + _TURN_S
        for message in messages:
            if gone is None and time.monotonic() > until:
                gone = "it waits for its turn: the host is slow"
            if gone is not None:  # it would hang as long as the one before
                verdicts[message.id] = Delivery(gone, unreachable=True)
                continue
            try:
                verdicts[message.id] = self._post(message)
            except httpx.TransportError as error:
                gone = f"{type(error).__name__}: {error}".rstrip(": ")
                verdicts[message.id] = Delivery(gone)
        return verdicts

    def _post(self, message: Outgoing) -> Delivery:
        headers = {name: value for name, value in message.headers.items() if not name.startswith((LOGIN, PATIENCE))}
        method = headers.pop("method", "POST")
        accepted = headers.pop(ACCEPT, "").split(",")
        login = Login.of(message)
        headers.setdefault("content-type", "application/json")
        headers.setdefault("user-agent", "eventproc")
        headers.setdefault("idempotency-key", f"eventproc-{message.created_us}-{message.id}")
        try:
            if login is not None:
                headers["x-auth-token"] = self._tokens.get(login)
            answer = self._request(method, message, headers)
            if login is not None and answer.status_code == httpx.codes.UNAUTHORIZED:  # the token is too old
                headers["x-auth-token"] = self._tokens.get(login, refused=headers["x-auth-token"])
                answer = self._request(method, message, headers)
        except LoginFailed as error:
            return Delivery(f"{error}{_MEND}", tries=_LOGINS) if error.refused else Delivery(str(error))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, ValueError) as error:
            return Delivery(f"it can not be sent: {error}", final=True)
        if answer.is_success or str(answer.status_code) in accepted:
            return Delivery()
        text = " ".join(answer.text[:_ANSWER_CHARS].split())
        says = f"{answer.status_code} {answer.reason_phrase}: {text}".rstrip(": ")
        if login is not None and answer.status_code == httpx.codes.UNAUTHORIZED:
            return Delivery(f"the token of {login.user!r} from {login.server} is refused: {says}{_MEND}", tries=_LOGINS)
        return Delivery(says, final=answer.status_code < 500 and answer.status_code not in PASSING)

    def _request(self, method: str, message: Outgoing, headers: dict[str, str]) -> httpx.Response:
        timeout_s = message.patience("timeout", self._timeout_s)
        return self._client.request(method, message.target, content=message.body, headers=headers, timeout=timeout_s)


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:  # it will say so when it is sent
        return ""


__all__ = ["HttpCarrier"]
