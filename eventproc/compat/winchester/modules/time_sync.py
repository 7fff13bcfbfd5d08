"""winchester.time_sync: what time it is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from eventproc.ingress.distiller.definitions import parse_time


class TimeSync:
    """
    The present time, as naive UTC; `publish` sets it, as the time of a notification does in a playback.

    There is no endpoint to ask: `eventproc playback` and `eventproc winchester replay` move the platform's own clock.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, *, publishes: bool = False) -> None:
        del config
        self.publishes = publishes
        self._published: dt.datetime | None = None

    def current_time(self) -> dt.datetime:
        return self._published or dt.datetime.now(dt.UTC).replace(tzinfo=None)

    def publish(self, time: str) -> None:
        """Take the time of a notification, an ISO 8601 text. Raises ValueError."""
        if self.publishes:
            self._published = parse_time(time).replace(tzinfo=None)
