"""Whether the clock can be trusted with deleting: what is old by a clock that jumped ahead is not old."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from eventproc.abc import Clock
from eventproc.model import SECOND_US

JUMP_S: Final = 86_400  # further than that ahead of the time that went by is a jump
HOLD_S: Final = 86_400  # a clock that stays there for so long is believed


def _passed_s() -> float:
    """Return the seconds since the machine was started, those that it slept too; nobody can set them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Steadiness:
    """
    Compares a clock with the time that really went by, from when it is made.

    What happened before is unknown to it: a platform that was stopped for weeks goes on as if nothing had been.
    """

    def __init__(self, clock: Clock, *, passed_s: Callable[[], float] = _passed_s) -> None:
        self._clock = clock
        self._passed_s = passed_s
        self._believed_us = self._offset_us(passed_s())
        self._ahead_us = 0
        self._since_s: float | None = None

    def _offset_us(self, passed_s: float) -> int:
        return self._clock.now_us() - round(passed_s * SECOND_US)

    def look(self) -> tuple[int, float]:
        """Return by how many microseconds the clock has jumped ahead, and for how many seconds not to believe it."""
        passed_s = self._passed_s()
        offset_us = self._offset_us(passed_s)
        ahead_us = offset_us - self._believed_us
        if ahead_us >= JUMP_S * SECOND_US:
            if self._since_s is None or ahead_us >= self._ahead_us + JUMP_S * SECOND_US:
                self._since_s, self._ahead_us = passed_s, ahead_us
            rest_s = self._since_s + HOLD_S - passed_s
            if rest_s > 0:
                return ahead_us, rest_s
        self._believed_us, self._ahead_us, self._since_s = offset_us, 0, None
        return 0, 0.0
