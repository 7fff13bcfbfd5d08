"""Settings: one place, one precedence, and errors that say where to look."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc import config
from eventproc.config import Address, load, mask_url, parse_duration, parse_size
from eventproc.errors import ConfigError
from eventproc.model.units import DURATION_UNITS


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """No settings file of the developer's machine is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def write(text: str, directory: Path | None = None) -> Path:
    file = (directory or Path.cwd()) / "eventproc.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# ------------------------------------------------------------------------------------------- where values come from


def test_defaults_are_the_documented_ones(tmp_path):
    settings = load()
    assert settings.data == tmp_path / "share" / "eventproc"
    assert (str(settings.http), str(settings.graphite), str(settings.grpc)) == (
        "127.0.0.1:8080",
        "127.0.0.1:2003",
        "127.0.0.1:4411",
    )
    assert settings.database == f"sqlite:///{settings.data}/eventproc.db"
    assert settings.retention.events == 30 * 86_400


def test_without_xdg_the_data_directory_is_below_home(monkeypatch):
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load().data == Path("/home/somebody/.local/share/eventproc")


def test_options_come_before_environment_before_file_before_defaults(monkeypatch):
    write('http = "127.0.0.1:1"\nlog_level = "error"\nmail_sender = "file@example.com"\n')
    monkeypatch.setenv("EVENTPROC_HTTP", "127.0.0.1:2")
    monkeypatch.setenv("EVENTPROC_LOG_LEVEL", "warning")
    settings = load(http="127.0.0.1:3")
    assert settings.http.port == 3
    assert settings.log_level == "warning"
    assert settings.mail_sender == "file@example.com"
    assert settings.durability == "normal"


def test_an_option_that_is_none_was_not_given(monkeypatch):
    monkeypatch.setenv("EVENTPROC_HTTP", "127.0.0.1:2")
    assert load(http=None).http.port == 2


@pytest.mark.parametrize("name", ["DATABASE_URL", "BROKER_URL", "SMTP_URL"])
def test_urls_are_taken_from_their_fixed_names(monkeypatch, name):
    monkeypatch.setenv(f"EVENTPROC_{name}", "x://user:pw@host/path")
    assert getattr(load(), name.lower()).get_secret_value() == "x://user:pw@host/path"


def test_the_data_directorys_file_comes_before_the_current_ones(tmp_path, monkeypatch):
    write('log_level = "error"')
    write('log_level = "debug"', tmp_path / "data")
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "data"))
    assert load().log_level == "debug"


def test_a_file_named_on_the_line_is_the_one_that_counts(tmp_path):
    write('log_level = "error"')
    assert load(config=write('log_level = "debug"', tmp_path / "other")).log_level == "debug"


def test_a_named_file_that_is_missing_is_an_error():
    with pytest.raises(ConfigError, match=r"no settings file .*missing\.toml"):
        load(config=Path("missing.toml"))


def test_paths_in_the_file_are_relative_to_it_and_others_to_the_current_directory(tmp_path, monkeypatch):
    file = write('data = ".eventproc"\ntemplates = "mails"\n', tmp_path / "project")
    settings = load(config=file)
    assert settings.data == tmp_path / "project" / ".eventproc"
    assert settings.templates == tmp_path / "project" / "mails"
    assert settings.project == tmp_path / "project"
    monkeypatch.setenv("EVENTPROC_DATA", "here")
    assert load(config=file).data == tmp_path / "here"


def test_sections_come_from_the_file_and_single_members_from_the_environment(monkeypatch):
    write('[retention]\nevents = "7d"\nlogs = "forever"\n[worker]\nslots = 3\n')
    monkeypatch.setenv("EVENTPROC_RETENTION__EVENTS", "1h")
    settings = load()
    assert settings.retention.events == 3600
    assert settings.retention.logs is None
    assert settings.worker.slots == 3


def test_settings_can_not_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load().log_level = "debug"


# ------------------------------------------------------------------------------------------- what is wrong, and where


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('log_level = "info"\nhtpp = "x"\n', 2, "did you mean 'http'"),
        ("# a comment\n\n[retention]\nevents = 1\nevnts = 2\n", 5, "did you mean 'events'"),
        ("[retentoin]\nevents = 1\n", 1, "did you mean 'retention'"),
        ("a = 1\nretention.zzzzzz = 2\n", 1, "unknown setting 'a'"),
        ("retention.zzzzzz = 2\n", 1, "known are: events"),
        ("\n\nretention = 5\n", 3, "is a section"),
    ],
)
def test_an_unknown_key_names_its_line_and_the_near_key(text, line, says):
    file = write(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert f"{file}, line {line}: " in caught.value.message
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('\nhttp = "here"\n', 2, "is no address"),
        ('[worker]\nslots = 1\nlease = "soon"\n', 3, "is no duration"),
        ("[limits]\nmemory = '3 elephants'\n", 2, "is no size"),
        ("[worker]\nslots = 0\n", 2, "greater than or equal to 1"),
        ('durability = "best"\n', 1, "'normal' or 'full'"),
    ],
)
def test_a_bad_value_in_the_file_names_its_line(text, line, says):
    file = write(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert f"{file}, line {line}: " in caught.value.message
    assert says in caught.value.message


def test_a_file_that_is_no_toml_names_the_line():
    write("a = \n")
    with pytest.raises(ConfigError, match="line 1"):
        load()


def test_a_bad_value_in_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("EVENTPROC_HTTP", "8080")
    with pytest.raises(ConfigError, match=r"environment variable EVENTPROC_HTTP: .*HOST:PORT"):
        load()
    monkeypatch.delenv("EVENTPROC_HTTP")
    monkeypatch.setenv("EVENTPROC_WORKER__LEASE", "soon")
    with pytest.raises(ConfigError, match="environment variable EVENTPROC_WORKER__LEASE"):
        load()


def test_a_section_in_the_environment_that_is_no_json_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setenv("EVENTPROC_WORKER", "many")
    with pytest.raises(ConfigError, match="EVENTPROC_WORKER"):
        load()


def test_a_bad_option_names_the_option():
    with pytest.raises(ConfigError, match="option --log-level"):
        load(log_level="loud")


def test_misspelt_variables_are_found(monkeypatch):
    monkeypatch.setenv("EVENTPROC_HTPP", "x")
    monkeypatch.setenv("EVENTPROC_WORKER__SLOTS", "2")
    monkeypatch.setenv("EVENTPROC_API_KEY", "x")
    assert config.unknown_environment() == ["EVENTPROC_HTPP"]


# ------------------------------------------------------------------------------------------- secrets


def test_secrets_are_masked_wherever_settings_are_shown(monkeypatch):
    monkeypatch.setenv("EVENTPROC_SMTP_URL", "smtp://me:hunter2@mail:25?starttls=required")
    monkeypatch.setenv("EVENTPROC_DATABASE_URL", "postgresql://me:hunter2@db/x")
    monkeypatch.setenv("EVENTPROC_SECRET_KEY", "hunter2")
    settings = load()
    for shown in (repr(settings), str(settings), str(settings.shown())):
        assert "hunter2" not in shown
    assert settings.shown()["smtp_url"] == "smtp://me:***@mail:25?starttls=required"


def test_an_error_about_a_secret_does_not_repeat_it(monkeypatch):
    monkeypatch.setenv("EVENTPROC_SMTP_URL", "smtp://me:hunter2@mail")
    monkeypatch.setenv("EVENTPROC_HTTP", "nonsense")
    with pytest.raises(ConfigError) as caught:
        load()
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("smtp://a:b@h:25/x?y=z", "smtp://a:***@h:25/x?y=z"),
        ("smtp://a@h", "smtp://a@h"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("postgresql://a:b@c:d@h/x", "postgresql://a:***@h/x"),
    ],
)
def test_only_the_password_of_a_url_is_masked(url, shown):
    assert mask_url(url) == shown


# ------------------------------------------------------------------------------------------- passing on, and parsing


def test_settings_survive_the_way_through_an_environment(monkeypatch):
    write('log_level = "error"\ndurability = "full"\n[retention]\nevents = "forever"\n[worker]\nlease = "1h30m"\n')
    monkeypatch.setenv("EVENTPROC_SMTP_URL", "smtp://a:b@h")
    settings = load()
    for name, value in settings.as_environ().items():
        monkeypatch.setenv(name, value)
    again = load(search=False)
    assert again == settings
    assert again.smtp_url.get_secret_value() == "smtp://a:b@h"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30d", 2_592_000),
        ("12h", 43_200),
        ("90", 90),
        (90, 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2w", 1_209_600),
        ("forever", None),
    ],
)
def test_durations_are_read_as_people_write_them(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "3 fortnights", "-5d", "5d and a bit", "d5", True])
def test_nonsense_is_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(1, 5000), st.sampled_from(["ms", "s", "min", "m", "h", "d", "w"]))
def test_every_whole_duration_means_its_number_of_units(count, unit):
    assert parse_duration(f"{count}{unit}") == pytest.approx(count * DURATION_UNITS[unit])


@given(st.text())
def test_any_text_is_a_duration_or_a_clear_error(text):
    try:
        value = parse_duration(text)
    except ValueError as error:
        said = str(error)
    else:
        assert value is None or value >= 0
        return
    assert "duration" in said


@pytest.mark.parametrize(("text", "size"), [("64MiB", 64 << 20), ("1GB", 10**9), ("12", 12), (12, 12), ("1.5k", 1536)])
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:80", "::1", 80),
        (":0", "127.0.0.1", 0),
        ("localhost:1", "localhost", 1),
    ],
)
def test_addresses_are_read(text, host, port):
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "8080", "host", "host:", "host:port", "host:65536", "http://host:1", "a:b:c:1"])
def test_nonsense_is_no_address(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)


@given(st.sampled_from(["127.0.0.1", "localhost", "::1", "example.com"]), st.integers(0, 65_535))
def test_an_address_reads_back_as_it_was_written(host, port):
    assert Address.parse(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("EVENTPROC_RETENTION__EVENTS", "9" * 330 + "d", "more than 100 years; write forever"),
        ("EVENTPROC_RETENTION__EVENTS", "40000d", "more than 100 years"),
        ("EVENTPROC_WORKER__LEASE", "forever", "this can not be forever; write a duration such as 30s"),
        ("EVENTPROC_RETENTION__DEDUP", "never", "this can not be forever"),
        ("EVENTPROC_MAIL_DIGEST", "forever", "this can not be forever; write a duration such as 30s"),
    ],
)
def test_durations_that_can_not_be_say_why(monkeypatch, tmp_path, name, text, said):
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load()
    assert name in str(caught.value)


def test_times_of_hooks_are_pairs_and_a_mistake_says_how_they_are_written(monkeypatch):
    monkeypatch.setenv("EVENTPROC_RETENTION__KEEP_IDLE", "inference.batch_done=7d, samples.*=forever")
    retention = load().retention
    assert config.hook_times(retention.keep_idle) == {"inference.batch_done": 604_800, "samples.*": None}
    for wrong in ("inference.batch_done", "=7d", "inference.batch_done=soon"):
        monkeypatch.setenv("EVENTPROC_RETENTION__KEEP_IDLE", wrong)
        with pytest.raises(ConfigError, match=r"inference\.batch_done=7d|is no duration"):
            load()
