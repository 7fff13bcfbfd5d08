"""Summaries of which members events have, which let a search by traits pass over most of history."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Horizon:
    """The newest event at some moment, and which transactions were under way then."""

    seq: int
    mark: str


@dataclass(frozen=True, slots=True)
class TraitBlock:
    """A summary of the events of some consecutive seqs: their times, and a Bloom filter of their hooks and members."""

    first_seq: int
    first_us: int
    last_us: int
    bits: bytes
