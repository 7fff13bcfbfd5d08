"""
Encoders: values, times and categories as sparse sets of bits, similar where what they stand for is similar.

Every encoder has `size` (number of bits) and `encode(x)`, which gives the positions of the bits that are on, sorted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eventproc.htm import dice, records

Bits = NDArray[np.int64]


class Encoder(Protocol):
    """Anything that turns a value into bits."""

    @property
    def size(self) -> int:
        """Number of bits."""

    def encode(self, x: Any) -> Bits:
        """Give the positions of the bits that are on."""


def _sorted(places: Sequence[int]) -> Bits:
    return np.unique(np.array(places, np.int64))


def _block(start: int, on: int, size: int) -> Bits:
    return _sorted([(start + i) % size for i in range(on)])


@dataclass(frozen=True, kw_only=True)
class RandomScalar:
    """
    The random distributed scalar encoder: any value, any resolution.

    Neighbouring buckets share all but one of their bits. Bits are found by hashing: nothing is remembered, no
    setting is refused, and now and then two of a bucket's bits fall together.
    """

    resolution: float
    size: int = 400
    on: int = 21
    origin: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse a resolution that is none."""
        if not (self.resolution > 0 and math.isfinite(self.resolution)):
            raise ValueError("resolution must be a positive number")

    @classmethod
    def over(cls, minimum: float, maximum: float, *, buckets: int = 130, **options: Any) -> RandomScalar:
        """Divide a known range; a range of nothing is taken for one of width 1."""
        width = maximum - minimum if maximum > minimum else 1.0
        return cls(resolution=width / buckets, origin=minimum, **options)

    @classmethod
    def estimated(cls, values: Sequence[float], *, pad: float = 0.2, **options: Any) -> RandomScalar:
        """Divide the range of a sample, with some room on either side."""
        low, high = min(values), max(values)
        return cls.over(low - (high - low) * pad, high + (high - low) * pad, **options)

    def bucket(self, x: float) -> int:
        return math.floor((x - self.origin) / self.resolution + 0.5)

    def encode(self, x: float) -> Bits:
        first = self.bucket(x)
        return _sorted([dice.scattered(self.seed, first + i, self.size) for i in range(self.on)])


class AdaptiveScalar:
    """A scalar encoder whose resolution follows the range seen so far: it doubles when the range has doubled."""

    def __init__(self, *, buckets: int = 130, size: int = 400, on: int = 21, seed: int = 1) -> None:
        self.buckets, self.size, self.on, self.seed = buckets, size, on, seed
        self._low = self._high = math.nan
        self._resolution = 0.0

    def encode(self, x: float) -> Bits:
        """Encode a value, after the range has taken it in."""
        self._low = x if math.isnan(self._low) else min(self._low, x)
        self._high = x if math.isnan(self._high) else max(self._high, x)
        width = self._high - self._low
        if self._resolution == 0.0 and width > 0:
            self._resolution = 2.0 ** math.ceil(math.log2(width / self.buckets))
        while 0 < self._resolution * self.buckets * 2 <= width:
            self._resolution *= 2.0
        encoder = RandomScalar(resolution=self._resolution or 1.0, size=self.size, on=self.on, seed=self.seed)
        return encoder.encode(x)


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Encodes the difference to the value before; `encode` takes the pair (before, now)."""

    resolution: float
    size: int = 400
    on: int = 21
    seed: int = 2

    def encode(self, x: tuple[float, float]) -> Bits:
        scalar = RandomScalar(resolution=self.resolution, size=self.size, on=self.on, seed=self.seed)
        return scalar.encode(x[1] - x[0])


@dataclass(frozen=True, kw_only=True)
class Category:
    """Encodes words: different ones share bits by chance only."""

    size: int = 400
    on: int = 21

    def encode(self, x: str) -> Bits:
        salt = int.from_bytes(hashlib.sha256(x.encode()).digest()[:7], "little")
        places: list[int] = []
        number = 0
        while len(places) < self.on:
            place = dice.scattered(salt, number, self.size)
            number += 1
            if place not in places:
                places.append(place)
        return _sorted(places)

    def __post_init__(self) -> None:
        """Refuse more bits than there are."""
        if not 1 <= self.on <= self.size:
            raise ValueError("on must be 1 to size")


@dataclass(frozen=True, kw_only=True)
class TimeOfDay:
    """Encodes the time of day as a cycle, in a time zone."""

    size: int = 53
    on: int = 21
    zone: tzinfo = UTC

    def encode(self, x: records.When) -> Bits:
        hour = records.rows([0.0], [x], self.zone)[0, 1]
        return _block(int(hour / 24.0 * self.size), self.on, self.size)


@dataclass(frozen=True, kw_only=True)
class DayOfWeek:
    """Encodes the day of the week."""

    on: int = 7
    zone: tzinfo = UTC

    @property
    def size(self) -> int:
        return 7 * self.on

    def encode(self, x: records.When) -> Bits:
        day = int(records.rows([0.0], [x], self.zone)[0, 2])
        return _block(day * self.on, self.on, self.size)


@dataclass(frozen=True, kw_only=True)
class Weekend:
    """Encodes whether it is Saturday or Sunday."""

    on: int = 21
    zone: tzinfo = UTC

    @property
    def size(self) -> int:
        return 2 * self.on

    def encode(self, x: records.When) -> Bits:
        day = int(records.rows([0.0], [x], self.zone)[0, 2])
        return _block(self.on if day >= 5 else 0, self.on, self.size)


@dataclass(frozen=True)
class Together:
    """Several encoders side by side; `encode` takes one value for each."""

    encoders: tuple[Encoder, ...]

    @property
    def size(self) -> int:
        return sum(encoder.size for encoder in self.encoders)

    def encode(self, x: Sequence[Any]) -> Bits:
        found, base = [], 0
        for encoder, value in zip(self.encoders, x, strict=True):
            found.append(encoder.encode(value) + base)
            base += encoder.size
        return np.concatenate(found) if found else np.zeros(0, np.int64)
