"""What a sandbox needs for blobs of other Pythons and for those with requirements: interpreters and packages."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eventproc.errors import SandboxError, UnsupportedOption, VersionMismatch
from eventproc.model import Environment
from eventproc.sandbox.environments import Environments, Held
from eventproc.sandbox.installer import Installer, InstallSettings
from eventproc.sandbox.interpreters import RUNNING, Interpreter, Interpreters
from eventproc.sandbox.launcher import Modules, package_paths
from eventproc.sandbox.toolbox import Toolbox

REMEMBERED = 1000  # locks; one is needed from the call that brings it to the zygote that is made for it


class Provider:
    """The interpreters of this host, and directories of packages below `root`."""

    def __init__(
        self, root: Path, *, settings: InstallSettings | None = None, interpreters: Interpreters | None = None
    ) -> None:
        settings = settings or InstallSettings()
        self.interpreters = interpreters or Interpreters()
        self.installer = Installer(settings, root / "cache")
        self.environments = Environments(
            root, max_bytes=settings.max_bytes, build_s=settings.timeout_s, clean=self.installer.clean
        )
        self._toolbox = Toolbox(self.environments, self.installer)
        self._known: OrderedDict[str, Environment] = OrderedDict()
        self._lock = threading.Lock()
        self._search: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------- interpreters

    def pythons(self, *, wait: bool = False) -> tuple[str, ...]:
        """Return the versions that can be used, ours alone while the others are being looked for."""
        with self._lock:
            if self._search is None:
                self._search = threading.Thread(target=self.interpreters.all, name="interpreters", daemon=True)
                self._search.start()
        if not wait and self._search.is_alive():
            return (RUNNING,)
        self._search.join()
        return tuple(self.interpreters.usable())

    def unused(self) -> Mapping[str, str]:
        return {each.path: each.unused for each in self.interpreters.all() if each.unused}

    def _interpreter(self, python: str) -> Interpreter:
        found = self.interpreters.usable()
        if python not in found:
            raise VersionMismatch(
                f"Python {python} is not here; there are {', '.join(found)}", python=python, pythons=list(found)
            )
        return found[python]

    # ------------------------------------------------------------------------------------------- packages

    def resolve(self, python: str, requirements: Sequence[str]) -> Environment:
        """Lock the packages. Raises RequirementsError with the installer's words."""
        lock = self.installer.lock(self._interpreter(python), requirements)
        return Environment.of(python, tuple(requirements), lock)

    def remember(self, environment: Environment | None) -> None:
        """Note an environment's lock for when its zygote is made."""
        if environment is not None:
            with self._lock:
                self._known[environment.digest] = environment
                self._known.move_to_end(environment.digest)
                while len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)

    def modules(self, python: str, digest: str) -> tuple[str, Modules, Callable[[], None]]:
        """
        Return an interpreter, its modules, and what lets go of them; missing packages are installed first.

        Raises RequirementsError for packages that can not be had, SandboxError for an interpreter that lacks dill.
        """
        interpreter = self._interpreter(python)
        held: list[Held] = []

        def let_go() -> None:
            for each in held:
                each.close()

        try:
            packages = package_paths()
            if not interpreter.own:
                held.append(self._tools(interpreter))
                packages = [str(held[0].path)]
            if not digest:
                return interpreter.path, Modules(packages=packages), let_go
            held.append(self._environment(interpreter, digest))
        except BaseException:
            let_go()
            raise
        own = held[-1].path
        left_out = tuple(name for name in ("numpy",) if (own / name).is_dir())
        return interpreter.path, Modules(packages=packages, environment=str(own), left_out=left_out), let_go

    def _tools(self, interpreter: Interpreter) -> Held:
        try:
            return self._toolbox.hold(interpreter)
        except SandboxError as error:
            if not self.installer.stopping:
                self.interpreters.refuse(interpreter.version, error.message)
            raise

    def _environment(self, interpreter: Interpreter, digest: str) -> Held:
        with self._lock:
            environment = self._known.get(digest)
        if environment is None:
            raise SandboxError(f"the lock of environment {digest[:12]} is not known")

        def build(target: Path, fd: int) -> Mapping[str, Any]:
            self.installer.install(interpreter, environment.lock, target, held_fd=fd)
            return {
                "python": interpreter.full,
                "packages": list(environment.packages),
                "requirements": list(environment.requirements),
            }

        return self.environments.hold(digest, build)

    def stop(self) -> None:
        """End installations that are under way."""
        self.installer.stop()


class NoPackages(Provider):
    """Other interpreters, but no requirements: the operator does not allow them."""

    def resolve(self, python: str, requirements: Sequence[str]) -> Environment:
        del python, requirements
        raise UnsupportedOption(
            "option 'requirements' is not available: the operator has switched it off (environments.allowed)",
            option="requirements",
        )
