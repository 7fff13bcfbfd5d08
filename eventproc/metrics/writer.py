"""The writer: gathers what all connections bring for a few milliseconds, and stores it as one batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog

from eventproc.errors import Unavailable
from eventproc.metrics.batch import Batch, Refusal
from eventproc.metrics.intake import Intake, Outcome
from eventproc.metrics.lines import parse_lines
from eventproc.metrics.pickles import parse_frame
from eventproc.model import RejectReason

log = structlog.get_logger(__name__)

HIGH: Final = 16 << 20  # bytes that wait; from then on, nothing more is read from sockets
LOW: Final = 4 << 20  # until so few are left
BATCH: Final = 2 << 20  # bytes of one batch
LINGER_S: Final = 0.005  # how long the first line waits for others
FIRST_PAUSE_S: Final = 0.1  # after the store failed; doubles up to the longest
LONGEST_PAUSE_S: Final = 5.0
MAX_FAULTS: Final = 32  # samples that are looked for one by one in a batch that can not be stored


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines that one source sent, the last one's end included."""

    data: bytes
    source: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A pickle that one source sent."""

    data: bytes
    source: str


@dataclass(frozen=True, slots=True)
class Refused:
    """What a listener refused itself."""

    reason: RejectReason
    text: str
    source: str
    count: int = 1
    data: bytes = b""


Item = Lines | Frame | Refused


class Writer:
    """
    Stores what listeners put; a thread of its own.

    `put` never waits. Whoever puts asks `full` afterwards, and stops reading from its sockets until `on_room` is
    called: so memory stays bounded while the store is slow or away, and senders feel it as TCP lets them.

    What is put is stored in that order: `stored` counts what is committed of it, or refused for good and that
    committed, and `on_stored` is called when it grows.
    """

    def __init__(
        self,
        intake: Intake,
        *,
        on_room: Callable[[], None] = lambda: None,
        on_stored: Callable[[], None] = lambda: None,
    ) -> None:
        self._intake = intake
        self._on_room = on_room
        self._on_stored = on_stored
        self._put = 0
        self._stored = 0
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._bytes = 0
        self._full = False
        self._stopping = False
        self._deadline = float("inf")
        self.total = Outcome()
        self._thread = threading.Thread(target=self._run, name="metric-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def full(self) -> bool:
        return self._full

    @property
    def stored(self) -> int:
        """Number of things put that are stored."""
        return self._stored

    def put(self, item: Item) -> int:
        """Take what came; the writer stores it soon: once `stored` is no less than the number returned."""
        with self._changed:
            self._put += 1
            self._items.append(item)
            self._bytes += len(item.data) + 64
            if self._bytes >= HIGH:
                self._full = True
            if len(self._items) == 1:
                self._changed.notify_all()
            return self._put

    def stop(self, grace_s: float) -> None:
        """Store what waits, and end; what the store does not take in that time is given up, and the log says so."""
        with self._changed:
            self._stopping = True
            self._deadline = time.monotonic() + grace_s
            self._changed.notify_all()
        self._thread.join(grace_s + LONGEST_PAUSE_S)

    # ------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._stopping)
                if not self._items:
                    return
                if self._bytes < BATCH and not self._stopping:
                    self._changed.wait_for(lambda: self._bytes >= BATCH or self._stopping, LINGER_S)
                items = self._take()
            if not self._store(items):
                return
            self._stored += len(items)
            self._make_room()
            self._on_stored()

    def _take(self) -> list[Item]:
        """Take items from the front: a batch's worth."""
        size = count = 0
        for item in self._items:
            size += len(item.data)
            count += 1
            if size >= BATCH:
                break
        items, self._items = self._items[:count], self._items[count:]
        return items

    def _make_room(self) -> None:
        with self._changed:
            self._bytes = sum(len(item.data) + 64 for item in self._items)
            room = self._full and self._bytes <= LOW
            if room:
                self._full = False
        if room:
            self._on_room()

    def _store(self, items: list[Item]) -> bool:
        """Store a batch, however long the store is away; False when there is no time left for that."""
        for batch in _batches(items):
            pause = FIRST_PAUSE_S
            while not self._try(batch):
                if time.monotonic() + pause > self._deadline:
                    log.error("samples are lost: the store can not be used and time is up", samples=len(batch.names))
                    return False
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
        return True

    def _try(self, batch: Batch) -> bool:
        """Store a batch; what is at fault in it is refused by itself. False when the store can not be used."""
        try:
            self._add(self._intake.store(batch))
        except Unavailable as error:
            log.warning("samples wait: the store can not be used", error=str(error), samples=len(batch.names))
            return False
        except Exception as error:  # a fault of ours must cost nothing but the samples that bring it out
            log.exception("a batch of samples can not be stored as it is: looking for those at fault")
            return self._search(batch, f"{type(error).__name__}: {error}")
        return True

    def _search(self, batch: Batch, why: str) -> bool:
        """
        Halve a batch until what can not be stored is found, in order, since a metric's times must grow.

        False when the store went away: all is tried again, and what was stored already counts as duplicate.
        """
        faults = 0
        pieces: list[tuple[Batch, str]] = [(batch, why)]  # "": not tried yet
        while pieces:
            piece, why = pieces.pop()
            try:
                if not why:
                    self._add(self._intake.store(piece))
                    continue
            except Unavailable as error:
                log.warning("samples wait: the store can not be used", error=str(error))
                return False
            except Exception as error:  # noqa: BLE001  # told of above; here it only says where it is
                why = f"{type(error).__name__}: {error}"
            halves = piece.halves() if faults < MAX_FAULTS else None
            if halves is not None:
                pieces += [(halves[1], ""), (halves[0], "")]
            else:
                faults += 1
                if not self._give_up(piece, why):
                    return False
        return True

    def _give_up(self, batch: Batch, why: str) -> bool:
        """Count what can not be stored, whatever is done."""
        count = len(batch.names) + sum(refusal.count for refusal in batch.refusals)
        text = batch.text_of(0) if batch.names else batch.refusals[0].text if batch.refusals else ""
        line = 0 if batch.lines is None or not len(batch.lines) else int(batch.lines[0])
        log.error("samples are refused: they can not be stored", samples=count, first=text[:200], why=why[:500])
        refused = Refused(RejectReason.INTERNAL, f"{text[:100]} ({why[:90]})", batch.source_at(line), count=count)
        try:
            self._add(self._intake.store(refused_batch([refused])))
        except Unavailable as error:
            log.warning("samples wait: the store can not be used", error=str(error))
            return False
        except Exception:
            log.exception("refused samples could not even be counted", samples=count)
        return True

    def _add(self, outcome: Outcome) -> None:
        self.total.accepted += outcome.accepted
        self.total.rejected.update(outcome.rejected)
        self.total.created += outcome.created


def _batches(items: list[Item]) -> list[Batch]:
    """Join all lines to one batch; frames are batches of their own."""
    lines = [item for item in items if isinstance(item, Lines)]
    refused = [item for item in items if isinstance(item, Refused)]
    found = []
    if lines:
        found.append(_joined(lines))
    for item in items:
        if isinstance(item, Frame):
            batch = parse_frame(item.data)
            batch.sources = (item.source,)
            found.append(batch)
    if refused:
        found.append(refused_batch(refused))
    return found


def _joined(items: list[Lines]) -> Batch:
    batch = parse_lines(b"".join([item.data for item in items]))
    batch.sources = [item.source for item in items]
    if len(items) > 1:
        batch.ends = np.cumsum([item.data.count(b"\n") for item in items])
    return batch


def refused_batch(refused: list[Refused]) -> Batch:
    """Return a batch without samples that only tells what was refused."""
    nothing = np.empty(0, dtype=np.float64)
    return Batch(
        names=[],
        seconds=nothing,
        values=nothing,
        refusals=[Refusal(item.reason, "", item.text, line, item.count) for line, item in enumerate(refused)],
        sources=[item.source for item in refused],
        ends=np.arange(1, len(refused) + 1),
    )


__all__ = ["Frame", "Item", "Lines", "Refused", "Writer", "refused_batch"]
