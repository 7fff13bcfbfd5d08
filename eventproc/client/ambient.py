"""
What handler files import for their editors and type checkers: a stand-in for `ep`, and the types of `ep` and `db`.

Inside a running handler the name `ep` means the platform's own object; the stand-in and the types never travel.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeVar, cast
from uuid import UUID

F = TypeVar("F", bound=Callable[[], Any])
C = TypeVar("C", bound=type)
AMBIENT = "__eventproc_ambient__"  # the pickler leaves at home what has it

Time = int | float | str | dt.datetime | None  # int: nanoseconds since 1970 UTC


def _stays_home(cls: C) -> C:
    setattr(cls, AMBIENT, True)
    return cls


@_stays_home
class Series(Protocol):
    """A series, with btrdb's names; times are int nanoseconds since 1970 UTC, versions always 0."""

    @property
    def uuid(self) -> UUID: ...

    @property
    def name(self) -> str: ...

    @property
    def collection(self) -> str: ...

    @property
    def unit(self) -> str: ...

    def tags(self, refresh: bool = False) -> dict[str, str]:  # noqa: FBT001, FBT002 - btrdb's signature
        """Return the tags; as in btrdb, name and unit are among them."""

    def annotations(self, refresh: bool = False) -> tuple[dict[str, str], int]:  # noqa: FBT001, FBT002 - as above
        """Return the annotations and the version."""

    def values(self, start: Time, end: Time, version: int = 0) -> Sequence[tuple[Any, int]]:
        """Return (point, version) pairs of the samples in [start, end); a point has `time` and `value`."""

    def windows(
        self, start: Time, end: Time, width: int, depth: int = 0, version: int = 0
    ) -> Sequence[tuple[Any, int]]:
        """Return (point, version) pairs of windows of `width` nanoseconds: time, min, mean, max, count, stddev."""

    def aligned_windows(self, start: Time, end: Time, pointwidth: int, version: int = 0) -> Sequence[tuple[Any, int]]:
        """Return the same for windows of 2**pointwidth nanoseconds, aligned to that."""

    def earliest(self, version: int = 0) -> tuple[Any, int] | None:
        """Return (point, version) of the first sample, None where there is none."""

    def latest(self, version: int = 0) -> tuple[Any, int] | None:
        """Return (point, version) of the last sample, None where there is none."""

    def nearest(
        self,
        time: Time,
        version: int = 0,
        backward: bool = False,  # noqa: FBT001, FBT002 - btrdb's signature
    ) -> tuple[Any, int] | None:
        """Return the first sample at `time` or after it, or with `backward` the last one before it, or None."""

    def count(
        self,
        start: Time = None,
        end: Time = None,
        precise: bool = True,  # noqa: FBT001, FBT002 - btrdb's signature
        version: int = 0,
    ) -> int:
        """Return the number of samples in [start, end)."""

    def insert(self, data: Any, values: Any = None, merge: str = "never") -> int:
        """Insert (time, value) pairs, or columns of times and values; written when the run commits."""

    def update(
        self,
        tags: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        collection: str | None = None,
        encoder: Any = None,
        replace: bool = False,  # noqa: FBT001, FBT002 - btrdb's signature
    ) -> int:
        """Add to the annotations, or with `replace` set them anew; written when the run commits."""

    def exists(self) -> bool: ...

    def version(self) -> int: ...


@_stays_home
class Db(Protocol):
    """
    `db`, a handler's first argument: the platform with the rights of the user who registered the handler.

    It reads what is committed. What it writes is checked at once, kept until the run commits, and not readable by
    the run itself. Arrays are NumPy's, or `array.array` where the handler's Python has no NumPy.
    """

    def values(self, series: Series | str | UUID, start: Time = None, end: Time = None) -> tuple[Any, Any]:
        """Return the samples in [start, end) as two arrays of one length: int64 nanoseconds, float64 values."""

    def windows(self, series: Series | str | UUID, start: Time, end: Time, width: int) -> Any:
        """Return time, min, mean, max, count, stddev of windows of `width` nanoseconds (structured array)."""

    def aligned_windows(self, series: Series | str | UUID, start: Time, end: Time, pointwidth: int) -> Any:
        """Return the same for windows of 2**pointwidth nanoseconds, aligned to that."""

    def insert(self, series: Series | str | UUID, times: Any, values: Any) -> None:
        """Insert samples: times (int nanoseconds or datetimes) and values, of one length."""

    def stream_from_uuid(self, uuid: Series | str | UUID) -> Series:
        """Return the series of that UUID. Raises LookupError when there is none."""

    def streams(
        self,
        *identifiers: str | UUID,
        name: str | None = None,
        collection: str | None = None,
        is_collection_prefix: bool = False,
        tags: dict[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Series]:
        """Return the series named by UUID or "collection/name"; without identifiers, those that match."""

    def streams_in_collection(
        self,
        *collection: str,
        is_collection_prefix: bool = True,
        tags: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> list[Series]:
        """Return the series whose collection is, or begins with, one of those given."""

    def collections(self, prefix: str = "") -> list[str]: ...

    def list_collections(self, starts_with: str = "") -> list[str]: ...

    def create(
        self,
        uuid: str | UUID | None = None,
        collection: str = "",
        tags: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        *,
        name: str | None = None,
        unit: str | None = None,
    ) -> Series:
        """Create a series; written when the run commits."""

    def events(
        self,
        hook: str | None = None,
        *,
        since: Time = None,
        until: Time = None,
        tag: str | None = None,
        key: str | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return past events as dicts, their `time` an aware UTC datetime."""

    def samples(
        self, metric: str, *, since: Time = None, until: Time = None, limit: int | None = None
    ) -> Sequence[Any]:
        """Return the latest samples of a metric, oldest first: `time`, `value`, `raw_score`, `anomaly`."""

    def anomalies(
        self, hours: float = 24, *, by: str = "metric", until: Time = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the metrics (or, `by` resource, the most unusual of each) that were most unusual of late."""

    def info(self) -> dict[str, Any]: ...


@_stays_home
class EventInfo(Protocol):
    """The event at hand."""

    message_id: str
    event_type: str
    timestamp: dt.datetime
    tags: tuple[str, ...]
    key: str | None
    attempt: int


@_stays_home
class Ep(Protocol):
    """What a running handler can ask of the platform beside `db`. All but the log waits for the run's commit."""

    log: logging.Logger

    @property
    def event(self) -> EventInfo:
        """The event at hand."""

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets that the handler was registered with, by name."""

    def emit(
        self,
        hook: str,
        payload: Mapping[str, Any],
        *,
        id: str | None = None,
        tags: Sequence[str] = (),
        key: str | None = None,
        time: dt.datetime | None = None,
        source: str | None = None,
    ) -> str:
        """Emit an event when the run commits; returns its id."""

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: Any,
        *,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        declare: str | None = None,
        queue: str | None = None,
    ) -> None:
        """
        Send a message to the platform's broker once the run has committed.

        `declare` makes the exchange, `queue` a durable queue that is bound to it under the routing key.
        """

    def post(
        self,
        url: str,
        body: Any,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        login: Mapping[str, str] | None = None,
        accept: Sequence[int] = (),
    ) -> None:
        """
        Send a request to a web server once the run has committed; tried again for three days at most.

        `login` = server, user, key of an OpenStack identity service; `accept`: statuses that are as good as 2xx.
        """

    def upload_file(self, file: str, file_name: str | None = None) -> str:
        """Keep a file beyond the run; returns the URL for downloading it once the run has committed."""

    def quiet(self) -> None:
        """Send no mail of this run's success; a failure is mailed all the same."""

    def on_commit(self, function: F) -> F:
        """Call a function once the run's result and effects are stored."""

    def on_rollback(self, function: F) -> F:
        """Call a function when the run fails, to undo what it did outside the platform."""


@_stays_home
class _OutsideOfHandlers:
    """Says where `ep` works."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(f"ep.{name} works inside a running handler only; try one with `eventproc test FILE`")


ep = cast(Ep, _OutsideOfHandlers())
