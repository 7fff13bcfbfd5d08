"""
The monitor: a trusted process above a handler process; when that has ended, it takes the next.

It is the parent of all that the handler forks, ends the whole tree when the worker says so, goes away or its
directory is full, and is the only one whose word counts on how the handler's process ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
from typing import Any, Dict, List, Optional

from . import process, scratch
from .layers import kernel
from .layers.levels import Level
from .packages import Packages
from .randomness import Reseeding
from .tree import LOOK_MS as LOOK_AT_TREE_MS
from .tree import Tree
from .wire import receive

MESSAGE_BYTES = 4096
LOOK_MS = 250  # how often a directory without a cap of its own is looked at
CROWD_MS = 100  # how often the processes of a cell are counted
CELL_PROCESSES = 3  # the loaded one, a call's, and the one that waits for the next


def main(level: Level, packages: Packages, sock: socket.socket, request: Dict[str, Any]) -> None:
    """Serve the worker until it closes the socket; never returns."""
    code = 1
    try:
        Monitor(level, packages, sock, request).run()
        code = 0
    except BaseException as error:  # noqa: BLE001  the last words of a process that is about to end
        with contextlib.suppress(OSError):
            sock.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
    finally:
        os._exit(code)


class Monitor:
    """Watches handler processes, one after another; no two ever meet, and nothing of one is there for the next."""

    def __init__(self, level: Level, packages: Packages, sock: socket.socket, request: Dict[str, Any]) -> None:
        self._level = level
        self._packages = packages
        self._sock = sock
        self._number: int = request["number"]
        self._base: str = request["scratch"]
        process.close_others({0, 1, 2, sock.fileno(), *level.descriptors()})
        kernel.adopt_orphans()
        self._randomness = Reseeding()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def run(self) -> None:
        while True:
            try:
                order, fds = receive(self._sock)
            except ValueError:  # a "kill" that came too late: what it was meant for has ended
                continue
            if order is None:
                return
            self._serve(order, fds)

    def _serve(self, order: Dict[str, Any], fds: List[int]) -> None:
        """Start one handler process, watch it, and tell how it ended."""
        me = os.getpid()
        self._status: Optional[int] = None
        self._usage: Optional[resource.struct_rusage] = None
        self._overrun: Optional[str] = None
        directory = self._level.in_monitor(self._number, self._base, order)
        self._request: Dict[str, Any] = {**order, "scratch": directory, "number": self._number}
        self._tree = Tree(os.getpid(), order["limits"]) if order.get("programs") else None
        self._fds = fds
        self._pid = os.fork()
        if self._pid == 0:
            self._child(me)
        for fd in fds:
            os.close(fd)
        try:
            self._watch()
        finally:
            self._end_tree()
            if not self._level.private:
                scratch.remove(self._base)
        self._tell(self._report())

    def _child(self, me: int) -> None:
        try:
            self._randomness.in_fork()
            process.main(self._level, self._packages, self._sock, self._fds, self._request, me)
        except BaseException as error:  # noqa: BLE001  nothing may unwind into the monitor's own code
            self._tell({"error": f"setting up the process: {type(error).__name__}: {error}"})
        finally:
            os._exit(1)

    def _tell(self, message: Dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a worker that is gone needs no report
            self._sock.send(json.dumps(message).encode())

    def _watch(self) -> None:
        """Return when the handler's process has ended or has to."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while self._status is None:
            ready = {fd for fd, _ in poll.poll(self._pause_ms())}
            if self._sock.fileno() in ready and not self._obey():
                return
            self._drain_wakes()
            self._reap()
            self._overrun = self._find_overrun()
            if self._overrun:
                return

    def _pause_ms(self) -> Optional[int]:
        if self._tree is not None:
            return LOOK_AT_TREE_MS
        if self._request.get("cell"):
            return CROWD_MS
        return None if self._level.private else LOOK_MS

    def _find_overrun(self) -> Optional[str]:
        """Look at what the kernel does not bound; return the name of a limit that is overrun."""
        if not self._level.private and self._scratch_is_full():
            return "scratch"
        if self._request.get("cell") and self._is_crowded():
            return "forks"
        if self._tree is None or self._status is not None:
            return None
        overrun = self._tree.look()
        news = self._tree.news()
        if news:
            with contextlib.suppress(OSError):  # a worker that has not read the last ones does without
                self._sock.send(json.dumps(news).encode(), socket.MSG_DONTWAIT)
        return overrun

    def _scratch_is_full(self) -> bool:
        """Look at the private directory where no file system of its own keeps it small."""
        limits = self._request["limits"]
        try:
            files, size = scratch.measure(self._base, limits["scratch_files"], limits["scratch_bytes"])
        except OSError:  # it can not even be looked at: its handler moved or closed it
            return True
        size += scratch.unnamed(self._base, self._pid)
        return bool(files > limits["scratch_files"] or size > limits["scratch_bytes"])

    @staticmethod
    def _is_crowded() -> bool:
        """
        Say whether a cell has processes that the platform did not order.

        A handler's code is in the loaded process, which may fork, and each has the whole memory limit for itself.
        """
        pids = sum(name.isdigit() for name in os.listdir("/proc"))  # noqa: PTH208  ours only: it is a namespace's own
        return pids > 1 + CELL_PROCESSES

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, MESSAGE_BYTES)

    def _obey(self) -> bool:
        """Take one message of the worker; False when the end has come."""
        try:
            message = self._sock.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            return False
        return bool(message) and message != b"kill"

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._status, self._usage = status, usage

    def _end_tree(self) -> None:
        """Kill until no descendant is left: whatever the handler forked has become our own child."""
        while True:
            everybody = [-1] if self._level.private else children(os.getpid())
            for pid in everybody:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                pid, status, usage = os.wait4(-1, 0)  # it was killed, so this takes as long as its end does
            except ChildProcessError:
                return
            if pid == self._pid:
                self._status, self._usage = status, usage

    def _report(self) -> Dict[str, Any]:
        report: Dict[str, Any] = {"ended": True}
        if self._usage is not None:
            report["cpu_us"] = int((self._usage.ru_utime + self._usage.ru_stime) * 1e6)
            report["memory_bytes"] = self._usage.ru_maxrss * 1024
        if self._tree is not None:
            for name, used in (("cpu_us", self._tree.cpu_us), ("memory_bytes", self._tree.memory_bytes)):
                report[name] = max(report.get(name, 0), used)
        if self._overrun:
            report["limit"] = self._overrun
        status = self._status
        if status is None:
            return report
        if os.WIFSIGNALED(status):
            report["signal"] = os.WTERMSIG(status)
        else:
            report["exit"] = os.WEXITSTATUS(status)
        return report


def children(parent: int) -> List[int]:
    """Return the processes whose parent is `parent`."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208  many and short-lived: no objects for each
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it ended while we looked
                with open(f"/proc/{name}/stat", "rb") as stream:  # noqa: PTH123  as above
                    fields = stream.read().rpartition(b")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(name))
    return found
