"""Canaries: what stands open to everybody on this machine, and no handler may reach."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from slowness import SLOWER

ORDINARY = 54_321  # a user id that owns nothing
SECRET = "canary-7f3a9c"


TESTS = Path(__file__).parent


def interpreter_for(who: str) -> str:
    """Return an interpreter of our version that the user can start, with all we need on its path."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"]
    for candidate in candidates:
        if not shutil.which(candidate):
            continue
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [candidate, "-c", "import dill, numpy, structlog, eventproc"],
                user=ORDINARY if who == "user" else None,
                env=environment(),
                cwd="/",
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return candidate
    pytest.skip(f"no Python {version} that user {ORDINARY} can start: install python{version} for all users")


def environment() -> dict[str, str]:
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return {
        **{name: os.environ[name] for name in ("EVENTPROC_TEST_SLOWER",) if name in os.environ},
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), *packages]),
        "ENVIRONMENT": SECRET,
        "EVENTPROC_SECRET_KEY": SECRET,
    }


class Canaries:
    """Things that stand open to everybody on this machine; no handler may reach them."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="ep-canary-")))
        self.directory.chmod(0o755)
        self.file = self.directory / "secret.txt"
        self.file.write_text(SECRET)
        os.utime(self.file, (1_700_000_000, 1_700_000_000))
        self.tcp = self._socket(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.udp = self._socket(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self.unix = self._socket(socket.AF_UNIX, socket.SOCK_STREAM, str(self.directory / "socket"))
        self.dgram = self._socket(socket.AF_UNIX, socket.SOCK_DGRAM, str(self.directory / "dgram"))
        self.name = self.directory.name
        self.abstract = self._socket(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.name}")
        for name in ("socket", "dgram"):
            (self.directory / name).chmod(0o777)
        self._before = self._look()
        self.victims = [self._victim(user) for user in (None, ORDINARY) if user is None or os.geteuid() == 0]

    def _socket(self, family: int, kind: int, address) -> socket.socket:
        made = self.stack.enter_context(socket.socket(family, kind))
        made.bind(address)
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.listen(100)
        return made

    def _victim(self, user: int | None) -> subprocess.Popen[bytes]:
        victim = subprocess.Popen(["sleep", str(600 * SLOWER)], user=user, env={"CANARY": SECRET})
        self.stack.callback(victim.wait)
        self.stack.callback(victim.kill)
        return victim

    def told(self, level: str, who: str) -> dict[str, object]:
        """Return what attacks need to know; the file then belongs to the platform's user, as its own ones do."""
        if who == "user" and os.geteuid() == 0:
            os.chown(self.file, ORDINARY, ORDINARY)
        self._before = self._look()
        return {
            "file": str(self.file),
            "secret": SECRET,
            "pids": [victim.pid for victim in self.victims],
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "unix": str(self.directory / "socket"),
            "dgram": str(self.directory / "dgram"),
            "abstract": self.name,
            "level": level,
            "user": who == "user",
        }

    def _look(self) -> tuple[object, ...]:
        found = self.file.stat()
        return found.st_mode, found.st_mtime_ns, found.st_size, found.st_uid, os.listxattr(self.file)

    def touched(self) -> list[str]:
        """Return what somebody has reached."""
        found = [f"victim {victim.pid}" for victim in self.victims if victim.poll() is not None]
        if self._look() != self._before:
            found.append(f"file {self._before} → {self._look()}")
        for name in ("tcp", "unix", "abstract"):
            with contextlib.suppress(BlockingIOError):
                getattr(self, name).accept()
                found.append(name)
        for name in ("udp", "dgram"):
            with contextlib.suppress(BlockingIOError):
                getattr(self, name).recv(100)
                found.append(name)
        return found
