"""Users, their roles and keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a user may do; each role may do all that the ones before it may."""

    VIEWER = "viewer"
    EMITTER = "emitter"
    DEVELOPER = "developer"
    ADMIN = "admin"

    def allows(self, needed: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """Owner of API keys; a handler runs with the rights of the user who registered it."""

    id: int
    name: str
    role: Role
    disabled: bool = False
    created_us: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A key as it is stored: the secret itself is shown once and never kept."""

    id: int
    user_id: int
    prefix: str
    label: str
    created_us: int
    revoked_us: int | None = None
    last_used_us: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretRecord:
    """What may be told of a user's secret: never its value."""

    user_id: int
    name: str
    created_us: int
    updated_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """One change that somebody made."""

    id: int
    at_us: int
    user: str
    action: str
    object: str
    detail: dict[str, Any]
