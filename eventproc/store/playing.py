"""Where a playback is: one row of `meta`, changed only by who knows what it says."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import bindparam, delete, select, text, update

from eventproc.model.playing import PlaybackState
from eventproc.store.base import Rows
from eventproc.store.counters import bump
from eventproc.store.schema import meta

_NAME: Final = "playback"
_GET = select(meta.c.value).where(meta.c.name == _NAME)
_ADD = text(f"INSERT INTO meta (name, value) VALUES ('{_NAME}', :value) ON CONFLICT (name) DO NOTHING")  # noqa: S608
_WAS = (meta.c.name == _NAME, meta.c.value == bindparam("_old"))
_CHANGE = update(meta).where(*_WAS).values(value=bindparam("_value"))
_END = delete(meta).where(*_WAS)


class SqlPlayback(Rows):
    """The playback into this database."""

    def get(self) -> PlaybackState | None:
        found = self._scalar(_GET)
        return None if found is None else msgspec.json.decode(found, type=PlaybackState)

    def put(self, new: PlaybackState | None, *, old: PlaybackState | None) -> bool:
        """Write it if it was `old` until now; beginning and end are made known to all caches."""
        if (new is None) != (old is None):
            bump(self.work.conn)
        if old is None:
            return new is None or self._changed(_ADD, {"value": _text(new)}) == 1
        if new is None:
            return self._changed(_END, {"_old": _text(old)}) == 1
        return self._changed(_CHANGE, {"_old": _text(old), "_value": _text(new)}) == 1


def _text(state: PlaybackState) -> str:
    return msgspec.json.encode(state).decode()
