"""
Isolation `cell`: a handler version is loaded once, and each call runs in a fork of the loaded process.

A cell may fork but not start programs; its forks may do neither. What a fork leaves in memory goes with it, what it
leaves in the private directory is removed. A cell belongs to one handler version, which can deceive only itself.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import time
from typing import Any, Callable, Dict, List, Protocol, Tuple

from .channel import Channel, WorkerGone
from .layers import seccomp

Answer = Tuple[Dict[str, Any], List[bytes]]


class Obeys(Protocol):
    """The runner, as far as a cell needs it."""

    def answer(self, header: Dict[str, Any], bodies: List[bytes]) -> Answer: ...
    def waits(self) -> bool: ...


class Cell:
    """Runs calls in forks of this process."""

    def __init__(self, channel: Channel, runner: Obeys, cpu_s: float) -> None:
        self._channel = channel
        self._runner = runner
        self._cpu_s = cpu_s
        gc.collect()
        gc.freeze()  # the collector shall not touch, and so copy, what all forks share

    def call(self, header: Dict[str, Any], bodies: List[bytes]) -> None:
        """Run one call in a fork, and stay quiet until that has ended: the channel is its own meanwhile."""
        pid = os.fork()
        if pid == 0:
            self._be_a_fork(lambda: self._serve(header, bodies))
        _, status, usage = os.wait4(pid, 0)
        self._channel.belongs_here()
        self._wipe()
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

    def _be_a_fork(self, serve: Callable[[], None]) -> None:
        """Never returns."""
        code = 1
        try:
            self._channel.belongs_here()
            seconds = int(self._cpu_s) + 2  # behind the signal that ends the call with an exception
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            seccomp.install(seccomp.build_for_fork(os.getpid()))
            serve()
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

    @staticmethod
    def _wipe() -> None:
        os.chmod(".", 0o700)  # noqa: PTH101  strings all along
        for name in os.listxattr("."):
            os.removexattr(".", name)
        for entry in os.scandir("."):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)  # noqa: PTH108  strings all along
