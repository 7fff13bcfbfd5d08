"""The place of a playback in a store that others work on too: it tells them the time, and is where to go on."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import replace
from pathlib import Path

from eventproc.abc import Clock, Store, Tx
from eventproc.engine.accept import fits
from eventproc.errors import Conflict
from eventproc.model import SECOND_US, isoformat
from eventproc.model.playing import GONE_S, PlaybackState
from eventproc.playback.recording import first_of
from eventproc.registry.catalogue import CatalogueCache

BEAT_S = 3.0  # between signs of life
END = "`eventproc playback --end` gives the platform its own time back"


class StoredPlace:
    """
    Where this process is in a recording, as the store has it.

    While the row is there, events and streams of everybody on this store have its time. It is written together with
    the events that were played, so that a playback that was stopped or killed goes on exactly behind the last of them.
    """

    def __init__(self, store: Store, clock: Clock, state: PlaybackState) -> None:
        self._store = store
        self._clock = clock
        self._state = state

    @classmethod
    def take_up(cls, store: Store, cache: CatalogueCache, clock: Clock, path: Path) -> StoredPlace:
        """Take the place of a recording: its time is that of the first event which the platform accepts."""
        with store.read() as tx:
            catalogue = cache.current(tx)
        first, time_us = first_of(path, lambda event: fits(catalogue, event))
        return cls.take(store, clock, file=path.name, first=first, at_us=clock.now_us() if time_us is None else time_us)

    @classmethod
    def take(cls, store: Store, clock: Clock, *, file: str, first: str, at_us: int) -> StoredPlace:
        """
        Begin a playback, or go on with the one that was stopped in the same recording.

        `at_us` is the time of its first event. Raises Conflict where another one plays or was stopped, or where
        streams wait that are none of a playback's.
        """
        now_us = clock.now_us()
        with store.begin() as tx:
            old = tx.playback.get()
            if old is not None and alive(old, now_us):
                raise Conflict(
                    f"{old.file} is being played into this database by {old.holder}; wait for its end", **_told(old)
                )
            if old is not None and not old.whole and (old.file, old.first) != (file, first):
                raise Conflict(f"{describe(old)}: go on with that one first, or {END}", **_told(old))
            if old is None and (due_us := tx.streams.next_due_us()) is not None:
                raise Conflict(
                    f"streams wait in this database, the next for {isoformat(due_us)}; a playback would let them "
                    "fire or expire by its own time: play into a database of its own, or delete them first "
                    "(`eventproc streams list`)"
                )
            goes_on = old is not None and not old.whole
            new = PlaybackState(
                file=file,
                first=first,
                at_us=at_us if old is None else max(at_us, old.at_us),
                position=old.position if old is not None and goes_on else 0,
                whole=False,
                holder=f"{socket.gethostname()} {os.getpid()}",
                token=uuid.uuid4().hex,
                seen_us=now_us,
                begun_us=old.begun_us if old is not None and goes_on else now_us,
            )
            if not tx.playback.put(new, old=old):
                raise Conflict(f"another playback into this database has just begun; {file} was not played")
        return cls(store, clock, new)

    @property
    def at_us(self) -> int:
        return self._state.at_us

    @property
    def position(self) -> int:
        return self._state.position

    def keep(self, tx: Tx, *, at_us: int, position: int | None = None) -> None:
        """Write the present time, and how many events were played. Raises Conflict for a playback that was ended."""
        old = self._state
        now_us = self._clock.now_us()
        new = replace(old, at_us=at_us, position=old.position if position is None else position, seen_us=now_us)
        self._put(tx, new)

    def beat(self) -> None:
        """Give a sign of life, if the last was long ago."""
        if self._clock.now_us() - self._state.seen_us > BEAT_S * SECOND_US:
            with self._store.begin() as tx:
                self.keep(tx, at_us=self.at_us)

    def stop(self, *, whole: bool = False) -> None:
        """Leave it to whoever goes on; time stands still meanwhile."""
        with self._store.begin() as tx:
            self._put(tx, replace(self._state, seen_us=0, whole=whole))

    def end(self) -> None:
        """Give the platform its own time back."""
        with self._store.begin() as tx:
            tx.playback.put(None, old=self._state)

    def _put(self, tx: Tx, new: PlaybackState) -> None:
        if not tx.playback.put(new, old=self._state):
            raise Conflict("the playback was ended, or taken over, by somebody else")

        def kept() -> None:
            self._state = new

        tx.after_commit(kept)


def end(store: Store, clock: Clock) -> PlaybackState | None:
    """Give the platform its own time back; return the playback that has ended. Raises Conflict while it is played."""
    with store.begin() as tx:
        old = tx.playback.get()
        if old is None:
            return None
        if alive(old, clock.now_us()):
            raise Conflict(f"{old.file} is being played by {old.holder}: stop that process first", **_told(old))
        if not tx.playback.put(None, old=old):
            raise Conflict("the playback has just been taken up by somebody else")
    return old


def alive(state: PlaybackState, now_us: int) -> bool:
    """Tell whether somebody plays it at present."""
    host, _, pid = state.holder.rpartition(" ")
    if state.seen_us == 0 or (host == socket.gethostname() and not os.path.exists(f"/proc/{pid}")):  # noqa: PTH110
        return False
    return now_us - state.seen_us < GONE_S * SECOND_US


def describe(state: PlaybackState) -> str:
    """Say what a playback that is not under way has left."""
    if state.whole:
        return f"time stands still at {isoformat(state.at_us)}, the end of the recording {state.file}"
    return f"the playback of {state.file} was stopped behind event {state.position} at {isoformat(state.at_us)}"


def _told(state: PlaybackState) -> dict[str, object]:
    return {"file": state.file, "position": state.position, "at": isoformat(state.at_us), "by": state.holder}
