"""`eventproc test FILE`: a handler file is tried on a sample event, without a server and without consequences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pythons_world import make_wheels

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


WITH_PACKAGES = """\
# /// script
# dependencies = ["colours==1.0"]
# ///
from eventproc import register

@register(name="old", hook="order.placed")
def old(db, **kwargs):
    import colours
    return colours.NAME

@register(name="new", hook="order.placed", requirements=["paint", "colours==2.0"])
def new(db, **kwargs):
    import paint
    return paint.NAME
"""
GREEDY = """\
from eventproc import register

@register(name="greedy", hook="order.placed", {option})
def greedy(db, **kwargs):
    return "had it"
"""


def test_packages_are_installed_as_a_worker_would_and_kept(capsys, project):
    make_wheels(project / "wheels")
    (project / "eventproc.toml").write_text(
        f'data = ".eventproc"\n[environments]\noffline = true\nfind_links = ["{project / "wheels"}"]\n'
    )
    (project / "packages.py").write_text(WITH_PACKAGES)
    run(["test", "packages.py", "--json"])
    found = {each["handler"]: each["result"] for each in json.loads(capsys.readouterr().out)}
    assert found == {"old": "red", "new": "blue"}
    kept = {path.name: path.stat().st_ino for path in project.glob(".eventproc/environments/ready/*")}
    assert len(kept) == 2
    assert tried(capsys, "packages.py", "--name", "old")["result"] == "red"
    assert {path.name: path.stat().st_ino for path in project.glob(".eventproc/environments/ready/*")} == kept


def test_packages_that_can_not_be_had_are_refused_with_the_installers_words(capsys, project):
    (project / "eventproc.toml").write_text('data = ".eventproc"\n[environments]\noffline = true\n')
    (project / "packages.py").write_text(WITH_PACKAGES)
    assert run(["test", "packages.py", "--name", "old"]) != 0
    assert "colours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "option", "words"),
    [
        ("[policy]\nallow_subprocess = false", "allow_subprocess=True", "allow_subprocess"),
        ('[policy]\nnetwork = "none"', 'network=["example.org:443"]', "network"),
        ('[limits]\nmemory = "1GiB"', 'memory="2GiB"', "memory"),
        ("[environments]\nallowed = false", 'requirements=["colours"]', "environments.allowed"),
    ],
)
def test_what_the_operator_does_not_grant_is_refused(capsys, project, settings, option, words):
    (project / "greedy.py").write_text(GREEDY.format(option=option))
    (project / "eventproc.toml").write_text(f'data = ".eventproc"\n{settings}\n')
    assert run(["test", "greedy.py"]) != 0
    assert words in capsys.readouterr().err


def test_without_settings_of_an_operator_the_defaults_grant(capsys, project):
    greedy = GREEDY.format(option='allow_subprocess=True, memory="2GiB"').replace("order.placed", "schedule.tick")
    (project / "greedy.py").write_text(greedy)
    (project / "eventproc.toml").unlink()
    assert tried(capsys, "greedy.py")["result"] == "had it"
