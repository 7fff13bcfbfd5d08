"""What a model is made of: one frozen value, named sets of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """
    All that shapes a model; two models of the same parameters and records are the same, bit by bit.

    Permanences of the memory are thousandths, those of the pooler ten-thousandths.
    """

    # Members: one temporal memory for each entry, whose encoder divides the range of values into so many buckets.
    buckets: tuple[int, ...] = (130,)
    seed: int = 1

    # Encoder: bits for the value, and for what of the time matters.
    value_bits: int = 400
    value_on: int = 21
    time_bits: int = 53
    time_on: int = 0
    day_on: int = 0
    weekend_on: int = 0
    delta_bits: int = 400  # for the change since the value before, in steps of the value's resolution
    delta_on: int = 0
    category: bool = False  # values are words or codes: different ones have nothing in common
    # Range of values; unknown: that of the first 7/8 of the learning period, and `pad` of it on either side.
    minimum: float | None = None
    maximum: float | None = None
    pad: float = 0.2
    resolution: float | None = None  # given: the range does not matter, and nothing waits for it
    min_resolution: float = 0.0
    adaptive: bool = False  # the resolution doubles when the range of values has doubled

    # Spatial pooler.
    columns: int = 1024
    active_columns: int = 20
    potential: float = 0.8
    pooler_learns: bool = False
    pooler_up: int = 30
    pooler_down: int = 5
    pooler_connected: int = 2000

    # Temporal memory.
    cells: int = 32
    segments: int = 1024  # the one not used for longest gives way to a new one
    synapses: int = 32  # per segment; the weakest with a silent cell gives way
    activate: int = 13
    match: int = 10
    grow: int = 20
    initial: int = 210
    up: int = 100
    down: int = 100
    punish: int = 0
    connected: int = 500

    # Likelihood: rate of forgetting, and the least mean and variance taken for real.
    history: int = 4000
    mean_floor: float = 0.03
    variance_floor: float = 0.0003
    soft: float = 5.0  # -log10 p that counts one half

    # Streams.
    streams: bool = True
    tolerance: float = 0.05  # part of the range beyond it that counts one half
    memory: int = 5000  # records after which the ranges of variation, level and shape have faded
    variation_span: int = 30
    level_span: int = 20
    shape_span: int = 48
    shape_lags: int = 4000

    # Best next values, so many records ahead, of so many classes.
    predict_steps: tuple[int, ...] = ()
    predict_classes: int = 64
    predict_rate: float = 0.05

    # Conclusion.
    learning: int = 750  # records before the likelihood speaks
    report: float = 0.3
    margin: float = 0.1
    gap: int = 35  # records for which a reported score stands for what follows, unless that is `margin` stronger

    def __post_init__(self) -> None:
        """Refuse what can not work, by name."""
        cells = self.columns * self.cells
        checks = {
            "columns": self.columns >= 1 and cells <= 1 << 16,
            "active_columns": 1 <= self.active_columns <= self.columns,
            "cells": self.cells >= 1,
            "segments": self.segments >= 1,
            "synapses": 1 <= self.synapses <= 4096,
            "match": self.match >= 1,
            "activate": self.activate >= 1,
            "connected": 1 <= self.connected <= 1000,
            "initial": 1 <= self.initial <= 1000,
            "buckets": all(count >= 1 for count in self.buckets),
            "value_on": 0 <= self.value_on <= self.value_bits and self.value_on + self.delta_on >= 1,
            "delta_on": 0 <= self.delta_on <= self.delta_bits,
            "category": not (self.category and (self.streams or self.delta_on or self.predict_steps)),
            "resolution": self.resolution is None or (self.resolution > 0 and math.isfinite(self.resolution)),
            "min_resolution": self.min_resolution >= 0 and math.isfinite(self.min_resolution),
            "predict_steps": all(1 <= step <= 1000 for step in self.predict_steps)
            and len(set(self.predict_steps)) == len(self.predict_steps)
            and (bool(self.buckets) or not self.predict_steps),
            "predict_classes": 2 <= self.predict_classes <= 1024,
            "predict_rate": 0 < self.predict_rate <= 1,
            "learning": self.learning >= 0,
            "shape_lags": self.shape_lags > self.shape_span,
            "variation_span": 1 <= self.variation_span <= 64,
            "level_span": 1 <= self.level_span <= 64,
            "gap": self.gap >= 0,
            "maximum": (self.minimum is None) == (self.maximum is None),
        }
        if self.minimum is not None and self.maximum is not None:
            checks["minimum"] = self.minimum <= self.maximum
        for name, holds in checks.items():
            if not holds:
                raise ValueError(
                    f"parameter {name}={getattr(self, name)!r} can not be: {_HINTS.get(name, 'out of range')}"
                )

    @property
    def ranged(self) -> bool:
        """Whether the encoder's resolution is known before the first value."""
        return self.minimum is not None or self.category

    @property
    def waits(self) -> bool:
        """Whether values wait until their range is known."""
        return not self.ranged and self.resolution is None

    def changed(self, **changes: Any) -> Parameters:
        """Change some; a name that is none is refused."""
        if not changes:
            return self
        _check_names(changes)
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Give what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Parameters:
        """Make parameters of what was stored; members a newer version added are refused by name."""
        lists = {name: tuple(stored.get(name, ())) for name in ("buckets", "predict_steps")}
        _check_names(stored)
        return cls(**{**stored, **lists})


_NAMES = tuple(field.name for field in fields(Parameters))


def _check_names(given: Mapping[str, Any]) -> None:
    unknown = sorted(given.keys() - set(_NAMES))
    if unknown:
        near = get_close_matches(unknown[0], _NAMES, 1)
        known = f"did you mean {near[0]}?" if near else f"there are: {', '.join(_NAMES)}"
        raise ValueError(f"no such parameter: {', '.join(unknown)}; {known}")


_HINTS = {
    "columns": "columns * cells must be 1 to 65536",
    "active_columns": "must be 1 to columns",
    "value_on": "must be 0 to value_bits, and value_on + delta_on at least 1",
    "delta_on": "must be 0 to delta_bits",
    "category": "words have no range, change or mean: use streams=False, delta_on=0 and no predict_steps",
    "resolution": "must be a positive number",
    "predict_steps": "must be different numbers of records from 1 to 1000, of a model with a temporal memory",
    "predict_classes": "must be 2 to 1024",
    "maximum": "give minimum and maximum both, or neither",
    "minimum": "must not be above maximum",
}

_NUMENTA = Parameters(
    columns=2048,
    active_columns=40,
    pooler_learns=True,
    time_on=21,
    min_resolution=0.001,
    segments=8192,
    streams=False,
    gap=0,
    report=0.0,
)

NAMED: dict[str, Parameters] = {
    "default": Parameters(),
    "statistics": Parameters(buckets=()),
    "htm": Parameters(streams=False, pooler_learns=True, time_on=21, segments=2048),
    "numenta_cpp": _NUMENTA,
    "numenta_tm_cpp": replace(
        _NUMENTA, activate=20, match=13, grow=31, initial=240, up=40, down=8, punish=1, synapses=128
    ),
}


def named(name: str) -> Parameters:
    """Look a set up by its name."""
    if name not in NAMED:
        raise ValueError(f"no parameter set named {name!r}; there are {', '.join(sorted(NAMED))}")
    return NAMED[name]


def model_names() -> list[str]:
    """List the named parameter sets."""
    return sorted(NAMED)
