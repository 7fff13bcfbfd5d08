"""
The temporal memory: cells in columns, segments on cells, synapses on segments.

Semantics of Hawkins & Ahmad 2016 and the BAMI chapter on temporal memory. Segments are rows of fixed width; their
number is bounded and the one not used for longest gives way. Permanences are thousandths. Nothing depends on the order
of a segment's synapses: they are saved in the order of their cells, where equal sets look alike and compress well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventproc.htm.dice import below
from eventproc.htm.jit import jit

Array = NDArray[Any]

# What `rules` holds.
CELLS, ACTIVATE, MATCH, GROW, INITIAL, UP, DOWN, PUNISH, CONNECTED = range(9)
# What `Memory.tally` holds.
SEGMENTS, WINNERS, STEP, MATCHING, EARLIER = range(5)


class Memory(NamedTuple):
    """One temporal memory: segments are rows of fixed width; what is not saved can be found again from the rest."""

    owner: Array  # int32[segments] the cell
    size: Array  # int16[segments] synapses
    used: Array  # int64[segments] step of last use
    source: Array  # uint16[segments, synapses] presynaptic cell
    permanence: Array  # int16[segments, synapses] thousandths
    segments: Array  # uint16[cells] how many each has
    active: Array  # uint8[cells]
    winners: Array  # int32[]
    tally: Array  # int64[5]
    rng: Array  # uint64[1]
    # Not saved:
    connected: Array  # int16[segments] active connected synapses
    potential: Array  # int16[segments] active synapses; known only of matching segments, as `connected`
    matching: Array  # int32[segments] those with potential >= MATCH, ascending
    before: Array  # uint8[cells] active one step ago
    earlier: Array  # int32[] winners one step ago
    mark: Array  # uint8[columns] 1: active, 2: active and predicted
    best: Array  # int32[columns] best matching segment


def _depolarise(m: Memory, rules: Array) -> None:
    n = int(m.tally[SEGMENTS])
    held = np.arange(m.source.shape[1]) < m.size[:n, None]
    on = held & (m.active[m.source[:n]] != 0)
    m.potential[:n] = on.sum(axis=1)
    m.connected[:n] = (on & (m.permanence[:n] >= rules[CONNECTED])).sum(axis=1)
    found = np.nonzero(m.potential[:n] >= rules[MATCH])[0]
    m.matching[: found.size] = found
    m.tally[MATCHING] = found.size


@jit(instead=_depolarise, bare=True)
def depolarise(m: Memory, rules: Array) -> None:
    """Count each segment's active synapses: those that match and those that predict."""
    found = 0
    match, connected_from = rules[MATCH], rules[CONNECTED]
    for g in range(m.tally[SEGMENTS]):
        size = int(m.size[g])
        enough = size - match + 1  # none active among so many: the rest can not reach MATCH
        potential = 0
        for i in range(enough):
            potential += m.active[m.source[g, i]]
        if potential == 0:
            continue
        for i in range(enough, size):
            potential += m.active[m.source[g, i]]
        if potential >= match:
            connected = 0
            for i in range(size):
                if m.permanence[g, i] >= connected_from:
                    connected += m.active[m.source[g, i]]
            m.potential[g] = potential
            m.connected[g] = connected
            m.matching[found] = g
            found += 1
    m.tally[MATCHING] = found


@jit(bare=True)
def unpredicted(m: Memory, columns: Array, rules: Array) -> Any:
    """The raw anomaly score: the share of these columns that no segment predicts."""
    for c in columns:
        m.mark[c] = 1
    hits = 0
    for i in range(m.tally[MATCHING]):
        g = m.matching[i]
        c = m.owner[g] // rules[CELLS]
        if m.connected[g] >= rules[ACTIVATE] and m.mark[c] == 1:
            m.mark[c] = 2
            hits += 1
    for c in columns:
        m.mark[c] = 0
    return 1.0 - hits / columns.shape[0]


@jit(bare=True)
def advance(m: Memory, columns: Array, rules: Array, learning: int) -> None:
    """Take one step with these active columns; learn unless `learning` is 0."""
    m.tally[STEP] += 1
    m.tally[EARLIER] = m.tally[WINNERS]
    for i in range(m.tally[EARLIER]):
        m.earlier[i] = m.winners[i]
    m.tally[WINNERS] = 0
    for cell in range(m.active.shape[0]):
        m.before[cell] = m.active[cell]
        m.active[cell] = 0
    _find(m, columns, rules)
    _answer(m, rules, learning)
    _surprise(m, columns, rules, learning)
    for c in columns:
        m.mark[c] = 0
    depolarise(m, rules)


@jit(bare=True)
def _answer(m: Memory, rules: Array, learning: int) -> None:
    """Activate the cells that were predicted in active columns, and punish matching segments elsewhere."""
    for i in range(m.tally[MATCHING]):
        g = m.matching[i]
        state = m.mark[m.owner[g] // rules[CELLS]]
        if state == 2 and m.connected[g] >= rules[ACTIVATE]:
            if m.active[m.owner[g]] == 0:
                m.active[m.owner[g]] = 1
                _win(m, m.owner[g])
            if learning:
                _reinforce(m, g, rules)
        elif state == 0 and learning and rules[PUNISH] > 0:
            _punish(m, g, rules[PUNISH])


@jit(bare=True)
def _surprise(m: Memory, columns: Array, rules: Array, learning: int) -> None:
    """Burst the columns that nobody predicted, and teach one cell of each to predict them next time."""
    # Matching segments first: they count as used now, so that no new segment takes their place.
    for c in columns:
        if m.mark[c] == 1 and m.best[c] >= 0:
            _burst(m, c, rules)
            _win(m, m.owner[m.best[c]])
            if learning:
                _reinforce(m, m.best[c], rules)
    for c in columns:
        if m.mark[c] == 1 and m.best[c] < 0:
            _burst(m, c, rules)
            cell = _least_used(m, c, rules[CELLS])
            _win(m, cell)
            if learning and m.tally[EARLIER] > 0:
                _grow(m, _new_segment(m, cell), rules[GROW], rules[INITIAL])


@jit(bare=True)
def _find(m: Memory, columns: Array, rules: Array) -> None:
    """Mark active columns, those among them that are predicted, and each one's best matching segment."""
    for c in columns:
        m.mark[c] = 1
        m.best[c] = -1
    for i in range(m.tally[MATCHING]):
        g = m.matching[i]
        c = m.owner[g] // rules[CELLS]
        if m.mark[c] != 0:
            if m.connected[g] >= rules[ACTIVATE]:
                m.mark[c] = 2
            if m.best[c] < 0 or m.potential[g] > m.potential[m.best[c]]:
                m.best[c] = g


@jit(bare=True)
def _win(m: Memory, cell: int) -> None:
    m.winners[m.tally[WINNERS]] = cell
    m.tally[WINNERS] += 1


@jit(bare=True)
def _burst(m: Memory, column: int, rules: Array) -> None:
    start = column * rules[CELLS]
    for cell in range(start, start + rules[CELLS]):
        m.active[cell] = 1


@jit(bare=True)
def _reinforce(m: Memory, g: int, rules: Array) -> None:
    m.used[g] = m.tally[STEP]
    i = 0
    while i < m.size[g]:
        held = int(m.permanence[g, i])
        held = min(held + rules[UP], 1000) if m.before[m.source[g, i]] else held - rules[DOWN]
        if held <= 0:
            _drop(m, g, i)
        else:
            m.permanence[g, i] = held
            i += 1
    _grow(m, g, rules[GROW] - m.potential[g], rules[INITIAL])


@jit(bare=True)
def _punish(m: Memory, g: int, amount: int) -> None:
    i = 0
    while i < m.size[g]:
        held = int(m.permanence[g, i]) - (amount if m.before[m.source[g, i]] else 0)
        if held <= 0:
            _drop(m, g, i)
        else:
            m.permanence[g, i] = held
            i += 1


@jit(bare=True)
def _drop(m: Memory, g: int, i: int) -> None:
    last = m.size[g] - 1
    m.source[g, i] = m.source[g, last]
    m.permanence[g, i] = m.permanence[g, last]
    m.source[g, last] = 0
    m.permanence[g, last] = 0
    m.size[g] = last


@jit(bare=True)
def _grow(m: Memory, g: int, wanted: int, initial: int) -> None:
    """Add synapses to randomly chosen winners of the last step that the segment does not have; the weakest give way."""
    left = m.tally[EARLIER]
    while wanted > 0 and left > 0:
        j = below(m.rng, left)
        left -= 1
        cell = m.earlier[j]
        m.earlier[j] = m.earlier[left]
        m.earlier[left] = cell
        known = False
        for i in range(m.size[g]):
            known = known or m.source[g, i] == cell
        if not known:
            place = _room(m, g)
            if place < 0:
                return
            m.source[g, place] = cell
            m.permanence[g, place] = initial
            wanted -= 1


@jit(bare=True)
def _room(m: Memory, g: int) -> Any:
    """Find a place for one more synapse, in a full row that of the weakest one whose cell was silent; -1: none."""
    if m.size[g] < m.source.shape[1]:
        m.size[g] += 1
        return m.size[g] - 1
    return _weakest(m.source, m.permanence, m.before, g, m.tally[STEP])


@jit(bare=True)
def _weakest(source: Array, permanence: Array, before: Array, g: int, step: int) -> Any:
    """Find the weakest synapse whose cell was silent; of several as weak it is another one at each step."""
    weakest, least, first = -1, 1001, 0
    for i in range(source.shape[1]):
        held = permanence[g, i]
        if held <= least and not before[source[g, i]]:
            place = (int(source[g, i]) * 40503 + step * 25173) & 0xFFFF
            if held < least or place < first:
                weakest, least, first = i, int(held), place
    return weakest


@jit(bare=True)
def _least_used(m: Memory, column: int, cells: int) -> Any:
    """Pick the cell of the column with the fewest segments, ties at random."""
    chosen, least, ties = 0, 65536, 0
    for cell in range(column * cells, column * cells + cells):
        held = int(m.segments[cell])
        if held < least:
            chosen, least, ties = cell, held, 1
        elif held == least:
            ties += 1
            if below(m.rng, ties) == 0:
                chosen = cell
    return chosen


@jit(bare=True)
def _new_segment(m: Memory, cell: int) -> Any:
    """Open a segment; when all are taken the one not used for longest gives way."""
    if m.tally[SEGMENTS] < m.owner.shape[0]:
        g = m.tally[SEGMENTS]
        m.tally[SEGMENTS] += 1
    else:
        g = 0
        for i in range(1, m.owner.shape[0]):
            if m.used[i] < m.used[g]:
                g = i
        m.segments[m.owner[g]] -= 1
        for i in range(m.source.shape[1]):
            m.source[g, i] = 0
            m.permanence[g, i] = 0
    m.owner[g] = cell
    m.size[g] = 0
    m.used[g] = m.tally[STEP]
    m.segments[cell] += 1
    return g
