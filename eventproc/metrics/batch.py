"""Samples on their way in: what every door makes of its bytes, and what it refused of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eventproc.model import RejectReason

NOW: Final = -1.0  # as a time: when the sample arrived
LAST_SECOND: Final = 7_258_118_400.0  # the year 2200: what lies beyond was meant as milliseconds


@dataclass(frozen=True, slots=True)
class Refusal:
    """One sample that is not taken: why, of which metric ("" where nobody knows), and its text."""

    reason: RejectReason
    metric: str
    text: str
    line: int = 0  # where it stood among what came
    count: int = 1


@dataclass(slots=True)
class Batch:
    """
    Samples in the order in which they arrived: names as they came, times in seconds since 1970, values.

    `lines` says for each sample where it stood among what came, so that `sources` can be asked where it came from:
    `ends` are the first places behind each source's part.
    """

    names: Sequence[bytes]
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]
    lines: NDArray[np.int64] | None = None  # None: 0, 1, 2 …
    refusals: list[Refusal] = field(default_factory=list)
    sources: Sequence[str] = ("",)
    ends: NDArray[np.int64] | None = None  # None: all from the first source

    def halves(self) -> tuple[Batch, Batch] | None:
        """Return two batches that hold what this one does; None where there is but one thing in it."""
        count = len(self.names)
        if count and self.refusals:
            return self._part(0, count, []), self._part(0, 0, self.refusals)
        if count > 1:
            return self._part(0, count // 2, []), self._part(count // 2, count, [])
        middle = len(self.refusals) // 2
        if not middle:
            return None
        return self._part(0, 0, self.refusals[:middle]), self._part(0, 0, self.refusals[middle:])

    def _part(self, start: int, end: int, refusals: list[Refusal]) -> Batch:
        lines = np.arange(len(self.names), dtype=np.int64) if self.lines is None else self.lines
        return Batch(
            names=self.names[start:end],
            seconds=self.seconds[start:end],
            values=self.values[start:end],
            lines=lines[start:end],
            refusals=refusals,
            sources=self.sources,
            ends=self.ends,
        )

    def source_of(self, index: int) -> str:
        """Say where the sample at `index` came from."""
        return self.source_at(index if self.lines is None else int(self.lines[index]))

    def source_at(self, line: int) -> str:
        """Say where what stood at `line` came from."""
        if self.ends is None:
            return self.sources[0]
        return self.sources[min(int(np.searchsorted(self.ends, line, side="right")), len(self.sources) - 1)]

    def text_of(self, index: int) -> str:
        """Write the sample as a Graphite line."""
        name = self.names[index].decode("ascii", "backslashreplace")
        return f"{name} {float(self.values[index])!r} {float(self.seconds[index])!r}"


def microseconds(seconds: NDArray[np.float64], now_us: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the times in microseconds, -1 as `now_us`, and which of them are no times at all."""
    is_now = seconds == NOW
    bad = ~((seconds >= 0) & (seconds < LAST_SECOND)) & ~is_now
    times = np.rint(np.where(bad, 0.0, seconds) * 1e6).astype(np.int64)
    times[is_now] = now_us
    return times, bad
