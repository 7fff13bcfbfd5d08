"""
CSV files of one series: a column of times and one of values, found by name, by position, or by what is in them.

A row that can not be read is refused by itself, with its line and the reason; its neighbours live.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eventproc.errors import InvalidInput
from eventproc.scoring.dates import DateFormat, detect_format, format_named, looks_like_date

TIME_NAMES = ("timestamp", "time", "datetime", "date_time", "dttm", "date", "ts", "ds", "t")
VALUE_NAMES = ("value", "metric_value", "val", "y", "x", "reading", "measurement", "count")
LABEL_NAMES = ("label", "labels", "is_anomaly", "anomaly", "anomalies", "is_outlier", "outlier", "ground_truth")
COUNTING_NAMES = frozenset({"", "id", "index", "row", "rowid", "row_id", "no", "nr", "unnamed: 0"})
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "--", "?", "missing", "#n/a"})
# Second and third line of the files of NuPIC and htmengine: types, and flags.
_TYPES = frozenset({"datetime", "float", "int", "string", "bool", "list", "sdr"})
_FLAGS = frozenset({"t", "r", "s", "c", "l", ""})
_SAMPLE_ROWS = 1000
_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold what: a header's name or a number from 1 (None: find it); and how they are read."""

    timestamp: str | None = None
    value: str | None = None
    label: str | None = None
    delimiter: str | None = None
    date_format: str | None = None


@dataclass(frozen=True)
class Refused:
    """A row that was not taken, or was taken although something about it is odd."""

    line: int
    reason: str
    kind: str  # time, value, short, missing; repeated, unordered

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A series as it was read, in the file's order."""

    stamps: list[str]  # the times as they were written
    seconds: NDArray[np.float64]  # since 1970 UTC
    values: NDArray[np.float64]
    labels: NDArray[np.float64] | None  # above 0: part of an anomaly, as somebody stated
    lines: list[int]
    refused: list[Refused] = field(default_factory=list)  # rows without a usable time or value
    odd: list[Refused] = field(default_factory=list)  # rows whose time repeats or goes back
    missing: int = 0  # rows without a value, which are left out
    date_format: DateFormat
    columns: dict[str, str]  # what was read from where, for people

    def taken(self, keep: NDArray[np.bool_]) -> Table:
        """Return the table with only some of its rows."""
        picked = np.flatnonzero(keep).tolist()
        return Table(
            stamps=[self.stamps[i] for i in picked],
            seconds=self.seconds[keep],
            values=self.values[keep],
            labels=None if self.labels is None else self.labels[keep],
            lines=[self.lines[i] for i in picked],
            refused=self.refused,
            odd=self.odd,
            missing=self.missing,
            date_format=self.date_format,
            columns=self.columns,
        )

    def advancing(self) -> Table:
        """Return only the rows that are later than all before them, as the platform takes live samples."""
        before = np.maximum.accumulate(np.concatenate([[-np.inf], self.seconds[:-1]])) if self.lines else self.seconds
        return self.taken(self.seconds > before)


def read_csv(
    path: Path | str, columns: Columns | None = None, *, zone: dt.tzinfo = dt.UTC, option: str = "date_format"
) -> Table:
    """
    Read a series from a file (`-`: stdin; .gz is unpacked).

    Args:
        path: The file.
        columns: Where to look; whatever is not given is found by name, then by content.
        zone: The zone of times that name none.
        option: What messages call the way to name a date format.

    Raises:
        InvalidInput: the file can not be read as a table, a column is not there, or the dates are ambiguous.

    """
    columns = columns or Columns()
    text = _text(path)
    rows, delimiter = _rows(text, columns.delimiter)
    if not rows:
        raise InvalidInput(f"{path}: the file holds no rows")
    header, body = _split(rows)
    places = _Places(path, header, body, columns)
    if not body:
        raise InvalidInput(f"{path}: the file holds a header and no rows")
    return _read(places, body, columns, delimiter=delimiter, zone=zone, option=option)


def _text(path: Path | str) -> str:
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError) as error:
        raise InvalidInput(f"{path} can not be read: {getattr(error, 'strerror', None) or error}") from error
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _rows(text: str, delimiter: str | None) -> tuple[list[tuple[int, list[str]]], str]:
    """Split into rows, each with its line; empty lines and leading comments do not count."""
    delimiter = delimiter or _delimiter(text)
    found: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text.replace("\0", "")), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            if not any(cell.strip() for cell in row) or (not found and row[0].startswith("#")):
                continue
            found.append((reader.line_num, row))
    except csv.Error as error:
        raise InvalidInput(f"line {reader.line_num}: not a CSV row: {error}") from error
    return found, delimiter


def _delimiter(text: str) -> str:
    """Take the character that divides most lines into the same number of cells, two or more."""
    lines = [line for line in text[:65_536].splitlines() if line.strip() and not line.startswith("#")][:50]
    best, most = ",", 0
    for each in ("\t", ";", "|", ","):
        counts = [line.count(each) for line in lines]
        common = max(set(counts), key=counts.count, default=0)
        agreeing = counts.count(common) if common else 0
        if agreeing > most:
            best, most = each, agreeing
    return best


def _split(rows: list[tuple[int, list[str]]]) -> tuple[list[str] | None, list[tuple[int, list[str]]]]:
    """Tell a header from the rows: its cells are neither numbers nor dates."""
    first = [cell.strip() for cell in rows[0][1]]
    if any(_is_number(cell) or looks_like_date(cell) for cell in first) or not any(re.search(r"\w", c) for c in first):
        return None, rows
    body = rows[1:]
    if len(body) >= 2:
        types, flags = ([cell.strip().lower() for cell in row] for _, row in body[:2])
        if any(types) and set(types) <= _TYPES and set(flags) <= _FLAGS:
            body = body[2:]
    return first, body


def _is_number(text: str) -> bool:
    try:
        _value(text, comma=True)
    except ValueError:
        return False
    return True


def _value(text: str, *, comma: bool) -> float:
    if comma and _COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if "_" in text:
        raise ValueError("not a number")
    return float(text)


class _Places:
    """Where the columns are."""

    def __init__(
        self,
        path: Path | str,
        header: list[str] | None,
        body: list[tuple[int, list[str]]],
        columns: Columns,
    ) -> None:
        self.path, self.header = path, header
        self._sample = [[cell.strip() for cell in row] for _, row in body[:_SAMPLE_ROWS]]
        self.width = max([len(header or []), *(len(row) for row in self._sample)])
        self.label = self._given(columns.label, "label") if columns.label else self._named(LABEL_NAMES)
        self.timestamp = self._given(columns.timestamp, "timestamp") if columns.timestamp else self._find_time()
        self.value = self._given(columns.value, "value") if columns.value else self._find_value()
        if self.value == self.timestamp:
            raise InvalidInput(f"{path}: column {self.title(self.value)} can not be both the timestamp and the value")

    def title(self, place: int) -> str:
        """Name a column for people."""
        return self.header[place] if self.header and place < len(self.header) else f"column {place + 1}"

    def _given(self, wanted: str, what: str) -> int:
        names = [name.lower() for name in self.header or []]
        if wanted.lower() in names:
            return names.index(wanted.lower())
        if wanted.isdigit() and 1 <= int(wanted) <= self.width:
            return int(wanted) - 1
        there = ", ".join(self.header) if self.header else f"no header; numbers 1 to {self.width} can be given"
        raise InvalidInput(f"{self.path}: there is no {what} column {wanted!r}; there are: {there}", column=wanted)

    def _named(self, known: Sequence[str]) -> int | None:
        names = [name.strip().lower() for name in self.header or []]
        return next((names.index(name) for name in known if name in names), None)

    def _share(self, place: int, holds: object) -> float:
        cells = [row[place] for row in self._sample if place < len(row) and row[place].lower() not in MISSING]
        assert callable(holds)
        return sum(bool(holds(cell)) for cell in cells) / len(cells) if cells else 0.0

    def _find_time(self) -> int:
        named = self._named(TIME_NAMES)
        if named is not None:
            return named
        dated = [place for place in range(self.width) if self._share(place, looks_like_date) > 0.5]
        if dated:
            return dated[0]
        if self.width >= 2 and self._share(0, _is_number) > 0.5:
            return 0
        raise InvalidInput(
            f"{self.path}: no column holds times (looked for {', '.join(TIME_NAMES[:5])}, … and for dates); "
            "name it with --timestamp-column"
        )

    def _find_value(self) -> int:
        named = self._named(VALUE_NAMES)
        if named is not None and named != self.timestamp:
            return named
        others = [place for place in range(self.width) if place not in (self.timestamp, self.label)]
        counting = [place for place in others if self.header and self.title(place).strip().lower() in COUNTING_NAMES]
        numeric = [place for place in others if self._share(place, _is_number) > 0.5]
        for place in sorted(numeric, key=lambda place: (place in counting, place)):
            return place
        raise InvalidInput(
            f"{self.path}: no column but that of the times holds numbers; name the right one with --value-column"
        )


def _read(
    places: _Places,
    body: list[tuple[int, list[str]]],
    columns: Columns,
    *,
    delimiter: str,
    zone: dt.tzinfo,
    option: str,
) -> Table:
    at, of = places.timestamp, places.value
    texts = [row[at] for _, row in body if at < len(row) and row[at].strip().lower() not in MISSING]
    form = format_named(columns.date_format) if columns.date_format else detect_format(texts, option=option)
    filling = _Filling(places, form, zone, comma=delimiter != ",")
    for line, row in body:
        filling.take(line, row, at, of)
    if not filling.values:
        first = f" ({filling.refused[0]})" if filling.refused else ""
        raise InvalidInput(f"{places.path}: none of {len(body)} rows has a usable time and value{first}")
    names = {"timestamp": places.title(at), "value": places.title(of)}
    if places.label is not None:
        names["label"] = places.title(places.label)
    return Table(
        stamps=filling.stamps,
        seconds=np.array(filling.micro, np.int64) / 1e6,
        values=np.array(filling.values, np.float64),
        labels=np.array(filling.labels, np.float64) if places.label is not None else None,
        lines=filling.lines,
        refused=filling.refused,
        odd=filling.odd,
        missing=filling.missing,
        date_format=form,
        columns=names,
    )


class _Filling:
    """Rows, one after the other."""

    def __init__(self, places: _Places, form: DateFormat, zone: dt.tzinfo, *, comma: bool) -> None:
        self._places, self._form, self._zone, self._comma = places, form, zone, comma
        self.stamps: list[str] = []
        self.micro: list[int] = []
        self.values: list[float] = []
        self.labels: list[float] = []
        self.lines: list[int] = []
        self.refused: list[Refused] = []
        self.odd: list[Refused] = []
        self.missing = 0
        self._latest: int | None = None

    def take(self, line: int, row: list[str], at: int, of: int) -> None:
        if max(at, of) >= len(row):
            self.refused.append(Refused(line, f"{len(row)} cells, column {max(at, of) + 1} is needed", "short"))
            return
        stamp, text = row[at].strip(), row[of].strip()
        if text.lower() in MISSING:
            self.missing += 1
            return
        try:
            micro = self._form.read_us(stamp, self._zone)
        except (ValueError, OverflowError) as error:
            reason = f"the timestamp {stamp[:60]!r} is not of the form {self._form.name}: {error}"
            self.refused.append(Refused(line, reason, "time"))
            return
        try:
            value = _value(text, comma=self._comma)
        except ValueError:
            self.refused.append(Refused(line, f"the value {text[:60]!r} is no number", "value"))
            return
        if not math.isfinite(value):
            self.refused.append(Refused(line, f"the value {text} is not finite", "value"))
            return
        self._keep(line, stamp, micro, value, row)

    def _keep(self, line: int, stamp: str, micro: int, value: float, row: list[str]) -> None:
        if self._latest is not None and micro <= self._latest:
            same = micro == self._latest
            what = "repeats the time before it" if same else "is earlier than a row before it"
            self.odd.append(Refused(line, f"{stamp} {what}", "repeated" if same else "unordered"))
        self._latest = micro if self._latest is None else max(self._latest, micro)
        self.stamps.append(stamp)
        self.micro.append(micro)
        self.values.append(value)
        self.lines.append(line)
        if self._places.label is not None:
            self.labels.append(_label(row[self._places.label] if self._places.label < len(row) else ""))


def _label(text: str) -> float:
    word = text.strip().lower()
    if word in ("true", "yes", "anomaly", "outlier"):
        return 1.0
    try:
        found = float(word)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0
