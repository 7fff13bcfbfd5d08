"""
Where code comes from: what a worker has too (travels by reference), and what is the user's own (travels by value).

The standard library and everything below site-packages can be imported by a worker that has the same packages.
Scripts, notebooks, project directories and editable installs are the user's own: a worker may never have seen them.
"""

from __future__ import annotations

import functools
import site
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

MAIN_MODULES = ("__main__", "__mp_main__")
TRAVELS = "__travels__"  # true in modules of eventproc that go with the handlers that use them
SITE_PARTS = frozenset({"site-packages", "dist-packages"})


@functools.cache
def _library_dirs() -> tuple[Path, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return tuple(Path(path).resolve() for path in paths if path)


@functools.cache
def _site_dirs() -> tuple[Path, ...]:
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    paths.update(site.getsitepackages())
    paths.add(site.getusersitepackages())
    return tuple(Path(path).resolve() for path in paths if path)


@functools.lru_cache(maxsize=4096)
def _installed_file(file: str) -> bool:
    """Say whether a file belongs to the standard library or to an installed distribution."""
    path = Path(file).resolve()
    if SITE_PARTS & set(path.parts) or any(path.is_relative_to(base) for base in _site_dirs()):
        return True
    return any(path.is_relative_to(base) for base in _library_dirs())


def module_file(namespace: dict[str, Any]) -> str | None:
    """Return where a module's namespace was loaded from: a file, or the first directory of a package without one."""
    file = namespace.get("__file__")
    if isinstance(file, str):
        return file
    paths = namespace.get("__path__")
    return next(iter(paths), None) if paths is not None else None


def is_own_namespace(namespace: dict[str, Any]) -> bool:
    """Say whether a function's globals (a module's namespace) are the user's own code."""
    name = namespace.get("__name__")
    if not isinstance(name, str) or name in MAIN_MODULES:
        return True
    # eventproc itself is never the user's own, not even in an editable checkout; what of it is to be there where
    # handlers run, which do not have it, says so and goes with them.
    if name.partition(".")[0] in ("eventproc", "dill"):
        return namespace.get(TRAVELS) is True
    file = module_file(namespace)
    if file is not None:
        return not _installed_file(file)
    module = sys.modules.get(name)
    if module is None or vars(module) is not namespace:
        return True  # made by exec, or by a namedtuple: nobody else has it
    return not (name in sys.builtin_module_names or name.partition(".")[0] in sys.stdlib_module_names)


def is_own_module(module: ModuleType) -> bool:
    """Say whether a module is the user's own code."""
    return is_own_namespace(vars(module))


def is_own_name(module_name: str | None) -> bool:
    """Say the same of a module by name; one that is not loaded any more (a plugin file) is the user's own."""
    if module_name is None or module_name in MAIN_MODULES:
        return True
    if module_name == "builtins":
        return False
    module = sys.modules.get(module_name)
    return module is None or is_own_module(module)


def find(module_name: str | None, qualname: str) -> Any:
    """Return what `qualname` names in a loaded module, None where it names nothing. Imports nothing."""
    found: Any = sys.modules.get(module_name or "")
    for part in qualname.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found
