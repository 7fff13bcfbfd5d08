"""Reading recordings: which events they hold, what is wrong in them, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from eventproc.codec.records import ends_in_a_line, event_of, open_records
from eventproc.errors import EventprocError, InvalidInput
from eventproc.model import NewEvent

Refusal = Callable[[int, EventprocError], None]
Watch = Callable[[int], None]


def read_recording(path: Path, *, on_refusal: Refusal | None = None, watch: Watch | None = None) -> Iterator[NewEvent]:
    """
    Yield the events of a recording: JSON lines or an array, also gzipped; `-` is the standard input.

    A line is an event as it is emitted (hook, payload, id, time, tags, key), or one as pipelines see it (message_id,
    event_type, timestamp, and its traits). Raises InvalidInput naming the line, unless `on_refusal` takes it. `watch`
    is told how many bytes of the file have been read.
    """
    with open_records(path, watch=watch) as records:
        for number, text in records:
            try:
                yield event_of(json.loads(text))
            except (ValueError, msgspec.MsgspecError, EventprocError) as error:
                refusal = InvalidInput(f"{path}, line {number}: {error}", line=number)
                refusal.__cause__ = error
                if on_refusal is None:
                    raise refusal from error
                on_refusal(number, refusal)


class Recording:
    """One reading of a recording: what could not be read of it, and where it was cut off."""

    def __init__(self, path: Path, *, watch: Watch | None = None) -> None:
        self.path = path
        self.refused: list[dict[str, Any]] = []
        self.cut: str | None = None
        self._watch = watch
        self._events = 0

    def events(self) -> Iterator[NewEvent]:
        """Yield the events that can be read; a file that ends early ends here too, and `cut` says where."""
        broken: tuple[int, EventprocError] | None = None

        def refuse(line: int, error: EventprocError) -> None:
            nonlocal broken
            if broken is not None:
                self.refused.append(refusal(*broken))
            broken = (line, error)

        reading = read_recording(self.path, on_refusal=refuse, watch=self._watch)
        try:
            for event in reading:
                if broken is not None:
                    self.refused.append(refusal(*broken))
                    broken = None
                self._events += 1
                yield event
        except InvalidInput as error:
            if not self._events:
                raise
            self.cut = f"{error.message}; {self._events:,} events were read before"
        if broken is None:
            return
        line, error_ = broken
        if self.cut is None and _lacks_an_end(error_.__cause__) and ends_in_a_line(self.path):
            self.cut = f"{self.path}: line {line}, the last one, is cut off"
        else:
            self.refused.append(refusal(line, error_))


def _lacks_an_end(error: BaseException | None) -> bool:
    """Tell whether a line may be the beginning of a good one, be it up to the middle of a character."""
    if isinstance(error, UnicodeDecodeError):
        return error.end == len(error.object)
    return isinstance(error, json.JSONDecodeError)


def refusal(line: int, error: EventprocError) -> dict[str, Any]:
    """Return what people are told of a line that was refused."""
    return {"line": line, "error": error.message}


def first_of(path: Path, fits: Callable[[NewEvent], bool]) -> tuple[str, int | None]:
    """
    Return the digest of a recording's first event, and the time of the first one that `fits`, None where it has none.

    The digest is of what is in the file, whatever fits at present. Raises InvalidInput for a file that holds no event.
    """
    digest = None
    for event in read_recording(path, on_refusal=lambda _line, _error: None):
        if digest is None:
            text = msgspec.json.encode([event.id, event.hook, event.time_us, event.payload], order="deterministic")
            digest = hashlib.sha256(text).hexdigest()
        if fits(event):
            return digest, event.time_us
    if digest is None:
        raise InvalidInput(f"{path}: holds no event")
    return digest, None
