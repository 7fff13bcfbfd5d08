"""Requirements of a handler: names and versions of packages, nothing that makes a worker fetch anything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from eventproc.errors import InvalidInput

MAX_REQUIREMENTS = 100
MAX_LENGTH = 500  # characters of one
OPTION = "requirements"


def check_requirements(value: Any) -> tuple[str, ...]:
    """Return the requirements as they are written, each once. Raises InvalidInput naming the one that is wrong."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidInput(
            f"option 'requirements': write a list such as [\"pandas==2.2.*\"], not a {type(value).__name__}",
            option=OPTION,
        )
    if len(value) > MAX_REQUIREMENTS:
        raise InvalidInput(
            f"option 'requirements': {len(value)} entries; at most {MAX_REQUIREMENTS}: name what the handler imports, "
            "the rest is found",
            option=OPTION,
        )
    return tuple(dict.fromkeys(_checked(line) for line in value))


def _checked(line: Any) -> str:
    if not isinstance(line, str) or not line.strip() or len(line) > MAX_LENGTH:
        raise InvalidInput(
            f"option 'requirements': {str(line)[:80]!r} is no text such as 'pandas==2.2.*'", option=OPTION
        )
    text = line.strip()
    try:
        wanted = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"option 'requirements': {text[:80]!r} is no requirement such as 'pandas==2.2.*' ({reason}); options of "
            "pip, paths and files of requirements are not taken",
            option=OPTION,
        ) from None
    if wanted.url:
        raise InvalidInput(
            f"option 'requirements': {text[:80]!r} names a URL; packages come from the index that the operator chose: "
            "write a name and a version",
            option=OPTION,
        )
    if any(char in text for char in "\r\n\0"):
        raise InvalidInput(f"option 'requirements': {text[:80]!r} is more than one line", option=OPTION)
    return text
