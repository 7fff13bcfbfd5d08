"""Secrets that users keep for their handlers: they come in, and never go out but into a run that declared them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eventproc.abc import Tx
from eventproc.engine.redaction import MIN_LENGTH
from eventproc.errors import ConfigError, Conflict, InvalidInput, MissingSecret, NotFound
from eventproc.model import Role, SecretRecord, User
from eventproc.registry.checks import check_secret_name
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require
from eventproc.service.vault import KEY_SETTING, Vault

MAX_VALUE = 32 << 10  # bytes
MAX_SECRETS = 1000  # of one user
MAX_NAMED = 20  # in an error


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What setting a secret came to."""

    secret: SecretRecord
    warnings: tuple[str, ...]


class Secrets:
    """Use cases around secrets. No answer, error, log line or audit entry holds a value."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def all(self, principal: User, *, user: str | None = None) -> list[SecretRecord]:
        """Return names and times of one's own secrets, or as an admin of somebody's."""
        with self._context.store.read() as tx:
            return tx.secrets.of_user(self._owner(tx, principal, user, "listing other users' secrets").id)

    def put(self, principal: User, name: str, value: str) -> Kept:
        """Set one of one's own secrets; runs that begin from now on are given the new value."""
        require(principal, Role.DEVELOPER, "setting secrets")
        check_secret_name(name)
        _check_value(value)
        encrypted = vault_of(self._context).encrypt(principal.id, name, value)
        with self._context.store.begin() as tx:
            known = {record.name for record in tx.secrets.of_user(principal.id)}
            if name not in known and len(known) >= MAX_SECRETS:
                raise InvalidInput(f"user {principal.name!r} has {len(known)} secrets already, the limit", path="$")
            record = tx.secrets.put(principal.id, name, encrypted, now_us=self._context.clock.now_us())
            self._context.audit(tx, principal, "secret.set", f"secret:{principal.name}/{name}", new=name not in known)
        return Kept(secret=record, warnings=tuple(_warnings(value)))

    def delete(self, principal: User, name: str, *, user: str | None = None) -> None:
        """Delete a secret of one's own, or as an admin of somebody's; runs that need it fail from now on."""
        with self._context.store.begin() as tx:
            owner = self._owner(tx, principal, user, "deleting other users' secrets")
            if not tx.secrets.delete(owner.id, name):
                raise NotFound(f"user {owner.name!r} has no secret {name[:100]!r}", user=owner.name)
            self._context.audit(tx, principal, "secret.delete", f"secret:{owner.name}/{name}")

    def rotate(self, principal: User) -> int:
        """
        Encrypt all secrets anew with the first key, so that the others can go; return how many there are.

        Raises Conflict, and changes nothing, where no key that is set opens some of them.
        """
        require(principal, Role.ADMIN, "changing the key of secrets")
        vault = vault_of(self._context)
        closed: list[tuple[int, str]] = []
        with self._context.store.begin() as tx:
            rows = tx.secrets.all_values()
            for user_id, name, encrypted in rows:
                try:
                    value = vault.decrypt(user_id, name, encrypted)
                except ConfigError:
                    closed.append((user_id, name))
                    continue
                tx.secrets.replace_value(user_id, name, vault.encrypt(user_id, name, value))
            if closed:
                raise _not_opened(tx, closed, len(rows))
            self._context.audit(tx, principal, "secret.rotate", "secrets", count=len(rows))
        return len(rows)

    def _owner(self, tx: Tx, principal: User, user: str | None, what: str) -> User:
        if user is None or user == principal.name:
            require(principal, Role.DEVELOPER, "secrets")
            return principal
        require(principal, Role.ADMIN, what)
        owner = tx.users.find(user)
        if owner is None:
            raise NotFound(f"there is no user {user!r}", user=user)
        return owner


def _not_opened(tx: Tx, closed: Sequence[tuple[int, str]], stored: int) -> Conflict:
    owners = {user.id: user.name for user in tx.users.all()}
    named = [f"{owners[user_id]}/{name}" for user_id, name in closed[:MAX_NAMED]]
    more = ", …" if len(closed) > len(named) else ""
    return Conflict(
        f"{len(closed)} of {stored} secrets can not be decrypted with the keys of {KEY_SETTING} (or of secret.key in "
        f"the data directory): {', '.join(named)}{more}. Nothing was changed. Add the key that they were stored under "
        "behind the present one, separated by a comma, restart and rotate again; or have them set anew or deleted",
        secrets=named,
    )


def vault_of(context: ServiceContext) -> Vault:
    """Return the vault. Raises ConfigError where the platform was set up without a key."""
    if context.vault is None:
        raise ConfigError(f"this platform has no key for secrets: set {KEY_SETTING}")
    return context.vault


def check_declared(tx: Tx, owner: User, names: Sequence[str]) -> None:
    """Refuse a registration that declares what its owner does not have."""
    if not names:
        return
    known = {record.name for record in tx.secrets.of_user(owner.id)}
    missing = [name for name in names if name not in known]
    if missing:
        raise MissingSecret(
            f"option 'secrets': user {owner.name!r} has no secret {', '.join(map(repr, missing))}; set it first with "
            f"`eventproc secrets set {missing[0]}`",
            option="secrets",
            missing=missing,
        )


def declared_values(context: ServiceContext, owner_id: int, names: Sequence[str]) -> Mapping[str, str]:
    """Decrypt what a run is given. Raises MissingSecret or ConfigError."""
    with context.store.read() as tx:
        found = tx.secrets.values(owner_id, names)
    for name in names:
        if name not in found:
            raise MissingSecret(
                f"the handler declares the secret {name!r}, which its owner does not have any more; set it again with "
                f"`eventproc secrets set {name}`",
                missing=[name],
            )
    vault = vault_of(context)
    return {name: vault.decrypt(owner_id, name, found[name]) for name in names}


def _check_value(value: str) -> None:
    if not value:
        raise InvalidInput("the secret's value is empty", path="$.value")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInput("the secret's value holds half of a surrogate pair", path="$.value") from None
    if "\x00" in value:
        raise InvalidInput("the secret's value holds the character NUL", path="$.value")
    if size > MAX_VALUE:
        raise InvalidInput(f"the secret's value has {size:,} bytes, the limit is {MAX_VALUE:,}", path="$.value")


def _warnings(value: str) -> list[str]:
    if len(value.strip()) >= MIN_LENGTH:
        return []
    return [f"a value of under {MIN_LENGTH} characters occurs by chance: it is not taken out of logs and results"]
