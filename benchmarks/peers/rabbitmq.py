"""One RabbitMQ node on loopback, without systemd: started for a benchmark and gone with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

BIN = Path("/usr/lib/rabbitmq/bin")
INSTALL = "apt-get install rabbitmq-server"


class ServerMissing(Exception):
    """The server is not installed; the text says how to install it."""


def _free_ports(count: int) -> int:
    """Return the first of so many free ports in a row."""
    for base in range(25_000, 60_000, 10):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    sock = stack.enter_context(socket.socket())
                    sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise ServerMissing("no free ports on 127.0.0.1")


@contextlib.contextmanager
def rabbitmq() -> Iterator[str]:
    """Run a node; yields its URL."""
    if not (BIN / "rabbitmq-server").exists():
        raise ServerMissing(f"RabbitMQ is not installed; try: {INSTALL}")
    home = Path(tempfile.mkdtemp(prefix="eventproc-rabbitmq-"))
    port = _free_ports(3)
    env = _environment(home, port)
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\n"
        "vm_memory_high_watermark.absolute = 512MiB\n"
        "disk_free_limit.absolute = 200MB\n"
    )
    cookie = home / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(20))
    cookie.chmod(0o400)
    with (home / "out").open("wb") as out:
        server = subprocess.Popen([BIN / "rabbitmq-server"], env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        wait = [BIN / "rabbitmqctl", "wait", "--timeout", "60", home / "pid"]
        subprocess.run(wait, env=env, check=True, stdout=subprocess.DEVNULL)
        yield f"amqp://guest:guest@127.0.0.1:{port}/%2F"
    finally:
        _stop(server, home, env)


def _environment(home: Path, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_DIST_PORT": str(port + 2),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(port + 1),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }


def _stop(server: subprocess.Popen[bytes], home: Path, env: dict[str, str]) -> None:
    """End the node and the port mapper that it started, which has made itself a daemon."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    epmd = shutil.which("epmd") or next(iter(map(str, Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))), None)
    if epmd is not None:
        subprocess.run([epmd, "-kill"], env=env, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(home, ignore_errors=True)
