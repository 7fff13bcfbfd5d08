"""
The ports: what the engine needs from the world, and nothing about how it is done.

Each port has at least two implementations that pass one contract suite (tests/contract).
Times are microseconds since 1970 UTC (`_us`) unless a name says otherwise.
"""

from __future__ import annotations

from eventproc.abc.blobs import Blobs
from eventproc.abc.bus import Bus, Listener
from eventproc.abc.clock import Clock
from eventproc.abc.mail import Mailer, Renderer
from eventproc.abc.rows import (
    AuditRows,
    EventRows,
    FileRows,
    HandlerRows,
    HookRows,
    NoticeRows,
    Registration,
    RetentionPolicy,
    RetentionRows,
    RunRows,
    ScheduleRows,
    SecretRows,
    SeriesRows,
    UserRows,
)
from eventproc.abc.sandbox import Call, Child, Outcome, Program, RunSession, Sandbox, SandboxReport, Services
from eventproc.abc.store import Store, Tx
from eventproc.abc.streams import Checks, Compile, Matcher

__all__ = [
    "AuditRows",
    "Blobs",
    "Bus",
    "Call",
    "Checks",
    "Child",
    "Clock",
    "Compile",
    "EventRows",
    "FileRows",
    "HandlerRows",
    "HookRows",
    "Listener",
    "Mailer",
    "Matcher",
    "NoticeRows",
    "Outcome",
    "Program",
    "Registration",
    "Renderer",
    "RetentionPolicy",
    "RetentionRows",
    "RunRows",
    "RunSession",
    "Sandbox",
    "SandboxReport",
    "ScheduleRows",
    "SecretRows",
    "SeriesRows",
    "Services",
    "Store",
    "Tx",
    "UserRows",
]
