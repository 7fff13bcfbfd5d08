"""How long the events of each hook stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from sqlalchemy import Connection, select

from eventproc.abc import RetentionPolicy
from eventproc.model import SECOND_US, StreamState
from eventproc.store.schema import hooks

DONE_STATES: Final = ("succeeded", "cancelled")

_SPECS = select(hooks.c.name, hooks.c.keep_s, hooks.c.keep_idle_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """How long events stay, in seconds; None for ever. `own` says that the hook itself named the time."""

    longest_s: int | None
    idle_s: int | None
    own: bool

    def may_go(self, accepted_us: int, now_us: int) -> bool:
        """Tell whether it is past the shortest of its times."""
        times = [keep_s for keep_s in (self.longest_s, self.idle_s) if keep_s is not None]
        return any(accepted_us < now_us - keep_s * SECOND_US for keep_s in times)

    def lets_go(self, accepted_us: int, now_us: int, runs: Sequence[Any], *, streams: Sequence[int] = ()) -> bool:
        """Tell whether an event with these runs, in streams of these states, may go."""
        if any(state != StreamState.COMPLETED for state in streams):
            return False
        if not runs and not streams:
            return self.may_go(accepted_us, now_us)
        past = self.longest_s is not None and accepted_us < now_us - self.longest_s * SECOND_US
        if not runs:
            return past
        return self.own and past and all(run.state in DONE_STATES for run in runs)


def keeps(conn: Connection, names: Iterable[str], policy: RetentionPolicy) -> dict[str, Keep]:
    """Return the times for each hook: those of its own spec, else of the most specific glob, else the platform's."""
    specs = {row.name: row for row in conn.execute(_SPECS)}
    found = {}
    for name in names:
        spec = specs.get(name) or _glob(name, specs.values())
        own = spec is not None and spec.keep_s is not None
        found[name] = Keep(
            longest_s=spec.keep_s if spec is not None and own else policy.events_s,
            idle_s=spec.keep_idle_s if spec is not None else None,
            own=own,
        )
    return found


def _glob(name: str, specs: Iterable[Any]) -> Any:
    matching = [spec for spec in specs if fnmatchcase(name, spec.name)]
    return max(matching, key=lambda spec: (sum(char not in "*?[]" for char in spec.name), spec.name), default=None)
