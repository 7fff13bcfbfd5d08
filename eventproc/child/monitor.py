"""
The monitor: one trusted process per handler process.

It is the parent of all that the handler forks, ends the whole tree when the worker says so, goes away or the clock
runs out, and is the only one whose word counts on how the handler's process ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import time
from typing import Any, Dict, List, Optional

from . import process
from .layers import kernel
from .layers.levels import Level

MESSAGE_BYTES = 4096
KILL_PAUSE_S = 0.002
LOOK_MS = 250  # how often a directory without a cap of its own is looked at


def main(level: Level, sock: socket.socket, fds: List[int], request: Dict[str, Any]) -> None:
    """Start a handler process and watch over it; never returns."""
    code = 1
    try:
        Monitor(level, sock, fds, request).run()
        code = 0
    except BaseException as error:  # noqa: BLE001  the last words of a process that is about to end
        with contextlib.suppress(OSError):
            sock.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
    finally:
        os._exit(code)


class Monitor:
    """Watches one handler process and everything below it."""

    def __init__(self, level: Level, sock: socket.socket, fds: List[int], request: Dict[str, Any]) -> None:
        self._level = level
        self._sock = sock
        self._fds = fds
        self._deadline: Optional[float] = None
        self._status: Optional[int] = None
        self._pid = 0
        process.close_others({0, 1, 2, sock.fileno(), *fds, *level.descriptors()})
        kernel.adopt_orphans()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._scratch: str = request["scratch"]
        self._request = dict(request, scratch=level.in_monitor(request["number"], self._scratch, request["limits"]))
        self._overrun: Optional[str] = None

    def run(self) -> None:
        me = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._child(me)
        for fd in self._fds:
            os.close(fd)
        try:
            self._watch()
        finally:
            self._end_tree()
            if not self._level.private:
                shutil.rmtree(self._scratch, ignore_errors=True)
        self._tell(self._report())

    def _child(self, me: int) -> None:
        try:
            process.main(self._level, self._sock, self._fds, self._request, me)
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
            timeout_ms: Optional[float] = None if self._level.private else LOOK_MS
            if self._deadline is not None:
                timeout_ms = min(timeout_ms or 1e9, max(0.0, self._deadline - time.monotonic()) * 1000 + 1)
            ready = {fd for fd, _ in poll.poll(timeout_ms)}
            if self._sock.fileno() in ready and not self._obey():
                return
            self._drain_wakes()
            self._reap()
            if self._deadline is not None and time.monotonic() >= self._deadline:
                return
            if not self._level.private and self._scratch_is_full():
                self._overrun = "scratch"
                return

    def _scratch_is_full(self) -> bool:
        """Look at the private directory where no file system of its own keeps it small."""
        limits = self._request["limits"]
        files = size = 0
        for directory, names, leaves in os.walk(self._scratch):
            files += len(names) + len(leaves)
            for leaf in leaves:
                with contextlib.suppress(OSError):  # it is gone again
                    size += os.lstat(f"{directory}/{leaf}").st_blocks * 512
            if files > limits["scratch_files"] or size > limits["scratch_bytes"]:
                return True
        return False

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, MESSAGE_BYTES)

    def _obey(self) -> bool:
        """Take one message of the worker; False when the end has come."""
        try:
            message = self._sock.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            return False
        if not message or message == b"kill":
            return False
        if message.startswith(b"arm "):
            seconds = float(message[4:])
            self._deadline = time.monotonic() + seconds if seconds > 0 else None
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._status = status

    def _end_tree(self) -> None:
        """Kill until no descendant is left: whatever the handler forked has become our own child."""
        while True:
            everybody = [-1] if self._level.private else children(os.getpid())
            for pid in everybody:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if self._reaped_all():
                return
            time.sleep(KILL_PAUSE_S)

    def _reaped_all(self) -> bool:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._pid:
                self._status = status

    def _report(self) -> Dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        report: Dict[str, Any] = {
            "cpu_us": int((usage.ru_utime + usage.ru_stime) * 1e6),
            "memory_bytes": usage.ru_maxrss * 1024,
        }
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
