"""Random numbers that differ from process to process, although all are forks of one."""

from __future__ import annotations

import random
import sys


def reseed() -> None:
    """Seed the generators that many draw from without asking: Python's and numpy's own."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
