"""
Compressed chunks of samples: int64 nanosecond times and float64 values, lossless to the last bit.

A chunk is a 32-byte header, the times and the values::

    magic "EPC", version, time coding, value coding, 2 spare bytes,
    number of samples u32, length of the times u32, length of the values u32, first time i64, CRC-32 of all else

Times are stored as differences of differences, of which regular sampling has only one that is not zero. Values that
are steps of a scale, `(step * a + b) / d`, as every recorder's and most people's are, are stored as differences of
steps. Others are stored as they are or XORed with the value before, whichever is shorter. All of these are written
byte by byte (all first bytes, then all second ones, ...) and go through zstandard, which makes next to nothing of runs.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import zstandard
from numpy.typing import ArrayLike, NDArray

from eventproc.errors import DamagedData, InvalidInput

Times: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]
Words: TypeAlias = NDArray[np.uint64]

TARGET_SAMPLES: Final = 16_384  # a good size: compresses well, and little is decoded for a short query
MAX_SAMPLES: Final = 1 << 20  # a header that says more is damaged or hostile

_MAGIC: Final = b"EPC"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<3s5BIIIqI")
_LEVEL: Final = 3

_REGULAR: Final = 0  # times: the differences are equal; one int64 holds them
_DELTAS: Final = 1  # times: zigzag differences of differences, byte by byte, compressed
_PLAIN: Final = 0  # values: byte by byte, compressed
_XOR: Final = 1  # values: XORed with the value before, then as above
_STEPS: Final = 2  # values: a scale, then zigzag differences of int32 steps, byte by byte, compressed

_SCALE: Final = struct.Struct("<ddd")
_GAP: Final = -(1 << 31)  # the step that stands for NaN
_PROBE: Final = 64  # values that are looked at before all of them are tried


class Scale(NamedTuple):
    """Values are `(step * a + b) / d` for whole numbers `step`."""

    a: float = 1.0
    b: float = 0.0
    d: float = 1.0

    def apply(self, steps: NDArray[np.int64]) -> Values:
        with np.errstate(all="ignore"):
            values: Values = (steps.astype(np.float64) * self.a + self.b) / self.d
        values[steps == _GAP] = np.nan
        return values

    def steps(self, values: Values) -> NDArray[np.int64] | None:
        """Return the steps from which `apply` makes exactly these values, if there are such."""
        with np.errstate(all="ignore"):
            steps = np.rint((values * self.d - self.b) / self.a)
            steps[np.isnan(values)] = _GAP
            if not (np.abs(steps) <= -_GAP).all():  # also false where a step is not a number
                return None
            whole = steps.astype(np.int64)
        same = self.apply(whole).view(np.uint64) == values.view(np.uint64)
        return whole if same.all() else None


_DECIMALS: Final = tuple(Scale(d=10.0**digits) for digits in range(7))


def encode(times_ns: ArrayLike, values: ArrayLike, *, scale: Scale | None = None) -> bytes:
    """
    Pack times and values of equal length into one chunk; any order of times and any bit pattern of values survives.

    `scale` is a hint at how the values came about; numbers with up to six decimals need none, and a wrong hint does no
    harm. Raises InvalidInput for arrays that do not fit together or are longer than `MAX_SAMPLES`.
    """
    times = np.ascontiguousarray(times_ns, dtype="<i8")
    numbers = np.ascontiguousarray(values, dtype="<f8")
    if times.ndim != 1 or times.shape != numbers.shape:
        raise InvalidInput(f"a chunk needs times and values of equal length, not {times.shape} and {numbers.shape}")
    if len(times) > MAX_SAMPLES:
        raise InvalidInput(f"a chunk holds at most {MAX_SAMPLES} samples, not {len(times)}")
    time_coding, packed_times = _pack_times(times.view("<u8"))
    value_coding, packed_values = _pack_values(numbers, scale)
    first = int(times[0]) if len(times) else 0
    header = _HEADER.pack(
        _MAGIC, _VERSION, time_coding, value_coding, 0, 0, len(times), len(packed_times), len(packed_values), first, 0
    )
    body = packed_times + packed_values
    checksum = zlib.crc32(body, zlib.crc32(header))
    return header[:-4] + struct.pack("<I", checksum) + body


def decode(data: bytes) -> tuple[Times, Values]:
    """
    Unpack what `encode` made. Raises DamagedData, saying what is wrong with the bytes.

    Nothing is allocated beyond what the checked header announces.
    """
    if len(data) < _HEADER.size:
        raise _damaged(f"it has {len(data)} bytes, fewer than its header")
    magic, version, time_coding, value_coding, _, _, count, n_times, n_values, first, crc = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise _damaged("it does not begin like one")
    if version != _VERSION:
        raise _damaged(f"version {version} is not known to this release, which writes {_VERSION}")
    if len(data) != _HEADER.size + n_times + n_values:
        raise _damaged(f"it has {len(data)} bytes and should have {_HEADER.size + n_times + n_values}")
    body = memoryview(data)[_HEADER.size :]
    if zlib.crc32(body, zlib.crc32(data[: _HEADER.size - 4] + bytes(4))) != crc:
        raise _damaged("its checksum is wrong")
    if count > MAX_SAMPLES:
        raise _damaged(f"it claims {count} samples")
    times = _unpack_times(time_coding, bytes(body[:n_times]), count, first)
    return times, _unpack_values(value_coding, bytes(body[n_times:]), count)


def _pack_times(times: Words) -> tuple[int, bytes]:
    """Arithmetic is modulo 2**64, so that even the ends of the int64 range survive."""
    if len(times) < 2:
        return _REGULAR, b""
    deltas = np.diff(times)
    if (deltas == deltas[0]).all():
        return _REGULAR, deltas[:1].tobytes()
    steps = np.diff(deltas, prepend=np.zeros(1, dtype="<u8"))
    return _DELTAS, _squeeze(_zigzag(steps.view("<i8")))


def _unpack_times(coding: int, data: bytes, count: int, first: int) -> Times:
    times = np.empty(count, dtype="<u8")
    if count == 0:
        return times.view("<i8")
    times[0] = np.array(first, dtype="<i8").view("<u8")
    if coding == _REGULAR:
        if len(data) != (8 if count > 1 else 0):
            raise _damaged("its times have the wrong length")
        times[1:] = np.frombuffer(data, dtype="<u8")[0] if count > 1 else 0
    elif coding == _DELTAS:
        steps = _unzigzag(_expand(data, count - 1))
        np.cumsum(steps.view("<u8"), out=times[1:])
    else:
        raise _damaged(f"time coding {coding} is not known")
    return np.cumsum(times, out=times).view("<i8")


def scale_of(data: bytes) -> Scale | None:
    """Return the scale that a chunk's values are stored in, to pack them again with it; None for damaged chunks too."""
    if len(data) < _HEADER.size:
        return None
    _, _, _, coding, _, _, _, n_times, n_values, _, _ = _HEADER.unpack_from(data)
    if coding != _STEPS or n_values < _SCALE.size or len(data) != _HEADER.size + n_times + n_values:
        return None
    return Scale(*_SCALE.unpack_from(data, _HEADER.size + n_times))


def _pack_values(values: Values, hint: Scale | None) -> tuple[int, bytes]:
    for scale in (hint, *_DECIMALS) if hint else _DECIMALS:
        if scale.steps(values[:_PROBE]) is not None and (steps := scale.steps(values)) is not None:
            return _STEPS, _SCALE.pack(*scale) + _squeeze(_zigzag(np.diff(steps, prepend=0)).astype("<u8"))
    words = values.view("<u8")
    plain = _squeeze(words)
    if len(words) < 2:
        return _PLAIN, plain
    xored = words.copy()
    xored[1:] ^= words[:-1]
    differences = _squeeze(xored)
    return (_XOR, differences) if len(differences) < len(plain) else (_PLAIN, plain)


def _unpack_values(coding: int, data: bytes, count: int) -> Values:
    if coding == _STEPS:
        if len(data) < _SCALE.size:
            raise _damaged("a part of it has the wrong length")
        steps = np.cumsum(_unzigzag(_expand(data[_SCALE.size :], count)))
        return Scale(*_SCALE.unpack_from(data)).apply(steps)
    words = _expand(data, count)
    if coding == _XOR:
        np.bitwise_xor.accumulate(words, out=words)
    elif coding != _PLAIN:
        raise _damaged(f"value coding {coding} is not known")
    return words.view("<f8")


def _zigzag(numbers: NDArray[np.int64]) -> Words:
    """Make small numbers of either sign small numbers without sign."""
    zigzag: Words = (numbers.view("<u8") << np.uint64(1)) ^ (numbers >> np.int64(63)).view("<u8")
    return zigzag


def _unzigzag(words: Words) -> NDArray[np.int64]:
    sign = -(words & np.uint64(1)).view("<i8")
    numbers: NDArray[np.int64] = ((words >> np.uint64(1)) ^ sign.view("<u8")).view("<i8")
    return numbers


def _squeeze(words: Words) -> bytes:
    """Write all first bytes, then all second ones and so on, and compress."""
    planes = np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8).T)
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False).compress(planes.tobytes())


def _expand(data: bytes, count: int) -> Words:
    try:
        if zstandard.frame_content_size(data) != count * 8:
            raise _damaged("a part of it has the wrong length")
        raw = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _damaged(f"it can not be decompressed ({error})") from error
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(8, count)
    return np.ascontiguousarray(planes.T).view("<u8").reshape(count)


def _damaged(why: str) -> DamagedData:
    return DamagedData(f"a chunk of samples is damaged: {why}")
