"""What the command line prints: harmless for terminals, stable for programs."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from eventproc.cli import output
from eventproc.cli.base import Command, split_tags


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten", "over\\x0dwritten"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnirts", "\\u202egnirts"),
        ("Zürich 東京 🎉", "Zürich 東京 🎉"),
    ],
)
def test_terminal_escapes_become_visible_and_other_text_stays(text: str, shown: str) -> None:
    assert output.plain(text) == shown


@given(st.text())
def test_no_text_can_move_a_terminals_cursor(text: str) -> None:
    assert not output.UNSAFE.search(output.plain(text))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_value_makes_a_cell_of_one_line(value: Any) -> None:
    assert "\n" not in output.cell(value)


def test_times_are_shown_to_the_second() -> None:
    assert output.cell("2026-01-02T03:04:05.000006Z") == "2026-01-02 03:04:05"


def in_command(action: Any, *arguments: str) -> str:
    """Run `action` inside a command, where the common options are known; return what it printed."""
    command = Command("try", callback=action)
    done = CliRunner().invoke(command, list(arguments))
    assert done.exception is None, done.output
    return done.stdout


def test_a_table_for_a_pipe_is_plain_and_aligned() -> None:
    rows = [{"id": 1, "name": "a\x1b[1m"}, {"id": 22, "name": None}]
    assert in_command(lambda: output.table(rows, ["id", ("name", "who")])).splitlines() == [
        "id  who",
        "1   a\\x1b[1m",
        "22",
    ]


def test_json_output_holds_the_values_untouched() -> None:
    value = {"text": "\x1b[31m", "unicode": "東京", "list": [1, None]}
    assert json.loads(in_command(lambda: output.show(value, lambda: click.echo("for people")), "--json")) == value


def test_without_json_people_are_addressed() -> None:
    assert in_command(lambda: output.show({}, lambda: click.echo("for people"))) == "for people\n"


def test_tags_may_be_repeated_or_listed() -> None:
    assert split_tags(("a", "b, c", "")) == ["a", "b", "c"]
