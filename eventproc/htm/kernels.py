"""
A whole model, record by record: `run` and `wake` are what Python calls.

A model's state is a few flat arrays, grouped in named tuples: `Mind` (all members: encoder, pooler, memory, likelihood
each), `Watch` (the streams) and `Oracle` (best next values). `Tables` are the numbers that make a model what it is;
kernels never write to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventproc.htm.foresight import Oracle, class_of, foretell, note, study
from eventproc.htm.jit import Entry, jit, stamp
from eventproc.htm.memory import ACTIVATE, CELLS, MATCHING, WINNERS, Memory, advance, depolarise, unpredicted
from eventproc.htm.sensing import CATEGORY, bucket_of, encode, pool, pool_learn
from eventproc.htm.streams import (
    AVERAGE,
    CAUSE,
    COLUMNS,
    EXPECTED,
    HISTORY,
    HTM,
    KNOWN,
    LEARNING,
    MARGIN,
    MEAN_FLOOR,
    PAD,
    RAW,
    REPORT,
    SCORE,
    SEEN,
    SETTLE,
    SHAPE_SPAN,
    SOFT,
    SPREAD,
    STRENGTH,
    SURPRISE,
    TRAINING,
    USUAL,
    VALUE,
    VARIANCE_FLOOR,
    Watch,
    measure,
    observe,
)

Array = NDArray[Any]

# What `Mind.frame` holds per member: origin and resolution of the encoder, buckets seen, records handled,
# buckets wanted, the last bucket and the one before.
FROM, RESOLUTION, LOWEST, HIGHEST, HANDLED, BUCKETS, LAST, BEFORE = range(8)
# What `rule` holds behind what the streams know: the least resolution, one that is given, whether it follows the range.
FINEST, GIVEN, ADAPTIVE = range(12, 15)
# What `Mind.moments` holds per member.
HISTORY_MEAN, HISTORY_VARIANCE, HISTORY_COUNT = range(3)

AVERAGED = 10  # records of the raw score's moving average, and its delay before it counts as history
CATCH_UP = 8  # pending records learnt per record: the range is fixed after 7/8 of the learning period
MOST_SURPRISE = 10.0  # -log10 p beyond which nothing is more surprising
NO_CAUSE, MISSING = -1.0, -2.0
_LIMIT = 1e100  # values beyond are taken for this: squares stay finite
_GUESSES = 256  # buckets compared with what a memory predicts


class Mind(NamedTuple):
    """All members' arrays; the first axis is the member. The first seventeen are those of `Memory`."""

    owner: Array
    size: Array
    used: Array
    source: Array
    permanence: Array
    segments: Array
    active: Array
    winners: Array
    tally: Array
    rng: Array
    connected: Array
    potential: Array
    matching: Array
    before: Array
    earlier: Array
    mark: Array
    best: Array
    frame: Array  # float64[8]
    raws: Array  # float64[10] raw scores, a ring
    averages: Array  # float64[10] their means, a ring
    moments: Array  # float64[3] mean and variance of the means, and their number
    pooled: Array  # int16[columns, inputs] permanences of a pooler that learns, else int16[0, 0]
    joined: Array  # uint8[inputs, columns] connected synapses of the pooler; shared where it does not learn
    order: Array  # int32[columns] shared
    # Scratch:
    columns: Array  # int64[active columns] of each member, and one row to spare
    bits: Array  # int64[] of each member, and one row to spare; the last place holds their number


@jit()
def member(mind: Mind, h: int) -> Any:
    """Look at one member's memory."""
    return Memory(
        mind.owner[h],
        mind.size[h],
        mind.used[h],
        mind.source[h],
        mind.permanence[h],
        mind.segments[h],
        mind.active[h],
        mind.winners[h],
        mind.tally[h],
        mind.rng[h],
        mind.connected[h],
        mind.potential[h],
        mind.matching[h],
        mind.before[h],
        mind.earlier[h],
        mind.mark[h],
        mind.best[h],
    )


class State(NamedTuple):
    """All that a model has learnt."""

    mind: Mind
    watch: Watch
    oracle: Oracle


class Tables(NamedTuple):
    """The numbers that make a model what it is."""

    codes: Array  # int64[members, 10] encoders
    rules: Array  # int64[9] temporal memory
    gains: Array  # int64[3] pooler
    rule: Array  # float64[15] streams, likelihood, conclusion, resolution
    spans: Array  # int64[3] streams


@jit()
def log_tail(z: float) -> Any:
    """-log10 of the normal distribution's upper tail, for any z."""
    if z < 5.0:
        return -math.log10(0.5 * math.erfc(z / math.sqrt(2.0)))
    return z * z / 2.0 / math.log(10.0) + math.log10(z * math.sqrt(2.0 * math.pi))


@jit()
def assess(mind: Mind, h: int, raw: float, rule: Array) -> Any:
    """Take a raw score into the member's history and say how surprising the last ten are (-log10 p); O(1)."""
    j = int(mind.frame[h, HANDLED])
    slot = j % AVERAGED
    mind.raws[h, slot] = raw
    known = min(j + 1, AVERAGED)
    total = 0.0
    for i in range(known):
        total += mind.raws[h, i]
    average = total / known
    moments = mind.moments[h]
    if j - AVERAGED >= rule[SETTLE]:
        moments[HISTORY_COUNT] += 1.0
        rate = max(1.0 / rule[HISTORY], 1.0 / moments[HISTORY_COUNT])
        off = mind.averages[h, slot] - moments[HISTORY_MEAN]
        moments[HISTORY_MEAN] += rate * off
        moments[HISTORY_VARIANCE] = (1.0 - rate) * (moments[HISTORY_VARIANCE] + rate * off * off)
    mind.averages[h, slot] = average
    mind.frame[h, HANDLED] += 1.0
    if j < rule[LEARNING] or moments[HISTORY_COUNT] == 0.0:
        return 0.0
    mean = max(moments[HISTORY_MEAN], rule[MEAN_FLOOR])
    z = (average - mean) / math.sqrt(max(moments[HISTORY_VARIANCE], rule[VARIANCE_FLOOR]))
    return min(MOST_SURPRISE, log_tail(z)) if z > 0.0 else 0.0


@jit()
def sense(mind: Mind, h: int, tables: Tables, record: Array) -> None:
    """Encode and pool into `mind.columns[h]`; the encoder's bits stay in `mind.bits[h]`, their number last."""
    frame, bits = mind.frame[h], mind.bits[h]
    bucket = bucket_of(record[0], frame[FROM], frame[RESOLUTION])
    if frame[HANDLED] == 0.0:
        frame[LOWEST] = frame[HIGHEST] = frame[LAST] = bucket
    frame[LOWEST] = min(frame[LOWEST], bucket)
    frame[HIGHEST] = max(frame[HIGHEST], bucket)
    while tables.rule[ADAPTIVE] > 0.0 and frame[HIGHEST] - frame[LOWEST] >= 2.0 * frame[BUCKETS]:
        frame[RESOLUTION] *= 2.0
        frame[LOWEST] = math.floor(frame[LOWEST] / 2.0)
        frame[HIGHEST] = math.floor(frame[HIGHEST] / 2.0)
        frame[LAST] = math.floor(frame[LAST] / 2.0)
        bucket = bucket_of(record[0], frame[FROM], frame[RESOLUTION])
    frame[BEFORE] = frame[LAST]
    frame[LAST] = bucket
    count = encode(tables.codes[h], bucket, bucket - int(frame[BEFORE]), record, bits)
    pool(bits[:count], mind.joined[h], mind.order[h], mind.columns[h])
    bits[-1] = count


@jit()
def learn(mind: Mind, h: int, tables: Tables) -> None:
    """Let a member learn what it has just sensed."""
    columns = mind.columns[h]
    if mind.pooled.shape[1] > 0:
        bits = mind.bits[h]
        pool_learn(bits[: bits[-1]], mind.joined[h], mind.pooled[h], columns, tables.gains)
    advance(member(mind, h), columns, tables.rules, 1)


@jit()
def expected(mind: Mind, h: int, tables: Tables, record: Array) -> Any:
    """Read what the memory predicts now as a value: that whose columns are predicted most. NaN: it predicts nothing."""
    if tables.codes[h, CATEGORY]:
        return math.nan
    m = member(mind, h)
    hopes = 0
    for i in range(m.tally[MATCHING]):
        g = m.matching[i]
        if m.connected[g] >= tables.rules[ACTIVATE]:
            m.mark[m.owner[g] // tables.rules[CELLS]] = 1
            hopes += 1
    lowest, highest = int(mind.frame[h, LOWEST]), int(mind.frame[h, HIGHEST])
    bits, columns = mind.bits[-1], mind.columns[-1]
    most, found, ties = 0, 0, 0
    if hopes > 0:
        for bucket in range(lowest, highest + 1, max(1, (highest - lowest) // _GUESSES)):
            change = bucket - int(mind.frame[h, BEFORE])
            count = encode(tables.codes[h], bucket, change, record, bits)
            pool(bits[:count], mind.joined[h], mind.order[h], columns)
            hits = 0
            for c in columns:
                hits += m.mark[c]
            if hits > most:
                most, found, ties = hits, bucket, 1
            elif hits == most:
                found += bucket
                ties += 1
    m.mark[:] = 0
    if most == 0:
        return math.nan
    return mind.frame[h, FROM] + found / ties * mind.frame[h, RESOLUTION]


@jit()
def set_range(mind: Mind, pending: Array, known: int, rule: Array) -> None:
    """Fix the encoders' resolution: the one given, or by the values seen so far, with some room on either side."""
    low, high = pending[0, 0], pending[0, 0]
    for i in range(known):
        low, high = min(low, pending[i, 0]), max(high, pending[i, 0])
    room = (high - low) * rule[PAD]
    low, high = low - room, high + room
    if high <= low:
        high = low + 1.0
    for h in range(mind.frame.shape[0]):
        mind.frame[h, FROM] = low
        mind.frame[h, RESOLUTION] = max(rule[FINEST], (high - low) / mind.frame[h, BUCKETS])
        if rule[GIVEN] > 0.0:
            mind.frame[h, FROM] = pending[0, 0] - rule[GIVEN] * math.floor(mind.frame[h, BUCKETS] / 2.0)
            mind.frame[h, RESOLUTION] = rule[GIVEN]


@jit()
def remember(mind: Mind, oracle: Oracle, value: float) -> None:
    """Let the classifier learn the value that the first member has just learnt."""
    now = int(mind.frame[0, HANDLED]) - 1
    k = class_of(int(mind.frame[0, LAST]), mind.frame[0, BUCKETS], oracle.odds.shape[0])
    study(oracle, now, value, k)
    tally = mind.tally[0]
    note(oracle, now % oracle.past.shape[0], mind.columns[0], mind.winners[0], tally[WINNERS])


@jit()
def feed(mind: Mind, w: Watch, oracle: Oracle, tables: Tables) -> None:
    """Let all members learn the oldest pending record."""
    record = w.pending[int(mind.frame[0, HANDLED])]
    for h in range(mind.frame.shape[0]):
        sense(mind, h, tables, record)
        assess(mind, h, unpredicted(member(mind, h), mind.columns[h], tables.rules), tables.rule)
        learn(mind, h, tables)
    if oracle.steps.shape[0] > 0:
        remember(mind, oracle, record[0])


@jit()
def prepare(state: State, tables: Tables, record: Array, learning: int) -> Any:
    """Bring the members up to date, some pending records at a time; true when it is this record's turn."""
    mind, w, oracle = state.mind, state.watch, state.oracle
    t = int(w.clock[SEEN])
    if t < w.pending.shape[0]:
        w.pending[t, :] = record
    if t < tables.rule[KNOWN]:
        return False
    if mind.frame[0, RESOLUTION] == 0.0:
        set_range(mind, w.pending, t + 1, tables.rule)
    for _ in range(CATCH_UP):
        if learning and mind.frame[0, HANDLED] < t:
            feed(mind, w, oracle, tables)
    if t == w.pending.shape[0]:
        w.pending[:, :] = 0.0  # nothing of it is needed any more, and zeros are saved in no space
    return mind.frame[0, HANDLED] == t


@jit()
def think(mind: Mind, tables: Tables, record: Array, row: Array) -> None:
    """Ask all members about the record; the mean of their surprise goes into the row."""
    members = mind.frame.shape[0]
    row[RAW] = 0.0
    for h in range(members):
        sense(mind, h, tables, record)
        raw = unpredicted(member(mind, h), mind.columns[h], tables.rules)
        row[RAW] += raw / members
        row[SURPRISE] += assess(mind, h, raw, tables.rule) / members
    slot = (int(mind.frame[0, HANDLED]) - 1) % AVERAGED
    for h in range(members):
        row[AVERAGE] += mind.averages[h, slot] / members
        row[USUAL] += mind.moments[h, HISTORY_MEAN] / members
        row[SPREAD] += math.sqrt(mind.moments[h, HISTORY_VARIANCE]) / members
    row[HTM] = row[SURPRISE] / (row[SURPRISE] + tables.rule[SOFT])


@jit()
def conclude(w: Watch, rule: Array, row: Array) -> None:
    """Put the parts together, and report unless this only goes on with what was reported a short while ago."""
    row[CAUSE] = NO_CAUSE
    strongest, doubt = 0.0, 1.0
    for i in range(VALUE, HTM + 1):
        doubt *= 1.0 - row[i]  # all parts are wrong
        if row[i] > strongest:
            strongest = row[i]
            row[CAUSE] = i - VALUE
    row[STRENGTH] = 1.0 - doubt
    last = 0.0
    for held in w.reported:
        last = max(last, held)
    if row[STRENGTH] > rule[REPORT] and (last == 0.0 or row[STRENGTH] > last + rule[MARGIN]):
        row[SCORE] = row[STRENGTH]
    if w.reported.shape[0] > 0:
        w.reported[int(w.clock[SEEN]) % w.reported.shape[0]] = row[SCORE]


@jit()
def judge(state: State, tables: Tables, record: Array, row: Array, learning: int) -> None:
    """Score one record, a value that can be used, and learn it."""
    mind, w, oracle = state.mind, state.watch, state.oracle
    members = mind.frame.shape[0]
    ready = members > 0 and prepare(state, tables, record, learning)
    if ready:
        think(mind, tables, record, row)
    if tables.spans[SHAPE_SPAN] > 0:
        observe(w, record, tables.rule, tables.spans, row)
    conclude(w, tables.rule, row)
    if ready and row[SCORE] > 0.0:
        row[EXPECTED] = expected(mind, 0, tables, record)
    if ready and learning:
        for h in range(members):
            learn(mind, h, tables)
        if oracle.steps.shape[0] > 0:
            remember(mind, oracle, record[0])
            foretell(oracle, int(mind.frame[0, HANDLED]) - 1, row[COLUMNS:])
    w.clock[SEEN] += 1


def _run(version: int) -> Callable[..., None]:
    def run(state: State, tables: Tables, records: Array, out: Array, learning: int) -> None:
        record = np.zeros(3)
        for i in range(records.shape[0]):
            row = out[i]
            row[:] = 0.0
            row[RAW] = row[EXPECTED] = math.nan
            row[CAUSE] = MISSING
            row[COLUMNS:] = math.nan
            row[TRAINING] = 1.0 if state.watch.clock[SEEN] < tables.rule[LEARNING] else 0.0
            if math.isfinite(records[i, 0]) and version != 0:
                record[:] = records[i]
                record[0] = min(max(record[0], -_LIMIT), _LIMIT)
                judge(state, tables, record, row, learning)

    return run


def _wake(version: int) -> Callable[..., None]:
    def wake(state: State, tables: Tables) -> None:
        for h in range(state.mind.frame.shape[0]):
            depolarise(member(state.mind, h), tables.rules)
        if tables.spans[SHAPE_SPAN] > 0 and state.watch.clock[SEEN] > 0 and version != 0:
            measure(state.watch, int(state.watch.clock[SEEN]) - 1, tables.spans[SHAPE_SPAN])

    return wake


_VERSION = stamp()

run = Entry(_run(_VERSION))
"""
Score records (rows of value, hour and day) one after the other and learn each; a row of `out` for each.

With `learning` 0 the memories stay as they are: the caller gives copies of what else changes, and one record.
"""

wake = Entry(_wake(_VERSION))
"""Find again what is not saved."""
