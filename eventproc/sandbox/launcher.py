"""The worker's hold on its zygote: started when needed, noticed when dead, started again."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

import eventproc.child
from eventproc.errors import SandboxError
from eventproc.sandbox.link import MonitorHandle, ProcessLink
from eventproc.sandbox.orders import Order

log = structlog.get_logger(__name__)

ZYGOTE = Path(eventproc.child.__file__).with_name("zygote.py")
MAX_IDLE_MONITORS = 16
ATTEMPTS = 3
START_S = 120.0  # for the zygote's imports, on a machine that is slow and busy
FORK_S = 30.0
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",  # also keeps the zygote single-threaded
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "EXECUTOR_CONTEXT": "true",  # handlers written for btrdbextras look whether they really run
}

WHAT_TO_DO = (
    "Give the worker user namespaces (or CAP_SYS_ADMIN), or a kernel with Landlock; "
    "to run handlers unconfined, with all of this user's rights, set unsafe_sandbox"
)


def package_paths() -> list[str]:
    """Return where our own packages are: `-I` leaves out PYTHONPATH and the user's site-packages."""
    return [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"} and Path(path).is_dir()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Modules:
    """Where a zygote and its children find modules beyond the interpreter's own."""

    packages: Sequence[str] = field(default_factory=package_paths)  # the platform's: the zygote imports from there
    environment: str | None = None  # the handler's, of which the zygote imports nothing
    left_out: tuple[str, ...] = ()  # that the environment has, so that the zygote must not import another one


def _last_words(code: int) -> str:
    """Say how a fork server ended that did not say why itself."""
    if code == -signal.SIGSYS:
        return (
            "the fork server was ended for a system call: a filter around the worker forbids what the sandbox needs "
            "(systemd: SystemCallFilter=)"
        )
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"the fork server ended at once, {how}; its words are on the worker's stderr"


class Launcher:
    """Starts children of one interpreter through its zygote."""

    def __init__(
        self,
        python: str,
        scratch: Path | None,
        levels: Sequence[str],
        spares: int,
        modules: Modules | None = None,
        *,
        full_network: bool = False,
    ) -> None:
        self._modules = modules or Modules()
        self._full_network = full_network
        self._links = 0  # to children, waiting ones too
        self._spares = spares
        self._waiting: list[tuple[Order, ProcessLink]] = []  # children started ahead of need
        self._monitors: list[MonitorHandle] = []  # that end their last child
        self._ready: list[MonitorHandle] = []  # that wait for the next
        self._closed = False
        self._python = python
        self.environ = dict(ENVIRONMENT)
        self.paths: list[str] = []  # of the host that handlers may read
        self._levels = tuple(levels)
        self.level: str | None = None  # the one that could be put up
        self.refused: dict[str, str] = {}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._own_scratch = scratch is None
        self._scratch = scratch
        self.missing: tuple[str, ...] = ()
        self.no_places = ""  # why handlers can not be given places on the network

    def start(self) -> int:
        """Start the zygote unless it lives; return its process id."""
        with self._lock:
            self._ensure()
            assert self._process is not None
            return self._process.pid

    def launch(self, order: Order) -> ProcessLink:
        """Return a started child. Raises SandboxError when that can not be had, also not from a fresh zygote."""
        spare = None if order.cell else self._take_spare(order)
        if spare is not None:
            if spare.await_start(FORK_S):
                self._prepare_spare(order)
                return spare
            spare.close()
        error = "the fork server ended"
        for attempt in range(ATTEMPTS):
            try:
                link = self._begin(order, fresh=attempt > 0)
                if link.await_start(FORK_S):
                    if not order.cell:
                        self._prepare_spare(order)
                    return link
                error = link.start_error() or error
                link.close()
            except (OSError, SandboxError) as failure:
                error = str(failure)
            log.warning("a child was not started", error=error)
            if attempt:
                self._discard()
        raise SandboxError(f"no process for the handler could be started: {error}")

    def _begin(self, order: Order, *, fresh: bool) -> ProcessLink:
        """Have a monitor start a child, without waiting for it."""
        monitor = (None if fresh else self._idle_monitor()) or self._new_monitor()
        channel, their_channel = socket.socketpair()
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        theirs = [their_channel.detach(), their_out, their_err]
        link = ProcessLink(channel, monitor, {"stdout": out, "stderr": err}, self._release, many=order.programs)
        with self._lock:
            self._links += 1
        try:
            monitor.start(order, theirs)
        except OSError:
            link.close()
            raise
        finally:  # only the child may hold them: else their end is never seen
            for fd in theirs:
                os.close(fd)
        return link

    def _new_monitor(self) -> MonitorHandle:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, self._lock:
                self._ensure()
                self._ask_for_monitor(theirs)
        except BaseException:  # the fork server has just been killed, or none can be had
            ours.close()
            raise
        return MonitorHandle(ours)

    def _ask_for_monitor(self, theirs: socket.socket) -> None:
        assert self._control is not None
        scratch = "" if self.level == "A" else str(self._directory("runs"))  # at level A it is a mount of their own
        request = json.dumps({"scratch": scratch}).encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))
        self._control.sendmsg([request], [rights])

    def _idle_monitor(self) -> MonitorHandle | None:
        """Return a monitor whose child has ended."""
        with self._lock:
            waiting, self._monitors = self._monitors, []
            found = None
            for monitor in waiting:
                finished = None if found else monitor.finished()
                if found or finished is False:
                    self._monitors.append(monitor)
                elif finished is None:
                    monitor.close()
                else:
                    found = monitor
            return found or (self._ready.pop() if self._ready else None)

    def _release(self, monitor: MonitorHandle, ended: bool | None) -> None:  # noqa: FBT001  a callback
        """Take back a monitor: `ended` says whether its child has ended, None that the monitor is of no use."""
        with self._lock:
            self._links -= 1
            if ended is None or self._closed or len(self._monitors) + len(self._ready) >= MAX_IDLE_MONITORS:
                monitor.close()
            else:
                (self._ready if ended else self._monitors).append(monitor)

    def _take_spare(self, order: Order) -> ProcessLink | None:
        self._drop_homeless()
        with self._lock:
            for index, (made_for, link) in enumerate(self._waiting):
                if made_for == order:
                    del self._waiting[index]
                    return link
        return None

    def _drop_homeless(self) -> None:
        """End the waiting children whose directories are gone: hosts clean up what stood idle in /tmp."""
        with self._lock:
            if self.level == "A" or self._scratch is None or (self._scratch / "runs").is_dir():
                return
            homeless, self._waiting = self._waiting, []
        for _, link in homeless:
            link.close()

    def _prepare_spare(self, order: Order) -> None:
        """Start a child ahead of its need, so that the next launch of this order finds it ready."""
        with self._lock:
            full = len(self._waiting) >= self._spares
            old = self._waiting.pop(0)[1] if full and self._waiting and self._waiting[0][0] != order else None
            if full and old is None:
                return
        if old is not None:
            old.close()
        with contextlib.suppress(OSError, SandboxError):  # what is wrong will show when a child is really wanted
            link = self._begin(order, fresh=False)
            with self._lock:
                if not self._closed:
                    self._waiting.append((order, link))
                    return
            link.close()

    @property
    def busy(self) -> bool:
        """Whether it has children beyond those that wait to be needed."""
        with self._lock:
            return self._links > len(self._waiting)

    def close(self) -> None:
        """End the zygote; children that still run are ended by their own monitors."""
        with self._lock:
            self._closed = True
            spares, self._waiting = self._waiting, []
        for _, link in spares:
            link.close()
        with self._lock:
            for monitor in (*self._monitors, *self._ready):
                monitor.close()
            self._monitors, self._ready = [], []
            self._stop()
            self._remove_directories()

    def _remove_directories(self) -> None:
        """Remove what is empty: the zygote's root is no place on the host any more once it has moved there."""
        if self._scratch is None:
            return
        for path in (self._scratch / "root", self._scratch / "runs"):
            with contextlib.suppress(OSError):  # a monitor may still be cleaning up below it
                path.rmdir()
        if self._own_scratch:
            with contextlib.suppress(OSError):
                self._scratch.rmdir()
            self._scratch = None

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        levels = [self.level] if self.level else self._levels
        for level in levels:
            refusal = self._try(level)
            if refusal is None:
                self.level = level
                if level == "A":
                    self._remove_directories()
                return
            self.refused[level] = refusal
            log.info("this kind of sandbox is not to be had here", level=level, reason=refusal)
        raise SandboxError(
            "no sandbox can be put around handlers here: "
            + "; ".join(f"level {level}: {reason}" for level, reason in self.refused.items())
            + f". {WHAT_TO_DO}"
        )

    def _try(self, level: str) -> str | None:
        """Start a zygote at that level; return why not when it can not be had. Raises SandboxError if it is slow."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = {
            "level": level,
            "mountpoint": str(self._directory("root")),
            "packages": list(self._modules.packages),
            "environment": self._modules.environment,
            "paths": [*self.paths, *([self._modules.environment] if self._modules.environment else [])],
            "left_out": self._modules.left_out,
            "network": "full" if self._full_network else "",
        }
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own file, by our own or a configured interpreter
                [self._python, "-I", "-X", "utf8", str(ZYGOTE), str(theirs.fileno()), json.dumps(config)],
                env=self.environ,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        self._control = ours
        ours.settimeout(START_S)
        try:
            hello = json.loads(ours.recv(1 << 16) or b"{}")
        except TimeoutError:  # says nothing of what can be had: a weaker level must not be the answer
            self._stop()
            raise SandboxError(
                f"the fork server (level {level}) was not ready within {START_S:g} s: the machine is too busy or slow"
            ) from None
        except OSError as error:
            hello = {"refused": str(error)}
        if "ready" in hello:
            self.missing = tuple(hello["missing"])
            self.no_places = hello["no_places"]
            return None
        process = self._process
        self._stop()
        return str(hello.get("refused") or _last_words(process.returncode))

    def _directory(self, name: str) -> Path:
        """Return a directory in our scratch, which handlers of another user must be able to walk through."""
        if self._own_scratch and self._scratch is not None and not self._scratch.is_dir():
            self._scratch = None  # hosts clean up their /tmp, and this one may stand idle for weeks
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="eventproc-scratch-"))
            self._scratch.chmod(0o711)
        path = self._scratch / name
        path.mkdir(exist_ok=True)
        path.chmod(0o711)
        return path

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
