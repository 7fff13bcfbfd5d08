"""Compile ahead of time, so that the first model of a process starts quickly."""

from __future__ import annotations

import time

from eventproc.htm import jit, kernels
from eventproc.htm.model import AnomalyModel


def warm() -> str:
    """Compile all kernels, or load them from the cache, and say how it went."""
    began = time.perf_counter()
    model = AnomalyModel()
    model.process_one(1.0)
    AnomalyModel.load(model.save())
    spent = time.perf_counter() - began
    if not jit.COMPILED:
        return "numba is not installed: models work, some sixty times slower (pip install 'eventproc[htm]')"
    where = getattr(getattr(kernels.run, "stats", None), "cache_path", None)
    return f"kernels ready in {spent:.1f} s; machine code is kept in {where or 'memory only'}"
