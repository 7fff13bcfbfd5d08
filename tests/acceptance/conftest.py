"""Platforms for acceptance tests: real processes on SQLite and PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import PostgresServer, RabbitServer, postgres_server, rabbitmq_server
from serving import Served

Start = Callable[..., Served]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitServer]:
    with rabbitmq_server() as server:
        yield server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Start]:
    """Start platforms on SQLite, each on a data directory of its own unless told; all are gone afterwards."""
    made: list[Served] = []
    numbers = itertools.count()

    def start(*arguments: str, data: Path | None = None, wait: bool = True, **environ: str) -> Served:
        served = Served(data or tmp_path / f"data{next(numbers)}", **environ)
        made.append(served)
        return served.start(*arguments, wait=wait)

    yield start
    for served in made:
        served.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.external_service)])
def platform(request: pytest.FixtureRequest, serve: Start) -> Served:
    """Return a running platform, on each database."""
    if request.param == "sqlite":
        return serve()
    server: PostgresServer = request.getfixturevalue("postgres")
    return serve(EVENTPROC_DATABASE_URL=server.url(server.create()))
