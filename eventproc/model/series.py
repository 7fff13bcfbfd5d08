"""Series: named sequences of (int64 nanoseconds, float64)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A series' registry row; the samples are stored elsewhere (waveform chunks or metric rows)."""

    uuid: str
    name: str
    collection: str = ""
    unit: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    layout: str = "chunks"
    count: int = 0
    earliest_ns: int | None = None
    latest_ns: int | None = None
    created_us: int = 0
    owner_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """
    A compressed run of samples of one series.

    `start_ns`, `end_ns` are the first and last sample's times (inclusive), `data` is made by eventproc.codec.chunks.
    Chunks of a series never overlap; `start_ns` is unique per series.
    """

    series: str
    start_ns: int
    end_ns: int
    count: int
    data: bytes
