"""Requirements: what may be asked for, and what a file says of itself."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.codec.inline import inline_requirements, with_inline_requirements
from eventproc.errors import InvalidHandler, InvalidInput, RequirementsError
from eventproc.registry.options import options_to_json, parse_options
from eventproc.testing import Harness

BODY = "\n\ndef handler(db, **payload):\n    return 1\n"


def test_requirements_are_kept_as_written_each_once():
    wanted = ["pandas==2.2.*", " numpy>=2 ", "pandas==2.2.*", "requests[socks]>=2; python_version >= '3.8'"]
    options = parse_options({"requirements": wanted})
    assert options.requirements == ("pandas==2.2.*", "numpy>=2", "requests[socks]>=2; python_version >= '3.8'")
    assert parse_options(options_to_json(options)) == options
    assert parse_options({"requirements": []}).requirements == ()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("pandas", "write a list"),
        (3, "write a list"),
        ([3], "no text"),
        ([""], "no text"),
        (["x" * 501], "no text"),
        (["pandas"] * 101, "at most 100"),
        (["--index-url=https://example.com"], "options of pip"),
        (["-r /etc/passwd"], "options of pip"),
        (["-e ."], "options of pip"),
        (["./local.whl"], "paths"),
        (["/etc/passwd"], "paths"),
        (["pandas=2"], "no requirement"),
        (["x @ https://example.com/x.whl"], "names a URL"),
        (["x @ file:///etc/passwd"], "names a URL"),
        (["x @ git+https://example.com/x"], "names a URL"),
        (["pandas\n--index-url=https://example.com"], "no requirement|more than one line"),
        (["pandas --hash=sha256:00"], "no requirement"),
    ],
)
def test_nothing_but_names_and_versions_is_taken(wanted, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        parse_options({"requirements": wanted})
    assert caught.value.details["option"] == "requirements"


@given(st.lists(st.text(max_size=60), max_size=3))
def test_whatever_is_written_is_one_line_or_refused(wanted):
    try:
        found = parse_options({"requirements": wanted}).requirements
    except InvalidInput:
        return
    assert all(line == line.strip() and "\n" not in line and not line.startswith("-") for line in found)


def handler_in(tmp_path, text):
    path = tmp_path / "plugin.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("plugin_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.handler


BLOCK = """# /// script
# requires-python = ">=3.8"
# dependencies = [
#   "pandas==2.2.*",
#   "Eventproc>=0.1",
# ]
# ///
"""


def test_a_file_says_itself_what_it_needs(tmp_path):
    handler = handler_in(tmp_path, BLOCK + BODY)
    assert inline_requirements(handler) == ["pandas==2.2.*"]
    assert with_inline_requirements(handler, {"timeout": 3}) == {"timeout": 3, "requirements": ["pandas==2.2.*"]}
    assert with_inline_requirements(handler, {"requirements": ["x"]}) == {"requirements": ["x"]}
    assert with_inline_requirements(handler, {"requirements": []}) == {"requirements": []}


def test_without_a_block_there_is_nothing(tmp_path):
    assert with_inline_requirements(handler_in(tmp_path, BODY), {}) == {}
    assert inline_requirements(handler_in(tmp_path, "# /// other\n# x = 1\n# ///\n" + BODY)) == []
    assert inline_requirements(eval("lambda db: 1")) == []


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("# /// script\n# dependencies = [\n# ///\n", "can not be read"),
        (
            '# /// script\n# requires-python = "<3"\n# ///\n',
            f"asks for Python <3, and this is Python {sys.version[:4]}",
        ),
        ('# /// script\n# requires-python = "new"\n# ///\n', "can not be read"),
        ('# /// script\n# dependencies = "pandas"\n# ///\n', "no list of texts"),
        (BLOCK + "\n" + BLOCK, "2 `# /// script` blocks"),
    ],
)
def test_a_block_that_is_wrong_is_refused_with_the_file(tmp_path, block, words):
    with pytest.raises(InvalidHandler, match=words) as caught:
        inline_requirements(handler_in(tmp_path, block + BODY))
    assert "plugin.py" in caught.value.message


def test_the_harness_compares_with_what_is_installed(tmp_path):
    with Harness() as platform:
        platform.add_hook("door.opened")
        handler = handler_in(tmp_path, BLOCK.replace("pandas==2.2.*", "numpy>=1") + BODY)
        record = platform.register(handler, hook="door.opened")
        assert record.current.options.requirements == ("numpy>=1",)
        platform.emit("door.opened", {})
        platform.run_until_idle()
        assert [run.result for run in platform.runs] == [1]
        with pytest.raises(RequirementsError, match="nosuchthing is not installed"):
            platform.register(handler, hook="door.opened", name="other", requirements=["nosuchthing"])
