"""One execution inside the child: its phase, its callbacks, its line to the worker."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

from .channel import Channel, PlatformError

EFFECTS = frozenset(
    {"emit", "insert", "create_stream", "set_annotations", "upload_open", "upload_write", "upload_close"}
)

Callback = Tuple[str, Callable[[], Any]]


class RunOver(PlatformError):
    """A thread that outlived its run asked for something."""


class Execution:
    """What `db` and `ep` know of the run they serve; `phase` goes run → (commit | rollback) → over."""

    def __init__(self, channel: Channel, event: Dict[str, Any]) -> None:
        self._channel = channel
        self.event = event
        self.phase = "run"
        self.on_commit: List[Callback] = []
        self.on_rollback: List[Callback] = []

    def ask(self, op: str, args: Dict[str, Any], bodies: Sequence[bytes] = ()) -> Tuple[Any, List[bytes]]:
        if self.phase in {"over", "waiting"}:
            raise RunOver("this run is over; db and ep of an earlier run can not be used any more", "conflict")
        if op in EFFECTS and self.phase != "run":
            raise PlatformError(
                f"{op} is not possible in a {self.phase} callback: the run's effects are settled already; "
                "ask for it in the handler itself",
                "conflict",
            )
        return self._channel.ask(op, args, bodies)
