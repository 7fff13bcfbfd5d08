"""
The port of anomaly detectors, and how they are found by name: those of this package, and others' by entry point.

A distribution adds one with `[options.entry_points] eventproc.detectors = NAME = package.module:Class`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from eventproc.htm import blob
from eventproc.htm.reading import Reading
from eventproc.htm.records import When

GROUP = "eventproc.detectors"

_OWN = {
    "default": ("model", "AnomalyModel"),
    "statistics": ("model", "Statistics"),
    "htm": ("model", "HTM"),
    "gaussian": ("gaussian", "WindowedGaussian"),
    "numenta": ("historical", "NumentaHTM"),
    "htm.core": ("htmcore", "HtmCore"),
}


@runtime_checkable
class Detector(Protocol):
    """
    A streaming anomaly detector of one metric.

    Asking changes nothing. The same records give the same scores, also after a save and load between any two of them.
    A missing value (NaN, None, infinite) scores 0 and is not learnt. Times may repeat or go back.
    """

    kind: ClassVar[str]

    @property
    def seen(self) -> int:
        """Number of records learnt."""

    def score_one(self, x: Any, t: When = None) -> float:
        """Score a value as if it came next (0: usual, to 1), and change nothing."""

    def ask_one(self, x: Any, t: When = None) -> Reading:
        """Read a value as if it came next, with the explanation, and change nothing."""

    def learn_one(self, x: Any, t: When = None) -> Self:
        """Learn the next value."""

    def process_one(self, x: Any, t: When = None) -> Reading:
        """Score the next value and learn it."""

    def score_many(self, values: Sequence[float] | NDArray[Any], times: Any = None) -> NDArray[np.float64]:
        """Score and learn many values."""

    def clone(self, **changes: Any) -> Self:
        """Make an untrained detector of the same parameters, or with some changed."""

    def save(self, *, base: bytes | None = None) -> bytes:
        """Save the state; with `base` only what differs from that earlier blob."""

    @classmethod
    def load(cls, saved: bytes, *, base: bytes | None = None) -> Self:
        """Load a saved state."""


@lru_cache(maxsize=1)
def _added(_places: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """Find what installed distributions add: reading all their metadata takes longer than loading a model."""
    return {point.name: point for point in reversed(tuple(entry_points(group=GROUP)))}


def _others() -> dict[str, EntryPoint]:
    """Give others' detectors; looked for again when the import path, or what lies directly on it, has changed."""
    places = []
    for place in sys.path:
        try:
            places.append((place, os.stat(place or ".").st_mtime_ns))  # noqa: PTH116 - a third of the time
        except OSError:
            continue  # not there: nothing is installed in it
    return _added(tuple(places))


def detector_names() -> list[str]:
    """List all detectors that can be found by name."""
    return sorted({*_OWN, *_others()})


def find_detector(name: str) -> type[Detector]:
    """Find a detector's class; others' come first, so that a name can be taken over."""
    point = _others().get(name)
    if point is not None:
        return cast("type[Detector]", point.load())
    if name not in _OWN:
        raise ValueError(f"no detector is named {name!r}; there are {', '.join(detector_names())}")
    module, attribute = _OWN[name]
    return cast("type[Detector]", getattr(importlib.import_module(f"eventproc.htm.{module}"), attribute))


def load_detector(saved: bytes, *, base: bytes | None = None) -> Detector:
    """Load a saved state of any detector."""
    kind, _, _ = blob.unpack(saved, base=base)
    return find_detector(kind).load(saved, base=base)
