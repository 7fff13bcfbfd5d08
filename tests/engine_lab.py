"""A small platform for tests of the engine: store, bus, sandbox, services and a worker that can be started."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from waiting import wait_until

from eventproc.abc import Bus, Clock, Registration, Sandbox, Store
from eventproc.blobs import MemoryBlobs
from eventproc.bus.memory import MemoryBus
from eventproc.codec.blob import pack
from eventproc.engine.accept import Result, accept_events
from eventproc.engine.clock import SystemClock
from eventproc.engine.group import GroupCommit
from eventproc.engine.worker import Worker, WorkerSettings
from eventproc.model import Accepted, HandlerRecord, HookSpec, NewEvent, Options, Role, Run, RunFilter, RunState, User
from eventproc.registry import CatalogueCache, parse_options
from eventproc.registry.specs import load_specs
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.service.context import ServiceContext
from eventproc.service.vault import Vault
from eventproc.service.world import World
from eventproc.store.memory import MemoryStore

HOOKS = Path(__file__).parent.parent / "hooks"
ANY = HookSpec(name="test.*", summary="Anything.")


class Lab:
    """The parts, put together; use it as a context manager."""

    def __init__(
        self,
        *,
        store: Store | None = None,
        sandbox: Sandbox | None = None,
        bus: Bus | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = store or MemoryStore()
        self.bus = bus or MemoryBus()
        self.sandbox = sandbox or InProcessSandbox()
        self.clock = clock or SystemClock()
        self.cache = CatalogueCache(self.store)
        self.blobs = MemoryBlobs()
        self.group = GroupCommit(self.store)
        self.vault = Vault.random()
        self.world = World(
            ServiceContext(
                store=self.store,
                bus=self.bus,
                blobs=self.blobs,
                sandbox=self.sandbox,
                clock=self.clock,
                cache=self.cache,
                group=self.group,
                vault=self.vault,
            )
        )
        self.workers: list[Worker] = []
        with self.store.begin() as tx:
            self.user = tx.users.find("ada") or tx.users.add("ada", Role.DEVELOPER, now_us=self.now_us())
            if not tx.hooks.all():
                specs, problems = load_specs(sorted(HOOKS.glob("*.yaml")), source="bundled")
                assert not problems
                for spec in [*specs, ANY]:
                    tx.hooks.put(spec, now_us=self.now_us(), by="test")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.stop(2.0)
        self.world.close()
        self.group.close()
        self.sandbox.close()
        self.bus.close()
        self.store.close()

    def now_us(self) -> int:
        return self.clock.now_us()

    # ------------------------------------------------------------------------------------- doing things

    def hook(self, spec: HookSpec) -> None:
        with self.store.begin() as tx:
            tx.hooks.put(spec, now_us=self.now_us(), by="test")

    def register(
        self,
        function: Callable[..., Any],
        hook: str = "test.happened",
        *,
        name: str | None = None,
        tags: Sequence[str] = (),
        success: str | None = None,
        failure: str | None = None,
        owner: User | None = None,
        **options: Any,
    ) -> HandlerRecord:
        parsed: Options = parse_options(options)
        registration = Registration(
            hook=hook,
            name=name or function.__name__,
            bundle=pack(function),
            tags=tuple(tags),
            notify_on_success=success,
            notify_on_failure=failure,
            options=parsed,
        )
        with self.store.begin() as tx:
            return tx.handlers.put(registration, owner=owner or self.user, now_us=self.now_us())

    def accept(self, *events: NewEvent) -> list[Result]:
        with self.store.begin() as tx:
            return accept_events(
                tx, self.cache.current(tx), events, user_id=self.user.id, now_us=self.now_us(), bus=self.bus
            )

    def emit(self, hook: str = "test.happened", payload: Mapping[str, Any] | None = None, **more: Any) -> Accepted:
        (result,) = self.accept(NewEvent(hook=hook, payload=payload or {}, **more))
        if not isinstance(result, Accepted):
            raise result
        return result

    def start(self, **settings: Any) -> Worker:
        settings = {"lease_s": 5.0, "poll_s": 0.2, "slots": 2, "batch_slots": 1} | settings
        worker = Worker(
            store=self.store,
            bus=self.bus,
            sandbox=self.sandbox,
            services=self.world,
            clock=self.clock,
            settings=WorkerSettings(**settings),
            cache=self.cache,
        )
        threading.Thread(target=worker.run, name="worker", daemon=True).start()
        self.workers.append(worker)
        return worker

    # ------------------------------------------------------------------------------------- looking at things

    def run(self, run_id: int) -> Run:
        with self.store.read() as tx:
            run = tx.runs.get(run_id)
        assert run is not None
        return run

    def runs(self, **which: Any) -> list[Run]:
        with self.store.read() as tx:
            return tx.runs.page(RunFilter(**which), limit=1000)

    def ended(self, run_id: int, *, timeout_s: float = 30.0) -> Run:
        """Wait until the run is over and return it."""
        wait_until(lambda: self.run(run_id).state.final, timeout_s=timeout_s, what=f"the end of run {run_id}")
        return self.run(run_id)

    def in_state(self, run_id: int, state: RunState) -> Run:
        wait_until(lambda: self.run(run_id).state is state, what=f"run {run_id} to be {state}")
        return self.run(run_id)

    def result_of(self, hook: str = "test.happened", payload: Mapping[str, Any] | None = None, **more: Any) -> Run:
        """Emit, wait for the only run and return it."""
        (run_id,) = self.emit(hook, payload, **more).runs
        return self.ended(run_id)

    def logs(self, run_id: int) -> str:
        with self.store.read() as tx:
            return "".join(chunk.text for chunk in tx.runs.logs(run_id))

    def events(self, hook: str) -> list[dict[str, Any]]:
        """Return the payloads of a hook's events, oldest first."""
        with self.store.read() as tx:
            return [json.loads(event.payload_json) for event in tx.events.page(hook=hook, newest_first=False)]

    def notices(self, run_id: int) -> list[tuple[str, tuple[str, ...]]]:
        with self.store.read() as tx:
            return [(notice.outcome, notice.recipients) for notice in tx.notices.page(run_id=run_id)]


@contextmanager
def lab(**parts: Any) -> Iterator[Lab]:
    with Lab(**parts) as made:
        yield made
