"""Samples gathered into windows of equal length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventproc.errors import InvalidInput

Array = NDArray[np.float64]

_REDUCE: dict[str, Callable[[Array, NDArray[np.intp], NDArray[np.intp]], Any]] = {
    "mean": lambda values, starts, counts: np.add.reduceat(values, starts) / counts,
    "sum": lambda values, starts, counts: np.add.reduceat(values, starts),  # noqa: ARG005 - one shape for all
    "min": lambda values, starts, counts: np.minimum.reduceat(values, starts),  # noqa: ARG005
    "max": lambda values, starts, counts: np.maximum.reduceat(values, starts),  # noqa: ARG005
    "count": lambda values, starts, counts: counts.astype(np.float64),  # noqa: ARG005
    "first": lambda values, starts, counts: values[starts],  # noqa: ARG005
    "last": lambda values, starts, counts: values[starts + counts - 1],
    "median": lambda values, starts, counts: np.array(
        [np.median(values[start : start + count]) for start, count in zip(starts, counts, strict=True)]
    ),
}
FUNCTIONS = tuple(_REDUCE)


def aggregate(seconds: Array, values: Array, window_s: float, function: str = "mean") -> tuple[Array, Array]:
    """
    Gather samples into windows [k·w, (k+1)·w); a window's time is its beginning, empty windows are left out.

    Args:
        seconds: Times, seconds since 1970 UTC, in any order.
        values: As many values.
        window_s: Length of a window in seconds.
        function: One of FUNCTIONS.

    Returns:
        Times and values of the windows that hold samples, in order of time.

    """
    if function not in _REDUCE:
        raise InvalidInput(f"no aggregation is named {function!r}; there are {', '.join(FUNCTIONS)}")
    if not window_s > 0:
        raise InvalidInput(f"a window of {window_s:g} s can not be; it must be above 0")
    if seconds.size == 0:
        return seconds, values
    order = np.argsort(seconds, kind="stable")
    numbers = np.floor(seconds[order] / window_s)
    found, starts, counts = np.unique(numbers, return_index=True, return_counts=True)
    return found * window_s, np.asarray(_REDUCE[function](values[order], starts, counts), np.float64)
