"""What the handler's process does to itself before it meets user code."""

from __future__ import annotations

import array
import contextlib
import faulthandler
import gc
import json
import os
import resource
import signal
import socket
import tempfile
from typing import Any, Dict, Iterable, List

from . import forking, naming
from .channel import Channel
from .layers import kernel
from .layers.levels import Level
from .packages import Packages
from .runner import Runner

CHANNEL_FD = 3
CPU_HARD_FACTOR = 1000  # the hard limit counts over all calls of a child; the worker watches each call


def main(  # noqa: PLR0917  private
    level: Level, packages: Packages, monitor: socket.socket, fds: List[int], request: Dict[str, Any], parent: int
) -> None:
    """Contain this process, then serve the worker; never returns. `fds`: channel, stdout, stderr."""
    os.setsid()
    kernel.die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    _own_directory(request["scratch"])
    _own_signals()
    gc.enable()
    if request.get("programs") or level.name == "none":
        forking.do_all()
    _own_limits(request["limits"])
    layers, asking = level.in_handler(request["number"], request["scratch"], request)
    if level.counts_processes():  # not before: the kernel takes a new user namespace's limit for the one around it too
        _limit(resource.RLIMIT_NPROC, request["limits"]["processes"])
    packages.enter()
    _tell(monitor, {"pid": os.getpid(), "layers": layers}, asking)  # the kernel adds who we really are
    monitor.close()
    naming.allow(request.get("hosts") or {}, request.get("network") or (), everywhere=level.host_network)
    _take_fds(fds)
    with contextlib.suppress(RuntimeError, ValueError):  # a closed stderr only costs the crash's traceback
        faulthandler.enable(file=2, all_threads=False)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, CHANNEL_FD)
    Runner(Channel(sock), own_process=True).serve()
    os._exit(0)


def _tell(monitor: socket.socket, message: Dict[str, Any], asking: int) -> None:
    """Say that all stands; the worker is given the descriptor at which our connections wait for its word."""
    data = json.dumps(message).encode()
    if asking < 0:
        monitor.send(data)
        return
    monitor.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [asking]))])
    os.close(asking)


def _take_fds(fds: List[int]) -> None:
    """Leave exactly stdin (/dev/null), stdout, stderr and the channel."""
    high = [os.dup(fd) for fd in fds]  # none of them may be overwritten before it is moved
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip([null, high[1], high[2], high[0]], (0, 1, 2, CHANNEL_FD)):
        os.dup2(source, target)
    os.set_inheritable(CHANNEL_FD, False)
    close_others({0, 1, 2, CHANNEL_FD})


def close_others(keep: Iterable[int]) -> None:
    """Close every file descriptor but those."""
    low = 0
    for fd in [*sorted(keep), 1 << 16]:
        if low < fd:  # an empty range closes everything
            os.closerange(low, fd)
        low = fd + 1


def _own_directory(scratch: str) -> None:
    os.chdir(scratch)
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    tempfile.tempdir = None  # forget the zygote's


def _own_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _own_limits(limits: Dict[str, Any]) -> None:
    _limit(resource.RLIMIT_AS, address_space() + limits["memory_bytes"])  # what the interpreter holds is not counted
    _limit(resource.RLIMIT_CPU, int(limits["cpu_s"] * CPU_HARD_FACTOR) + 1)
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_CORE, 0)


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def address_space() -> int:
    """Return the bytes of address space that this process has mapped."""
    with open("/proc/self/statm", "rb") as stream:  # noqa: PTH123  on the path of every run
        return int(stream.read().split()[0]) * resource.getpagesize()
