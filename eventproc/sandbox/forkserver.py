"""The sandbox: handlers run in processes forked from a clean zygote, each under its monitor."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from eventproc.abc import Call, Child, Outcome, Program, RunSession, Sandbox, SandboxReport
from eventproc.model import Failure, Limits
from eventproc.sandbox.child import ConnectedChild
from eventproc.sandbox.launcher import Launcher

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


class Unloadable(Child):
    """Stands in for a child whose blob must not meet an interpreter: each call fails in the same way."""

    def __init__(self, failure: Failure) -> None:
        self._failure = failure

    def execute(self, calls: Sequence[tuple[Call, RunSession]]) -> Iterator[Outcome]:
        for call, _ in calls:
            yield Outcome(
                run_id=call.run_id, started=True, failure=self._failure, result_json=None, callbacks=False, alive=False
            )

    def settle(self, run_id: int, action: str) -> Failure | None:
        del run_id, action
        return None

    def kill(self) -> None:
        """There is nothing to end."""

    def close(self) -> None:
        """There is nothing to close."""


def wrong_python(program: Program, served: Sequence[str]) -> Failure | None:
    """Refuse a blob that no interpreter here can run: bytecode of another version crashes or lies."""
    if not program.python or program.python in served:
        return None
    return Failure(
        kind="load",
        message=f"{program.name} was registered from Python {program.python}, but handlers run on Python "
        f"{', '.join(served)} here; register it again from one of those",
    )


class ForkServerSandbox(Sandbox):
    """Children are forked from one zygote; `scratch` is where their private directories are made."""

    def __init__(self, *, python: str = sys.executable, scratch: Path | None = None) -> None:
        self._launcher = Launcher(python, scratch)

    def spawn(self, program: Program, limits: Limits) -> Child:
        refusal = wrong_python(program, (RUNNING,))
        if refusal is not None:
            return Unloadable(refusal)
        return ConnectedChild(self._launcher.launch(limits), program, limits)

    def check(self, program: Program, limits: Limits) -> Failure | None:
        refusal = wrong_python(program, (RUNNING,))
        if refusal is not None:
            return refusal
        child = ConnectedChild(self._launcher.launch(limits), program, limits)
        try:
            return child.wait_loaded()
        finally:
            child.close()

    def report(self) -> SandboxReport:
        return SandboxReport(
            level="processes",
            layers=("process", "rlimits", "clean environment", "private directory", "wall clock"),
            missing={"kernel": "handlers are not confined by the kernel: they can do what the worker's user can do"},
            pythons=(RUNNING,),
        )

    def zygote_pid(self) -> int:
        """Return the process id of the fork server, started if need be."""
        return self._launcher.start()

    def close(self) -> None:
        self._launcher.close()
