"""Handlers, their versions and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Isolation(StrEnum):
    """How runs of one handler version share processes."""

    RUN = "run"  # a fresh process for each run
    BATCH = "batch"  # one process takes several events in turn
    CELL = "cell"  # a warm process per version, forked for each run


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """Retries for exceptions: how many, and the back-off before the n-th: base * 2**(n-1), capped, with jitter."""

    max: int = 0
    backoff_s: float = 5.0
    backoff_max_s: float = 3600.0
    jitter: float = 0.25  # fraction of the delay, added or taken away at random


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """At most `count` starts in `per_s` seconds, for each value of the payload path `key` if one is given."""

    count: int
    per_s: float
    key: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Concurrency:
    """At most `count` runs at a time, for each value of the payload path `key` if one is given."""

    count: int
    key: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one run may use; an overrun is a failure whose text names the limit, its value and how to raise it."""

    timeout_s: float = 60.0  # wall clock
    cpu_s: float = 60.0
    memory_bytes: int = 1 << 30  # address space
    file_bytes: int = 64 << 20  # largest file it may write
    open_files: int = 256
    processes: int = 64  # with their threads
    output_bytes: int = 1 << 20  # of captured stdout, stderr and logging
    result_bytes: int = 1 << 20  # of JSON
    upload_bytes: int = 64 << 20  # of all files it uploads
    scratch_bytes: int = 256 << 20  # of all that it writes into its private directory
    scratch_files: int = 10_000
    effects: int = 10_000  # events emitted, inserts and files together


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Everything that a registration may say beyond name, hook, tags and addresses."""

    limits: Limits = field(default_factory=Limits)
    retries: Retries = field(default_factory=Retries)
    isolation: Isolation = Isolation.RUN
    filter: Mapping[str, Any] | None = None  # pattern on the payload, see eventproc.registry.filters
    order_by: str | None = "key"  # "key", a payload path such as "metric.name", or None for no order
    concurrency: Concurrency | None = None
    rate: Rate | None = None
    requirements: tuple[str, ...] = ()  # packages that it is run with, such as "pandas==2.2.*"
    secrets: tuple[str, ...] = ()  # names of the owner's secrets that the handler is given
    allow_subprocess: bool = False
    network: tuple[str, ...] = ()  # "host:port", each a place it may connect to; ("full",): everywhere
    throttle_s: float | None = None  # at most one mail per handler, outcome and so many seconds; the rest are digested


@dataclass(frozen=True, kw_only=True, slots=True)
class HandlerVersion:
    """One immutable version of a handler. The blob is opaque to every process but a sandbox child."""

    handler_id: int
    version: int
    digest: str  # sha256 of the blob, hex
    size: int
    python: str  # "3.11"
    dill: str
    source: str | None
    filename: str | None
    qualname: str
    kind: str  # "function" | "class"
    globals: tuple[str, ...]  # names of the globals that travel inside the blob
    tags: tuple[str, ...]
    notify_on_success: str | None
    notify_on_failure: str | None
    options: Options
    created_us: int
    created_by: str
    environment: str | None = None  # digest of its packages' lock


@dataclass(frozen=True, kw_only=True, slots=True)
class HandlerRecord:
    """A registered handler with its current version."""

    id: int
    hook: str
    name: str
    owner_id: int
    current: HandlerVersion
    paused: bool
    created_us: int
    created_by: str
    updated_us: int
    updated_by: str
    deregistered_us: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HandlerBundle:
    """A pickled callable on its way from a client to the store (made by eventproc.codec.blob)."""

    blob: bytes
    digest: str
    python: str
    dill: str
    source: str | None
    filename: str | None
    qualname: str
    kind: str = "function"
    globals: tuple[str, ...] = ()
