"""
Hostile handlers, registered by a user on a running platform.

Each is contained, no canary is touched, the platform's own files and processes are as before, and a good handler runs
right afterwards. The whole collection meets the sandbox itself in tests/integration/test_sandbox_attacks.py.
"""

# Handlers stand here as users write them.
# ruff: noqa: PTH101, PTH109, PTH120, PTH123

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from sandbox_attacks import ATTACKS, by_value
from sandbox_canaries import SECRET, Canaries
from serving import Served
from waiting import wait_until

from eventproc import Connection

pytestmark = pytest.mark.slow

LIMITS = {"timeout": "5s", "cpu": "2s", "memory": "400MB", "files": {"size": "16MiB", "open": 64}}
CANARY = "in-the-data-directory.txt"
ROWS = [
    *("read_platform_file", "list_host", "symlink_scratch", "proc_root_tricks", "modify_existing_code"),
    *("read_env_of_others", "own_env_secrets", "scan_own_memory", "privileges"),
    *("connect_loopback_tcp", "send_udp", "unix_path_socket", "abstract_unix_socket", "unix_dgram_pair_sendto"),
    *("ptrace_parent", "process_vm_read_parent", "kill_everyone", "daemonise_outlive", "exec_shell"),
    *("fork_bomb", "thread_bomb", "memory_bomb", "disk_fill_scratch", "fd_exhaustion", "cpu_spin_ignore_signals"),
    *("new_userns", "mount_and_chroot", "kill_others", "kill_process_group", "giant_result", "evil_exception"),
]


@pytest.fixture(scope="module")
def canaries() -> Iterator[Canaries]:
    made = Canaries()
    with made.stack:
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("attacked")
    made = Served(directory / "data", ENVIRONMENT=SECRET, EVENTPROC_SECRET_KEY=SECRET)
    made.start()
    (made.data / CANARY).write_text(SECRET)
    made.data.chmod(0o755)
    yield made
    made.close()


@pytest.fixture(scope="module")
def conn(served: Served) -> Connection:
    connection = served.connect()
    connection.put_hook("good", summary="x", sample={})
    connection.register(lambda db, n, **kwargs: f"fine {n}", hook="good", name="good")
    return connection


@pytest.fixture(autouse=True)
def unharmed(served: Served, conn: Connection, canaries: Canaries) -> Iterator[None]:
    """See after each attack that the platform is as it was."""
    before = _state(served)
    yield
    assert canaries.touched() == []
    assert _state(served) == before
    run = conn.wait(conn.emit("good", {"n": 1})["runs"][0])
    assert (run["state"], run["result"]) == ("succeeded", "fine 1")
    assert conn.health()["status"] == "ok"


def _state(served: Served) -> dict[str, Any]:
    """Return what no handler may change: the platform's processes, keys, rights and the files it was given."""
    assert served.process is not None
    assert served.process.poll() is None
    files = [served.data / name for name in ("admin.key", "endpoints.json", CANARY)]
    return {
        "pids": {role: served.pid_of(role) for role in ("api", "engine", "worker", "notifier")},
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "modes": {file.name: file.stat().st_mode for file in files},
    }


@pytest.fixture(scope="module")
def knowledge(served: Served, conn: Connection, canaries: Canaries) -> dict[str, Any]:
    """Return all that an attacker could wish to know."""
    known: dict[str, Any] = canaries.told("A", "root")
    assert served.process is not None
    roles = [pid for pid in _state(served)["pids"].values() if pid is not None]
    return {**known, "pids": [*known["pids"], os.getpid(), served.process.pid, *roles]}


def attack(conn: Connection, name: str, payload: dict[str, Any], isolation: str = "run") -> dict[str, Any]:
    """Register the attack on a hook of its own, let it loose once, and take it away again."""
    hook = f"{name}.{isolation}"
    conn.put_hook(hook, summary="x", sample={})
    handler = conn.register(by_value(ATTACKS[name][0]), hook=hook, name=hook, isolation=isolation, **LIMITS)
    run = conn.wait(conn.emit(hook, payload)["runs"][0])
    conn.deregister(handler.id)
    return run


def contained(run: dict[str, Any], name: str) -> None:
    if run["failure"] is not None:
        assert run["failure"]["kind"] in ATTACKS[name][1], run["failure"]
    else:
        assert str(run["result"]).startswith("contained"), run["result"]
    assert run["attempt"] == 1


@pytest.mark.parametrize("isolation", ["run", "cell"])
@pytest.mark.parametrize("name", ROWS)
def test_a_registered_attack_is_contained(conn, knowledge, name, isolation):
    contained(attack(conn, name, knowledge, isolation), name)


@pytest.mark.parametrize("name", [CANARY, "admin.key", "eventproc.db", "secret.key", "endpoints.json"])
def test_a_handler_can_not_read_the_platforms_own_files(served, conn, knowledge, name):
    target = served.data / name
    if not target.exists():  # here the key is in the environment
        target.write_text(SECRET)
    for row in ("read_platform_file", "symlink_scratch", "proc_root_tricks"):
        contained(attack(conn, row, {**knowledge, "file": str(target)}), row)


def test_a_handler_can_not_reach_the_platforms_own_doors(served, conn, knowledge):
    """The API listens on loopback, wake-ups come through sockets in the data directory."""
    port = int(served.endpoints["http"].rpartition(":")[2].strip("/"))
    contained(attack(conn, "connect_loopback_tcp", {**knowledge, "tcp": port}), "connect_loopback_tcp")
    sockets = [path for path in served.data.rglob("*") if path.is_socket()]
    assert sockets
    for path in sockets:
        contained(attack(conn, "unix_dgram_pair_sendto", {**knowledge, "dgram": str(path)}), "unix_dgram_pair_sendto")


def test_a_handler_can_not_find_what_another_run_has_in_its_private_directory(conn, knowledge):
    """Both run at one time; the one looks for the other's file in all places and by all ways through /proc."""

    def keeps(db, secret, **kwargs):
        import os
        import time

        with open("kept.txt", "w") as file:
            file.write(secret)
        os.chmod("kept.txt", 0o666)
        os.chmod(".", 0o777)
        print("kept in", os.getcwd(), "by", os.getpid(), flush=True)
        while not db.events(hook="looked"):
            time.sleep(0.02)
        with open("kept.txt") as file:
            return file.read()

    def looks(db, **kwargs):
        import os

        own, found = os.path.realpath("."), []
        roots = [f"/proc/{pid}/{name}" for pid in range(1, 50) for name in ("cwd", "root/tmp")]
        for top in ["/", os.path.dirname(own), *roots]:
            for directory, _, names in os.walk(top, followlinks=False):
                if directory.startswith(("/proc/self", "/sys", "/usr", "/lib")) and top == "/":
                    continue
                found += [f"{directory}/{name}" for name in names if name == "kept.txt"]
        return found

    for hook in ("keeps", "looks", "looked"):
        conn.put_hook(hook, summary="x", sample={})
    for handler in (keeps, looks):
        conn.register(handler, hook=handler.__name__, timeout="60s")
    (kept,) = conn.emit("keeps", knowledge)["runs"]
    wait_until(lambda: "kept in" in "".join(chunk["text"] for chunk in conn.logs(kept)), what="the file to be there")
    looked = conn.wait(conn.emit("looks", {})["runs"][0])
    conn.emit("looked", {})
    assert (looked["state"], looked["result"]) == ("succeeded", [])
    assert conn.wait(kept)["result"] == SECRET


def test_the_database_is_whole_after_all_of_it(served, conn):
    base = sqlite3.connect(f"file:{served.data / 'eventproc.db'}?mode=ro", uri=True)
    try:
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        base.close()
    assert [user["name"] for user in conn.request("GET", "/users")["items"]] == ["admin"]
