"""winchester.models: the numbers that its tables hold."""

from __future__ import annotations

from enum import IntEnum

from eventproc.model import StreamState


class Datatype(IntEnum):
    none = 0
    string = 1
    int = 2
    float = 3
    datetime = 4
    timerange = 5


__all__ = ["Datatype", "StreamState"]
