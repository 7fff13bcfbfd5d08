"""JSON Schemas of payloads: a compiled check for the hot path, a slow one that says where and what was wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import fastjsonschema
import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import Draft7Validator, Draft202012Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from eventproc.errors import InvalidInput, InvalidPayload
from eventproc.registry.patterns import Pattern, TooSlow, compiled, limited_time

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
_SEARCHING = frozenset({"pattern", "patternProperties", "format"})  # keywords that search with regular expressions
SLOW_NODES = 2000  # members and elements of a payload that is worth a long look for the best words
MAX_ERRORS = 100  # that are compared for the best words
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


def _patterns(schema: Any) -> Iterator[str]:
    for node in _nodes(schema):
        if isinstance(pattern := node.get("pattern"), str):
            yield pattern
        if isinstance(named := node.get("patternProperties"), Mapping):
            yield from (str(pattern) for pattern in named)


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


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    del schema
    if validator.is_type(instance, "string") and not compiled(pattern).search(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    del schema
    if validator.is_type(instance, "object"):
        for pattern, inner in patterns.items():
            for name, value in instance.items():
                if compiled(pattern).search(name):
                    yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [name for name in instance if name not in named and not any(compiled(p).search(name) for p in patterns)]
    if validator.is_type(rule, "object"):
        for name in extra:
            yield from validator.descend(instance[name], rule, path=name)
    elif not rule and extra:
        yield ValidationError(f"additional properties are not allowed: {', '.join(map(repr, extra[:10]))}")


@cache
def _in_time(validator_class: Any) -> Any:
    """Return the class with every search in it limited in time."""
    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    }
    extend: Callable[..., Any] = jsonschema.validators.extend
    return extend(validator_class, own)


class PayloadSchema:
    """One hook's schema, ready to check payloads."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        plain = dict(schema)
        modern = any(_MODERN & node.keys() for node in _nodes(plain))
        self._slow = _in_time(_validator_class(plain, modern=modern))(plain, registry=Registry())
        self._fast: Callable[[Any], Any] | None = None
        self._searches = any(_SEARCHING & node.keys() for node in _nodes(plain))
        for pattern in _patterns(plain):
            compiled(pattern)
        if not plain or modern:
            return
        try:
            self._fast = fastjsonschema.compile(plain, handlers=_NO_NETWORK, use_default=False)
        except (fastjsonschema.JsonSchemaDefinitionException, TypeError, ValueError, KeyError, RecursionError) as exc:
            raise InvalidInput(f"schema: {_shorten(str(exc)) or type(exc).__name__}") from exc
        # The patterns that the generated code looks up there are replaced by those that come to an end.
        patterns = getattr(self._fast, "__globals__", {}).get("REGEX_PATTERNS", {})
        for name, pattern in patterns.items():
            patterns[name] = Pattern(pattern.pattern)

    def check(self, hook: str, payload: Any) -> None:
        """Raise InvalidPayload with `details["path"]` unless the payload keeps to the schema."""
        if not self._searches:
            self._check(hook, payload)
            return
        try:
            with limited_time():
                self._check(hook, payload)
        except TooSlow as exc:
            raise _refusal(hook, "$", str(exc)) from exc

    def _check(self, hook: str, payload: Any) -> None:
        if self._fast is None:
            self._check_slowly(hook, payload)
            return
        try:
            self._fast(payload)
        except fastjsonschema.JsonSchemaValueException as exc:
            if not _is_large(payload):
                self._check_slowly(hook, payload)
            # The two disagree at most on formats: the fast one's word counts, so that the answer is always the same.
            path = json_path([int(part) if part.isdigit() else part for part in exc.path[1:]])
            raise _refusal(hook, path, _shorten(exc.message.removeprefix(exc.name or "").strip())) from exc

    def _check_slowly(self, hook: str, payload: Any) -> None:
        try:
            error = best_match(itertools.islice(self._slow.iter_errors(payload), MAX_ERRORS))
        except Unresolvable as exc:
            raise InvalidInput(f"hook {hook!r}: its schema refers to something that is not in it: {exc}") from exc
        if error is not None:
            raise _refusal(hook, json_path(error.absolute_path), _shorten(error.message))


def _is_large(payload: Any) -> bool:
    """Tell whether the slow check would hold everybody up: it needs seconds for a payload of a megabyte."""
    return sum(len(node) for node in itertools.islice(_containers(payload), SLOW_NODES)) >= SLOW_NODES


def _containers(value: Any) -> Iterator[Any]:
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping | list):
            yield node
            if len(node) < SLOW_NODES:
                pending.extend(node.values() if isinstance(node, Mapping) else node)


def _refusal(hook: str, path: str, message: str) -> InvalidPayload:
    return InvalidPayload(f"payload of {hook!r} at {path}: {message}", hook=hook, path=path, reason=message)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT // 2]} … {text[-_MAX_TEXT // 2 :]}"


def _no_network(uri: str) -> Any:
    raise InvalidInput(f"schema: $ref {uri!r} leads outside")


_NO_NETWORK = dict.fromkeys(("http", "https", "ftp", "file", ""), _no_network)
