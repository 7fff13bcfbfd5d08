"""The sandbox: handlers run in processes forked from a clean zygote, each under its monitor."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eventproc.abc import Call, Child, Outcome, Program, RunSession, Sandbox, SandboxReport
from eventproc.child.pipeline import PATH_VARIABLE
from eventproc.errors import ConfigError, UnsupportedOption
from eventproc.model import FULL_NETWORK, Environment, Failure, Limits, Policy
from eventproc.sandbox import powers
from eventproc.sandbox.child import ConnectedChild
from eventproc.sandbox.interpreters import RUNNING
from eventproc.sandbox.launcher import Launcher, Modules
from eventproc.sandbox.layers import SAFE_LEVELS, UNSAFE_LEVELS, missing_layers
from eventproc.sandbox.orders import Order
from eventproc.sandbox.powers import Equipment
from eventproc.sandbox.provider import Provider
from eventproc.sandbox.zygotes import Key, Zygotes


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
    Children are forked from zygotes and confined by the kernel as far as that is to be had.

    The strongest level that can be put up is taken. `levels` are those to try; levels without Landlock (C) or
    without anything ("none") are tried with `allow_unsafe` only. `scratch` is where private directories are made,
    `spares` how many children are started ahead of their need. Blobs of other versions of Python, and those with
    requirements, need a `provider` of interpreters and packages. Pipelines may import from the directories of
    `handler_path`, which all children can read.
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
        provider: Provider | None = None,
        policy: Policy | None = None,
        handler_path: Sequence[Path] = (),
    ) -> None:
        unsafe = sorted(set(levels) - set(SAFE_LEVELS))
        if unsafe and not allow_unsafe:
            raise ConfigError(
                f"level {unsafe[0]!r} lets handlers read what this user can read: set allow_unsafe to mean it"
            )
        if allow_unsafe and not unsafe:
            levels = [*levels, *UNSAFE_LEVELS]
        self._levels = tuple(levels)
        self._environ = dict(environ or {})
        self._python = python
        self._paths = [str(path.resolve()) for path in handler_path if path.is_dir()]
        if self._paths:
            self._environ[PATH_VARIABLE] = os.pathsep.join(self._paths)
        self._launcher = self._make_launcher(python, scratch, spares, None)
        self._layers: tuple[str, ...] | None = None
        self._provider = provider
        self._zygotes = Zygotes(self._make_zygote)
        self._policy = policy or Policy()
        self._equipment = Equipment(self._policy)

    def _make_launcher(
        self,
        python: str,
        scratch: Path | None,
        spares: int,
        modules: Modules | None,
        *,
        full_network: bool = False,
    ) -> Launcher:
        launcher = Launcher(python, scratch, self._levels, spares, modules, full_network=full_network)
        launcher.environ.update(self._environ)
        launcher.paths += self._paths
        return launcher

    # ------------------------------------------------------------------------------------------- children

    def spawn(self, program: Program, limits: Limits) -> Child:
        refusal = self._refusal(program)
        if refusal is not None:
            return Unloadable(refusal)
        with self._using(program) as launcher:
            if program.isolation == "cell":
                return self._cell(launcher, program, limits)
            return self._start(launcher, program, limits)

    def _refusal(self, program: Program) -> Failure | None:
        wrong = wrong_python(program, self._served(program))
        if wrong is not None or not (program.allow_subprocess or program.network):
            return wrong
        self._launcher.start()
        return powers.refusal(program, self._launcher.level, self._policy, no_places=self._launcher.no_places)

    def _served(self, program: Program) -> tuple[str, ...]:
        if program.python in {"", RUNNING}:  # nobody need look for others
            return (RUNNING,)
        return self.pythons(wait=True)

    @contextlib.contextmanager
    def _using(self, program: Program) -> Iterator[Launcher]:
        """Give the launcher that the program needs."""
        python = program.python or program.interpreter or RUNNING
        full = program.network == FULL_NETWORK
        if program.environment is None and python == RUNNING and not full:
            yield self._launcher
            return
        if program.environment is not None or python != RUNNING:
            self._needed().remember(program.environment)
        digest = program.environment.digest if program.environment else ""
        with self._zygotes.using((python, digest, full)) as launcher:
            yield launcher

    def _make_zygote(self, key: Key) -> tuple[Launcher, Callable[[], None]]:
        """Install what is missing, and make the launcher. Raises RequirementsError or SandboxError."""
        python, digest, full = key
        if python == RUNNING and not digest:
            return self._make_launcher(self._python, None, 0, None, full_network=full), lambda: None
        path, modules, let_go = self._needed().modules(python, digest)
        try:
            return self._make_launcher(path, None, 1, modules, full_network=full), let_go
        except BaseException:
            let_go()
            raise

    def _needed(self) -> Provider:
        if self._provider is None:
            raise UnsupportedOption("this sandbox has no other Pythons and no packages than its own")
        return self._provider

    def _cell(self, launcher: Launcher, program: Program, limits: Limits) -> Child:
        """Start a cell; where processes have no namespace of their own, a fresh child for each call does instead."""
        launcher.start()
        if launcher.level != "A":
            return ChildPerCall(lambda: self.spawn(replace(program, isolation="run"), limits))
        return self._start(launcher, program, limits, cell=True)

    def _start(self, launcher: Launcher, program: Program, limits: Limits, *, cell: bool = False) -> ConnectedChild:
        order = Order.of(program, limits, cell=cell)
        link = launcher.launch(order)
        if self._layers is None and launcher is self._launcher:
            self._layers = link.layers
        self._equipment.give(link, order)
        return ConnectedChild(link, program, limits, cell=cell)

    def check(self, program: Program, limits: Limits) -> Failure | None:
        refusal = self._refusal(program)
        if refusal is not None:
            return refusal
        with self._using(program) as launcher:
            child = self._start(launcher, program, limits)
        try:
            return child.wait_loaded()
        finally:
            child.close()

    # ------------------------------------------------------------------------------------------- about it

    def pythons(self, *, wait: bool = False) -> tuple[str, ...]:
        return self._provider.pythons(wait=wait) if self._provider else (RUNNING,)

    def unused(self) -> Mapping[str, str]:
        return self._provider.unused() if self._provider else {}

    def resolve(self, python: str, requirements: Sequence[str]) -> Environment:
        return self._needed().resolve(python, requirements)

    def report(self) -> SandboxReport:
        """Say what stands around handlers; found by starting one."""
        if self._layers is None:
            link = self._launcher.launch(Order(Limits()))
            self._layers = link.layers
            link.close()
        return SandboxReport(
            level=self._launcher.level or "none",
            layers=self._layers,
            missing=missing_layers(self._layers, self._launcher.refused, no_places=self._launcher.no_places),
            pythons=self.pythons(),
            groups=powers.groups_found(),
        )

    def zygote_pid(self) -> int:
        """Return the process id of the fork server, started if need be."""
        return self._launcher.start()

    def close(self) -> None:
        if self._provider is not None:
            self._provider.stop()
        self._zygotes.close()
        self._launcher.close()
