"""JSON Schemas of payloads: a compiled check for the hot path, a slow one that says where and what was wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fastjsonschema
import jsonschema
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import Draft7Validator, Draft202012Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from eventproc.errors import InvalidInput, InvalidPayload

# The compiled checks know drafts 4 to 7; a schema that uses one of these is checked the slow way, rightly.
_MODERN = frozenset(
    {
        "$anchor",
        "$dynamicAnchor",
        "$dynamicRef",
        "dependentRequired",
        "dependentSchemas",
        "maxContains",
        "minContains",
        "prefixItems",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_MAX_TEXT = 300  # characters of an offending value in an error


def _nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            yield node
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def json_path(parts: Any) -> str:
    """Write `["results", 0, "anomaly"]` as `$.results[0].anomaly`."""
    steps = [
        f"[{part}]" if isinstance(part, int) else f".{part}" if part.isidentifier() else f"[{part!r}]" for part in parts
    ]
    return "$" + "".join(steps)


def _validator_class(schema: Mapping[str, Any], *, modern: bool) -> Any:
    default = Draft202012Validator if modern else Draft7Validator
    named = str(schema.get("$schema", ""))
    return (
        default
        if not named or "draft-07" in named or "2020-12" in named
        else jsonschema.validators.validator_for(schema)
    )


def check_schema(schema: Any) -> None:
    """Raise InvalidInput, naming the place, unless `schema` is a JSON Schema for an object that needs no network."""
    if not isinstance(schema, Mapping):
        raise InvalidInput(f"schema: must be a dict, not {type(schema).__name__}")
    for node in _nodes(schema):
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise InvalidInput(
                f"schema: $ref {reference!r} leads outside; copy what it means under $defs", ref=reference
            )
    try:
        _validator_class(schema, modern=any(_MODERN & node.keys() for node in _nodes(schema))).check_schema(schema)
    except SchemaError as exc:
        raise InvalidInput(f"schema at {json_path(exc.absolute_path)}: {_shorten(exc.message)}") from exc
    PayloadSchema(schema)


class PayloadSchema:
    """One hook's schema, ready to check payloads."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        plain = dict(schema)
        modern = any(_MODERN & node.keys() for node in _nodes(plain))
        self._slow = _validator_class(plain, modern=modern)(plain, registry=Registry())
        self._fast: Callable[[Any], Any] | None = None
        if not plain or modern:
            return
        try:
            self._fast = fastjsonschema.compile(plain, handlers=_NO_NETWORK, use_default=False)
        except (fastjsonschema.JsonSchemaDefinitionException, TypeError, ValueError, KeyError, RecursionError) as exc:
            raise InvalidInput(f"schema: {_shorten(str(exc)) or type(exc).__name__}") from exc

    def check(self, hook: str, payload: Any) -> None:
        """Raise InvalidPayload with `details["path"]` unless the payload keeps to the schema."""
        if self._fast is None:
            self._check_slowly(hook, payload)
            return
        try:
            self._fast(payload)
        except fastjsonschema.JsonSchemaValueException as exc:
            self._check_slowly(hook, payload)
            # The two disagree at most on formats: the fast one's word counts, so that the answer is always the same.
            path = json_path([int(part) if part.isdigit() else part for part in exc.path[1:]])
            raise _refusal(hook, path, _shorten(exc.message)) from exc

    def _check_slowly(self, hook: str, payload: Any) -> None:
        try:
            error = best_match(self._slow.iter_errors(payload))
        except Unresolvable as exc:
            raise InvalidInput(f"hook {hook!r}: its schema refers to something that is not in it: {exc}") from exc
        if error is not None:
            raise _refusal(hook, json_path(error.absolute_path), _shorten(error.message))


def _refusal(hook: str, path: str, message: str) -> InvalidPayload:
    return InvalidPayload(f"payload of {hook!r} at {path}: {message}", hook=hook, path=path, reason=message)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT // 2]} … {text[-_MAX_TEXT // 2 :]}"


def _no_network(uri: str) -> Any:
    raise InvalidInput(f"schema: $ref {uri!r} leads outside")


_NO_NETWORK = dict.fromkeys(("http", "https", "ftp", "file", ""), _no_network)
