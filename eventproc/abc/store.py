"""The port to the database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from eventproc.abc.annotations import AggregateRows, AnnotationRows, RankingRows
from eventproc.abc.metrics import MetricRows, RejectRows, SampleRows
from eventproc.abc.models import ModelRows
from eventproc.abc.outbox import OutboxRows
from eventproc.abc.playing import PlaybackRows
from eventproc.abc.preparing import EnvironmentRows, PreparationRows, WorkerRows
from eventproc.abc.rows import (
    AuditRows,
    EventRows,
    FileRows,
    HandlerRows,
    HookRows,
    NoticeRows,
    RetentionRows,
    RunRows,
    ScheduleRows,
    SecretRows,
    SeriesRows,
    UserRows,
)
from eventproc.abc.streams import StreamRows, TriggerRows


class Tx(ABC):
    """One transaction on the store; everything done through it happens together or not at all."""

    hooks: HookRows
    handlers: HandlerRows
    events: EventRows
    runs: RunRows
    notices: NoticeRows
    files: FileRows
    series: SeriesRows
    users: UserRows
    secrets: SecretRows
    audit: AuditRows
    schedules: ScheduleRows
    annotations: AnnotationRows
    aggregates: AggregateRows
    ranking: RankingRows
    retention: RetentionRows
    metrics: MetricRows
    samples: SampleRows
    rejects: RejectRows
    outbox: OutboxRows
    models: ModelRows
    triggers: TriggerRows
    streams: StreamRows
    playback: PlaybackRows
    workers: WorkerRows
    environments: EnvironmentRows
    preparations: PreparationRows

    @abstractmethod
    def after_commit(self, action: Callable[[], None]) -> None:
        """Call `action` once the transaction is committed (wake-ups go out here); never after a rollback."""

    @abstractmethod
    def get_meta(self, name: str) -> str | None: ...

    @abstractmethod
    def set_meta(self, name: str, value: str) -> None: ...


class Store(ABC):
    """The database."""

    @abstractmethod
    def begin(self) -> AbstractContextManager[Tx]:
        """Open a transaction for writing; it commits at the end of the block and rolls back on an exception."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Tx]:
        """Open a transaction for reading; it takes no write lock, and writing in it is an error."""

    @abstractmethod
    def join(self, session: Any) -> Tx:
        """
        Wrap a caller's own SQLAlchemy session or connection on the platform's database.

        The caller commits or rolls back; `after_commit` actions follow its commit.
        Raises ConfigError for a session on another database.
        """

    @abstractmethod
    def upgrade(self) -> None:
        """Create the tables or bring them to this version's schema."""

    @abstractmethod
    def revision(self) -> tuple[str | None, str]:
        """Return the schema revision of the database (None: empty) and the one this version needs."""

    @abstractmethod
    def close(self) -> None: ...
