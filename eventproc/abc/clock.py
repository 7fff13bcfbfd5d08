"""The port to the present."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Clock(ABC):
    """Where every due time, expiry and expression takes "now" from."""

    @abstractmethod
    def now_us(self) -> int:
        """Return the present in microseconds since 1970 UTC."""
