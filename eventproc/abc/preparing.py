"""Rows of what workers have (interpreters, packages), and of what they are asked to get ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eventproc.model import Environment, WorkerState


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """A handler to be tried before it is stored, by a worker that has its Python."""

    id: int
    python: str  # "" if nobody knows
    request_json: str  # everything but the blob
    blob: bytes


class WorkerRows(Protocol):
    """What live workers say of themselves."""

    def state(self, worker: WorkerState) -> None:
        """Insert or replace by name."""

    def live(self, *, since_us: int) -> list[WorkerState]:
        """Return those that were seen since then, by name."""

    def leave(self, name: str) -> None: ...

    def forget(self, *, before_us: int) -> int:
        """Remove those that were last seen before then; returns how many."""


class EnvironmentRows(Protocol):
    """Locks, by their digest; they never change."""

    def put(self, environment: Environment, *, now_us: int) -> None:
        """Insert unless it is there."""

    def get(self, digest: str) -> Environment | None: ...

    def all(self) -> list[tuple[Environment, Sequence[str]]]:
        """Return each with the handlers whose current version uses it, as "hook/name"."""


class PreparationRows(Protocol):
    """Work that a registration waits for."""

    def ask(self, python: str, request_json: str, blob: bytes, *, now_us: int) -> int:
        """Ask for it; returns its id."""

    def waiting(self, *, pythons: Sequence[str], now_us: int) -> bool:
        """Tell whether there may be something to take."""

    def take(self, *, worker: str, pythons: Sequence[str], until_us: int, now_us: int) -> Preparation | None:
        """Take the oldest that nobody works on, of those Pythons or of an unknown one."""

    def renew(self, preparation_id: int, *, worker: str, until_us: int) -> bool:
        """Go on holding it; False if nobody waits for it any more, or somebody else has it."""

    def answer(self, preparation_id: int, *, worker: str, answer_json: str) -> bool: ...

    def answered(self, preparation_id: int) -> str | None:
        """Return the answer if it is there."""

    def drop(self, preparation_id: int) -> None: ...

    def forget(self, *, before_us: int) -> int:
        """Remove what was asked before then; returns how many."""
