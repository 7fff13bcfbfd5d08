"""winchester.models: the numbers that its tables hold, and the tables themselves."""

from __future__ import annotations

import importlib
from enum import IntEnum
from types import SimpleNamespace
from typing import Any


class Datatype(IntEnum):
    none = 0
    string = 1
    int = 2
    float = 3
    datetime = 4
    timerange = 5


class StreamState(IntEnum):
    active = 1
    firing = 2
    expiring = 3
    error = 4
    expire_error = 5
    completed = 6
    retry_fire = 7
    retry_expire = 8
    commit_error = 9  # the platform's only: results are stored, a commit() failed


class DBException(Exception):
    """What was asked for can not be done."""


class InvalidTraitType(DBException):
    """A trait is of a type that winchester's tables can not hold."""


def __getattr__(name: str) -> Any:
    if name == "Base":  # Base.metadata.create_all(engine) makes the tables
        return SimpleNamespace(metadata=importlib.import_module("eventproc.store.winchester").METADATA)
    raise AttributeError(f"winchester.models has no {name!r} here; tables are asked by winchester.db.DBInterface")


__all__ = ["DBException", "Datatype", "InvalidTraitType", "StreamState"]
