"""Hook names with wildcards: `*` any run of characters, `?` one, `[ab]` one of those."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from functools import lru_cache

_WILD = re.compile(r"[*?\[]")


def is_glob(name: str) -> bool:
    """Tell whether `name` holds a wildcard."""
    return _WILD.search(name) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def matches(pattern: str, name: str) -> bool:
    """Tell whether `name` is what `pattern` means; case counts."""
    return pattern == name or (is_glob(pattern) and _compiled(pattern).match(name) is not None)


def is_pattern(text: str) -> bool:
    """Tell whether `chosen` may take several names for it."""
    return text.startswith("!") or is_glob(text)


def chosen(pattern: str, among: Iterable[str]) -> list[str]:
    """Return those names that a pattern means; with `!` before it those that it does not."""
    wanted = pattern.removeprefix("!")
    return [name for name in among if matches(wanted, name) == (wanted == pattern)]


def names(pattern: str, name: str) -> bool:
    """Tell whether `pattern` matches `name` and says at least its first word, as `stream.*` does and `*` does not."""
    return pattern.startswith(name.partition(".")[0] + ".") and matches(pattern, name)


def specificity(pattern: str) -> tuple[bool, int, int, int]:
    """Return a key that is greater for the more specific of two patterns that match the same name."""
    wild = _WILD.search(pattern)
    if wild is None:
        return (True, len(pattern), 0, len(pattern))
    return (False, wild.start(), -len(_WILD.findall(pattern)), len(pattern))


def most_specific(patterns: Iterable[str], name: str) -> str | None:
    """Return the pattern that says most about `name`: itself, else the one with the longest literal beginning."""
    fitting = [pattern for pattern in patterns if matches(pattern, name)]
    return max(fitting, key=lambda pattern: (*specificity(pattern), pattern), default=None)
