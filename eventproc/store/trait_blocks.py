"""
Which members the payloads of events have, in short: what lets a search pass over most of history.

Events are summed up in blocks of consecutive seqs, once nothing can come into a block any more, by a Bloom filter of
the names and values of their payloads' top-level scalars (Bloom, "Space/time trade-offs in hash coding with allowable
errors", CACM 13(7), 1970). Accepting an event costs nothing for it; the newest events, which are in no block yet, are
searched one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Select, bindparam, delete, func, select, text

from eventproc.abc.traits import Horizon, TraitBlock
from eventproc.store.schema import events, trait_blocks

SIZE: Final = 4096  # seqs in a block
BITS: Final = 10  # for each name and value: with 4 hashes, one block in eighty is searched in vain
HASHES: Final = 4
DIGEST: Final = 8 * HASHES  # bytes: eight for each hash
READ: Final = 64  # blocks at a time

# What it may take to sum up a block, in members and in characters of payloads: a sender may have millions of names.
MOST: Final = 200_000
LONGEST: Final = 256 * 1024 * 1024
ANYTHING: Final = b"\xff"  # says of each member that it may be there
PAYLOADS: Final = 32  # held at a time

_LAST = select(func.max(trait_blocks.c.first_seq))
_OLDEST = select(func.min(events.c.seq))
_OF_BLOCK = (events.c.seq >= bindparam("first_seq"), events.c.seq < bindparam("end_seq"))
_EVENTS = select(events.c.hook, events.c.payload_json).where(*_OF_BLOCK)
_TIMES = select(func.min(events.c.time_us), func.max(events.c.time_us)).where(*_OF_BLOCK)
_ADD = text(
    "INSERT INTO trait_blocks (first_seq, first_us, last_us, bits) VALUES (:first_seq, :first_us, :last_us, :bits)"
    " ON CONFLICT (first_seq) DO NOTHING"
)
_FORGET = delete(trait_blocks).where(trait_blocks.c.first_seq < bindparam("_first_seq"))
_HORIZON = select(func.max(events.c.seq))
_BEGUN = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
_OVER = text("SELECT pg_snapshot_xmin(pg_current_snapshot()) >= CAST(CAST(:mark AS text) AS xid8)")


def horizon(conn: Connection) -> Horizon | None:
    """Return the present one, None while there are no events."""
    seq = conn.execute(_HORIZON).scalar()
    if seq is None:
        return None
    # SQLite has one writer at a time: seqs are committed in their order.
    return Horizon(seq, str(conn.execute(_BEGUN).scalar()) if conn.dialect.name == "postgresql" else "")


def passed(conn: Connection, past: Horizon) -> bool:
    """Tell whether all transactions have ended that were under way then, so that its seqs are all there are."""
    return not past.mark or bool(conn.execute(_OVER, {"mark": past.mark}).scalar())


def next_block(conn: Connection, up_to: int) -> TraitBlock | None:
    """Sum up the next block, if it ends before that seq; nothing is written."""
    oldest = conn.execute(_OLDEST).scalar()
    if oldest is None:
        return None
    last = conn.execute(_LAST).scalar()
    first = oldest // SIZE * SIZE if last is None else max(last + SIZE, oldest // SIZE * SIZE)
    if first + SIZE > up_to:
        return None
    which = {"first_seq": first, "end_seq": first + SIZE}
    first_us, last_us = conn.execute(_TIMES, which).one()
    return TraitBlock(first, first_us or 0, last_us or 0, _summary(conn, which))


def _summary(conn: Connection, which: Mapping[str, int]) -> bytes:
    members: set[bytes] = set()
    length = 0
    with conn.execute(_EVENTS, which, execution_options={"yield_per": PAYLOADS}) as rows:
        for hook, payload in rows:
            length += len(payload)
            members.add(_hook(hook))
            members.update(key for name, value in msgspec.json.decode(payload).items() if (key := _key(name, value)))
            if len(members) > MOST or length > LONGEST:
                return ANYTHING
    return bloom(members)


def keep(conn: Connection, block: TraitBlock) -> None:
    """Write a block, and forget those whose events are all gone."""
    conn.execute(_ADD, asdict(block))
    oldest = conn.execute(_OLDEST).scalar()
    if oldest is not None:
        conn.execute(_FORGET, {"_first_seq": oldest // SIZE * SIZE})


def _hook(name: str) -> bytes:
    return _short(b"\0" + name.encode())


def _key(name: str, value: Any) -> bytes | None:
    """Return a member, short, equal for all values that a search takes for equal; None for what is no scalar."""
    if isinstance(value, bool):
        said = f"b{value}"
    elif isinstance(value, int | float):
        said = f"n{_float(value)!r}"
    elif isinstance(value, str):
        said = f"s{value}"
    else:
        return None
    return _short(f"{name}\0{said}".encode("utf-8", "surrogatepass"))


def _short(member: bytes) -> bytes:
    """Return what stands for a member: itself, or its digest, which is the only one of that length."""
    return member if len(member) < DIGEST else hashlib.blake2b(member, digest_size=DIGEST).digest()


def _float(value: float) -> float:
    try:
        return float(value) + 0.0  # no minus zero
    except OverflowError:
        return float("inf")


def bloom(members: set[bytes]) -> bytes:
    """Return the filter of these members."""
    size = max(1, (len(members) * BITS + 7) // 8)
    found = bytearray(size)
    for member in members:
        for place in _places(member):
            bit = place % (size * 8)
            found[bit >> 3] |= 1 << (bit & 7)
    return bytes(found)


def _places(member: bytes) -> tuple[int, ...]:
    digest = member if len(member) == DIGEST else hashlib.blake2b(member, digest_size=DIGEST).digest()
    return tuple(int.from_bytes(digest[at : at + 8], "little") for at in range(0, len(digest), 8))


def may_hold(bits: bytes, wanted: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether the events of a block may have all those members; False is certain."""
    size = len(bits) * 8
    return all(bits[(bit := place % size) >> 3] & (1 << (bit & 7)) for places in wanted for place in places)


def ranges(
    conn: Connection,
    traits: Mapping[str, Any],
    *,
    hook: str | None,
    since_us: int | None,
    until_us: int | None,
    after: int | None,
    newest_first: bool,
) -> Iterator[tuple[int, int | None]]:
    """
    Yield, in the order of a page, the ranges of seqs (first, one behind the last) that may hold what is looked for.

    What is in no block is always among them.
    """
    keys = [key for name, value in traits.items() if (key := _key(name, value)) is not None]
    wanted = [_places(key) for key in keys + ([] if hook is None else [_hook(hook)])]
    last = conn.execute(_LAST).scalar()
    tail = 0 if last is None else last + SIZE
    blocks = _between(since_us, until_us)
    if newest_first:
        if after is None or after > tail:
            yield tail, None
        yield from _blocks(conn, blocks, tail if after is None else min(after, tail), wanted, newest_first=True)
        return
    yield from _blocks(conn, blocks, -1 if after is None else after - SIZE, wanted, newest_first=False)
    yield tail, None


def _between(since_us: int | None, until_us: int | None) -> Select[Any]:
    query = select(trait_blocks.c.first_seq, trait_blocks.c.bits).limit(READ)
    if since_us is not None:
        query = query.where(trait_blocks.c.last_us >= since_us)
    return query if until_us is None else query.where(trait_blocks.c.first_us < until_us)


def _blocks(
    conn: Connection, blocks: Select[Any], begin: int, wanted: Sequence[tuple[int, ...]], *, newest_first: bool
) -> Iterator[tuple[int, int]]:
    at, first = begin, trait_blocks.c.first_seq
    while True:
        part = blocks.where(first < at if newest_first else first > at)
        rows = conn.execute(part.order_by(first.desc() if newest_first else first)).all()
        for row in rows:
            if may_hold(row.bits, wanted):
                yield row.first_seq, row.first_seq + SIZE
        if len(rows) < READ:
            return
        at = rows[-1].first_seq
