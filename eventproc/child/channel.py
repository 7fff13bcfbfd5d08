"""The child's end of the socket to its worker: calls come in, requests and outcomes go out."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from threading import RLock  # as it is now, whatever handlers put in its place until there is a fork
from typing import Any, Deque, Dict, Iterator, List, Optional, Sequence, Tuple

from . import frames, shapes

RECEIVE_BYTES = 1 << 18
ORDER_BYTES = 1 << 14  # of one frame, mostly a small one: a buffer that must not be mapped first


class WorkerGone(BaseException):
    """The worker closed the socket; nothing that this process does matters any more."""


class PlatformError(Exception):
    """The platform refused a request of `db` or `ep`; `code` and `details` say why."""

    def __init__(self, message: str, code: str = "error", details: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(message)
        self.code = code
        self.details = details or {}


class NotFoundError(PlatformError, LookupError):
    """What was asked for does not exist."""


class InvalidError(PlatformError, ValueError):
    """The request can not be accepted as it is."""


class TooMuch(InvalidError):
    """The request is larger than the worker takes at once; it was not sent."""


_LOOKUP = ("not_found", "unknown_hook", "unknown_handler")
_INVALID = ("invalid", "invalid_payload", "unsupported_option", "too_large")


def error_from(code: str, message: str, details: Dict[str, Any]) -> PlatformError:
    """Make the exception for an error answer, catchable also by its builtin kind."""
    kind = NotFoundError if code in _LOOKUP else InvalidError if code in _INVALID else PlatformError
    return kind(message, code, details)


def _too_much(frame: bytes) -> Optional[str]:
    """Say why the worker would not take a request, None if it would."""
    header = frames.header_of(frame)
    if len(header) > frames.MAX_HEADER:
        return f"{len(header):,} bytes of JSON, more than the {frames.MAX_HEADER:,} of one request"
    body_size = len(frame) - len(header) - frames.HEAD.size
    if body_size > frames.MAX_BODY:
        return f"{body_size:,} bytes, more than the {frames.MAX_BODY:,} of one request"
    return shapes.too_much(header)


class Channel:
    """Frames over a blocking socket. Requests may come from any thread of the handler, one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = frames.Decoder.of_the_worker()
        self._waiting: Deque[frames.Frame] = deque()
        self._further = b""  # came with what `read_packed` returned last
        self.belongs_here()

    def belongs_here(self) -> None:
        """Take over the channel in a fork of the process that opened it, of whose threads only this one is here."""
        self._pid = os.getpid()
        self._ask_lock = RLock()
        self._send_lock = RLock()
        self.busy = 0  # above zero a signal handler must not raise: half a frame may be out

    def read_packed(self) -> Optional[bytes]:
        """
        Return the next order as it came, None when the worker closed the socket.

        Forks of this process, which have this socket too, may have left it in another mode.
        """
        self._sock.setblocking(True)
        data = self._further or self._recv(ORDER_BYTES)
        size = frames.size_of(data)
        if size == len(data):
            self._further = b""
            return data
        pieces = bytearray(data)
        while size is None or len(pieces) < size:
            data = self._recv(RECEIVE_BYTES)
            if not data:
                return None
            pieces += data
            size = frames.size_of(pieces)
        self._further = bytes(pieces[size:])
        return bytes(pieces[:size])

    def _recv(self, most: int) -> bytes:
        try:
            return self._sock.recv(most)
        except ConnectionResetError:
            return b""

    @contextlib.contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Have other threads wait with their requests, and the run with its end."""
        self._see_whose_it_is()
        with self._uninterrupted(), self._ask_lock:
            yield

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """
        Keep threads of the handler from speaking; what they asked before has been answered when this begins.

        After an order's answer, and before the next order, nobody reads what they say, or answers.
        """
        with self._ask_lock, self._send_lock:
            yield

    def send(self, header: Dict[str, Any], bodies: Sequence[bytes] = ()) -> None:
        self._send(frames.pack(header, bodies))

    def _see_whose_it_is(self) -> None:
        if os.getpid() != self._pid:
            raise PlatformError("db, ep and print work in the handler's own process only, not in one it forked")

    def _send(self, data: bytes) -> None:
        self._see_whose_it_is()
        self.busy += 1
        try:
            with self._send_lock:
                self._sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise WorkerGone from None
        finally:
            self.busy -= 1

    def read(self) -> Optional[frames.Frame]:
        """Return the next order of the worker, None when it closed the socket."""
        if self._waiting:
            return self._waiting.popleft()
        return self._receive()

    def _receive(self) -> Optional[frames.Frame]:
        while True:
            frame = self._decoder.next()
            if frame is not None:
                return frame
            data = self._recv(RECEIVE_BYTES)
            if not data:
                return None
            self._decoder.feed(data)

    def ask(self, op: str, args: Dict[str, Any], bodies: Sequence[bytes] = ()) -> Tuple[Any, List[bytes]]:
        """Send one request and wait for its answer; orders that come in between are kept for `read`."""
        with self.asking():
            data = frames.pack({"t": "ask", "op": op, "a": args}, bodies)
            problem = _too_much(data)
            if problem is not None:
                raise TooMuch(f"{op}: {problem}; send less at once", "too_large")
            self._send(data)
            while True:
                frame = self._receive()
                if frame is None:
                    raise WorkerGone
                header, arrays = frame
                if header["t"] == "reply":
                    return header.get("v"), arrays
                if header["t"] == "error":
                    raise error_from(header["code"], header["message"], header.get("details") or {})
                self._waiting.append(frame)

    def close(self) -> None:
        self._sock.close()
