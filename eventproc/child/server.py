"""
The zygote's loop: forks a monitor for each request of the worker.

It runs with a clean environment and no secrets, stays single-threaded, and never loads user data itself.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
from typing import Any, Dict, List, Set

from . import forking, monitor, naming, scratch
from .layers import kernel
from .layers.levels import Level, LevelError
from .packages import Packages
from .wire import receive
from .world import parent_module

REAP_MS = 1000


def serve(control_fd: int, config: Dict[str, Any]) -> None:
    """Serve the worker at the other end of `control_fd` until it goes away."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, control_fd)
    packages = Packages(config)
    level = Level(config)
    try:
        level.enter()
    except (OSError, LevelError) as error:
        control.send(json.dumps({"refused": str(error)}).encode())
        return
    missing = _prepare(packages)
    forking.keep_no_more()
    gc.collect()
    gc.freeze()
    gc.disable()
    hello = {"ready": os.getpid(), "missing": missing, "no_places": level.asks_no_one}
    control.send(json.dumps(hello).encode())
    Zygote(control, level, packages).run()


def _prepare(packages: Packages) -> List[str]:
    """Import and set up what every child shall find done; return the names of modules that are not installed."""
    tempfile.tempdir = "/tmp"  # noqa: S108  dill asks for one when imported; children have their own
    missing = packages.preimport()
    naming.install()
    parent_module()
    kernel.few_arenas()
    kernel.adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group: the worker decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return missing


class Zygote:
    """Forks monitors, and buries what dead ones leave."""

    def __init__(self, control: socket.socket, level: Level, packages: Packages) -> None:
        self._control = control
        self._level = level
        self._packages = packages
        self._monitors: Dict[int, str] = {}  # process id → its private directory
        self._cleaners: Set[int] = set()
        self._count = 0

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            if poll.poll(REAP_MS) and not self._serve_one():
                return
            self._reap()

    def _serve_one(self) -> bool:
        request, fds = receive(self._control)
        if request is None:
            return False
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds[0])
        self._count += 1
        request["number"] = self._count
        request["scratch"] = f"{request['scratch']}/eventproc-run-{os.getpid()}-{self._count}"
        pid = self._fork(sock)
        if pid == 0:
            monitor.main(self._level, self._packages, sock, request)
        if pid > 0:
            self._monitors[pid] = request["scratch"]
        sock.close()
        return True

    def _fork(self, sock: socket.socket) -> int:
        """Fork the monitor into namespaces of its own; -1 and a word to the worker when that can not be."""
        try:
            self._level.own_namespace()
            pid = os.fork()
        except OSError as error:
            with contextlib.suppress(OSError):
                sock.send(json.dumps({"error": f"can not fork: {error}"}).encode())
            pid = -1
        if pid != 0:
            self._level.home_again()
        return pid

    def _reap(self) -> None:
        """Bury ended monitors; what a killed one left behind became ours, and is killed."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._cleaners:
                self._cleaners.discard(pid)
            elif pid not in self._monitors:
                self._kill_orphans()
            else:
                directory = self._monitors.pop(pid)
                if os.WIFSIGNALED(status) and not self._level.private:
                    self._clean_up_after(directory)

    def _kill_orphans(self) -> None:
        for pid in monitor.children(os.getpid()):
            if pid not in self._monitors and pid not in self._cleaners:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _clean_up_after(self, directory: str) -> None:
        """Remove a directory that may be large, in a process of its own."""
        self._kill_orphans()
        pid = os.fork()
        if pid == 0:
            try:
                scratch.remove(directory)
            finally:
                os._exit(0)
        self._cleaners.add(pid)


def main() -> None:
    serve(int(sys.argv[1]), json.loads(sys.argv[2]))
