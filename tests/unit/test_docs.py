"""The documentation says what is so: commands, links, settings, options, limits, routes, errors and code."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import eventproc
from eventproc import Connection, errors
from eventproc.api.app import PREFIX, create_app
from eventproc.cli.main import COMMANDS, cli
from eventproc.client.handlers import OPTION_NAMES
from eventproc.config import Section, Settings
from eventproc.model import Limits, Role, RunState
from eventproc.registry.filters import _OPERATORS as OPERATORS
from eventproc.registry.specs import _MEMBERS as HOOK_MEMBERS
from eventproc.roles import ROLES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.rst"), *(ROOT / "docs").glob("*.rst"), *(ROOT / "examples").glob("*.rst")])
BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
HEREDOC = re.compile(r"<<'(\w+)'\n.*?^\1$", re.MULTILINE | re.DOTALL)
LITERAL = re.compile(r"(?<!`)``(eventproc [a-z][^`]*)``", re.DOTALL)
END_OF_COMMAND = re.compile(r"\|\||&&|[;|>]|^#")
UNDERLINE = re.compile(r"^(\S.*)\n(=+|-+|~+)$", re.MULTILINE)
PLACEHOLDERS = {"ID": "1", "…": "x"}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def blocks(page: Path, language: str) -> list[str]:
    return [textwrap.dedent(body) for name, body in BLOCK.findall(text(page)) if name == language]


def section(page: Path, title: str) -> str:
    """Return what stands under a heading, up to the next one."""
    found = re.search(rf"^{re.escape(title)}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {title!r}"
    return found[1]


def first_cells(part: str) -> list[str]:
    """Return the literals that begin the rows of a section's tables."""
    return re.findall(r"^``([^`\n]+)``(?=  |$| )", part, re.MULTILINE)


# ------------------------------------------------------------------------------------------------ the command line


def command_lines(page: Path) -> Iterator[str]:
    """Return every `eventproc …` of the shell blocks, of other literal blocks, and in the text."""
    yield from re.findall(r"^ {4}(eventproc [a-z].*)$", BLOCK.sub("", text(page)), re.MULTILINE)
    for block in blocks(page, "shell"):
        for line in HEREDOC.sub("", block).replace("\\\n", " ").splitlines():
            at = line.find("eventproc ")
            if at >= 0 and (at == 0 or line[at - 1] in " (|"):
                yield line[at:]
    for found in LITERAL.findall(text(page)):
        yield " ".join(found.split())


def words_of(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    end = next((index for index, word in enumerate(words) if END_OF_COMMAND.match(word)), len(words))
    return [PLACEHOLDERS.get(word, word) for word in words[1:end]]


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Follow the words to the command; return it with its arguments."""
    command: click.Command = cli
    context = click.Context(cli)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        assert found is not None, f"there is no command {rest[0]!r}"
        command, rest = found, rest[1:]
    return command, rest


LINES = [(page.name, line) for page in PAGES for line in command_lines(page)]


def test_the_documents_hold_command_lines():
    assert len(LINES) > 100


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:60]}" for page, line in LINES])
def test_every_command_line_names_a_command_and_options_that_exist(page, line):
    command, rest = find_command(words_of(line))
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
    known |= {"--version"} if command is cli else set()
    for word in rest:
        if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            assert word.partition("=")[0] in known, f"{page}: {line}: {command.name} has no option {word}"


@pytest.mark.parametrize(("page", "line"), [item for item in LINES if "…" not in item[1]])
def test_every_whole_command_line_has_the_arguments_it_needs(page, line):
    """What stands in the text may be a mere name, as in `eventproc serve`; what is given must fit."""
    command, rest = find_command(words_of(line))
    if isinstance(command, click.Group) or not rest:
        return
    given = click.Context(command, ignore_unknown_options=True, resilient_parsing=True)
    left = command.make_parser(given).parse_args(list(rest))[1]
    assert not left, f"{page}: {line}: {left} are too many"


def test_the_reference_lists_every_command():
    rows = first_cells(section(ROOT / "docs/reference.rst", "Command line"))
    listed = {cell.split()[1] for cell in rows if cell.startswith("eventproc ")}
    assert listed == set(COMMANDS)


def test_the_reference_lists_every_subcommand():
    page = section(ROOT / "docs/reference.rst", "Command line")
    for row in re.split(r"^(?=``eventproc )", page, flags=re.MULTILINE)[1:]:
        name = row.split("``")[1].split()[1]
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group):
            said = set(re.findall(r"[a-z-]+", row))
            assert set(command.list_commands(click.Context(command))) <= said, name


# ------------------------------------------------------------------------------------------------ links, code


def anchor(title: str) -> str:
    return re.sub(r"[^\w]+", "-", title.lower()).strip("-")


def titles(page: Path) -> list[str]:
    return [title for title, _ in UNDERLINE.findall(text(page))]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_internal_link_leads_somewhere(page):
    for target in re.findall(r"`[^`<]+<([^>`]+)>`_", text(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, place = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{page.name}: {target}"
        assert found.is_relative_to(ROOT), f"{page.name}: {target} is outside the repository"
        assert not place or place in map(anchor, titles(found)), f"{page.name}: {target}"
    for title in re.findall(r"`([^`<>\n]+)`_(?!_)", text(page)):
        assert title in titles(page), f"{page.name}: no heading {title!r}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_headings_are_underlined_to_their_end(page):
    for title, line in UNDERLINE.findall(text(page)):
        if not set(title) <= set("=- "):
            assert len(line) >= len(title), f"{page.name}: {title}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_the_columns_of_tables_are_kept(page):
    """One text that reaches into the gap between two columns, and docutils shows nothing of the whole table."""
    rule, last = "", ""
    for number, line in enumerate(text(page).splitlines(), 1):
        if re.fullmatch(r"=+(?: +=+)+", line):
            rule = line
        elif not line and last == rule:
            rule = ""  # the rule that ends the table
        elif rule and "---" not in line:
            for gap in re.finditer(r" +", rule):
                spans = line[slice(*gap.span())].strip()
                assert not spans or following_is_a_span(page, number), f"{page.name}:{number}: {line}"
        last = line


def following_is_a_span(page: Path, number: int) -> bool:
    """Tell whether the next line says that the cells of this one are joined."""
    return set(text(page).splitlines()[number]) <= set("- ")


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_python_block_compiles(page):
    for block in blocks(page, "python"):
        ast.parse(block)


def test_every_page_is_reached_from_the_index_or_the_readme():
    reached = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in (ROOT / "docs/index.rst", ROOT / "README.rst")
        for target in re.findall(r"<([^>`]+\.rst[^>`]*)>`_", text(page))
    }
    missing = [page.name for page in (ROOT / "docs").glob("*.rst") if page.resolve() not in reached]
    assert missing in ([], ["index.rst"])


# ------------------------------------------------------------------------------------------------ the tables


def settings() -> Iterator[tuple[str, str]]:
    """Return each setting's variable and its default as it is written in the code."""
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            for key, member in kind.model_fields.items():
                yield f"EVENTPROC_{name}__{key}".upper(), shown(member.default)
        else:
            yield f"EVENTPROC_{name}".upper(), shown(field.default)


def shown(default: object) -> str:
    if isinstance(default, tuple):
        default = ":".join(default)
    if default in (None, ""):
        return "none"
    return f"``{str(default).lower() if isinstance(default, bool) else default}``"


def test_the_reference_lists_every_setting_with_its_default():
    page = section(ROOT / "docs/reference.rst", "Settings")
    rows = {row[0]: row[1].strip() for row in re.findall(r"^``(EVENTPROC_\w+)`` +(.+?)(?=  )", page, re.MULTILINE)}
    expected = dict(settings())
    computed = {
        "EVENTPROC_DATA",
        "EVENTPROC_WORKER__SLOTS",
        "EVENTPROC_MODELS__THREADS",
    }  # depend on the machine; described in words
    assert rows.keys() == expected.keys()
    for name, default in expected.items():
        assert name in computed or rows[name] == default, name


def test_the_documents_name_every_role():
    for page in ("operations.rst", "howto.rst"):
        assert [role for role in ROLES if f"``{role}``" not in text(ROOT / "docs" / page)] == [], page
    assert set(
        re.findall(r"serve --role (\w+)", section(ROOT / "docs/howto.rst", "Split the roles over hosts"))
    ) == set(ROLES)


def test_the_reference_names_everything_that_python_offers():
    page = section(ROOT / "docs/reference.rst", "Python")
    words = set(re.findall(r"\w+", page))
    methods = {name for name in dir(Connection) if not name.startswith("_") and callable(getattr(Connection, name))}
    assert methods - words == set()
    assert set(eventproc.__all__) - {"__version__"} - words == set()
    listed = {
        name
        for line in re.findall(r"^\* .*?(?=^\*|^$)", page, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"[a-z]\w*_\w+", line)
    }
    assert listed - methods == set(), "methods that there are not"


def test_the_reference_lists_every_option():
    page = section(ROOT / "docs/reference.rst", "Options")
    rows = dict(re.findall(r"^``(\w+)`` +(\S.*)$", page, re.MULTILINE))
    assert rows.keys() == set(OPTION_NAMES)


def test_the_reference_lists_every_limit_with_its_default():
    page = section(ROOT / "docs/reference.rst", "Limits of a run")
    rows = dict(re.findall(r"^``(\w+)`` +(.+?)  ", page, re.MULTILINE))
    units = {"GiB": 1 << 30, "MiB": 1 << 20, "": 1}
    said = {}
    for name, value in rows.items():
        number, _, unit = value.partition(" ")
        said[name] = int(number.replace(",", "")) * units[unit]
    assert said == dataclasses.asdict(Limits())


def test_the_reference_lists_every_route():
    page = section(ROOT / "docs/reference.rst", "HTTP")
    said = set(re.findall(r"^``(\w+)`` +``(/\S*)``", page, re.MULTILINE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eventproc.api.app.UseCases", lambda _context: None)  # only the routes are looked at
        app = create_app(SimpleNamespace(settings=SimpleNamespace(max_body_bytes=1)))
    routes = {
        (method.upper(), path.removeprefix(PREFIX)) for path, item in app.openapi()["paths"].items() for method in item
    }
    assert {(method, path.replace(":path", "")) for method, path in routes} == said


def test_the_reference_names_every_error_state_operator_and_member_of_a_hook():
    page = text(ROOT / "docs/reference.rst")
    found = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)]
    assert [name for name in found if f"``{name}``" not in page] == []
    assert [state for state in RunState if f"``{state}``" not in section(ROOT / "docs/reference.rst", "Runs")] == []
    assert [name for name in OPERATORS if name not in section(ROOT / "docs/reference.rst", "Filters")] == []
    assert first_cells(section(ROOT / "docs/reference.rst", "Hook files")) == list(HOOK_MEMBERS)


def test_the_security_page_explains_every_role():
    assert first_cells(section(ROOT / "docs/security.rst", "Keys and roles")) == [role.value for role in Role]
