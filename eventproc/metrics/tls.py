"""
TLS around a listener's connections.

asyncio's own closes as soon as the client says that it has nothing more to send. Here the connection stays open until
the protocol within closes it, so that the client's `unwrap` returns once all it sent is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

from eventproc.model import RejectReason

HANDSHAKE_S: Final = 30.0
CHUNK: Final = 256 << 10


class _Inner(Protocol):
    """The protocol within; it only reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def refuse(self, reason: RejectReason, text: str) -> None: ...


class TlsConnection(asyncio.Protocol):
    """Decrypts for a protocol that only reads; `close` of what that gets for its transport says a TLS goodbye."""

    def __init__(self, context: ssl.SSLContext, inner: _Inner) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._inner = inner
        self._raw: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ready = self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, transport.abort)
        self._inner.connection_made(_Inside(transport, self._goodbye))

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            self._read()
        except ssl.SSLError as error:
            if not self._ready:  # plain lines, most likely: their sender must find out
                self._inner.refuse(RejectReason.UNREADABLE, f"no TLS handshake: {error.reason or error}")
            self._flush()  # the alert that says what was wrong
            self._abort()

    def eof_received(self) -> bool:
        """Without a TLS goodbye: the connection was cut, by whomever."""
        if not self._ended:
            self._abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(exc)

    def _read(self) -> None:
        if not self._ready:
            self._handshake()
        while self._ready and not self._ended:
            try:
                data = self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            if data:
                self._inner.data_received(data)
            else:
                self._ended = True
                self._inner.eof_received()
        self._flush()

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self._ready = True
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        assert self._raw is not None
        if data := self._outgoing.read():
            self._raw.write(data)

    def _goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # nobody waits for it
            self._tls.unwrap()
        self._flush()

    def _abort(self) -> None:
        assert self._raw is not None
        self._raw.abort()


class _Inside(asyncio.Transport):
    """What the protocol within sees of the connection."""

    def __init__(self, raw: asyncio.Transport, goodbye: Callable[[], None]) -> None:
        super().__init__()
        self._raw = raw
        self._goodbye = goodbye

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def close(self) -> None:
        self._goodbye()
        self._raw.close()

    def abort(self) -> None:
        self._raw.abort()


__all__ = ["TlsConnection"]
