"""What the parts of a Connection build on: a route is called, and answers with an object, a list or text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any


class Calls(ABC):
    """The ways to call a route."""

    @abstractmethod
    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Any:
        """Call a route and return its JSON."""

    @abstractmethod
    def pages(
        self, path: str, params: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Call a route that lists, page by page, and yield its items, at most `limit`."""

    @abstractmethod
    def _text(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, content: bytes | None = None
    ) -> Iterator[str]:
        """Call a route and return its answer's text in pieces."""

    def _object(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Call a route that answers with an object."""
        answer: dict[str, Any] = self.request(method, path, params=params, json=json, timeout=timeout)
        return answer


def given(members: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what nobody said."""
    return {name: value for name, value in members.items() if value is not None}


__all__ = ["Calls", "given"]
