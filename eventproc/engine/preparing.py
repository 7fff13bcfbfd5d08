"""
Trying a handler before it is stored: its packages are locked and installed, and its blob is loaded once.

That is done where the handler will run. A worker says in the store which Pythons it has, and takes what registrations
ask for; the API does it itself where no worker is needed for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from eventproc.abc import Bus, Clock, Preparation, Program, Sandbox, Store
from eventproc.errors import EventprocError, InvalidHandler, Unavailable, from_wire
from eventproc.model import SECOND_US, Environment, Failure, Limits, WorkerState

log = logging.getLogger(__name__)

TOPIC = "prepare"
STATE_S = 10.0  # between two words of a worker that it lives
LIVE_S = 45.0  # silent for longer, it counts as gone
LEASE_S = 15.0  # of what it prepares
FORGET_S = 86_400.0
WRONG_CODE = "WrongCodeError"  # type of the failure of a blob that is for another Python
JOBS = 2  # at a time: each may take a processor and the network for minutes
SENT = ("digest", "python", "kind", "name", "source", "filename", "allow_subprocess", "network")  # of a program


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What became of it: the Python that runs it, and its packages."""

    python: str
    environment: Environment | None = None


def prepare(sandbox: Sandbox, program: Program, limits: Limits, requirements: Sequence[str]) -> Prepared:
    """
    Lock and install the packages, and load the blob in a child.

    Raises RequirementsError with the installer's words, InvalidHandler with what loading it came to.
    """
    if requirements:
        environment = sandbox.resolve(program.python or sandbox.pythons()[0], requirements)
        program = replace(program, environment=environment)
    python, failure = _try(sandbox, program, limits)
    if failure is not None:
        raise InvalidHandler(
            f"the handler can not be loaded in a worker: {failure.message}",
            kind=failure.kind,
            type=failure.type,
            traceback=failure.traceback,
        )
    return Prepared(python=python, environment=program.environment)


def _try(sandbox: Sandbox, program: Program, limits: Limits) -> tuple[str, Failure | None]:
    """Load it; a blob of unknown origin with each Python that it may be for, until one finds its code to be good."""
    first = sandbox.check(program, limits)
    if program.python or first is None or first.type != WRONG_CODE:
        return program.python or sandbox.pythons()[0], first
    likely = re.findall(r"\d\.\d+", first.message.partition("made by")[2].partition("(")[0])
    for python in (each for each in sandbox.pythons(wait=True)[1:] if each in likely or not likely):
        if sandbox.check(replace(program, interpreter=python), limits) is None:
            return python, None
    return "", first


# ---------------------------------------------------------------------------------------------- on the wire


def request_to_json(program: Program, limits: Limits, requirements: Sequence[str]) -> str:
    """Write down what a worker is asked for; the blob goes beside it."""
    return json.dumps(
        {
            "program": {name: getattr(program, name) for name in SENT},
            "limits": asdict(limits),
            "requirements": list(requirements),
        }
    )


def _request(asked: Preparation) -> tuple[Program, Limits, tuple[str, ...]]:
    data = json.loads(asked.request_json)
    known = {field.name for field in fields(Limits)}  # a newer API may know more
    limits = Limits(**{name: value for name, value in data["limits"].items() if name in known})
    sent = data["program"]
    if isinstance(sent["network"], list):
        sent["network"] = tuple(sent["network"])
    return Program(blob=asked.blob, **sent), limits, tuple(data["requirements"])


def _answer_to_json(prepared: Prepared) -> str:
    return json.dumps(asdict(prepared))


def _error_to_json(error: EventprocError) -> str:
    return json.dumps({"error": error.code, "message": error.message, "details": error.details}, default=str)


def read_answer(text: str) -> Prepared:
    """Return what the worker came to. Raises what it raised."""
    data: Mapping[str, Any] = json.loads(text)
    if "error" in data:
        raise from_wire(data["error"], data["message"], data["details"])
    environment = data["environment"]
    if environment is not None:
        environment = Environment(**{**environment, "requirements": tuple(environment["requirements"])})
    return Prepared(python=data["python"], environment=environment)


# ---------------------------------------------------------------------------------------------- the worker's part


class Preparer:
    """Says what this worker has, and prepares what is asked for, on threads of its own."""

    def __init__(
        self, *, store: Store, bus: Bus, sandbox: Sandbox, clock: Clock, name: str, poll_s: float = 1.0
    ) -> None:
        self._store = store
        self._bus = bus
        self._sandbox = sandbox
        self._clock = clock
        self._name = name
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(JOBS, thread_name_prefix="preparing")
        self._jobs: dict[int, Future[None]] = {}
        self._thread = threading.Thread(target=self._run, name="preparer", daemon=True)
        self._said_at = self._renewed_at = float("-inf")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more, and let go of what is under way: another worker takes it over."""
        self._stopping.set()
        self._bus.wake(TOPIC)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._thread.join(5.0)
        try:
            with self._store.begin() as tx:
                tx.workers.leave(self._name)
        except EventprocError as error:  # it will be found silent
            log.warning("the end of this worker could not be written down: %s", error)

    def _run(self) -> None:
        with contextlib.closing(self._bus.listen(TOPIC)) as listener:
            while not self._stopping.is_set():
                try:
                    self._turn()
                    listener.wait(self._poll_s)
                except Unavailable as error:
                    log.warning("preparing waits: %s", error)
                    self._stopping.wait(self._poll_s)
                except Exception:  # the worker goes on without it
                    log.exception("a fault while looking for what to prepare")
                    self._stopping.wait(self._poll_s)

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._said_at > STATE_S:
            self._say()
            self._said_at = now
        if self._jobs and now - self._renewed_at > LEASE_S / 3:
            self._renew()
            self._renewed_at = now
        self._jobs = {number: job for number, job in self._jobs.items() if not job.done()}
        while len(self._jobs) < JOBS and self._take():
            pass

    def _say(self) -> None:
        state = WorkerState(
            name=self._name,
            host=socket.gethostname(),
            pythons=self._sandbox.pythons(wait=True),
            unused=self._sandbox.unused(),
            seen_us=self._clock.now_us(),
        )
        with self._store.begin() as tx:
            tx.workers.state(state)
            tx.workers.forget(before_us=state.seen_us - round(FORGET_S * SECOND_US))
            tx.preparations.forget(before_us=state.seen_us - round(FORGET_S * SECOND_US))

    def _renew(self) -> None:
        until_us = self._clock.now_us() + round(LEASE_S * SECOND_US)
        with self._store.begin() as tx:
            for number in self._jobs:
                tx.preparations.renew(number, worker=self._name, until_us=until_us)

    def _take(self) -> bool:
        pythons, now_us = self._sandbox.pythons(), self._clock.now_us()
        with self._store.read() as tx:
            if not tx.preparations.waiting(pythons=pythons, now_us=now_us):
                return False
        with self._store.begin() as tx:
            asked = tx.preparations.take(
                worker=self._name, pythons=pythons, until_us=now_us + round(LEASE_S * SECOND_US), now_us=now_us
            )
        if asked is None:
            return False
        self._jobs[asked.id] = self._pool.submit(self._do, asked)
        return True

    def _do(self, asked: Preparation) -> None:
        try:
            program, limits, requirements = _request(asked)
            answer = _answer_to_json(prepare(self._sandbox, program, limits, requirements))
        except EventprocError as error:
            if self._stopping.is_set():  # that is why; somebody else will do better
                return
            answer = _error_to_json(error)
        except Exception as error:  # whatever it is, who waits must hear of it
            log.exception("a fault while preparing a handler")
            answer = _error_to_json(EventprocError(f"internal error of eventproc while preparing: {error!r}"))
        try:
            with self._store.begin() as tx:
                tx.preparations.answer(asked.id, worker=self._name, answer_json=answer)
            self._bus.wake(TOPIC)  # there may be room for the next
        except EventprocError as error:
            log.warning("an answer could not be written: %s", error)
