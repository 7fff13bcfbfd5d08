"""The port for uploaded files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import BinaryIO


class Blobs(ABC):
    """Bytes of uploaded files, by code (32 hex digits)."""

    @abstractmethod
    def put(self, code: str, chunks: Iterable[bytes], *, max_bytes: int) -> tuple[int, str]:
        """Store the bytes whole or not at all; return (size, sha256 hex). Raises TooLarge."""

    @abstractmethod
    def open(self, code: str) -> BinaryIO:
        """Open for reading. Raises NotFound."""

    @abstractmethod
    def delete(self, code: str) -> bool: ...

    @abstractmethod
    def codes(self, *, older_than_us: int) -> Iterator[str]:
        """Return the codes stored before that time, to find bytes whose row was never written."""
