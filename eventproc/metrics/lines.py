"""Graphite's plaintext protocol: `name value timestamp` lines, many at a time."""

from __future__ import annotations

import numpy as np

from eventproc.metrics.batch import Batch, Refusal
from eventproc.model import RejectReason

MAX_LINE = 4096  # bytes, without the line's end


def parse_lines(block: bytes) -> Batch:
    """
    Read whole lines, LF or CRLF behind each; the last one may lack it.

    A line is three words between any white space: the metric's name, its value, and the time in seconds since 1970,
    both with or without a fraction. Each line that is none is refused by itself.
    """
    return _all_good(block) or _one_by_one(block)


def _all_good(block: bytes) -> Batch | None:
    """Read a block in which every line is good, at the speed of C; None if any line is not."""
    if b"\0" in block:
        return None
    # A word of its own behind each line shows whether every line has three.
    words = block.replace(b"\n", b" \0 ").split()
    if words and words[-1] != b"\0":
        words.append(b"\0")
    count, rest = divmod(len(words), 4)
    if rest or words[3::4].count(b"\0") != count:
        return None
    values = words[1::4]
    seconds = words[2::4]
    if b"_" in b"".join(values) or b"_" in b"".join(seconds):  # Python takes 1_000 for a number, nobody else does
        return None
    try:
        numbers = np.array([*map(float, values)], dtype=np.float64)
        times = np.array([*map(float, seconds)], dtype=np.float64)
    except ValueError:
        return None
    return Batch(names=words[0::4], seconds=times, values=numbers)


def _one_by_one(block: bytes) -> Batch:
    names: list[bytes] = []
    seconds: list[float] = []
    values: list[float] = []
    numbers: list[int] = []
    refusals: list[Refusal] = []
    lines = block.split(b"\n")
    if not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines):
        refusal = _read(line, names, values, seconds)
        if refusal is None:
            numbers.append(number)
        else:
            reason, metric = refusal
            refusals.append(Refusal(reason, metric, shown(line), number))
    return Batch(
        names=names,
        seconds=np.array(seconds, dtype=np.float64),
        values=np.array(values, dtype=np.float64),
        lines=np.array(numbers, dtype=np.int64),
        refusals=refusals,
    )


def _read(
    line: bytes, names: list[bytes], values: list[float], seconds: list[float]
) -> tuple[RejectReason, str] | None:
    """Append what the line says, or return why it says nothing, and of which metric."""
    words = line.split()
    if len(line) > MAX_LINE:
        return RejectReason.TOO_LONG, ""
    if len(words) != 3:
        return RejectReason.UNREADABLE, ""
    value, time = number(words[1]), number(words[2])
    if value is None:
        return RejectReason.BAD_VALUE, shown(words[0])
    if time is None:
        return RejectReason.BAD_TIME, shown(words[0])
    names.append(words[0])
    values.append(value)
    seconds.append(time)
    return None


def number(word: bytes) -> float | None:
    """Read a number as Graphite writes it."""
    try:
        return None if b"_" in word else float(word)
    except ValueError:
        return None


def shown(line: bytes) -> str:
    """Write bytes so that people can read them."""
    return line[:400].decode("ascii", "backslashreplace").strip()
