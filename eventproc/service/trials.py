"""Asking what would happen, and making it happen again: why, dry run, replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventproc.errors import Unavailable
from eventproc.model import User
from eventproc.service.context import ServiceContext


class Trials:
    """Use cases around events and the handlers they run, or do not."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def why(self, principal: User, event_id: str, handler_id: int) -> dict[str, Any]:
        raise Unavailable(f"{principal.name} {event_id} {handler_id}")

    def dry_run(
        self,
        principal: User,
        handler_id: int,
        *,
        event_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> dict[str, Any]:
        raise Unavailable(f"{principal.name} {handler_id} {event_id} {payload} {tags}")

    def replay(
        self,
        principal: User,
        *,
        hook: str,
        since_us: int,
        until_us: int,
        pattern: Mapping[str, Any] | None = None,
        handler_id: int | None = None,
        current: bool = True,
    ) -> dict[str, Any]:
        raise Unavailable(f"{principal.name} {hook} {since_us} {until_us} {pattern} {handler_id} {current}")
