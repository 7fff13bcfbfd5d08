"""carbon-cache, Graphite's own storage, in a virtual environment of its own: gone with the benchmark."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peers.environment import cache_directory

REQUIREMENTS = ("carbon==1.1.10", "whisper==1.1.10")
SETTINGS = """
[cache]
USER =
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {port}
ENABLE_UDP_LISTENER = False
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = {pickle}
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = {query}
USE_INSECURE_UNPICKLER = False
MAX_CACHE_SIZE = inf
MAX_UPDATES_PER_SECOND = inf
MAX_CREATES_PER_MINUTE = inf
MIN_TIMESTAMP_RESOLUTION = 0
LOG_UPDATES = False
LOG_CREATES = False
CARBON_METRIC_INTERVAL = 0
ENABLE_TAGS = False
"""
SCHEMAS = "[all]\npattern = .*\nretentions = 300s:60d\n"
# Which of the files lack the last round yet; a file's last archive is read with whisper itself.
CHECK = """
import pathlib, sys, whisper
at, count = int(sys.argv[2]), int(sys.argv[3])
files = sorted(pathlib.Path(sys.argv[1]).rglob("*.wsp"))
def done(path):
    (start, end, step), values = whisper.fetch(str(path), at - 300, at, now=at + 1)
    return values and values[-1] is not None
print(sum(1 for path in files if done(path)) if len(files) >= count else 0)
"""


@dataclass
class Carbon:
    """A running carbon-cache."""

    home: Path
    python: Path
    port: int
    pid: int

    def finished(self, at: int, count: int) -> int:
        """Return how many of `count` metrics have their sample of the time `at` on the disk."""
        command = [self.python, "-c", CHECK, self.home / "storage" / "whisper", str(at), str(count)]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
        return int(done.stdout)


def python() -> Path:
    """Return the interpreter of carbon's environment; it is made when it is missing."""
    version, base = _interpreter()
    home = cache_directory() / f"carbon-{version}"
    found = home / "bin" / "python"
    if not (home / "complete").exists():
        print(f"installing carbon into {home} ...", file=sys.stderr)
        subprocess.run([base, "-m", "venv", "--clear", home], check=True)
        environ = {**os.environ, "GRAPHITE_NO_PREFIX": "True"}
        subprocess.run([found, "-m", "pip", "install", "-q", "setuptools<81", *REQUIREMENTS], check=True, env=environ)
        (home / "complete").touch()
    return found


def _interpreter() -> tuple[str, str]:
    """Return an interpreter that carbon can be installed for, with its version; its setup.py fails from 3.12 on."""
    if sys.version_info < (3, 12):
        return f"{sys.version_info.major}.{sys.version_info.minor}", sys.executable
    for version in ("3.11", "3.10", "3.9"):
        found = shutil.which(f"python{version}")
        if found and subprocess.run([found, "-c", "import ensurepip, venv"], check=False).returncode == 0:
            return version, found
    raise FileNotFoundError(f"{REQUIREMENTS[0]} can not be installed for Python 3.12 or newer: uv python install 3.11")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


@contextlib.contextmanager
def carbon() -> Iterator[Carbon]:
    """Run carbon-cache on a free port, without its limits on updates and creations."""
    interpreter = python()
    home = Path(tempfile.mkdtemp(prefix="eventproc-carbon-"))
    port, pickle, query = _free_ports(3)
    conf = home / "conf"
    for directory in (conf, home / "storage" / "log", home / "storage" / "whisper"):
        directory.mkdir(parents=True)
    (conf / "carbon.conf").write_text(SETTINGS.format(port=port, pickle=pickle, query=query))
    (conf / "storage-schemas.conf").write_text(SCHEMAS)
    environ = {**os.environ, "GRAPHITE_ROOT": str(home), "GRAPHITE_CONF_DIR": str(conf)}
    command = [
        interpreter,
        interpreter.with_name("carbon-cache.py"),
        "--config",
        conf / "carbon.conf",
        "--nodaemon",
        "start",
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], env=environ, stdout=log, stderr=log, cwd=home)
    try:
        _wait(process, port, home / "log")
        yield Carbon(home, interpreter, port, process.pid)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import time

    for _ in range(600):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"carbon-cache does not start: {log.read_text()[-2000:]}")
