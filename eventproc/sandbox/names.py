"""
Addresses that stand for the names a handler may connect to.

A handler has no resolver. Each name on its list is given an address of a block that nobody routes (RFC 2544), in its
hosts file and in Python's own look-ups; the worker looks the name up when the handler connects there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from eventproc.model import Place

BLOCK = ipaddress.IPv4Network("198.18.0.0/15")


def addresses_for(places: Sequence[Place]) -> dict[str, str]:
    """Return the stand-in of each name; addresses stand for themselves."""
    names = dict.fromkeys(place.host for place in places if place.address is None)
    return {name: str(BLOCK[index]) for index, name in enumerate(names, 1)}
