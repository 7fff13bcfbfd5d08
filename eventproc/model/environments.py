"""Environments: the packages that handler versions were registered with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Packages for one version of Python, down to each file's hash."""

    digest: str
    python: str  # "3.11"
    requirements: tuple[str, ...]  # as they were first asked for
    lock: str = field(repr=False)  # a requirements file: every package pinned, with the hashes of its files

    @classmethod
    def of(cls, python: str, requirements: tuple[str, ...], lock: str) -> Environment:
        digest = hashlib.sha256(f"python {python}\n{lock}".encode()).hexdigest()
        return cls(digest=digest, python=python, requirements=requirements, lock=lock)

    @property
    def packages(self) -> tuple[str, ...]:
        """Return the pins, such as ("numpy==2.2.6", "pandas==2.2.3")."""
        lines = (line.partition(" ")[0] for line in self.lock.splitlines())
        return tuple(line for line in lines if "==" in line and not line.startswith(("#", "-")))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerState:
    """What a live worker says of itself."""

    name: str
    host: str
    pythons: tuple[str, ...]
    unused: Mapping[str, str] = field(default_factory=dict)  # path of an interpreter → why handlers do not run on it
    seen_us: int = 0
