"""
Frames: how worker and child talk. Two lengths, a JSON object, then raw bytes; never a pickle.

Both halves use this module; the worker's half takes every byte for hostile.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

HEAD = struct.Struct("<II")
MAX_HEADER = 4 << 20  # bytes of JSON
MAX_BODY = 4 << 20  # bytes after it, if no result may be larger
MAX_TRUSTED = 1 << 30  # of what the worker sends, arrays too
COMPACT_AT = 1 << 16  # consumed bytes that are worth moving the rest for

Frame = Tuple[Dict[str, Any], List[bytes]]

_decode = json.loads  # as it is now, whatever handlers put in its place
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class FrameError(Exception):
    """What came is not a frame."""


def header_of(frame: bytes) -> bytes:
    """Return the JSON text of a packed frame."""
    return frame[HEAD.size : HEAD.size + HEAD.unpack_from(frame)[0]]


def pack(header: Dict[str, Any], bodies: Sequence[bytes] = ()) -> bytes:
    """Return one frame; several bodies are told apart by their lengths, in the header's `n`."""
    if len(bodies) > 1:
        header = dict(header, n=[len(body) for body in bodies])
    text = _encode(header).encode("utf-8", "backslashreplace")
    return b"".join([HEAD.pack(len(text), sum(map(len, bodies))), text, *bodies])


def unpack(frame: bytes) -> Frame:
    """Return what is in one whole frame that the worker sent."""
    decoder = Decoder.of_the_worker()
    decoder.feed(frame)
    unpacked = decoder.next()
    if unpacked is None:
        raise FrameError("not a whole frame")
    return unpacked


def size_of(data: Union[bytes, bytearray]) -> Optional[int]:
    """Return the size of the frame that begins with these bytes, None where they are too few to tell."""
    return HEAD.size + sum(HEAD.unpack_from(data)) if len(data) >= HEAD.size else None


class Decoder:
    """Cuts a stream of bytes into frames. Raises FrameError for anything that is none, whatever it may be."""

    def __init__(self, max_header: int = MAX_HEADER, max_body: int = MAX_BODY) -> None:
        self._max_header = max_header
        self._max_body = max_body
        self._buffer = bytearray()
        self._at = 0

    @classmethod
    def of_the_worker(cls) -> Decoder:
        """Return one for what the worker sends, which is trusted."""
        return cls(max_header=MAX_TRUSTED, max_body=MAX_TRUSTED)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Optional[Frame]:
        """Return the next whole frame, None while it is not there yet."""
        have = len(self._buffer) - self._at
        if have < HEAD.size:
            return None
        header_size, body_size = HEAD.unpack_from(self._buffer, self._at)
        if header_size > self._max_header or body_size > self._max_body:
            raise FrameError(f"a frame of {header_size:,} + {body_size:,} bytes")
        if have < HEAD.size + header_size + body_size:
            return None
        start = self._at + HEAD.size
        with memoryview(self._buffer) as view:
            text = bytes(view[start : start + header_size])
            body = bytes(view[start + header_size : start + header_size + body_size])
        self._at = start + header_size + body_size
        self._compact()
        header = self._parse(text)
        return header, _split(body, header.get("n"))

    def _compact(self) -> None:
        if self._at == len(self._buffer):
            self._buffer.clear()
            self._at = 0
        elif self._at > COMPACT_AT:
            del self._buffer[: self._at]
            self._at = 0

    def _parse(self, text: bytes) -> Dict[str, Any]:
        try:
            header = self.parse(text)
        except (ValueError, RecursionError) as error:
            raise FrameError(f"a header that is not JSON: {type(error).__name__}") from None
        if not isinstance(header, dict):
            raise FrameError("a header that is not a JSON object")
        return header

    def parse(self, text: bytes) -> Any:
        """Make objects of a header's JSON. Raises ValueError, RecursionError or FrameError."""
        return _decode(text)


def _split(body: bytes, sizes: Any) -> List[bytes]:
    if sizes is None:
        return [body] if body else []
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise FrameError("body lengths that are not lengths")
    if sum(sizes) != len(body):
        raise FrameError("body lengths that do not add up")
    parts, at = [], 0
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    return parts
