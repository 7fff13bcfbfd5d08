"""Changes of many things in one call: a transaction for each chunk, and each thing refused by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventproc.errors import EventprocError, InvalidInput

CHUNK = 500  # things changed in one transaction
MAX_IDS = 1000  # in one answer


@dataclass(kw_only=True, slots=True)
class Changed:
    """What a change came to; `ids` and `refused` hold at most the first thousand."""

    count: int = 0
    asked: int = 0  # of `count`: runs that were executing, and were asked to end
    next: int | None = None  # behind this id there may be more; None once all were looked at
    ids: list[int] = field(default_factory=list)
    refused: list[tuple[int, EventprocError]] = field(default_factory=list)

    def add(self, ids: Sequence[int]) -> None:
        self.count += len(ids)
        self.ids += list(ids)[: MAX_IDS - len(self.ids)]

    def refuse(self, id: int, why: EventprocError) -> None:
        if len(self.refused) < MAX_IDS:
            self.refused.append((id, why))

    def merge(self, other: Changed) -> None:
        """Add what another chunk came to."""
        asked = self.asked + other.asked
        count = self.count + other.count
        self.add(other.ids)
        self.count, self.asked = count, asked
        for id_, why in other.refused:
            self.refuse(id_, why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Which part of what a filter finds is looked at, newest first: at most `limit` things behind the id `after`."""

    after: int | None = None
    limit: int | None = None  # None: all

    def chunk(self) -> int:
        """Return how many of them one transaction takes."""
        return CHUNK if self.limit is None else min(CHUNK, self.limit)

    def behind(self, ids: Sequence[int]) -> Part:
        """Return what is left once these, in their order, were looked at."""
        return Part(after=ids[-1], limit=None if self.limit is None else self.limit - len(ids))


WHOLE = Part()


def check_choice(what: str, ways: str, *, restricted: bool, everything: bool) -> None:
    """Refuse a filter that lets all pass, where nobody said in so many words that all are meant; and the reverse."""
    if not restricted and not everything:
        raise InvalidInput(f"say which {what}: by {ways}; or say that you mean all of them, with 'all': true", path="$")
    if restricted and everything:
        raise InvalidInput(f"'all' means all {what}: give no ids and no filter with it", path="$.all")


def chunks(ids: Sequence[int]) -> Iterator[list[int]]:
    """Cut ids into what one transaction changes; each is named once."""
    unique = list(dict.fromkeys(ids))
    for start in range(0, len(unique), CHUNK):
        yield unique[start : start + CHUNK]


def pages(read: Callable[[int | None], Sequence[Any]]) -> Iterator[list[int]]:
    """Yield the ids that a search finds, page by page; `read` is given the last id that it returned."""
    after: int | None = None
    while found := read(after):
        yield [each.id for each in found]
        after = found[-1].id
