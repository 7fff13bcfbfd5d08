"""
From a callable to a handler's blob.

`pack` pickles a function or class with all of the user's own code that it needs; `verify` loads the blob in a clean
interpreter that has none of the user's files, as a worker would.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import linecache
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dill

from eventproc.codec.bundle import MAX_BLOB_BYTES, HandlerSizeWarning, digest_of
from eventproc.codec.origin import is_own_module
from eventproc.codec.pickler import HandlerPickler, OverLimit, type_name
from eventproc.errors import HandlerTooLarge, InvalidHandler
from eventproc.model import DETECTOR, DETECTOR_METHODS, HandlerBundle

WARN_BYTES = 1 << 20
VERIFY_TIMEOUT_S = 60.0

_importing = threading.Lock()  # sys.modules is put back as it was after a look into modules that were not loaded

_LOAD = """
import sys, dill
try:
    handler = dill.loads(sys.stdin.buffer.read())
except BaseException as error:
    print(f"{type(error).__name__}: {error}"[:2000], file=sys.stderr)
    sys.exit(3)
if not callable(handler):
    print(f"the blob holds a {type(handler).__name__}", file=sys.stderr)
    sys.exit(3)
"""


def pack(
    handler: Callable[..., Any],
    *,
    max_bytes: int = MAX_BLOB_BYTES,
    warn_bytes: int = WARN_BYTES,
    check: bool = False,
    detector: bool = False,
) -> HandlerBundle:
    """
    Pickle a function or class with all of the user's own code that it needs.

    Installed packages and the standard library stay references. Raises InvalidHandler naming the part that can not
    travel, and HandlerTooLarge naming the largest parts; warns over `warn_bytes`. With `check` the blob is also
    loaded in a clean interpreter. With `detector` it is a class with score_one and learn_one instead.
    """
    kind = _detector(handler) if detector else _kind(handler)
    qualname = _qualname(handler)
    with _importing:
        blob, pickler = _pickle(handler, qualname, max_bytes)
    _check_names(pickler)
    bundle = HandlerBundle(
        blob=blob,
        digest=digest_of(blob),
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        dill=dill.__version__,
        source=source_of(handler),
        filename=_filename(handler),
        qualname=qualname,
        kind=kind,
        globals=tuple(sorted(pickler.carried)),
    )
    if len(blob) > warn_bytes:
        warnings.warn(
            f"handler {qualname} is {_size(len(blob))} pickled; each run loads all of it. {_largest(pickler.carried)}",
            HandlerSizeWarning,
            stacklevel=2,
        )
    if check:
        verify(bundle)
    return bundle


def verify(bundle: HandlerBundle, *, timeout_s: float = VERIFY_TIMEOUT_S) -> None:
    """
    Load a bundle in a clean interpreter with an empty directory, as a worker would; it is not called.

    Raises InvalidHandler with the reason. Where no interpreter can be started nothing is checked: the server loads
    the blob too.
    """
    if not sys.executable:
        return
    with tempfile.TemporaryDirectory(prefix="eventproc-") as empty:
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-I", "-c", _LOAD],
                input=bundle.blob,
                capture_output=True,
                cwd=empty,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": empty, "TMPDIR": empty},
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidHandler(f"{bundle.qualname}: loading the handler took over {timeout_s:g} s") from error
        except OSError:
            return
    if done.returncode == 0:
        return
    reason = (done.stderr.decode("utf-8", "backslashreplace").strip().splitlines() or ["no reason given"])[-1]
    if "'dill'" in reason:
        return  # an interpreter that finds dill only by PYTHONPATH
    if done.returncode < 0:
        reason = f"the interpreter died of signal {-done.returncode}"
    raise InvalidHandler(
        f"{bundle.qualname} can be pickled, but not loaded where your own files are not: {reason}", reason=reason
    )


# ------------------------------------------------------------------------------------------------- what it is


def _kind(handler: object) -> str:
    if inspect.isclass(handler):
        method = getattr(handler, "handle_events", None)
        if not callable(method):
            raise InvalidHandler(f"class {handler.__qualname__} needs a method handle_events(self, events, env)")
        _check_callable(method, f"{handler.__qualname__}.handle_events")
        return "class"
    if not callable(handler):
        raise InvalidHandler(f"a handler is a function or a class, not {type_name(handler)} {handler!r:.60}")
    plain = isinstance(handler, (types.FunctionType, types.MethodType, functools.partial, types.BuiltinFunctionType))
    _check_callable(handler if plain else type(handler).__call__, _qualname(handler))
    _check_first(handler, _qualname(handler))
    return "function"


def _check_first(handler: Any, name: str) -> None:
    """Refuse what can not take `db`: it would fail on every event."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (ValueError, TypeError):  # a builtin: its first call will say
        return
    takes = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    if not any(parameter.kind in takes for parameter in parameters):
        raise InvalidHandler(
            f"{name}() takes no positional parameter, but is called as handler(db, **payload); begin it with `db`"
        )


def _detector(given: object) -> str:
    missing = [name for name in DETECTOR_METHODS if not callable(getattr(given, name, None))]
    if not inspect.isclass(given) or missing:
        raise InvalidHandler(
            f"a detector is a class with methods score_one(self, x) and learn_one(self, x), not {given!r:.60}"
        )
    if callable(getattr(given, "save", None)) != callable(getattr(given, "load", None)):
        raise InvalidHandler(f"class {given.__qualname__} needs both save(self) and the class method load(cls, saved)")
    return DETECTOR


def _check_callable(function: Any, name: str) -> None:
    # An `async def` is welcome: the worker runs it to its end.
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidHandler(f"{name} is a generator (it contains `yield`); nobody would run it. Return the result")


def _inner(handler: Any) -> Any:
    """Return the function or class that was written, below decorators, partials, methods and instances."""
    seen = 0
    while seen < 50:
        seen += 1
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif isinstance(handler, types.MethodType):
            handler = handler.__func__
        elif not isinstance(handler, type) and hasattr(handler, "__wrapped__"):
            handler = handler.__wrapped__
        else:
            break
    if isinstance(handler, (types.FunctionType, types.BuiltinFunctionType, type)):
        return handler
    return type(handler)


def _qualname(handler: Any) -> str:
    return str(getattr(_inner(handler), "__qualname__", None) or type(handler).__qualname__)


# ------------------------------------------------------------------------------------------------- pickling


def _pickle(handler: Any, qualname: str, max_bytes: int) -> tuple[bytes, HandlerPickler]:
    buffer = io.BytesIO()
    pickler = HandlerPickler(buffer, max_bytes=max_bytes, home=_home(handler))
    pickler.path.append(qualname)
    loaded = set(sys.modules)
    try:
        pickler.dump(handler)
    except OverLimit:
        raise _too_large(pickler, qualname, max_bytes) from None
    except RecursionError as error:
        raise InvalidHandler(f"{' → '.join(pickler.path)}: nested too deeply to be pickled") from error
    except Exception as error:
        raise _refusal(pickler, error) from error
    finally:
        _forget_modules(pickler, loaded)
    return buffer.getvalue(), pickler


def _home(handler: Any) -> str:
    inner = _inner(handler)
    namespace = getattr(inner, "__globals__", None)
    name = namespace.get("__name__") if isinstance(namespace, Mapping) else getattr(inner, "__module__", None)
    return str(name or "__main__")


def _forget_modules(pickler: HandlerPickler, loaded: set[str]) -> None:
    """Take those of the user's own modules out again that were loaded only to be looked into."""
    if not pickler.imported:
        return
    for name in set(sys.modules) - loaded:
        module = sys.modules[name]
        if isinstance(module, types.ModuleType) and is_own_module(module):
            del sys.modules[name]


def _refusal(pickler: HandlerPickler, error: Exception) -> InvalidHandler:
    labels = list(pickler.culprit or pickler.path)
    where = " → ".join(labels)
    return InvalidHandler(
        f"{where} can not be pickled: {error}. Make it inside the handler, or leave it out",
        path=labels,
        reason=str(error),
    )


def _too_large(pickler: HandlerPickler, qualname: str, max_bytes: int) -> HandlerTooLarge:
    where = f" while pickling {' → '.join(pickler.path)}" if len(pickler.path) > 1 else ""
    return HandlerTooLarge(
        f"handler {qualname} is over the limit of {_size(max_bytes)}{where}. {_largest(pickler.carried)}",
        limit=max_bytes,
        path=list(pickler.path),
    )


def _largest(carried: Mapping[str, int]) -> str:
    largest = sorted(carried.items(), key=lambda item: (-item[1], item[0]))[:3]
    parts = ", ".join(f"{name} {_size(size)}" for name, size in largest if size > 1000)
    advice = "Pass data in events, series or files instead of globals"
    return f"Largest globals: {parts}. {advice}" if parts else advice


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.1f} KiB"


def _check_names(pickler: HandlerPickler) -> None:
    missing = pickler.missing
    if not missing:
        return
    name, path = next(iter(missing.items()))
    others = f" (and {', '.join(list(missing)[1:])})" if len(missing) > 1 else ""
    raise InvalidHandler(
        f"{' → '.join(path)} uses {name!r}{others}, which nothing defines. "
        "Define it above the handler, or import it inside",
        names=list(missing),
    )


# ------------------------------------------------------------------------------------------------- source


def source_of(handler: Any) -> str | None:
    """Return a callable's source text, dedented; None where there is none."""
    inner = _inner(handler)
    _refresh_lines(_filename(inner))
    try:
        return textwrap.dedent(inspect.getsource(inner))
    except (OSError, TypeError, SyntaxError, IndexError):
        return _class_source(inner) if isinstance(inner, type) else None


def _refresh_lines(filename: str | None) -> None:
    """Forget lines that somebody put into linecache for a file that is there: they may be a part of it only."""
    entry = linecache.cache.get(filename or "")
    if filename and entry is not None and len(entry) == 4 and entry[1] is None and Path(filename).is_file():
        linecache.cache.pop(filename, None)


def _class_source(cls: type[Any]) -> str | None:
    """Find a class in its methods' file: a plugin's module is not in sys.modules, where inspect looks."""
    filename = _filename(cls)
    lines = linecache.getlines(filename) if filename else []
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    return None


def filename_of(handler: Any) -> str | None:
    """Return the file that a callable is written in, as its code says."""
    return _filename(handler)


def _filename(handler: Any) -> str | None:
    inner = _inner(handler)
    members = list(vars(inner).values()) if isinstance(inner, type) else [inner]
    for member in members:
        code = getattr(inspect.unwrap(member) if callable(member) else member, "__code__", None)
        if isinstance(code, types.CodeType):
            return code.co_filename
    return None
