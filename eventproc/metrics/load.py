"""A load generator: many metrics' samples to a Graphite port, as quickly as asked for or as it takes them."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """
    `metrics` metrics named `PREFIX.N`, a sample each in every round of `step_s` seconds from `start_s` on.

    Values are a daily wave with a ripple, the same for the same arguments. `rate` is samples per second, None: as
    quickly as they are taken.
    """

    metrics: int = 1000
    rounds: int = 100
    start_s: int = 1_700_000_000
    step_s: int = 300
    rate: float | None = None
    prefix: str = "load"

    def value(self, metric: int, number: int) -> float:
        """Return a sample's value."""
        day = 2 * math.pi * (self.start_s + number * self.step_s) / 86_400
        ripple = ((metric * 2_654_435_761 + number * 40_503) % 1000) / 100
        return round(100 + 40 * math.sin(day + metric) + ripple, 3)

    def blocks(self, *, size: int = 1000) -> Iterator[tuple[int, bytes]]:
        """Return (samples, lines) of at most `size` samples, round after round."""
        lines: list[str] = []
        for number in range(self.rounds):
            at = self.start_s + number * self.step_s
            for metric in range(self.metrics):
                lines.append(f"{self.prefix}.{metric} {self.value(metric, number)!r} {at}\n")
                if len(lines) == size:
                    yield size, "".join(lines).encode()
                    lines = []
        if lines:
            yield len(lines), "".join(lines).encode()


def send_load(address: tuple[str, int], load: Load, *, timeout_s: float = 60.0) -> tuple[int, float]:
    """Send it all over one connection; return samples and seconds, until the other side has read them all."""
    sent = 0
    begun = time.monotonic()
    with socket.create_connection(address, timeout=timeout_s) as client:
        for count, block in load.blocks():
            client.sendall(block)
            sent += count
            if load.rate is not None:
                ahead = sent / load.rate - (time.monotonic() - begun)
                if ahead > 0:
                    time.sleep(ahead)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)
    return sent, time.monotonic() - begun


__all__ = ["Load", "send_load"]
