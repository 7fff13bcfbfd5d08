"""What a claim must know of all handlers: a snapshot that is read anew when the revision has changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import select

from eventproc.model import HandlerVersion, Isolation, Options
from eventproc.store.base import Work
from eventproc.store.handlers import version_of
from eventproc.store.options import options_from_json
from eventproc.store.schema import handler_versions as versions
from eventproc.store.schema import handlers, hooks, users

_HANDLERS = (
    select(
        handlers.c.id,
        handlers.c.name,
        handlers.c.owner_id,
        handlers.c.paused,
        handlers.c.current_version,
        users.c.disabled,
        versions.c.options_json,
    )
    .join_from(handlers, users, users.c.id == handlers.c.owner_id)
    .join(versions, (versions.c.handler_id == handlers.c.id) & (versions.c.version == handlers.c.current_version))
    .where(handlers.c.live.is_(True))
)
_PYTHONS = (
    select(versions.c.handler_id, versions.c.version, versions.c.python)
    .join_from(versions, handlers, versions.c.handler_id == handlers.c.id)
    .where(handlers.c.live.is_(True))
)
_PAUSED_HOOKS = select(hooks.c.name).where(hooks.c.paused.is_(True))
_VERSION = select(*[column for column in versions.c if column.name != "blob"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A registered handler; `options` are those of the current version, whose limits hold for runs of any."""

    id: int
    name: str
    owner_id: int
    runnable: bool  # neither paused nor its owner disabled
    options: Options
    pythons: dict[int, str] = field(default_factory=dict)  # by version

    @property
    def limited(self) -> bool:
        return self.options.concurrency is not None or self.options.rate is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Roster:
    """The registered handlers, and the hooks that are paused."""

    revision: int
    entries: dict[int, Entry]
    paused_names: frozenset[str]
    paused_globs: tuple[str, ...]
    contended: frozenset[bool]  # kinds (isolation batch: True) of which several owners have handlers that may run

    def hook_paused(self, hook: str) -> bool:
        return hook in self.paused_names or any(fnmatchcase(hook, glob) for glob in self.paused_globs)

    def runnable(self, handler_id: int, hook: str) -> Entry | None:
        """Return the handler if its runs on that hook may start."""
        entry = self.entries.get(handler_id)
        return entry if entry is not None and entry.runnable and not self.hook_paused(hook) else None


def roster(work: Work, now: int) -> Roster:
    """Return the snapshot of the revision `now`, which this transaction has just read."""
    cached: Roster | None = work.caches.handlers
    if cached is not None and cached.revision == now:
        return cached
    fresh = _load(work, now)

    def keep() -> None:
        work.caches.handlers = fresh

    work.actions.append(keep)
    return fresh


def _load(work: Work, now: int) -> Roster:
    pythons: dict[int, dict[int, str]] = {}
    for row in work.conn.execute(_PYTHONS):
        pythons.setdefault(row.handler_id, {})[row.version] = row.python
    entries = {
        row.id: Entry(
            id=row.id,
            name=row.name,
            owner_id=row.owner_id,
            runnable=not row.paused and not row.disabled,
            options=options_from_json(row.options_json),
            pythons=pythons.get(row.id, {}),
        )
        for row in work.conn.execute(_HANDLERS)
    }
    paused = [row.name for row in work.conn.execute(_PAUSED_HOOKS)]
    globs = tuple(name for name in paused if any(char in name for char in "*?["))
    return Roster(
        revision=now,
        entries=entries,
        paused_names=frozenset(paused),
        paused_globs=globs,
        contended=frozenset(kind for kind in (False, True) if len(_owners(entries.values(), batch=kind)) > 1),
    )


def _owners(entries: Iterable[Entry], *, batch: bool) -> set[int]:
    """Return who has handlers that may run, of isolation batch or of the others."""
    return {
        entry.owner_id for entry in entries if entry.runnable and (entry.options.isolation is Isolation.BATCH) is batch
    }


def versions_by_name(work: Work, names: set[tuple[int, int]]) -> dict[tuple[int, int], HandlerVersion]:
    """Return handler versions by (handler, version); they never change, so each is read once."""
    cache: dict[tuple[int, int], Any] = work.caches.versions
    found = {name: cache[name] for name in names if name in cache}
    fetched = {}
    for handler_id, version in sorted(names - found.keys()):
        statement = _VERSION.where(versions.c.handler_id == handler_id, versions.c.version == version)
        fetched[(handler_id, version)] = version_of(work.conn.execute(statement).one())
    if fetched:
        work.actions.append(lambda: cache.update(fetched))
    return found | fetched
