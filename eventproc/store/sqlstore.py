"""The store over SQLAlchemy: engines, transactions, joining a caller's session, schema revisions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, event, inspect, select, text
from sqlalchemy.pool import ConnectionPoolEntry

from eventproc.abc import Store, Tx
from eventproc.errors import ConfigError
from eventproc.store import joining
from eventproc.store.aggregates import SqlAggregates, SqlRanking
from eventproc.store.annotations import SqlAnnotations
from eventproc.store.audit import SqlAudit
from eventproc.store.base import Bulk, Caches, Work, run_actions
from eventproc.store.events import SqlEvents
from eventproc.store.files import SqlFiles
from eventproc.store.handlers import SqlHandlers
from eventproc.store.hooks import SqlHooks
from eventproc.store.metrics import SqlMetrics
from eventproc.store.models import SqlModels
from eventproc.store.notices import SqlNotices
from eventproc.store.outbox import SqlOutbox
from eventproc.store.playing import SqlPlayback
from eventproc.store.preparing import SqlEnvironments, SqlPreparations, SqlWorkers
from eventproc.store.rejects import SqlRejects
from eventproc.store.retention import SqlRetention
from eventproc.store.runs import SqlRuns
from eventproc.store.samples import SqlSamples
from eventproc.store.schedules import SqlSchedules
from eventproc.store.schema import REVISION, meta
from eventproc.store.secrets import SqlSecrets
from eventproc.store.series import SqlSeries
from eventproc.store.streams import SqlStreams
from eventproc.store.triggers import SqlTriggers
from eventproc.store.users import SqlUsers

_META = select(meta.c.value).where(meta.c.name == bindparam("name"))
_SET_META = text(
    "INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = :value"
)
_REVISION = text("SELECT version_num FROM alembic_version")


class SqlTx(Tx):
    """A transaction: the aggregates over one connection."""

    def __init__(self, conn: Connection, bulk: Bulk, caches: Caches) -> None:
        work = self.work = Work(conn, bulk, caches)
        self.hooks = SqlHooks(work)
        self.handlers = SqlHandlers(work)
        self.events = SqlEvents(work)
        self.runs = SqlRuns(work)
        self.notices = SqlNotices(work)
        self.files = SqlFiles(work)
        self.series = SqlSeries(work)
        self.users = SqlUsers(work)
        self.secrets = SqlSecrets(work)
        self.audit = SqlAudit(work)
        self.schedules = SqlSchedules(work)
        self.annotations = SqlAnnotations(work)
        self.aggregates = SqlAggregates(work)
        self.ranking = SqlRanking(work)
        self.retention = SqlRetention(work)
        self.metrics = SqlMetrics(work)
        self.samples = SqlSamples(work)
        self.rejects = SqlRejects(work)
        self.outbox = SqlOutbox(work)
        self.models = SqlModels(work)
        self.triggers = SqlTriggers(work)
        self.streams = SqlStreams(work)
        self.playback = SqlPlayback(work)
        self.workers = SqlWorkers(work)
        self.environments = SqlEnvironments(work)
        self.preparations = SqlPreparations(work)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call `action` once the transaction is committed; never after a rollback."""
        self.work.actions.append(action)

    def get_meta(self, name: str) -> str | None:
        """Return a setting kept in the database."""
        value: str | None = self.work.conn.execute(_META, {"name": name}).scalar()
        return value

    def set_meta(self, name: str, value: str) -> None:
        """Keep a setting in the database."""
        self.work.conn.execute(_SET_META, {"name": name, "value": value})


class WriterLock:
    """
    Lets the threads of this process write in turn.

    Waiting here costs nothing, while waiting inside SQLite means sleeping and polling. A second transaction of the
    thread that holds it would wait for ever, so it is refused.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner == me:
            raise RuntimeError("this thread is inside begin() already: pass its Tx on instead of beginning another")
        self._lock.acquire()
        self._owner = me

    def __exit__(self, *_: object) -> None:
        self._owner = None
        self._lock.release()


class SqlStore(Store):
    """A store on one database, with an engine for writing and one for reading."""

    def __init__(self, writer: Engine, reader: Engine, bulk: Bulk, *, lock: WriterLock | None = None) -> None:
        self._writer = writer
        self._reader = reader
        self._bulk = bulk
        self._lock: AbstractContextManager[None] = lock or nullcontext()
        self._one_writes = lock is not None
        self._kept: Connection | None = None
        self._closed = threading.Event()
        for engine in (writer, reader):
            _close_what_comes_back(engine, self._closed)
        self._caches = Caches()
        self._checked = False
        self._store_id: str | None = None

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        self._check()
        with self._lock, self._connection() as conn, conn.begin():
            tx = SqlTx(conn, self._bulk, self._caches)
            yield tx
        run_actions(tx.work)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """
        Lend a connection for writing.

        Where the threads of this process write in turn they share one: to take it out of the pool and put it back
        costs more than to begin and commit. After anything that went wrong the next one is fresh.
        """
        if not self._one_writes:
            with self._writer.connect() as conn:
                yield conn
            return
        conn, self._kept = self._kept or self._writer.connect(), None
        try:
            yield conn
        except BaseException:
            conn.close()
            raise
        self._kept = conn
        if self._closed.is_set():
            self._close_kept()

    @contextmanager
    def read(self) -> Iterator[Tx]:
        self._check()
        with self._reader.connect() as conn:
            tx = SqlTx(conn, self._bulk, self._caches)
            yield tx
        run_actions(tx.work)

    def join(self, session: Any) -> Tx:
        """Wrap a caller's own SQLAlchemy session or connection on the platform's database."""
        self._check()
        session, conn = joining.connection_of(session)
        if self._store_id is None:
            with self.read() as tx:
                self._store_id = tx.get_meta("store_id")
        joining.check_same(conn, self._store_id)
        # What it reads of its own writes can be undone by a savepoint: its caches are its own.
        tx = SqlTx(conn, self._bulk, Caches())
        joining.follow(session, tx.work)
        return tx

    def upgrade(self) -> None:
        """Create the tables or bring them to this version's schema; several processes may do so at once."""
        from eventproc.store.migrations import upgrade  # noqa: PLC0415 - alembic is slow to import and rarely needed

        found, needed = self.revision()
        if found is not None and found > needed:
            raise _wrong_revision(found, needed)
        with self._lock, self._connection() as conn, conn.begin():
            upgrade(conn)
        self._checked = False

    def revision(self) -> tuple[str | None, str]:
        with self._reader.connect() as conn:
            if not inspect(conn).has_table("alembic_version"):
                return None, REVISION
            return conn.execute(_REVISION).scalar(), REVISION

    def _check(self) -> None:
        if self._checked:
            return
        found, needed = self.revision()
        if found is None:
            raise ConfigError("the database is empty: run `eventproc db upgrade` to create its tables")
        if found != needed:
            raise _wrong_revision(found, needed)
        self._checked = True

    def close(self) -> None:
        """Close all connections; those that other threads still use when they are done with them."""
        self._closed.set()
        self._close_kept()
        self._writer.dispose()
        self._reader.dispose()

    def _close_kept(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()


def _close_what_comes_back(engine: Engine, closed: threading.Event) -> None:
    """Once `closed` is set, close connections as they come back: nobody empties the pool again."""

    def on_checkin(_dbapi: Any, record: ConnectionPoolEntry) -> None:
        if closed.is_set():
            record.invalidate()

    event.listen(engine, "checkin", on_checkin)


def _wrong_revision(found: str, needed: str) -> ConfigError:
    older = found < needed
    return ConfigError(
        f"the database has schema revision {found}, which is {'older' if older else 'newer'} than this version's"
        f" {needed}: {'run `eventproc db upgrade`' if older else 'install the version that upgraded it'}",
        found=found,
        needed=needed,
    )


__all__ = ["SqlStore", "SqlTx", "WriterLock"]
