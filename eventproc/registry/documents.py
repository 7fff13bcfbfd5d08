"""YAML files whose errors name the file, the line and the key that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from eventproc.errors import InvalidInput

MAX_FILE_BYTES = 1 << 20
_MAX_NODES = 100_000  # aliases count each time they are used
_MAX_DEPTH = 50

Step = str | int


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its value, and the line that each part of it begins on."""

    name: str
    value: Any
    lines: Mapping[tuple[Step, ...], int]

    @property
    def root(self) -> Place:
        return Place(document=self)


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where something stands; makes errors about it.

    With `lenient`, what can be passed over without harm is noted in `warnings` instead of being an error.
    """

    path: tuple[Step, ...] = ()
    document: Document | None = None
    title: str = ""  # a name that says more than the beginning of the path, which it replaces
    titled: int = 0  # length of that beginning
    lenient: bool = False
    warnings: list[str] = field(default_factory=list)

    def at(self, step: Step) -> Place:
        return self._but(path=(*self.path, step))

    def called(self, title: str) -> Place:
        """Show this place under a name from here on."""
        return self._but(title=title, titled=len(self.path))

    def _but(self, **changes: Any) -> Place:
        known = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Place(**{**known, **changes})

    @property
    def line(self) -> int | None:
        """The line of the nearest part whose line is known."""
        if self.document is None:
            return None
        paths = (self.path[:length] for length in range(len(self.path), -1, -1))
        return next((self.document.lines[path] for path in paths if path in self.document.lines), None)

    def __str__(self) -> str:
        where = ""
        for step in self.path[self.titled :]:
            where += f"[{step}]" if isinstance(step, int) else f".{step}" if where else step
        if self.title:
            where = f"{self.title}: {where}" if where else self.title
        if self.document is None:
            return where
        line = self.line
        file = self.document.name if line is None else f"{self.document.name}:{line}"
        return f"{file}: {where}" if where else file

    def fail(self, reason: str, **details: Any) -> InvalidInput:
        """Return the error about what stands here."""
        name = self.document.name if self.document else None
        return InvalidInput(
            f"{self}: {reason}", **details, reason=reason, path=list(self.path), file=name, line=self.line
        )

    def complain(self, reason: str) -> None:
        """Refuse what stands here, or note it where that is asked for."""
        if not self.lenient:
            raise self.fail(reason)
        self.warnings.append(f"{self}: {reason}")

    # ------------------------------------------------------------------ checks of values

    def mapping(self, value: Any, *, known: Sequence[str], required: Sequence[str] = ()) -> dict[str, Any]:
        """Return a mapping's members; unknown keys are complained about with the near one."""
        if not isinstance(value, Mapping):
            raise self.fail(f"a mapping with {', '.join(known)} is expected, not {kind(value)}")
        members: dict[str, Any] = {}
        for key, item in value.items():
            if key in known:
                members[key] = item
            else:
                self.at(str(key)).complain(f"unknown key; {hint(str(key), known)}")
        for key in required:
            if key not in members:
                raise self.fail(f"the key {key!r} is missing")
        return members

    def items(self, value: Any, what: str) -> list[Any]:
        """Return a list's items."""
        if not isinstance(value, list | tuple):
            raise self.fail(f"a list of {what} is expected, not {kind(value)}")
        return list(value)

    def text(self, value: Any, *, what: str = "a text", max_length: int = 255) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fail(f"{what} is expected, not {kind(value) if value != '' else 'an empty text'}")
        if len(value) > max_length:
            raise self.fail(f"{len(value)} characters; at most {max_length}")
        return value

    def whole(self, value: Any, *, lowest: int, highest: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.fail(f"a whole number from {lowest} to {highest} is expected, not {value!r}")
        return value


def hint(name: str, known: Iterable[str]) -> str:
    """Say what was probably meant, or what there is."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or '(none)'}"


def kind(value: Any) -> str:
    """Say what a value is, in the words of YAML."""
    names = {dict: "a mapping", list: "a list", tuple: "a list", str: "a text", bool: "a yes or no", int: "a number"}
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")


def read_document(path: str | Path) -> Document:
    """Read a YAML file. Raises InvalidInput."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{file}: larger than {MAX_FILE_BYTES:,} bytes", file=str(file))
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else f"is not UTF-8: {exc}"
        raise InvalidInput(f"{file}: can not be read: {reason}", file=str(file)) from exc
    return parse_document(text, name=str(file))


def parse_document(text: str, *, name: str) -> Document:
    """Parse YAML text. A key that stands twice in one mapping is an error. Raises InvalidInput."""
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(name, None, {})
        lines: dict[tuple[Step, ...], int] = {}
        _Lines(loader, name, lines).walk(node, (), node)
        return Document(name, loader.construct_document(node), lines)
    except InvalidInput:
        raise
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        reason = " ".join(part for part in (exc.context, exc.problem) if part)
        raise InvalidInput(f"{where}: is no YAML: {reason}", file=name, line=mark.line + 1 if mark else None) from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise InvalidInput(f"{name}: is no YAML: {' '.join(str(exc).split())}", file=name) from exc
    finally:
        if loader is not None:
            loader.dispose()


class _Lines:
    def __init__(self, loader: yaml.SafeLoader, name: str, lines: dict[tuple[Step, ...], int]) -> None:
        self._loader = loader
        self._name = name
        self._lines = lines
        self._visited = 0

    def walk(self, node: yaml.Node, path: tuple[Step, ...], at: yaml.Node) -> None:
        """Note the line of a node, which is its key's, and of what it holds."""
        line = at.start_mark.line + 1
        self._visited += 1
        if self._visited > _MAX_NODES or len(path) > _MAX_DEPTH:
            raise InvalidInput(f"{self._name}:{line}: too large, or nested too deeply", file=self._name, line=line)
        self._lines[path] = line
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.walk(item, (*path, index), item)
        elif isinstance(node, yaml.MappingNode):
            self._no_key_twice(node)
            self._loader.flatten_mapping(node)  # merges `<<`
            for key, item in node.value:
                self.walk(item, (*path, str(key.value)), key)

    def _no_key_twice(self, node: yaml.MappingNode) -> None:
        if getattr(node, "looked_at", False):  # flattened by another alias already: merged keys may be twice
            return
        node.looked_at = True  # type: ignore[attr-defined]
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise InvalidInput(
                        f"{self._name}:{line}: the key {key.value!r} stands in line {seen[key.value]} already",
                        file=self._name,
                        line=line,
                    )
                seen[key.value] = line
