"""A Graphite listener on a store in memory, and what clients of it do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from waiting import wait_until

from eventproc.abc import Store
from eventproc.bus.memory import MemoryBus
from eventproc.engine.clock import SystemClock
from eventproc.metrics.intake import Intake, IntakeSettings
from eventproc.metrics.listener import GraphiteService, Sockets
from eventproc.registry import CatalogueCache
from eventproc.service.hooks import sync_bundled_hooks
from eventproc.store.memory import MemoryStore
from eventproc.wiring import load_hooks


def make_intake(store: Store, *, bus: MemoryBus | None = None, **settings: Any) -> Intake:
    """Return an intake on a store that knows the bundled hooks."""
    from eventproc.config import load

    specs, _ = load_hooks(load(search=False))
    with store.begin() as tx:
        sync_bundled_hooks(tx, specs, now_us=1)
    return Intake(
        store=store,
        clock=SystemClock(),
        cache=CatalogueCache(store),
        bus=bus or MemoryBus(),
        settings=IntakeSettings(**settings),
    )


@dataclass
class Listening:
    """A listener that runs in a thread."""

    store: Store
    service: GraphiteService
    lines: tuple[str, int]
    pickles: tuple[str, int]
    datagrams: tuple[str, int]

    def connect(self, where: tuple[str, int] | None = None) -> socket.socket:
        return socket.create_connection(where or self.lines, timeout=20)

    def send(self, data: bytes, where: tuple[str, int] | None = None) -> bytes:
        """Send, say that this was all, and wait for the other side to close; return what it answered."""
        with self.connect(where) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return client.recv(1000)

    def values(self, name: str) -> list[tuple[float, float]]:
        """Return (seconds, value) of all of a metric's samples."""
        with self.store.read() as tx:
            metric = tx.metrics.by_name(name)
            found = tx.samples.query(metric.id) if metric else []
        return [(sample.time_us / 1e6, sample.value) for sample in found]

    def count(self, name: str) -> int:
        with self.store.read() as tx:
            metric = tx.metrics.by_name(name)
        return metric.last_rowid if metric else 0

    def wait_for(self, name: str, count: int, *, timeout_s: float = 30.0) -> list[tuple[float, float]]:
        wait_until(lambda: self.count(name) >= count, timeout_s=timeout_s, what=f"{count} samples of {name}")
        return self.values(name)

    def rejects(self) -> list[tuple[str, str, str, int]]:
        with self.store.read() as tx:
            return sorted((r.reason, r.source, r.metric, r.count) for r in tx.rejects.page())

    def wait_for_rejects(self, count: int) -> list[tuple[str, str, str, int]]:
        wait_until(lambda: sum(row[3] for row in self.rejects()) >= count, what=f"{count} refused samples")
        return self.rejects()


def _bound(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(1024)
    return sock


@contextmanager
def listening(store: Store | None = None, *, intake: Intake | None = None, **options: Any) -> Iterator[Listening]:
    """Listen on free ports."""
    own = MemoryStore() if store is None else store
    lines, pickles, datagrams = _bound(socket.SOCK_STREAM), _bound(socket.SOCK_STREAM), _bound(socket.SOCK_DGRAM)
    world = Listening(
        own,
        GraphiteService(
            intake or make_intake(own),
            Sockets(lines=[lines], pickles=[pickles], datagrams=[datagrams]),
            **options,
        ),
        lines.getsockname(),
        pickles.getsockname(),
        datagrams.getsockname(),
    )
    thread = threading.Thread(target=world.service.run, name="listener")
    thread.start()
    try:
        yield world
    finally:
        world.service.stop(20)
        thread.join()
        for sock in (lines, pickles, datagrams):
            sock.close()
        if store is None:
            own.close()
