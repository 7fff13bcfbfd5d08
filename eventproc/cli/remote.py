"""The commands' way to the server: the public client, addressed by options, environment or the data directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote as _quote

from eventproc.cli.base import state
from eventproc.client import Connection
from eventproc.errors import Conflict, UnknownHandler

PAGE = 500  # items
TIMEOUT_S = 60.0


def quote(text: str) -> str:
    """Make a text one segment of a path."""
    return _quote(text, safe="")


class Remote:
    """The HTTP API, as commands use it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self.connection.request("GET", path, params=_given(params))

    def post(self, path: str, body: Any = None) -> Any:
        return self.connection.request("POST", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        return self.connection.request("PUT", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        return self.connection.request("PATCH", path, json=body)

    def delete(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self.connection.request("DELETE", path, params=_given(params))

    def pages(self, path: str, params: Mapping[str, Any] | None = None, *, limit: int | None = None) -> Iterator[Any]:
        """Return the items of a list, page by page, at most `limit`."""
        after: Any = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self.get(path, {**(params or {}), "after": after, "limit": size})
            items = page["items"]
            yield from items
            after = page.get("next")
            left = None if left is None else left - len(items)
            if after is None or not items:
                return


def _given(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {name: value for name, value in (params or {}).items() if value not in (None, "", [])} or None


def connect() -> Remote:
    """
    Connect as the options and the environment say, else to the platform of EVENTPROC_DATA on this machine.

    Raises ConfigError when there is nothing to connect to.
    """
    said = state()
    if not (said.endpoint or os.environ.get("EVENTPROC_ENDPOINTS")) and not os.environ.get("EVENTPROC_DATA"):
        from eventproc.config import load

        os.environ["EVENTPROC_DATA"] = str(load(config=said.config).data)  # eventproc.toml may say where it is
    return Remote(Connection(said.endpoint, said.api_key, timeout=TIMEOUT_S))


def find_handler(remote: Remote, which: str) -> dict[str, Any]:
    """Return the handler of that id, name, or HOOK/NAME. Raises UnknownHandler or Conflict."""
    if which.isdigit():
        found = remote.get(f"/handlers/{which}")
        assert isinstance(found, dict)
        return found
    items = list(remote.pages("/handlers"))
    matches = [item for item in items if which in (item["name"], f"{item['hook']}/{item['name']}")]
    if len(matches) == 1:
        assert isinstance(matches[0], dict)
        return matches[0]
    if matches:
        ids = ", ".join(f"{item['id']} ({item['hook']})" for item in matches)
        raise Conflict(f"several handlers are named {which!r}; say the id: {ids}")
    from difflib import get_close_matches

    near = get_close_matches(which, [item["name"] for item in items], n=3)
    raise UnknownHandler(f"there is no handler {which!r}" + (f"; did you mean: {', '.join(near)}" if near else ""))
