"""The store's twin in memory: the same SQL on a private in-memory SQLite."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from eventproc.abc import Tx
from eventproc.store import sqlite
from eventproc.store.base import run_actions
from eventproc.store.schema import REVISION
from eventproc.store.sqlstore import SqlStore, SqlTx


class MemoryStore(SqlStore):
    """
    A store without files, for tests; it is gone when it is closed or dropped.

    There is one connection, so that transactions of several threads take turns, readers too. The tables exist already.
    """

    def __init__(self) -> None:
        engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}, hide_parameters=True
        )
        sqlite.prepare(engine, write=True, durability="normal", busy_timeout_s=sqlite.BUSY_TIMEOUT_S, memory=True)
        super().__init__(engine, engine, sqlite.SqliteBulk(), lock=None)
        weakref.finalize(self, engine.dispose)  # a store that a test just drops leaves no open connection behind
        self._turn = threading.RLock()
        self._open: SqlTx | None = None
        self.upgrade()
        self._check()

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        """Open a transaction for writing."""
        with self._turn:
            if self._open is not None:
                raise RuntimeError("this thread is inside a transaction already: pass its Tx on")
            try:
                with self._writer.begin() as conn:
                    tx = self._open = SqlTx(conn, self._bulk, self._caches)
                    yield tx
            finally:
                self._open = None
        run_actions(tx.work)

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """Open a transaction for reading; inside one of the same thread, it sees what that one wrote."""
        with self._turn:
            if self._open is not None:
                yield SqlTx(self._open.work.conn, self._bulk, self._caches)
                return
            with self._writer.begin() as conn:
                conn.exec_driver_sql("PRAGMA query_only = ON")
                tx = self._open = SqlTx(conn, self._bulk, self._caches)
                try:
                    yield tx
                finally:
                    self._open = None
                    conn.exec_driver_sql("PRAGMA query_only = OFF")
        run_actions(tx.work)

    def revision(self) -> tuple[str | None, str]:
        """Return the schema revision of the database and the one this version needs."""
        with self._turn:
            return (REVISION, REVISION) if self._open is not None else super().revision()
