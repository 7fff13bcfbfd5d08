"""The API's description as a page: from the OpenAPI document, without anything from elsewhere on the internet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
Facts = dict[str, Any]


def reference(document: Mapping[str, Any]) -> Facts:
    """Return what the page shows of an OpenAPI document."""
    by_tag: dict[str, list[Facts]] = {}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                operation = _operation(method, path, item[method])
                by_tag.setdefault(operation["tag"], []).append(operation)
    schemas = document.get("components", {}).get("schemas", {})
    return {
        "info": document["info"],
        "openapi": document["openapi"],
        "tags": [{"name": tag, "operations": operations} for tag, operations in by_tag.items()],
        "schemas": [_schema(name, schema) for name, schema in sorted(schemas.items())],
    }


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Facts:
    return {
        "method": method.upper(),
        "path": path,
        "tag": (operation.get("tags") or ["other"])[0],
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "parameters": [
            {
                "name": parameter["name"],
                "in": parameter["in"],
                "required": parameter.get("required", False),
                "type": type_text(parameter.get("schema", {})),
                "description": parameter.get("description", ""),
            }
            for parameter in operation.get("parameters", ())
        ],
        "bodies": [*_bodies("Body", operation.get("requestBody", {})), *_answers(operation)],
    }


def _answers(operation: Mapping[str, Any]) -> Iterator[Facts]:
    for status, response in operation.get("responses", {}).items():
        if status.startswith("2"):
            yield from _bodies(f"Answer {status}", response)


def _bodies(title: str, part: Mapping[str, Any]) -> Iterator[Facts]:
    for media, content in part.get("content", {}).items():
        names = list(dict.fromkeys(_names(content.get("schema", {}))))
        if names or title == "Body":
            yield {"title": title, "media": media, "names": names}


def _names(schema: Any) -> Iterator[str]:
    """Yield the names of the schemas that a schema refers to."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _names(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _names(value)


def _schema(name: str, schema: Mapping[str, Any]) -> Facts:
    required = schema.get("required", ())
    return {
        "name": name,
        "description": schema.get("description", ""),
        "members": [
            {
                "name": member,
                "required": member in required,
                "type": type_text(value),
                "description": value.get("description", ""),
            }
            for member, value in schema.get("properties", {}).items()
        ],
    }


def type_text(schema: Mapping[str, Any]) -> str:
    """Write a schema's type in a few words: `integer`, `list of string`, `Run or null`."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(type_text(each) for each in schema[choice]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {type_text(schema.get('items', {}))}"
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)
