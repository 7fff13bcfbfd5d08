"""
API keys: `ep_<prefix>_<secret>`, 8 and 43 characters.

The secret has 256 bits of randomness, so a plain SHA-256 of the key is enough to store; the prefix finds the row.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from eventproc.abc import Clock, Store, Tx
from eventproc.engine.group import GroupCommit
from eventproc.errors import Unauthorized, Unavailable
from eventproc.model import SECOND_US, User
from eventproc.service.attempts import Attempts, Name

KEY_FORMAT = re.compile(r"ep_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")
TOUCH_US = 60 * SECOND_US  # a key's last use is written down at most so often
MAX_CACHED = 10_000  # authentications
_NO_DIGEST = "0" * 64  # compared with where there is no such key: that takes as long
_PREFIX_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


def new_key() -> tuple[str, str, str]:
    """Make a key; return (key, prefix, digest). Only the last two are ever stored."""
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(8))
    key = f"ep_{prefix}_{secrets.token_urlsafe(32)}"
    return key, prefix, digest_of(key)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def issue_key(tx: Tx, user: User, *, label: str, now_us: int) -> tuple[str, str]:
    """Store a new key for the user; return (key, prefix). The key can not be had again."""
    key, prefix, digest = new_key()
    while tx.users.by_key_prefix(prefix) is not None:
        key, prefix, digest = new_key()
    tx.users.add_key(user.id, prefix=prefix, digest=digest, label=label, now_us=now_us)
    return key, prefix


@dataclass(frozen=True, slots=True)
class _Cached:
    user: User
    key_id: int
    until: float  # on the monotonic clock


class Authenticator:
    """
    Turns keys into users.

    Good authentications are remembered for `cache_s`; `forget` drops them, so that in this process a revoked key or a
    disabled user is refused at once, and elsewhere after `cache_s`. Who tries many that are not good has to wait, see
    `eventproc.service.attempts`.
    """

    def __init__(
        self,
        store: Store,
        group: GroupCommit,
        clock: Clock,
        *,
        cache_s: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._group = group
        self._clock = clock
        self._cache_s = cache_s
        self._monotonic = monotonic
        self._cache: dict[str, _Cached] = {}  # by digest: the keys themselves are not kept
        self._touched: dict[int, int] = {}
        self._generation = 0
        self._attempts = Attempts(monotonic=monotonic)
        self._lock = threading.Lock()

    def authenticate(self, key: str | None, *, address: str | None = None) -> User:
        """
        Return the key's owner; `address` is where the call came from.

        Raises Unauthorized, and TooManyLogins, which is one; their texts never repeat the key.
        """
        if not key:
            raise Unauthorized("no API key; send the header 'Authorization: Bearer KEY'")
        match = KEY_FORMAT.fullmatch(key)
        if match is None:
            raise Unauthorized("malformed API key; a key looks like 'ep_' + 8 characters + '_' + 43 characters")
        known = self.remembered(key)
        if known is not None:
            return known
        prefix, digest = match[1], digest_of(key)
        names: list[Name] = [("prefix", prefix), *([("address", address)] if address else [])]
        self._attempts.admit(digest, names)
        try:
            user = self._look_up(prefix, digest)
        except Unauthorized:
            self._attempts.failed(digest, names)
            raise
        self._attempts.succeeded(digest)
        return user

    def remembered(self, key: str | None) -> User | None:
        """Return the key's owner if the key was found good a moment ago; never waits for the store."""
        cached = self._cache.get(digest_of(key)) if key else None
        if cached is None or self._monotonic() >= cached.until:
            return None
        self._touch(cached.key_id)
        return cached.user

    def forget(self) -> None:
        """Forget all remembered authentications; call it after users or keys changed."""
        with self._lock:
            self._generation += 1
            self._cache.clear()

    def _look_up(self, prefix: str, digest: str) -> User:
        generation = self._generation
        with self._store.read() as tx:
            found = tx.users.by_key_prefix(prefix)
        # An unknown prefix and a wrong secret are the same to the caller: nothing to be learnt by trying.
        if not hmac.compare_digest(found[2] if found else _NO_DIGEST, digest) or found is None:
            raise Unauthorized("unknown API key")
        user, key, _ = found
        if key.revoked_us is not None:
            raise Unauthorized(f"API key {prefix!r} was revoked", prefix=prefix)
        if user.disabled:
            raise Unauthorized(f"user {user.name!r} is disabled", user=user.name)
        with self._lock:
            if generation == self._generation:  # else something was revoked while we looked
                if len(self._cache) >= MAX_CACHED:
                    self._cache.clear()
                self._cache[digest] = _Cached(user, key.id, self._monotonic() + self._cache_s)
        self._touched.setdefault(key.id, key.last_used_us or 0)
        self._touch(key.id)
        return user

    def _touch(self, key_id: int) -> None:
        now_us = self._clock.now_us()
        with self._lock:
            if now_us - self._touched.get(key_id, 0) < TOUCH_US:
                return
            self._touched[key_id] = now_us
        # Nobody waits for it: a busy database must not slow or refuse a good key.
        with contextlib.suppress(Unavailable):
            self._group.submit(lambda tx: tx.users.touch_key(key_id, now_us=now_us))
