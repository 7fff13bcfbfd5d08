"""Events in the caller's own transaction, by the public call: they happen with the caller's rows, or not at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

import eventproc
from eventproc.config import load
from eventproc.engine.housekeeping import DEFAULT_POLICY
from eventproc.errors import ConfigError, EventConflict, InvalidInput, UnknownHook
from eventproc.model import HookSpec
from eventproc.wiring import Platform


@pytest.fixture
def platform(tmp_path, monkeypatch):
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "data"))
    with Platform(load()) as made:
        made.prepare()
        with made.store.begin() as tx:
            tx.hooks.put(HookSpec(name="order.paid", summary="Paid."), now_us=1, by="test")
        yield made


@pytest.fixture
def session(platform):
    engine = create_engine(platform.settings.database)
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE orders (id INTEGER)"))
    with Session(engine) as opened:
        yield opened
    engine.dispose()


def events(platform):
    with platform.store.read() as tx:
        return [event.id for event in tx.events.page(hook="order.paid", newest_first=False)]


def test_an_event_exists_once_the_callers_transaction_has_committed(platform, session):
    session.execute(text("INSERT INTO orders VALUES (1)"))
    said = eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1", tags=["shop"])
    assert (said["id"], said["duplicate"], said["runs"]) == ("o-1", False, [])
    assert events(platform) == []
    session.commit()
    assert events(platform) == ["o-1"]
    assert eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1", tags=["shop"])["duplicate"] is True


def test_what_is_rolled_back_never_happened(platform, session):
    session.execute(text("INSERT INTO orders VALUES (1)"))
    eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1")
    session.rollback()
    assert events(platform) == []
    assert session.execute(text("SELECT count(*) FROM orders")).scalar() == 0


def test_a_refused_event_leaves_the_callers_transaction_usable(platform, session):
    session.execute(text("INSERT INTO orders VALUES (1)"))
    eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1")
    with pytest.raises(UnknownHook, match="did you mean: order"):
        eventproc.emit("order.payd", {}, session=session)
    with pytest.raises(EventConflict):
        eventproc.emit("order.paid", {"order": 2}, session=session, id="o-1")
    session.commit()
    assert events(platform) == ["o-1"]


def test_another_database_is_refused(platform, tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with Session(engine) as elsewhere, pytest.raises(ConfigError, match="another database"):
        eventproc.emit("order.paid", {}, session=elsewhere)
    engine.dispose()
    with pytest.raises(ConfigError, match="SQLAlchemy"):
        eventproc.emit("order.paid", {}, session=object())
    with pytest.raises(InvalidInput, match="no ISO-8601 time"):
        eventproc.emit("order.paid", {}, session=object(), time="yesterday")
    with pytest.raises(InvalidInput, match="not both"):
        eventproc.emit("order.paid", {}, session=object(), conn=eventproc.Connection("localhost:1", "k"))


@pytest.mark.parametrize("source", ["engine", "metrics", "models"])
def test_nobody_reports_in_the_platforms_own_name(platform, session, source):
    with pytest.raises(InvalidInput, match=f"source '{source}': what the platform itself reports"):
        eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1", source=source)
    eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1", source=f"shop {source}")
    session.commit()
    assert events(platform) == ["o-1"]


def test_ids_are_remembered_once_their_events_are_gone(platform, session):
    eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1", source="shop")
    session.commit()
    policy = replace(DEFAULT_POLICY, events_s=0)
    with platform.store.begin() as tx:
        assert tx.retention.prune(policy, now_us=platform.clock.now_us() + 1, limit=10)["events"] == 1
    assert eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1", source="shop")["duplicate"] is True


def test_each_database_gets_its_own_events(platform, session, tmp_path, monkeypatch):
    eventproc.emit("order.paid", {"order": 1}, session=session, id="first")
    session.commit()
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "second"))
    with Platform(load()) as other:
        other.prepare()
        with other.store.begin() as tx:
            tx.hooks.put(HookSpec(name="order.paid", summary="Paid."), now_us=1, by="test")
        engine = create_engine(other.settings.database)
        with Session(engine) as elsewhere:
            eventproc.emit("order.paid", {"order": 2}, session=elsewhere, id="second")
            elsewhere.commit()
        engine.dispose()
        assert (events(platform), events(other)) == (["first"], ["second"])


def test_the_working_directory_may_be_gone(platform, session, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    eventproc.emit("order.paid", {"order": 1}, session=session, id="o-1")
    session.commit()
    assert events(platform) == ["o-1"]


FORKS = """
import os, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
import eventproc

def emit(id):
    engine = create_engine(sys.argv[1])
    with Session(engine) as session:
        eventproc.emit("order.paid", {}, session=session, id=id)
        session.commit()
    engine.dispose()

emit("before")
child = os.fork()
emit("child" if child == 0 else "parent")
if child:
    _, status = os.waitpid(child, 0)
    emit("after")
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_goes_on_emitting_and_so_does_its_parent(platform):
    command = [sys.executable, "-W", "error", "-c", FORKS, platform.settings.database]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(events(platform)) == ["after", "before", "child", "parent"]
