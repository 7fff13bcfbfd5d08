"""
What every interpreter needs to run handlers: dill, and numpy where it is to be had.

It lies in a directory of the platform's own; an interpreter's packages are left as they are. For Python 3.9 and newer
it is the very dill that runs here; the last one for Python 3.8 comes from the package index.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from eventproc.errors import RequirementsError, SandboxError
from eventproc.sandbox.environments import Environments, Held
from eventproc.sandbox.installer import Installer
from eventproc.sandbox.interpreters import Interpreter

log = structlog.get_logger(__name__)

LAST_DILL = {"3.8": "dill==0.4.0"}  # newer ones are not for that Python
NUMPY = "numpy>=1.22"
RETRY_S = 86_400.0  # after that long, numpy is tried for once more
COMPILE_S = 120.0


class Toolbox:
    """Keeps one entry per interpreter among the environments."""

    def __init__(self, environments: Environments, installer: Installer) -> None:
        self._environments = environments
        self._installer = installer

    def hold(self, interpreter: Interpreter) -> Held:
        """Return the directory with dill (and numpy) for that interpreter. Raises SandboxError saying what is wrong."""
        name = _name(interpreter)

        def build(target: Path, fd: int) -> Mapping[str, Any]:
            return self._build(interpreter, target, fd)

        held = self._environments.hold(name, build)
        about = held.about()
        if about.get("without") and time.time() - about["built_at"] > RETRY_S:
            held.close()
            self._environments.remove(name)
            held = self._environments.hold(name, build)
        return held

    def _build(self, interpreter: Interpreter, target: Path, fd: int) -> Mapping[str, Any]:
        about = {"python": interpreter.full, "for": interpreter.path, "tools": True}
        pinned = LAST_DILL.get(interpreter.version)
        wanted = [pinned] if pinned else []
        if not pinned:
            _copy_dill(interpreter, target)
        try:
            self._install(interpreter, [*wanted, NUMPY], target, fd)
        except (RequirementsError, SandboxError) as error:
            if self._installer.stopping:
                raise
            if pinned:
                self._install_dill(interpreter, pinned, target, fd)
            log.warning(
                "numpy is not to be had; arrays will be array.array", python=interpreter.full, reason=str(error)
            )
            return {**about, "packages": [_dill(pinned)], "without": {"numpy": error.message}}
        return {**about, "packages": [_dill(pinned), "numpy"]}

    def _install_dill(self, interpreter: Interpreter, pinned: str, target: Path, fd: int) -> None:
        try:
            self._install(interpreter, [pinned], target, fd)
        except (RequirementsError, SandboxError) as error:
            raise SandboxError(
                f"Python {interpreter.version} ({interpreter.path}) can not be used: it needs {pinned}, and "
                f"{error.message}"
            ) from None

    def _install(self, interpreter: Interpreter, wanted: list[str], target: Path, fd: int) -> None:
        lock = self._installer.lock(interpreter, wanted)
        self._installer.install(interpreter, lock, target, held_fd=fd)


def _dill(pinned: str | None) -> str:
    return pinned or f"dill=={importlib.metadata.version('dill')}"


def _name(interpreter: Interpreter) -> str:
    key = f"{interpreter.path} {interpreter.full} {importlib.metadata.version('dill')} {NUMPY}"
    return f"tools-{interpreter.version}-{sha256(key.encode()).hexdigest()[:16]}"


def _copy_dill(interpreter: Interpreter, target: Path) -> None:
    spec = importlib.util.find_spec("dill")
    assert spec is not None
    source = Path((spec.submodule_search_locations or [""])[0])
    shutil.copytree(source, target / "dill", ignore=shutil.ignore_patterns("__pycache__", "tests"))
    subprocess.run(  # noqa: S603  an interpreter of this host, on our own files
        [interpreter.path, "-I", "-m", "compileall", "-q", str(target / "dill")],
        capture_output=True,
        timeout=COMPILE_S,
        check=False,
    )
