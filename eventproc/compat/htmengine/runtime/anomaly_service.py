"""Messages of the results exchange."""

# ruff: noqa: N802 - htmengine's own names
from __future__ import annotations

from typing import Any

from eventproc.models import messages


class AnomalyService:
    """Only what consumers of results used; the scoring itself is the platform's `models` role."""

    @staticmethod
    def deserializeModelResult(payload: bytes) -> dict[str, Any]:
        """Read a message's body: inference results, or a command's result (header `dataType`)."""
        return messages.unpack(payload)
