"""Hooks and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_ID_LENGTH = 255  # characters
MAX_TAGS = 100  # per event or handler
MAX_TAG_LENGTH = 200  # characters
MAX_PAYLOAD_BYTES = 1_000_000  # of JSON, unless configured otherwise
MAX_HOPS = 16  # events caused by events caused by events


@dataclass(frozen=True, kw_only=True, slots=True)
class HookSpec:
    """
    A named point in a process.

    `name` may be a glob (`compute.*`); the most specific spec validates an event.
    `keep_s` is how long its events stay in seconds, None for the platform's setting;
    `keep_idle_s` the same for events that caused no run and joined no stream.
    """

    name: str
    summary: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)
    keep_s: int | None = None
    keep_idle_s: int | None = None
    source: str = "user"  # bundled | file | user
    paused: bool = False
    owner_id: int | None = None  # of the user who added it
    owner: str | None = None  # that user's name

    @property
    def is_glob(self) -> bool:
        return any(char in self.name for char in "*?[")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEvent:
    """An occurrence of a hook, as somebody reports it; what is None is filled in on acceptance."""

    hook: str
    payload: Mapping[str, Any]
    id: str | None = None
    source: str | None = None
    time_us: int | None = None
    tags: Sequence[str] = ()
    key: str | None = None
    trace_parent: str | None = None
    hops: int = 0
    caused_by_run: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """
    An accepted event.

    `seq` grows in the order of acceptance. `payload_json` is kept as text: most of its readers only pass it on.
    `digest` covers what the sender said, so that the same id with the same content is recognised.
    """

    seq: int
    id: str
    hook: str
    source: str
    time_us: int
    tags: tuple[str, ...]
    key: str | None
    payload_json: str
    digest: str
    trace_parent: str | None
    hops: int
    accepted_us: int
    user_id: int | None = None
    caused_by_run: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """
    What became of one reported event: `duplicate` says that it had been accepted before.

    `streams` are those that it joined; `due_us` is when the first of all streams that the call changed is due.
    """

    id: str
    seq: int
    duplicate: bool
    runs: tuple[int, ...] = ()
    streams: tuple[int, ...] = ()
    due_us: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A cron expression that emits `hook` (schedule.tick unless said otherwise) when it is due."""

    id: int
    name: str
    cron: str
    timezone: str
    hook: str
    tags: tuple[str, ...]
    payload: Mapping[str, Any]
    next_us: int
    paused: bool = False
    user_id: int | None = None
