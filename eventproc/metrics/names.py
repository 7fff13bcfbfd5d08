"""Names of metrics, with tags as Graphite writes them: `disk.used;datacenter=dc1;rack=a1`."""

from __future__ import annotations

import re
from typing import Final

from eventproc.errors import InvalidInput
from eventproc.model import MAX_METRIC_NAME, NewMetric

# What Graphite allows in a tag; the rest of the name is any printable ASCII without white space.
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_TAG: Final = re.compile(r"([^;!^=]+)=([^;~][^;]*)")


def parse_name(name: str) -> NewMetric:
    """
    Read a name with or without tags; the metric's own name has its tags sorted, so that their order does not matter.

    Raises InvalidInput saying what is wrong with it.
    """
    if not name:
        raise InvalidInput("the name of a metric is empty")
    if len(name) > MAX_METRIC_NAME:
        raise InvalidInput(f"the name of a metric has {len(name)} characters, and {MAX_METRIC_NAME} are allowed")
    if not _PRINTABLE.fullmatch(name):
        raise InvalidInput(f"the name of a metric is printable ASCII without white space, {name!r} is not", name=name)
    base, *parts = name.split(";")
    if not base:
        raise InvalidInput(f"the name {name!r} has tags and nothing before them", name=name)
    tags: dict[str, str] = {}
    for part in parts:
        match = _TAG.fullmatch(part)
        if match is None:
            raise InvalidInput(f"the tag {part!r} of {name!r} is not KEY=VALUE", name=name)
        tags[match[1]] = match[2]
    ordered = dict(sorted(tags.items()))
    return NewMetric(name=join_name(base, ordered), tags=ordered)


def join_name(base: str, tags: dict[str, str]) -> str:
    """Write a name with its tags, sorted by key."""
    return ";".join([base, *(f"{key}={value}" for key, value in sorted(tags.items()))])
