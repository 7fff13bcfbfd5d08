"""Random numbers: splitmix64, whose state is one number in the model: the same draws after any save and load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventproc.htm.jit import jit

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = np.uint64(GOLDEN), np.uint64(FIRST), np.uint64(SECOND)
_27, _30, _31, _33 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(33)


def _mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * FIRST) & _MASK
    z = ((z ^ (z >> 27)) * SECOND) & _MASK
    return z ^ (z >> 31)


def _below(rng: NDArray[Any], n: int) -> int:
    z = (int(rng[0]) + GOLDEN) & _MASK
    rng[0] = z
    return (_mixed(z) >> 33) % int(n)


@jit(instead=_below, bare=True)
def below(rng: NDArray[Any], n: int) -> Any:
    """Draw a number from 0 to n - 1."""
    rng[0] += _GOLDEN
    z = rng[0]
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    z = z ^ (z >> _31)
    return np.int64((z >> _33) % np.uint64(n))


def _scatter(salt: int, number: int, n: int) -> int:
    return (_mixed(((int(number) & _MASK) * GOLDEN + int(salt)) & _MASK) >> 33) % int(n)


def scattered(salt: int, number: int, n: int) -> int:
    """Hash a number as `scatter` does, for Python."""
    return _scatter(salt, number, n)


@jit(instead=_scatter)
def scatter(salt: int, number: int, n: int) -> Any:
    """Hash a number to a place from 0 to n - 1."""
    z = np.uint64(number) * _GOLDEN + np.uint64(salt)
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    z = z ^ (z >> _31)
    return np.int64((z >> _33) % np.uint64(n))


def many(seed: int, count: int) -> NDArray[np.uint64]:
    """Draw many numbers of 64 bits at once: the same with every version of NumPy."""
    z = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN + np.array([seed], np.uint64)
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    return z ^ (z >> _31)


def derived(seed: int, member: int, use: int) -> int:
    """Derive a seed of 63 bits for one use by one member: half of the first of `many`."""
    return _mixed((((seed * 1_000_003 + member * 101 + use) % (1 << 63)) + GOLDEN) & _MASK) >> 1
