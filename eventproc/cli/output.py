"""Output: tables and colours for people, plain columns for pipes, JSON for programs."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from eventproc.cli.base import state

# Everything that could move a terminal's cursor, change its colours or turn text around; new line and tab stay.
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SHORT = 20  # characters: a column no wider is not broken
STATE_COLOURS = {
    "succeeded": "green",
    "sent": "green",
    "running": "cyan",
    "committing": "cyan",
    "retrying": "yellow",
    "queued": "yellow",
    "pending": "yellow",
    "failed": "red",
    "commit_failed": "red",
    "cancelled": "magenta",
}


def plain(text: object) -> str:
    """Make text from handlers and events harmless for a terminal: control characters become visible."""
    return UNSAFE.sub(lambda match: _visible(match[0]), str(text))


def _visible(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def cell(value: object) -> str:
    """Write one value of a table on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, Mapping):
        return plain(json.dumps(value, ensure_ascii=False))
    text = str(value)
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", text):
        return f"{text[:10]} {text[11:19]}"
    return plain(text).replace("\n", "\\n").replace("\t", " ")


def text(value: object) -> str:
    """Write a JSON value for people: a string as it is, the rest as JSON."""
    return plain(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))


def for_people() -> bool:
    """Tell whether stdout is a terminal."""
    return sys.stdout.isatty()


def print_json(value: object) -> None:
    """Write one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=sys.stdout.encoding.lower() != "utf-8", default=str))


def show(value: Any, human: Callable[[], None]) -> None:
    """Write JSON when that was asked for, else let `human` write."""
    if state().json:
        print_json(value)
    else:
        human()


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str | tuple[str, str]], *, empty: str = "") -> None:
    """Write rows as a table; a column is a key, or (key, heading)."""
    keys = [column if isinstance(column, str) else column[0] for column in columns]
    heads = [column.replace("_", " ") if isinstance(column, str) else column[1] for column in columns]
    lines = [[cell(_dig(row, key)) for key in keys] for row in rows]
    if not lines:
        click.echo(empty or "nothing to show", err=True)
        return
    if for_people():
        _rich_table(heads, lines)
    else:
        _plain_table(heads, lines)


def _dig(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _rich_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for index, head in enumerate(heads):
        short = max(len(line[index]) for line in lines) <= SHORT
        shown.add_column(head, overflow="ellipsis" if short else "fold", no_wrap=short)
    for line in lines:
        shown.add_row(*(Text(text, style=STATE_COLOURS.get(text, "")) for text in line))
    Console(highlight=False, no_color=bool(os.environ.get("NO_COLOR"))).print(shown)


def _plain_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[index]) for line in [heads, *lines]) for index in range(len(heads))]
    for line in [list(heads), *lines]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def record(value: Mapping[str, Any], *, skip: Sequence[str] = ()) -> None:
    """Write one thing as `name  value` lines."""
    shown = {name: item for name, item in value.items() if name not in skip and item not in (None, [], {}, "")}
    width = max((len(name) for name in shown), default=0)
    for name, item in shown.items():
        text = json.dumps(item, indent=2, ensure_ascii=False) if isinstance(item, Mapping | list) else str(item)
        first, *rest = plain(text).split("\n")
        click.echo(f"{style(name.replace('_', ' ').ljust(width), bold=True)}  {first}")
        for line in rest:
            click.echo(f"{' ' * width}  {line}")


def style(text: str, **how: Any) -> str:
    """Colour text where colours are wanted."""
    if os.environ.get("NO_COLOR") or not for_people():
        return text
    return click.style(text, **how)


def state_word(word: str) -> str:
    """Write a run's or notice's state in its colour."""
    return style(word, fg=STATE_COLOURS.get(word))


def note(text: str) -> None:
    """Say something to people that is no part of the output."""
    if not state().json:
        click.echo(text, err=True)


def quiet() -> None:
    """Keep the platform's own log out of a command's output: warnings go to stderr, the rest nowhere."""
    import structlog

    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def ago(iso: str, now: dt.datetime | None = None) -> str:
    """Say how long ago an ISO time was."""
    seconds = ((now or dt.datetime.now(dt.UTC)) - dt.datetime.fromisoformat(iso)).total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit} ago"
    return f"{max(0, seconds):.0f}s ago"
