"""winchester.db: DBInterface and its errors."""

from __future__ import annotations

from eventproc.compat.winchester.modules.interface import (
    DatabaseConnectionError,
    DBInterface,
    DuplicateError,
    LockError,
    NoSuchEventError,
    NoSuchStreamError,
)
from eventproc.compat.winchester.modules.models import DBException

__all__ = [
    "DBException",
    "DBInterface",
    "DatabaseConnectionError",
    "DuplicateError",
    "LockError",
    "NoSuchEventError",
    "NoSuchStreamError",
]
