"""Who may do what: viewer reads, emitter emits, developer also registers and inserts, admin all."""

from __future__ import annotations

from eventproc.errors import Forbidden
from eventproc.model import Role, User


def require(principal: User, needed: Role, what: str) -> None:
    """Raise Forbidden unless the user is enabled and has the role or one above it."""
    if principal.disabled:
        raise Forbidden(f"user {principal.name!r} is disabled", user=principal.name)
    if not principal.role.allows(needed):
        raise Forbidden(
            f"{what} needs the role {needed.value!r}; user {principal.name!r} has the role {principal.role.value!r}",
            needed=needed.value,
            role=principal.role.value,
        )


def require_owner(principal: User, *, owner_id: int | None, owner: str, thing: str) -> None:
    """Raise Forbidden, naming the owner, unless the thing is the user's own or the user is an admin."""
    if principal.id != owner_id and not principal.role.allows(Role.ADMIN):
        raise Forbidden(
            f"{thing} belongs to user {owner!r}; only {owner!r} or an admin may change it", owner=owner, thing=thing
        )
