"""Plugins that make one trait out of what its fields hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any


class TraitPluginBase(ABC):
    """
    Base of trait plugins; one instance is made per trait that names it, with the parameters of the definition.

    Duck typing is enough: any class with `trait_value` will do.
    """

    def __init__(self, **_parameters: Any) -> None:
        super().__init__()

    @abstractmethod
    def trait_value(self, match_list: Sequence[tuple[str, Any]]) -> Any:
        """
        Return the trait's value, before it is converted to the trait's type; None leaves the trait out.

        `match_list` holds (path, value) of all fields that are not null, and may be empty.
        """


class SplitterTraitPlugin(TraitPluginBase):
    """Take one piece of a text: of the first field, split at `separator`, the piece number `segment` (from 0)."""

    def __init__(self, separator: str = ".", segment: int = 0, max_split: int | None = None, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.separator = separator
        self.segment = segment
        self.max_split = -1 if max_split is None else max_split

    def trait_value(self, match_list: Sequence[tuple[str, Any]]) -> str | None:
        if not match_list:
            return None
        try:
            return str(match_list[0][1]).split(self.separator, self.max_split)[self.segment]
        except IndexError:
            return None


class BitfieldTraitPlugin(TraitPluginBase):
    """
    Set bits of a number: `flags` lists {path, bit, value}; without a value a bit is set where the field is there.

    `path` is a field's full path, and has to be among the trait's fields.
    """

    def __init__(
        self, initial_bitfield: int = 0, flags: Sequence[Mapping[str, Any]] | None = None, **parameters: Any
    ) -> None:
        super().__init__(**parameters)
        self.initial_bitfield = initial_bitfield
        self.flags = [(flag["path"], 1 << int(flag["bit"]), "value" in flag, flag.get("value")) for flag in flags or ()]

    def trait_value(self, match_list: Sequence[tuple[str, Any]]) -> int:
        fields = dict(match_list)
        bitfield = self.initial_bitfield
        for path, bit, compares, value in self.flags:
            if path in fields and (not compares or fields[path] == value):
                bitfield |= bit
        return bitfield


BUILT_IN: dict[str, type[Any]] = {"split": SplitterTraitPlugin, "bitfield": BitfieldTraitPlugin}
