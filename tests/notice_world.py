"""A store with finished runs whose notices wait, and a clock that stands still until it is moved."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from eventproc.abc import Clock, Registration, Store, Tx
from eventproc.errors import StoreUnavailable
from eventproc.model import (
    SECOND_US,
    Event,
    Failure,
    Finish,
    HandlerBundle,
    HandlerRecord,
    LogChunk,
    NewNotice,
    NewRun,
    Notice,
    Options,
    Role,
    RunState,
)

START_US = 1_700_000_000 * SECOND_US
BOOM = Failure(
    kind="exception",
    type="ValueError",
    message="no such meter",
    traceback="Traceback (most recent call last):\nValueError: no such meter\n",
    rolled_back=True,
)


@dataclass
class HandClock(Clock):
    at_us: int = START_US

    def now_us(self) -> int:
        return self.at_us

    def forward(self, seconds: float) -> None:
        self.at_us += int(seconds * SECOND_US)


@dataclass
class FlakyStore(Store):
    """Passes everything on, unless it is told to be unavailable."""

    inner: Store
    away: threading.Event = field(default_factory=threading.Event)
    refused: int = 0

    @contextmanager
    def begin(self) -> Iterator[Tx]:
        if self.away.is_set():
            self.refused += 1
            raise StoreUnavailable("the database is restarting")
        with self.inner.begin() as tx:
            yield tx

    @contextmanager
    def read(self) -> Iterator[Tx]:
        if self.away.is_set():
            self.refused += 1
            raise StoreUnavailable("the database is restarting")
        with self.inner.read() as tx:
            yield tx

    def join(self, session: object) -> Tx:
        return self.inner.join(session)

    def upgrade(self) -> None:
        self.inner.upgrade()

    def revision(self) -> tuple[str | None, str]:
        return self.inner.revision()

    def close(self) -> None:
        self.inner.close()


@dataclass
class NoticeWorld:
    """Makes runs that ended, with their notices, as the worker writes them."""

    store: Store
    clock: Clock
    count: int = 0

    def handler(self, name: str = "report", throttle_s: float | None = None) -> HandlerRecord:
        with self.store.begin() as tx:
            found = tx.handlers.find("demo.hook", name)
            if found is not None:
                return found
            user = tx.users.find("dev") or tx.users.add("dev", Role.DEVELOPER, now_us=self.clock.now_us())
            return tx.handlers.put(self._registration(name, throttle_s), owner=user, now_us=self.clock.now_us())

    @staticmethod
    def _registration(name: str, throttle_s: float | None) -> Registration:
        bundle = HandlerBundle(
            blob=b"blob",
            digest=hashlib.sha256(b"blob").hexdigest(),
            python="3.11",
            dill="0.4.1",
            source="def report(db): ...",
            filename="report.py",
            qualname="report",
        )
        return Registration(
            hook="demo.hook",
            name=name,
            bundle=bundle,
            tags=(),
            notify_on_success=None,
            notify_on_failure=None,
            options=Options(throttle_s=throttle_s),
        )

    def ended(
        self,
        *recipients: str,
        failure: Failure | None = BOOM,
        result_json: str | None = None,
        handler: str = "report",
        throttle_s: float | None = None,
        logs: Sequence[str] = (),
    ) -> Notice:
        """Let one run end, and return its notice."""
        record = self.handler(handler, throttle_s)
        self.count += 1
        now_us = self.clock.now_us()
        outcome = "success" if failure is None else "failure"
        with self.store.begin() as tx:
            ((event, _),) = tx.events.add([self._event(f"{handler}-{self.count}")])
            (run_id,) = tx.runs.add(
                event.seq, [NewRun(handler_id=record.id, version=0, isolation="run", due_us=now_us)], now_us=now_us
            )
            (claim,) = tx.runs.claim(
                worker="w", pythons=(), want_run=1, want_batch=0, lease_us=60 * SECOND_US, now_us=now_us
            )
            tx.runs.add_logs(
                [LogChunk(run_id=run_id, attempt=claim.attempt, stream="stdout", at_us=now_us, text=t) for t in logs]
            )
            state = RunState.SUCCEEDED if failure is None else RunState.FAILED
            finish = Finish(run_id=run_id, token=claim.token, state=state, result_json=result_json, failure=failure)
            assert tx.runs.finish([finish], now_us=now_us) == {run_id}
            to = recipients or ("a@example.com",)
            tx.notices.add([NewNotice(run_id=run_id, outcome=outcome, recipients=to, due_us=now_us)], now_us=now_us)
            (notice,) = tx.notices.page(run_id=run_id)
        return notice

    def more(self, notice: Notice, count: int) -> None:
        """Add so many notices of the same run, as if it had been requeued and failed as often."""
        now_us = self.clock.now_us()
        with self.store.begin() as tx:
            tx.notices.add(
                [
                    NewNotice(
                        run_id=notice.run_id, outcome="failure", recipients=notice.recipients, due_us=now_us, serial=n
                    )
                    for n in range(1, count + 1)
                ],
                now_us=now_us,
            )

    def _event(self, event_id: str) -> Event:
        return Event(
            seq=0,
            id=event_id,
            hook="demo.hook",
            source="test",
            time_us=self.clock.now_us(),
            tags=(),
            key=None,
            payload_json='{"meter": "M1"}',
            digest=event_id,
            trace_parent=None,
            hops=0,
            accepted_us=self.clock.now_us(),
        )

    def now(self, notice: Notice) -> Notice:
        """Return the notice as it stands."""
        with self.store.read() as tx:
            found = tx.notices.get(notice.id)
        assert found is not None
        return found


__all__ = ["BOOM", "START_US", "FlakyStore", "HandClock", "NoticeWorld"]
