"""
A stand-in for `ep`, so that handler files can import it for their editors and type checkers.

Inside a running handler the name `ep` means the platform's own object; the stand-in never travels.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeVar, cast

F = TypeVar("F", bound=Callable[[], Any])


class EventInfo(Protocol):
    """The event at hand."""

    message_id: str
    event_type: str
    timestamp: dt.datetime
    tags: tuple[str, ...]
    key: str | None
    attempt: int


class Ep(Protocol):
    """What a running handler can ask of the platform beside `db`. All but the log waits for the run's commit."""

    log: logging.Logger

    @property
    def event(self) -> EventInfo:
        """The event at hand."""

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets that the handler was registered with, by name."""

    def emit(
        self,
        hook: str,
        payload: Mapping[str, Any],
        *,
        id: str | None = None,
        tags: Sequence[str] = (),
        key: str | None = None,
        time: dt.datetime | None = None,
        source: str | None = None,
    ) -> str:
        """Emit an event when the run commits; returns its id."""

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: Any,
        *,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        declare: str | None = None,
    ) -> None:
        """Send a message to the platform's broker once the run has committed; `declare` makes the exchange."""

    def post(
        self,
        url: str,
        body: Any,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        login: Mapping[str, str] | None = None,
        accept: Sequence[int] = (),
    ) -> None:
        """
        Send a request to a web server once the run has committed; tried again for three days at most.

        `login` = server, user, key of an OpenStack identity service; `accept`: statuses that are as good as 2xx.
        """

    def upload_file(self, file: str, file_name: str | None = None) -> str:
        """Keep a file beyond the run; returns the URL for downloading it once the run has committed."""

    def quiet(self) -> None:
        """Send no mail of this run's success; a failure is mailed all the same."""

    def on_commit(self, function: F) -> F:
        """Call a function once the run's result and effects are stored."""

    def on_rollback(self, function: F) -> F:
        """Call a function when the run fails, to undo what it did outside the platform."""


class _OutsideOfHandlers:
    """Says where `ep` works."""

    __eventproc_ambient__ = True  # the pickler leaves it at home

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(f"ep.{name} works inside a running handler only; try one with `eventproc test FILE`")


ep = cast(Ep, _OutsideOfHandlers())
