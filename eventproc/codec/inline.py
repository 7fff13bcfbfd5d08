"""Inline script metadata (PEP 723): the packages that a file says its code needs."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from eventproc.codec.blob import filename_of
from eventproc.errors import InvalidHandler

OUR_OWN = {"eventproc"}  # the script that registers needs it, handlers do not
# The reference implementation's pattern, https://packaging.python.org/en/latest/specifications/inline-script-metadata/
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def with_inline_requirements(handler: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options, with the requirements of the handler's file unless they name some themselves."""
    if options.get("requirements") is not None:
        return options
    found = inline_requirements(handler)
    return {**options, "requirements": found} if found else options


def inline_requirements(handler: Callable[..., Any]) -> list[str]:
    """
    Return the `dependencies` of the `# /// script` block in the file that the handler is written in.

    Raises InvalidHandler for a block that can not be read, or that asks for another Python than the one at hand.
    """
    filename = filename_of(handler)
    if not filename:
        return []
    try:
        text = Path(filename).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):  # a notebook's cell, a console
        return []
    blocks = [match for match in _BLOCK.finditer(text.replace("\r\n", "\n")) if match["type"] == "script"]
    if not blocks:
        return []
    if len(blocks) > 1:
        raise InvalidHandler(f"{filename}: it has {len(blocks)} `# /// script` blocks; one is allowed")
    return _read(filename, blocks[0]["content"])


def _read(filename: str, content: str) -> list[str]:
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in content.splitlines(keepends=True))
    try:
        data = tomllib.loads("".join(lines))
        wanted = SpecifierSet(data.get("requires-python", ""))
    except (tomllib.TOMLDecodeError, InvalidSpecifier) as error:
        raise InvalidHandler(f"{filename}: its `# /// script` block can not be read: {error}") from None
    running = ".".join(map(str, sys.version_info[:3]))
    if not wanted.contains(running, prereleases=True):
        raise InvalidHandler(
            f"{filename}: it asks for Python {wanted}, and this is Python {running}; a handler runs with the Python "
            "that registers it"
        )
    found = data.get("dependencies", [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidHandler(f"{filename}: `dependencies` in its `# /// script` block is no list of texts")
    return [each for each in found if _name(each) not in OUR_OWN]


def _name(requirement: str) -> str:
    match = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
