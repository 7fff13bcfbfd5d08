"""
What modules want done in forks of their process, kept from being done where nothing needs it.

`threading`, `logging` and others mend their locks and their lists of threads in each fork. Where one thread forks, and
holds none of the locks, there is nothing to mend; but it copies a quarter of all pages that a short call touches.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List

_register = getattr(os, "register_at_fork", None)
_kept: List[Dict[str, Any]] = []


def keep() -> None:
    """Note from now on what shall be done in forks, rather than let it be done."""
    if _register is not None:
        os.register_at_fork = _note


def _note(**actions: Any) -> None:
    _kept.append(actions)


def keep_no_more() -> None:
    """Let be done in forks what is asked for from now on."""
    if _register is not None:
        os.register_at_fork = _register


def do_all() -> None:
    """Have what was kept be done in forks after all: of processes that may fork as they like, or have threads."""
    if _register is not None:
        for actions in _kept:
            _register(**actions)
        _kept.clear()
