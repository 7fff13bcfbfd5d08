"""The wires between the worker and one child."""

from __future__ import annotations

import array
import contextlib
import json
import math
import os
import queue
import select
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from eventproc.sandbox.endings import Ending
from eventproc.sandbox.orders import Order
from eventproc.sandbox.output import Decoding

OUTPUT_BYTES = 1 << 16  # in one read
OUTPUT_READS = 16  # at most, before the channel and the clock have their turn
REPORT_S = 10.0  # how long a dead child's monitor may take to end the tree and say so
MEMORY_EVERY_S = 0.05
CPUCLOCK_SCHED = 2
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
DESCRIPTOR = struct.Struct("i")
ANCILLARY = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(DESCRIPTOR.size)


class Link(ABC):
    """A channel to a child, and what is known of its process."""

    channel: socket.socket
    enforced: bool  # limits are
    many = False  # it may start processes, and others' CPU time counts too
    asking = -1  # where its connections wait for an answer
    grouped = False  # a control group bounds its processes

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


class MonitorHandle:
    """The worker's hold on one monitor process; a link has it while its child lives, the launcher before and after."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock = sock

    def start(self, order: Order, fds: Sequence[int]) -> None:
        """Have it start a handler process with these file descriptors. Raises OSError when it is gone."""
        self.sock.sendmsg([order.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])

    def receive(self) -> tuple[bytes, int, int]:
        """
        Receive one message, with the process id of its sender by the kernel's word, in our own pid namespace.

        The third value is a file descriptor that came along, or -1.

        Raises BlockingIOError while there is none; the message is empty at the end.
        """
        try:
            data, ancillary, _, _ = self.sock.recvmsg(OUTPUT_BYTES, ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            raise BlockingIOError from None
        except OSError:
            return b"", 0, -1
        sender, descriptor = 0, -1
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                sender = CREDENTIALS.unpack(content)[0]
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptor = DESCRIPTOR.unpack(content[: DESCRIPTOR.size])[0]
        return data, sender, descriptor

    def finished(self) -> bool | None:
        """Say whether its last child has ended and it waits for another; None when it is gone."""
        while True:
            try:
                data, _, descriptor = self.receive()
            except BlockingIOError:
                return False
            if descriptor >= 0:  # of a child that nobody waited for
                os.close(descriptor)
            if not data:
                return None
            if "ended" in json.loads(data):
                return True

    def close(self) -> None:
        self.sock.close()


class ProcessLink(Link):
    """A child process under its monitor."""

    enforced = True

    def __init__(
        self,
        channel: socket.socket,
        monitor: MonitorHandle,
        outputs: dict[str, int],
        release: Callable[[MonitorHandle, bool | None], None],
        *,
        many: bool = False,
    ) -> None:
        self.many = many
        self.asking = -1
        self._used: dict[str, int] = {}  # by the whole tree, as its monitor says
        self._at_end: list[Callable[[], None]] = []
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.judge: Callable[[Ending], Ending] = lambda ending: ending
        self.channel = channel
        self._monitor = monitor
        self._release = release
        self._outputs = {fd: Decoding(stream) for stream, fd in outputs.items()}
        for fd in self._outputs:
            os.set_blocking(fd, False)
        channel.setblocking(False)
        self.layers: tuple[str, ...] = ()
        self._poll = select.poll()
        for fd in (channel.fileno(), monitor.sock.fileno(), *self._outputs):
            self._poll.register(fd, select.POLLIN)
        self._events = select.POLLIN
        self._lock = threading.Lock()  # kill comes from other threads, and must not hit the monitor's next child
        self._closed = False
        self._pid = 0
        self._started = False
        self._ending: Ending | None = None
        self._gone_since: float | None = None
        self._memory: tuple[float, int | None] = (0.0, None)

    def await_start(self, timeout_s: float) -> bool:
        """
        Wait for the child's word that all its layers stand; False when it can not be had.

        On a busy machine its monitor may have told before what the tree has used so far.
        """
        waiter = select.poll()
        waiter.register(self._monitor.sock, select.POLLIN)
        before = time.monotonic() + timeout_s
        while not self._started and self._ending is None:
            if not waiter.poll(max(0.0, before - time.monotonic()) * 1000):
                self._ending = Ending(error=f"no process within {timeout_s:g} s")
                return False
            self._read_monitor()
        return self._ending is None

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
        # Rounded up, or the last part of a millisecond would be spun away; nothing stays nothing.
        ready = dict(self._poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1000)))
        if self._monitor.sock.fileno() in ready:
            self._read_monitor()
        return ready

    def _read_monitor(self) -> None:
        while self._ending is None:
            try:
                message, sender, descriptor = self._monitor.receive()
            except BlockingIOError:
                return
            if not message:
                self._ending = Ending(error="its monitor was killed" if self._started else None)
                return
            report = json.loads(message)
            if "layers" in report:
                self._pid = sender
                self.asking = descriptor
                self.layers = tuple(report["layers"])
                self._started = True
            elif "used" in report:
                self._used = report["used"]
            else:
                self._ending = self.judge(Ending.from_report(report))

    def note(self, text: str) -> None:
        """Put a word of the platform into the run's log; from any thread."""
        self._notes.put(text)

    def take_asking(self) -> int:
        """Hand over the descriptor at which connections wait, which the taker closes."""
        taken, self.asking = self.asking, -1
        return taken

    def read_output(self) -> Iterator[tuple[str, str]]:
        while not self._notes.empty():
            yield "log", self._notes.get()
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
            alone = time.clock_gettime_ns((~self._pid << 3) | CPUCLOCK_SCHED) // 1000
        except OSError:  # it is dead
            alone = 0
        return max(alone, self._used.get("cpu_us", 0))

    def memory_bytes(self) -> int | None:
        now = time.monotonic()
        if now - self._memory[0] > MEMORY_EVERY_S:
            found = peak_memory(self._pid)
            self._memory = (now, None if found is None else max(found, self._used.get("memory_bytes", 0)))
        return self._memory[1]

    @property
    def pid(self) -> int:
        """The handler's process, as this host counts."""
        return self._pid

    def at_end(self, action: Callable[[], None]) -> None:
        """Have something done when the link is closed, and the child's tree is being ended."""
        self._at_end.append(action)

    def kill(self) -> None:
        self._say(b"kill")

    def _say(self, message: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):  # a monitor that is gone has done its part
            if not self._closed:
                self._monitor.sock.send(message)

    def close(self) -> None:
        """Let go of the child: its monitor ends the tree, and is there for another."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            ended: bool | None = None if self._is_lost() else self._ending is not None
            if ended is False:
                with contextlib.suppress(OSError):  # a monitor that is gone is noticed when it is wanted again
                    self._monitor.sock.send(b"kill")
            self._release(self._monitor, ended)
        self.channel.close()
        for fd in self._outputs:
            os.close(fd)
        self._outputs.clear()
        if self.asking >= 0:
            os.close(self.asking)
            self.asking = -1
        for action in self._at_end:
            action()

    def _is_lost(self) -> bool:
        """Whether the monitor itself is gone, or never got as far as to start a child."""
        return self._ending is not None and not self._ending.reported


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
