"""
Pipelines: several handlers, new instances of each for every stream, over all of the stream's events.

The blob is the length of a JSON object (4 bytes, little-endian), the object, then the pickled handlers in its order.
Handlers are pickled classes or functions, or names to import: `module:Class`, looked up in this process only.
"""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import json
import os
import struct
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from . import loader, results
from .channel import TooMuch
from .failures import LoadError
from .runs import Execution
from .times import EPOCH, from_us, to_us

HEAD = struct.Struct("<I")
DATETIMES = "_datetimes"  # the payload member that lists those which are datetimes
OWN = ("message_id", "event_type", "timestamp")
PATH_VARIABLE = "EVENTPROC_HANDLER_PATH"  # directories that the operator lets handlers import from
EMIT_PIECE = 100  # new events in one request

Event = Dict[str, Any]


def _nothing(self: Any) -> None: ...


_NOTHING = _nothing.__code__.co_code


def unpack(blob: bytes) -> Tuple[Dict[str, Any], List[Optional[bytes]]]:
    """Return a pipeline's description and the pickled handlers; None for those that are imported."""
    try:
        (size,) = HEAD.unpack_from(blob)
        header = json.loads(blob[HEAD.size : HEAD.size + size])
        parts: List[Optional[bytes]] = []
        at = HEAD.size + size
        for handler in header["handlers"]:
            length = handler.get("size")
            parts.append(None if length is None else blob[at : at + length])
            at += length or 0
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"the pipeline's blob is damaged: {error!r}") from None
    return header, parts


def load(blob: bytes, python: str) -> "Pipeline":
    """Load all handlers of a pipeline."""
    header, parts = unpack(blob)
    for directory in os.environ.get(PATH_VARIABLE, "").split(os.pathsep):
        if directory and directory not in sys.path:
            sys.path.append(directory)
    for name in header.get("setup") or ():
        imported(name)()
    handlers = []
    for described, part in zip(header["handlers"], parts):
        try:
            if part is None:
                made = imported(described["import"])
            else:
                made = loader.load(part, python, described.get("source"), described.get("filename"))
        except LoadError as error:
            raise LoadError(f"handler {described['name']!r} of the pipeline: {error}") from error
        handlers.append(Part(described["name"], made, described.get("params") or {}))
    return Pipeline(handlers, naive=bool(header.get("naive")))


def imported(name: str) -> Any:
    """Return what `module:Class`, `module:Class.member` or `/directory|module:Class` names."""
    directory, bar, rest = name.rpartition("|")
    if bar and os.path.isdir(directory) and directory not in sys.path:  # noqa: PTH112  a string all along
        sys.path.append(directory)
    module_name, colon, path = rest.partition(":")
    if not colon or not path:
        raise LoadError(f"{name!r} is no name to import: write module:Class")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise LoadError(
            f"{name!r} can not be imported: there is no module {error.name!r} where handlers run; install its package "
            "there, or let the operator name its directory in the setting handler_path"
        ) from error
    except Exception as error:
        raise LoadError(f"{name!r} can not be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise LoadError(f"{name!r} can not be imported: {module_name} has no {path}")
        found = getattr(found, part)
    return found


class Part:
    """One handler of a pipeline, not yet for any stream."""

    def __init__(self, name: str, made: Any, params: Dict[str, Any]) -> None:
        self.name = name
        self._made = made
        self._params = params
        if not callable(made):
            raise LoadError(f"handler {name!r} of the pipeline is {type(made).__name__}, not a class or function")

    def instance(self) -> Any:
        """Return a new instance; a function `f(events, env, **params)` is one without state."""
        if inspect.isclass(self._made):
            return self._made(**self._params)
        return Plain(self._made, self._params)


class Plain:
    """A function as a handler."""

    def __init__(self, function: Callable[..., Any], params: Dict[str, Any]) -> None:
        self._function = function
        self._params = params

    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> Any:
        return self._function(events, env, **self._params)


class Pipeline:
    """Handlers in order, as they were loaded."""

    def __init__(self, parts: List[Part], *, naive: bool) -> None:
        self._parts = parts
        self._naive = naive

    def run(self, run: Execution, db: Any, stream: Dict[str, Any]) -> Any:
        """
        Hand the stream's events from handler to handler; what the last one returns and was not there is emitted.

        A handler with before_commit() is called once more when all have succeeded, for what is stored with their
        results, such as messages. commit() and rollback() of every handler that was constructed are kept for the end,
        in order.
        """
        events = list(self._events(stream["events"]))
        known = {event["message_id"] for event in events}
        env = {"stream_id": stream["stream_id"], "stream_name": stream["stream_name"]}
        count = len(events)
        instances = []
        for part in self._parts:
            instance = part.instance()
            _give(instance, db)
            _remember(run, part.name, instance)
            instances.append((part.name, instance))
        for name, instance in instances:
            events = _list_of(name, instance.handle_events(events, env))
        for _, instance in instances:
            before_commit = getattr(instance, "before_commit", None)
            if callable(before_commit):
                before_commit()
        new = [event for event in events if _id_of(event) not in known]
        self._emit(run, new)
        return {"events": count, "new": [event["message_id"] for event in new]}

    def _events(self, given: List[List[Any]]) -> Iterator[Event]:
        for message_id, event_type, time_us, payload in given:
            event = dict(payload)
            for name in event.pop(DATETIMES, None) or ():
                if isinstance(event.get(name), str):
                    event[name] = self._moment(event[name])
            event.update(message_id=message_id, event_type=event_type, timestamp=self._time(from_us(time_us)))
            yield event

    def _time(self, moment: dt.datetime) -> dt.datetime:
        return moment.replace(tzinfo=None) if self._naive else moment

    def _moment(self, text: str) -> Any:
        try:
            return self._time(from_us(to_us(text)))
        except ValueError:
            return text

    def _emit(self, run: Execution, new: List[Event]) -> None:
        described = [_described(event) for event in new]
        for at in range(0, len(described), EMIT_PIECE):
            _emit_all(run, described[at : at + EMIT_PIECE])


def _emit_all(run: Execution, events: List[Event]) -> None:
    """Send them in one request, or in as many as it takes."""
    try:
        run.ask("emit_all", {"events": events})
    except TooMuch:
        if len(events) == 1:
            raise
        middle = len(events) // 2
        _emit_all(run, events[:middle])
        _emit_all(run, events[middle:])


def _give(instance: Any, db: Any) -> None:
    try:
        instance.db = db
    except AttributeError:  # a class with slots did not ask for it
        return


def _remember(run: Execution, name: str, instance: Any) -> None:
    """Note the callbacks; a method that does nothing need not be called, and saves the run a transaction."""
    for method_name, keep in (("commit", run.on_commit.append), ("rollback", _before(run))):
        method = getattr(instance, method_name, None)
        code = getattr(getattr(method, "__func__", None), "__code__", None)
        if callable(method) and (code is None or code.co_code != _NOTHING):
            keep((f"{name}.{method_name}", method))


def _before(run: Execution) -> Callable[[Any], None]:
    # Rollbacks are called from the last to the first; those of handlers go in the handlers' order.
    return lambda callback: run.on_rollback.insert(0, callback)


def _list_of(name: str, events: Any) -> List[Event]:
    if inspect.isgenerator(events):
        events = list(events)
    if not isinstance(events, (list, tuple)):
        raise TypeError(
            f"handle_events of {name!r} returned {type(events).__name__}; it has to return the list of events"
        )
    return list(events)


def _id_of(event: Any) -> Any:
    if not isinstance(event, dict):
        raise TypeError(f"the pipeline's last handler returned an event that is {type(event).__name__}, not a dict")
    if not isinstance(event.get("message_id"), str):
        raise TypeError(
            f"a new event has no message_id that is a str, but {event.get('message_id')!r}: {_short(event)}"
        )
    return event["message_id"]


def _described(event: Event) -> Dict[str, Any]:
    """Return what `emit_all` needs to know of a new event."""
    if not isinstance(event.get("event_type"), str):
        raise TypeError(f"a new event has no event_type that is a str: {_short(event)}")
    if event.get("timestamp") is None:
        raise TypeError(f"a new event has no timestamp: {_short(event)}")
    payload: Dict[str, Any] = {}
    moments = []
    for name, value in event.items():
        if name in OWN or value is None:
            continue
        if isinstance(value, dt.datetime):
            moments.append(name)
            payload[name] = _text_of(value)
        else:
            payload[name] = value if type(value) in (str, int, bool, float) else json.loads(results.to_json(value))
    if moments:
        payload[DATETIMES] = moments
    return {
        "hook": event["event_type"],
        "id": event["message_id"],
        "time_us": to_us(event["timestamp"]),
        "payload": payload,
    }


def _text_of(moment: dt.datetime) -> str:
    if moment.tzinfo is not None:
        moment = (moment - EPOCH) + EPOCH.replace(tzinfo=None)
    return moment.isoformat() + "Z"


def _short(event: Any) -> str:
    return repr(event)[:200]
