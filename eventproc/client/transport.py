"""Requests and answers: one pooled HTTP client per process, a deadline for each call, errors by their names."""

from __future__ import annotations

import contextlib
import json
import os
import random
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpcore
import httpx

from eventproc.client.deadline import DeadlineBackend, deadline
from eventproc.client.endpoint import Address
from eventproc.client.probe import explain
from eventproc.errors import (
    ConfigError,
    DeadlineExceeded,
    EventprocError,
    Forbidden,
    NotFound,
    ServerUnreachable,
    TooLarge,
    Unauthorized,
    Unavailable,
    from_wire,
)

PREFIX = "/api/v1"
TRIES = 3  # for a request that may be repeated
PAUSE_S = 0.1  # before the second try; doubled for each further one, with jitter
# Shorter than servers keep idle connections, so that we do not write into one that is being closed.
KEEPALIVE_S = 2.0
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT"})  # a repeated DELETE would find nothing and look like an error

_BY_STATUS: dict[int, type[EventprocError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}
_alive: weakref.WeakSet[Transport] = weakref.WeakSet()


def _after_fork() -> None:
    for transport in list(_alive):
        transport.forget()


os.register_at_fork(after_in_child=_after_fork)


class Transport:
    """Thread-safe; a forked child gets connections of its own."""

    def __init__(self, address: Address, *, timeout: float, ca: str | None) -> None:
        self._address = address
        self.timeout = timeout
        self._ca = ca
        self._base = 0
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        _alive.add(self)

    @property
    def base(self) -> str:
        return self._address.bases[self._base]

    def forget(self) -> None:
        """Leave the parent's sockets alone: they are still the parent's."""
        self._client = None
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def __del__(self) -> None:
        # People seldom close connections; sockets that are just dropped would be warned of.
        if self._client is not None:
            try:  # noqa: SIM105 - at the end of a process anything may be gone already, contextlib too
                self._client.close()
            except Exception:  # noqa: BLE001, S110 - nobody is left who could do something about it
                pass

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> httpx.Client:
        try:
            # The environment's proxies are not used: they would see the key, and 127.0.0.1 is the usual endpoint.
            context = ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"can not read the certificates in {self._ca!r}: {error}") from error
        transport = httpx.HTTPTransport(verify=context)
        transport._pool = httpcore.ConnectionPool(  # noqa: SLF001 - httpx has no public way to its network backend
            ssl_context=context,
            max_connections=100,
            keepalive_expiry=KEEPALIVE_S,
            network_backend=DeadlineBackend(),
        )
        return httpx.Client(
            transport=transport,
            timeout=self.timeout,
            trust_env=False,
            headers={"authorization": f"Bearer {self._address.apikey}", "accept": "application/json"},
        )

    # ------------------------------------------------------------------------------------------- requests

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        content_type: str = "application/json",
        timeout: float | None = None,
        repeatable: bool | None = None,
    ) -> Any:
        """
        Send a request and return its JSON answer, None for an empty one.

        `repeatable` says that sending it twice does no harm; by default that is so for GET and PUT.
        """
        again = method in IDEMPOTENT if repeatable is None else repeatable
        with deadline(timeout or self.timeout):
            return self._tries(lambda: self._once(method, path, params, content, content_type), again=again)

    def _tries(self, send: Callable[[], Any], *, again: bool) -> Any:
        for attempt in range(1, TRIES + 1):
            try:
                return send()
            except ServerUnreachable as error:
                # Where no connection came about nothing was sent: any request may be tried again, and elsewhere.
                not_sent = error.details.get("sent") is False
                if not_sent:
                    self._base = (self._base + 1) % len(self._address.bases)
                if attempt == TRIES or not (again or not_sent) or error.details.get("for_good"):
                    raise
            time.sleep(PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        content: bytes | None,
        content_type: str,
    ) -> Any:
        headers = {"content-type": content_type} if content is not None else None
        with self._translated():
            response = self._open().request(
                method, self._url(path), params=params, content=content, headers=headers, follow_redirects=False
            )
        return self._answer(response)

    def _url(self, path: str) -> str:
        return f"{self.base}{PREFIX}{path}"

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: Any = None,
        timeout: float | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request and let the caller read the answer piece by piece."""
        headers = {"content-type": "application/octet-stream"} if content is not None else None
        with (
            deadline(timeout or self.timeout),
            self._translated(),
            self._open().stream(method, self._url(path), params=params, content=content, headers=headers) as response,
        ):
            if response.status_code >= 300:
                response.read()
                self._answer(response)
            yield response

    # ------------------------------------------------------------------------------------------- answers

    def _answer(self, response: httpx.Response) -> Any:
        if response.status_code >= 300:
            raise self._error(response)
        if not response.content:
            return None
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            raise self._stranger(response) from error

    def _error(self, response: httpx.Response) -> EventprocError:
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        found = body.get("error") if isinstance(body, dict) else None
        if isinstance(found, dict) and isinstance(found.get("code"), str):
            details = found.get("details")
            return from_wire(
                found["code"],
                str(found.get("message") or f"HTTP {response.status_code}"),
                details if isinstance(details, dict) else None,
            )
        kind = _BY_STATUS.get(response.status_code)
        if kind is None or (kind is NotFound and body is None):
            return self._stranger(response)
        detail = f": {body['detail']}" if isinstance(body, dict) and "detail" in body else ""
        return kind(f"{self.base} answered {response.status_code} {response.reason_phrase}{detail}")

    def _stranger(self, response: httpx.Response) -> ServerUnreachable:
        content_type = response.headers.get("content-type", "no content type")
        moved = f", moved to {response.headers['location']}" if "location" in response.headers else ""
        return ServerUnreachable(
            f"something answers at {self.base}, but it is not an eventproc server "
            f"(HTTP {response.status_code}, {content_type}{moved}); check host, port and http or https",
            endpoint=self.base,
            for_good=True,
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the HTTP client's errors into ours; the most specific first."""
        base = self.base
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise DeadlineExceeded(f"no connection to {base} within {self.timeout:g} s", endpoint=base) from error
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(
                f"{base} did not answer within {self.timeout:g} s; the request may have been carried out all the same",
                endpoint=base,
            ) from error
        except httpx.ConnectError as error:
            raise self._no_connection(error, base) from error
        except (httpx.TransportError, httpx.StreamError, httpx.DecodingError) as error:
            meaning = explain(base) if isinstance(error, httpx.TransportError) else ""
            reason = meaning or f"the connection broke ({type(error).__name__}: {str(error)[:200]})"
            raise ServerUnreachable(f"{base}: {reason}", endpoint=base, for_good=bool(meaning)) from error

    def _no_connection(self, error: httpx.ConnectError, base: str) -> ServerUnreachable:
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            reason = text.partition("failed: ")[2].partition(" (_ssl")[0] or "not trusted"
            advice = "if it is your own, pass ca='/path/to/ca.pem'"
            return ServerUnreachable(f"the certificate of {base} is refused: {reason}; {advice}", for_good=True)
        if "SSL" in text or "TLS" in text:
            return ServerUnreachable(f"{base}: {explain(base) or text}", endpoint=base, for_good=True)
        if any(words in text for words in ("Name or service", "nodename", "No address", "name resolution")):
            return ServerUnreachable(f"the host of {base} is not known: {text}", endpoint=base, sent=False)
        return ServerUnreachable(
            f"nothing answers at {base} ({text}); does `eventproc serve` run there?", endpoint=base, sent=False
        )


def encode(value: Any) -> bytes:
    """Write a request's body."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "strict")
