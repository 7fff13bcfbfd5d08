"""What takes a server's threads and processes for a while: so many at a time, and of one user so many."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from eventproc.errors import Unavailable
from eventproc.model import User


class Turns:
    """Admits things of one kind; whoever is not admitted is told at once, for waiting takes a thread as well."""

    def __init__(self, what: str, *, most: int, of_one: int) -> None:
        """`what` they are called, in the plural; at most `most` at a time, and `of_one` of the same user."""
        self._what = what
        self._most = most
        self._of_one = of_one
        self._by_user: Counter[int] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, user: User) -> Iterator[None]:
        """Have one under way. Raises Unavailable."""
        with self._lock:
            if self._by_user[user.id] >= self._of_one:
                raise Unavailable(
                    f"{self._of_one} {self._what} of user {user.name!r} are under way; try again when one has ended"
                )
            if self._by_user.total() >= self._most:
                raise Unavailable(f"{self._most} {self._what} are under way already; try again in a moment")
            self._by_user[user.id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._by_user[user.id] -= 1
                self._by_user += Counter()  # forgets those who have none
