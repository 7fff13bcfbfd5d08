"""Captured output on its way to a session, with its cap."""

from __future__ import annotations

import codecs

from eventproc.abc import RunSession
from eventproc.child.failures import over
from eventproc.sandbox.hostile import clean_text

STREAMS = frozenset({"stdout", "stderr", "log"})


class Output:
    """The output of one call: passed on until the cap, then one line that says it was cut."""

    def __init__(self, session: RunSession, limits: dict[str, object]) -> None:
        self._session = session
        self._limits = limits
        self._left = int(limits["output_bytes"])  # type: ignore[call-overload]
        self._cut = False

    def write(self, stream: str, text: str) -> None:
        if not text or self._cut:
            return
        size = len(text.encode("utf-8", "backslashreplace"))
        if size > self._left:
            text = text.encode("utf-8", "backslashreplace")[: self._left].decode("utf-8", "ignore")
            self._cut = True
        self._left -= size
        if text:
            self._session.log(stream, clean_text(text))
        if self._cut:
            self._session.log(stream, f"\n[cut here: {over('output', self._limits)}]\n")


class Decoding:
    """Decodes one stream of bytes, keeping characters whole across reads."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def feed(self, data: bytes) -> str:
        return self._decoder.decode(data)
