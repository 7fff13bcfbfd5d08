"""
Detectors that users registered, at work for models: in sandbox children, their state opaque bytes.

A version has one child, in whose forks the calls run: a call brings a metric's state and new samples, and takes scores
and state back. Nothing of one metric can be seen from another, whatever the class keeps to itself.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from eventproc.abc import Call, Child, RunSession, Sandbox, Store
from eventproc.engine.programs import environment_of, program_of
from eventproc.errors import DamagedData, DetectorFailed, Forbidden, SandboxError
from eventproc.model import Effects, Failure

log = structlog.get_logger(__name__)

MAX_STATE: Final = 1 << 20  # bytes
MAX_OUTPUT: Final = 2000  # characters of what it prints that a failure tells

_Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Which:
    """A version of a registered detector, and the parameters it is made with."""

    name: str
    handler_id: int
    version: int
    parameters: Mapping[str, Any]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Which:
        """Read it from a model's parameters."""
        return cls(params["name"], params["handler"], params["version"], params.get("parameters") or {})


class Uploads:
    """
    Children for detector versions; of more than `max_children` the least recently used are let go of.

    Threads may share it.
    """

    def __init__(self, store: Store, sandbox: Callable[[], Sandbox], *, max_children: int = 16) -> None:
        self._store = store
        self._sandbox = sandbox
        self._max_children = max_children
        self._lock = threading.Lock()
        self._children: dict[tuple[int, int], _Seat] = {}
        self._numbers = itertools.count(1)
        self._closed = False

    def call(self, which: Which, state: bytes | None, values: Sequence[float], times: Sequence[float]) -> Any:
        """
        Score records; return the scores (NaN for what was none) and the state.

        Raises DetectorFailed for what the detector did, SandboxError when no child can be had.
        """
        self._check_owner(which)
        seat = self._seat(which)
        payload = {
            "state": None if state is None else base64.b64encode(state).decode("ascii"),
            "parameters": dict(which.parameters),
            "values": list(values),
            "times": list(times),
            "max_state": MAX_STATE,
        }
        call = Call(
            run_id=next(self._numbers),
            attempt=1,
            event_json=_EVENT,
            payload_json=json.dumps(payload).encode(),
            hook=which.name,
        )
        session = _Session()
        with seat.lock:
            text = self._execute(seat, which, call, session)
        return _read(which, text, len(values))

    def _execute(self, seat: _Seat, which: Which, call: Call, session: _Session) -> str:
        if seat.child is None or not seat.child.alive:
            seat.close()
            seat.child = self._spawn(which)
        with self._lock:
            if self._closed:
                seat.close()
                raise SandboxError("the model runner is about to stop")
        assert seat.child is not None
        [outcome] = list(seat.child.execute([(call, session)]))
        if not outcome.alive:
            seat.close()
        if outcome.failure is not None:
            raise _failed(which, outcome.failure, session.text)
        if outcome.result_json is None:
            raise SandboxError("the detector's process ended before it was called")
        return outcome.result_json

    def _check_owner(self, which: Which) -> None:
        """Refuse code of a user who was disabled; at each call, for a child lives longer than a user's rights."""
        with self._store.read() as tx:
            record = tx.handlers.get(which.handler_id)
            owner = None if record is None else tx.users.get(record.owner_id)
        if owner is not None and owner.disabled:
            raise DetectorFailed(
                f"the detector {which.name!r} is not run while its user {owner.name!r} is disabled; no sample is lost: "
                "`eventproc models retry` goes on, once the user is enabled"
            )

    def _spawn(self, which: Which) -> Child:
        with self._store.read() as tx:
            version = tx.handlers.version(which.handler_id, which.version)
            blob = tx.handlers.blob(which.handler_id, which.version)
            environment = None if version is None else environment_of(tx, version)
        if version is None or blob is None:
            raise DetectorFailed(f"version {which.version} of the detector {which.name!r} is not in the store")
        try:
            program = program_of(version, blob, name=which.name, environment=environment)
        except DamagedData as error:
            raise DetectorFailed(error.message) from error
        limits = replace(version.options.limits, result_bytes=max(version.options.limits.result_bytes, 4 * MAX_STATE))
        return self._sandbox().spawn(replace(program, isolation="cell"), limits)

    def _seat(self, which: Which) -> _Seat:
        key = (which.handler_id, which.version)
        with self._lock:
            seat = self._children.pop(key, None) or _Seat()
            self._children[key] = seat  # the last one used
            idle = [other for other, held in self._children.items() if other != key and not held.lock.locked()]
            gone = [self._children.pop(other) for other in idle[: max(0, len(self._children) - self._max_children)]]
        for each in gone:
            with each.lock:
                each.close()
        return seat

    def close(self) -> None:
        """End all children; calls that are under way fail."""
        with self._lock:
            self._closed = True
            seats = list(self._children.values())
        for seat in seats:
            seat.kill()  # whoever waits for it gets an answer
        for seat in seats:
            with seat.lock:
                seat.close()


class _Seat:
    """A place for a version's child; whoever has the lock may use it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.child: Child | None = None

    def close(self) -> None:
        child, self.child = self.child, None
        if child is not None:
            child.close()

    def kill(self) -> None:
        child = self.child
        if child is not None:
            child.kill()


class Remote:
    """One metric's detector of a user's own: its state is here, its code is not."""

    kind: Final = "user"

    def __init__(self, uploads: Uploads, which: Which, state: bytes | None = None) -> None:
        self._uploads = uploads
        self._which = which
        self.state = state

    def begin(self) -> None:
        """Have it made once. Raises DetectorFailed when it can not be."""
        self._uploads.call(self._which, None, (), ())

    def score_batch(self, values: _Scores, times: _Scores) -> _Scores:
        """Score and learn; NaN for each record whose score is no number."""
        scores, self.state = self._uploads.call(self._which, self.state, values.tolist(), times.tolist())
        return np.array(scores, np.float64)

    def save(self) -> bytes:
        return self.state or b""

    def live_bytes(self) -> int:
        return len(self.state or b"") + 1000


def _read(which: Which, text: str, count: int) -> tuple[list[float], bytes]:
    """Read what a child answered; it may be anything."""
    try:
        answer = json.loads(text)
        scores = [math.nan if score is None else float(score) for score in answer["scores"]]
        state = base64.b64decode(answer["state"], validate=True)
    except (ValueError, TypeError, KeyError, OverflowError, binascii.Error) as error:
        raise DetectorFailed(f"the detector {which.name!r} answered what can not be read: {error}") from error
    if len(scores) != count or len(state) > MAX_STATE:
        raise DetectorFailed(f"the detector {which.name!r} answered {len(scores)} scores for {count} samples")
    return scores, state


def _failed(which: Which, failure: Failure, output: str) -> DetectorFailed:
    name = f"{failure.type}: " if failure.type else ""
    lines = [f"{which.name} version {which.version}: {failure.kind}: {name}{failure.message}"]
    if failure.traceback:
        lines.append(failure.traceback.rstrip()[-MAX_OUTPUT:])
    if output:
        lines.append(f"It printed: {output[-MAX_OUTPUT:]}")
    return DetectorFailed("\n".join(lines))


class _Session(RunSession):
    """A detector gets nothing from the platform, and its output is kept only to tell of a failure."""

    def __init__(self) -> None:
        self.text = ""

    def call(self, op: str, args: Mapping[str, Any], body: bytes) -> tuple[Any, Sequence[bytes]]:
        del op, args, body
        raise Forbidden("a detector has neither db nor ep: it is given samples and returns scores")

    def log(self, stream: str, text: str) -> None:
        del stream
        self.text = (self.text + text)[-MAX_OUTPUT:]

    def effects(self) -> Effects:
        return Effects()

    def discard(self) -> None:
        """There is nothing to forget."""


_EVENT: Final = json.dumps(
    {"message_id": "detector", "event_type": "detector", "timestamp": 0, "tags": [], "key": None, "attempt": 1}
).encode()

__all__ = ["MAX_STATE", "Remote", "Uploads", "Which"]
