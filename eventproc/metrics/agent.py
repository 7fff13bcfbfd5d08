"""The host's own figures (processor, memory, disk, network), sent as samples to a Graphite port."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

Figure = tuple[str, float]

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


def word(text: str) -> str:
    """Make a text one part of a metric's name."""
    return _UNFIT.sub("_", text).strip("_") or "root"


@dataclass
class Agent:
    """
    Reads the host's figures; rates are per second since the reading before, so the first one has none.

    `prefix` begins all names: `PREFIX.cpu.percent`, `PREFIX.memory.used_percent`, `PREFIX.disk.sda.read_bytes`, ….
    """

    prefix: str = field(default_factory=lambda: f"hosts.{word(socket.gethostname())}")
    _counters: dict[str, float] = field(default_factory=dict)
    _at: float | None = None

    def read(self) -> list[Figure]:
        """Return (name, value) of everything there is at this moment."""
        now = time.monotonic()
        elapsed = None if self._at is None else now - self._at
        found = list(self._levels())
        counters = dict(self._rising())
        if elapsed:
            found += [
                (name, max(0.0, value - self._counters[name]) / elapsed)
                for name, value in counters.items()
                if name in self._counters
            ]
        self._counters, self._at = counters, now
        return [(f"{self.prefix}.{name}", value) for name, value in found]

    @staticmethod
    def _levels() -> Iterator[Figure]:
        yield "cpu.percent", psutil.cpu_percent()
        one, five, fifteen = psutil.getloadavg()
        yield from (("load.1m", one), ("load.5m", five), ("load.15m", fifteen))
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        yield "memory.used_percent", memory.percent
        yield "memory.available_bytes", memory.available
        yield "swap.used_percent", swap.percent
        yield "processes.count", float(len(psutil.pids()))
        for part in psutil.disk_partitions():
            try:
                usage = psutil.disk_usage(part.mountpoint)
            except OSError:  # not readable for us
                continue
            yield f"filesystem.{word(part.mountpoint)}.used_percent", usage.percent

    @staticmethod
    def _rising() -> Iterator[Figure]:
        for disk, io in (psutil.disk_io_counters(perdisk=True) or {}).items():
            yield f"disk.{word(disk)}.read_bytes", io.read_bytes
            yield f"disk.{word(disk)}.write_bytes", io.write_bytes
        for card, net in psutil.net_io_counters(pernic=True).items():
            yield f"network.{word(card)}.sent_bytes", net.bytes_sent
            yield f"network.{word(card)}.received_bytes", net.bytes_recv


def lines_of(figures: list[Figure], at: float) -> bytes:
    """Write figures as Graphite lines."""
    return "".join(f"{name} {float(value)!r} {at:.3f}\n" for name, value in figures).encode()


def send(address: tuple[str, int], data: bytes, *, timeout_s: float = 10.0) -> None:
    """Send lines over a connection of its own, and wait until the other side has read them all."""
    with socket.create_connection(address, timeout=timeout_s) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)


__all__ = ["Agent", "lines_of", "send", "word"]
