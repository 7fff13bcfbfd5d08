"""Users and their API keys."""

from __future__ import annotations

import re

from eventproc.abc import Tx
from eventproc.errors import Conflict, InvalidInput, NotFound
from eventproc.model import ApiKey, AuditEntry, Role, User
from eventproc.registry.checks import check_text
from eventproc.service.auth import Authenticator, issue_key
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require

USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
MAX_LABEL = 200  # characters


def role_from(text: str) -> Role:
    """Return the role of that name. Raises InvalidInput naming the roles there are."""
    try:
        return Role(text)
    except ValueError:
        raise InvalidInput(f"unknown role {text!r}; the roles are: {', '.join(Role)}", path="$.role") from None


class Users:
    """Use cases around users, keys and the audit log."""

    def __init__(self, context: ServiceContext, auth: Authenticator) -> None:
        self._context = context
        self._auth = auth

    def add(self, principal: User, *, name: str, role: str) -> User:
        require(principal, Role.ADMIN, "adding users")
        wanted = role_from(role)
        if USER_NAME.fullmatch(name) is None:
            raise InvalidInput(
                f"user name {name!r} must be 1 to 100 letters, digits and . _ @ + -, beginning with a letter or digit",
                path="$.name",
            )
        with self._context.store.begin() as tx:
            if tx.users.find(name) is not None:
                raise Conflict(f"there is a user {name!r} already", user=name)
            user = tx.users.add(name, wanted, now_us=self._context.clock.now_us())
            self._context.audit(tx, principal, "user.create", f"user:{name}", role=wanted.value)
        return user

    def all(self, principal: User) -> list[User]:
        require(principal, Role.ADMIN, "listing users")
        with self._context.store.read() as tx:
            return tx.users.all()

    def update(self, principal: User, name: str, *, role: str | None = None, disabled: bool | None = None) -> User:
        """Change a user's role or disable them; their keys stop and their handlers pause at once."""
        require(principal, Role.ADMIN, "changing users")
        wanted = None if role is None else role_from(role)
        with self._context.store.begin() as tx:
            user = _named(tx, name)
            self._keep_an_admin(tx, user, wanted, disabled=disabled)
            changed = tx.users.update(user.id, role=wanted, disabled=disabled)
            detail = {"role": changed.role.value, "disabled": changed.disabled}
            self._context.audit(tx, principal, "user.update", f"user:{name}", **detail)
            self._context.wake_after(tx, "runs")
        self._auth.forget()
        return changed

    def add_key(self, principal: User, name: str, *, label: str = "") -> tuple[str, str]:
        """Issue a key; return (key, prefix). The key is shown this once."""
        self._require_self(principal, name, "issuing keys for other users")
        if label:
            check_text(label, "label", max_length=MAX_LABEL)
        with self._context.store.begin() as tx:
            user = _named(tx, name)
            if user.disabled:
                raise Conflict(f"user {name!r} is disabled; enable the user first", user=name)
            key, prefix = issue_key(tx, user, label=label, now_us=self._context.clock.now_us())
            self._context.audit(tx, principal, "key.create", f"key:{prefix}", user=name, label=label)
        return key, prefix

    def keys(self, principal: User, name: str) -> list[ApiKey]:
        self._require_self(principal, name, "listing other users' keys")
        with self._context.store.read() as tx:
            return tx.users.keys(_named(tx, name).id)

    def revoke_key(self, principal: User, prefix: str) -> None:
        """Revoke a key of one's own, or as an admin any key."""
        require(principal, Role.VIEWER, "revoking keys")
        with self._context.store.begin() as tx:
            found = tx.users.by_key_prefix(prefix)
            if found is None or (found[0].id != principal.id and principal.role is not Role.ADMIN):
                # The same words for other people's keys: prefixes are not to be probed.
                raise NotFound(f"you have no API key with the prefix {prefix!r}", prefix=prefix)
            if not tx.users.revoke_key(prefix, now_us=self._context.clock.now_us()):
                raise Conflict(f"API key {prefix!r} is revoked already", prefix=prefix)
            self._context.audit(tx, principal, "key.revoke", f"key:{prefix}", user=found[0].name)
        self._auth.forget()

    def audit(self, principal: User, *, after: int | None = None, limit: int = 100) -> list[AuditEntry]:
        require(principal, Role.ADMIN, "reading the audit log")
        with self._context.store.read() as tx:
            return tx.audit.page(after=after, limit=limit)

    def _require_self(self, principal: User, name: str, what: str) -> None:
        require(principal, Role.VIEWER if principal.name == name else Role.ADMIN, what)

    def _keep_an_admin(self, tx: Tx, user: User, role: Role | None, *, disabled: bool | None) -> None:
        stays = (role or user.role) is Role.ADMIN and not (user.disabled if disabled is None else disabled)
        others = (other for other in tx.users.all() if other.id != user.id)
        if not stays and not any(other.role is Role.ADMIN and not other.disabled for other in others):
            raise Conflict(f"user {user.name!r} is the last admin; make another user admin first", user=user.name)


def _named(tx: Tx, name: str) -> User:
    user = tx.users.find(name)
    if user is None:
        raise NotFound(f"there is no user {name!r}", user=name)
    return user
