"""Users and their keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, insert, select, text, update

from eventproc.errors import Conflict, NotFound
from eventproc.model import ApiKey, Role, User
from eventproc.store.base import Rows
from eventproc.store.counters import bump
from eventproc.store.schema import api_keys, users

_ADD = text(
    "INSERT INTO users (name, role, disabled, created_us) VALUES (:name, :role, :disabled, :created_us)"
    " ON CONFLICT (name) DO NOTHING RETURNING id"
)
_GET = select(users).where(users.c.id == bindparam("id"))
_FIND = select(users).where(users.c.name == bindparam("name"))
_ALL = select(users).order_by(users.c.id)
_ADD_KEY = insert(api_keys).returning(api_keys.c.id)
_KEYS = select(api_keys).order_by(api_keys.c.id)
_KEYS_OF = _KEYS.where(api_keys.c.user_id == bindparam("user_id"))
_REVOKE = (
    update(api_keys)
    .where(api_keys.c.prefix == bindparam("_prefix"), api_keys.c.revoked_us.is_(None))
    .values(revoked_us=bindparam("_now_us"))
)
_TOUCH = update(api_keys).where(api_keys.c.id == bindparam("_id")).values(last_used_us=bindparam("_now_us"))
_BY_PREFIX = select(api_keys, users.c.name, users.c.role, users.c.disabled, users.c.created_us.label("u_created_us"))
_BY_PREFIX = _BY_PREFIX.join_from(api_keys, users, users.c.id == api_keys.c.user_id).where(
    api_keys.c.prefix == bindparam("prefix")
)


def _user(row: Any) -> User:
    return User(id=row.id, name=row.name, role=Role(row.role), disabled=bool(row.disabled), created_us=row.created_us)


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        user_id=row.user_id,
        prefix=row.prefix,
        label=row.label,
        created_us=row.created_us,
        revoked_us=row.revoked_us,
        last_used_us=row.last_used_us,
    )


class SqlUsers(Rows):
    """Users by id and name, keys by prefix."""

    def add(self, name: str, role: Role, *, now_us: int) -> User:
        """Create a user. Raises Conflict where the name is taken."""
        bump(self.work.conn)
        values = {"name": name, "role": str(role), "disabled": False, "created_us": now_us}
        user_id = self._scalar(_ADD, values)
        if user_id is None:
            raise Conflict(f"there is a user {name!r} already", name=name)
        return User(id=user_id, name=name, role=Role(role), created_us=now_us)

    def get(self, user_id: int) -> User | None:
        row = self._first(_GET, {"id": user_id})
        return _user(row) if row else None

    def find(self, name: str) -> User | None:
        row = self._first(_FIND, {"name": name})
        return _user(row) if row else None

    def all(self) -> list[User]:
        return [_user(row) for row in self._all(_ALL)]

    def update(self, user_id: int, *, role: Role | None = None, disabled: bool | None = None) -> User:
        """Change what is given. Raises NotFound."""
        bump(self.work.conn)
        values: dict[str, Any] = {}
        if role is not None:
            values["role"] = str(role)
        if disabled is not None:
            values["disabled"] = disabled
        if values:
            self.work.conn.execute(update(users).where(users.c.id == user_id).values(values))
        user = self.get(user_id)
        if user is None:
            raise NotFound(f"there is no user {user_id}", user_id=user_id)
        return user

    def add_key(self, user_id: int, *, prefix: str, digest: str, label: str, now_us: int) -> ApiKey:
        """Store a key's digest; the secret itself never comes here."""
        values = {"user_id": user_id, "prefix": prefix, "digest": digest, "label": label, "created_us": now_us}
        key_id = self._scalar(_ADD_KEY, values)
        return ApiKey(id=key_id, user_id=user_id, prefix=prefix, label=label, created_us=now_us)

    def keys(self, user_id: int | None = None) -> list[ApiKey]:
        rows = self._all(_KEYS) if user_id is None else self._all(_KEYS_OF, {"user_id": user_id})
        return [_key(row) for row in rows]

    def revoke_key(self, prefix: str, *, now_us: int) -> bool:
        return self._changed(_REVOKE, {"_prefix": prefix, "_now_us": now_us}) > 0

    def by_key_prefix(self, prefix: str) -> tuple[User, ApiKey, str] | None:
        row = self._first(_BY_PREFIX, {"prefix": prefix})
        if row is None:
            return None
        owner = User(
            id=row.user_id,
            name=row.name,
            role=Role(row.role),
            disabled=bool(row.disabled),
            created_us=row.u_created_us,
        )
        return owner, _key(row), row.digest

    def touch_key(self, key_id: int, *, now_us: int) -> None:
        self.work.conn.execute(_TOUCH, {"_id": key_id, "_now_us": now_us})
