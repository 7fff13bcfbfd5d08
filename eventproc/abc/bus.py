"""The port for wake-ups."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Listener(ABC):
    """One ear on some topics."""

    @abstractmethod
    def wait(self, timeout_s: float) -> set[str]:
        """Return the topics that were woken since the last call; empty after the time-out."""

    @abstractmethod
    def close(self) -> None: ...


class Bus(ABC):
    """Wake-ups between processes. They may be lost or doubled: the database is the truth, everybody also polls."""

    @abstractmethod
    def wake(self, *topics: str) -> None:
        """Wake everybody who listens on the topics (runs, notices, cancel, schedules); never blocks or raises."""

    @abstractmethod
    def listen(self, *topics: str) -> Listener: ...

    @abstractmethod
    def close(self) -> None: ...
