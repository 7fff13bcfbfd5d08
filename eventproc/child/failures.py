"""From an exception to the failure that its owner reads, guarded against exceptions that fight back."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from .results import ResultError

HERE = str(Path(__file__).resolve().parent)
_OURS = __name__.partition(".")[0] + "."  # a name that nobody else can import
MAX_MESSAGE = 10_000  # characters
MAX_TRACEBACK = 60_000  # characters
CONFINED = (
    "the sandbox lets a handler start processes with register(..., allow_subprocess=True) only, opens no network "
    "connections but TCP to what register(..., network=['HOST:PORT']) names, and lets it change nothing of its host"
)

Failure = Dict[str, Any]


class TimeLimitExceeded(BaseException):
    """The wall clock ran out; a BaseException so that `except Exception` does not swallow it."""


class CpuLimitExceeded(BaseException):
    """The CPU time ran out."""


class LoadError(Exception):
    """The blob could not be made into a handler."""

    tag: Optional[str] = None  # for who wants to do something about it


class WrongCodeError(LoadError):
    """Its bytecode is for another Python."""

    tag = "WrongCodeError"


def describe(error: BaseException, limits: Dict[str, Any]) -> Failure:
    """Return kind, message, type and traceback of what a handler raised."""
    try:
        return _describe(error, limits)
    except BaseException as fault:  # noqa: BLE001  user code runs in __str__ and friends: nothing may get past here
        return {
            "kind": "exception",
            "message": f"({type(error).__name__} that could not be described: {type(fault).__name__})",
            "type": type(error).__name__,
            "traceback": None,
        }


def _describe(error: BaseException, limits: Dict[str, Any]) -> Failure:
    kind, message = _classify(error, limits)
    own = isinstance(error, (ResultError, LoadError))
    return {
        "kind": kind,
        "message": shorten(message, MAX_MESSAGE),
        # Our own classes say nothing to the handler's owner, and neither do the lines that raised them.
        "type": getattr(error, "tag", None) if own else _type_name(type(error)),
        "traceback": None if own else shorten(_traceback(error), MAX_TRACEBACK),
    }


def _classify(error: BaseException, limits: Dict[str, Any]) -> Tuple[str, str]:
    for type_, kind, limit in _OWN_KINDS:
        if isinstance(error, type_):
            return kind, over(limit, limits) if limit else str(error)
    if isinstance(error, SystemExit):
        return "exit", f"the handler called sys.exit({shorten(repr(error.code), 200)})"
    if isinstance(error, OSError):
        return _classify_os(error, limits)
    if isinstance(error, RuntimeError) and "can't start new thread" in safe_str(error):
        return "limit", f"{over('processes', limits)} ({safe_str(error)})"
    return "exception", safe_str(error)


def _classify_os(error: OSError, limits: Dict[str, Any]) -> Tuple[str, str]:
    """Say which limit is behind an error of the system, or what the sandbox refuses."""
    text = safe_str(error)
    name = {errno.EFBIG: "file_size", errno.EMFILE: "files", errno.ENOSPC: "scratch"}.get(error.errno or 0)
    if name:
        return "limit", f"{over(name, limits)} ({text})"
    if error.errno in (errno.EPERM, errno.EAFNOSUPPORT):
        return "exception", f"{text}: {CONFINED}"
    if error.errno == errno.EAGAIN:
        return "exception", f"{text}; if it was starting a process: {over('processes', limits)}"
    return "exception", text


def _scratch(limits: Dict[str, Any]) -> str:
    return f"{size(limits['scratch_bytes'])} in {limits['scratch_files']} files"


_OWN_KINDS: Tuple[Tuple[type, str, str], ...] = (
    (ResultError, "result", ""),
    (LoadError, "load", ""),
    (TimeLimitExceeded, "timeout", "timeout"),
    (CpuLimitExceeded, "limit", "cpu"),
    (MemoryError, "limit", "memory"),
)


_INSTEAD = {"result": ", or keep large data as a file: ep.upload_file(path)"}


def over(name: str, limits: Dict[str, Any], *, found: str = "") -> str:
    """Return the text for an overrun: the limit, its value, what was found, how to raise it."""
    what, value, option = {
        "timeout": ("ran longer than its time limit of", f"{limits['timeout_s']:g} s", "timeout=..."),
        "cpu": ("used more than its CPU time limit of", f"{limits['cpu_s']:g} s", "cpu=..."),
        "memory": ("needed more than its memory limit of", size(limits["memory_bytes"]), "memory=..."),
        "files": ("had more files open than its limit of", str(limits["open_files"]), "files={'open': ...}"),
        "file_size": ("wrote a file larger than its limit of", size(limits["file_bytes"]), "files={'size': ...}"),
        "processes": ("had more processes and threads than its limit of", str(limits["processes"]), "processes=..."),
        "result": ("returned more than its result limit of", size(limits["result_bytes"]), "result=..."),
        "scratch": (
            "filled its private directory, which holds",
            _scratch(limits),
            "scratch={'size': ..., 'files': ...}",
        ),
        "output": ("wrote more than its output limit of", size(limits["output_bytes"]), "output=..."),
    }[name]
    has = f" (it has {found})" if found else ""
    return f"the handler {what} {value}{has}; raise it with register(..., {option}){_INSTEAD.get(name, '')}"


def size(count: int) -> str:
    """Write a number of bytes for people."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):g} {unit}"
    return f"{count} bytes"


def safe_str(error: BaseException) -> str:
    """Return str(error), or a stand-in when that raises or is no str."""
    try:
        text = str(error)
        return text if type(text) is str else str.__str__(text)
    except BaseException as fault:  # noqa: BLE001  str() of a user's exception may raise anything
        return f"<{type(error).__name__} whose str() raised {type(fault).__name__}>"


def shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters cut ...]\n{text[-half:]}"


def _type_name(kind: type) -> str:
    bare = kind.__module__ in {"builtins", "__main__"} or kind.__module__.startswith(_OURS)
    return kind.__qualname__ if bare else f"{kind.__module__}.{kind.__qualname__}"


def _traceback(error: BaseException) -> str:
    seen = {id(error)}
    current: Optional[BaseException] = error
    while current is not None:  # also in the causes, hide the frames of the runner above the user's
        tb = current.__traceback__
        while tb is not None and tb.tb_frame.f_code.co_filename.startswith(HERE) and tb.tb_next is not None:
            tb = tb.tb_next
        current.__traceback__ = tb
        current = current.__cause__ or current.__context__
        if current is not None and id(current) in seen:
            break
        seen.add(id(current))
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))
