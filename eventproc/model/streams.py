"""
Triggers and streams: rules that collect events, and what they have collected.

Traits are an event's top-level scalar payload members. JSON knows no datetimes: a payload may list the members that
are ones, as ISO 8601 texts, under `_datetimes`; triggers and pipeline handlers then see datetimes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple

from eventproc.model.runs import Failure

# The payload member that lists the members which are datetimes.
DATETIMES: Final = "_datetimes"

# The hook that pipelines are registered on, and the hooks of the events that tell them of a stream.
PIPELINE_HOOK: Final = "stream.pipeline"
STREAM_FIRED: Final = "stream.fired"
STREAM_EXPIRED: Final = "stream.expired"
STREAM_HOOKS: Final = frozenset({STREAM_FIRED, STREAM_EXPIRED})
# What a stream's own firing causes: no trigger collects it unless it says so.
CAUSED_BY_STREAMS: Final = STREAM_HOOKS | {"run.failed"}

# The hook that detectors of users are registered on, and the kind of their versions.
DETECTOR_HOOK: Final = "model.detector"
DETECTOR: Final = "detector"
DETECTOR_METHODS: Final = ("score_one", "learn_one")  # that make a class one

# The kind of a handler version that is a pipeline.
PIPELINE: Final = "pipeline"


class StreamState(IntEnum):
    """
    active → firing → completed | error, active → expiring → completed | expire_error.

    `reset` makes error retry_fire and expire_error retry_expire, which fire and expire again. commit_error: the
    stream's new events are stored, but a commit() failed; reset repeats those that did. Numbers are winchester's.
    """

    ACTIVE = 1
    FIRING = 2
    EXPIRING = 3
    ERROR = 4
    EXPIRE_ERROR = 5
    COMPLETED = 6
    RETRY_FIRE = 7
    RETRY_EXPIRE = 8
    COMMIT_ERROR = 9

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def live(self) -> bool:
        """Whether its events are still needed."""
        return self is not StreamState.COMPLETED


class Span(NamedTuple):
    """A range of time: begin ≤ t < end, in microseconds."""

    begin_us: int
    end_us: int


Trait = str | int | float | bool | dt.datetime
Distinguishing = str | int | float | bool | dt.datetime | Span


@dataclass(frozen=True, slots=True)
class TraitEvent:
    """An event as triggers see it; datetimes are aware, in UTC."""

    event_type: str
    time_us: int
    traits: Mapping[str, Trait]


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerDefinition:
    """
    A rule that collects events, with winchester's keys, as its file says it (criteria are JSON objects).

    `distinguished_by` holds trait names and {trait: time expression}; `expiration` is a time expression of $first and
    $last. A list of fire criteria that is empty holds with the first event. At least one pipeline is named.
    """

    name: str
    expiration: str
    match_criteria: tuple[Mapping[str, Any], ...]
    fire_criteria: tuple[Mapping[str, Any], ...]
    distinguished_by: tuple[str | Mapping[str, str], ...] = ()
    fire_delay_s: float = 0
    fire_pipeline: str | None = None
    expire_pipeline: str | None = None
    debug_level: int = 0  # 0 counts nothing, 1 counts, 2 counts and tells reasons


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerRecord:
    """A stored trigger with its current version."""

    id: int
    version: int  # 0 for the first
    definition: TriggerDefinition
    owner_id: int
    paused: bool
    created_us: int
    created_by: str
    updated_us: int
    updated_by: str
    deleted_us: int | None = None

    @property
    def name(self) -> str:
        return self.definition.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """
    The events that one trigger collected for one set of distinguishing traits.

    `matched` holds, per fire criterion, how many of its events satisfy it. `joinable` says that further events with
    these traits join it; there is at most one such stream.
    """

    id: int
    trigger_id: int
    trigger_version: int
    name: str
    distinguished_by: Mapping[str, Any]  # JSON: datetimes as ISO texts, spans as {"begin": …, "end": …}
    state: StreamState
    serial: int  # grows with each change of state
    joinable: bool
    first_us: int
    last_us: int
    events: int
    matched: Sequence[int]
    fire_us: int | None
    expire_us: int
    hops: int  # the most of its events
    attempts: int  # how often it was given to a pipeline
    run_id: int | None  # the run it was given to last
    failure: Failure | None
    created_us: int
    updated_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamFilter:
    """Which streams to list; what is None does not restrict. Times compare as `first_us <` and `last_us >`."""

    name: str | None = None
    states: tuple[StreamState, ...] = ()
    distinguished_by: Mapping[str, Any] = field(default_factory=dict)
    older_than_us: int | None = None
    younger_than_us: int | None = None
