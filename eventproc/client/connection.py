"""The platform over HTTP: every call of the API as a method."""

from __future__ import annotations

import datetime as dt
import json as jsonlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Self, Unpack

from eventproc.client.administration import Administration
from eventproc.client.bulk import change_many
from eventproc.client.calls import given
from eventproc.client.detectors import detector_request
from eventproc.client.endpoint import CA_VARIABLE, resolve
from eventproc.client.handlers import Handler, HandlerOptions, check_options, make_mark
from eventproc.client.metrics import Metrics
from eventproc.client.monitoring import Monitoring
from eventproc.client.paths import segment
from eventproc.client.pipelines import pipeline_request
from eventproc.client.requests import Ready, batches, error_item, ready, timestamp
from eventproc.codec.bundle import HandlerWarning, bundle_to_json
from eventproc.errors import ConfigError, EventprocError, InvalidInput, ServerUnreachable, from_wire
from eventproc.model import HandlerBundle
from eventproc.model.marks import HandlerMark, marks_of

if TYPE_CHECKING:
    from eventproc.client.transport import Transport

FINAL_STATES = frozenset({"succeeded", "failed", "commit_failed", "cancelled"})
DEFAULT_TIMEOUT_S = 30.0
INSTALLING_S = 780.0  # for a registration whose packages a worker has to install first
PAGE = 500
FOLLOW_PAUSE_S = 0.5


class Connection(Administration, Metrics, Monitoring):
    """
    A platform's HTTP API, spoken with one user's rights.

    Without arguments the endpoint and the key come from EVENTPROC_ENDPOINTS and EVENTPROC_API_KEY, else from
    BTRDB_ENDPOINTS and BTRDB_API_KEY, else from the platform that runs on this machine (EVENTPROC_DATA). The
    environment is read when the connection is made; nothing is sent before the first call.

    May be shared by threads; a forked process can go on using it. Every call ends within `timeout` seconds, if need be
    with DeadlineExceeded.

    :param endpoint: `host:port`, `http://host:port` or `https://host:port`; several with commas between are
        tried in turn
    :param apikey: as `eventproc keys add` printed it
    :param timeout: seconds for a whole call
    :param ca: file with the certificates to trust for https
    """

    def __init__(
        self,
        endpoint: str | None = None,
        apikey: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InvalidInput(f"timeout must be a number of seconds above 0, not {timeout!r}")
        self._address = resolve(endpoint, apikey)
        self._timeout = float(timeout)
        self._ca = os.fspath(ca) if ca is not None else os.environ.get(CA_VARIABLE) or None
        if self._ca is not None and not Path(self._ca).is_file():
            raise ConfigError(f"ca: there is no file {self._ca!r}")
        self._transport: Transport | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """The base URL in use."""
        return self._transport.base if self._transport is not None else self._address.bases[0]

    @property
    def apikey(self) -> str:
        return self._address.apikey

    def __repr__(self) -> str:
        return f"Connection({self.endpoint!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Connection holds an API key and does not travel; inside a handler use `db` and `ep`")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; the connection can not be used afterwards."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def _http(self) -> Transport:
        if self._closed:
            raise ServerUnreachable("this connection was closed")
        if self._transport is None:
            # The HTTP client is loaded at the first request, so that importing this stays light.
            from eventproc.client.transport import Transport  # noqa: PLC0415

            with self._lock:
                if self._transport is None:
                    self._transport = Transport(self._address, timeout=self._timeout, ca=self._ca)
        return self._transport

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Any:
        """
        Call any route of the API by its path below `/api/v1` and return its JSON.

        Raises the error that the server named, Unauthorized, ServerUnreachable or DeadlineExceeded.
        """
        content = None if json is None else _body(json)
        return self._http().request(method, path, params=given(params or {}) or None, content=content, timeout=timeout)

    def pages(
        self, path: str, params: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Call any route that lists, page by page as they are needed, and yield its items, at most `limit`."""
        said = dict(params or {})
        after, left = said.get("after"), limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self.request("GET", path, params={**said, "after": after, "limit": size})
            yield from page["items"]
            after = page.get("next")
            left = None if left is None else left - len(page["items"])
            if after is None or not page["items"]:
                return

    # ------------------------------------------------------------------------------------------- hooks, handlers

    def hooks(self) -> list[str]:
        """List the hooks' names."""
        return [spec["name"] for spec in self.pages("/hooks")]

    def hook(self, name: str) -> dict[str, Any]:
        """Return one hook: summary, schema and sample payload."""
        return self._object("GET", f"/hooks/{segment(name)}")

    def register(
        self,
        target: Callable[..., Any],
        *,
        name: str | None = None,
        hook: str | None = None,
        notify_on_success: str | None = None,
        notify_on_failure: str | None = None,
        tags: Sequence[str] | None = None,
        **options: Unpack[HandlerOptions],
    ) -> Handler:
        """
        Register a function or class; what is left out is taken from its `@register(...)` mark.

        Registering the same hook and name again makes the next version current.
        """
        marks = [mark for mark in marks_of(target) if hook in (None, mark.hook) and name in (None, mark.name)]
        if len(marks) > 1:
            listed = ", ".join(f"{mark.hook}/{mark.name}" for mark in marks)
            raise InvalidInput(
                f"register: marked more than once ({listed}); say hook= and name=, or loop over the marks"
            )
        base = marks[0] if marks else None
        registration = make_mark(
            target,
            name=name or (base.name if base else None),
            hook=hook or (base.hook if base else None),
            notify_on_success=notify_on_success or (base.notify_on_success if base else None),
            notify_on_failure=notify_on_failure or (base.notify_on_failure if base else None),
            tags=tags if tags is not None else (base.tags if base else None),
            options={**(base.options if base else {}), **check_options(options)},
        )
        return Handler.from_json(self.send_registration(target, registration))

    def send_registration(self, target: Callable[..., Any], registration: HandlerMark) -> dict[str, Any]:
        """Pack a callable, try to load it in a clean interpreter, and register it; return the server's answer."""
        from eventproc.codec.blob import pack  # noqa: PLC0415 - dill is loaded when something is registered
        from eventproc.codec.inline import with_inline_requirements  # noqa: PLC0415 - as above

        options = with_inline_requirements(target, dict(registration.options))
        return self.send_bundle(pack(target, check=True), replace(registration, options=options))

    def send_bundle(self, bundle: HandlerBundle, registration: HandlerMark) -> dict[str, Any]:
        """Register a packed handler; the server's warnings become Python warnings."""
        body = {
            "hook": registration.hook,
            "name": registration.name,
            "tags": list(registration.tags),
            "notify_on_success": registration.notify_on_success,
            "notify_on_failure": registration.notify_on_failure,
            "options": dict(registration.options),
            "bundle": bundle_to_json(bundle),
        }
        answer = self._register("/handlers", body)
        for text in answer.get("warnings") or ():
            warnings.warn(f"{registration.name}: {text}", HandlerWarning, stacklevel=4)
        return answer

    def _register(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        patience = max(self._timeout, INSTALLING_S) if body["options"].get("requirements") else None
        return self._object("POST", path, body, timeout=patience)

    def register_detector(
        self, detector: type, name: str | None = None, **options: Unpack[HandlerOptions]
    ) -> dict[str, Any]:
        """Register a class as a detector, or its next version, see `eventproc.register_detector`."""
        body = detector_request(detector, name, options)
        return self._register("/detectors", body)

    def list_detectors(self) -> list[dict[str, Any]]:
        """Return the detectors that users registered."""
        return list(self.pages("/detectors"))

    def deregister_detector(self, name: str) -> None:
        """Let no new model have that detector; those that have it go on."""
        self.request("DELETE", f"/detectors/{segment(name)}")

    def register_pipeline(
        self,
        name: str,
        handlers: Sequence[Any],
        *,
        params: Mapping[str, Mapping[str, Any]] | None = None,
        notify_on_success: str | None = None,
        notify_on_failure: str | None = None,
        naive: bool = False,
        setup: Sequence[str] = (),
        **options: Unpack[HandlerOptions],
    ) -> dict[str, Any]:
        """Register a pipeline, or its next version, see `eventproc.register_pipeline`."""
        body = pipeline_request(
            name,
            handlers,
            params=params,
            notify_on_success=notify_on_success,
            notify_on_failure=notify_on_failure,
            naive=naive,
            setup=setup,
            options=check_options(options),
        )
        return self._register("/pipelines", body)

    def list_handlers(self, hook: str = "") -> list[Handler]:
        """List the registered handlers, of one hook or of all."""
        return [Handler.from_json(item) for item in self.pages("/handlers", {"hook": hook or None}, None)]

    def handler(self, handler_id: int) -> dict[str, Any]:
        """Return a handler with its options and whether it is paused."""
        return self._object("GET", f"/handlers/{int(handler_id)}")

    def deregister(self, handler_id: int) -> bool:
        """Remove a handler; its waiting runs are cancelled. Raises UnknownHandler."""
        self.request("DELETE", f"/handlers/{int(handler_id)}")
        return True

    def versions(self, handler_id: int) -> list[dict[str, Any]]:
        """List a handler's versions, without source."""
        return list(self.pages(f"/handlers/{int(handler_id)}/versions"))

    def version(self, handler_id: int, version: int) -> dict[str, Any]:
        """Return one version with its source text."""
        return self._object("GET", f"/handlers/{int(handler_id)}/versions/{int(version)}")

    def diff(self, handler_id: int, old: int, new: int) -> str:
        """Return the unified diff of two versions' sources."""
        answer = self.request("GET", f"/handlers/{int(handler_id)}/diff", params={"old": old, "new": new})
        return str(answer["diff"])

    def set_current(self, handler_id: int, version: int) -> Handler:
        """Make a version the one that runs."""
        return Handler.from_json(
            self.request("POST", f"/handlers/{int(handler_id)}/current", json={"version": int(version)})
        )

    def pause(self, what: int | str) -> dict[str, Any]:
        """Let runs wait: of a handler by its id, or of a hook by its name."""
        return self._switch(what, "pause")

    def resume(self, what: int | str) -> dict[str, Any]:
        """Let runs go on: of a handler by its id, or of a hook by its name."""
        return self._switch(what, "resume")

    def _switch(self, what: int | str, action: str) -> dict[str, Any]:
        path = f"/handlers/{what}" if isinstance(what, int) else f"/hooks/{segment(what)}"
        return self._object("POST", f"{path}/{action}")

    def dry_run(
        self,
        handler_id: int,
        *,
        event_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
        tags: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Run a handler on a stored event or a payload with nothing committed: result, failure, logs, effects."""
        body = {"event_id": event_id, "payload": payload, "tags": None if tags is None else list(tags)}
        return self._object("POST", f"/handlers/{int(handler_id)}/dry-run", json=given(body))

    # ------------------------------------------------------------------------------------------- events

    def emit(
        self,
        hook: str,
        payload: Mapping[str, Any],
        *,
        id: str | None = None,
        tags: Sequence[str] = (),
        key: str | None = None,
        time: dt.datetime | str | None = None,
        source: str | None = None,
        traceparent: str | None = None,
    ) -> dict[str, Any]:
        """
        Report an event; return its id, seq, whether it was accepted before, and the ids of its runs.

        The same id with the same content is accepted once. Without an id one is made here, so that a lost answer can
        be asked for again.
        """
        event = ready(hook, payload, id=id, tags=tags, key=key, time=time, source=source, traceparent=traceparent)
        answer: dict[str, Any] = self._http().request(
            "POST", "/events", content=event.text.encode("utf-8"), repeatable=True
        )
        return {**answer, "duplicate": False} if event.own_id else answer

    def emit_many(self, events: Iterable[Any]) -> list[dict[str, Any]]:
        """
        Report many events, in requests of 500.

        Each is a dict of `emit`'s arguments, a (hook, payload) pair or a NewEvent.

        Returns in their order what became of each: as `emit` does, or `{"error": {"code", "message", "details"}}`
        for one that was refused. When the server is lost midway, the error's `details["done"]` are those sent before.
        """
        done: list[dict[str, Any]] = []
        for batch in batches(events):
            try:
                done += self._emit_batch(batch)
            except EventprocError as error:
                error.details["done"] = done
                raise
        return done

    def _emit_batch(self, batch: Sequence[Ready | EventprocError]) -> list[dict[str, Any]]:
        events = [event for event in batch if isinstance(event, Ready)]
        answers: Iterator[dict[str, Any]] = iter(())
        if events:
            content = f'{{"events":[{",".join(event.text for event in events)}]}}'.encode()
            items = self._http().request("POST", "/events", content=content, repeatable=True)["items"]
            answers = iter(items)
        results: list[dict[str, Any]] = []
        for event in batch:
            if isinstance(event, Ready):
                answer = next(answers)
                results.append({**answer, "duplicate": False} if event.own_id and "id" in answer else answer)
            else:
                results.append(error_item(event))
        return results

    def events(
        self,
        *,
        hook: str | None = None,
        tag: str | None = None,
        key: str | None = None,
        since: dt.datetime | str | None = None,
        until: dt.datetime | str | None = None,
        limit: int | None = 100,
    ) -> list[dict[str, Any]]:
        """
        List events, newest first; `limit` None lists all.

        `hook` is a name, or a pattern such as `stream.*`; `!stream.*` means all others.
        """
        params = {"hook": hook, "tag": tag, "key": key, "since": timestamp(since), "until": timestamp(until)}
        return list(self.pages("/events", params, limit))

    def event(self, event_id: str) -> dict[str, Any]:
        """Return one event with its payload."""
        return self._object("GET", f"/events/{segment(event_id)}")

    def why(self, event_id: str, handler_id: int) -> dict[str, Any]:
        """Say why a handler did or did not run on an event."""
        return self._object("GET", f"/events/{segment(event_id)}/why", params={"handler": int(handler_id)})

    def replay(
        self,
        hook: str,
        since: dt.datetime | str,
        until: dt.datetime | str,
        *,
        filter: Mapping[str, Any] | None = None,
        handler: int | None = None,
        current: bool = True,
    ) -> dict[str, Any]:
        """Run handlers again on past events of a hook, by the events' own times."""
        body = {
            "hook": hook,
            "since": timestamp(since),
            "until": timestamp(until),
            "filter": filter,
            "handler": handler,
        }
        return self._object("POST", "/events/replay", json={**given(body), "current": current})

    # ------------------------------------------------------------------------------------------- runs

    def runs(
        self,
        *,
        state: str | Sequence[str] | None = None,
        hook: str | None = None,
        handler: int | None = None,
        event: str | None = None,
        since: dt.datetime | str | None = None,
        until: dt.datetime | str | None = None,
        limit: int | None = 100,
    ) -> list[dict[str, Any]]:
        """List runs, newest first; `state` may be several, and "dead" for those that failed. `limit` None lists all."""
        which = _run_filter(state=state, hook=hook, handler=handler, event=event, since=since, until=until)
        return list(self.pages("/runs", which, limit))

    def run(self, run_id: int) -> dict[str, Any]:
        """Return one run: state, attempts, result or failure."""
        return self._object("GET", f"/runs/{int(run_id)}")

    def wait(self, run_id: int, *, timeout: float = 60.0) -> dict[str, Any]:
        """Wait for a run's final state and return the run. Raises DeadlineExceeded."""
        from eventproc.errors import DeadlineExceeded  # noqa: PLC0415 - only here

        until, pause = time.monotonic() + timeout, 0.02
        while (run := self.run(run_id))["state"] not in FINAL_STATES:
            if time.monotonic() > until:
                raise DeadlineExceeded(f"run {run_id} is still {run['state']} after {timeout:g} s", run=run)
            time.sleep(pause)
            pause = min(pause * 1.5, FOLLOW_PAUSE_S)
        return run

    def logs(self, run_id: int, *, after: int | str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Return what a run printed and logged, oldest first; `after` is the id of the last piece already seen."""
        return list(self.pages(f"/runs/{int(run_id)}/logs", {"after": after}, limit))

    def follow_logs(self, run_id: int) -> Iterator[dict[str, Any]]:
        """Yield what a run prints and logs as it comes, until the run is over."""
        after: int | str | None = None
        while True:
            over = self.run(run_id)["state"] in FINAL_STATES  # asked before the logs, so that the last ones are seen
            for chunk in self.logs(run_id, after=after):
                after = chunk["id"]
                yield chunk
            if over:
                return
            time.sleep(FOLLOW_PAUSE_S)

    def run_files(self, run_id: int) -> list[dict[str, Any]]:
        """List the files that a run uploaded."""
        return list(self.pages(f"/runs/{int(run_id)}/files"))

    def cancel(self, run_id: int) -> dict[str, Any]:
        """Cancel a run; one that is executing is asked to end."""
        return self._object("POST", f"/runs/{int(run_id)}/cancel")

    def requeue(self, run_id: int, *, current: bool = False) -> dict[str, Any]:
        """Run a failed or cancelled run again, with its own version or the handler's current one."""
        return self._object("POST", f"/runs/{int(run_id)}/requeue", json={"current": current})

    def cancel_runs(self, ids: Sequence[int] | None = None, *, all: bool = False, **which: Any) -> dict[str, Any]:
        """Cancel many runs, by ids or by the arguments of `runs`; with `all` every one that is not over."""
        return change_many(
            lambda body: self._object("POST", "/runs/cancel", json=body), _run_choice(ids, which, all=all)
        )

    def requeue_runs(
        self, ids: Sequence[int] | None = None, *, all: bool = False, current: bool = False, **which: Any
    ) -> dict[str, Any]:
        """Requeue many runs, by ids or by the arguments of `runs`; with `all` every dead one."""
        body = {**_run_choice(ids, which, all=all), "current": current}
        return change_many(lambda part: self._object("POST", "/runs/requeue", json=part), body)

    # ------------------------------------------------------------------------------------------- files, archives

    def download(self, code: str, to: str | os.PathLike[str] | BinaryIO) -> int:
        """Write an uploaded file, by the code or URL that `ep.upload_file` returned, to a path or an open file."""
        name = code.rstrip("/").rpartition("/")[2]
        if isinstance(to, (str, os.PathLike)):
            with Path(to).open("xb") as file:
                return self.download(name, file)
        size = 0
        with self._http().stream("GET", f"/files/{segment(name)}") as response:
            from eventproc.client.deadline import prolong  # noqa: PLC0415 - comes with the HTTP client

            for piece in response.iter_bytes():
                prolong(self._timeout)
                to.write(piece)
                size += len(piece)
        return size

    def _text(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, content: bytes | None = None
    ) -> Iterator[str]:
        with self._http().stream(method, path, params=params, content=content) as response:
            from eventproc.client.deadline import prolong  # noqa: PLC0415 - comes with the HTTP client

            for piece in response.iter_text():
                prolong(self._timeout)
                yield piece

    def ingest_comtrade(
        self,
        path: str | os.PathLike[str],
        tags: Sequence[str] = (),
        *,
        progress: Callable[[dict[str, Any]], None] | None = None,
        name: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """
        Import an archive of COMTRADE records; return the event's id and payload.

        `progress` is called for each record with done, total, name and ok. The call lasts as long as there is progress
        within the connection's timeout.
        """
        params = {"tag": list(tags), "name": name or Path(path).name, "request_id": request_id}
        result: dict[str, Any] | None = None
        with (
            Path(path).open("rb") as archive,
            self._http().stream(
                "POST", "/ingest/comtrade", params=given(params), content=_pieces(archive, self._timeout)
            ) as response,
        ):
            for line in response.iter_lines():
                result = self._ingest_line(line, progress) or result
        if result is None:
            raise ServerUnreachable(
                "the import's answer broke off; see `eventproc events` for whether it was completed"
            )
        return result

    def _ingest_line(self, line: str, progress: Callable[[dict[str, Any]], None] | None) -> dict[str, Any] | None:
        from eventproc.client.deadline import prolong  # noqa: PLC0415 - comes with the HTTP client

        prolong(self._timeout)
        if not line.strip():
            return None
        said = jsonlib.loads(line)
        if "error" in said and "code" in (said["error"] or {}):
            raise from_wire(said["error"]["code"], said["error"]["message"], said["error"].get("details"))
        if "result" in said:
            result: dict[str, Any] = said["result"]
            return result
        if progress is not None:
            progress(said)
        return None


def _body(value: Any) -> bytes:
    try:
        return jsonlib.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the request can not be written as JSON: {error}") from error


def _run_filter(
    *,
    state: str | Sequence[str] | None,
    hook: str | None,
    handler: int | None,
    event: str | None,
    since: dt.datetime | str | None,
    until: dt.datetime | str | None,
) -> dict[str, Any]:
    states = state if state is None or isinstance(state, str) else list(state)
    return {
        "state": states,
        "hook": hook,
        "handler": handler,
        "event": event,
        "since": timestamp(since),
        "until": timestamp(until),
    }


_RUN_FILTERS = ("state", "hook", "handler", "event", "since", "until")


def _run_choice(ids: Sequence[int] | None, which: Mapping[str, Any], *, all: bool) -> dict[str, Any]:
    for name in which:
        if name not in _RUN_FILTERS:
            near = get_close_matches(name, _RUN_FILTERS, n=1)
            raise TypeError(f"unexpected filter {name!r}; there are {', '.join(near or _RUN_FILTERS)}")
    if ids is None and not which and not all:
        raise InvalidInput("say which runs: their ids, a filter such as state='failed', or all=True")
    chosen = given(_run_filter(**{name: which.get(name) for name in _RUN_FILTERS}))
    return {**chosen, **({} if ids is None else {"ids": [int(number) for number in ids]}), "all": all}


def _pieces(file: BinaryIO, timeout: float) -> Iterator[bytes]:
    from eventproc.client.deadline import prolong  # noqa: PLC0415 - comes with the HTTP client

    while piece := file.read(1 << 18):
        prolong(timeout)
        yield piece
