"""Short ways to fill a store in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eventproc.abc import Registration, Store, Tx
from eventproc.model import (
    SECOND_US,
    Claim,
    Event,
    Finish,
    HandlerBundle,
    HandlerRecord,
    NewRun,
    Options,
    Role,
    Run,
    RunFilter,
    RunState,
    User,
)

LEASE_US = 60 * SECOND_US


def make_event(event_id: str, **values: Any) -> Event:
    defaults: dict[str, Any] = {
        "seq": 0,
        "hook": "test.happened",
        "source": "test",
        "time_us": 1_000,
        "tags": (),
        "key": None,
        "payload_json": '{"a":1}',
        "digest": f"digest of {event_id}",
        "trace_parent": None,
        "hops": 0,
        "accepted_us": 1_000,
    }
    return Event(id=event_id, **(defaults | values))


def make_bundle(blob: bytes = b"blob", python: str = "3.11") -> HandlerBundle:
    return HandlerBundle(
        blob=blob,
        digest=f"digest of {blob!r}",
        python=python,
        dill="0.4",
        source="def f(db): ...",
        filename="f.py",
        qualname="f",
        globals=("LIMIT",),
    )


def make_registration(hook: str = "test.happened", name: str = "handler", **values: Any) -> Registration:
    defaults: dict[str, Any] = {
        "bundle": make_bundle(),
        "tags": (),
        "notify_on_success": None,
        "notify_on_failure": None,
        "options": Options(),
    }
    return Registration(hook=hook, name=name, **(defaults | values))


@dataclass
class World:
    """A store with a clock that the test moves and events that are numbered."""

    store: Store
    now_us: int = 1_000_000
    events: int = 0
    users: dict[str, User] = field(default_factory=dict)

    def user(self, name: str = "ada") -> User:
        if name not in self.users:
            with self.store.begin() as tx:
                self.users[name] = tx.users.add(name, Role.DEVELOPER, now_us=self.now_us)
        return self.users[name]

    def handler(self, hook: str = "test.happened", name: str = "handler", **values: Any) -> HandlerRecord:
        owner = self.user(values.pop("owner", "ada"))
        with self.store.begin() as tx:
            return tx.handlers.put(make_registration(hook, name, **values), owner=owner, now_us=self.now_us)

    def run(self, handler: HandlerRecord, *, event: str | None = None, hook: str | None = None, **values: Any) -> int:
        """Accept an event with one run; return the run's id."""
        with self.store.begin() as tx:
            return self.run_in(tx, handler, event=event, hook=hook, **values)

    def run_in(self, tx: Tx, handler: HandlerRecord, *, event: str | None, hook: str | None, **values: Any) -> int:
        self.events += 1
        name = hook or handler.hook
        new = make_event(event or f"event-{self.events}", hook=name, accepted_us=self.now_us, time_us=self.now_us)
        stored, _ = tx.events.add([new])[0]
        defaults = {"version": handler.current.version, "isolation": str(handler.current.options.isolation)}
        run = NewRun(handler_id=handler.id, **(defaults | values))
        return tx.runs.add(stored.seq, [run], now_us=self.now_us)[0]

    def runs(self, handler: HandlerRecord, count: int, **values: Any) -> list[int]:
        with self.store.begin() as tx:
            return [self.run_in(tx, handler, event=None, hook=None, **values) for _ in range(count)]

    def claim(self, want: int = 10, *, worker: str = "w1", pythons: Sequence[str] = ()) -> list[Claim]:
        with self.store.begin() as tx:
            return tx.runs.claim(
                worker=worker, pythons=pythons, want_run=want, want_batch=want, lease_us=LEASE_US, now_us=self.now_us
            )

    def claim_ids(self, want: int = 10, **values: Any) -> list[int]:
        return [claim.run_id for claim in self.claim(want, **values)]

    def finish(self, claim: Claim, state: RunState = RunState.SUCCEEDED, **values: Any) -> bool:
        with self.store.begin() as tx:
            finish = Finish(run_id=claim.run_id, token=claim.token, state=state, **values)
            return tx.runs.finish([finish], now_us=self.now_us) == {claim.run_id}

    def get(self, run_id: int) -> Run:
        with self.store.read() as tx:
            found = tx.runs.get(run_id)
        assert found is not None
        return found

    def state(self, run_id: int) -> str:
        return str(self.get(run_id).state)

    def page(self, **values: Any) -> list[int]:
        paging = {name: values.pop(name) for name in ("after", "limit") if name in values}
        with self.store.read() as tx:
            return [run.id for run in tx.runs.page(RunFilter(**values), **paging)]

    def later(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND_US)
