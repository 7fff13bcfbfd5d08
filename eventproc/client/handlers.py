"""Handlers as their authors see them: the `Handler` tuple, registration options, and the `register` decorator."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack

from eventproc.errors import InvalidInput
from eventproc.model.marks import HANDLER_MARK, HandlerMark, marks_of

if TYPE_CHECKING:
    from eventproc.client.connection import Connection

F = TypeVar("F", bound=Callable[..., Any])

Duration = float | str | dt.timedelta
Size = int | str


class HandlerOptions(TypedDict, total=False):
    """
    What a registration may say beyond name, hook, addresses and tags.

    Durations are seconds, texts such as "90s", or timedeltas; sizes are bytes or texts such as "64MiB".
    """

    timeout: Duration
    cpu: Duration
    memory: Size
    files: Size | Mapping[str, Any]
    processes: int
    scratch: Size | Mapping[str, Any]
    output: Size
    result: Size
    retries: int | Mapping[str, Any]
    filter: Mapping[str, Any]
    order_by: str | None
    concurrency: int | Mapping[str, Any]
    rate: str | Mapping[str, Any]
    network: str | Sequence[str] | Literal[False]
    allow_subprocess: bool
    requirements: Sequence[str]
    secrets: Sequence[str]
    isolation: Literal["run", "cell", "batch"]
    throttle: Duration


OPTION_NAMES = tuple(HandlerOptions.__annotations__)


class Handler(NamedTuple):
    """A registered handler. Times are aware and in UTC."""

    id: int
    name: str
    hook: str
    version: int
    notify_on_success: str | None
    notify_on_failure: str | None
    tags: list[str]
    created_at: dt.datetime
    created_by: str
    updated_at: dt.datetime
    updated_by: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Handler:
        """Read what the HTTP API says of a handler; members that are not a handler's are left out."""
        fields = {name: data[name] for name in cls._fields}
        for name in ("created_at", "updated_at"):
            fields[name] = dt.datetime.fromisoformat(fields[name]).astimezone(dt.UTC)
        fields["tags"] = list(fields["tags"])
        return cls(**fields)


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON can hold them. Raises TypeError for an unknown name, saying which one is near."""
    for name in options:
        if name not in OPTION_NAMES:
            near = get_close_matches(name, OPTION_NAMES, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(OPTION_NAMES)}"
            raise TypeError(f"register() got an unexpected option {name!r}{meant}")
    return {name: _plain(value) for name, value in options.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value


def make_mark(
    target: Callable[..., Any],
    *,
    name: str | None,
    hook: str | None,
    notify_on_success: str | None,
    notify_on_failure: str | None,
    tags: Sequence[str] | None,
    options: Mapping[str, Any],
) -> HandlerMark:
    """Complete and check what was said about a handler. Raises InvalidInput or TypeError."""
    if not callable(target):
        raise InvalidInput(f"register: a handler is a function or a class, not {type(target).__name__}")
    if not hook:
        raise InvalidInput("register: say which hook the handler is for, as in @register(hook='ctingress.on_complete')")
    if isinstance(tags, str):
        raise InvalidInput(f"register: tags is a list of texts; write tags=[{tags!r}]")
    return HandlerMark(
        name=name or _default_name(target),
        hook=hook,
        notify_on_success=notify_on_success or None,
        notify_on_failure=notify_on_failure or None,
        tags=tuple(tags or ()),
        options=check_options(options),
    )


def _default_name(target: Callable[..., Any]) -> str:
    name = getattr(target, "__name__", "")
    if not name or not name.isidentifier():
        raise InvalidInput(f"register: {target!r:.60} has no name of its own; say name='...'")
    return name.replace("_", "-")


def mark(target: F, registration: HandlerMark) -> F:
    """Leave a registration on a function or class for `eventproc handlers push`."""
    try:
        setattr(target, HANDLER_MARK, (*marks_of(target), registration))
    except (AttributeError, TypeError) as error:
        raise InvalidInput(
            f"register: {target!r:.60} can not be marked; pass conn=, or wrap it in a function"
        ) from error
    return target


def register(  # noqa: PLR0917 - the documented order of btrdbextras' arguments
    conn: Connection | None = None,
    name: str | None = None,
    hook: str | None = None,
    notify_on_success: str | None = None,
    notify_on_failure: str | None = None,
    tags: Sequence[str] | None = None,
    **options: Unpack[HandlerOptions],
) -> Callable[[F], F]:
    """
    Register a function or class as a handler; the decorator returns it unchanged.

    With `conn` it is sent to the platform at once; registering the same hook and name again makes the next version.
    Without, it is only marked: `eventproc handlers push FILE` or `conn.register(function)` sends it.

    :param conn: where to register
    :param name: shown to people, unique for its hook; the function's name if left out
    :param hook: name of the hook, or a glob such as `compute.*`
    :param notify_on_success: mail addresses, separated by commas, for what the handler returns
    :param notify_on_failure: mail addresses for what went wrong
    :param tags: the handler runs on events that have one of them; none matches every event
    """
    if callable(conn):
        raise InvalidInput("register: write @register(hook='...'), with parentheses")
    if isinstance(conn, str):
        raise InvalidInput("register: the first argument is a Connection; write @register(name='...', hook='...')")
    check_options(options)

    def decorate(target: F) -> F:
        registration = make_mark(
            target,
            name=name,
            hook=hook,
            notify_on_success=notify_on_success,
            notify_on_failure=notify_on_failure,
            tags=tags,
            options=options,
        )
        if conn is None:
            return mark(target, registration)
        conn.send_registration(target, registration)
        return target

    return decorate
