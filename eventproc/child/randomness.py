"""Random numbers that differ from process to process, although all are forks of one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import struct
import sys
from typing import Any, Optional

KEY_BYTES = 624 * 4  # the Mersenne Twister's state
ALL_DRAWN = struct.pack("i", 624)  # the position behind it: no word of the state is left to draw


class Reseeding:
    """
    Seeds, in forks of this process, the generators that many draw from without asking: Python's and numpy's own.

    numpy's `seed()` touches 170 pages, a third of all that a short call touches, and a fork has to copy each of them.
    So what can be done before is: a fork only fills the state of numpy's generator with random bytes.
    """

    def __init__(self) -> None:
        _seed()
        self._generator = _twister()  # kept, so that its state stays where it is
        self._state = None if self._generator is None else _state(self._generator)

    def in_fork(self) -> None:
        """Seed; to be called in the fork, before any code of the handler."""
        if self._state is None:
            _seed()
            return
        random.seed()
        self._state[:] = os.urandom(KEY_BYTES) + ALL_DRAWN


def _seed() -> None:
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        with contextlib.suppress(TypeError):  # an old numpy, and a generator of another kind that the handler chose
            numpy_random.seed()


def _twister() -> Any:
    """Return what numpy's own functions draw from, None where there is none, or one of another kind."""
    get = getattr(sys.modules.get("numpy.random"), "get_bit_generator", None)  # since numpy 1.24
    generator = get() if get is not None else None
    return generator if type(generator).__name__ == "MT19937" else None


def _state(generator: Any) -> Optional[memoryview]:
    """Return the memory of a generator's state, None when that does not look as it has always looked."""
    kind = ctypes.c_char * (KEY_BYTES + len(ALL_DRAWN))
    memory = memoryview(kind.from_address(int(generator.ctypes.state_address))).cast("B")
    state = generator.state["state"]
    return memory if memory == state["key"].tobytes() + struct.pack("i", state["pos"]) else None
