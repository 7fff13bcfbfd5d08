"""The sandbox's twin for users' tests: the same runner on a thread of this process. Nothing is enforced."""

from __future__ import annotations

import contextlib
import importlib.metadata
import select
import socket
import threading
from collections.abc import Iterator, Sequence

from packaging.requirements import Requirement

from eventproc.abc import Child, Program, Sandbox, SandboxReport
from eventproc.child.channel import Channel
from eventproc.child.runner import Runner
from eventproc.errors import RequirementsError
from eventproc.model import Environment, Failure, Limits
from eventproc.sandbox.child import ConnectedChild
from eventproc.sandbox.endings import Ending
from eventproc.sandbox.forkserver import ChildPerCall, Unloadable, wrong_python
from eventproc.sandbox.interpreters import RUNNING
from eventproc.sandbox.link import Link

PARTING_S = 2.0  # for a handler that still runs when nobody waits for it any more


class ThreadLink(Link):
    """A runner on a thread."""

    enforced = False

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.setblocking(False)
        self._ending: Ending | None = None
        self._thread = threading.Thread(target=self._serve, args=(theirs,), name="eventproc-handler", daemon=True)
        self._thread.start()

    @staticmethod
    def _serve(sock: socket.socket) -> None:
        with sock:
            Runner(Channel(sock), own_process=False).serve()

    def poll(self, *, read: bool, write: bool, timeout_s: float | None) -> dict[int, int]:
        if self._ending is not None:
            return {}
        poll = select.poll()
        wanted = (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)
        poll.register(self.channel, wanted)
        return dict(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def read_output(self) -> Iterator[tuple[str, str]]:
        return iter(())

    def ending(self) -> Ending | None:
        return self._ending

    def hung_up(self) -> None:
        self._ending = self._ending or Ending(error="its thread ended")

    def cpu_us(self) -> int:
        return 0

    def memory_bytes(self) -> int | None:
        return None

    def kill(self) -> None:
        """Stop listening to it: a thread can not be ended from outside."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.channel.close()
        self._thread.join(PARTING_S)


class InProcessSandbox(Sandbox):
    """Runs handlers in this very process, so that tests are quick and a debugger can step into them."""

    def spawn(self, program: Program, limits: Limits) -> Child:
        refusal = wrong_python(program, (RUNNING,))
        if refusal is not None:
            return Unloadable(refusal)
        if program.isolation == "cell":
            return ChildPerCall(lambda: ConnectedChild(ThreadLink(), program, limits))
        return ConnectedChild(ThreadLink(), program, limits)

    def check(self, program: Program, limits: Limits) -> Failure | None:
        refusal = wrong_python(program, (RUNNING,))
        if refusal is not None:
            return refusal
        child = ConnectedChild(ThreadLink(), program, limits)
        try:
            return child.wait_loaded()
        finally:
            child.close()

    def report(self) -> SandboxReport:
        return SandboxReport(
            level="none",
            layers=(),
            missing={"process": "handlers run inside this process; limits are not enforced, a crash takes it down"},
            pythons=(RUNNING,),
        )

    def pythons(self, *, wait: bool = False) -> tuple[str, ...]:
        del wait
        return (RUNNING,)

    def resolve(self, python: str, requirements: Sequence[str]) -> Environment:
        """See that this very interpreter has what is required; nothing is installed."""
        del python
        missing = [text for text in map(_missing, requirements) if text]
        if missing:
            raise RequirementsError(
                f"handlers run inside this process here, with its packages, and {'; '.join(missing)}; install what is "
                "missing, or give a sandbox that has environments of its own"
            )
        return Environment.of(RUNNING, tuple(requirements), "")

    def close(self) -> None:
        """Nothing is kept open between children."""


def _missing(line: str) -> str | None:
    wanted = Requirement(line)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return None
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{wanted.name} is {version}, not {wanted.specifier}"
    return None
