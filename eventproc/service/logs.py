"""The output of runs on its way into the store: capped per run, joined, written in batches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from eventproc.abc import Store
from eventproc.errors import Unavailable
from eventproc.model import LogChunk
from eventproc.registry.checks import storable

log = logging.getLogger(__name__)

FLUSH_S = 0.25  # output shows up in the store after so long
MAX_CHUNK = 64 << 10  # characters in one row
STREAMS = ("stdout", "stderr", "log")


class RunLog:
    """One execution's captured output; whoever takes it writes it."""

    def __init__(self, run_id: int, attempt: int, *, max_bytes: int) -> None:
        self.run_id = run_id
        self._attempt = attempt
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._pending: list[tuple[str, int, list[str], int]] = []  # stream, time, pieces, characters
        self._lock = threading.Lock()

    def add(self, stream: str, text: str, *, at_us: int) -> bool:
        """
        Take a piece of output; past the cap it is dropped, and one line says so.

        Return whether it is the first piece since the last `take`.
        """
        text = storable(text)
        with self._lock:
            if self._left <= 0 or not text:
                return False
            first = not self._pending
            size = len(text.encode())
            if size > self._left:
                text = text.encode()[: self._left].decode(errors="ignore")
                text += (
                    f"\n[output cut here: the limit 'output' of {self._max_bytes:,} bytes is reached; "
                    "register with a higher limit to keep more]\n"
                )
            self._left -= size
            for start in range(0, len(text), MAX_CHUNK):
                self._append(stream if stream in STREAMS else "log", text[start : start + MAX_CHUNK], at_us)
        return first

    def _append(self, stream: str, text: str, at_us: int) -> None:
        if self._pending:
            last, last_us, pieces, length = self._pending[-1]
            if last == stream and length + len(text) <= MAX_CHUNK:
                pieces.append(text)
                self._pending[-1] = (last, last_us, pieces, length + len(text))
                return
        self._pending.append((stream, at_us, [text], len(text)))

    def take(self) -> list[LogChunk]:
        """Return what is not stored yet and forget it."""
        with self._lock:
            pending, self._pending = self._pending, []
        return [
            LogChunk(run_id=self.run_id, attempt=self._attempt, stream=stream, at_us=at_us, text="".join(pieces))
            for stream, at_us, pieces, _ in pending
        ]


class LogWriter:
    """Stores the output that nobody took, a moment after it came, so that running handlers can be watched."""

    def __init__(self, store: Store, *, flush_s: float = FLUSH_S) -> None:
        self._store = store
        self._flush_s = flush_s
        self._watched: list[RunLog] = []
        self._unwritten: list[LogChunk] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._work = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, run_log: RunLog) -> None:
        """Look after a log that just got output; ends with the next flush."""
        with self._lock:
            self._watched.append(run_log)
            self._work.set()
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="run-output", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write all there is, in one transaction; what can not be written now stays for the next time."""
        with self._writing:
            with self._lock:
                watched, self._watched = self._watched, []
            chunks = [*self._unwritten, *(chunk for run_log in watched for chunk in run_log.take())]
            self._unwritten = self._write(chunks) if chunks else []

    def close(self) -> None:
        self._stop.set()
        self._work.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        if self._unwritten:
            log.warning("the last output of %d run(s) could not be stored", len({c.run_id for c in self._unwritten}))

    def _run(self) -> None:
        while self._work.wait() and not self._stop.wait(self._flush_s):
            self._work.clear()
            self.flush()
            if self._unwritten:
                self._work.set()

    def _write(self, chunks: list[LogChunk]) -> list[LogChunk]:
        try:
            with self._store.begin() as tx:
                tx.runs.add_logs(chunks)
        except Unavailable as error:
            log.warning("run output waits: %s", error)
            return chunks
        except Exception:  # noqa: BLE001 - one run may be gone meanwhile: its neighbours' output is written all the same
            self._write_singly(chunks)
        return []

    def _write_singly(self, chunks: Iterable[LogChunk]) -> None:
        for chunk in chunks:
            try:
                with self._store.begin() as tx:
                    tx.runs.add_logs([chunk])
            except Exception:
                log.exception("output of run %d could not be stored", chunk.run_id)
