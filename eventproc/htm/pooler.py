"""What spatial poolers are made of; those that never learn are made once for each set of parameters, and shared."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventproc.htm import dice
from eventproc.htm.parameters import Parameters

_FULL = 10_000  # the largest permanence of a pooler


class Pooler(NamedTuple):
    """Permanences (-1: no potential synapse), who is connected to whom, and the order in which ties are broken."""

    permanence: NDArray[np.int16]  # [columns, inputs]
    joined: NDArray[np.uint8]  # [inputs, columns]
    order: NDArray[np.int32]  # [columns]


def inputs_of(parameters: Parameters) -> int:
    """Count the encoder's bits."""
    p = parameters
    time = p.time_bits * (p.time_on > 0) + 7 * p.day_on + 2 * p.weekend_on
    return p.value_bits + time + p.delta_bits * (p.delta_on > 0)


def make(inputs: int, columns: int, *, potential: float, connected: int, seed: int) -> Pooler:
    """Make a pooler: each column may see a share `potential` of the inputs, and half of those are connected."""
    drawn = dice.many(seed, columns * inputs * 2 + columns)
    share = (drawn[: 2 * columns * inputs] >> np.uint64(11)).astype(np.float64).reshape(2, columns, inputs) * 2.0**-53
    above = connected + share[1] * 2 * (_FULL - connected)  # share below a half: connected
    below = (share[1] * 2 - 1.0) * connected
    held = np.where(share[1] < 0.5, above, below).astype(np.int16)
    held[share[0] >= potential] = -1
    order = np.argsort(drawn[2 * columns * inputs :], kind="stable").astype(np.int32)
    return Pooler(held, join(held, connected), order)


def join(permanence: NDArray[np.int16], connected: int) -> NDArray[np.uint8]:
    """Find who is connected, a row for each input."""
    return np.ascontiguousarray((permanence >= connected).T.astype(np.uint8))


@lru_cache(maxsize=16)
def _born(key: tuple[Any, ...]) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.int32]]:
    inputs, columns, potential, connected, seeds, learns = key
    made = [make(inputs, columns, potential=potential, connected=connected, seed=seed) for seed in seeds]
    kept = [each.permanence if learns else each.permanence[:0, :0] for each in made]
    return np.stack(kept), np.stack([each.joined for each in made]), np.stack([each.order for each in made])


def shared(parameters: Parameters) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.int32]]:
    """
    Give the untrained poolers of all members, the same arrays for all models of these parameters: never write.

    Permanences are empty where poolers do not learn.
    """
    p = parameters
    seeds = tuple(dice.derived(p.seed, h, 0) for h in range(len(p.buckets)))
    return _born((inputs_of(p), p.columns, p.potential, p.pooler_connected, seeds, p.pooler_learns))
