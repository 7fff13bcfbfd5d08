"""
The supervisor: one process per role, restarted when it dies, stopped in good order.

It holds no state that matters: a role process that is killed loses its leases, never an event.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from urllib.parse import urlsplit

import structlog

from eventproc.config import PREFIX, Settings
from eventproc.errors import ConfigError, Unavailable
from eventproc.roles import ENV_READY, ENV_SUPERVISOR, files
from eventproc.roles.doors import Doors
from eventproc.roles.metric_doors import MetricDoors

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
GOOD_LIFE_S = 30.0  # a role that lived so long starts again with the shortest pause
TURN_S = 1.0  # between looks at what says nothing by itself
START_S = 120.0  # all roles must answer within
KILL_AFTER_S = 10.0  # beyond the handlers' grace
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a closed terminal stops in good order, too
MAX_FIRST_FAILURES = 3  # of one role before the platform was ever ready

Announce = Callable[[Mapping[str, str]], None]


class RoleProcess:
    """One role's process, over its restarts."""

    def __init__(
        self, name: str, command: Sequence[str], environ: dict[str, str], doors: Doors | MetricDoors | None
    ) -> None:
        self.name = name
        self.ready = False
        self.failures = 0
        self.restart_at: float | None = None
        self.pipe: int | None = None  # to read the word "ready" from
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._environ = environ
        self._doors = doors
        self._started_at = 0.0
        self._pause_s = FIRST_PAUSE_S

    def start(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        environ = self._environ | {ENV_SUPERVISOR: str(os.getpid()), ENV_READY: str(writer)}
        passed = [writer]
        if self._doors is not None:
            environ |= self._doors.environ()
            passed += [sock.fileno() for sock in self._doors.sockets().values()]
        # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which then stops all in order.
        self.process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            self._command, env=environ, pass_fds=passed, stdin=subprocess.DEVNULL, start_new_session=True
        )
        os.close(writer)
        self.pipe = reader
        self.ready = False
        self.restart_at = None
        self._started_at = time.monotonic()

    def heard(self) -> None:
        """Read from the pipe: a byte says ready, the end says nothing (the process's end will)."""
        if self.pipe is not None:
            self.ready = bool(os.read(self.pipe, 16)) or self.ready
            self.close_pipe()

    def close_pipe(self) -> None:
        if self.pipe is not None:
            os.close(self.pipe)
            self.pipe = None

    def died(self) -> int | None:
        """Return the exit status if the process ended since the last call, and plan its restart."""
        if self.process is None:
            return None
        status = self.process.poll()
        if status is None:
            return None
        if self.pipe is not None and not self.ready:
            self.close_pipe()
        self.process = None
        self.ready = False
        self.failures += 1
        lived = time.monotonic() - self._started_at
        self._pause_s = FIRST_PAUSE_S if lived > GOOD_LIFE_S else min(self._pause_s * 2, LONGEST_PAUSE_S)
        self.restart_at = time.monotonic() + self._pause_s
        return status

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def describe_status(status: int) -> str:
    """Say in words how a process ended."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class Supervisor:
    """Runs the roles until it is told to stop."""

    def __init__(self, settings: Settings, roles: Sequence[str]) -> None:
        self._settings = settings
        self._doors: Doors | None = None
        self._metric_doors = MetricDoors()
        self._selector = selectors.DefaultSelector()
        self._roles: list[RoleProcess] = []
        self._names = tuple(roles)
        self._stop_signals = 0
        self._announced = False

    # ------------------------------------------------------------------------------------------- life

    def run(self, announce: Announce) -> int:
        """Start all roles, call `announce` with the endpoints once all answer, and stay until a signal."""
        api_lock = files.Lock(self._settings.run_dir / "api.lock")
        try:
            api_lock.take("eventproc serve --role api")
            files.remove_endpoints(self._settings.endpoints_file)  # a killed predecessor may have left it
            self._doors = Doors.open(self._settings)
            if "listener" in self._names:
                self._metric_doors = MetricDoors.open(self._settings)
            with self._signals():
                return self._supervise(announce)
        finally:
            files.remove_endpoints(self._settings.endpoints_file)
            if self._doors is not None:
                self._doors.close()
            self._metric_doors.close()
            api_lock.release()

    def _supervise(self, announce: Announce) -> int:
        deadline = time.monotonic() + START_S
        try:
            self._start_all()
            database = files.Watched(self._settings.database_file)
            while not self._stop_signals:
                self._turn()
                if not self._announced:
                    self._maybe_announce(announce, deadline)
                database.check()
        except BaseException:
            self._kill_all()
            raise
        return self._stop_all()

    @property
    def url(self) -> str:
        assert self._doors is not None
        return self._doors.endpoints()["http"]

    def _start_all(self) -> None:
        assert self._doors is not None
        bound = self._metric_doors.bound(self._doors.bound(self._settings))
        doors: dict[str, Doors | MetricDoors] = {"api": self._doors, "listener": self._metric_doors}
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environ |= bound.as_environ()
        environ.setdefault("PYTHONUNBUFFERED", "1")
        for name in [role for role in self._names for _ in range(self._processes(role))]:
            command = [sys.executable, "-m", "eventproc", "serve", "--role", name]
            role = RoleProcess(name, command, environ, doors.get(name))
            self._roles.append(role)
            self._start(role)

    def _processes(self, role: str) -> int:
        return self._settings.models.processes if role == "models" else 1

    def _start(self, role: RoleProcess) -> None:
        role.start()
        assert role.pipe is not None
        self._selector.register(role.pipe, selectors.EVENT_READ, role)

    # ------------------------------------------------------------------------------------------- turns

    def _turn(self) -> None:
        """Wait for something to happen and take care of it."""
        pending = [role.restart_at for role in self._roles if role.restart_at is not None]
        pause = min((at - time.monotonic() for at in pending), default=TURN_S)
        if not self._announced:
            pause = min(pause, 0.05)
        self._listen(max(0.0, min(pause, TURN_S)))
        for role in self._roles:
            if (status := self._reap(role)) is not None:
                self._mourn(role, status)
            if role.restart_at is not None and time.monotonic() >= role.restart_at:
                log.info("role starts again", name=role.name)
                self._start(role)

    def _listen(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, RoleProcess):
                self._selector.unregister(key.fd)
                key.data.heard()
            else:
                with contextlib.suppress(BlockingIOError):  # the wake-up bytes of signals
                    os.read(key.fd, 512)

    def _reap(self, role: RoleProcess) -> int | None:
        pipe = role.pipe
        status = role.died()
        if status is not None and pipe is not None:
            with contextlib.suppress(KeyError, ValueError):  # already unregistered
                self._selector.unregister(pipe)
            role.close_pipe()
        return status

    def _mourn(self, role: RoleProcess, status: int) -> None:
        words = describe_status(status)
        if not self._announced and (status == ConfigError.exit_code or role.failures >= MAX_FIRST_FAILURES):
            kind = ConfigError if status == ConfigError.exit_code else Unavailable
            raise kind(f"the role {role.name!r} can not be started ({words}); its reason stands above")
        pause = max(0.0, (role.restart_at or 0.0) - time.monotonic())
        log.error("role died; it will be started again", name=role.name, how=words, pause_s=round(pause, 1))

    def _maybe_announce(self, announce: Announce, deadline: float) -> None:
        if all(role.ready for role in self._roles) and self._healthy():
            assert self._doors is not None
            endpoints = self._doors.endpoints() | self._metric_doors.endpoints()
            files.write_endpoints(self._settings.endpoints_file, endpoints)
            self._announced = True
            announce(endpoints)
        elif time.monotonic() > deadline:
            missing = ", ".join(role.name for role in self._roles if not role.ready) or "api"
            raise Unavailable(f"after {START_S:g} s these roles still do not answer: {missing}")

    def _healthy(self) -> bool:
        if "api" not in self._names:
            return True
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=5)
        try:
            connection.request("GET", "/api/v1/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # ------------------------------------------------------------------------------------------- stop

    def _stop_all(self) -> int:
        """End the roles in good order; a second signal, or time running out, ends them at once."""
        files.remove_endpoints(self._settings.endpoints_file)
        seen = self._stop_signals
        grace = self._settings.worker.grace + KILL_AFTER_S
        log.info("stopping; a second signal ends at once", grace_s=self._settings.worker.grace)
        deadline = time.monotonic() + grace
        for role in self._roles:
            role.restart_at = None
            role.signal(signal.SIGTERM)
        while any(role.process is not None for role in self._roles):
            self._listen(0.1)
            for role in self._roles:
                if (status := self._reap(role)) is not None and status != 0:
                    log.warning("role ended badly", name=role.name, how=describe_status(status))
                role.restart_at = None
            if self._stop_signals > seen or time.monotonic() > deadline:
                late = [role.name for role in self._roles if role.process is not None]
                if late:
                    log.warning("killing roles; their leases will run out and be taken up again", roles=late)
                self._kill_all()
                return 1
        return 0

    def _kill_all(self) -> None:
        for role in self._roles:
            role.signal(signal.SIGKILL)
        for role in self._roles:
            if role.process is not None:
                role.process.wait()
            role.close_pipe()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(reader, selectors.EVENT_READ, None)
        before = {number: signal.getsignal(number) for number in (*STOPS, signal.SIGCHLD)}
        old_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in STOPS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to be woken
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(reader)
            os.close(writer)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_signals += 1


__all__ = ["RoleProcess", "Supervisor", "describe_status"]
