"""Places on the network, and which of them handlers may be let through to."""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from eventproc.errors import InvalidInput

FULL_NETWORK = ("full",)  # in place of a list of places
MAX_PORT = 65_535
_PLACE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/\[\]@]+)):(?P<port>\d{1,5})")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_MAX_NAME = 253

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd20:ce::254"))
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Place:
    """A host (a name or an address) and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port` or `[address]:port`. Raises InvalidInput that says what is wrong."""
        match = _PLACE.fullmatch(text.strip())
        if not match or not 0 < int(match["port"]) <= MAX_PORT:
            raise InvalidInput(f'{text!r} is no HOST:PORT such as "api.example.com:443" or "[2001:db8::1]:443"')
        return cls(_host(match["six"] or match["host"], text), int(match["port"]))

    @property
    def address(self) -> Address | None:
        """The address, None when the host is a name."""
        return _address(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _real(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one carries, where it is one of those."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address
    return address


def _matches(place: Place, pattern: str) -> bool:
    """Compare with `host:port`; `*` stands for any port, `*.` at the beginning for any name below."""
    host, _, port = pattern.rpartition(":")
    host = host.strip("[]")
    same_host = place.host == host or (host.startswith("*.") and place.host.endswith(host[1:]))
    return same_host and port in {"*", str(place.port)}


def _host(host: str, text: str) -> str:
    address = _address(host)
    if address is not None:
        return str(address)
    try:
        name = host.rstrip(".").encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if len(name) > _MAX_NAME or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput(f"{text!r}: {host!r} is neither a host name nor an address")
    return name


class NetworkGrant(enum.StrEnum):
    """What registrations may ask for."""

    NONE = "none"
    PUBLIC = "public"  # places with addresses of the public internet
    ANY = "any"  # also private networks and this host
    FULL = "full"  # also everything at once


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPolicy:
    """The operator's word: a grant, and places that are granted besides (`host:port` or `host:*`)."""

    grant: NetworkGrant = NetworkGrant.PUBLIC
    hosts: tuple[str, ...] = ()

    def names(self, place: Place) -> bool:
        """Whether the operator listed that place."""
        return any(_matches(place, pattern.strip().lower()) for pattern in self.hosts)

    def refusal(self, place: Place, address: Address | None = None) -> str | None:
        """
        Say why a place may not be reached, at an address that its name has; None when it may.

        A name must not lead to where only its owner says it is: link-local addresses and those at which clouds hand
        out credentials are reached only when the registration names the very address.
        """
        listed = self.names(place)
        if self.grant is NetworkGrant.NONE and not listed:
            return "the operator grants handlers no network (setting policy.network)"
        address = address or place.address
        return None if address is None else self._of_address(place, _real(address), listed=listed)

    def _of_address(self, place: Place, address: Address, *, listed: bool) -> str | None:
        if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
            return f"{address} is no host's address"
        special = address.is_link_local or address in _METADATA
        if special and place.address is None:
            return f"{place.host} leads to {address}, where hosts keep what only they may know"
        if listed or self.grant in {NetworkGrant.ANY, NetworkGrant.FULL}:
            return None
        if special or not address.is_global:
            return f"{address} is not on the public internet, and the operator grants no other (setting policy.network)"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the operator lets registrations ask for beyond limits."""

    allow_subprocess: bool = True
    network: NetworkPolicy = NetworkPolicy()
