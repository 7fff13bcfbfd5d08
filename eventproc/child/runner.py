"""The child's main loop: takes calls from the worker, runs the handler, reports what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import signal
import threading
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from . import detector, frames, loader, pipeline, results
from .capture import Capture
from .cell import Cell
from .channel import Channel, WorkerGone
from .db import Db
from .failures import CpuLimitExceeded, Failure, LoadError, TimeLimitExceeded, describe, over, size
from .runs import Callback, Execution, Secrets
from .times import from_us
from .world import Ep, install, uninstall

BUSY_RETRY_S = 0.01
MAX_WAITING = 1024  # executions whose callbacks may still be asked for

_decode = json.loads  # as it is now: a handler that puts its own in this place shall not take part in rehearsals
REHEARSAL = frames.pack({"t": "call", "id": 1, "hook": "rehearsal"}, [b'{"timestamp":0}', b"{}"])

_shared = threading.RLock()  # `ep` is a builtin: handlers that share a process take turns


class Alarms:
    """
    Ends a call that is over its time with an exception, so that its owner sees where it was and rollback can run.

    The worker's kill follows for those that do not listen.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._armed = False
        signal.signal(signal.SIGALRM, self._wall)
        signal.signal(signal.SIGPROF, self._cpu)

    def start(self, limits: Dict[str, Any]) -> None:
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, limits["timeout_s"])
        signal.setitimer(signal.ITIMER_PROF, limits["cpu_s"])

    def stop(self) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _wall(self, *_: Any) -> None:
        if self._armed and self._channel.busy:
            signal.setitimer(signal.ITIMER_REAL, BUSY_RETRY_S)
        elif self._armed:
            self.stop()
            raise TimeLimitExceeded

    def _cpu(self, *_: Any) -> None:
        if self._armed and self._channel.busy:
            signal.setitimer(signal.ITIMER_PROF, BUSY_RETRY_S)
        elif self._armed:
            self.stop()
            raise CpuLimitExceeded


class NoAlarms:
    """In a shared process nothing is enforced."""

    def start(self, limits: Dict[str, Any]) -> None: ...
    def stop(self) -> None: ...


class Parameters:
    """What a handler's signature asks of a payload; said in words where the two do not fit."""

    def __init__(self, handler: Any) -> None:
        self._name = getattr(handler, "__name__", type(handler).__name__)
        self._first: Optional[str] = None
        self._no_first = False
        self._required: Set[str] = set()
        self._known: Optional[Set[str]] = set()
        self._positional_only: Set[str] = set()
        self._clash: Set[str] = set()
        try:
            parameters = list(inspect.signature(handler).parameters.values())
        except (ValueError, TypeError):  # a builtin: let the call itself say
            self._known = None
            return
        self._read(parameters)

    def _read(self, parameters: List[inspect.Parameter]) -> None:
        kinds = inspect.Parameter
        positional = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        if parameters and parameters[0].kind in positional:
            first = parameters.pop(0)
            self._first = first.name
            if first.kind is kinds.POSITIONAL_OR_KEYWORD:
                self._clash.add(first.name)
        elif not any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
            self._no_first = True
        for parameter in parameters:
            if parameter.kind is kinds.VAR_KEYWORD:
                self._known = None
            elif parameter.kind is kinds.POSITIONAL_ONLY and parameter.default is kinds.empty:
                self._positional_only.add(parameter.name)
            elif parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY):
                if self._known is not None:
                    self._known.add(parameter.name)
                if parameter.default is kinds.empty:
                    self._required.add(parameter.name)

    def check(self, payload: Dict[str, Any], hook: str) -> None:
        """Raise TypeError saying which parameter or payload member is the matter."""
        if self._no_first:
            raise TypeError(f"{self._name}() takes no positional parameter, but is called as handler(db, **payload)")
        if self._positional_only:
            raise TypeError(
                f"{self._name}() has positional-only parameters {_names(self._positional_only)}; "
                "only the first one (db) is given by position"
            )
        if not self._clash.isdisjoint(payload):
            raise TypeError(
                f"{self._name}() names its first parameter {self._first!r}, and the payload of {hook} has a member "
                f"of that name; rename the parameter, or write `def {self._name}({self._first}, /, ...)`"
            )
        if not self._required <= payload.keys():
            raise TypeError(
                f"{self._name}() needs {_names(self._required - payload.keys())}, which the payload of {hook} does "
                f"not have; it has {_names(payload)}"
            )
        if self._known is not None and not payload.keys() <= self._known:
            raise TypeError(
                f"{self._name}() does not take {_names(payload.keys() - self._known)}, which the payload of {hook} "
                "has; add **kwargs to its parameters"
            )


def _names(names: Any) -> str:
    listed = sorted(map(repr, names))
    return ", ".join(listed[:20]) + (" ..." if len(listed) > 20 else "") or "nothing"


class Runner:
    """Serves one worker over one channel until it closes."""

    def __init__(self, channel: Channel, *, own_process: bool) -> None:
        self._channel = channel
        self._own_process = own_process
        self._pid = os.getpid()
        self._limits: Dict[str, Any] = {}
        self._handler: Any = None
        self._parameters: Optional[Parameters] = None
        self._ep = Ep()
        self._waiting: Dict[int, Execution] = {}
        self._load_failure: Optional[Failure] = None
        self._alarms: Any = Alarms(channel) if own_process else NoAlarms()

    def serve(self) -> None:
        """Do what the worker says until it closes the channel."""
        self._capture = Capture(self._log, own_process=self._own_process)  # knows the thread that serves
        try:
            frame = self._channel.read()
            while frame is not None:
                header, bodies = frame
                answer = self.answer(header, bodies)
                if os.getpid() != self._pid:  # the handler forked and the copy came back from it
                    os._exit(0)
                with self._channel.silence():
                    self._channel.send(*answer)
                    if header.get("cell") and self._load_failure is None:
                        Cell(self._channel, self, self._limits["cpu_s"]).serve()
                        return
                    frame = self._channel.read()
        except WorkerGone:
            return

    def answer(self, header: Dict[str, Any], bodies: List[bytes]) -> Tuple[Dict[str, Any], List[bytes]]:
        """Do what one order says; return the answer."""
        with self._turn(self._capture):
            answer = self._obey(header, bodies)
            self._capture.flush()
        return answer

    def in_fork(self) -> None:
        """Take over in a fork of the loaded process; locks that its other threads hold are not theirs here."""
        self._channel.belongs_here()
        self._capture.in_fork()

    def rehearse(self) -> None:
        """
        Do what comes before and after a handler in a call, and let nobody hear of it.

        What that touches a fork has copied, then, before anybody waits for its answer.
        """
        header, bodies = frames.unpack(REHEARSAL)
        event, payload = _decode(bodies[0]), _decode(bodies[1])
        Db(Execution(self._channel, event))
        text = results.to_json(payload)
        frames.pack({"t": "done", "id": header["id"], "cb": False, "rb": False, "quiet": False}, [text])

    def waits(self) -> bool:
        """Whether callbacks may still be asked for."""
        return bool(self._waiting)

    @contextlib.contextmanager
    def _turn(self, capture: Capture) -> Iterator[None]:
        """Set the stage for one order; a process that is shared gets back what was replaced."""
        if self._own_process:
            capture.start()
            yield
            return
        with _shared:
            install(self._ep, own_process=False)
            capture.start()
            try:
                yield
            finally:
                capture.stop()
                uninstall()

    def _log(self, stream: str, text: str) -> None:
        self._channel.send({"t": "log", "s": stream}, [text.encode("utf-8", "backslashreplace")])

    def _obey(self, header: Dict[str, Any], bodies: List[bytes]) -> Tuple[Dict[str, Any], List[bytes]]:
        order = header["t"]
        if order == "call":
            return self._call(header, bodies)
        if order == "settle":
            return {"t": "settled", "failure": self._settle(header["id"], header["action"])}, []
        if order == "load":
            return {"t": "loaded", "failure": self._load(header, b"".join(bodies))}, []
        raise LoadError(f"unknown order {order!r}")

    # ------------------------------------------------------------------ load

    def _load(self, header: Dict[str, Any], blob: bytes) -> Optional[Failure]:
        self._limits = header["limits"]
        if self._own_process:
            install(self._ep, own_process=True)
        try:
            self._alarms.start(self._limits)
            if header.get("kind") == "pipeline":
                self._handler = pipeline.load(blob, header["python"])
            elif header.get("kind") == "detector":
                self._handler = detector.load(
                    blob, header["python"], header.get("source"), header.get("filename"), header["methods"]
                )
            else:
                self._handler = loader.load(blob, header["python"], header.get("source"), header.get("filename"))
                if header.get("cell"):
                    loader.import_ahead(self._handler)
        except WorkerGone:
            raise
        except BaseException as error:  # noqa: BLE001  a blob may raise anything; it goes to the owner
            self._alarms.stop()
            self._load_failure = describe(error, self._limits)
            if self._load_failure["kind"] in {"exception", "exit"}:
                self._load_failure["kind"] = "load"
        self._alarms.stop()
        if self._handler is not None and not inspect.isclass(self._handler) and not self._is_pipeline():
            self._parameters = Parameters(self._handler)
        return self._load_failure

    # ------------------------------------------------------------------ call

    def _call(self, header: Dict[str, Any], bodies: List[bytes]) -> Tuple[Dict[str, Any], List[bytes]]:
        if self._load_failure is not None:
            return {"t": "done", "id": header["id"], "failure": self._load_failure}, []
        event, payload = _decode(bodies[0]), _decode(bodies[1])
        run = Execution(self._channel, event, Secrets(_decode(bodies[2]) if len(bodies) > 2 else {}))
        self._ep.attach(run)
        try:
            try:
                self._alarms.start(self._limits)
                value = self._invoke(run, header["hook"], event, payload)
            finally:
                self._alarms.stop()
            text = self._result(value)
        except WorkerGone:
            raise
        except BaseException as error:  # noqa: BLE001  whatever a handler raises is its outcome, not the runner's end
            self._alarms.stop()
            return {"t": "done", "id": header["id"], "failure": self._failed(run, error)}, []
        callbacks = bool(run.on_commit)
        if callbacks or run.on_rollback:
            run.phase = "waiting"
            self._keep(header["id"], run)
        else:
            run.phase = "over"
        return {"t": "done", "id": header["id"], "cb": callbacks, "rb": bool(run.on_rollback), "quiet": run.quiet}, [
            text
        ]

    def _keep(self, run_id: int, run: Execution) -> None:
        self._waiting[run_id] = run
        if len(self._waiting) > MAX_WAITING:  # those that could only roll back and never had to are forgotten
            self._waiting = {key: each for key, each in self._waiting.items() if each.on_commit or key == run_id}

    def _invoke(self, run: Execution, hook: str, event: Dict[str, Any], payload: Dict[str, Any]) -> Any:
        db = Db(run)
        if self._is_pipeline():
            return self._handler.run(run, db, payload)
        if self._parameters is None:
            value = self._handle_events(run, db, event, payload)
        else:
            self._parameters.check(payload, hook)
            value = self._handler(db, **payload)
        if inspect.iscoroutine(value):
            return asyncio.run(value)
        return value

    def _is_pipeline(self) -> bool:
        return isinstance(self._handler, pipeline.Pipeline)

    def _handle_events(self, run: Execution, db: Db, event: Dict[str, Any], payload: Dict[str, Any]) -> Any:
        instance = self._handler()
        instance.db = db
        for name, callbacks in (("commit", run.on_commit), ("rollback", run.on_rollback)):
            method = getattr(instance, name, None)
            if callable(method):
                callbacks.append((f"{type(instance).__name__}.{name}", method))
        own = {name: event[name] for name in ("message_id", "event_type")}
        return instance.handle_events([{**payload, **own, "timestamp": from_us(event["timestamp"])}], {})

    def _result(self, value: Any) -> bytes:
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            raise results.ResultError(
                "the handler is a generator: its body never ran; return a value instead of yielding it"
            )
        text = results.to_json(value)
        if len(text) > self._limits["result_bytes"]:
            raise results.ResultError(over("result", self._limits, found=size(len(text))))
        return text

    def _failed(self, run: Execution, error: BaseException) -> Failure:
        failure = describe(error, self._limits)
        if run.on_rollback:
            self._channel.send({"t": "rollback"})
            failure["rolled_back"] = self._run_callbacks(run, "rollback") is None
        run.phase = "over"
        return failure

    # ------------------------------------------------------------------ settle

    def _settle(self, run_id: int, action: str) -> Optional[Failure]:
        run = self._waiting.get(run_id)
        if run is None:
            return None
        self._ep.attach(run)
        failure = self._run_callbacks(run, action)
        run.phase = "waiting"
        if failure is None or action == "rollback":
            run.phase = "over"
            del self._waiting[run_id]
        return failure

    def _run_callbacks(self, run: Execution, action: str) -> Optional[Failure]:
        """Run the callbacks, each on its own; keep those that failed, and tell of the first of them."""
        run.phase = action
        todo = run.on_commit if action == "commit" else run.on_rollback[::-1]
        failed: List[Callback] = []
        first: Optional[Failure] = None
        for name, function in todo:
            try:
                try:
                    self._alarms.start(self._limits)
                    function()
                finally:
                    self._alarms.stop()
            except WorkerGone:
                raise
            except BaseException as error:  # noqa: BLE001  as above
                self._alarms.stop()
                failed.append((name, function))
                first = first or dict(describe(error, self._limits), callback=name)
        if action == "commit":
            run.on_commit = failed
        if first is not None:
            others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            first["message"] = f"{action} callback {first.pop('callback')}{others}: {first['message']}"
        return first
