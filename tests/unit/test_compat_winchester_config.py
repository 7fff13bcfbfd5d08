"""winchester's ConfigManager: a mapping that knows what was said, what is a default, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventproc.client import Connection
from eventproc.compat.winchester.modules.config import ConfigItem, ConfigManager, ConfigSection, ConfigurationError
from eventproc.compat.winchester.modules.trigger_manager import TriggerManager
from eventproc.errors import ConfigError

DESCRIPTION = {
    "config_path": ConfigItem(default=".", multiple=True),
    "database": ConfigSection(config_description={"url": ConfigItem(required=True)}),
    "delay": ConfigItem(default=10),
}


def test_defaults_are_read_and_not_contained() -> None:
    config = ConfigManager({"database": {"url": "sqlite://"}, "logfile": "x", "config_path": "etc"}, DESCRIPTION)
    config.check_config()
    assert (config["delay"], config["config_path"], config["logfile"]) == (10, ["etc"], "x")
    assert config["database"]["url"] == "sqlite://"
    assert set(config) == {"database", "logfile", "config_path", "delay"}
    assert config.contains("logfile")
    assert not config.contains("delay")
    assert ConfigManager.wrap(config, {}) is config
    assert ConfigManager.wrap({}, DESCRIPTION)["config_path"] == ["."]
    with pytest.raises(KeyError):
        config["other"]


@pytest.mark.parametrize(("said", "where"), [({}, "database"), ({"database": {}}, "database/url")])
def test_what_is_required_is_named_with_its_section(said: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^Required Configuration setting {where} is missing!$"):
        ConfigManager(said, DESCRIPTION).check_config()


def test_files_are_found_beside_the_first_one(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("database: {url: 'sqlite://'}\n")
    (tmp_path / "triggers.yaml").write_text("- name: t\n")
    (tmp_path / "w.ini").write_text("[x]\n")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    config = ConfigManager.load_config_file(tmp_path / "w.yaml", config_description=DESCRIPTION)
    assert config["database"]["url"] == "sqlite://"
    assert config.load_file("triggers.yaml") == [{"name": "t"}]
    with pytest.raises(ConfigurationError, match="Unknown config file type: 'ini'"):
        ConfigManager.load_config_file(tmp_path / "w.ini")
    with pytest.raises(ConfigurationError, match=r"bad\.yaml"):
        config.load_file("bad.yaml")
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        config.load_file("none.yaml")
    with pytest.raises(ConfigurationError, match="a mapping of keys"):
        ConfigManager.load_config_file(tmp_path / "triggers.yaml")


def test_a_trigger_manager_takes_what_was_read_as_winchester_reads_it(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("{}\n")
    (tmp_path / "w.yaml").write_text("database: {url: 'sqlite://'}\npipeline_handlers: {}\npipeline_config: p.yaml\n")
    connection = Connection("localhost:1", "key")
    manager = TriggerManager(ConfigManager.load_config_file(tmp_path / "w.yaml"), connection=connection)
    assert manager.config.path == tmp_path / "w.yaml"
    with pytest.raises(ConfigError, match="give the path"):
        TriggerManager(ConfigManager({}), connection=connection)
