"""What a handler prints or logs, sent to the worker as it comes."""

from __future__ import annotations

import io
import logging
import sys
import threading
from threading import RLock  # as it is now, whatever handlers put in its place until there is a fork
from typing import Any, Callable, List, Optional

MAX_PIECE = 1 << 15  # characters in one frame

Emit = Callable[[str, str], None]  # (stream, text)


class Writer(io.TextIOBase):
    """Stands in for sys.stdout or sys.stderr: sends whole lines at once, the rest at the end of the call."""

    def __init__(self, emit: Emit, stream: str, original: Any) -> None:
        super().__init__()
        self._emit = emit
        self._stream = stream
        self._original = original
        self._pieces: List[str] = []
        self._size = 0
        self._lock = RLock()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            self._pieces.append(text)
            self._size += len(text)
            enough = "\n" in text or self._size > MAX_PIECE
        if enough:
            self.flush()
        return len(text)

    def flush(self) -> None:
        with self._lock:
            text, self._pieces, self._size = "".join(self._pieces), [], 0
        for start in range(0, len(text), MAX_PIECE):  # others may have to wait here, until the next call
            self._emit(self._stream, text[start : start + MAX_PIECE])

    def in_fork(self) -> None:
        """Forget what other threads of the process that was forked are about to write."""
        self._pieces, self._size = [], 0
        self._lock = RLock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._original.fileno())

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def buffer(self) -> Any:
        return _Bytes(self)


class _Bytes(io.RawIOBase):
    """sys.stdout.buffer: bytes that are no UTF-8 are shown escaped."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._writer.write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)

    def flush(self) -> None:
        self._writer.flush()


class OfThread:
    """Stands in for sys.stdout in a shared process: only one thread's output is captured."""

    def __init__(self, writer: Writer, original: Any, thread: int) -> None:
        self._writer = writer
        self._original = original
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        mine = threading.get_ident() == self._thread
        return getattr(self._writer if mine else self._original, name)


class LogHandler(logging.Handler):
    """Sends log records as stream "log", with level and logger name."""

    def __init__(self, emit: Emit, thread: Optional[int]) -> None:
        super().__init__()
        self._emit = emit
        self._thread = thread

    def emit(self, record: logging.LogRecord) -> None:
        if self._thread is not None and record.thread != self._thread:
            return
        try:
            text = f"{record.levelname} {record.name}: {record.getMessage()}\n"
            if record.exc_info and record.exc_info[1] is not None:
                text += logging.Formatter().formatException(record.exc_info) + "\n"
        except Exception:  # noqa: BLE001  a record whose arguments do not fit its text: logging reports such on stderr
            self.handleError(record)
            return
        self._emit("log", text[: 2 * MAX_PIECE])


class Capture:
    """Puts the stand-ins in place and takes them away again."""

    def __init__(self, emit: Emit, *, own_process: bool) -> None:
        thread = None if own_process else threading.get_ident()
        self._before = (sys.stdout, sys.stderr)
        self._writers = (Writer(emit, "stdout", sys.stdout), Writer(emit, "stderr", sys.stderr))
        self._handler = LogHandler(emit, thread)
        self._thread = thread
        self._root = logging.getLogger()

    def start(self) -> None:
        if self._thread is None:
            if sys.stdout is not self._writers[0] or sys.stderr is not self._writers[1]:
                sys.stdout, sys.stderr = self._writers
            if self._handler not in self._root.handlers:
                self._root.addHandler(self._handler)
                self._root.setLevel(logging.INFO)
        else:
            self._before = (sys.stdout, sys.stderr)
            sys.stdout = OfThread(self._writers[0], self._before[0], self._thread)
            sys.stderr = OfThread(self._writers[1], self._before[1], self._thread)
            self._root.addHandler(self._handler)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def in_fork(self) -> None:
        for writer in self._writers:
            writer.in_fork()

    def stop(self) -> None:
        self._root.removeHandler(self._handler)
        sys.stdout, sys.stderr = self._before
