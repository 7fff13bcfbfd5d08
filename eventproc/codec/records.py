"""Files of JSON records: one a line, or one array; gzipped or not; a path, or the standard input."""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import io
import queue
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from eventproc.errors import InvalidInput
from eventproc.model import NewEvent, from_datetime
from eventproc.model.times import checked

T = TypeVar("T")

_GZIP = b"\x1f\x8b"
_BLANK = b" \t\r\n\xef\xbb\xbf"  # a byte order mark is no content either
_BLANKS_READ = 1 << 16  # before the first record
_WATCHED = 100  # records between two looks at how far a file was read
_AHEAD = 4  # batches read while one is being sent

Records = Iterator[tuple[int, bytes]]  # (line, or place in the array, from 1; JSON text)


class _Line(msgspec.Struct):
    hook: str
    payload: dict[str, Any] = {}
    id: str | None = None
    source: str | None = None
    time: dt.datetime | None = None
    tags: list[str] | None = None
    key: str | None = None


@contextmanager
def open_records(path: Path, *, watch: Callable[[int], None] | None = None) -> Iterator[Records]:
    """
    Open a file of JSON records; `-` is the standard input, whose lines come as they are written.

    What is read tells the form: gzip by its first bytes, an array by its bracket. Whether a line is JSON is for the
    caller to find out, so that a bad one is refused by itself. `watch` is told now and then how many bytes of a file
    have been read. Raises InvalidInput for a file that can not be read, or an array that is no JSON.
    """
    try:
        if str(path) == "-":
            yield _records(sys.stdin.buffer, path)
        else:
            with path.open("rb") as file:
                found = _records(file, path)
                yield found if watch is None else _watched(found, file, watch)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path}: can not be read: {error}", file=str(path)) from error


class _Inflated(io.RawIOBase):
    """What a gzipped file holds, all of it: buffered as it is, a GzipFile loses what lies right before a cut."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there next."""
        found = self._file.read1(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def _inflated(file: BinaryIO) -> io.BufferedReader[Any]:
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[type-var]
    return io.BufferedReader(_Inflated(buffered)) if buffered.peek(2)[:2] == _GZIP else buffered


def _records(file: BinaryIO, path: Path) -> Records:
    buffered = _inflated(file)
    head = buffered.peek(1)[:_BLANKS_READ].lstrip(_BLANK)
    return _elements(buffered.read(), path) if head[:1] == b"[" else _lines(buffered)


def _watched(records: Records, file: BinaryIO, watch: Callable[[int], None]) -> Records:
    for count, record in enumerate(records):
        if count % _WATCHED == 0:
            watch(file.tell())
        yield record
    watch(file.tell())


def _lines(file: Iterable[bytes]) -> Records:
    for number, line in enumerate(file, start=1):
        text = line.strip(_BLANK) if number == 1 else line.strip()
        if text:
            yield number, text


def _elements(text: bytes, path: Path) -> Records:
    try:
        elements = msgspec.json.decode(text.lstrip(_BLANK), type=list[msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"{path}: begins as a JSON array, but is none: {error}", file=str(path)) from error
    return ((number, bytes(element)) for number, element in enumerate(elements, start=1))


def event_of(data: Any) -> NewEvent:
    """Return the event that a recording's record says. Raises ValidationError of msgspec, or InvalidInput."""
    if isinstance(data, Mapping) and "event_type" in data and "hook" not in data:
        rest = {name: value for name, value in data.items() if name not in ("message_id", "event_type", "timestamp")}
        data = {
            "hook": data["event_type"],
            "id": data.get("message_id"),
            "time": data.get("timestamp"),
            "payload": rest,
        }
    given = msgspec.convert(data, _Line)
    return NewEvent(
        hook=given.hook,
        payload=given.payload,
        id=given.id,
        source=given.source,
        time_us=None if given.time is None else _time_us(given.time),
        tags=given.tags or (),
        key=given.key,
    )


def _time_us(time: dt.datetime) -> int:
    try:
        return checked(from_datetime(time))
    except OverflowError:
        raise InvalidInput(f"time {time.isoformat()} lies outside of the years 1 to 9999", field="time") from None


def ends_in_a_line(path: Path) -> bool:
    """Tell whether what a file holds ends without the end of a line, as when it is still being copied."""
    last = b""
    try:
        with path.open("rb") as file:
            held = _inflated(file)
            while found := held.read(1 << 20):
                last = found[-1:]
    except (OSError, EOFError, zlib.error):  # such as the standard input
        return False
    return last not in (b"", b"\n", b"\r")


def in_batches(items: Iterable[T], *, size: int, within_s: float = 0.5) -> Iterator[list[T]]:
    """
    Yield items in lists of at most `size`, none of them later than about `within_s` after its first item came.

    Items are taken on a thread of their own: what is written slowly into a pipe does not wait for a full list.
    """
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=size * _AHEAD)
    over = threading.Event()

    def put(what: tuple[str, T | BaseException | None]) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(what, timeout=0.2)
                return

    def take() -> None:
        try:
            for item in items:
                put(("item", item))
                if over.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the items are wanted
            put(("error", error))
        else:
            put(("end", None))

    threading.Thread(target=take, name="reader", daemon=True).start()
    try:
        yield from _batches(waiting, size, within_s)
    finally:
        over.set()


def _batches(
    waiting: queue.Queue[tuple[str, T | BaseException | None]], size: int, within_s: float
) -> Iterator[list[T]]:
    batch: list[T] = []
    until = 0.0
    while True:
        try:
            kind, item = waiting.get(timeout=max(0.0, until - time.monotonic()) if batch else None)
        except queue.Empty:
            kind, item = "late", None
        if kind == "item":
            until = until if batch else time.monotonic() + within_s
            batch.append(item)  # type: ignore[arg-type]
        if batch and (kind != "item" or len(batch) >= size):
            yield batch
            batch = []
        if kind == "error":
            assert isinstance(item, BaseException)
            raise item
        if kind == "end":
            return


__all__ = ["Records", "ends_in_a_line", "event_of", "in_batches", "open_records"]
