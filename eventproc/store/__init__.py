"""The store: all SQL of the platform. SQLAlchemy is imported when a store is opened, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventproc.abc import Store


def open_store(url: str, *, durability: str = "normal") -> Store:
    """
    Open the store at a database URL.

    `sqlite:///PATH` (also `?busy_timeout=SECONDS`) or `postgresql://USER:PASSWORD@HOST/NAME`. `durability` "full"
    makes SQLite wait for the disk at each commit; "normal" may lose the last commits in a power cut, never in a crash.
    """
    from eventproc.store.opening import open_url  # noqa: PLC0415 - keeps `import eventproc.store` light

    return open_url(url, durability=durability)


__all__ = ["open_store"]
