"""What many runs ask for one after the other, read once for all of them."""

from __future__ import annotations

import time

from eventproc.model import User
from eventproc.registry.catalogue import Catalogue
from eventproc.service.context import ServiceContext

LATELY_S = 0.25  # how old an answer may be; each run checks again what it keeps for longer than that
_MOST_USERS = 1000


class Lately:
    """
    The catalogue and the owners of handlers, as they were a moment ago.

    A run that writes one event would otherwise cost two round trips to the database only for looking at who asks.
    """

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._catalogue: tuple[float, Catalogue] | None = None
        self._users: dict[int, tuple[float, User | None]] = {}

    def catalogue(self) -> Catalogue:
        """Return the hooks and their schemas. Raises StoreUnavailable."""
        now, known = time.monotonic(), self._catalogue
        if known is None or now - known[0] > LATELY_S:
            known = self._catalogue = (now, self._context.cache.latest())
        return known[1]

    def user(self, user_id: int) -> User | None:
        """Return the user, None when there is none of this id. Raises StoreUnavailable."""
        now, known = time.monotonic(), self._users.get(user_id)
        if known is None or now - known[0] > LATELY_S:
            if len(self._users) > _MOST_USERS:
                self._users.clear()
            with self._context.store.read() as tx:
                known = self._users[user_id] = (now, tx.users.get(user_id))
        return known[1]
