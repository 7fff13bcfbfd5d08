"""Metrics: series that samples arrive for, and what becomes of the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

MAX_METRIC_NAME = 512  # characters, tags and all


class MetricStatus(IntEnum):
    """Where a metric stands with its anomaly model; the numbers are htmengine's and may be or-ed together."""

    UNMONITORED = 0
    ACTIVE = 1
    CREATE_PENDING = 2
    ERROR = 4
    PENDING_DATA = 8


class RejectReason(StrEnum):
    """Why a sample was not stored."""

    UNREADABLE = "unreadable"  # a line, frame or message that is not what the protocol wants
    BAD_NAME = "bad name"  # empty, too long, not printable ASCII, or with tags that are none
    BAD_VALUE = "bad value"  # not a number, NaN or infinite
    BAD_TIME = "bad time"
    DUPLICATE = "duplicate"  # the metric has a sample of that time already, its newest
    LATE = "late"  # older than the metric's newest sample
    TOO_LONG = "too long"  # a line, datagram or frame over its limit
    UNAUTHORIZED = "unauthorized"
    INTERNAL = "internal error"  # a fault of ours with this sample; the log has its traceback
    OVERLOAD = "overload"  # of datagrams only: nobody can be asked to send more slowly


@dataclass(frozen=True, kw_only=True, slots=True)
class NewMetric:
    """
    A metric to be created. `name` is its identity: case matters, tags are part of it (`cpu;host=a`, tags sorted).

    `resource` is what htmengine calls the server; without one it is the name.
    """

    name: str
    resource: str | None = None
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    owner_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """
    A metric as it stands. `last_rowid` is the number of samples ever stored, and its newest sample's `rowid`.

    `scored_rowid` is the newest sample that has been scored, `rejected` counts its duplicate and late samples.
    """

    id: int
    uid: str
    name: str
    resource: str
    description: str
    tags: Mapping[str, str]
    unit: str
    created_us: int
    owner_id: int | None
    status: int
    last_rowid: int
    last_time_us: int | None
    scored_rowid: int
    rejected: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricBacklog:
    """What of a metric waits to be scored: the rows behind `scored_rowid` up to `last_rowid`."""

    metric_id: int
    status: int
    scored_rowid: int
    last_rowid: int
    last_time_us: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A stored sample; `rowid` counts from 1 without gaps per metric, scores are None until it is scored."""

    metric_id: int
    rowid: int
    time_us: int
    value: float
    raw_score: float | None = None
    anomaly_score: float | None = None
    display_value: float | None = None
    predictions_json: str | None = None


@dataclass(frozen=True, slots=True)
class SampleScores:
    """The scores of one stored sample."""

    metric_id: int
    rowid: int
    raw_score: float | None
    anomaly_score: float | None
    display_value: float | None = None
    predictions_json: str | None = None


@dataclass(frozen=True, slots=True)
class SampleWindow:
    """What a stretch of time `start_us <= t < start_us + width` holds; `anomaly` is its highest anomaly score."""

    start_us: int
    count: int
    min: float
    mean: float
    max: float
    anomaly: float | None


@dataclass(frozen=True, slots=True)
class SampleStatistics:
    """Over the samples that are stored: smallest and largest value, and how many."""

    min: float
    max: float
    count: int


@dataclass(frozen=True, slots=True)
class StoredRange:
    """The rows that a batch added to one metric."""

    metric_id: int
    status: int
    first_rowid: int
    last_rowid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NewReject:
    """So many samples refused for one reason; `examples` are texts of some of them, the last ones."""

    reason: RejectReason
    source: str  # the way and the address: "graphite tcp 10.0.0.7"
    metric: str  # "" where it is not known
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """What was refused so far for one reason, from one source, of one metric."""

    reason: str
    source: str
    metric: str
    count: int
    first_us: int
    last_us: int
    examples: tuple[str, ...]
