"""
Encryption of users' secrets at rest.

The key is any text, best a long random one; several stand in a row, separated by commas: the first encrypts, all
decrypt, so that a key can be changed without an hour in which nothing can be read.
"""

# ruff: noqa: PLC0415  # cryptography is imported when the first secret comes: most processes never meet one

from __future__ import annotations

import base64
import json
import re
import secrets as randomness
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

from eventproc.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

KEY_SETTING: Final = "EVENTPROC_SECRET_KEY"
_PURPOSE: Final = b"eventproc: secrets of users"


class Vault:
    """Encrypts and decrypts; each value is bound to its owner and name, so that rows can not change places."""

    def __init__(self, read_keys: Callable[[], str]) -> None:
        """`read_keys` gives the keys, separated by commas or line breaks; it is asked when the first is needed."""
        self._read_keys = read_keys

    @classmethod
    def random(cls) -> Self:
        """Make one whose key is gone with the process: for platforms in memory."""
        key = randomness.token_urlsafe(32)
        return cls(lambda: key)

    @cached_property
    def _keys(self) -> MultiFernet:
        keys = [key.strip() for key in re.split(r"[,\n]", self._read_keys()) if key.strip()]
        if not keys:
            raise ConfigError(f"{KEY_SETTING} holds no key: set it to a long random text")
        return _fernets(keys)

    def encrypt(self, user_id: int, name: str, value: str) -> bytes:
        return self._keys.encrypt(json.dumps([user_id, name, value]).encode())

    def decrypt(self, user_id: int, name: str, encrypted: bytes) -> str:
        """Return the value. Raises ConfigError where no key fits, naming the setting."""
        from cryptography.fernet import InvalidToken

        keys = self._keys
        try:
            owner, stored_name, value = json.loads(keys.decrypt(encrypted))
        except InvalidToken:
            raise ConfigError(
                f"the secret {name!r} can not be decrypted: it was stored under another key than those of "
                f"{KEY_SETTING} (or of secret.key in the data directory); add the old key behind the present one, "
                "separated by a comma, or set the secret again",
                secret=name,
            ) from None
        if (owner, stored_name) != (user_id, name):
            raise ConfigError(
                f"the secret {name!r} is not the one that its owner stored: somebody changed the database", secret=name
            )
        return str(value)


def _fernets(keys: Sequence[str]) -> MultiFernet:
    from cryptography.fernet import Fernet, MultiFernet
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    def fernet(key: str) -> Fernet:
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(key.encode())
        return Fernet(base64.urlsafe_b64encode(derived))

    return MultiFernet([fernet(key) for key in keys])
