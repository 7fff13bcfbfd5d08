"""
A made-up fault record in valid COMTRADE, for demonstrations and tests.

Ten cycles of a 60 Hz line at 4800 samples a second. After four cycles phase A falls to ground: its current grows
eightfold with a decaying offset, its voltage sags, the relay's pickup and then its trip contact close; after four more
cycles the breaker clears the fault.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]

FREQUENCY: Final = 60.0
RATE: Final = 4800
SAMPLES: Final = 800
START: Final = "14/03/2026,10:21:07.250000"
TRIGGER: Final = "14/03/2026,10:21:07.316667"
START_NS: Final = 1_773_483_667_250_000_000

_FAULT: Final = 4 / FREQUENCY  # seconds from the start
_CLEARED: Final = 8 / FREQUENCY
_VOLT: Final = 115_000 * np.sqrt(2 / 3)  # peak, phase to ground
_AMPERE: Final = 600 * np.sqrt(2)
_STEP_V: Final = 5.0  # volts a count
_STEP_A: Final = 0.5  # amperes a count


@dataclass(frozen=True, kw_only=True)
class FaultRecord:
    """The waveforms by channel name, in counts of the recorder, and its two contacts."""

    volts: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    amperes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    contacts: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def cfg(self, form: str = "ASCII", *, station: str = "Demo Substation", device: str = "Relay 7") -> bytes:
        """Write the configuration of revision 1999."""
        analog = [(name, "V", _STEP_V) for name in self.volts] + [(name, "A", _STEP_A) for name in self.amperes]
        lines = [f"{station},{device},1999", f"{len(analog) + len(self.contacts)},{len(analog)}A,{len(self.contacts)}D"]
        for number, (name, unit, step) in enumerate(analog, start=1):
            lines.append(f"{number},{name},{name[-1]},Line 1,{unit},{step},0,0,-32767,32767,1,1,P")
        lines += [f"{number},{name},,Line 1,0" for number, name in enumerate(self.contacts, start=1)]
        lines += [f"{FREQUENCY:g}", "1", f"{RATE},{SAMPLES}", START, TRIGGER, form, "1"]
        return ("\r\n".join(lines) + "\r\n").encode()

    def ascii(self) -> bytes:
        """Write the data as text."""
        columns = [*self.volts.values(), *self.amperes.values(), *self.contacts.values()]
        table = np.stack([np.arange(1, SAMPLES + 1), np.arange(SAMPLES) * 1_000_000 // RATE, *columns], axis=1)
        return "".join(",".join(map(str, row)) + "\r\n" for row in table.tolist()).encode()

    def binary(self) -> bytes:
        """Write the data as 16-bit numbers."""
        row = np.dtype([("number", "<u4"), ("stamp", "<u4"), ("analog", "<i2", (6,)), ("status", "<u2")])
        table = np.zeros(SAMPLES, dtype=row)
        table["number"] = np.arange(1, SAMPLES + 1)
        table["stamp"] = np.arange(SAMPLES) * 1_000_000 // RATE
        for i, column in enumerate([*self.volts.values(), *self.amperes.values()]):
            table["analog"][:, i] = column
        for i, contact in enumerate(self.contacts.values()):
            table["status"] |= (contact << i).astype(np.uint16)
        return table.tobytes()


def fault_record(*, seed: int = 7) -> FaultRecord:
    """Compute the record; `seed` decides its noise."""
    random = np.random.default_rng(seed)
    seconds = np.arange(SAMPLES) / RATE
    faulty = (seconds >= _FAULT) & (seconds < _CLEARED)
    volts, amperes = {}, {}
    for phase, shift in (("A", 0.0), ("B", -2 * np.pi / 3), ("C", 2 * np.pi / 3)):
        angle = 2 * np.pi * FREQUENCY * seconds + shift
        volt, ampere = _VOLT * np.cos(angle), _AMPERE * np.cos(angle - 0.5)
        if phase == "A":
            # The current in an inductive loop can not jump: an offset that decays makes up the difference.
            offset = -8 * np.cos(2 * np.pi * FREQUENCY * _FAULT - 1.4) * np.exp((_FAULT - seconds) / 0.03)
            volt = np.where(faulty, 0.35 * volt, volt)
            ampere = np.where(faulty, _AMPERE * (8 * np.cos(angle - 1.4) + offset), ampere)
        volts[f"V{phase}"] = np.rint((volt + random.normal(0, 80, SAMPLES)) / _STEP_V).astype(np.int64)
        amperes[f"I{phase}"] = np.rint((ampere + random.normal(0, 4, SAMPLES)) / _STEP_A).astype(np.int64)
    return FaultRecord(
        volts=volts,
        amperes=amperes,
        contacts={
            "PICKUP": faulty.astype(np.int64),
            "TRIP": (faulty & (seconds >= _FAULT + 1 / FREQUENCY)).astype(np.int64),
        },
    )


def sample_files() -> dict[str, bytes]:
    """Return the record as files, once as text and once binary (another relay, with another noise)."""
    first, second = fault_record(), fault_record(seed=8)
    return {
        "fault_ascii.cfg": first.cfg(),
        "fault_ascii.dat": first.ascii(),
        "fault_binary.cfg": second.cfg("BINARY", device="Relay 8"),
        "fault_binary.dat": second.binary(),
    }


def pack(files: Mapping[str, bytes]) -> bytes:
    """Put files into a zip archive; of the same files it is the same at any time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)  # of 1980
            member.external_attr = 0o644 << 16
            archive.writestr(member, content, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
