"""
A detector's state as one blob: versioned, checksummed, compressed; or as the difference to an earlier blob.

Layout: 8 bytes magic with the version, 16 bytes checksum of all that follows, 16 bytes checksum of the blob this one is
a difference to (zeros: whole), 4 bytes length of the content, then the content compressed by zstandard. Content: 4
bytes length of the header, the header (JSON: kind, parameters, arrays' names, types and shapes), the arrays.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

VERSION = 1
_NAME = b"EPHTM\x00\x00"
MAGIC = _NAME + bytes([VERSION])
_DIGEST = slice(8, 24)
_HEAD = struct.Struct("<8s16s16sI")
_LENGTH = struct.Struct("<I")
_WHOLE = bytes(16)
_LARGEST = 1 << 30
_LEVEL = 1  # of zstandard: 3 takes half as long again for a tenth less
_LEVEL_AGAINST = 3

Arrays = dict[str, NDArray[Any]]


class StateError(ValueError):
    """The blob is not a saved state that can be read here."""


def pack(kind: str, about: dict[str, Any], arrays: Arrays, *, base: bytes | None = None) -> bytes:
    """Write a state; with `base`, an earlier whole blob of the same detector, only what differs."""
    layout = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({"kind": kind, "about": about, "arrays": layout}, separators=(",", ":")).encode()
    parts = [_LENGTH.pack(len(header)), header, *(np.ascontiguousarray(array).tobytes() for array in arrays.values())]
    content = b"".join(parts)
    earlier = None if base is None else _content(base)
    frame = _compressor(earlier, len(content)).compress(content)
    against = _WHOLE if base is None else base[_DIGEST]
    return _HEAD.pack(MAGIC, _digest(against, len(content), frame), against, len(content)) + frame


def unpack(blob: bytes, *, base: bytes | None = None, checked: bool = False) -> tuple[str, dict[str, Any], Arrays]:
    """
    Read a state: kind, about, arrays (read-only). A difference needs the blob it was made against.

    `checked`: whoever gives the blob has looked at a checksum over it, and another look would only cost time.
    """
    content = _content(blob, base, checked=checked)
    try:
        (length,) = _LENGTH.unpack_from(content)
        header = _read_header(content[_LENGTH.size : _LENGTH.size + length])
        arrays: Arrays = {}
        at = _LENGTH.size + length
        for name, kind, shape in header["arrays"]:
            size = np.dtype(kind).itemsize * math.prod(shape)
            arrays[name] = np.frombuffer(content, np.dtype(kind), math.prod(shape), at).reshape(shape)
            at += size
        return header["kind"], header["about"], arrays
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise StateError(f"the saved state's header can not be read: {error}") from error


def _read_header(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:  # it knows no NaN and no infinity
        return json.loads(text)


def _content(blob: bytes, base: bytes | None = None, *, checked: bool = False) -> bytes:
    if len(blob) < _HEAD.size or blob[: len(_NAME)] != _NAME:
        raise StateError("these bytes are no saved state of a detector")
    magic, digest, against, length = _HEAD.unpack_from(blob)
    if magic != MAGIC:
        raise StateError(
            f"the saved state has version {magic[-1]}, this program reads version {VERSION}: load it with the release"
            " of eventproc that saved it, or train the model again"
        )
    frame = memoryview(blob)[_HEAD.size :]
    if length > _LARGEST or not (checked or _digest(against, length, frame) == digest):
        raise StateError("the saved state is damaged: its checksum is wrong")
    earlier = None if against == _WHOLE else _earlier(against, base)
    try:
        content = _decompressor(earlier).decompress(frame, max_output_size=length)
    except zstandard.ZstdError as error:
        raise StateError(f"the saved state is damaged: {error}") from error
    if len(content) != length:
        raise StateError(f"the saved state is damaged: {length} bytes were promised, {len(content)} are there")
    return content


def _earlier(against: bytes, base: bytes | None) -> bytes:
    if base is None:
        raise StateError("the saved state is a difference: give the blob it was made against as `base`")
    if base[_DIGEST] != against:
        raise StateError("the saved state is a difference to another blob than the one given as `base`")
    return _content(base)


def _digest(against: bytes, length: int, frame: bytes | memoryview) -> bytes:
    found = hashlib.blake2b(MAGIC + against + _LENGTH.pack(length), digest_size=16)
    found.update(frame)
    return found.digest()


def _dictionary(earlier: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(earlier, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _compressor(earlier: bytes | None, size: int) -> zstandard.ZstdCompressor:
    if earlier is None:
        return zstandard.ZstdCompressor(level=_LEVEL)
    window = max(10, (len(earlier) + size).bit_length())  # the whole earlier state must be in reach
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL_AGAINST, window_log=window, source_size=size)
    return zstandard.ZstdCompressor(dict_data=_dictionary(earlier), compression_params=parameters)


def _decompressor(earlier: bytes | None) -> zstandard.ZstdDecompressor:
    if earlier is None:
        return zstandard.ZstdDecompressor()
    return zstandard.ZstdDecompressor(dict_data=_dictionary(earlier), max_window_size=1 << 31)
