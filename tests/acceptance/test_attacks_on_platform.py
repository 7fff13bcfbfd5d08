"""
Hostile handlers, registered by a user on a running platform.

Each is contained, no canary is touched, the platform's own files and processes are as before, and a good handler runs
right afterwards. Then the whole collection is let loose at a time, on platforms at both levels, of root and of an
ordinary user; the sandbox alone meets it in tests/integration/test_sandbox_attacks.py.
"""

# Handlers stand here as users write them.
# ruff: noqa: PTH101, PTH109, PTH120, PTH123

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attacks import ATTACKS, by_value
from attacks.powers import POWER_ATTACKS
from sandbox_canaries import ORDINARY, SECRET, Canaries, environment, interpreter_for
from serving import Served
from slowness import SLOWER
from waiting import wait_until

from eventproc import Connection

pytestmark = pytest.mark.slow

LIMITS = {
    "timeout": f"{5 * SLOWER:g}s",
    "cpu": f"{2 * SLOWER:g}s",
    "memory": "400MB",
    "files": {"size": "16MiB", "open": 64},
    "processes": 40,
    "scratch": {"size": "32MiB", "files": 2000},
}
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


@pytest.fixture
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


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("name", ROWS)
def test_a_registered_attack_is_contained_in_a_cell(conn, knowledge, name):
    contained(attack(conn, name, knowledge, "cell"), name)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("name", [CANARY, "admin.key", "eventproc.db", "secret.key", "endpoints.json"])
def test_a_handler_can_not_read_the_platforms_own_files(served, conn, knowledge, name):
    target = served.data / name
    if not target.exists():  # here the key is in the environment
        target.write_text(SECRET)
    for row in ("read_platform_file", "symlink_scratch", "proc_root_tricks"):
        contained(attack(conn, row, {**knowledge, "file": str(target)}), row)


@pytest.mark.usefixtures("unharmed")
def test_a_handler_can_not_reach_the_platforms_own_doors(served, conn, knowledge):
    """The API listens on loopback, wake-ups come through sockets in the data directory."""
    port = int(served.endpoints["http"].rpartition(":")[2].strip("/"))
    contained(attack(conn, "connect_loopback_tcp", {**knowledge, "tcp": port}), "connect_loopback_tcp")
    sockets = [path for path in served.data.rglob("*") if path.is_socket()]
    assert sockets
    for path in sockets:
        contained(attack(conn, "unix_dgram_pair_sendto", {**knowledge, "dgram": str(path)}), "unix_dgram_pair_sendto")


@pytest.mark.usefixtures("unharmed")
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


# ---------------------------------------------------------------------- everything at once, everywhere

# What a container does with Docker's default profile: no namespaces, so that level B is what can be had.
WITHOUT_NAMESPACES = """
import runpy, sys
from eventproc.child.layers import kernel, seccomp
from eventproc.child.layers.tables import TABLES
numbers = {"x86_64": (272, 308, 165), "aarch64": (97, 268, 40)}[kernel.MACHINE]  # unshare, setns, mount
program = seccomp.Program(TABLES[kernel.MACHINE])
for number in numbers:
    program.answer(number, 1)
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(program.finish())
sys.argv[0] = "eventproc"
runpy.run_module("eventproc", run_name="__main__", alter_sys=True)
"""


@contextlib.contextmanager
def platform(level: str, who: str, directory: Path) -> Iterator[Served]:
    """Serve at that level and as that user."""
    directory.mkdir()
    made = Served(
        directory / "data",
        **environment(),
        EVENTPROC_WORKER__SLOTS="10",
        EVENTPROC_POLICY__NETWORK="any",
    )
    made.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    if who == "user" and os.geteuid() == 0:
        os.chown(directory, ORDINARY, ORDINARY)
        made.account = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []}
    python = interpreter_for(who)
    made.command = [python, "-m", "eventproc"] if level == "A" else [python, "-c", WITHOUT_NAMESPACES]
    try:
        yield made.start()
    finally:
        made.close()


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("level", ["A", "B"])
def test_all_attacks_at_a_time_are_contained(level, who):
    """On a platform of its own; with nothing granted, and with what a registration can ask for at that level."""
    if who == "root" and os.geteuid() != 0:
        pytest.skip("needs root")
    with (
        tempfile.TemporaryDirectory(prefix="ep-attacked-") as directory,
        contextlib.ExitStack() as stack,
    ):
        Path(directory).chmod(0o755)
        canaries = Canaries()
        stack.enter_context(canaries.stack)
        served = stack.enter_context(platform(level, who, Path(directory) / "own"))
        conn = served.connect()
        before = _roles(served)
        known = {**canaries.told(level, who), "pids": [*canaries.told(level, who)["pids"], *before.values()]}
        attacks = {name: (*attack, "") for name, attack in ATTACKS.items()} | {
            name: attack for name, attack in POWER_ATTACKS.items() if attack[2] != "subprocess" or level == "A"
        }
        runs = {name: _let_loose(conn, name, attack, known) for name, attack in attacks.items()}
        escaped = {}
        for name, run_id in runs.items():
            run = conn.wait(run_id)
            assert run["sandbox"].startswith(f"{level}, ")
            kind = (run["failure"] or {}).get("kind")
            if kind not in attacks[name][1] and not str(run["result"]).startswith("contained"):
                escaped[name] = run["failure"] or run["result"]
        assert escaped == {}
        assert canaries.touched() == []
        assert _roles(served) == before
        conn.put_hook("good", summary="x", sample={})
        conn.register(lambda db, n, **kwargs: f"fine {n}", hook="good", name="good")
        assert conn.wait(conn.emit("good", {"n": 1})["runs"][0])["result"] == "fine 1"


def _roles(served: Served) -> dict[str, int | None]:
    return {role: served.pid_of(role) for role in ("api", "engine", "worker", "notifier")}


def _let_loose(conn: Connection, name: str, attack: tuple[Any, tuple[str, ...], str], known: dict[str, Any]) -> int:
    function, _, power = attack
    conn.put_hook(name, summary="x", sample={})
    asked = {"subprocess": {"allow_subprocess": True}, "network": {"network": ["127.0.0.1:9"]}}.get(power, {})
    conn.register(by_value(function), hook=name, name=name, **LIMITS, **asked)
    run: int = conn.emit(name, known)["runs"][0]
    return run


def test_the_database_is_whole_after_all_of_it(served, conn):
    base = sqlite3.connect(f"file:{served.data / 'eventproc.db'}?mode=ro", uri=True)
    try:
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        base.close()
    assert [user["name"] for user in conn.request("GET", "/users")["items"]] == ["admin"]
