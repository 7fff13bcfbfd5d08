"""One child as the worker sees it: calls go out ahead, requests are answered, outcomes come back in order."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import structlog

from eventproc.abc import Call, Child, Outcome, Program, RunSession
from eventproc.child.frames import FrameError, pack
from eventproc.errors import Conflict, EventprocError
from eventproc.model import DETECTOR_METHODS, Failure, Limits
from eventproc.sandbox.endings import Ending, failure_of
from eventproc.sandbox.hostile import HostileDecoder, decode, failure_from, result_text
from eventproc.sandbox.link import Link
from eventproc.sandbox.output import STREAMS, Output

log = structlog.get_logger(__name__)

RECEIVE_BYTES = 1 << 18
SEND_HIGH_WATER = 1 << 20  # bytes waiting to be sent: above it no further call is written ahead
REPLY_HIGH_WATER = 1 << 20  # bytes of answers that the child does not read: above it nothing more is read from it
MAX_EARLY = 1 << 16  # characters written while a blob is loaded
MAX_WINDOW = 64  # calls written ahead
QUICK_S = 0.002  # an outcome within this lets the window grow
SLOW_S = 0.02  # one beyond this closes it
GRACE_S = 1.0  # between the exception inside the child and the kill from outside
WATCH_S = 0.25  # how often a child's CPU time is looked at
READS = frozenset(
    {"values", "windows", "aligned_windows", "earliest", "latest", "count", "streams", "stream", "collections",
     "annotations", "events"}
)  # fmt: skip


class Violation(Exception):
    """The child sent what no child may send."""


@dataclass(slots=True)
class Item:
    """Something sent to the child and not answered yet; the child answers in order."""

    what: str  # load | call | settle
    run_id: int = 0
    call: Call | None = None
    session: RunSession | None = None
    output: Output | None = None
    rolling_back: bool = False
    asked: bool = False
    answered: bool = False
    failure: Failure | None = None


@dataclass(slots=True)
class Head:
    """When the present item began."""

    since: float = 0.0
    cpu_us: int = 0


@dataclass(slots=True)
class Kept:
    """A call whose callbacks wait for `settle`."""

    session: RunSession
    output: Output


@dataclass(slots=True)
class State:
    """What a child has come to."""

    reason: str | None = None  # why the platform killed it
    ending: Ending | None = None  # set once it is dead
    load_failure: Failure | None = None
    loaded: bool = False
    closed: bool = False
    out_of_step: bool = False  # what was sent to a fork that has crashed may be in the way of what is sent now
    outcomes: deque[Outcome] = field(default_factory=deque)


class ConnectedChild(Child):
    """Drives one child over its link. Used by one thread at a time, except `kill`."""

    def __init__(self, link: Link, program: Program, limits: Limits, *, cell: bool = False) -> None:
        self._cell = cell
        self._link = link
        self._limits = limits
        self._limit_values: dict[str, Any] = asdict(limits)
        self._decoder = HostileDecoder(limits.result_bytes)
        self._items: deque[Item] = deque()
        self._head = Head()
        self._out = bytearray()
        self._unread_replies = 0
        self._early: list[tuple[str, str]] = []  # output that no call is there for yet
        self._kept: dict[int, Kept] = {}
        self._state = State()
        self._window = 1 if cell else 2
        self._rested_cpu_us = 0
        self._send_load(program)

    # ------------------------------------------------------------------ the port

    def execute(self, calls: Sequence[tuple[Call, RunSession]]) -> Iterator[Outcome]:
        waiting = deque(calls)
        outcomes = self._state.outcomes
        left = len(waiting)
        try:
            while left:
                if not outcomes:
                    self._advance(waiting)
                    continue
                left -= 1
                yield outcomes.popleft()
        finally:
            if left:  # nobody waits for the rest: it must not run on unseen
                self.kill()

    def settle(self, run_id: int, action: str) -> Failure | None:
        kept = self._kept.get(run_id)
        if kept is None:
            return None
        if self._state.ending is not None:
            return self._lost(action)
        item = Item("settle", run_id=run_id, session=kept.session, output=kept.output)
        self._push(item, pack({"t": "settle", "id": run_id, "action": action}))
        while not item.answered and self._state.ending is None:
            self._step()
        if not item.answered:
            return item.failure or self._lost(action)
        if item.failure is None or action == "rollback":
            self._kept.pop(run_id, None)
        return item.failure

    def rest(self) -> None:
        if self._cell and self._kept and self._state.ending is None:
            self._make_room()
        self._rested_cpu_us = self._link.cpu_us()

    def idle_cpu_us(self) -> int:
        return self._link.cpu_us() - self._rested_cpu_us

    def kill(self) -> None:
        self._state.reason = self._state.reason or "cancelled"
        self._link.kill()

    def close(self) -> None:
        if not self._state.closed:
            self._state.closed = True
            self._link.close()

    def wait_loaded(self) -> Failure | None:
        """Wait until the blob is loaded or is known not to be loadable."""
        while not self._state.loaded and self._state.ending is None:
            self._step()
        return self._state.load_failure

    @property
    def alive(self) -> bool:
        if self._state.out_of_step:
            return False
        if self._state.ending is None and not self._items:  # idle: it may have died, or spoken, while nobody looked
            ready = self._link.poll(read=True, write=False, timeout_s=0)
            return self._link.channel.fileno() not in ready and self._link.ending() is None
        return self._state.ending is None

    # ------------------------------------------------------------------ sending

    def _send_load(self, program: Program) -> None:
        order = {
            "t": "load",
            "kind": program.kind,
            "methods": DETECTOR_METHODS,
            "python": program.python,
            "limits": self._limit_values,
            "source": program.source,
            "filename": program.filename,
            "cell": self._cell,
        }
        self._push(Item("load"), pack(order, [program.blob]))

    def _advance(self, waiting: deque[tuple[Call, RunSession]]) -> None:
        """Come closer to the next outcome."""
        if self._state.ending is not None or self._state.out_of_step:
            for call, _ in waiting:
                self._state.outcomes.append(self._not_run(call))
            waiting.clear()
            return
        while waiting and len(self._items) < self._window and len(self._out) < SEND_HIGH_WATER:
            self._send_call(*waiting.popleft())
        self._step()

    def _not_run(self, call: Call) -> Outcome:
        failure = self._state.load_failure
        return Outcome(
            run_id=call.run_id,
            started=failure is not None,
            failure=failure,
            result_json=None,
            callbacks=False,
            alive=False,
        )

    def _send_call(self, call: Call, session: RunSession) -> None:
        item = Item("call", run_id=call.run_id, call=call, session=session)
        item.output = Output(session, self._limit_values)
        for stream, text in self._early:
            item.output.write(stream, text)
        self._early.clear()
        if self._cell and self._kept:
            self._make_room()
            if self._state.ending is not None:
                self._state.outcomes.append(self._not_run(call))
                return
        order = {"t": "call", "id": call.run_id, "hook": call.hook}
        secrets = [json.dumps(dict(call.secrets)).encode()] if call.secrets else []
        self._push(item, pack(order, [call.event_json, call.payload_json, *secrets]))

    def _make_room(self) -> None:
        """End the fork that still waits for its callbacks, before another may read from the channel."""
        self._kept.clear()
        item = Item("leave")
        self._push(item, pack({"t": "leave"}))
        while not item.answered and self._state.ending is None:
            self._step()

    def _push(self, item: Item, data: bytes) -> None:
        self._items.append(item)
        if len(self._items) == 1:
            self._begin_head()
        self._send(data)

    def _send(self, data: bytes) -> None:
        self._out += data
        self._flush()

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._link.channel.send(memoryview(self._out)[:RECEIVE_BYTES])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # the child is gone: its monitor will say how
                self._out.clear()
                return
            del self._out[:sent]
        self._unread_replies = 0

    # ------------------------------------------------------------------ the loop

    def _begin_head(self, cpu_us: int | None = None) -> None:
        self._head.since = time.monotonic()
        self._head.cpu_us = self._link.cpu_us() if cpu_us is None else cpu_us

    def _step(self) -> None:
        """Wait for the child, its monitor or the clock, and deal with what comes."""
        ready = self._link.poll(
            read=self._unread_replies < REPLY_HIGH_WATER, write=bool(self._out), timeout_s=self._patience()
        )
        events = ready.get(self._link.channel.fileno(), 0)
        if events & select.POLLOUT:
            self._flush()
        if events & ~select.POLLOUT:
            self._receive()
        self._take_output()  # after the receiving: what was written before a call's last frame belongs to that call
        try:
            self._handle_all()
            self._check_clock()
        except Violation as violation:
            self._end(f"the handler's process broke the protocol: {violation}")
        ending = self._link.ending()
        if ending is not None:
            self._bury(ending)

    def _patience(self) -> float | None:
        """Return how long nothing may happen before the clock must be looked at."""
        if not self._items or not self._link.enforced or self._state.reason:
            return None
        return max(0.0, min(WATCH_S, self._deadline() - time.monotonic()))

    def _deadline(self) -> float:
        grace = min(GRACE_S, self._limits.timeout_s / 2)
        return self._head.since + self._limits.timeout_s + grace

    def _check_clock(self) -> None:
        if not self._items or not self._link.enforced or self._state.reason:
            return
        now = time.monotonic()
        if now >= self._deadline():
            self._end("timeout")
        elif (
            self._link.many or now - self._head.since > self._limits.cpu_s
        ) and self._cpu_used() > self._limits.cpu_s + GRACE_S:
            self._end("cpu")

    def _cpu_used(self) -> float:
        return (self._link.cpu_us() - self._head.cpu_us) / 1e6

    def _end(self, reason: str) -> None:
        self._state.reason = self._state.reason or reason
        self._link.kill()

    def _take_output(self) -> None:
        for stream, text in self._link.read_output():
            self._write_output(stream, text)

    def _write_output(self, stream: str, text: str) -> None:
        """Give output to the call at hand; what is written while the blob is loaded goes to the first call."""
        output = next((item.output for item in self._items if item.output is not None), None)
        if output is not None:
            output.write(stream, text)
        elif sum(len(early) for _, early in self._early) < MAX_EARLY:
            self._early.append((stream, text))

    def _receive(self) -> None:
        try:
            data = self._link.channel.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._link.hung_up()
            return
        self._decoder.feed(data)

    def _handle_all(self) -> None:
        try:
            while self._state.reason is None and self._unread_replies < REPLY_HIGH_WATER:
                frame = self._decoder.next()
                if frame is None:
                    return
                self._handle(*frame)
        except FrameError as error:
            raise Violation(str(error)) from None

    def _handle(self, header: Mapping[str, Any], bodies: list[bytes]) -> None:
        if self._cell and header.get("t") == "crashed":
            self._fork_crashed(header)
            return
        kind = header.get("t")
        if kind == "log" and header.get("s") in STREAMS and len(bodies) <= 1:
            self._write_output(header["s"], decode(b"".join(bodies)))
            return
        if not self._items:
            raise Violation("it spoke without being asked")
        item = self._items[0]
        if kind == "done" and item.what == "call":
            self._done(item, header, bodies)
        elif kind == "ask" and item.session is not None:
            self._answer(item, header, bodies)
        elif kind == "rollback" and not item.rolling_back:
            item.rolling_back = True
            self._begin_head()
        elif kind == "settled" and item.what == "settle":
            item.failure = failure_from(header.get("failure"))
            item.answered = True
            self._next_item()
        elif kind == "left" and item.what == "leave":
            item.answered = True
            self._next_item()
        elif kind == "loaded" and item.what == "load":
            self._state.load_failure = failure_from(header.get("failure"))
            self._state.loaded = True
            self._next_item()
        else:
            raise Violation(f"a frame {str(kind)[:50]!r} that does not belong there")

    def _next_item(self, cpu_us: int | None = None) -> None:
        self._items.popleft()
        if self._items:
            self._begin_head(cpu_us)

    # ------------------------------------------------------------------ what the child says

    def _done(self, item: Item, header: Mapping[str, Any], bodies: list[bytes]) -> None:
        call, session = item.call, item.session
        assert call is not None
        assert session is not None
        assert item.output is not None
        if header.get("id") != call.run_id:
            raise Violation("an outcome for another call")
        failure = failure_from(header.get("failure"))
        result = None
        if failure is None:
            result, failure = self._result(b"".join(bodies))
        callbacks = failure is None and header.get("cb") is True
        if callbacks or (failure is None and header.get("rb") is True):
            self._kept[call.run_id] = Kept(session, item.output)
        self._adapt(time.monotonic() - self._head.since)
        cpu_now = self._link.cpu_us()  # one look at the clock ends this call and begins the next
        cpu_us = max(0, cpu_now - self._head.cpu_us)
        if self._cell:  # the kernel's clock of the cell does not count its forks
            cpu_us = _count(header.get("cpu"))
        self._next_item(cpu_now)
        self._settle_session(call, session)
        self._state.outcomes.append(
            Outcome(
                run_id=call.run_id,
                started=True,
                failure=failure,
                result_json=result,
                callbacks=callbacks,
                alive=True,
                rollbacks=failure is None and header.get("rb") is True,
                quiet=failure is None and header.get("quiet") is True,
                cpu_us=cpu_us,
                memory_bytes=self._link.memory_bytes(),
                grouped=self._link.grouped,
            )
        )

    def _result(self, data: bytes) -> tuple[str | None, Failure | None]:
        if len(data) > self._limits.result_bytes:
            raise Violation(f"a result of {len(data)} bytes")
        try:
            return result_text(data), None
        except ValueError as error:
            return None, Failure(kind="result", message=f"the result is not JSON: {error}")

    def _settle_session(self, call: Call, session: RunSession) -> None:
        if call.callbacks_only:  # its effects were recorded by an earlier execution
            session.discard()

    def _adapt(self, took_s: float) -> None:
        if self._cell:
            return
        if took_s < QUICK_S:
            self._window = min(MAX_WINDOW, self._window * 2)
        elif took_s > SLOW_S:
            self._window = 1

    def _answer(self, item: Item, header: Mapping[str, Any], bodies: list[bytes]) -> None:
        assert item.session is not None
        item.asked = True
        op, args = header.get("op"), header.get("a")
        if not isinstance(op, str) or not isinstance(args, dict):
            raise Violation("a request that is none")
        try:
            _check_phase(item, op)
            value, arrays = item.session.call(op, args, b"".join(bodies))
            reply = pack({"t": "reply", "v": value}, list(arrays))
        except EventprocError as error:
            answer = {"t": "error", "code": error.code, "message": error.message, "details": error.details}
            with contextlib.suppress(TypeError, ValueError):
                self._reply(pack(answer))
                return
            reply = pack({**answer, "details": {}})
        except Exception:
            log.exception("request of a handler failed inside the platform", op=op, run_id=item.run_id)
            self._end(f"an internal error of eventproc while it answered {op!r}; it is in the worker's log")
            return
        self._reply(reply)

    def _reply(self, data: bytes) -> None:
        self._unread_replies += len(data)
        self._send(data)

    def _fork_crashed(self, header: Mapping[str, Any]) -> None:
        """Take a cell's word that the fork which ran a call has ended otherwise than by an answer."""
        run_id = header.get("id")
        if isinstance(run_id, int):
            self._kept.pop(run_id, None)
        if not self._items or self._items[0].run_id != run_id or self._items[0].what == "load":
            return  # it had answered before
        item = self._items[0]
        if item.asked:  # it may not have read the answer, or a part of it
            self._state.out_of_step = True
            self._link.kill()
        ending = Ending(exit=_number(header.get("exit")), signal=_number(header.get("signal")))
        used_s = _count(header.get("cpu")) / 1e6
        reason = "cpu" if ending.signal == signal.SIGKILL and used_s >= self._limits.cpu_s else None
        failure = failure_of(ending, reason, self._limit_values, loading=False)
        self._next_item()
        if item.what == "settle":
            item.failure, item.answered = failure, True
        elif item.call is not None and item.session is not None:
            self._settle_session(item.call, item.session)
            self._state.outcomes.append(replace(self._crashed(item.call, ending, failure), alive=not item.asked))

    # ------------------------------------------------------------------ the end

    def _bury(self, ending: Ending) -> None:
        """The child is dead: say so of the item at hand, and of those that never began."""
        if self._state.ending is not None:
            return
        self._drain()
        self._state.ending = ending
        loading = bool(self._items) and self._items[0].what == "load"
        failure = failure_of(ending, self._state.reason, self._limit_values, loading=loading)
        if loading:
            self._items.popleft()
            self._state.load_failure = failure
        first = not loading
        for item in self._items:
            if item.what == "settle":
                item.failure = failure if first else self._lost("it")
            elif item.call is not None:
                self._state.outcomes.append(
                    self._crashed(item.call, ending, failure) if first else self._not_run(item.call)
                )
                self._settle_session(item.call, item.session) if item.session else None
            first = False
        self._items.clear()

    def _drain(self) -> None:
        """Take what the child had sent before it died."""
        if self._state.reason is not None:
            self._take_output()
            return
        try:
            while True:
                self._take_output()
                try:
                    data = self._link.channel.recv(RECEIVE_BYTES)
                except OSError:
                    return
                if not data:
                    return
                self._decoder.feed(data)
                while (frame := self._decoder.next()) is not None:
                    self._handle(*frame)
        except (Violation, FrameError) as violation:
            self._state.reason = f"the handler's process broke the protocol: {violation}"

    def _crashed(self, call: Call, ending: Ending, failure: Failure) -> Outcome:
        return Outcome(
            run_id=call.run_id,
            started=True,
            failure=failure,
            result_json=None,
            callbacks=False,
            alive=False,
            cpu_us=ending.cpu_us,
            memory_bytes=ending.memory_bytes,
            grouped=self._link.grouped,
        )

    def _lost(self, action: str) -> Failure:
        ending = self._state.ending or Ending()
        known = failure_of(ending, self._state.reason, self._limit_values, loading=False)
        return Failure(
            kind="interrupted",
            message=f"{action} could not run: the handler's process is gone ({known.message})",
            rolled_back=False,
        )


def _check_phase(item: Item, op: str) -> None:
    if item.what == "settle" and op not in READS:
        raise Conflict(f"{op} is not possible in a callback: the run's effects are settled already")


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= 255 else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 53 else 0
