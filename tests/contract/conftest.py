"""Fixtures of the contract suites."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import PostgresServer, RabbitServer, postgres_server, rabbitmq_server

from eventproc.abc import Sandbox, Store
from eventproc.child.layers import landlock
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.store import open_store
from eventproc.store.memory import MemoryStore

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.external_service)

SANDBOXES: dict[str, Callable[[], Sandbox]] = {
    "level-A": lambda: ForkServerSandbox(levels=["A"]),
    "level-B": lambda: ForkServerSandbox(levels=["B"]),
    "in-process": InProcessSandbox,
}


@pytest.fixture(scope="module", params=SANDBOXES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Each implementation of the port in turn; level B takes a kernel with Landlock."""
    if request.param == "level-B" and not landlock.abi() and not os.environ.get("CI"):
        pytest.skip("this kernel has no Landlock (Linux 5.13)")
    made = SANDBOXES[request.param]()
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitServer]:
    with rabbitmq_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """A database with all tables, to be copied: that is quicker than to run the revisions for each test."""
    name = postgres.create()
    store = open_store(postgres.url(name))
    store.upgrade()
    store.close()
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "empty.db"
    store = open_store(f"sqlite:///{path}")
    store.upgrade()
    store.close()
    return path


@pytest.fixture(params=["sqlite", POSTGRESQL])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with empty tables, that several stores and processes can open."""
    return _fresh(request, tmp_path)


def _fresh(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        template = request.getfixturevalue("postgres_template")
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.url(server.create(template))
    shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "events.db")
    return f"sqlite:///{tmp_path}/events.db"


@pytest.fixture
def shared_store(store_url: str) -> Iterator[Store]:
    """A store that several processes can share."""
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture(params=["memory", "sqlite", POSTGRESQL])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each implementation of the port in turn, with empty tables."""
    opened: Store = MemoryStore() if request.param == "memory" else open_store(_fresh(request, tmp_path))
    yield opened
    opened.close()
