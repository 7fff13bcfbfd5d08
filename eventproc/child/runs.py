"""One execution inside the child: its phase, its callbacks, its line to the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from .channel import Channel, PlatformError

EFFECTS = frozenset(
    {
        *("emit", "emit_all", "publish", "post", "insert", "create_stream", "set_annotations"),
        *("upload_open", "upload_write", "upload_close"),
    }
)

Callback = Tuple[str, Callable[[], Any]]


class RunOver(PlatformError):
    """A thread that outlived its run asked for something."""


class NotDeclared(KeyError):
    """A secret was asked for that the registration does not name."""

    def __str__(self) -> str:  # KeyError would show the text in quotes
        return str(self.args[0])


class Secrets(Mapping):  # type: ignore[type-arg]  # Python 3.8 can not subscribe it
    """The declared secrets of the run at hand, by name; shows names only."""

    def __init__(self, values: Dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        try:
            return self._values[name]
        except KeyError:
            raise NotDeclared(
                f"this handler was not registered with the secret {name!r}; declare it: "
                f"register(..., secrets=[{name!r}])"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<secrets {sorted(self._values)}>"


NO_SECRETS = Secrets({})


class Execution:
    """What `db` and `ep` know of the run they serve; `phase` goes run → (commit | rollback) → over."""

    def __init__(self, channel: Channel, event: Dict[str, Any], secrets: Secrets = NO_SECRETS) -> None:
        self._channel = channel
        self.event = event
        self.secrets = secrets
        self.phase = "run"
        self.quiet = False  # whether it wants no mail of its success
        self.on_commit: List[Callback] = []
        self.on_rollback: List[Callback] = []

    def ask(self, op: str, args: Dict[str, Any], bodies: Sequence[bytes] = ()) -> Tuple[Any, List[bytes]]:
        with self._channel.asking():  # the run does not end between the look at its phase and the answer
            if self.phase in {"over", "waiting"}:
                raise RunOver("this run is over; db and ep of an earlier run can not be used any more", "conflict")
            if op in EFFECTS and self.phase != "run":
                raise PlatformError(
                    f"{op} is not possible in a {self.phase} callback: the run's effects are settled already; "
                    "ask for it in the handler itself",
                    "conflict",
                )
            return self._channel.ask(op, args, bodies)
