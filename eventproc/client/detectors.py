"""Detectors: classes of one's own that score metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from eventproc.client.handlers import HandlerOptions, check_options
from eventproc.codec.bundle import bundle_to_json

if TYPE_CHECKING:
    from eventproc.client.connection import Connection

C = TypeVar("C", bound=type)


def detector_request(detector: type, name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of the request that registers a detector. Raises InvalidHandler for what is none."""
    from eventproc.codec.blob import pack  # noqa: PLC0415 - dill is loaded when something is registered

    bundle = pack(detector, detector=True)
    return {
        "name": name or detector.__name__,
        "bundle": bundle_to_json(bundle),
        "options": check_options(options),
    }


def register_detector(conn: Connection, name: str | None = None, **options: Unpack[HandlerOptions]) -> Callable[[C], C]:
    """
    Register a class as a detector; the decorator returns it unchanged.

    The class has `score_one(self, x)`, which returns how unusual a value is (0: usual, to 1), and `learn_one(self, x)`;
    both may take the time, in seconds since 1970, after the value. `save(self)` and the class method `load(cls, saved)`
    turn its state into at most 1 MiB of bytes and back; without them its attributes are pickled.

    :param conn: where to register
    :param name: what `conn.monitor(metric, detector="user:NAME")` calls it; the class's name if left out
    """

    def decorate(detector: C) -> C:
        conn.register_detector(detector, name, **options)
        return detector

    return decorate
