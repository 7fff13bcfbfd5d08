"""
Post events to a web server: one JSON object each, tried again for three days while the server is away.

As a handler it posts every event of its hook to the address in the owner's secret EVENTS_URL. In a pipeline it takes
parameters: `{name: post-events, params: {url: "https://example.com/usage", event_types: ["*.verified"]}}`. Where the
server wants an OpenStack token: `login: {server: "https://identity.example.com/v2.0/tokens", user: u, key: k}`.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import json
from typing import Any

from eventproc import ep, register


@register(name="post-events", hook="*", secrets=["EVENTS_URL"])
class PostEvents:
    """Post events once the run has committed; X-Event-Type and X-Event-Id are among the headers."""

    def __init__(
        self,
        url: str | None = None,
        event_types: Any = "*",
        headers: dict[str, str] | None = None,
        login: dict[str, str] | None = None,
        accept: list[int] | None = None,
    ) -> None:
        self.url = url
        self.login = login
        self.accept = accept or []  # statuses that are as good as 2xx, such as 409 of who has the event already
        self.patterns = [event_types] if isinstance(event_types, str) else list(event_types)
        self.headers = headers or {}

    def handle_events(self, events: list[dict[str, Any]], _env: dict[str, Any]) -> list[dict[str, Any]]:
        """Post those of the types that are wanted; all go on to the next handler."""
        for event in events:
            name = event["event_type"]
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns):
                about = {"X-Event-Type": name, "X-Event-Id": event["message_id"], "Content-Type": "application/json"}
                url = self.url or ep.secrets["EVENTS_URL"]
                body = json.dumps(event, default=self.as_text)
                ep.post(url, body, {**about, **self.headers}, login=self.login, accept=self.accept)
        return events

    @staticmethod
    def as_text(value: Any) -> str:
        """Write times as ISO 8601."""
        return value.isoformat() if isinstance(value, dt.datetime) else str(value)
