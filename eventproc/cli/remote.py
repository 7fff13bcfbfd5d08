"""The commands' way to the server: the public client, addressed by options, environment or the data directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote as _quote

from eventproc.cli.base import state
from eventproc.client.endpoint import CA_VARIABLE, Address, resolve
from eventproc.client.transport import Transport, encode
from eventproc.errors import Conflict, UnknownHandler

if TYPE_CHECKING:
    from eventproc.client import Connection

PAGE = 500  # items
TIMEOUT_S = 60.0
STREAM_S = 3600.0  # an import of many records takes its time


def quote(text: str) -> str:
    """Make a text one segment of a path."""
    return _quote(text, safe="")


class Remote:
    """The HTTP API, as commands use it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._transport = Transport(address, timeout=TIMEOUT_S, ca=os.environ.get(CA_VARIABLE))

    @property
    def connection(self) -> Connection:
        """The public client on the same server."""
        from eventproc.client import Connection

        return Connection(",".join(self._address.bases), self._address.apikey)

    def _send(self, method: str, path: str, body: Any) -> Any:
        return self._transport.request(method, path, content=None if body is None else encode(body))

    @contextlib.contextmanager
    def stream(self, path: str, content: Any, *, params: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """Send bytes and read the answer line by line."""
        with self._transport.stream("POST", path, content=content, params=params, timeout=STREAM_S) as response:
            yield response.iter_lines()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._transport.request("GET", path, params=_given(params))

    def post(self, path: str, body: Any = None) -> Any:
        return self._send("POST", path, body)

    def put(self, path: str, body: Any) -> Any:
        return self._send("PUT", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self._send("PATCH", path, body)

    def delete(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._transport.request("DELETE", path, params=_given(params))

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
    return Remote(resolve(said.endpoint, said.api_key))


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
