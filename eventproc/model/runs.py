"""Runs: one handler version on one event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from eventproc.model.events import Event, NewEvent
from eventproc.model.handlers import HandlerVersion
from eventproc.model.outbox import NewOutgoing
from eventproc.model.series import Series


class RunState(StrEnum):
    """
    queued → running → succeeded, or → committing → succeeded | commit_failed when callbacks wait.

    running → retrying → running (when due), running → failed; queued, retrying or running → cancelled.
    """

    QUEUED = "queued"
    RUNNING = "running"
    COMMITTING = "committing"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    COMMIT_FAILED = "commit_failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.COMMIT_FAILED, RunState.CANCELLED})
DEAD_STATES = frozenset({RunState.FAILED, RunState.COMMIT_FAILED})
CLAIMABLE_STATES = frozenset({RunState.QUEUED, RunState.RETRYING})
LEASED_STATES = frozenset({RunState.RUNNING, RunState.COMMITTING})


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRun:
    """A run about to be queued by dispatch, replay or requeue."""

    handler_id: int
    version: int
    isolation: str
    order_key: str | None = None
    limit_key: str | None = None  # value of the concurrency key, None for one limit over the whole handler
    rate_key: str | None = None
    due_us: int = 0
    round: int = 0  # 0 for dispatch; each replay of the same event takes the next number


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """
    Why a run did not succeed.

    `kind` is one of exception, exit, signal, timeout, limit, result, load, lost, cancelled, interrupted, sandbox,
    secrets, stream (a pipeline's run), pipeline (a stream without a run).
    """

    kind: str
    message: str
    type: str | None = None  # the exception's class
    traceback: str | None = None
    rolled_back: bool | None = None  # None where rollback had nothing to do, False for a killed child


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as it stands."""

    id: int
    event_seq: int
    event_id: str
    hook: str
    handler_id: int
    handler_name: str
    version: int
    state: RunState
    attempt: int  # 1 for the first execution, 0 before it
    interruptions: int  # how often a lease or worker was lost
    round: int
    created_us: int
    due_us: int
    started_us: int | None
    finished_us: int | None
    order_key: str | None
    result_json: str | None
    failure: Failure | None
    worker: str | None
    sandbox: str | None  # level and layers that the last execution ran under
    cpu_us: int | None
    memory_bytes: int | None
    callbacks_only: bool = False  # requeued commit_failed run: effects are recorded already
    serial: int = 0  # grows with each requeue; a notice is unique by (run, outcome, serial)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """
    A leased run with all that is needed to execute it.

    `token` is the fencing token: every write about this execution names it, and is refused once it is stale.
    """

    run_id: int
    token: int
    attempt: int
    interruptions: int
    lease_until_us: int
    owner_id: int
    handler_name: str
    handler: HandlerVersion
    event: Event
    callbacks_only: bool = False
    serial: int = 0  # of the run, for its notices


@dataclass(frozen=True, kw_only=True, slots=True)
class Occupied:
    """Which owners a worker's slots work for, and how many slots one may have; what is beyond is for others."""

    by_owner: Mapping[int, int]
    most: int


@dataclass(frozen=True, kw_only=True, slots=True)
class InsertEffect:
    """Samples for a series: int64 nanosecond times and float64 values as little-endian bytes."""

    series: str  # UUID
    times_ns: bytes
    values: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEffect:
    """An uploaded file whose bytes are in the blob store under `code` already; it shows once its row is written."""

    code: str  # 32 hex digits
    name: str
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationsEffect:
    """New annotations for a series; they replace the old ones."""

    series: str  # UUID
    annotations: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """What a run asked for, written together with its result or not at all; series come first, before inserts."""

    events: tuple[NewEvent, ...] = ()
    inserts: tuple[InsertEffect, ...] = ()
    files: tuple[FileEffect, ...] = ()
    series: tuple[Series, ...] = ()  # to be created
    annotations: tuple[AnnotationsEffect, ...] = ()
    outgoing: tuple[NewOutgoing, ...] = ()  # messages to other systems, by the outbox


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """
    One transition of a leased run, written by the worker that holds its lease.

    `state` is succeeded, committing, commit_failed, failed, retrying, cancelled, or queued to give it back.
    """

    run_id: int
    token: int
    state: RunState
    result_json: str | None = None
    failure: Failure | None = None
    due_us: int | None = None  # for retrying
    sandbox: str | None = None
    cpu_us: int | None = None
    memory_bytes: int | None = None
    count_attempt: bool = True  # False gives back a run that never started


@dataclass(frozen=True, kw_only=True, slots=True)
class LogChunk:
    """A piece of a run's captured output."""

    run_id: int
    attempt: int
    stream: str  # stdout | stderr | log
    at_us: int
    text: str
    id: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """An uploaded file that can be downloaded."""

    code: str
    run_id: int
    name: str
    size: int
    digest: str
    created_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFilter:
    """Which runs to list, cancel or requeue; what is None does not restrict."""

    hook: str | None = None
    handler_id: int | None = None
    event_id: str | None = None
    states: tuple[RunState, ...] = ()
    since_us: int | None = None
    until_us: int | None = None
