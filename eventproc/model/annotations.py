"""What people write down beside their metrics, metrics made of other metrics, and the ranking of the most unusual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """
    What somebody noted about a time on a server.

    `device`, `user` and `server` are texts of whoever notes it, as htmengine's apps have them; `server` is a metric's
    resource. Message or data is there, or both.
    """

    uid: str
    time_us: int
    device: str
    user: str
    server: str
    metric: str | None = None  # a metric's uid
    message: str | None = None
    data: Mapping[str, Any] | None = None
    created_us: int = 0
    updated_us: int = 0
    owner_id: int | None = None
    id: int = 0  # in the order of creation


class AggregateFunction(StrEnum):
    """What becomes of the members' values in a period; a member's own value is its mean, for `sum` its sum."""

    MEAN = "mean"
    SUM = "sum"
    COUNT = "count"  # of members that reported
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate:
    """A metric that is computed from others, period by period."""

    name: str  # of the metric that it makes
    pattern: str | None  # glob over members' names
    tags: Mapping[str, str] = field(default_factory=dict)  # of members; a value may be a glob
    function: AggregateFunction = AggregateFunction.MEAN
    period_us: int = 300_000_000
    wait_us: int = 60_000_000  # for members that are late
    paused: bool = False
    created_us: int = 0
    owner_id: int | None = None
    id: int = 0
    # Where it stands.
    next_us: int | None = None  # beginning of the period that is open; None: it has seen no sample
    newest_us: int | None = None  # newest sample of any member, and when that was first seen
    seen_us: int | None = None
    members: int = 0
    periods: int = 0  # closed so far
    message: str | None = None  # why the last one was not stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """How unusual a metric was in a stretch of time."""

    metric_id: int
    uid: str
    name: str
    resource: str
    score: float  # sum over the bars of each one's highest display value
    worst: float  # highest anomaly likelihood
    rows: int  # samples at 0.9 or above
    last_us: int  # of those, the latest


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationFilter:
    """Which annotations; what is given must all hold."""

    device: str | None = None
    user: str | None = None
    server: str | None = None
    metric: str | None = None
    start_us: int | None = None
    end_us: int | None = None
