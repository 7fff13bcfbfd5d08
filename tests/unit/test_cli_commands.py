"""The command line without a server: help, errors, exit codes, and commands that need none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from eventproc.cli.doctor import _database, _retention, _secrets
from eventproc.cli.emit import _parse
from eventproc.cli.main import COMMANDS, cli, run
from eventproc.config import load
from eventproc.engine.housekeeping import WAITS
from eventproc.errors import ConfigError, EventprocError
from eventproc.roles import ROLES
from eventproc.roles.files import remove_endpoints
from eventproc.wiring import Platform

HEAVY = ("sqlalchemy", "fastapi", "pydantic", "rich", "httpx", "numpy", "dill", "eventproc.wiring", "eventproc.client")


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find neither the developer's settings nor a platform."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from eventproc.cli.main import run
run(["--help"])
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("more", "told"), [(["day.jsonl"], "FILE"), (["--speed", "9", "--no-expire"], "--no-expire, --speed")]
)
def test_the_end_of_a_playback_passes_nothing_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "data"))
    (tmp_path / "day.jsonl").write_text("{}")
    assert run(["playback", "--end", *more, "--json"]) == 2
    assert f"--end goes without {told}: " in capsys.readouterr().err


def test_what_the_help_says_of_groups_are_their_commands() -> None:
    told = {name: summary.partition(": ")[2].rstrip(".") for name, (_, summary) in COMMANDS.items()}
    for name, words in told.items():
        group = cli.get_command(click.Context(cli), name)
        if words and isinstance(group, click.Group):
            assert set(words.split(", ")) <= set(group.commands), name


def test_the_roles_of_serve_are_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "only: " + ", ".join(ROLES) + "." in told


def test_every_command_of_the_help_can_be_loaded_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert run([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"Usage: eventproc {name}")
        assert "--json" in shown


def test_every_subcommand_has_a_summary_and_takes_json() -> None:
    import click

    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        for sub in getattr(command, "commands", {}).values():
            assert sub.help, f"{name} {sub.name}"
            assert "--json" in {option for param in sub.params for option in param.opts}, f"{name} {sub.name}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_EVENTPROC_COMPLETE" in capsys.readouterr().out


def test_completion_completes_commands_and_subcommands() -> None:
    environ = {
        **os.environ,
        "_EVENTPROC_COMPLETE": "bash_complete",
        "COMP_WORDS": "eventproc runs re",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([sys.executable, "-m", "eventproc"], env=environ, capture_output=True, text=True, check=False)
    assert "requeue" in done.stdout


def test_a_mistyped_command_is_met_with_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["handler", "list"]) == 2
    assert "Did you mean: handlers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["users", "remove", "ada"], "disable"),
        (["handlers", "rm", "x"], "delete"),
        (["runs", "ls"], "list"),
        (["keys", "delete", "x"], "revoke"),
        (["status"], "doctor"),
    ],
)
def test_words_that_other_programs_have_lead_to_ours(typed, meant, capsys) -> None:
    assert run(typed) == 2
    assert f"Did you mean: {meant}" in capsys.readouterr().err


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "hooks").write_text("in the way")
    assert run(["init", "project"]) == 1
    assert (
        capsys.readouterr().err
        == "error: project/hooks can not be read or written: File exists (--debug shows where)\n"
    )


def test_without_a_platform_the_error_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "list"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "EVENTPROC_ENDPOINTS" in error


def test_an_unreachable_server_is_exit_code_6_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "list", "--endpoint", "127.0.0.1:1", "--api-key", "x"]) == 6
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_with_json_errors_are_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "list", "--endpoint", "127.0.0.1:1", "--api-key", "x", "--json"]) == 6
    shown = capsys.readouterr()
    assert shown.out == ""
    assert json.loads(shown.err)["error"]["code"] == "server_unreachable"


def test_with_debug_the_traceback_is_shown() -> None:
    with pytest.raises(EventprocError):
        run(["runs", "list", "--endpoint", "127.0.0.1:1", "--api-key", "x", "--debug"])


def test_common_options_work_before_and_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["--json", "db", "revision"], ["db", "--json", "revision"], ["db", "revision", "--json"]):
        run(line)
        assert "needed" in json.loads(capsys.readouterr().out)


def test_a_settings_file_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "other.toml"
    file.write_text("htpp = 1\n")
    assert run(["db", "revision", "--config", str(file)]) == 2
    assert "did you mean 'http'" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m eventproc --help | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# ------------------------------------------------------------------------------------------------- init, db, doctor


def test_init_makes_a_project_that_keeps_to_its_own_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from eventproc.config import load
    from eventproc.plugins import load as load_file
    from eventproc.plugins import marked_handlers
    from eventproc.wiring import load_hooks

    assert run(["init", "shop"]) == 0
    settings = load(config=tmp_path / "shop" / "eventproc.toml")
    assert settings.data == tmp_path / "shop" / ".eventproc"
    specs, problems = load_hooks(settings)
    assert problems == []
    assert "order.placed" in {spec.name for spec in specs}
    found = marked_handlers(load_file(tmp_path / "shop" / "handlers" / "greet_order.py"))
    assert [item.mark.hook for item in found] == ["order.placed"]


def test_init_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "eventproc.toml").write_text("# mine\n")
    assert run(["init", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kept"] == ["eventproc.toml"]
    assert (tmp_path / "eventproc.toml").read_text() == "# mine\n"


def test_db_upgrade_makes_the_tables_and_revision_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["db", "revision", "--json"]) == 1
    before = json.loads(capsys.readouterr().out)
    assert before["revision"] is None
    assert run(["db", "upgrade"]) == 0
    assert run(["db", "upgrade"]) == 0
    assert "up to date" in capsys.readouterr().out
    assert run(["db", "revision", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["revision"] == after["needed"]


def test_doctor_is_content_with_a_fresh_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTPROC_HTTP", "127.0.0.1:0")
    assert run(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"python", "database", "sandbox", "mail", "disk", "server"} <= {finding["what"] for finding in findings}


def test_doctor_says_what_to_do_about_a_damaged_endpoints_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    (tmp_path / "endpoints.json").write_text("[1")
    assert run(["doctor", "--json"]) == 1
    says = {finding["what"]: finding["says"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    for what in ("server", "metrics"):
        assert str(tmp_path / "endpoints.json") in says[what]
        assert "start the server again" in says[what]


def test_doctor_finds_what_must_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "admin.key").write_text("x")
    (data / "admin.key").chmod(0o644)
    monkeypatch.setenv("EVENTPROC_DATA", str(data))
    monkeypatch.setenv("EVENTPROC_HTTP", "127.0.0.1:0")
    monkeypatch.setenv("EVENTPROC_HTPP", "x")
    monkeypatch.setenv("EVENTPROC_BROKER_URL", "amqp://me:hunter2@broker")
    monkeypatch.setenv("EVENTPROC_SMTP_URL", "smtp://me:hunter2@127.0.0.1:1")
    assert run(["doctor", "--settings"]) == 1
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    for words in (
        "admin.key can be read by others",
        "EVENTPROC_HTPP is set",
        "the broker amqp://broker:5672 can not be reached",
        "127.0.0.1:1",
    ):
        assert words in shown


# ------------------------------------------------------------------------------------------------- emit --lines


def test_each_line_is_judged_by_itself() -> None:
    lines = ['{"a": 1}', "", "nonsense", "[1]", '{"payload": {"b": 2}, "id": "x", "tags": ["t"]}', '{"payload": 3}']
    assert list(_parse({"hook": "h"}, lines)) == [
        (1, {"hook": "h", "payload": {"a": 1}}),
        (3, "not JSON: Expecting value at character 1"),
        (4, "a JSON object is needed, not list"),
        (5, {"hook": "h", "payload": {"b": 2}, "id": "x", "tags": ["t"]}),
        (6, {"hook": "h", "payload": {"payload": 3}}),
    ]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda file: file.write_text("this is no database at all, it is prose"),
            "is not a SQLite database: check EVENTPROC_DATA",
        ),
        (lambda file: file.mkdir(), "can not be opened: check its directory"),
    ],
    ids=["prose", "directory"],
)
def test_a_database_file_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage, said
) -> None:
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    damage(tmp_path / "eventproc.db")
    assert run(["db", "upgrade"]) == 2
    assert f"error: {tmp_path}/eventproc.db {said}" in capsys.readouterr().err


def test_a_data_directory_that_is_a_file_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "file"))
    assert run(["doctor", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    says = {finding["what"]: finding["says"] for finding in findings if finding["level"] == "problem"}
    assert says["data directory"] == f"{tmp_path}/file is no directory; set EVENTPROC_DATA to another"


def test_what_stands_in_the_place_of_endpoints_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "endpoints.json").mkdir()
    with pytest.raises(ConfigError, match=r"endpoints\.json can not be replaced .*: move it away"):
        remove_endpoints(tmp_path / "endpoints.json")


def test_a_key_of_another_database_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    assert run(["db", "upgrade"]) == 0
    with Platform(load()) as platform:
        settings = platform.settings
        (settings.admin_key_file).write_text(f"ep_{'a' * 8}_{'b' * 43}")
        (told,) = platform.strange_admin_key()
        assert f"{tmp_path}/admin.key holds a key that this database does not know" in told
        assert told in [finding.says for finding in _database(settings, platform) if finding.level == "problem"]
        settings.admin_key_file.unlink()
        assert platform.strange_admin_key() == []


def test_retention_that_waits_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    with Platform(load()) as platform:
        assert list(_retention(platform.settings, platform)) == []
        platform.prepare()
        assert list(_retention(platform.settings, platform)) == []
        with platform.store.begin() as tx:
            tx.set_meta(WAITS, "the clock jumped ahead")
        (found,) = _retention(platform.settings, platform)
    assert (found.what, found.level, found.says) == ("retention", "warning", "the clock jumped ahead")


def test_secrets_that_the_key_does_not_open_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    monkeypatch.setenv("EVENTPROC_SECRET_KEY", "the first key, which is long enough")
    with Platform(load()) as platform:
        assert list(_secrets(platform.settings, platform)) == []
        platform.prepare()
        with platform.store.begin() as tx:
            (admin,) = tx.users.all()
            tx.secrets.put(admin.id, "TOKEN", platform.vault.encrypt(admin.id, "TOKEN", "hunter2"), now_us=1)
        (found,) = _secrets(platform.settings, platform)
        assert (found.level, found.says) == ("ok", "1 stored; the key that is set opens them")
    monkeypatch.setenv("EVENTPROC_SECRET_KEY", "another key, which is long enough too")
    with Platform(load()) as platform:
        (found,) = _secrets(platform.settings, platform)
        assert found.level == "problem"
        assert "1 of 1: the secret 'TOKEN' can not be decrypted" in found.says
        assert "EVENTPROC_SECRET_KEY" in found.says
