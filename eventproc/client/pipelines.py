"""Pipelines: ordered handlers that work on the events of a whole stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from eventproc.client.handlers import HandlerOptions
from eventproc.codec.bundle import bundle_to_json
from eventproc.errors import InvalidInput
from eventproc.model import HandlerBundle

if TYPE_CHECKING:
    from eventproc.client.connection import Connection


class HandlerSpec(TypedDict, total=False):
    """One handler of a pipeline in words: `handler` is a registered one's name, `import` is `module:Class`."""

    name: str
    params: Mapping[str, Any]
    handler: Any


def pipeline_part(given: Any) -> tuple[dict[str, Any], HandlerBundle | None]:
    """
    Return what the API is told of one handler of a pipeline, and its pickled code where it is a class or function.

    `given` is a class, a function `f(events, env, **params)`, the name of a registered handler, `module:Class` to be
    imported where handlers run, a pair of one of these and its parameters, or an object with name, params, and
    `handler` or `import`. Raises InvalidInput.
    """
    params: Mapping[str, Any] = {}
    name: str | None = None
    if isinstance(given, Mapping):
        name, params = given.get("name"), given.get("params") or {}
        given = given.get("import") or given.get("handler") or name
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        given, params = given
    if not isinstance(params, Mapping):
        raise InvalidInput(f"the parameters of a pipeline's handler are a mapping, not {type(params).__name__}")
    if isinstance(given, str):
        way = "import" if ":" in given else "handler"
        return _named({"params": dict(params), way: given}, name), None
    if not callable(given):
        raise InvalidInput(
            f"a pipeline's handler is a class, a function, a handler's name or 'module:Class', not {given!r:.80}"
        )
    from eventproc.codec.blob import pack  # noqa: PLC0415 - dill is loaded when something is registered

    return _named({"params": dict(params)}, name or _name_of(given)), pack(given)


def _named(part: dict[str, Any], name: str | None) -> dict[str, Any]:
    return part if name is None else {"name": name, **part}


def _name_of(target: Any) -> str:
    name = getattr(target, "__name__", "")
    if not name.isidentifier():
        raise InvalidInput(
            f"register_pipeline: {target!r:.60} has no name of its own; write {{'name': …, 'handler': …}}"
        )
    return str(name)


def pipeline_request(
    name: str,
    handlers: Sequence[Any],
    *,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    notify_on_success: str | None = None,
    notify_on_failure: str | None = None,
    naive: bool = False,
    setup: Sequence[str] = (),
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the body of the request that registers a pipeline; `params` are by the handlers' names."""
    parts = []
    left = dict(params or {})
    for given in handlers:
        part, bundle = pipeline_part(given)
        label = part.get("name") or part.get("handler") or part.get("import")
        if label in left:
            part["params"] = {**part["params"], **left.pop(label)}
        if bundle is not None:
            part["bundle"] = bundle_to_json(bundle)
        parts.append(part)
    if left:
        raise InvalidInput(f"params are given for {min(left)!r}, which is none of the pipeline's handlers")
    return {
        "name": name,
        "handlers": parts,
        "notify_on_success": notify_on_success,
        "notify_on_failure": notify_on_failure,
        "naive": naive,
        "setup": list(setup),
        "options": dict(options),
    }


def register_pipeline(
    name: str,
    handlers: Sequence[Any],
    *,
    conn: Connection,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    notify_on_success: str | None = None,
    notify_on_failure: str | None = None,
    **options: Unpack[HandlerOptions],
) -> dict[str, Any]:
    """
    Register a pipeline, or its next version; return it as the API shows it.

    :param handlers: in order: classes with `handle_events(events, env)`, `commit()` and `rollback()`, functions
        `f(events, env)`, names of registered handlers, or `module:Class` to be imported where handlers run; each may
        be a pair with its parameters
    :param params: parameters by the handlers' names
    """
    return conn.register_pipeline(
        name,
        handlers,
        params=params,
        notify_on_success=notify_on_success,
        notify_on_failure=notify_on_failure,
        **options,
    )
