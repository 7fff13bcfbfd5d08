"""A store with its world, a clock that stands still, and a real SMTP server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from notice_world import HandClock, NoticeWorld
from smtp_server import SmtpServer

from eventproc.abc import Store
from eventproc.store.memory import MemoryStore


@pytest.fixture
def store() -> Iterator[Store]:
    memory = MemoryStore()
    memory.upgrade()
    yield memory
    memory.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def world(store: Store, clock: HandClock) -> NoticeWorld:
    return NoticeWorld(store, clock)


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.close()
