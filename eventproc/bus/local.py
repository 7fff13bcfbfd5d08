"""
Wake-ups between processes of one host: UNIX datagram sockets in one directory.

A listener binds a socket whose file name lists its topics; to wake is to send the topics' names to every socket that
has one of them. A full socket already has wake-ups waiting, a dead one is swept away: neither blocks nor fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from eventproc.abc import Bus, Listener
from eventproc.errors import ConfigError

log = structlog.get_logger(__name__)

SUFFIX = ".wake"
MAX_PATH = 100  # bytes; sun_path holds 108
MAX_DATAGRAM = 4096  # bytes
TOPIC = re.compile(r"[a-z][a-z0-9_-]*")


class Directory:
    """The directory of sockets; also names files in it that would be too long as a socket's path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        longest = len(os.fsencode(path)) + 1 + 80
        self._prefix = str(path) if longest <= MAX_PATH else f"/proc/self/fd/{self._fd}"

    def address(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def names(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Return the sockets' file names with their topics."""
        with contextlib.suppress(FileNotFoundError):  # removed under us: then nobody listens
            for entry in os.scandir(self.path):
                name = entry.name
                if name.endswith(SUFFIX) and not name.startswith("."):
                    yield name, frozenset(name.split(".", 1)[0].split("+"))

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # somebody else swept it, or may not
            (self.path / name).unlink()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LocalListener(Listener):
    def __init__(self, bus: LocalBus, directory: Directory, topics: Iterable[str]) -> None:
        self.topics = frozenset(topics)
        for topic in self.topics:
            if not TOPIC.fullmatch(topic):
                raise ValueError(f"{topic!r} is no topic")
        self._bus = bus
        self._directory = directory
        self.name = f"{'+'.join(sorted(self.topics))}.{os.getpid()}.{secrets.token_hex(4)}{SUFFIX}"
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._poll = select.poll()
        try:
            # Bound under a hidden name first: a socket that shows is one that hears, or a sender would sweep it away.
            hidden = f".{secrets.token_hex(8)}"
            self._socket.bind(directory.address(hidden))
            (directory.path / hidden).chmod(0o600)
            (directory.path / hidden).rename(directory.path / self.name)
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"no socket for wake-ups can be made in {directory.path}: {error}") from error
        self._poll.register(self._socket, select.POLLIN)

    def wait(self, timeout_s: float) -> set[str]:
        if self._closed:
            return set()
        try:
            self._poll.poll(max(0.0, timeout_s) * 1000)
            return self._drain()
        except OSError:
            if self._closed:  # closed by another thread while we waited
                return set()
            raise

    def _drain(self) -> set[str]:
        woken: set[str] = set()
        while True:
            try:
                data = self._socket.recv(MAX_DATAGRAM)
            except BlockingIOError:
                return woken & self.topics
            if not data and self._closed:
                return set()
            woken.update(data.decode("ascii", "replace").split("+"))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._directory.remove(self.name)
        self._bus.forget(self)
        with contextlib.suppress(OSError):  # wakes a thread that waits; not connected is fine
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class LocalBus(Bus):
    """Wake-ups over sockets in `directory`, for all processes that share it."""

    def __init__(self, directory: Path | str) -> None:
        self._directory = Directory(Path(directory))
        self._lock = threading.Lock()
        self._listeners: set[LocalListener] = set()
        self._closed = False
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._complained_at = -1e9

    def wake(self, *topics: str) -> None:
        if not topics or self._closed:
            return
        message = "+".join(topics).encode()
        wanted = frozenset(topics)
        try:
            for name, heard in self._directory.names():
                if wanted & heard:
                    self._send(name, message)
        except OSError as error:  # a lost wake-up costs time, never work: everybody polls as well
            self._complain(error)

    def hear(self, topics: set[str]) -> None:
        """Wake this process's own listeners; `*` stands for every topic."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            heard = listener.topics if "*" in topics else listener.topics & topics
            if heard:
                self._send(listener.name, "+".join(sorted(heard)).encode())

    def _send(self, name: str, message: bytes) -> None:
        try:
            self._sender.sendto(message, self._directory.address(name))
        except BlockingIOError:
            return  # full: wake-ups wait there already
        except (ConnectionRefusedError, FileNotFoundError):
            self._directory.remove(name)  # its process is gone
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._complained_at > 60:
            self._complained_at = now
            log.warning("wake-ups do not get through; polling goes on", error=str(error))

    def listen(self, *topics: str) -> LocalListener:
        self._sweep()
        listener = LocalListener(self, self._directory, topics)
        with self._lock:
            self._listeners.add(listener)
        return listener

    def _sweep(self) -> None:
        """Remove the sockets that processes which were killed left behind."""
        for name, _ in self._directory.names():
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            with probe:
                try:
                    probe.connect(self._directory.address(name))
                except ConnectionRefusedError:
                    self._directory.remove(name)
                except OSError as error:
                    log.debug("socket can not be probed", socket=name, error=str(error))

    def forget(self, listener: LocalListener) -> None:
        """Leave that listener out of `close`."""
        with self._lock:
            self._listeners.discard(listener)

    def close(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.close()
        self._closed = True
        self._sender.close()
        self._directory.close()
