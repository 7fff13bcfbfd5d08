"""For users of winchester: its configuration files, its class names, and playing a day of notifications back."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from eventproc.child.shims.winchester.usage import UsageHandler
from eventproc.errors import Conflict

STAND_IN = "eventproc.child.shims.winchester"
MODULES = {
    "pipeline_handler": f"{STAND_IN}.pipeline_handler",
    **{
        name: f"{__name__}.modules.{name}"
        for name in (
            "config",
            "db",
            "debugging",
            "definition",
            "models",
            "pipeline_manager",
            "time_sync",
            "trigger_manager",
        )
    },
}


def install(*, replace: bool = False) -> None:
    """
    Make `winchester` importable in this process, under its own module names.

    A winchester that is really installed is not hidden, unless `replace` asks for it. Raises Conflict.
    """
    package = importlib.import_module(STAND_IN)
    if sys.modules.get("winchester") is package:
        return
    if not replace and ("winchester" in sys.modules or importlib.util.find_spec("winchester") is not None):
        raise Conflict("winchester itself is installed here; install(replace=True) hides it in this process")
    for name in [name for name in sys.modules if name.partition(".")[0] == "winchester"]:
        del sys.modules[name]
    sys.modules["winchester"] = package
    for name, home in MODULES.items():
        module = importlib.import_module(home)
        sys.modules[f"winchester.{name}"] = module
        setattr(package, name, module)
    if importlib.util.find_spec("timex") is None:  # winchester's users compare with its ranges
        sys.modules["timex"] = importlib.import_module(f"{__name__}.modules.timex")


__all__ = ["MODULES", "UsageHandler", "install"]
