"""What a monitor is told about the child it shall start."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from eventproc.abc import Program
from eventproc.model import FULL_NETWORK, Limits, Place
from eventproc.sandbox.names import addresses_for


@dataclass(frozen=True, slots=True)
class Order:
    """The kind of a child; two children of one order can stand in for each other."""

    limits: Limits
    cell: bool = False
    programs: bool = False
    places: tuple[Place, ...] = ()  # that it may connect to, each after asking
    full_network: bool = False

    @classmethod
    def of(cls, program: Program, limits: Limits, *, cell: bool = False) -> Order:
        full = program.network == FULL_NETWORK
        return cls(
            limits=limits,
            cell=cell,
            programs=program.allow_subprocess,
            places=() if full else tuple(Place.parse(text) for text in program.network),
            full_network=full,
        )

    def encode(self) -> bytes:
        return json.dumps(
            {
                "limits": asdict(self.limits),
                "cell": self.cell,
                "programs": self.programs,
                "network": [str(place) for place in self.places],
                "hosts": addresses_for(self.places),
            }
        ).encode()
