"""How a handler's process ended, in words its owner can act on."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from eventproc.child.failures import over
from eventproc.model import Failure

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT})

FORKED = (
    "the handler started processes while it was loaded, which no handler may with isolation 'cell'; "
    "register it with isolation='run' and allow_subprocess=True"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The monitor's word on a process: exit code or signal, neither when the monitor itself is gone."""

    exit: int | None = None
    signal: int | None = None
    cpu_us: int | None = None
    memory_bytes: int | None = None
    error: str | None = None
    reported: bool = False  # by a monitor that is in good order
    limit: str | None = None  # that the monitor saw overrun

    @classmethod
    def from_report(cls, report: dict[str, Any]) -> Ending:
        return cls(
            exit=report.get("exit"),
            signal=report.get("signal"),
            cpu_us=report.get("cpu_us"),
            memory_bytes=report.get("memory_bytes"),
            error=report.get("error"),
            limit=report.get("limit"),
            reported="ended" in report,
        )


def failure_of(ending: Ending, reason: str | None, limits: dict[str, Any], *, loading: bool) -> Failure:
    """
    Say why a call (or the loading before it) took its process down.

    `reason` is why the platform ended it: timeout, cpu, cancelled, or a text about a broken protocol; None: it did not.
    """
    if ending.limit == "forks" and not reason:
        return Failure(kind="sandbox", message=FORKED, rolled_back=False)
    if ending.limit and not reason:
        return Failure(kind="limit", message=over(ending.limit, limits), rolled_back=False)
    kind, message = _reason(reason, limits) if reason else _ended(ending, limits)
    if loading and kind in {"exit", "signal"} and not reason:  # a lost process says nothing about the blob
        kind, message = "load", f"while the handler was loaded, {message}"
    return Failure(kind=kind, message=message, rolled_back=False)


def _reason(reason: str, limits: dict[str, Any]) -> tuple[str, str]:
    if reason == "timeout":
        return "timeout", over("timeout", limits)
    if reason == "cpu":
        return "limit", over("cpu", limits)
    if reason == "cancelled":
        return "cancelled", "the run was ended from outside while it was running"
    return "sandbox", reason


def _ended(ending: Ending, limits: dict[str, Any]) -> tuple[str, str]:
    if ending.signal is not None:
        return _signalled(ending, limits)
    if ending.exit is not None:
        return "exit", (
            f"its process ended with exit code {ending.exit} before the handler was done (os._exit?); "
            "let the handler return, or raise an exception"
        )
    return "sandbox", f"the handler's process was lost{': ' + ending.error if ending.error else ''}"


def _signalled(ending: Ending, limits: dict[str, Any]) -> tuple[str, str]:
    number = ending.signal or 0
    if number == signal.SIGXCPU:
        return "limit", over("cpu", limits)
    if number == signal.SIGXFSZ:
        return "limit", over("file_size", limits)
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return "signal", f"its process was killed by {name}, not by a limit of eventproc: is the host out of memory?"
    where = "; it crashed in native code, and the end of its output says where" if number in _CRASHES else ""
    return "signal", f"its process was killed by {name} ({signal.strsignal(number) or 'unknown'}){where}"
