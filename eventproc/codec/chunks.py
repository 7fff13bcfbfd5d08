"""
Compressed chunks of samples: int64 nanosecond times and float64 values, lossless to the last bit.

A chunk is a 32-byte header, the times and the values::

    magic "EPC", version, time coding, value coding, 2 spare bytes,
    number of samples u32, length of the times u32, length of the values u32, first time i64, CRC-32 of all else

Times are stored as differences of differences, of which regular sampling has only one that is not zero. Values are
stored byte by byte (all first bytes, then all second ones, ...), as they are or XORed with the value before, whichever
is shorter. Both then go through zstandard, which turns runs and repetitions into next to nothing.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, TypeAlias

import numpy as np
import zstandard
from numpy.typing import ArrayLike, NDArray

from eventproc.errors import EventprocError, InvalidInput

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


def encode(times_ns: ArrayLike, values: ArrayLike) -> bytes:
    """
    Pack times and values of equal length into one chunk; any order of times and any bit pattern of values survives.

    Raises InvalidInput for arrays that do not fit together or are longer than `MAX_SAMPLES`.
    """
    times = np.ascontiguousarray(times_ns, dtype="<i8")
    numbers = np.ascontiguousarray(values, dtype="<f8")
    if times.ndim != 1 or times.shape != numbers.shape:
        raise InvalidInput(f"a chunk needs times and values of equal length, not {times.shape} and {numbers.shape}")
    if len(times) > MAX_SAMPLES:
        raise InvalidInput(f"a chunk holds at most {MAX_SAMPLES} samples, not {len(times)}")
    time_coding, packed_times = _pack_times(times.view("<u8"))
    value_coding, packed_values = _pack_values(numbers.view("<u8"))
    first = int(times[0]) if len(times) else 0
    header = _HEADER.pack(
        _MAGIC, _VERSION, time_coding, value_coding, 0, 0, len(times), len(packed_times), len(packed_values), first, 0
    )
    body = packed_times + packed_values
    checksum = zlib.crc32(body, zlib.crc32(header))
    return header[:-4] + struct.pack("<I", checksum) + body


def decode(data: bytes) -> tuple[Times, Values]:
    """
    Unpack what `encode` made. Raises EventprocError, saying what is wrong, for bytes that are damaged.

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
    signed = steps.view("<i8")
    zigzag = (steps << np.uint64(1)) ^ (signed >> np.int64(63)).view("<u8")
    return _DELTAS, _squeeze(zigzag)


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
        zigzag = _expand(data, count - 1)
        sign = -(zigzag & np.uint64(1)).view("<i8")
        steps = (zigzag >> np.uint64(1)) ^ sign.view("<u8")
        np.cumsum(steps, out=times[1:])
    else:
        raise _damaged(f"time coding {coding} is not known")
    return np.cumsum(times, out=times).view("<i8")


def _pack_values(words: Words) -> tuple[int, bytes]:
    plain = _squeeze(words)
    if len(words) < 2:
        return _PLAIN, plain
    xored = words.copy()
    xored[1:] ^= words[:-1]
    differences = _squeeze(xored)
    return (_XOR, differences) if len(differences) < len(plain) else (_PLAIN, plain)


def _unpack_values(coding: int, data: bytes, count: int) -> Values:
    words = _expand(data, count)
    if coding == _XOR:
        np.bitwise_xor.accumulate(words, out=words)
    elif coding != _PLAIN:
        raise _damaged(f"value coding {coding} is not known")
    return words.view("<f8")


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


def _damaged(why: str) -> EventprocError:
    return EventprocError(f"a chunk of samples is damaged: {why}")
