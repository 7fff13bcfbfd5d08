"""
Graphite's pickle protocol: frames of `[(name, (timestamp, value)), …]`.

The unpickler is Python's own, the one written in Python, with all of its operations removed but those that build
lists, tuples, texts and numbers: there is nothing left that could name a class or call anything. The one written in C
would be quicker, but lets a frame of ten bytes reserve gigabytes (a memo of a given size); this one keeps its memo in a
dictionary.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar, Final

import numpy as np

from eventproc.metrics.batch import Batch, Refusal
from eventproc.model import RejectReason

MAX_FRAME: Final = 1 << 20  # bytes, as carbon has it

_ALLOWED: Final = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
    *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
)
_FullUnpickler: Any = pickle._Unpickler  # noqa: SLF001 - see above


class _Unpickler(_FullUnpickler):  # type: ignore[misc]
    dispatch: ClassVar = {operation[0]: _FullUnpickler.dispatch[operation[0]] for operation in _ALLOWED}

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}: classes are refused")


def parse_frame(frame: bytes) -> Batch:
    """Read one frame; what is no sample in it is refused by itself, a frame that can not be read as a whole."""
    try:
        found = _Unpickler(io.BytesIO(frame), encoding="latin-1").load()
    except KeyError as error:  # an operation that is not allowed
        return _refused(f"the pickle holds more than lists, tuples, texts and numbers (operation {error})")
    except Exception as error:  # noqa: BLE001 - damaged bytes raise nearly anything
        return _refused(f"no pickle that can be read: {type(error).__name__}: {error}")
    if not isinstance(found, list | tuple):
        return _refused(f"the pickle holds {type(found).__name__}, not a list of samples")
    names: list[bytes] = []
    seconds: list[float] = []
    values: list[float] = []
    refusals: list[Refusal] = []
    for item in found:
        refusal = _read(item, names, values, seconds)
        if refusal is not None:
            refusals.append(refusal)
    return Batch(names=names, seconds=np.array(seconds), values=np.array(values), refusals=refusals)


def _read(item: Any, names: list[bytes], values: list[float], seconds: list[float]) -> Refusal | None:
    try:
        name, (time, value) = item
    except (TypeError, ValueError):
        return Refusal(RejectReason.UNREADABLE, "", _shown(item))
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    if not isinstance(name, str):
        return Refusal(RejectReason.UNREADABLE, "", _shown(item))
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return Refusal(RejectReason.BAD_VALUE, name, _shown(item))
    try:
        second = float(time)
    except (TypeError, ValueError, OverflowError):
        return Refusal(RejectReason.BAD_TIME, name, _shown(item))
    names.append(name.encode("utf-8", "surrogatepass"))
    values.append(number)
    seconds.append(second)
    return None


def _refused(why: str) -> Batch:
    nothing = np.empty(0, dtype=np.float64)
    return Batch(names=[], seconds=nothing, values=nothing, refusals=[Refusal(RejectReason.UNREADABLE, "", why)])


def _shown(item: Any) -> str:
    if isinstance(item, list | tuple) and len(item) <= 3:  # not deeper: what holds itself can be written without end
        return f"({', '.join(_brief(part) for part in item)})"
    return _brief(item)


def _brief(item: Any) -> str:
    if isinstance(item, list | tuple):
        if len(item) <= 3 and not any(isinstance(part, list | tuple) for part in item):
            return f"({', '.join(_brief(part) for part in item)})"
        return f"{type(item).__name__} of {len(item)}"
    return repr(item[:200] if isinstance(item, str | bytes) else item)[:200]
