"""
Isolation `cell`: a handler version is loaded once, and each call runs in a fork of the loaded process.

A cell may fork but not start programs; its forks may do neither. What a fork leaves in memory goes with it, what it
leaves in the private directory is removed. A cell belongs to one handler version, which can deceive only itself.
While one fork runs the next is made, and waits, confined and rehearsed, for its call: no call waits for a fork.
"""

from __future__ import annotations

import _thread
import gc
import os
import resource
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Tuple

from . import forking, frames, scratch
from .channel import ORDER_BYTES, Channel, WorkerGone
from .layers import seccomp
from .randomness import Reseeding

ORDERLY = 113  # exit code of a fork that has said all it had to; a handler may well exit with 0

LEFT = {"t": "left"}

Answer = Tuple[Dict[str, Any], List[bytes]]


class Obeys(Protocol):
    """The runner, as far as a cell needs it."""

    def in_fork(self) -> None: ...
    def rehearse(self) -> None: ...
    def answer(self, header: Dict[str, Any], bodies: List[bytes]) -> Answer: ...
    def waits(self) -> bool: ...


class Spare(NamedTuple):
    """A fork that waits for its order."""

    pid: int
    orders: int  # the end of a pipe through which it is given one, and nothing else


class Cell:
    """
    Has orders obeyed by forks of this process.

    What it does between two of them is short, and does not look into the orders: after each fork, all that this
    process touches has to be copied.
    """

    def __init__(self, channel: Channel, runner: Obeys, cpu_s: float) -> None:
        self._channel = channel
        self._runner = runner
        self._cpu_s = cpu_s
        # Threads of the handler's own will not be there in forks; `threading` knows only those that it started.
        if threading.active_count() > 1 or _thread._count() > 0:  # noqa: SLF001  it has no public name
            forking.do_all()
        self._randomness = Reseeding()
        self._confinement = seccomp.ForFork()
        gc.collect()
        gc.freeze()  # the collector shall not touch, and so copy, what all forks share

    def serve(self) -> None:
        """Give each order to a fork and wait until that has ended, until the worker is gone."""
        spare: Optional[Spare] = None
        while True:
            order = self._channel.read_packed()  # the channel is the fork's until that has ended
            if order is None:
                return
            pid = self._hand_over(order, spare)
            try:
                spare = self._fork()
            except OSError:  # too many processes just now: the next order will see
                spare = None
            _, status, usage = os.wait4(pid, 0)
            scratch.empty(".")
            if not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == ORDERLY):
                self._tell_crash(order, status, usage)

    def _hand_over(self, order: bytes, spare: Optional[Spare]) -> int:
        """Give the order to the fork that waits for one, or to a new one; return its process id."""
        if spare is not None:
            if self._give(spare, order):
                return spare.pid
            os.waitpid(spare.pid, 0)  # it was killed while it waited: that is no order's fault
        fresh = self._fork()
        self._give(fresh, order)  # if that one ends as well, this is how the order ends
        return fresh.pid

    @staticmethod
    def _give(spare: Spare, order: bytes) -> bool:
        """Hand an order over; False when the fork has ended."""
        given = 0
        try:
            while given < len(order):
                given += os.write(spare.orders, order[given:] if given else order)
        except BrokenPipeError:
            return False
        finally:
            os.close(spare.orders)
        return True

    def _tell_crash(self, order: bytes, status: int, usage: resource.struct_rusage) -> None:
        self._channel.send(
            {
                "t": "crashed",
                "id": frames.unpack(order)[0].get("id"),
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                "cpu": int((usage.ru_utime + usage.ru_stime) * 1e6),
            }
        )

    def _fork(self) -> Spare:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            self._be_a_fork(reading)
        os.close(reading)
        return Spare(pid, writing)

    def _be_a_fork(self, orders: int) -> None:
        """Be confined, wait for an order and obey it. Never returns."""
        code = 1
        try:
            self._runner.in_fork()
            seconds = int(self._cpu_s) + 2  # behind the signal that ends the call with an exception
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            self._randomness.in_fork()
            self._confinement.install()
            self._runner.rehearse()
            order = _read(orders)
            if order is not None:  # else the cell is gone
                self._obey(*order)
            code = ORDERLY
        except WorkerGone:
            code = ORDERLY
        finally:
            os._exit(code)

    def _obey(self, header: Dict[str, Any], bodies: List[bytes]) -> None:
        """
        Answer a call, then serve its callbacks until none waits; other orders are for a fork that has ended.

        The last word is the last: a thread of the handler that spoke after it would be heard in the next call.
        """
        if header["t"] == "settle":
            self._channel.send({"t": "crashed", "id": header["id"], "exit": 0})
            return
        if header["t"] == "leave":
            self._channel.send(LEFT)
            return
        while True:
            answer, parts = self._runner.answer(header, bodies)
            with self._channel.silence():
                self._channel.send(dict(answer, cpu=time.process_time_ns() // 1000), parts)
                frame = self._channel.read() if self._runner.waits() else None
                if frame is None:
                    os._exit(ORDERLY)
                header, bodies = frame
                if header["t"] == "leave":  # the worker sends nothing more until it hears that
                    self._channel.send(LEFT)
                    os._exit(ORDERLY)


def _read(orders: int) -> Optional[frames.Frame]:
    """Read the order from a pipe, which is closed then; None when the other end is closed before it."""
    decoder = frames.Decoder.of_the_worker()
    frame = None
    while frame is None:
        data = os.read(orders, ORDER_BYTES)
        if not data:
            break
        decoder.feed(data)
        frame = decoder.next()
    os.close(orders)
    return frame
