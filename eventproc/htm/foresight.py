"""
Best next values: a classifier that learns which value followed what the memory was in, some steps later.

The streaming softmax classifier of Cui, Surpur, Ahmad & Hawkins 2016 ("A comparative study of HTM and other neural
network models for online sequence learning"), on two kinds of features: the active columns (the value now) and the
winning cells (the value in its context), the latter hashed into as many places. Weights are integers, 1024 to the
unit, so that the state is the same on every machine and small when saved.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventproc.htm.dice import scatter
from eventproc.htm.jit import jit

Array = NDArray[Any]

# What `Oracle.spans` holds.
RATE = 0

_SCALE = 1024.0  # weights to the unit
_MOST = 32_000  # a weight
_SALT = 77
_LEAST = -40.0  # exponents below count as this
# exp2 on [0, 1): Taylor, good to 1e-9 and the same on every machine, which no library's exp is.
_TERMS = (
    1.0,
    0.6931471805599453,
    0.2402265069591007,
    0.05550410866482158,
    0.009618129107628477,
    0.0013333558146428443,
    0.00015403530393381608,
    1.5252733804059841e-05,
    1.3215486790144307e-06,
)
_LOG2_E = 1.4426950408889634


class Oracle(NamedTuple):
    """The classifier's state."""

    weights: Array  # int16[steps, features, classes]
    actual: Array  # float64[classes] mean of the values of each class
    counts: Array  # int64[classes] how many there were
    past: Array  # int32[longest step + 1, features at a time], a ring; -1: none
    odds: Array  # float64[classes] scratch
    steps: Array  # int64[steps]
    rate: Array  # float64[1]


@jit()
def exponential(x: float) -> Any:
    """Raise e to the power of x <= 0, in a fixed order of basic operations."""
    y = max(x, _LEAST) * _LOG2_E
    whole = math.floor(y)
    part = y - whole
    total = _TERMS[8]
    total = total * part + _TERMS[7]
    total = total * part + _TERMS[6]
    total = total * part + _TERMS[5]
    total = total * part + _TERMS[4]
    total = total * part + _TERMS[3]
    total = total * part + _TERMS[2]
    total = total * part + _TERMS[1]
    total = total * part + _TERMS[0]
    return math.ldexp(total, int(whole))


@jit()
def class_of(bucket: int, buckets: float, classes: int) -> Any:
    """Find a bucket's class; those beyond the range go to its ends."""
    return min(max(math.floor(bucket * classes / buckets), 0), classes - 1)


@jit()
def weigh(oracle: Oracle, s: int, slot: int) -> None:
    """Give each class seen so far its probability, for the features in one slot."""
    classes = oracle.odds.shape[0]
    oracle.odds[:] = 0.0
    for f in oracle.past[slot]:
        if f >= 0:
            for k in range(classes):
                oracle.odds[k] += oracle.weights[s, f, k]
    most = -1e18
    for k in range(classes):
        if oracle.counts[k] > 0:
            most = max(most, oracle.odds[k])
    total = 0.0
    for k in range(classes):
        oracle.odds[k] = exponential((oracle.odds[k] - most) / _SCALE) if oracle.counts[k] > 0 else 0.0
        total += oracle.odds[k]
    for k in range(classes):
        oracle.odds[k] /= total


@jit()
def note(oracle: Oracle, slot: int, columns: Array, winners: Array, count: int) -> None:
    """Write down the features of now: active columns, and winning cells as far as there is room."""
    wanted, inputs = columns.shape[0], oracle.weights.shape[1] // 2
    row = oracle.past[slot]
    for i in range(wanted):
        row[i] = columns[i]
        row[wanted + i] = inputs + scatter(_SALT, int(winners[i]), inputs) if i < count else -1


@jit()
def study(oracle: Oracle, now: int, value: float, k: int) -> None:
    """Learn that this value, of class k, came after what was noted before; `now` counts records."""
    ring = oracle.past.shape[0]
    oracle.counts[k] += 1
    oracle.actual[k] += (value - oracle.actual[k]) * max(0.1, 1.0 / oracle.counts[k])
    for s in range(oracle.steps.shape[0]):
        if now >= oracle.steps[s]:
            slot = (now - oracle.steps[s]) % ring
            weigh(oracle, s, slot)
            for j in range(oracle.odds.shape[0]):
                wanted = 1.0 if j == k else 0.0
                move = math.floor((wanted - oracle.odds[j]) * oracle.rate[RATE] * _SCALE + 0.5)
                if move != 0:
                    for f in oracle.past[slot]:
                        if f >= 0:
                            held = int(oracle.weights[s, f, j]) + move
                            oracle.weights[s, f, j] = min(max(held, -_MOST), _MOST)


@jit()
def foretell(oracle: Oracle, now: int, out: Array) -> None:
    """Write the most probable value of each step, then their probabilities."""
    steps = oracle.steps.shape[0]
    for s in range(steps):
        weigh(oracle, s, now % oracle.past.shape[0])
        best = 0
        for k in range(oracle.odds.shape[0]):
            if oracle.odds[k] > oracle.odds[best]:
                best = k
        out[s] = oracle.actual[best]
        out[steps + s] = oracle.odds[best]


def new(features: int, active: int, steps: tuple[int, ...], classes: int, rate: float) -> Oracle:
    """Make an untrained classifier; without steps it takes no memory."""
    classes = classes if steps else 0
    return Oracle(
        weights=np.zeros((len(steps), 2 * features if steps else 0, classes), np.int16),
        actual=np.zeros(classes),
        counts=np.zeros(classes, np.int64),
        past=np.full((max(steps, default=0) + 1, 2 * active), -1, np.int32),
        odds=np.zeros(classes),
        steps=np.array(steps, np.int64),
        rate=np.array([rate]),
    )
