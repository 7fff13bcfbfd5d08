"""`eventproc test FILE`: a handler file is tried on a sample event, without a server and without consequences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eventproc.cli.main import run

GOOD = """\
from eventproc import register

@register(name="good", hook="order.placed")
def good(db, total, **kwargs):
    print("seen", total)
    ep.emit("order.placed", {"total": 1})
    ep.on_commit(lambda: print("must not happen"))
    return {"double": total * 2}
"""
BOOM = """\
from eventproc import register

@register(name="boom", hook="schedule.tick")
def boom(db, **kwargs):
    raise ValueError("\\x1b[31mthe reason")
"""
HOOKS = """\
hooks:
  - name: order.placed
    summary: x
    schema: {type: object, required: [total], properties: {total: {type: number}}}
    sample: {total: 21}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    (tmp_path / "eventproc.toml").write_text('data = ".eventproc"\n')
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "shop.yaml").write_text(HOOKS)
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "boom.py").write_text(BOOM)
    return tmp_path


def tried(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    run(["test", *arguments, "--json"])
    [found] = json.loads(capsys.readouterr().out)
    return found


def test_the_hooks_sample_is_taken_and_result_output_and_effects_are_shown(capsys, project):
    assert run(["test", "good.py"]) == 0
    shown = capsys.readouterr().out
    assert "seen 21" in shown
    assert '"double": 42' in shown
    assert "order.placed" in shown
    assert "must not happen" not in shown
    assert not (project / ".eventproc").exists()


def test_for_programs_it_is_json(capsys):
    found = tried(capsys, "good.py")
    assert (found["handler"], found["hook"], found["result"], found["failure"]) == (
        "good",
        "order.placed",
        {"double": 42},
        None,
    )


def test_an_event_can_be_given_in_a_file_or_on_the_line(capsys, project):
    (project / "event.json").write_text('{"total": 5}')
    for given in ("event.json", "@event.json", '{"total": 5}'):
        assert tried(capsys, "good.py", "--event", given)["result"] == {"double": 10}


def test_an_event_that_breaks_the_hooks_schema_is_refused(capsys):
    assert run(["test", "good.py", "--event", '{"total": "x"}']) == 2
    assert "$.total" in capsys.readouterr().err


def test_a_failing_handler_is_exit_code_1_with_its_traceback_and_no_escape(capsys):
    assert run(["test", "boom.py"]) == 1
    shown = capsys.readouterr().out
    assert "ValueError" in shown
    assert "the reason" in shown
    assert "\x1b" not in shown


def test_a_broken_file_is_exit_code_2_and_names_the_line(capsys, project):
    (project / "broken.py").write_text("x = 1\nthis is no python\n")
    assert run(["test", "broken.py"]) == 2
    assert "broken.py:2" in capsys.readouterr().err


def test_a_file_that_marks_nothing_says_so(capsys, project):
    (project / "empty.py").write_text("x = 1\n")
    assert run(["test", "empty.py"]) == 2
    assert "@register" in capsys.readouterr().err


def test_an_unknown_hook_lists_the_near_ones_and_another_can_be_named(capsys, project):
    (project / "typo.py").write_text(GOOD.replace('hook="order.placed"', 'hook="order.plced"'))
    assert run(["test", "typo.py"]) == 4
    assert "order.placed" in capsys.readouterr().err
    assert tried(capsys, "typo.py", "--hook", "order.placed")["result"] == {"double": 42}


def test_a_crash_of_the_handler_does_not_take_the_command_down(capsys, project):
    (project / "crash.py").write_text(
        'from eventproc import register\n\n@register(hook="schedule.tick")\ndef crash(db, **kw):\n'
        "    import os\n    os._exit(7)\n"
    )
    found = tried(capsys, "crash.py")
    assert found["failure"]["kind"] == "exit"


def test_declared_secrets_are_taken_from_the_environment_and_not_shown(capsys, project, monkeypatch):
    (project / "quiet.py").write_text(
        "from eventproc import register\n\n"
        '@register(name="quiet", hook="order.placed", secrets=["SHOP_TOKEN"])\n'
        "def quiet(db, **kwargs):\n"
        '    return "with " + ep.secrets["SHOP_TOKEN"]\n'
    )
    monkeypatch.delenv("SHOP_TOKEN", raising=False)
    assert run(["test", "quiet.py"]) != 0
    assert "environment variable" in capsys.readouterr().err
    monkeypatch.setenv("SHOP_TOKEN", "tok-3nAbC")
    assert tried(capsys, "quiet.py")["result"] == "with ***SHOP_TOKEN***"
