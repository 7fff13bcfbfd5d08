"""The worker's hold on its zygote: started when needed, noticed when dead, started again."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path

import structlog

import eventproc.child
from eventproc.errors import SandboxError
from eventproc.model import Limits
from eventproc.sandbox.link import ProcessLink

log = structlog.get_logger(__name__)

ZYGOTE = Path(eventproc.child.__file__).with_name("zygote.py")
START_S = 60.0  # for the zygote's imports on a busy machine
FORK_S = 30.0
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",  # also keeps the zygote single-threaded
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}


class Launcher:
    """Starts children of one interpreter through its zygote."""

    def __init__(self, python: str, scratch: Path | None) -> None:
        self._python = python
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._own_scratch = scratch is None
        self._scratch = scratch
        self.missing: tuple[str, ...] = ()

    def start(self) -> int:
        """Start the zygote unless it lives; return its process id."""
        with self._lock:
            self._ensure()
            assert self._process is not None
            return self._process.pid

    def launch(self, limits: Limits) -> ProcessLink:
        """Start a child. Raises SandboxError when that can not be had, also not from a fresh zygote."""
        for last in (False, True):
            link, theirs = self._wires()
            try:
                self._request(limits, theirs)
                if link.await_start(FORK_S):
                    return link
                error = link.start_error() or "the fork server ended"
            except (OSError, SandboxError) as failure:
                error = str(failure)
            link.close()
            log.warning("fork server did not start a child", error=error)
            if last:
                raise SandboxError(f"no process for the handler could be started: {error}")
            self._discard()
        raise AssertionError("not reached")

    def close(self) -> None:
        """End the zygote; children that still run are ended by their own monitors."""
        with self._lock:
            self._stop()
            if self._own_scratch and self._scratch is not None:
                with contextlib.suppress(OSError):  # a monitor may still be cleaning up below it
                    self._scratch.rmdir()
                self._scratch = None

    def _wires(self) -> tuple[ProcessLink, list[int]]:
        channel, their_channel = socket.socketpair()
        monitor, their_monitor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        link = ProcessLink(channel, monitor, {"stdout": out, "stderr": err})
        return link, [their_monitor.detach(), their_channel.detach(), their_out, their_err]

    def _request(self, limits: Limits, fds: list[int]) -> None:
        with self._lock, contextlib.ExitStack() as stack:
            for fd in fds:  # once they are on their way, only the child may hold them: else their end is never seen
                stack.callback(os.close, fd)
            self._ensure()
            assert self._control is not None
            request = json.dumps({"limits": asdict(limits), "scratch": str(self._scratch)}).encode()
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            self._control.sendmsg([request], [rights])

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="eventproc-scratch-"))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own file, by our own or a configured interpreter
                [self._python, "-I", "-X", "utf8", str(ZYGOTE), str(theirs.fileno())],
                env=ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        self._control = ours
        ours.settimeout(START_S)
        try:
            hello = ours.recv(1 << 16)
        except OSError as error:
            hello = b""
            log.warning("fork server said nothing", error=str(error))
        if not hello:
            self._stop()
            raise SandboxError(f"the fork server did not start ({self._python}); its words are on the worker's stderr")
        self.missing = tuple(json.loads(hello)["missing"])

    def _discard(self) -> None:
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
