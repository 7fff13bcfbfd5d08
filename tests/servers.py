"""Private servers on loopback that tests start for themselves and stop again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import psycopg
import pytest
from waiting import wait_until

PR_SET_PDEATHSIG = 1
APT_RABBITMQ = "apt-get install --no-install-recommends rabbitmq-server"
RABBITMQ = Path("/usr/lib/rabbitmq/bin")
APT_POSTGRESQL = "apt-get install --no-install-recommends postgresql"


def missing(what: str, command: str) -> Any:
    """Skip the test for want of a server; where CI is set, that is a failure."""
    text = f"{what} is not installed; install it with: {command}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_binaries() -> Path | None:
    """Find the directory with initdb and postgres: Debian keeps it out of PATH."""
    for directory in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


@dataclass(frozen=True)
class PostgresServer:
    """A running server; each database made here is dropped with it."""

    port: int

    def url(self, database: str) -> str:
        return f"postgresql://eventproc@127.0.0.1:{self.port}/{database}"

    def create(self, template: str | None = None) -> str:
        """Create a database, as a copy of another one if given; return its name."""
        name = f"t{uuid.uuid4().hex[:12]}"
        source = f' TEMPLATE "{template}"' if template else ""
        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            conn.execute(f'CREATE DATABASE "{name}"{source}')
        return name

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as conn:
            conn.execute(statement)


def _other_user() -> dict[str, Any]:
    # PostgreSQL refuses to run as root.
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    account = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _die_with_parent() -> None:
    # pytest may be killed: the server then stops by itself (SIGINT is its fast shutdown).
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a private PostgreSQL; for a fixture of session scope."""
    binaries = postgres_binaries()
    if binaries is None:
        missing("PostgreSQL", APT_POSTGRESQL)
    assert binaries is not None
    home = Path(tempfile.mkdtemp(prefix="eventproc-pg-"))
    account = _other_user()
    if account:
        os.chown(home, account["user"], account["group"])
    process: subprocess.Popen[bytes] | None = None
    try:
        data = home / "data"
        setup: list[str | Path] = [
            binaries / "initdb",
            "-D",
            data,
            "-A",
            "trust",
            "-U",
            "eventproc",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        subprocess.run(setup, check=True, capture_output=True, cwd=home, **account)
        process, port = _start(binaries, home, account)
        yield PostgresServer(port)
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        shutil.rmtree(home, ignore_errors=True)


def _start(binaries: Path, home: Path, account: dict[str, Any]) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "port": port,
        "fsync": "off",
        "full_page_writes": "off",
        "max_connections": 100,
    }
    command = [str(binaries / "postgres"), "-D", str(home / "data")]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with (home / "log").open("wb") as log:
        # Nothing is allocated or locked between fork and exec but by one prctl call.
        process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log, preexec_fn=_die_with_parent, **account)  # noqa: PLW1509 - see above

    def answers() -> bool:
        if process.poll() is not None:
            pytest.fail(f"PostgreSQL did not start: {(home / 'log').read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(psycopg.OperationalError):  # not up yet
            psycopg.connect(f"postgresql://eventproc@127.0.0.1:{port}/postgres").close()
            return True
        return False

    wait_until(answers, timeout_s=60, what="PostgreSQL to answer")
    return process, port


@dataclass
class RabbitServer:
    """A broker of our own on loopback, which can be stopped and started again."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def start(self) -> None:
        with (self.home / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [RABBITMQ / "rabbitmq-server"], env=self._environment(), stdout=out, stderr=out, start_new_session=True
            )

        def answers() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"RabbitMQ did not start: {(self.home / 'out').read_text(errors='replace')[-2000:]}")
            try:
                pika.BlockingConnection(pika.URLParameters(self.url)).close()
            except (pika.exceptions.AMQPError, OSError):
                return False
            return True

        wait_until(answers, timeout_s=120, what="RabbitMQ to answer")

    def kill(self) -> None:
        """End it at once, without a goodbye to anybody."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.kill()
        epmd = shutil.which("epmd") or next(iter(map(str, Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))), None)
        if epmd is not None:
            subprocess.run([epmd, "-kill"], env=self._environment(), check=False, capture_output=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        home = self.home
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.port + 1),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1 +sbwt none",
        }


def _port_with_neighbour() -> int:
    """
    Return a free port whose next one is free too: the broker's port mapper takes that.

    Below the ports that the kernel gives to clients, or one that tries to reach the broker while it is down may get
    the broker's own port.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port
    pytest.fail("no two free ports in a row on 127.0.0.1")


@contextlib.contextmanager
def rabbitmq_server() -> Iterator[RabbitServer]:
    """Run a private RabbitMQ; for a fixture of session or module scope."""
    if not (RABBITMQ / "rabbitmq-server").exists():
        missing("RabbitMQ", APT_RABBITMQ)
    home = Path(tempfile.mkdtemp(prefix="eventproc-rabbitmq-"))
    server = RabbitServer(home, _port_with_neighbour())
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{server.port}\n"
        "vm_memory_high_watermark.absolute = 512MiB\n"
        "disk_free_limit.absolute = 50MB\n"
    )
    cookie = home / ".erlang.cookie"
    cookie.write_text(uuid.uuid4().hex)
    cookie.chmod(0o400)
    try:
        server.start()
        yield server
    finally:
        server.close()
