"""Secrets of users: what is stored is encrypted already, and opaque here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Text, bindparam, delete, select, text, update

from eventproc.model import SecretRecord
from eventproc.store.base import Rows, any_of
from eventproc.store.schema import secrets

_PUT = text(
    "INSERT INTO secrets (user_id, name, value_encrypted, created_us, updated_us)"
    " VALUES (:user_id, :name, :value_encrypted, :now_us, :now_us)"
    " ON CONFLICT (user_id, name) DO UPDATE SET value_encrypted = excluded.value_encrypted,"
    " updated_us = excluded.updated_us"
).bindparams(bindparam("name", type_=Text))
_RECORD = select(secrets.c.user_id, secrets.c.name, secrets.c.created_us, secrets.c.updated_us)
_OF_USER = _RECORD.where(secrets.c.user_id == bindparam("user_id")).order_by(secrets.c.name)
_VALUES = select(secrets.c.name, secrets.c.value_encrypted).where(
    secrets.c.user_id == bindparam("user_id"), any_of(secrets.c.name, "names")
)
_ALL_VALUES = select(secrets.c.user_id, secrets.c.name, secrets.c.value_encrypted).order_by(
    secrets.c.user_id, secrets.c.name
)
_ONE = (secrets.c.user_id == bindparam("_user_id"), secrets.c.name == bindparam("_name"))
_DELETE = delete(secrets).where(*_ONE)
_REPLACE = update(secrets).where(*_ONE).values(value_encrypted=bindparam("_value"))


def _record(row: Any) -> SecretRecord:
    return SecretRecord(user_id=row.user_id, name=row.name, created_us=row.created_us, updated_us=row.updated_us)


class SqlSecrets(Rows):
    """Secrets by owner and name."""

    def put(self, user_id: int, name: str, value_encrypted: bytes, *, now_us: int) -> SecretRecord:
        """Insert or replace a user's secret."""
        values = {"user_id": user_id, "name": name, "value_encrypted": value_encrypted, "now_us": now_us}
        self.work.conn.execute(_PUT, values)
        return next(record for record in self.of_user(user_id) if record.name == name)

    def of_user(self, user_id: int) -> list[SecretRecord]:
        return [_record(row) for row in self._all(_OF_USER, {"user_id": user_id})]

    def values(self, user_id: int, names: Sequence[str]) -> Mapping[str, bytes]:
        rows = self._all(_VALUES, {"user_id": user_id, "names": list(names)})
        return {row.name: bytes(row.value_encrypted) for row in rows}

    def all_values(self) -> list[tuple[int, str, bytes]]:
        """Return everything, for a change of keys."""
        return [(row.user_id, row.name, bytes(row.value_encrypted)) for row in self._all(_ALL_VALUES)]

    def replace_value(self, user_id: int, name: str, value_encrypted: bytes) -> None:
        self.work.conn.execute(_REPLACE, {"_user_id": user_id, "_name": name, "_value": value_encrypted})

    def delete(self, user_id: int, name: str) -> bool:
        return self._changed(_DELETE, {"_user_id": user_id, "_name": name}) > 0
