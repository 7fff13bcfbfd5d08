"""
Graphite listeners: plaintext over TCP and UDP, and pickle; one asyncio loop, one writer behind it.

The protocol has no receipts, but TCP has two ends: a client that closes its half and then reads finds the end of the
stream once all it sent is committed, and a reset when that will not be (we were killed, or stop before it).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from eventproc.metrics.intake import Intake
from eventproc.metrics.lines import MAX_LINE, shown
from eventproc.metrics.pickles import MAX_FRAME
from eventproc.metrics.tls import TlsConnection
from eventproc.metrics.writer import Frame, Item, Lines, Refused, Writer
from eventproc.model import RejectReason

log = structlog.get_logger(__name__)

UDP_BUFFER: Final = 4 << 20  # bytes that the kernel is asked to keep while we are busy
TELL_S: Final = 1.0  # how often refused connections and dropped datagrams are counted
KEEPALIVE: Final = {"TCP_KEEPIDLE": 300, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}  # peers that vanished are noticed


@dataclass(frozen=True, kw_only=True, slots=True)
class Sockets:
    """Bound sockets; the TCP ones listen already."""

    lines: list[socket.socket] = field(default_factory=list)
    datagrams: list[socket.socket] = field(default_factory=list)
    pickles: list[socket.socket] = field(default_factory=list)


class Hub:
    """What the connections share: the writer, and the way to make all of them wait."""

    def __init__(self, writer: Writer, loop: asyncio.AbstractEventLoop, max_connections: int) -> None:
        self.writer = writer
        self.loop = loop
        self.max_connections = max_connections
        self.open: set[_Connection] = set()
        self.ending: set[_Connection] = set()  # those whose client has said all, until that is stored
        self.waiting = False
        self._uncounted: Counter[tuple[str, str]] = Counter()

    def put(self, item: Item) -> int:
        number = self.writer.put(item)
        if self.writer.full and not self.waiting:
            self.waiting = True
            log.warning("the store lags behind: nothing is read from Graphite clients until it has caught up")
            for connection in self.open:
                connection.pause()
        return number

    def settle(self) -> None:
        """Say a good end to clients all of whose samples are stored."""
        stored = self.writer.stored
        for connection in [one for one in self.ending if one.last <= stored]:
            connection.end()

    def resume(self) -> None:
        """There is room again."""
        self.waiting = self.writer.full
        if not self.waiting:
            for connection in self.open:
                connection.resume()

    def count(self, source: str, text: str) -> None:
        """Count what there is no room for."""
        self._uncounted[(source, text)] += 1

    def tell(self) -> None:
        """Have the writer count what there was no room for."""
        counted, self._uncounted = self._uncounted, Counter()
        for (source, text), times in counted.items():
            self.put(Refused(RejectReason.OVERLOAD, text, source, count=times))


class _Connection(asyncio.Protocol):
    """What plaintext and pickle connections have in common."""

    kind = ""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.source = self.kind
        self.transport: asyncio.Transport | None = None
        self.last = 0  # the number that the writer gave to what came last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.source = f"{self.kind} {_host(transport.get_extra_info('peername'))}"
        if len(self.hub.open) >= self.hub.max_connections:
            self.hub.count(self.source, f"connection refused: {self.hub.max_connections} are open already")
            transport.abort()
            return
        self.hub.open.add(self)
        _keep_alive(transport.get_extra_info("socket"))
        _linger(transport.get_extra_info("socket"), on=True)  # should we be killed, the kernel resets the connection
        if self.hub.waiting:
            self.pause()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.hub.open.discard(self)
        self.hub.ending.discard(self)

    def eof_received(self) -> bool:
        """Answer with the end once all is stored."""
        self.hub.ending.add(self)
        self.hub.settle()
        return True

    def end(self) -> None:
        """Close in good order: what this client sent is stored."""
        self.hub.ending.discard(self)
        if self.transport is not None:
            _linger(self.transport.get_extra_info("socket"), on=False)
            self.transport.close()

    def abort(self) -> None:
        """Close with a reset: not all is stored."""
        if self.transport is not None:
            self.transport.abort()

    def put(self, item: Item) -> None:
        self.last = self.hub.put(item)

    def pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def refuse(self, reason: RejectReason, text: str) -> None:
        self.put(Refused(reason, text, self.source))


class LineConnection(_Connection):
    """Lines, however they are cut into packets; a line over the limit is refused and the next one read again."""

    kind = "graphite tcp"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._rest = b""
        self._skipping = False

    def data_received(self, data: bytes) -> None:
        if self._skipping:
            _, newline, data = data.partition(b"\n")
            if not newline:
                return
            self._skipping = False
        end = data.rfind(b"\n") + 1
        if end:
            self.put(Lines(self._rest + data[:end], self.source))
            self._rest = data[end:]
        else:
            self._rest += data
        if len(self._rest) > MAX_LINE:
            self.refuse(RejectReason.TOO_LONG, shown(self._rest))
            self._rest = b""
            self._skipping = True

    def eof_received(self) -> bool:
        """Take what stands without a line's end for the last line: the client said all it wanted."""
        if self._rest.strip():
            self.put(Lines(self._rest + b"\n", self.source))
        self._rest = b""
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest.strip():  # it may have been cut inside a number
            self.refuse(RejectReason.UNREADABLE, f"{shown(self._rest)} (the connection was lost inside the line)")
        super().connection_lost(exc)


class PickleConnection(_Connection):
    """Frames: four bytes of length, most significant first, and a pickle."""

    kind = "graphite pickle"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._data = bytearray()

    def data_received(self, data: bytes) -> None:
        self._data += data
        at = 0
        while len(self._data) - at >= 4:
            (size,) = struct.unpack_from(">I", self._data, at)
            if size > MAX_FRAME:
                self.refuse(RejectReason.TOO_LONG, f"a frame of {size} bytes, and {MAX_FRAME} are allowed")
                self._data.clear()
                self.abort()  # where the next frame would begin, nobody knows
                return
            if len(self._data) - at - 4 < size:
                break
            self.put(Frame(bytes(self._data[at + 4 : at + 4 + size]), self.source))
            at += 4 + size
        del self._data[:at]

    def eof_received(self) -> bool:
        self._refuse_rest()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._refuse_rest()
        super().connection_lost(exc)

    def _refuse_rest(self) -> None:
        if self._data:
            self.refuse(RejectReason.UNREADABLE, f"the connection ended {len(self._data)} bytes into a frame")
        self._data.clear()


class Datagrams(asyncio.DatagramProtocol):
    """One or more lines in each datagram."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        source = f"graphite udp {_host(addr)}"
        if self._hub.waiting:
            self._hub.count(source, "datagram dropped: the store lags behind")
        elif data.strip():
            self._hub.put(Lines(data if data.endswith(b"\n") else data + b"\n", source))

    def error_received(self, exc: Exception) -> None:
        log.debug("datagram error", error=str(exc))


class GraphiteService:
    """All Graphite doors; `run` blocks until `stop` is called from another thread."""

    def __init__(
        self,
        intake: Intake,
        sockets: Sockets,
        *,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 10_000,
    ) -> None:
        self._sockets = sockets
        self._tls = tls
        self._max_connections = max_connections
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hub: Hub | None = None
        self._stop: asyncio.Event | None = None
        self._stopping = threading.Event()
        self._grace_s = 30.0
        self._done = threading.Event()
        self.writer = Writer(intake, on_room=self._on_room, on_stored=self._on_stored)

    def run(self) -> None:
        """Listen until `stop`, then store what has come in."""
        try:
            asyncio.run(self._main())
        finally:
            self.writer.stop(self._grace_s)
            self._done.set()
            total = self.writer.total
            log.info("listener stopped", accepted=total.accepted, rejected=sum(total.rejected.values()))

    def stop(self, grace_s: float) -> None:
        """Read no more, and wait for the store to take what was read."""
        self._grace_s = grace_s
        self._stopping.set()
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._done.wait(grace_s + 5.0)

    def _on_room(self) -> None:
        if self._loop is not None and self._hub is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._hub.resume)

    def _on_stored(self) -> None:
        hub = self._hub
        if self._loop is not None and hub is not None and hub.ending:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(hub.settle)

    async def _main(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._hub = hub = Hub(self.writer, loop, self._max_connections)
        self.writer.start()
        if self._stopping.is_set():
            return
        kinds = ((LineConnection, self._sockets.lines), (PickleConnection, self._sockets.pickles))
        servers = [
            await loop.create_server(partial(self._protocol, kind, hub), sock=sock)
            for kind, sockets in kinds
            for sock in sockets
        ]
        transports = []
        for sock in self._sockets.datagrams:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER)
            transport, _ = await loop.create_datagram_endpoint(lambda: Datagrams(hub), sock=sock)
            transports.append(transport)
        await self._serve(hub)
        for server in servers:
            server.close()
        await self._hang_up(hub, transports)
        hub.tell()

    def _protocol(self, kind: type[_Connection], hub: Hub) -> asyncio.Protocol:
        connection = kind(hub)
        return connection if self._tls is None else TlsConnection(self._tls, connection)

    async def _serve(self, hub: Hub) -> None:
        assert self._stop is not None
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), TELL_S)
            hub.tell()

    async def _hang_up(self, hub: Hub, transports: Iterable[asyncio.BaseTransport]) -> None:
        """Clients that have said all hear when it is stored; the others have more on its way and are reset."""
        for transport in transports:
            transport.close()
        for connection in hub.open - hub.ending:
            connection.abort()
        deadline = time.monotonic() + self._grace_s / 2
        while hub.ending and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            hub.settle()
        for connection in list(hub.open):
            connection.abort()
        await asyncio.sleep(0.01)  # the connections' ends are told of in the loop's next turns


def _host(peer: object) -> str:
    return str(peer[0]) if isinstance(peer, tuple) and peer else "unix"


def _linger(sock: socket.socket | None, *, on: bool) -> None:
    """Have the kernel reset the connection when it is closed, whoever closes it; or end it in good order."""
    if sock is not None:
        with contextlib.suppress(OSError):  # a connection that is gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", int(on), 0))


def _keep_alive(sock: socket.socket | None) -> None:
    if sock is None:
        return
    with contextlib.suppress(OSError):  # a connection that is gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)


__all__ = ["GraphiteService", "Sockets"]
