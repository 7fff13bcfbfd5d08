"""Where a playback into a database is: while it is there, events and streams have its time."""

from __future__ import annotations

from dataclasses import dataclass

GONE_S = 30.0  # silent for longer, a playback counts as stopped


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaybackState:
    """A playback that is under way, was stopped, or has left time where its recording ended."""

    file: str  # the recording's name
    first: str  # digest of its first record, by which it is known again
    at_us: int  # the present time of events and streams
    position: int  # events of the recording that were played
    whole: bool  # it was played to its end
    holder: str  # who plays: HOST PID
    token: str
    seen_us: int  # when it was seen last, by the world's time; 0 once it has stopped
    begun_us: int
