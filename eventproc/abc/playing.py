"""The row that says where a playback into this database is."""

from __future__ import annotations

from typing import Protocol

from eventproc.model.playing import PlaybackState


class PlaybackRows(Protocol):
    """At most one playback at a time; `CatalogueCache` takes the time of events and streams from it."""

    def get(self) -> PlaybackState | None: ...

    def put(self, new: PlaybackState | None, *, old: PlaybackState | None) -> bool:
        """Write it, None for none any more; False, and nothing is written, unless it was `old` until now."""
