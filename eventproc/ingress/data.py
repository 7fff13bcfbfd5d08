"""
The .dat of a COMTRADE record as columns: sample numbers, time stamps, analog and status channels.

Values that the recorder marked as missing are NaN: 99999 or nothing in ASCII, 0x8000 in BINARY, 0x80000000 in BINARY32
and the most negative float in FLOAT32; 1991 had nothing (ASCII) and 0xFFFF (BINARY). Columns are converted one at a
time, so that a wide record never stands in memory as floats as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from eventproc.errors import IngressError
from eventproc.ingress.config import Config

Values: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]

NO_STAMP: Final = 0xFFFFFFFF
MAX_CELLS: Final = 64_000_000  # values of one record
MAX_ASCII: Final = 128 << 20  # bytes of an ASCII .dat, which takes several times that to read
_WORD: Final = 16  # status channels in one field of a binary row
_BLOCK: Final = 1 << 16  # ASCII rows that are converted at once hold about so many values
_TAIL: Final = b"\x00\x1a\r\n\t ,"


class Data(ABC):
    """The rows of a .dat, at most as many as the .cfg announces; `extra` counts those beyond."""

    rows: int
    extra: int
    numbers: Numbers
    stamps: Values | Numbers  # NaN or NO_STAMP where a row has none

    @abstractmethod
    def analog(self, index: int) -> Values:
        """Return a channel's raw values, NaN where they are missing."""

    @abstractmethod
    def status(self, index: int) -> Values:
        """Return a channel's states as 0.0 and 1.0, NaN where they are missing."""


def parse_data(config: Config, data: bytes) -> Data:
    """Read the bytes of a .dat. Raises IngressError when they do not fit the .cfg."""
    return _Ascii(config, data) if config.format == "ASCII" else _Binary(config, data)


class _Binary(Data):
    def __init__(self, config: Config, data: bytes) -> None:
        self._analog, self._missing = {
            "BINARY": ("<i2", -1 if config.revision == "1991" else -(1 << 15)),
            "BINARY32": ("<i4", -(1 << 31)),
            "FLOAT32": ("<f4", float(-np.finfo(np.float32).max)),
        }[config.format]
        words = -(-len(config.status) // _WORD)
        row = np.dtype(
            [
                ("number", "<u4"),
                ("stamp", "<u4"),
                ("analog", self._analog, (len(config.analog),)),
                ("status", "<u2", (words,)),
            ]
        )
        whole, rest = divmod(len(data), row.itemsize)
        self.rows = min(whole, config.samples or whole)
        self.extra = whole - self.rows
        # A rest after all announced rows is padding; where rows are lacking it is the trace of the cut.
        if rest and not config.samples:
            raise IngressError(f"the .dat's {len(data)} bytes are not whole rows of {row.itemsize} bytes")
        _check_rows(self.rows, config)
        self._table: NDArray[Any] = np.frombuffer(data, dtype=row, count=self.rows)
        self.numbers = self._table["number"].astype(np.int64)
        self.stamps = self._table["stamp"].astype(np.int64)

    def analog(self, index: int) -> Values:
        raw = self._table["analog"][:, index]
        values: Values = raw.astype(np.float64)
        values[raw == self._missing] = np.nan
        return values

    def status(self, index: int) -> Values:
        word = self._table["status"][:, index // _WORD]
        states: Values = ((word >> np.uint16(index % _WORD)) & np.uint16(1)).astype(np.float64)
        return states


class _Ascii(Data):
    def __init__(self, config: Config, data: bytes) -> None:
        if len(data) > MAX_ASCII:
            raise IngressError(f"the ASCII .dat has {len(data)} bytes, and {MAX_ASCII} are the limit", limit=MAX_ASCII)
        if b"\0" in data.rstrip(_TAIL):
            raise IngressError("the .cfg announces an ASCII .dat, and it is a binary file")
        lines = data.replace(b"\x1a", b"").splitlines()
        while lines and not lines[-1].strip(_TAIL):
            lines.pop()
        self._first_status = 2 + len(config.analog)
        self._missing = None if config.revision == "1991" else 99999.0
        width = self._first_status + len(config.status)
        whole = len(lines)
        self.rows = min(whole, config.samples or whole)
        self.extra = whole - self.rows
        _check_rows(self.rows, config)
        self._table = np.empty((width, self.rows), dtype=np.float64)
        step = max(1, _BLOCK // width)
        for begin in range(0, self.rows, step):
            block = lines[begin : min(begin + step, self.rows)]
            self._table[:, begin : begin + len(block)] = _numbers(block, width, begin).T
        if np.isnan(self._table[0]).any():
            row = int(np.flatnonzero(np.isnan(self._table[0]))[0])
            raise IngressError(f"line {row + 1} of the .dat has no sample number", line=row + 1)
        self.numbers = self._table[0].astype(np.int64)
        self.stamps = self._table[1]
        self._check_states()

    def analog(self, index: int) -> Values:
        values = self._table[2 + index]
        return values if self._missing is None else np.where(values == self._missing, np.nan, values)

    def status(self, index: int) -> Values:
        states: Values = self._table[self._first_status + index]
        return states

    def _check_states(self) -> None:
        states = self._table[self._first_status :]
        strange = ~(np.isnan(states) | (states == 0) | (states == 1))
        if strange.any():
            channel, row = (int(i) for i in np.argwhere(strange)[0])
            raise IngressError(
                f"line {row + 1} of the .dat: status channel {channel + 1} is {states[channel, row]:g}, not 0 or 1",
                line=row + 1,
            )


def _check_rows(rows: int, config: Config) -> None:
    if rows == 0:
        raise IngressError("the .dat holds no samples")
    if rows < config.samples:
        raise IngressError(f"the .dat holds {rows} samples and the .cfg announces {config.samples}: it seems cut off")
    cells = rows * (len(config.channels) + 2)
    if cells > MAX_CELLS:
        raise IngressError(f"the record holds {cells} values, and {MAX_CELLS} are the limit", limit=MAX_CELLS)


def _numbers(lines: list[bytes], width: int, before: int) -> Values:
    """Convert lines of `width` numbers; fields that are blank become NaN."""
    if all(line.count(b",") == width - 1 for line in lines):
        text = b",".join(lines)
        if b",," not in text and not any(line.endswith(b",") or line.startswith(b",") for line in lines):
            try:
                return np.array(text.split(b","), dtype=np.float64).reshape(len(lines), width)
            except ValueError:
                pass  # the careful way below says which line it is
    return np.array([_row(line, width, before + i) for i, line in enumerate(lines, start=1)], dtype=np.float64)


def _row(line: bytes, width: int, number: int) -> list[float]:
    fields = [field.strip() for field in line.split(b",")]
    while len(fields) > width and not fields[-1]:
        fields.pop()
    if len(fields) != width:
        raise IngressError(
            f"line {number} of the .dat has {len(fields)} fields and the .cfg's channels need {width}", line=number
        )
    try:
        return [float(field) if field else float("nan") for field in fields]
    except ValueError as error:
        raise IngressError(f"line {number} of the .dat: {error}", line=number) from error
