"""
A detector's state as one blob: versioned, checksummed, compressed; or as the difference to an earlier blob.

Layout: 8 bytes magic with the version, 16 bytes checksum of the content, 16 bytes checksum of the content this one is a
difference to (zeros: whole), 4 bytes length of the content, then the content compressed by zstandard. Content: 4 bytes
length of the header, the header (JSON: kind, parameters, arrays' names, types and shapes), the arrays.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

MAGIC = b"EPHTM\x00\x00\x01"
_HEAD = struct.Struct("<8s16s16sI")
_LENGTH = struct.Struct("<I")
_WHOLE = bytes(16)
_LARGEST = 1 << 30
_LEVEL = 3

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
    against = _WHOLE if earlier is None else _digest(earlier)
    return _HEAD.pack(MAGIC, _digest(content), against, len(content)) + frame


def unpack(blob: bytes, *, base: bytes | None = None) -> tuple[str, dict[str, Any], Arrays]:
    """Read a state: kind, about, arrays. A difference needs the blob it was made against."""
    content = _content(blob, base)
    try:
        (length,) = _LENGTH.unpack_from(content)
        header = json.loads(content[_LENGTH.size : _LENGTH.size + length])
        arrays: Arrays = {}
        at = _LENGTH.size + length
        for name, kind, shape in header["arrays"]:
            size = np.dtype(kind).itemsize * math.prod(shape)
            arrays[name] = np.frombuffer(content, np.dtype(kind), math.prod(shape), at).reshape(shape)
            at += size
        return header["kind"], header["about"], arrays
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise StateError(f"the saved state's header can not be read: {error}") from error


def _content(blob: bytes, base: bytes | None = None) -> bytes:
    if len(blob) < _HEAD.size or blob[:5] != MAGIC[:5]:
        raise StateError("these bytes are no saved state of a detector")
    magic, digest, against, length = _HEAD.unpack_from(blob)
    if magic != MAGIC:
        raise StateError(f"the saved state has version {magic[7]}, this program reads version {MAGIC[7]}")
    if length > _LARGEST:
        raise StateError(f"the saved state claims {length} bytes, more than any detector has")
    earlier = None
    if against != _WHOLE:
        if base is None:
            raise StateError("the saved state is a difference: give the blob it was made against as `base`")
        earlier = _content(base)
        if _digest(earlier) != against:
            raise StateError("the saved state is a difference to another blob than the one given as `base`")
    try:
        content = _decompressor(earlier).decompress(blob[_HEAD.size :], max_output_size=length)
    except zstandard.ZstdError as error:
        raise StateError(f"the saved state is damaged: {error}") from error
    if len(content) != length or _digest(content) != digest:
        raise StateError("the saved state is damaged: its checksum is wrong")
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _dictionary(earlier: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(earlier, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _compressor(earlier: bytes | None, size: int) -> zstandard.ZstdCompressor:
    if earlier is None:
        return zstandard.ZstdCompressor(level=_LEVEL)
    window = max(10, (len(earlier) + size).bit_length())  # the whole earlier state must be in reach
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, window_log=window, source_size=size)
    return zstandard.ZstdCompressor(dict_data=_dictionary(earlier), compression_params=parameters)


def _decompressor(earlier: bytes | None) -> zstandard.ZstdDecompressor:
    if earlier is None:
        return zstandard.ZstdDecompressor()
    return zstandard.ZstdDecompressor(dict_data=_dictionary(earlier), max_window_size=1 << 31)
