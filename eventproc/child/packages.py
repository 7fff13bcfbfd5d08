"""
The packages that a handler was registered with: nobody but the handler's own process may import them.

They are whatever somebody put on a package index. The zygote only notes where they are; a child puts them on its path
once it is contained.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Dict, List, Optional

PREIMPORT = (  # what handlers commonly use: an import in the child costs more than all else
    "asyncio", "base64", "collections", "concurrent.futures", "contextlib", "csv", "dataclasses", "datetime", "decimal",
    "enum", "fractions", "functools", "hashlib", "hmac", "inspect", "io", "itertools", "json", "logging", "math",
    "operator", "pathlib", "pickle", "queue", "random", "re", "shutil", "statistics", "string", "struct", "subprocess",
    "tempfile", "textwrap", "threading", "time", "traceback", "typing", "urllib.parse", "urllib.request", "uuid",
    "warnings", "zipfile", "zlib", "dill", "numpy", "numpy.fft", "numpy.linalg", "numpy.random",
)  # fmt: skip


class Packages:
    """Where modules come from: the interpreter's own, the platform's, and the handler's in front of those."""

    def __init__(self, config: Dict[str, Any]) -> None:
        self._common: List[str] = [path for path in config["packages"] if path not in sys.path]
        self._own: Optional[str] = config.get("environment")
        self._left_out: List[str] = list(config.get("left_out", ()))

        sys.path += self._common

    def preimport(self) -> List[str]:
        """Import what every child shall find done, in the zygote; return the names of modules that are not there."""
        missing = []
        for name in PREIMPORT:
            if name.partition(".")[0] in self._left_out:  # the handler brings its own
                continue
            try:
                importlib.import_module(name)
            except ImportError:
                missing.append(name)
        return missing

    def enter(self) -> None:
        """Put the handler's packages on the path, in its process: behind the standard library, before all others."""
        if self._own is None:
            return
        others = [
            index
            for index, path in enumerate(sys.path)
            if path in self._common or path.rstrip("/").endswith(("site-packages", "dist-packages"))
        ]
        sys.path.insert(min(others, default=len(sys.path)), self._own)
        importlib.invalidate_caches()
