"""One PostgreSQL server on a UNIX socket and loopback, with its defaults (fsync on): gone with the benchmark."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from peers.rabbitmq import ServerMissing

INSTALL = "apt-get install postgresql"


def _bin() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise ServerMissing(f"PostgreSQL is not installed; try: {INSTALL}")
    return Path(on_path).parent


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run a server; yields the URL of an empty database. It refuses to run as root, so root lends it a user."""
    tools = _bin()
    home = Path(tempfile.mkdtemp(prefix="eventproc-postgresql-"))
    user: dict[str, object] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(home, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    data = home / "data"

    def run(*command: object) -> None:
        with (home.parent / f"{home.name}.log").open("ab") as log:
            subprocess.run([str(part) for part in command], check=True, cwd="/", stdout=log, stderr=log, **user)

    run(tools / "initdb", "-D", data, "-U", "bench", "--auth=trust", "--encoding=UTF8", "--locale=C")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home}"
    run(tools / "pg_ctl", "-D", data, "-l", home / "log", "-w", "-o", options, "start")
    try:
        run(tools / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "bench", "bench")
        yield f"postgresql://bench@127.0.0.1:{port}/bench"
    finally:
        run(tools / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(home, ignore_errors=True)
        (home.parent / f"{home.name}.log").unlink(missing_ok=True)


def fresh(url: str, number: int) -> str:
    """Make an empty database on the same server; return its URL."""
    import psycopg

    name = f"bench{number}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name}")
    return url.rsplit("/", 1)[0] + f"/{name}"
