"""Contract of the store: what is done in a transaction happens together or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
import store_world
from sqlalchemy import orm
from store_world import World, make_event, make_registration
from waiting import wait_until

from eventproc.abc import Store
from eventproc.errors import ConfigError, StoreUnavailable
from eventproc.model import LogChunk, NewNotice, NewRun, RunState
from eventproc.store import open_store


class Boom(Exception):
    pass


def ids(store: Store) -> list[str]:
    with store.read() as tx:
        return [event.id for event in tx.events.page(newest_first=False)]


# ------------------------------------------------------------------------------------------------ begin and read


def test_an_exception_undoes_the_whole_transaction(store: Store):
    world = World(store)
    handler = world.handler()
    called: list[str] = []
    with contextlib.suppress(Boom), store.begin() as tx:
        run_id = world.run_in(tx, handler, event="e1", hook=None)
        tx.notices.add([NewNotice(run_id=run_id, outcome="success", recipients=("a@x",), due_us=0)], now_us=1)
        tx.runs.add_logs([LogChunk(run_id=run_id, attempt=1, stream="log", at_us=1, text="x")])
        tx.after_commit(lambda: called.append("no"))
        raise Boom
    assert called == []
    assert ids(store) == []
    with store.read() as tx:
        assert tx.runs.counts() == {}
        assert tx.notices.page() == []
    assert world.run(handler, event="e1")


def test_actions_follow_the_commit_in_order_and_see_it(store: Store):
    seen: list[list[str]] = []
    with store.begin() as tx:
        tx.events.add([make_event("e1")])
        tx.after_commit(lambda: seen.append(ids(store)))
        tx.after_commit(lambda: seen.append(["second"]))
        assert seen == []
    assert seen == [["e1"], ["second"]]


def test_an_action_that_fails_does_not_undo_the_commit(store: Store, caplog):
    called: list[int] = []
    with store.begin() as tx:
        tx.events.add([make_event("e1")])
        tx.after_commit(lambda: 1 // 0)
        tx.after_commit(lambda: called.append(1))
    assert called == [1]
    assert ids(store) == ["e1"]
    assert "after the commit" in caplog.text


def test_reading_refuses_writes(store: Store):
    with pytest.raises(RuntimeError, match=r"use begin\(\) to write"), store.read() as tx:
        tx.events.add([make_event("e1")])
    with pytest.raises(RuntimeError, match="for reading"), store.read() as tx:
        tx.set_meta("x", "1")
    with store.begin() as tx:
        tx.set_meta("x", "2")


def test_a_reader_sees_one_state_and_waits_for_nobody(shared_store: Store):
    with shared_store.begin() as tx:
        tx.events.add([make_event("e1")])
    with shared_store.read() as reader:
        assert [event.id for event in reader.events.page()] == ["e1"]
        with shared_store.begin() as tx:
            tx.events.add([make_event("e2")])
        assert [event.id for event in reader.events.page()] == ["e1"]
    assert ids(shared_store) == ["e1", "e2"]


def test_a_reader_in_memory_sees_what_its_own_thread_wrote(memory_store: Store):
    with memory_store.begin() as tx:
        tx.events.add([make_event("e1")])
        assert ids(memory_store) == ["e1"]


@pytest.fixture
def memory_store():
    from eventproc.store.memory import MemoryStore

    store = MemoryStore()
    yield store
    store.close()


def test_a_second_transaction_of_the_same_thread_is_refused_instead_of_waiting_for_ever(memory_store, tmp_path):
    file_store = open_store(f"sqlite:///{tmp_path}/a.db")
    file_store.upgrade()
    for one in (memory_store, file_store):
        with one.begin(), pytest.raises(RuntimeError, match="pass its Tx on"), one.begin():
            pass
        with one.begin() as tx:
            tx.set_meta("x", "1")
    file_store.close()


def test_threads_write_in_turn(store: Store):
    def count() -> None:
        for _ in range(25):
            with store.begin() as tx:
                if store.__class__.__name__ == "SqlStore":
                    tx.series.lock("none")  # takes a connection, as any work would
                tx.users.all()
                tx.audit.add(user="u", action="a", object="o", detail={}, now_us=1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        assert len(tx.audit.page(limit=1000)) == 100


# ------------------------------------------------------------------------------------------------ join


@pytest.fixture
def callers_engine(store_url: str):
    """The caller's own engine on the same database, set up as callers do: not at all."""
    url = store_url.replace("postgresql://", "postgresql+psycopg://")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE orders (name TEXT)")
    yield engine
    engine.dispose()


def orders(engine) -> list[str]:
    with engine.connect() as conn:
        return list(conn.exec_driver_sql("SELECT name FROM orders").scalars())


ORDER = sqlalchemy.text("INSERT INTO orders VALUES ('o')")


def test_an_event_joins_the_callers_session(shared_store, callers_engine):
    world = World(shared_store)
    handler = world.handler()
    woken: list[str] = []
    with orm.Session(callers_engine) as session:
        session.execute(ORDER)
        tx = shared_store.join(session)
        [(event, _)] = tx.events.add([make_event("e1", tags=("t",))])
        tx.runs.add(event.seq, [NewRun(handler_id=handler.id, version=0, isolation="run")], now_us=1)
        tx.after_commit(lambda: woken.append("now"))
        assert ids(shared_store) == []
        session.commit()
        assert woken == ["now"]
        session.execute(ORDER)
        session.commit()
    assert woken == ["now"]
    assert ids(shared_store) == ["e1"]
    assert orders(callers_engine) == ["o", "o"]
    assert len(world.claim()) == 1


def test_a_rollback_of_the_callers_session_takes_the_event_along(shared_store, callers_engine):
    woken: list[str] = []
    with orm.Session(callers_engine) as session:
        session.execute(ORDER)
        tx = shared_store.join(session)
        tx.events.add([make_event("e1")])
        tx.after_commit(lambda: woken.append("now"))
        session.rollback()
        session.execute(ORDER)
        session.commit()
    assert woken == []
    assert ids(shared_store) == []
    assert orders(callers_engine) == ["o"]


def test_a_savepoint_is_not_the_commit(shared_store, callers_engine):
    woken: list[str] = []
    with orm.Session(callers_engine) as session:
        with session.begin_nested():
            shared_store.join(session).after_commit(lambda: woken.append("now"))
        assert woken == []
        with pytest.raises(Boom), session.begin_nested():
            raise Boom
        session.commit()
    assert woken == ["now"]


def test_an_event_joins_the_callers_connection(shared_store, callers_engine):
    woken: list[str] = []
    with callers_engine.begin() as conn:
        conn.execute(ORDER)
        tx = shared_store.join(conn)
        tx.events.add([make_event("e1")])
        tx.after_commit(lambda: woken.append("now"))
        assert woken == []
    assert woken == ["now"]
    with contextlib.suppress(Boom), callers_engine.begin() as conn:
        tx = shared_store.join(conn)
        tx.events.add([make_event("e2")])
        tx.after_commit(lambda: woken.append("again"))
        raise Boom
    assert woken == ["now"]
    assert ids(shared_store) == ["e1"]


def test_a_session_can_join_many_times(shared_store, callers_engine):
    woken: list[int] = []
    with orm.Session(callers_engine) as session:
        for number in range(5):
            tx = shared_store.join(session)
            tx.events.add([make_event(f"e{number}")])
            tx.after_commit(lambda number=number: woken.append(number))
            if number % 2:
                session.commit()
        session.commit()
    assert woken == [0, 1, 2, 3, 4]


def test_joining_a_scoped_session_works_too(shared_store, callers_engine):
    scoped = orm.scoped_session(orm.sessionmaker(callers_engine))
    shared_store.join(scoped).events.add([make_event("e1")])
    scoped.commit()
    scoped.remove()
    assert ids(shared_store) == ["e1"]


def test_another_database_can_not_be_joined(shared_store, tmp_path):
    empty = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/other.db")
    with orm.Session(empty) as session, pytest.raises(ConfigError, match="another database"):
        shared_store.join(session)
    platform = open_store(f"sqlite:///{tmp_path}/platform.db")
    platform.upgrade()
    platform.close()
    second = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/platform.db")
    with second.connect() as conn, pytest.raises(ConfigError, match="another database"):
        shared_store.join(conn)
    with pytest.raises(ConfigError, match="Session or Connection, not str"):
        shared_store.join("sqlite://")
    empty.dispose()
    second.dispose()


# ------------------------------------------------------------------------------------------------ bad days

WRITE_AND_HANG = """
import sys, time
sys.path.insert(0, sys.argv[2])
from store_world import World, make_event
from eventproc.model import NewRun
from eventproc.store import open_store

store = open_store(sys.argv[1])
world = World(store)
handler = world.handler()
world.run(handler, event="before")
with store.begin() as tx:
    for number in range(300):
        world.run_in(tx, handler, event=f"half-{number}", hook=None)
    tx.series
    print("inside", flush=True)
    time.sleep(600)
"""


def test_killing_a_process_inside_a_transaction_leaves_nothing_half_written(shared_store, store_url):
    tests = str(Path(store_world.__file__).parent)
    command = [sys.executable, "-c", WRITE_AND_HANG, store_url, tests]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert ids(shared_store) == ["before"]
    with shared_store.read() as tx:
        assert tx.runs.counts() == {"queued": 1}
    with shared_store.begin() as tx:
        tx.events.add([make_event("half-1")])
    assert ids(shared_store) == ["before", "half-1"]


def test_a_database_that_another_process_holds_is_unavailable_and_says_so(tmp_path):
    path = tmp_path / "a.db"
    store = open_store(f"sqlite:///{path}?busy_timeout=0.05")
    store.upgrade()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another process holds it"), store.begin():
        pass
    with store.read() as tx:
        assert tx.users.all() == []
    other.execute("ROLLBACK")
    with store.begin() as tx:
        tx.set_meta("x", "1")
    other.close()
    store.close()


def test_a_short_hold_by_another_process_is_waited_for(tmp_path):
    path = tmp_path / "a.db"
    store = open_store(f"sqlite:///{path}")
    store.upgrade()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Event()

    def write() -> None:
        with store.begin() as tx:
            tx.set_meta("x", "1")
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.05)
    other.execute("COMMIT")
    thread.join()
    assert done.is_set()
    other.close()
    store.close()


def test_a_full_disk_is_unavailable_and_writes_nothing(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    store.upgrade()
    with store.begin() as tx:
        pages = tx.work.conn.exec_driver_sql("PRAGMA page_count").scalar()
        tx.work.conn.exec_driver_sql(f"PRAGMA max_page_count = {pages + 3}")
        tx.events.add([make_event("small")])

    def overflow() -> None:
        with store.begin() as tx:
            tx.events.add([make_event("before")])
            tx.events.add([make_event("big", payload_json='"' + "x" * 1_000_000 + '"')])

    with pytest.raises(StoreUnavailable, match="disk is full"):
        overflow()
    assert ids(store) == ["small"]
    with store.begin() as tx:
        tx.events.add([make_event("after")])
    assert ids(store) == ["small", "after"]
    store.close()


def test_connections_in_use_when_a_store_closes_close_when_they_come_back(store_url, request):
    store = open_store(store_url)
    path = store_url.removeprefix("sqlite:///")

    def connections() -> int:
        if not store_url.startswith("sqlite"):
            server, database = request.getfixturevalue("postgres"), store_url.rpartition("/")[2]
            with psycopg.connect(server.url("postgres")) as conn:
                found = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [database]).fetchone()
            return found[0] if found else 0
        return [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()].count(os.path.realpath(path))

    with store.read() as reading, store.begin() as tx:
        tx.events.add([make_event("e1")])
        store.close()
        assert connections() == 2
        assert reading.events.page() == []
    wait_until(lambda: connections() == 0, what="the connections to be closed")
    another = open_store(store_url)
    assert ids(another) == ["e1"]
    another.close()


@pytest.mark.external_service
def test_a_lost_connection_is_unavailable_and_the_next_transaction_has_a_new_one(postgres, postgres_template):
    database = postgres.create(postgres_template)
    store = open_store(postgres.url(database))
    end_sessions = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'"
    assert ids(store) == []

    def lose() -> None:
        with store.begin() as tx:
            tx.events.add([make_event("e1")])
            postgres.execute(end_sessions)
            tx.events.add([make_event("e2")])

    with pytest.raises(StoreUnavailable, match="PostgreSQL"):
        lose()
    assert ids(store) == []
    with store.begin() as tx:
        tx.events.add([make_event("e3")])
    postgres.execute(end_sessions)
    assert ids(store) == ["e3"]
    store.close()


def test_a_server_that_is_not_there_is_unavailable():
    from servers import free_port

    store = open_store(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with pytest.raises(StoreUnavailable, match="PostgreSQL can not be reached"), store.begin():
        pass
    store.close()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nonsense", "can not be read"),
        ("mysql://x/y", "not supported"),
        ("sqlite://", "needs a path"),
        ("sqlite:///x.db?busy_timeout=soon", "number of seconds"),
        ("sqlite:///x.db?timeout=5", "unknown settings: timeout"),
        ("sqlite:////proc/none/x.db", "can not be made"),
    ],
)
def test_a_bad_url_says_what_is_wrong(url, text):
    with pytest.raises(ConfigError, match=text):
        open_store(url)


def test_a_new_database_file_is_its_owners_own(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/new/a.db")
    store.upgrade()
    assert (tmp_path / "new" / "a.db").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "new").iterdir())
    store.close()


def test_a_password_is_never_in_an_error():
    from servers import free_port

    store = open_store(f"postgresql://ada:geheim@127.0.0.1:{free_port()}/none")
    with pytest.raises(StoreUnavailable) as caught, store.begin():
        pass
    assert "geheim" not in str(caught.value)
    store.close()


@pytest.mark.parametrize(("durability", "level"), [("normal", 1), ("full", 2)])
def test_durability_decides_whether_commits_wait_for_the_disk(tmp_path, durability, level):
    store = open_store(f"sqlite:///{tmp_path}/a.db", durability=durability)
    store.upgrade()
    with store.begin() as tx:
        assert tx.work.conn.exec_driver_sql("PRAGMA synchronous").scalar() == level
        assert tx.work.conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert tx.work.conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with pytest.raises(ConfigError, match="normal or full"):
        open_store("sqlite:///x.db", durability="maybe")
    store.close()


def test_processes_share_a_database(shared_store, store_url):
    world = World(shared_store)
    handler = world.handler()
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from store_world import make_event\nfrom eventproc.store import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "for number in range(40):\n"
        "    with store.begin() as tx: tx.events.add([make_event(f'{sys.argv[3]}-{number}')])\n"
    )
    tests = str(Path(store_world.__file__).parent)
    processes = [subprocess.Popen([sys.executable, "-c", code, store_url, tests, str(n)]) for n in range(3)]
    done = 0
    for _ in range(40):
        world.run(handler)
        done += sum(world.finish(claim) for claim in world.claim())
    wait_until(lambda: all(process.poll() is not None for process in processes), what="the processes to end")
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert done == 40
    assert len([name for page in [shared_store] for name in _all_ids(page)]) == 160


def _all_ids(store: Store) -> list[str]:
    with store.read() as tx:
        return [event.id for event in tx.events.page(limit=1000)]


def test_registrations_and_claims_at_once_do_not_block_each_other(shared_store):
    world = World(shared_store)
    owner = world.user()
    handler = world.handler()
    world.runs(handler, 40)
    stop = threading.Event()

    def register() -> None:
        while not stop.is_set():
            with shared_store.begin() as tx:
                tx.handlers.put(make_registration(), owner=owner, now_us=1)

    thread = threading.Thread(target=register)
    thread.start()
    done = 0
    while done < 40:
        done += sum(world.finish(claim, RunState.SUCCEEDED) for claim in world.claim(5))
    stop.set()
    thread.join()
    assert done == 40
