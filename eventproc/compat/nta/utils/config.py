"""
Configuration files with overrides.

A baseline `FILE` in a directory, over it `overrides/FILE`, over both the environment:
`_NTA_UTILS_CONFIG__<FILE WITHOUT SUFFIX>__<SECTION>__<OPTION>`, upper case, `-` as `_`, for options that exist.
"""

# ruff: noqa: N802, N803 - nta.utils' own names
from __future__ import annotations

import configparser
import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "_NTA_UTILS_CONFIG"
OVERRIDES = "overrides"


class Config:
    """One configuration file."""

    MODE_LOGICAL = "logical"  # the baseline with its overrides
    MODE_BASELINE = "baseline"
    MODE_OVERRIDE_ONLY = "override-only"

    def __init__(self, configName: str, baseConfigDir: str, mode: str = MODE_LOGICAL) -> None:
        if mode not in (self.MODE_LOGICAL, self.MODE_BASELINE, self.MODE_OVERRIDE_ONLY):
            raise ValueError(f"unknown mode {mode!r}")
        self._name, self._dir, self._mode = configName, Path(baseConfigDir), mode
        self._seen: float | None = None
        self.loadConfig()

    @property
    def baseConfigDir(self) -> str:
        return str(self._dir)

    @property
    def _override(self) -> Path:
        return self._dir / OVERRIDES / self._name

    def loadConfig(self) -> None:
        """Read the files anew if the overrides changed since they were read."""
        stamp = self._override.stat().st_mtime_ns if self._override.exists() else 0.0
        if self._seen == stamp:
            return
        parser = configparser.RawConfigParser()
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
        if self._mode != self.MODE_OVERRIDE_ONLY:
            with (self._dir / self._name).open(encoding="utf-8") as file:
                parser.read_file(file)
        if self._mode != self.MODE_BASELINE and self._override.exists():
            with self._override.open(encoding="utf-8") as file, _locked(file.fileno(), fcntl.LOCK_SH):
                parser.read_file(file)
        self._parser, self._seen = parser, stamp

    def get(self, section: str, option: str) -> str:
        """Return an option's text. Raises configparser's NoSectionError, NoOptionError."""
        value = self._parser.get(section, option)
        return self._from_environment(section, option, value)

    def getint(self, section: str, option: str) -> int:
        return int(self.get(section, option))

    def getfloat(self, section: str, option: str) -> float:
        return float(self.get(section, option))

    def getboolean(self, section: str, option: str) -> bool:
        text = self.get(section, option).lower()
        if text not in self._parser.BOOLEAN_STATES:
            raise ValueError(f"not a truth value: {text!r}")
        return self._parser.BOOLEAN_STATES[text]

    def items(self, section: str) -> list[tuple[str, str]]:
        return [(name, self._from_environment(section, name, value)) for name, value in self._parser.items(section)]

    def sections(self) -> list[str]:
        return self._parser.sections()

    def options(self, section: str) -> list[str]:
        return self._parser.options(section)

    def has_section(self, section: str) -> bool:
        return self._parser.has_section(section)

    def has_option(self, section: str, option: str) -> bool:
        return self._parser.has_option(section, option)

    def set(self, section: str, option: str, value: str) -> None:
        """Set an override; `save` writes it."""
        self._check_writable()
        if not self._parser.has_section(section):
            self._parser.add_section(section)
        self._parser.set(section, option, value)

    def save(self) -> None:
        """Write the overrides: whole, or not at all."""
        self._check_writable()
        folder = self._override.parent
        folder.mkdir(exist_ok=True)
        with (folder / f".{self._name}.lock").open("w") as lock, _locked(lock.fileno(), fcntl.LOCK_EX):
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
                self._parser.write(file)
            Path(file.name).replace(self._override)

    def clearAllConfigOverrides(self) -> None:
        """Delete the overrides."""
        self._override.unlink(missing_ok=True)
        self.loadConfig()

    def _check_writable(self) -> None:
        if self._mode != self.MODE_OVERRIDE_ONLY:
            raise ValueError("only overrides can be changed: open the file with mode=Config.MODE_OVERRIDE_ONLY")

    def _from_environment(self, section: str, option: str, value: str) -> str:
        root = self._name.rpartition(".")[0] or self._name
        name = "__".join((PREFIX, root.replace("-", "_"), section, option)).upper()
        return os.environ.get(name, value)


@contextlib.contextmanager
def _locked(fd: int, how: int) -> Iterator[None]:
    fcntl.flock(fd, how)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
