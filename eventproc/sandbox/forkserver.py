"""The sandbox: handlers run in processes forked from a clean zygote, each under its monitor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from eventproc.abc import Call, Child, Outcome, Program, RunSession, Sandbox, SandboxReport
from eventproc.errors import ConfigError
from eventproc.model import Failure, Limits
from eventproc.sandbox.child import ConnectedChild
from eventproc.sandbox.launcher import Launcher
from eventproc.sandbox.layers import SAFE_LEVELS, UNSAFE_LEVELS, missing_layers

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


class ChildPerCall(Child):
    """Starts a fresh child for each call."""

    def __init__(self, start: Callable[[], Child]) -> None:
        self._start = start
        self._child: Child | None = None
        self._killed = False

    def execute(self, calls: Sequence[tuple[Call, RunSession]]) -> Iterator[Outcome]:
        for each in calls:
            self.close()
            self._child = self._start()
            if self._killed:
                self._child.kill()
            yield from self._child.execute([each])

    def settle(self, run_id: int, action: str) -> Failure | None:
        return self._child.settle(run_id, action) if self._child else None

    def rest(self) -> None:
        self.close()

    def kill(self) -> None:
        self._killed = True
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


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
    """
    Children are forked from one zygote and confined by the kernel as far as that is to be had.

    The strongest level that can be put up is taken. `levels` are those to try; levels without Landlock (C) or
    without anything ("none") are tried with `allow_unsafe` only. `scratch` is where private directories are made,
    `spares` how many children are started ahead of their need.
    """

    def __init__(
        self,
        *,
        python: str = sys.executable,
        scratch: Path | None = None,
        levels: Sequence[str] = SAFE_LEVELS,
        allow_unsafe: bool = False,
        spares: int = 1,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        unsafe = sorted(set(levels) - set(SAFE_LEVELS))
        if unsafe and not allow_unsafe:
            raise ConfigError(
                f"level {unsafe[0]!r} lets handlers read what this user can read: set allow_unsafe to mean it"
            )
        if allow_unsafe and not unsafe:
            levels = [*levels, *UNSAFE_LEVELS]
        self._launcher = Launcher(python, scratch, levels, spares)
        self._launcher.environ.update(environ or {})
        self._layers: tuple[str, ...] | None = None

    def spawn(self, program: Program, limits: Limits) -> Child:
        refusal = wrong_python(program, (RUNNING,))
        if refusal is not None:
            return Unloadable(refusal)
        if program.isolation == "cell":
            return self._cell(program, limits)
        return self._start(program, limits)

    def _cell(self, program: Program, limits: Limits) -> Child:
        """Start a cell; where processes have no namespace of their own, a fresh child for each call does instead."""
        self._launcher.start()
        if self._launcher.level != "A":
            return ChildPerCall(lambda: self._start(program, limits))
        return ConnectedChild(self._launcher.launch(limits, cell=True), program, limits, cell=True)

    def _start(self, program: Program, limits: Limits) -> ConnectedChild:
        link = self._launcher.launch(limits)
        if self._layers is None:
            self._layers = link.layers
        return ConnectedChild(link, program, limits)

    def check(self, program: Program, limits: Limits) -> Failure | None:
        refusal = wrong_python(program, (RUNNING,))
        if refusal is not None:
            return refusal
        child = self._start(program, limits)
        try:
            return child.wait_loaded()
        finally:
            child.close()

    def report(self) -> SandboxReport:
        """Say what stands around handlers; found by starting one."""
        if self._layers is None:
            link = self._launcher.launch(Limits())
            self._layers = link.layers
            link.close()
        return SandboxReport(
            level=self._launcher.level or "none",
            layers=self._layers,
            missing=missing_layers(self._layers, self._launcher.refused),
            pythons=(RUNNING,),
        )

    def zygote_pid(self) -> int:
        """Return the process id of the fork server, started if need be."""
        return self._launcher.start()

    def close(self) -> None:
        self._launcher.close()
