"""From a blob to a handler. This is the only place where a user's bytes meet an unpickler."""

from __future__ import annotations

import contextlib
import dis
import importlib
import inspect
import linecache
import re
import sys
import types
from typing import Any, Iterator, List, Optional, Sequence, Set

from . import codecheck
from .failures import LoadError, safe_str, shorten

_DEFINITION = re.compile(r"\s*(?:async\s+def|def|class)\s+(\w+)")


def load(blob: bytes, python: str, source: Optional[str], filename: Optional[str], *, needs: Sequence[str] = ()) -> Any:
    """Unpickle a handler and check that it is one; with `needs`, that it is a class with those methods."""
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if python and python != running:
        raise LoadError(f"the handler was made by Python {python}, this worker runs Python {running}")
    import dill

    try:
        with codecheck.guard(dill, look=not python):  # if nobody said what Python it is for, find out before it runs
            handler = dill.loads(blob)  # noqa: S301  that is what this process is for
    except (MemoryError, LoadError):
        raise
    except ModuleNotFoundError as error:
        raise LoadError(
            f"the handler needs the module {error.name!r}, which is not installed where handlers run; "
            "install it there, or define what you use of it inside the handler"
        ) from error
    except (Exception, SystemExit, RecursionError) as error:
        reason = shorten(safe_str(error), 500)
        raise LoadError(f"the handler's blob can not be loaded: {type(error).__name__}: {reason}") from error
    if not callable(handler):
        raise LoadError(f"the blob holds {type(handler).__name__}, not a function or class")
    if needs:
        missing = [name for name in needs if not callable(getattr(handler, name, None))]
        if missing or not inspect.isclass(handler):
            raise LoadError(f"a detector is a class with {' and '.join(needs)}; {safe_str(handler)[:100]} is not")
    elif inspect.isclass(handler) and not callable(getattr(handler, "handle_events", None)):
        raise LoadError(f"the class {handler.__name__} has no method handle_events(events, env)")
    if source:
        seed_source(handler, source, filename)
    return handler


def import_ahead(handler: Any) -> None:
    """
    Import what the handler's own functions import, before the process is forked for each call.

    What can not be imported here is left for the call to tell.
    """
    seen: Set[str] = set()
    for code in _codes(handler):
        for name in _imports(code):
            if name not in seen and name not in sys.modules:
                seen.add(name)
                with contextlib.suppress(Exception, SystemExit):
                    importlib.import_module(name)


def _imports(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME" and instruction.argval:
            yield instruction.argval
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _imports(const)


def seed_source(handler: Any, source: str, filename: Optional[str]) -> None:
    """Let tracebacks show the handler's source lines although its file is not here."""
    lines = source.splitlines(keepends=True)
    for code in _codes(handler):
        offset = _offset(code, lines)
        if offset is not None:
            padded = ["\n"] * offset + lines
            linecache.cache[code.co_filename] = (len(source), None, padded, code.co_filename)
            return
    if filename:
        linecache.cache.setdefault(filename, (len(source), None, lines, filename))


def _codes(handler: Any) -> Iterator[types.CodeType]:
    members: List[Any] = list(vars(handler).values()) if inspect.isclass(handler) else [handler]
    for member in members:
        code = getattr(inspect.unwrap(member) if callable(member) else member, "__code__", None)
        if isinstance(code, types.CodeType):
            yield code


def _offset(code: types.CodeType, lines: List[str]) -> Optional[int]:
    """Return how many lines of its file are missing before `lines`; None when the code is not in them."""
    first = code.co_firstlineno
    if first <= len(lines) and _starts(code, lines, first - 1):
        return 0
    for index in range(len(lines)):
        if first - 1 - index >= 0 and _starts(code, lines, index):
            return first - 1 - index
    return None


def _starts(code: types.CodeType, lines: List[str], index: int) -> bool:
    """Say whether the code begins at that very line: with its first decorator, its def, or the lambda."""
    if code.co_name == "<lambda>":
        return "lambda" in lines[index]
    if not lines[index].lstrip().startswith(("@", "def ", "async def ")):
        return False
    if index and lines[index - 1].lstrip().startswith(("@", ")")):
        return False  # a decorator, or its end: the code began further up
    for line in lines[index:]:
        found = _DEFINITION.match(line)
        if found is not None:  # before it there are only decorators, which may go over lines
            return found.group(1) == code.co_name
    return False
