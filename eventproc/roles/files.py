"""What a running platform keeps in its data directory: locks, endpoints.json, and the sockets it listens on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from eventproc.config import Address
from eventproc.datadir import write_atomically
from eventproc.errors import ConfigError, Conflict

BACKLOG = 1024  # connections that wait while the API restarts


class Lock:
    """A lock on a data directory, held as long as the process lives; the file names the holder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def take(self, what: str) -> None:
        """Take the lock. Raises Conflict naming the process that has it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise Conflict(
                f"{what} already runs on {self.path.parent.parent} (pid {holder}); "
                f"stop it, or choose another data directory with EVENTPROC_DATA",
                pid=holder,
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Watched:
    """A file that processes hold open, which nobody may put another one in the place of."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known = self._look()

    def _look(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def check(self) -> None:
        """Raise ConfigError if the name leads to another file by now, or nowhere."""
        if self._known is not None and self._look() != self._known:
            raise ConfigError(
                f"{self._path} was replaced or removed while the platform ran; what was accepted since then went into "
                "the file that it had open. Stop `eventproc serve` before you exchange its database"
            )


def write_endpoints(path: Path, endpoints: Mapping[str, str]) -> None:
    """State what is bound."""
    write_atomically(path, json.dumps(dict(endpoints), indent=2) + "\n", mode=0o644)


def change_endpoints(path: Path, add: Mapping[str, str], remove: Iterable[str] = ()) -> None:
    """State more or less than another role of the same data directory does."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    kept = {name: where for name, where in found.items() if name not in set(remove)} | dict(add)
    if kept:
        write_endpoints(path, kept)
    else:
        remove_endpoints(path)


def remove_endpoints(path: Path) -> None:
    """Remove the file. Raises ConfigError if something else has its name."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path} can not be replaced ({error.strerror}); `eventproc serve` writes where it listens there: "
            "move it away, or set EVENTPROC_DATA to another directory"
        ) from error


def bind(address: Address, *, variable: str) -> socket.socket:
    """Listen on an address. Raises ConfigError that says what to set when it can not be had."""
    any_port = f"{variable}={Address(address.host, 0)}"
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(f"{variable}={address}: the host {address.host!r} is not known ({error})") from error
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(_why_not(address, error, variable, any_port), port=address.port) from error
    sock.set_inheritable(False)
    return sock


def _why_not(address: Address, error: OSError, variable: str, any_port: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} on {address.host} is taken by another program; "
            f"set {variable} to another address, or {any_port} for any free port"
        )
    if error.errno == errno.EACCES:
        return f"port {address.port} may not be used by this user; set {variable}, for example {any_port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {address.host}; set {variable}, for example {variable}=127.0.0.1:0"
    return f"{variable}={address}: {error}"


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock for the block."""
    lock = Lock(path)
    lock.take(what)
    try:
        yield
    finally:
        lock.release()
