"""Hook specs as YAML files: one file per family, each a list of specs under `hooks`, or one spec alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from eventproc.errors import EventprocError, InvalidInput, PluginError
from eventproc.model import HookSpec
from eventproc.registry.checks import check_hook_name
from eventproc.registry.durations import parse_duration
from eventproc.registry.schemas import PayloadSchema, check_schema

_MEMBERS = ("name", "summary", "schema", "sample", "keep", "keep_idle")
MAX_SUMMARY_LENGTH = 500
MAX_FILE_BYTES = 1 << 20


def spec_from_mapping(mapping: Any, *, source: str = "user") -> HookSpec:
    """
    Build a spec from what a file, the CLI or the API says.

    Checks that the schema is one and that the sample keeps to it. Raises InvalidInput.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidInput(f"a hook is a dict with {', '.join(_MEMBERS)}, not {type(mapping).__name__}")
    if unknown := [str(name) for name in mapping if name not in _MEMBERS]:
        raise InvalidInput(f"unknown member {unknown[0]!r}; there are: {', '.join(_MEMBERS)}")
    if "name" not in mapping:
        raise InvalidInput("the member 'name' is missing")
    name = check_hook_name(mapping["name"], glob=True)
    try:
        spec = HookSpec(
            name=name,
            summary=_summary(mapping.get("summary", "")),
            schema=mapping.get("schema") or {},
            sample=mapping.get("sample") or {},
            keep_s=_seconds(mapping, "keep"),
            keep_idle_s=_seconds(mapping, "keep_idle"),
            source=source,
        )
        check_spec(spec)
    except InvalidInput as exc:
        raise type(exc)(f"hook {name!r}: {exc.message}", **exc.details) from exc
    return spec


def check_spec(spec: HookSpec) -> None:
    """Raise InvalidInput unless the schema is one and the sample keeps to it."""
    check_hook_name(spec.name, glob=True)
    check_schema(spec.schema)
    if not isinstance(spec.sample, Mapping):
        raise InvalidInput(f"sample: must be a dict, not {type(spec.sample).__name__}")
    if not spec.sample and spec.schema.get("required"):
        raise InvalidInput("sample: give one payload that keeps to the schema; tests and dry runs use it")
    if spec.sample or not spec.schema:
        try:
            PayloadSchema(spec.schema).check(spec.name, spec.sample)
        except InvalidInput as exc:
            where = exc.details.get("path", "$")
            raise InvalidInput(f"sample at {where}: {exc.details.get('reason', exc.message)}", path=where) from exc


def _summary(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_SUMMARY_LENGTH:
        raise InvalidInput(f"summary: must be a text of up to {MAX_SUMMARY_LENGTH} characters")
    return " ".join(value.split())


def _seconds(mapping: Mapping[str, Any], name: str) -> int | None:
    value = mapping.get(name)
    return None if value is None else max(1, int(parse_duration(value, name)))


def specs_from_text(text: str, *, name: str, source: str = "file") -> tuple[list[HookSpec], list[PluginError]]:
    """Read one file's text; a broken spec is reported and its neighbours are read all the same."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as exc:
        return [], [PluginError(f"{name}: is no YAML: {' '.join(str(exc).split())}", file=name)]
    entries = document.get("hooks") if isinstance(document, Mapping) else document
    if isinstance(document, Mapping) and "hooks" not in document and "name" in document:
        entries = [document]  # a file of one hook
    if not isinstance(entries, list):
        return [], [PluginError(f"{name}: holds no list of hooks; write `hooks:` and one `- name: …` each", file=name)]
    specs: list[HookSpec] = []
    problems: list[PluginError] = []
    for entry in entries:
        try:
            spec = spec_from_mapping(entry, source=source)
            if any(other.name == spec.name for other in specs):
                raise InvalidInput(f"hook {spec.name!r}: stands twice in this file")
            specs.append(spec)
        except EventprocError as exc:
            problems.append(PluginError(f"{name}: {exc.message}", file=name))
    return specs, problems


def load_specs(paths: Iterable[Path], *, source: str = "file") -> tuple[list[HookSpec], list[PluginError]]:
    """Read spec files; a later file replaces an earlier one's spec of the same name. Broken ones are reported."""
    specs: dict[str, HookSpec] = {}
    problems: list[PluginError] = []
    for path in paths:
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                problems.append(PluginError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes", file=str(path)))
                continue
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            problems.append(PluginError(f"{path}: can not be read: {exc}", file=str(path)))
            continue
        found, bad = specs_from_text(text, name=str(path), source=source)
        specs.update((spec.name, spec) for spec in found)
        problems.extend(bad)
    return list(specs.values()), problems
