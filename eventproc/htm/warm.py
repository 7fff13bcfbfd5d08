"""
Compile ahead of time, or beside the work: half a minute in which a process that must go on runs kernels as they are.

What is compiled is kept on disk, so another process can do it: `ready` starts one, `python -m eventproc.htm.warm`. One
at a time compiles for a user on a machine; others wait for it and load what it has made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from eventproc.htm import jit, kernels
from eventproc.htm.jit import Entry
from eventproc.htm.model import AnomalyModel
from eventproc.htm.places import alone
from eventproc.htm.streams import COLUMNS

MISSING = "numba is not installed: models work, some sixty times slower (pip install 'eventproc[htm]')"

_guard = threading.Lock()
_state = "unknown"  # unknown | compiling | ready


def warm() -> str:
    """Compile all kernels, or load them from the cache, and say how it went."""
    began = time.perf_counter()
    with alone():
        _run_all()
    spent = time.perf_counter() - began
    if not jit.COMPILED:
        return MISSING
    return f"kernels ready in {spent:.1f} s; machine code is kept in {kernels.run.cache_path or 'memory only'}"


def compiled() -> bool:
    """Tell whether machine code is at hand, in memory or on disk."""
    return all(entry.at_hand(*given) for entry, given in _calls())


def ready() -> bool:
    """
    Tell whether models run at their full speed; where nothing is compiled yet, see to it and let them run meanwhile.

    The first call that finds nothing compiled starts another process that compiles. Until it has, all models of this
    process run in Python, some two hundred times slower: the same numbers, so work in small portions.
    """
    global _state  # noqa: PLW0603 - what is compiled is compiled for the process
    with _guard:
        if _state == "unknown":
            if not jit.COMPILED or compiled():
                _state = "ready"
            else:
                _state, Entry.interpreting = "compiling", True
                threading.Thread(target=_compile_elsewhere, name="compile", daemon=True).start()
        return _state == "ready"


def _compile_elsewhere() -> None:
    global _state
    try:
        subprocess.run([sys.executable, "-m", "eventproc.htm.warm"], stdout=subprocess.DEVNULL, check=False)
        if not compiled():  # it can not be kept on disk: in this thread, then, at the cost of the others
            warm()
    finally:
        with _guard:
            _state, Entry.interpreting = "ready", False


def _run_all() -> None:
    """Have each entry compiled, or loaded, for what models give it."""
    for entry, given in _calls():
        entry.compiled(*given)


def _calls() -> list[tuple[Entry, tuple[Any, ...]]]:
    """Give each entry with what models give it."""
    model = AnomalyModel(columns=64, active_columns=4, cells=4, segments=50)
    state, tables = model._state, model._tables  # noqa: SLF001 - the very arguments of its calls
    records, out = np.zeros((1, 3)), np.zeros((1, COLUMNS))
    return [(kernels.run, (state, tables, records, out, 1)), (kernels.wake, (state, tables))]


if __name__ == "__main__":
    os.nice(5)  # what is being scored meanwhile goes first
    sys.stdout.write(warm() + "\n")
