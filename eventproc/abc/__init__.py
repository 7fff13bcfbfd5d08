"""
The ports: what the engine needs from the world, and nothing about how it is done.

Each port has at least two implementations that pass one contract suite (tests/contract).
Times are microseconds since 1970 UTC (`_us`) unless a name says otherwise.
"""

from __future__ import annotations

from eventproc.abc.annotations import AggregateRows, AnnotationRows, RankingRows
from eventproc.abc.blobs import Blobs
from eventproc.abc.bus import Bus, Listener
from eventproc.abc.clock import Clock
from eventproc.abc.mail import Mailer, Renderer
from eventproc.abc.metrics import BatchResult, MetricRows, RejectRows, SampleRows
from eventproc.abc.models import ModelRows
from eventproc.abc.outbox import Carrier, Delivery, OutboxRows
from eventproc.abc.playing import PlaybackRows
from eventproc.abc.preparing import EnvironmentRows, Preparation, PreparationRows, WorkerRows
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
from eventproc.abc.streams import (
    Check,
    Checks,
    Compile,
    Handover,
    Joinable,
    Matcher,
    StreamRows,
    TriggerRows,
)

__all__ = [
    "AggregateRows",
    "AnnotationRows",
    "AuditRows",
    "BatchResult",
    "Blobs",
    "Bus",
    "Call",
    "Carrier",
    "Check",
    "Checks",
    "Child",
    "Clock",
    "Compile",
    "Delivery",
    "EnvironmentRows",
    "EventRows",
    "FileRows",
    "HandlerRows",
    "Handover",
    "HookRows",
    "Joinable",
    "Listener",
    "Mailer",
    "Matcher",
    "MetricRows",
    "ModelRows",
    "NoticeRows",
    "OutboxRows",
    "Outcome",
    "PlaybackRows",
    "Preparation",
    "PreparationRows",
    "Program",
    "RankingRows",
    "Registration",
    "RejectRows",
    "Renderer",
    "RetentionPolicy",
    "RetentionRows",
    "RunRows",
    "RunSession",
    "SampleRows",
    "Sandbox",
    "SandboxReport",
    "ScheduleRows",
    "SecretRows",
    "SeriesRows",
    "Services",
    "Store",
    "StreamRows",
    "TriggerRows",
    "Tx",
    "UserRows",
    "WorkerRows",
]
