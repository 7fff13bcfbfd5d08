"""`ep`: the event at hand, and what a handler may ask the platform to do."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from . import results
from .channel import InvalidError, PlatformError
from .runs import Execution, RunOver, Secrets
from .times import from_us, to_us

UPLOAD_PIECE = 1 << 20  # bytes in one request
MAX_FILE_NAME = 200  # characters
BTRDB_MODULE = "btrdbextras"


class EventInfo(NamedTuple):
    """The event that a handler was called for."""

    message_id: str
    event_type: str
    timestamp: Any  # aware UTC datetime
    tags: Tuple[str, ...]
    key: Optional[str]
    attempt: int


class Ep:
    """What handlers reach as `ep`, without importing anything."""

    Error = PlatformError

    def __init__(self) -> None:
        self._run: Optional[Execution] = None
        self.log = logging.getLogger("handler")
        self._uploads: Dict[str, Any] = {}

    def attach(self, run: Execution) -> None:
        """Serve that run from now on; for the runner."""
        self._run = run
        self._uploads.clear()

    def _current(self) -> Execution:
        if self._run is None or self._run.phase in {"over", "waiting"}:
            raise RunOver("ep can be used while a handler runs only", "conflict")
        return self._run

    @property
    def event(self) -> EventInfo:
        """The event at hand."""
        event = self._current().event
        return EventInfo(
            str(event["message_id"]),
            str(event["event_type"]),
            from_us(event["timestamp"]),
            tuple(event.get("tags") or ()),
            event.get("key"),
            int(event.get("attempt", 1)),
        )

    @property
    def secrets(self) -> Secrets:
        """The secrets that the handler was registered with, by name."""
        return self._current().secrets

    def emit(
        self,
        hook: str,
        payload: Dict[str, Any],
        *,
        id: Optional[str] = None,
        tags: Sequence[str] = (),
        key: Optional[str] = None,
        time: Any = None,
        source: Optional[str] = None,
    ) -> str:
        """Ask for an event when this run commits; checked against the hook now. Returns the event's id."""
        args = {
            "hook": hook,
            "payload": payload,
            "id": id,
            "tags": [tags] if isinstance(tags, str) else list(tags),
            "key": key,
            "time_us": None if time is None else to_us(time),
            "source": source,
        }
        try:
            answer, _ = self._current().ask("emit", {name: value for name, value in args.items() if value is not None})
        except TypeError as error:
            raise InvalidError(f"the payload can not be written as JSON: {error}", "invalid_payload") from None
        return str(answer["id"])

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: Any,
        *,
        content_type: Optional[str] = None,
        headers: Optional[Dict[str, str]] = None,
        declare: Optional[str] = None,
        queue: Optional[str] = None,
    ) -> None:
        """
        Send a message to the platform's broker once this run's result is stored.

        `body` is bytes, a text, or what can be written as JSON. `declare` (topic, direct or fanout) makes the exchange
        if it is not there; `queue` is made too, durable, and bound to it under the routing key. The outbox keeps the
        message until the broker has it; it can arrive twice.
        """
        data, kind = _bytes(body)
        args = {
            "exchange": exchange,
            "routing_key": routing_key,
            "content_type": content_type or kind,
            "headers": headers or {},
            "declare": declare,
            "queue": queue,
        }
        self._current().ask("publish", args, [data])

    def post(
        self,
        url: str,
        body: Any,
        headers: Optional[Dict[str, str]] = None,
        *,
        method: str = "POST",
        login: Optional[Dict[str, str]] = None,
        accept: Sequence[int] = (),
        timeout: Optional[float] = None,
        wait_interval: Optional[float] = None,
        max_wait: Optional[float] = None,
    ) -> None:
        """
        Send a request to a web server once this run's result is stored.

        Any answer of 2xx ends it, and those of `accept`, such as 409 of a server that has the entry already. What
        fails in passing is tried again with growing pauses, for three days at most. `login` = server, user and key of
        an OpenStack identity service: its token is sent as X-Auth-Token, and asked for again when it is refused; where
        the login itself is, it is given up after five tries. `timeout` (10) is for an answer, `wait_interval` the pause
        before the second try (before the third it is twice that; else it doubles, from 2), `max_wait` (600) the longest
        pause; all in seconds.
        """
        data, kind = _bytes(body)
        given = {str(name).lower(): str(value) for name, value in (headers or {}).items()}
        given.setdefault("content-type", kind)
        args: Dict[str, Any] = {
            "url": url,
            "headers": given,
            "method": method,
            "login": login,
            "accept": [int(each) for each in accept],
        }
        patience = {"timeout": timeout, "interval": wait_interval, "max": max_wait}
        given_times = {name: value for name, value in patience.items() if value is not None}
        if given_times:
            args["patience"] = {name: float(value) for name, value in given_times.items()}
        self._current().ask("post", args, [data])

    def upload_file(self, file: Any, file_name: Optional[str] = None) -> str:
        """Keep a file beyond this run; returns the URL under which people can download it once the run commits."""
        path = os.fspath(file)
        name = Path(path).name if file_name is None else file_name
        if not isinstance(path, str) or not isinstance(name, str):
            raise TypeError("upload_file(path, name): both are str")
        if not Path(path).is_file():
            raise FileNotFoundError(f"upload_file: there is no file {path!r}")
        if not name or len(name) > MAX_FILE_NAME:
            raise ValueError(f"upload_file: a file name has 1 to {MAX_FILE_NAME} characters, not {len(name)}")
        run = self._current()
        with Path(path).open("rb") as stream:
            opened, _ = run.ask("upload_open", {"name": name, "size": os.fstat(stream.fileno()).st_size})
            code = opened["code"]
            while True:
                piece = stream.read(UPLOAD_PIECE)
                if not piece:
                    break
                run.ask("upload_write", {"code": code}, [piece])
        closed, _ = run.ask("upload_close", {"code": code})
        self._uploads[code] = [path, name]
        return str(closed["url"])

    def quiet(self) -> None:
        """Send no mail of this run's success: there is nothing to tell. A failure is mailed all the same."""
        run = self._current()
        if run.phase != "run":
            raise PlatformError("quiet() can be called by the handler itself only, not by a callback", "conflict")
        run.quiet = True

    def on_commit(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Call `function` once this run's result and effects are stored."""
        return self._keep(function, commit=True)

    def on_rollback(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Call `function` when this run fails, to undo what it did outside the platform."""
        return self._keep(function, commit=False)

    def _keep(self, function: Callable[[], Any], *, commit: bool) -> Callable[[], Any]:
        if not callable(function):
            raise TypeError(f"a callback must be callable, not {type(function).__name__}")
        run = self._current()
        if run.phase != "run":
            raise PlatformError("callbacks can be added by the handler itself only, not by a callback", "conflict")
        name = str(getattr(function, "__qualname__", type(function).__name__))
        (run.on_commit if commit else run.on_rollback).append((name, function))
        return function


def _bytes(body: Any) -> Tuple[bytes, str]:
    """Return a message's body, and what kind of content it is."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), "application/octet-stream"
    if isinstance(body, str):
        return body.encode("utf-8"), "text/plain; charset=utf-8"
    return results.to_json(body), "application/json"


def install(ep: Ep, *, own_process: bool) -> None:
    """Make `ep` reachable: as a builtin, in `__main__`, and under the name that btrdbextras' handlers import."""
    ep.log.setLevel(logging.INFO)
    builtins.ep = ep  # type: ignore[attr-defined]
    if not own_process:
        return
    sys.modules["__main__"].ep = ep  # type: ignore[attr-defined]
    parent = parent_module()
    module = types.ModuleType(f"{BTRDB_MODULE}.eventproc", "Stands in for btrdbextras.eventproc inside a handler.")
    for name in ("upload_file", "emit", "publish", "post", "quiet", "on_commit", "on_rollback", "log", "_uploads"):
        setattr(module, name, getattr(ep, name))
    module.__getattr__ = lambda name: _of_ep(ep, name)  # type: ignore[method-assign]
    parent.eventproc = module  # type: ignore[attr-defined]
    sys.modules[BTRDB_MODULE] = parent
    sys.modules[f"{BTRDB_MODULE}.eventproc"] = module


def uninstall() -> None:
    """Take the builtin away again: what is pickled in a shared process must not find it."""
    if hasattr(builtins, "ep"):
        del builtins.ep


def _of_ep(ep: Ep, name: str) -> Any:
    if name in {"event", "secrets"}:
        return getattr(ep, name)
    raise AttributeError(f"module 'btrdbextras.eventproc' has no attribute {name!r} inside a handler")


@functools.lru_cache(maxsize=1)
def parent_module() -> types.ModuleType:
    """Return the stand-in for btrdbextras itself; the zygote makes it once for all its children."""
    module = types.ModuleType(BTRDB_MODULE)
    spec = importlib.util.find_spec(BTRDB_MODULE)  # an installed one keeps its other submodules importable
    locations = spec.submodule_search_locations if spec else None
    module.__path__ = list(locations or [])
    return module
