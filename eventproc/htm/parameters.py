"""What a model is made of: one frozen value, named sets of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
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
    # Range of values; unknown: that of the first 7/8 of the learning period, and `pad` of it on either side.
    minimum: float | None = None
    maximum: float | None = None
    pad: float = 0.2

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
            "value_on": 1 <= self.value_on <= self.value_bits,
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

    def changed(self, **changes: Any) -> Parameters:
        """Change some; a name that is none is refused."""
        unknown = sorted(changes.keys() - {field.name for field in fields(self)})
        if unknown:
            raise ValueError(f"no such parameter: {', '.join(unknown)}")
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Give what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Parameters:
        """Make parameters of what was stored; members a newer version added are refused by name."""
        return cls().changed(**{**stored, "buckets": tuple(stored.get("buckets", ()))})


_HINTS = {
    "columns": "columns * cells must be 1 to 65536",
    "active_columns": "must be 1 to columns",
    "maximum": "give minimum and maximum both, or neither",
    "minimum": "must not be above maximum",
}

_NUMENTA = Parameters(
    columns=2048, active_columns=40, pooler_learns=True, time_on=21, segments=8192, streams=False, gap=0, report=0.0
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
