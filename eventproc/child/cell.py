"""
Isolation `cell`: a handler version is loaded once, and each call runs in a fork of the loaded process.

A cell may fork but not start programs; its forks may do neither. What a fork leaves in memory goes with it, what it
leaves in the private directory is removed. A cell belongs to one handler version, which can deceive only itself.
While one fork runs the next is made, and waits, confined, for its call: no call waits for a fork.
"""

from __future__ import annotations

import _thread
import gc
import os
import resource
import socket
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Tuple

from . import forking, frames, scratch
from .channel import Channel, WorkerGone, read_frame
from .layers import seccomp
from .randomness import reseed

Answer = Tuple[Dict[str, Any], List[bytes]]


class Obeys(Protocol):
    """The runner, as far as a cell needs it."""

    def answer(self, header: Dict[str, Any], bodies: List[bytes]) -> Answer: ...
    def waits(self) -> bool: ...


class Spare(NamedTuple):
    """A fork that waits for its call."""

    pid: int
    sock: socket.socket  # to hand the call over, and nothing else


class Cell:
    """Runs calls in forks of this process."""

    def __init__(self, channel: Channel, runner: Obeys, cpu_s: float) -> None:
        self._channel = channel
        self._runner = runner
        self._cpu_s = cpu_s
        self._spare: Optional[Spare] = None
        # Threads of the handler's own will not be there in forks; `threading` knows only those that it started.
        if threading.active_count() > 1 or _thread._count() > 0:  # noqa: SLF001  it has no public name
            forking.do_all()
        self._confinement = seccomp.ForFork()
        gc.collect()
        gc.freeze()  # the collector shall not touch, and so copy, what all forks share

    def call(self, header: Dict[str, Any], bodies: List[bytes]) -> None:
        """Run one call in a fork, and stay quiet until that has ended: the channel is its own meanwhile."""
        pid = self._hand_over(frames.pack(header, bodies))
        try:
            self._spare = self._fork()
        except OSError:  # too many processes just now: the next call will see
            self._spare = None
        _, status, usage = os.wait4(pid, 0)
        self._channel.belongs_here()
        scratch.empty(".")
        if status != 0:
            self._channel.send(
                {
                    "t": "crashed",
                    "id": header["id"],
                    "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                    "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                    "cpu": int((usage.ru_utime + usage.ru_stime) * 1e6),
                }
            )

    def _hand_over(self, frame: bytes) -> int:
        """Give the call to the fork that waits for one, or to a new one; return its process id."""
        if self._spare is not None:
            try:
                return self._give(self._spare, frame)
            except OSError:  # it was killed while it waited: that is no call's fault
                os.waitpid(self._spare.pid, 0)
        return self._give(self._fork(), frame)

    @staticmethod
    def _give(spare: Spare, frame: bytes) -> int:
        with spare.sock:
            spare.sock.sendall(frame)
        return spare.pid

    def _fork(self) -> Spare:
        mine, its = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            mine.close()
            self._be_a_fork(its)
        its.close()
        return Spare(pid, mine)

    def _be_a_fork(self, calls: socket.socket) -> None:
        """Be confined, wait for a call and serve it. Never returns."""
        code = 1
        try:
            self._channel.belongs_here()
            seconds = int(self._cpu_s) + 2  # behind the signal that ends the call with an exception
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            reseed()
            self._confinement.install()
            with calls:
                frame = read_frame(calls)
            if frame is not None:  # else the cell is gone
                self._serve(*frame)
            code = 0
        except WorkerGone:
            code = 0
        finally:
            os._exit(code)

    def _serve(self, header: Dict[str, Any], bodies: List[bytes]) -> None:
        """Answer the call, then serve its callbacks until none waits."""
        while True:
            answer, parts = self._runner.answer(header, bodies)
            self._channel.send(dict(answer, cpu=time.process_time_ns() // 1000), parts)
            if not self._runner.waits():
                return
            frame = self._channel.read()
            if frame is None:
                return
            if frame[0]["t"] == "leave":  # the worker sends nothing more until it hears that
                self._channel.send({"t": "left"})
                return
            header, bodies = frame
