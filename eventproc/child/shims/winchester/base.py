"""The base class of handlers."""

from __future__ import annotations

import abc
import logging
from typing import Any, Dict, List

__travels__ = True  # pickled handlers that derive from these carry them along

logger = logging.getLogger("winchester.pipeline_handler")

Event = Dict[str, Any]


class PipelineHandlerBase(abc.ABC):
    """
    Base of pipeline handlers: one instance per stream, `handle_events`, then `commit` or `rollback`.

    Side effects belong into `commit`: it is called once everything the pipeline made is stored.
    """

    def __init__(self, **_kw: Any) -> None:
        super().__init__()

    @abc.abstractmethod
    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        """Return the events for the next handler: the same, fewer, or more. `env` is shared by all handlers."""

    @abc.abstractmethod
    def commit(self) -> None:
        """Called when all handlers of the pipeline have succeeded."""

    @abc.abstractmethod
    def rollback(self) -> None:
        """Called when one of them has failed."""


class NothingToDo(PipelineHandlerBase):
    """A handler without side effects."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...
