"""Events reported inside a caller's own database transaction: they happen with its commit, or never."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from waiting import wait_until

from eventproc import emit
from eventproc.errors import ConfigError, InvalidPayload, UnknownHook


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("outbox") / "data").start()
    conn = made.connect()
    conn.put_hook("order.placed", summary="x", schema={"required": ["total"]}, sample={"total": 1})
    conn.register(lambda db, total, **kw: total, hook="order.placed", name="count")
    yield made
    made.close()


@pytest.fixture
def session(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Return a session of the caller's own, on the platform's database."""
    monkeypatch.setenv("EVENTPROC_DATA", str(served.data))
    engine = create_engine(f"sqlite:///{served.data / 'eventproc.db'}")
    with Session(engine) as made:
        made.execute(text("CREATE TABLE IF NOT EXISTS my_orders (id TEXT)"))
        made.commit()
        yield made
    engine.dispose()


def test_an_event_happens_with_the_callers_commit(served, session):
    session.execute(text("INSERT INTO my_orders VALUES ('a')"))
    accepted = emit("order.placed", {"total": 7}, session=session, id="with-order-a")
    assert accepted["duplicate"] is False
    session.commit()
    conn = served.connect()
    assert conn.event("with-order-a")["payload"] == {"total": 7}
    assert conn.wait(accepted["runs"][0])["result"] == 7


def test_an_event_never_happens_when_the_caller_rolls_back(served, session):
    session.execute(text("INSERT INTO my_orders VALUES ('b')"))
    emit("order.placed", {"total": 7}, session=session, id="with-order-b")
    session.rollback()
    conn = served.connect()
    emit("order.placed", {"total": 8}, conn=conn, id="after-b")
    assert "with-order-b" not in {event["id"] for event in conn.events()}
    assert session.execute(text("SELECT count(*) FROM my_orders WHERE id = 'b'")).scalar() == 0


def test_a_refused_event_leaves_the_callers_transaction_usable(served, session):
    session.execute(text("INSERT INTO my_orders VALUES ('c')"))
    with pytest.raises(InvalidPayload):
        emit("order.placed", {}, session=session)
    with pytest.raises(UnknownHook):
        emit("order.plased", {}, session=session)
    session.commit()
    assert session.execute(text("SELECT count(*) FROM my_orders WHERE id = 'c'")).scalar() == 1


def test_the_worker_is_woken_by_the_commit(served, session):
    accepted = emit("order.placed", {"total": 9}, session=session)
    session.commit()
    wait_until(lambda: served.connect().run(accepted["runs"][0])["state"] == "succeeded", what="the run")


def test_a_session_on_another_database_is_refused(served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVENTPROC_DATA", str(served.data))
    engine = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with Session(engine) as other, pytest.raises(ConfigError):
        emit("order.placed", {"total": 1}, session=other)
    engine.dispose()
