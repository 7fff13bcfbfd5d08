"""The wires between the worker and one child."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from eventproc.sandbox.endings import Ending
from eventproc.sandbox.output import Decoding

OUTPUT_BYTES = 1 << 16  # in one read
OUTPUT_READS = 16  # at most, before the channel and the clock have their turn
REPORT_S = 10.0  # how long a dead child's monitor may take to end the tree and say so
MEMORY_EVERY_S = 0.05
CPUCLOCK_SCHED = 2
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Link(ABC):
    """A channel to a child, and what is known of its process."""

    channel: socket.socket
    enforced: bool  # limits are

    @abstractmethod
    def poll(self, *, read: bool, write: bool, timeout_s: float | None) -> dict[int, int]:
        """Wait for something to do; return poll events by file descriptor."""

    @abstractmethod
    def read_output(self) -> Iterator[tuple[str, str]]:
        """Return what the process wrote past Python's sys.stdout and sys.stderr."""

    @abstractmethod
    def ending(self) -> Ending | None:
        """Return how the child ended, None while it lives."""

    @abstractmethod
    def hung_up(self) -> None:
        """Note that the child closed the channel: it has nothing more to say."""

    @abstractmethod
    def cpu_us(self) -> int: ...

    @abstractmethod
    def memory_bytes(self) -> int | None: ...

    @abstractmethod
    def kill(self) -> None:
        """End the child's tree of processes; from any thread, any number of times."""

    @abstractmethod
    def close(self) -> None: ...


class ProcessLink(Link):
    """A child process under its monitor."""

    enforced = True

    def __init__(self, channel: socket.socket, monitor: socket.socket, outputs: dict[str, int]) -> None:
        self.channel = channel
        self._monitor = monitor
        self._outputs = {fd: Decoding(stream) for stream, fd in outputs.items()}
        for fd in self._outputs:
            os.set_blocking(fd, False)
        channel.setblocking(False)
        monitor.setblocking(False)
        monitor.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.layers: tuple[str, ...] = ()
        self._poll = select.poll()
        for fd in (channel.fileno(), monitor.fileno(), *self._outputs):
            self._poll.register(fd, select.POLLIN)
        self._events = select.POLLIN
        self._lock = threading.Lock()  # kill comes from other threads, and must not hit a reused descriptor
        self._closed = False
        self._pid = 0
        self._started = False
        self._ending: Ending | None = None
        self._gone_since: float | None = None
        self._memory: tuple[float, int | None] = (0.0, None)

    def await_start(self, timeout_s: float) -> bool:
        """Wait for the monitor's first word; False when the zygote was gone before it could fork."""
        waiter = select.poll()
        waiter.register(self._monitor, select.POLLIN)
        if not waiter.poll(timeout_s * 1000):
            self._ending = Ending(error=f"no process within {timeout_s:g} s")
            return False
        self._read_monitor()
        return self._started

    def start_error(self) -> str | None:
        return self._ending.error if self._ending else None

    def poll(self, *, read: bool, write: bool, timeout_s: float | None) -> dict[int, int]:
        wanted = (select.POLLIN if read and self._gone_since is None else 0) | (select.POLLOUT if write else 0)
        if self._gone_since is not None:
            wanted = 0
        if wanted != self._events:
            self._events = wanted
            if wanted or self._gone_since is None:
                self._poll.modify(self.channel.fileno(), wanted)
            else:
                self._poll.unregister(self.channel.fileno())
        if self._gone_since is not None:
            timeout_s = 0.25
        ready = dict(self._poll.poll(None if timeout_s is None else timeout_s * 1000 + 1))
        if self._monitor.fileno() in ready:
            self._read_monitor()
        return ready

    def _read_monitor(self) -> None:
        while self._ending is None:
            try:
                message, sender = receive_signed(self._monitor)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                message, sender = b"", 0
            if not message:
                self._ending = Ending(error="its monitor was killed" if self._started else None)
                return
            report = json.loads(message)
            if "layers" in report:
                self._pid = sender
                self.layers = tuple(report["layers"])
                self._started = True
            else:
                self._ending = Ending.from_report(report)

    def read_output(self) -> Iterator[tuple[str, str]]:
        for fd, decoding in list(self._outputs.items()):
            for _ in range(OUTPUT_READS):
                try:
                    data = os.read(fd, OUTPUT_BYTES)
                except (BlockingIOError, InterruptedError):
                    break
                if not data:  # closed by the child
                    self._poll.unregister(fd)
                    os.close(fd)
                    del self._outputs[fd]
                    break
                yield decoding.stream, decoding.feed(data)

    def ending(self) -> Ending | None:
        if self._ending is None and self._gone_since is not None and time.monotonic() - self._gone_since > REPORT_S:
            self.kill()
        return self._ending

    def hung_up(self) -> None:
        if self._gone_since is None:
            self._gone_since = time.monotonic()

    def cpu_us(self) -> int:
        """Ask the kernel, not the child: each process has a clock of its CPU time."""
        if not self._pid:
            return 0
        try:
            return time.clock_gettime_ns((~self._pid << 3) | CPUCLOCK_SCHED) // 1000
        except OSError:  # it is dead
            return 0

    def memory_bytes(self) -> int | None:
        now = time.monotonic()
        if now - self._memory[0] > MEMORY_EVERY_S:
            self._memory = (now, peak_memory(self._pid))
        return self._memory[1]

    def kill(self) -> None:
        self._say(b"kill")

    def _say(self, message: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):  # a monitor that is gone has done its part
            if not self._closed:
                self._monitor.send(message)

    def close(self) -> None:
        """Let go of the child: its monitor ends the tree when its socket closes."""
        with self._lock:
            self._closed = True
            self._monitor.close()
        self.channel.close()
        for fd in self._outputs:
            os.close(fd)
        self._outputs.clear()


def receive_signed(sock: socket.socket) -> tuple[bytes, int]:
    """Receive one message, with the process id of its sender by the kernel's word, in our own pid namespace."""
    data, ancillary, _, _ = sock.recvmsg(OUTPUT_BYTES, socket.CMSG_SPACE(CREDENTIALS.size))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return data, CREDENTIALS.unpack(content)[0]
    return data, 0


def peak_memory(pid: int) -> int | None:
    """Return a process's largest resident size so far."""
    try:
        with open(f"/proc/{pid}/status", "rb") as stream:  # noqa: PTH123  on the path of every run
            for line in stream:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
