"""The commands' way to the server: the public client, addressed by options, environment or the data directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eventproc.cli.base import state
from eventproc.client import Connection
from eventproc.client.endpoint import ENDPOINT_VARIABLES, KEY_VARIABLES, local_endpoint, parse_endpoint
from eventproc.errors import ConfigError, Conflict, Unauthorized, UnknownHandler

TIMEOUT_S = 60.0


class Remote:
    """The HTTP API, as commands use it."""

    def __init__(self, connection: Connection, *, key_file: Path | None = None) -> None:
        self.connection = connection
        self._key_file = key_file  # where the key is from, if nobody said one

    def _request(self, method: str, path: str, **more: Any) -> Any:
        with self._naming_the_key():
            return self.connection.request(method, path, **more)

    @contextlib.contextmanager
    def _naming_the_key(self) -> Iterator[None]:
        """Let the refusal of a key that nobody said tell where it is from."""
        try:
            yield
        except Unauthorized as error:
            if self._key_file is None:
                raise
            advice = f"{error.message}: it is that of {self._key_file}; `eventproc keys recover` writes a new one"
            raise Unauthorized(advice, **error.details) from error

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._request("GET", path, params=_given(params))

    def post(self, path: str, body: Any = None) -> Any:
        return self._request("POST", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        return self._request("PUT", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        return self._request("PATCH", path, json=body)

    def delete(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._request("DELETE", path, params=_given(params))

    def pages(self, path: str, params: Mapping[str, Any] | None = None, *, limit: int | None = None) -> Iterator[Any]:
        """Return the items of a list, page by page, at most `limit`."""
        with self._naming_the_key():
            yield from self.connection.pages(path, _given(params), limit)


def _given(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {name: value for name, value in (params or {}).items() if value not in (None, "", [])} or None


def connect() -> Remote:
    """
    Connect as the options and the environment say, else to the platform of EVENTPROC_DATA on this machine.

    Raises ConfigError when there is nothing to connect to.
    """
    said = state()
    endpoint = said.endpoint or _environment(ENDPOINT_VARIABLES)
    key = said.api_key or _environment(KEY_VARIABLES)
    file = None
    if endpoint is None or key is None:
        endpoint, key, file = _local(endpoint, key)
    return Remote(Connection(endpoint, key, timeout=TIMEOUT_S), key_file=file)


def _environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def _local(endpoint: str | None, key: str | None) -> tuple[str, str | None, Path | None]:
    """
    Complete endpoint and key from the platform of this machine, wherever its settings say that its data are.

    The file is that of the key, if it was read from one.
    """
    from eventproc.config import load

    settings = load(config=state().config)
    local = local_endpoint(settings.data)
    if endpoint is None and local is None:
        raise ConfigError(
            f"no platform runs on {settings.data}: start one with `eventproc serve`, "
            "or say --endpoint or EVENTPROC_ENDPOINTS, or EVENTPROC_DATA for another directory"
        )
    chosen = endpoint or local
    assert chosen is not None
    # The admin key of this machine's platform is for that platform alone, not for whoever is addressed.
    file = settings.admin_key_file
    if key is None and local is not None and parse_endpoint(chosen) == parse_endpoint(local):
        try:
            return chosen, file.read_text(encoding="utf-8").strip(), file
        except OSError as error:
            reason = f"{file} can not be read ({error.strerror})"
            raise Unauthorized(f"no API key: {reason}; say --api-key or set EVENTPROC_API_KEY") from error
    return chosen, key, None


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

    names = sorted({item["name"] for item in items})
    near = get_close_matches(which, names, n=3)
    more = f"did you mean: {', '.join(near)}" if near else f"there are: {', '.join(names[:20]) or 'none'}"
    raise UnknownHandler(f"there is no handler {which!r}; {more}")
