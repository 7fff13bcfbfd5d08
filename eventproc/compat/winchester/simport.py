"""Names of code in configuration files: `module:Class`, `module:Class.method`, `/directory|module:Class`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from eventproc.errors import ConfigError


def split(target: str, *, base: Path | None = None) -> tuple[Path | None, str]:
    """Return the directory that a name is looked up in, if it says one (relative to `base`), and the rest."""
    directory, bar, rest = target.rpartition("|")
    if not bar:
        return None, target
    return ((base or Path.cwd()) / directory).resolve(), rest


def load(target: str, *, base: Path | None = None) -> Any:
    """
    Import what a name means, into this process.

    For code that the operator names, such as trait plugins; handlers are imported where they run. Raises ConfigError.
    """
    directory, rest = split(target, base=base)
    if directory is not None:
        if not directory.is_dir():
            raise ConfigError(f"{target!r}: there is no directory {directory}")
        if str(directory) not in sys.path:
            sys.path.append(str(directory))
    module_name, colon, path = rest.partition(":")
    if not colon or not module_name or not path:
        raise ConfigError(f"{target!r} names no code: write module:Class")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(f"{target!r} can not be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{target!r} can not be imported: {module_name} has no {path}")
        found = getattr(found, part)
    return found
