"""Other Pythons and packages on a running platform: from registration to result, and when something is missing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import threading

import pytest
from pythons_world import another, blob_of, make_wheel, make_wheels, others
from serving import Served
from waiting import wait_until

from eventproc import Connection
from eventproc.codec.bundle import digest_of
from eventproc.errors import EventprocError, InvalidInput, RequirementsError, VersionMismatch
from eventproc.model import HandlerBundle
from eventproc.model.marks import HandlerMark

pytestmark = pytest.mark.slow

TELLS = """
def handler(db, door, **payload):
    import sys
    return [door, sys.version_info[1]]
"""
PAINTS = """
def handler(db, **payload):
    import paint, sys
    return [paint.NAME, sys.version_info[1]]
"""


def paints():
    def handler(db, **payload):
        import paint

        return paint.NAME

    return handler


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = tmp_path_factory.mktemp("platform")
    make_wheels(directory / "wheels")
    served = Served(
        directory / "data",
        EVENTPROC_ENVIRONMENTS__FIND_LINKS=str(directory / "wheels"),
        EVENTPROC_ENVIRONMENTS__OFFLINE="true",
    )
    served.start()
    served.connect().put_hook("door.opened", summary="A door was opened.", sample={"door": "north"})
    yield served
    served.close()


@pytest.fixture
def conn(served):
    conn = served.connect()
    yield conn
    for handler in conn.list_handlers():
        conn.deregister(handler.id)


def bundle(blob: bytes, python: str) -> HandlerBundle:
    return HandlerBundle(
        blob=blob, digest=digest_of(blob), python=python, dill="0.4.1", source=TELLS, filename=None, qualname="handler"
    )


def send(conn: Connection, blob: bytes, python: str, *, name: str = "handler", **options) -> dict:
    return conn.send_bundle(bundle(blob, python), HandlerMark(name=name, hook="door.opened", options=options))


def is_taken(served: Served) -> bool:
    with contextlib.closing(sqlite3.connect(served.data / "eventproc.db")) as db:
        return bool(
            db.execute("SELECT 1 FROM preparations WHERE worker IS NOT NULL AND answer_json IS NULL").fetchall()
        )


def result(conn: Connection) -> object:
    (run_id,) = conn.emit("door.opened", {"door": "north"})["runs"]
    run = conn.wait(run_id, timeout=60)
    assert run["state"] == "succeeded", run
    return run["result"]


def test_a_handler_of_another_python_runs_with_it(conn):
    python = another()
    registered = send(conn, blob_of(python, TELLS), python.version)
    assert conn.version(registered["id"], 0)["python"] == python.version
    assert result(conn) == ["north", python.release[1]]
    dry = conn.dry_run(registered["id"], payload={"door": "south"})
    assert dry["result"] == ["south", python.release[1]]


@pytest.mark.parametrize("isolation", ["run", "batch", "cell"])
def test_a_handler_has_the_packages_it_was_registered_with(conn, isolation):
    handler = conn.register(
        paints(), hook="door.opened", name="painter", requirements=["paint", "colours<2"], isolation=isolation
    )
    assert result(conn) == "red"
    version = conn.version(handler.id, handler.version)
    assert version["packages"] == ["colours==1.0", "paint==1.1"]
    assert version["options"]["requirements"] == ["paint", "colours<2"]
    assert version["lock"].count("sha256") == 2
    assert conn.dry_run(handler.id, payload={"door": "x"})["result"] == "red"


def test_packages_for_another_python(conn):
    python = another()
    send(conn, blob_of(python, PAINTS), python.version, requirements=["paint"])
    assert result(conn) == ["blue", python.release[1]]


def test_the_next_version_keeps_the_old_ones_packages(conn):
    first = conn.register(paints(), hook="door.opened", name="painter", requirements=["paint", "colours<2"])
    second = conn.register(paints(), hook="door.opened", name="painter", requirements=["paint"])
    assert result(conn) == "blue"
    conn.set_current(first.id, first.version)
    assert result(conn) == "red"
    assert second.id == first.id


def test_packages_that_are_not_there_refuse_the_registration_with_the_installers_words(served, conn):
    with pytest.raises(RequirementsError, match="nosuchthing was not found"):
        conn.register(paints(), hook="door.opened", requirements=["paint", "nosuchthing"])
    with pytest.raises(InvalidInput, match="names a URL"):
        conn.register(paints(), hook="door.opened", requirements=["paint @ file:///tmp/paint.whl"])
    assert conn.list_handlers() == []


def test_a_python_that_nobody_has_is_refused_with_both_named(conn):
    with pytest.raises(VersionMismatch, match=r"made by Python 3\.7; the workers here run 3\.") as caught:
        send(conn, b"never loaded", "3.7")
    assert caught.value.details["python"] == "3.7"
    assert set(caught.value.details["pythons"]) >= set(others())


def test_many_registrations_at_once_install_once(served, conn):
    make_wheel(served.data.parent / "wheels", "shared", "1", {"shared.py": "x = 1\n"})
    failures = []

    def register(number: int) -> None:
        try:
            served.connect().register(
                paints(), hook="door.opened", name=f"p-{number}", requirements=["paint", "shared"]
            )
        except EventprocError as error:
            failures.append(error)

    threads = [threading.Thread(target=register, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    listed = json.loads(served.cli("environments", "list", "--json").stdout)
    (found,) = [row for row in listed if "shared==1" in row["packages"]]
    assert len(found["handlers"]) == 5
    assert served.log.read_text(errors="replace").count(f"name={found['name'][:12]}") == 1


def test_doctor_lists_interpreters_and_packages(served):
    said = json.loads(served.cli("doctor", "--json").stdout)["findings"]
    (line,) = [each["says"] for each in said if each["what"] == "interpreters" and each["level"] == "ok"]
    assert all(f"({python.path})" in line for python in others().values())
    assert any(each["what"] == "environments" and str(served.data.parent / "wheels") in each["says"] for each in said)


def test_a_worker_killed_while_it_prepares_is_replaced(served, conn):
    """The supervisor starts another, which takes the registration over."""
    done: list[object] = []

    def register() -> None:
        try:
            done.append(served.connect().register(slow(), hook="door.opened", name="slow", requirements=["paint"]))
        except EventprocError as error:
            done.append(error)

    def slow():
        import time

        class Slow:
            def __reduce__(self):
                return (time.sleep, (3,))

        pause = Slow()

        def handler(db, **payload):
            return 1 if pause is None else 2

        return handler

    wait_until(lambda: served.pid_of("worker"), what="a worker")
    thread = threading.Thread(target=register)
    thread.start()
    wait_until(lambda: is_taken(served), what="a worker that took it")
    os.kill(served.pid_of("worker"), signal.SIGKILL)
    thread.join(120)
    assert getattr(done[0], "name", done) == "slow"
    assert result(conn) == 1


def test_what_is_installed_is_listed_pruned_and_installed_again(served):
    conn = served.connect()
    handler = conn.register(paints(), hook="door.opened", name="painter", requirements=["paint==1.1", "colours==1.0"])
    digest = conn.version(handler.id, handler.version)["environment"]
    listed = {row["name"]: row for row in json.loads(served.cli("environments", "list", "--json").stdout)}
    assert listed[digest]["handlers"] == ["door.opened/painter"]
    assert served.cli("environments", "list").returncode == 0
    kept = json.loads(served.cli("environments", "prune", "--json").stdout)
    assert digest not in kept["removed"] + kept["in_use"]
    served.stop()  # nothing uses it now; and the host that starts again has nothing, as another host would
    gone = json.loads(served.cli("environments", "prune", "--all", "--json").stdout)
    assert digest in gone["removed"]
    served.start()
    again = served.connect()
    assert result(again) == "red"
    again.deregister(handler.id)
