"""A whole platform behind a real HTTP server, without workers: each test gets its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import wait_until

from eventproc.abc import Store
from eventproc.api.app import create_app
from eventproc.api.server import Server, bind
from eventproc.blobs import MemoryBlobs
from eventproc.bus.memory import MemoryBus
from eventproc.codec.blob import pack
from eventproc.codec.bundle import bundle_to_json
from eventproc.engine.clock import SystemClock
from eventproc.engine.group import GroupCommit
from eventproc.model import HookSpec, Role, User
from eventproc.registry import CatalogueCache
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.service.auth import issue_key
from eventproc.service.context import ServiceContext, ServiceSettings
from eventproc.service.hooks import sync_bundled_hooks
from eventproc.service.vault import Vault
from eventproc.store import open_store
from eventproc.store.memory import MemoryStore

HOOKS = (
    HookSpec(
        name="door.opened",
        summary="A door was opened.",
        schema={
            "type": "object",
            "properties": {"door": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["door"],
        },
        sample={"door": "north"},
        source="bundled",
    ),
    HookSpec(name="compute.*", summary="Something was computed.", source="bundled"),
    HookSpec(name="run.failed", summary="A run failed.", source="bundled"),
    HookSpec(name="schedule.tick", summary="A schedule is due.", source="bundled"),
    HookSpec(name="ctingress.on_complete", summary="An archive was imported.", source="bundled"),
)


@dataclass
class Api:
    """The server, its inside, and a client for each kind of user."""

    context: ServiceContext
    url: str
    keys: dict[str, str] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    clients: list[httpx.Client] = field(default_factory=list)

    def add_user(self, name: str, role: Role) -> str:
        """Make a user; return their key."""
        with self.context.store.begin() as tx:
            self.users[name] = tx.users.add(name, role, now_us=self.context.clock.now_us())
            key, _ = issue_key(tx, self.users[name], label="test", now_us=self.context.clock.now_us())
        self.keys[name] = key
        return key

    def client(self, user: str | None = "admin", *, key: str | None = None) -> httpx.Client:
        key = key or (self.keys[user] if user else None)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        client = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60, verify=False)
        self.clients.append(client)
        return client


@pytest.fixture
def service_settings() -> ServiceSettings:
    return ServiceSettings()


@pytest.fixture
def service_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return a store in memory; tests of concurrency ask for "sqlite" files, where writers really meet."""
    if getattr(request, "param", "memory") == "memory":
        return MemoryStore()
    store = open_store(f"sqlite:///{tmp_path}/eventproc.db")
    store.upgrade()
    return store


@pytest.fixture
def service_context(service_store: Store, service_settings: ServiceSettings) -> Iterator[ServiceContext]:
    store = service_store
    sandbox = InProcessSandbox()
    group = GroupCommit(store)
    context = ServiceContext(
        store=store,
        bus=MemoryBus(),
        blobs=MemoryBlobs(),
        sandbox=sandbox,
        clock=SystemClock(),
        cache=CatalogueCache(store),
        group=group,
        settings=service_settings,
        vault=Vault.random(),
    )
    with store.begin() as tx:
        sync_bundled_hooks(tx, HOOKS, now_us=context.clock.now_us())
    yield context
    group.close()
    sandbox.close()
    store.close()


@pytest.fixture
def api(service_context: ServiceContext) -> Iterator[Api]:
    sock = bind("127.0.0.1", 0)
    server = Server(create_app(service_context), sock)
    found = Api(context=service_context, url=f"http://127.0.0.1:{sock.getsockname()[1]}")
    for role in Role:
        found.add_user(role.value, role)
    server.start()
    wait_until(lambda: server.started, what="the HTTP server")
    yield found
    for client in found.clients:
        client.close()
    server.stop()


@pytest.fixture
def registration() -> Callable[..., dict[str, Any]]:
    """Build the body of a registration."""

    def build(handler: Callable[..., Any], *, hook: str = "door.opened", name: str = "", **more: Any) -> dict[str, Any]:
        bundle = bundle_to_json(pack(handler))
        return {"hook": hook, "name": name or handler.__name__, "bundle": bundle, **more}

    return build
