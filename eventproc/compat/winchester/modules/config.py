"""winchester.config: a configuration as a mapping, with defaults and required keys said by a description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eventproc.errors import InvalidInput
from eventproc.registry.documents import read_document


class ConfigurationError(Exception):
    """A key is missing, or a file can not be read."""


class ConfigItem:
    """What a key is for; `multiple` makes a list of a single value."""

    def __init__(self, required: bool = False, default: Any = None, help: str = "", multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - winchester's signature
        self.required = required
        self.default = default
        self.help = help
        self.multiple = multiple

    def convert(self, item: Any, manager: ConfigManager | None = None) -> Any:
        del manager
        if not self.multiple or item is None:
            return item
        return list(item) if isinstance(item, list | tuple) else [item]


class ConfigSection(ConfigItem):
    """A key that holds keys of its own."""

    def __init__(
        self,
        required: bool = True,  # noqa: FBT001, FBT002 - winchester's signature
        help: str = "",
        config_description: Mapping[str, ConfigItem] | None = None,
    ) -> None:
        super().__init__(required=required, help=help)
        self.config_description = dict(config_description or {})

    def convert(self, item: Any, manager: ConfigManager | None = None) -> Any:
        del manager
        if item is None:
            return None
        if not isinstance(item, Mapping):
            raise ConfigurationError(f"a mapping is expected, not {item!r}")
        return ConfigManager(item, self.config_description)


class ConfigManager(Mapping[str, Any]):
    """
    A configuration with its description. Keys that it does not describe are kept as they are.

    `contains` tells whether a key was said; a default is not.
    """

    def __init__(
        self, config_dict: Mapping[str, Any], config_description: Mapping[str, ConfigItem] | None = None
    ) -> None:
        self._description = dict(config_description or {})
        self._said = {
            name: self._description[name].convert(value) if name in self._description else value
            for name, value in config_dict.items()
        }
        self._defaults = {
            name: item.convert(item.default)
            for name, item in self._description.items()
            if item.default is not None and name not in self._said
        }
        self.config_paths: list[Path] = []
        self.config_file: Path | None = None  # that it was read from

    @classmethod
    def wrap(cls, conf: Mapping[str, Any], config_description: Mapping[str, ConfigItem] | None = None) -> ConfigManager:
        """Return `conf` as a ConfigManager, itself if it is one."""
        return conf if isinstance(conf, ConfigManager) else cls(conf, config_description)

    def __getitem__(self, key: str) -> Any:
        if key in self._said:
            return self._said[key]
        return self._defaults[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._said, *self._defaults))

    def __len__(self) -> int:
        return len(self._said) + len(self._defaults)

    def contains(self, key: str) -> bool:
        """Tell whether the key was said."""
        return key in self._said

    def check_config(self, prefix: str = "") -> None:
        """Look for what is required, in sections too. Raises ConfigurationError."""
        for name, item in self._description.items():
            where = f"{prefix}/{name}" if prefix else name
            value = self.get(name)
            if item.required and value is None:
                raise ConfigurationError(f"Required Configuration setting {where} is missing!")
            if isinstance(value, ConfigManager):
                value.check_config(where)

    def add_config_path(self, *paths: str | Path | Sequence[str | Path]) -> None:
        """Look for files in these directories too."""
        for path in paths:
            for each in [path] if isinstance(path, str | Path) else path:
                if Path(each) not in self.config_paths:
                    self.config_paths.append(Path(each))

    def load_file(self, filename: str | Path, filetype: str | None = None) -> Any:
        """Return what a file says, looked for in the directories of the configuration. Raises ConfigurationError."""
        for directory in self.config_paths or [Path()]:
            if (directory / filename).is_file():
                return self._load(directory / filename, filetype)
        looked = ", ".join(str(each) for each in self.config_paths) or "."
        raise ConfigurationError(f"Cannot find config file {filename} in {looked}")

    @staticmethod
    def _load(path: Path, filetype: str | None) -> Any:
        kind = filetype or path.suffix.lstrip(".")
        if kind not in ("yaml", "yml"):
            raise ConfigurationError(f"Unknown config file type: {kind!r} of {path}; only YAML is read")
        try:
            return read_document(path).value
        except InvalidInput as error:
            raise ConfigurationError(error.message) from error

    @classmethod
    def load_config_file(
        cls,
        filename: str | Path,
        filetype: str | None = None,
        config_description: Mapping[str, ConfigItem] | None = None,
    ) -> ConfigManager:
        """Read a file of keys, and look for other files beside it. Raises ConfigurationError."""
        path = Path(filename)
        if not path.is_file():
            raise ConfigurationError(f"Cannot find config file {path}")
        said = cls._load(path, filetype)
        if not isinstance(said, Mapping):
            raise ConfigurationError(f"{path}: a mapping of keys to values is expected")
        manager = cls(said, config_description)
        manager.config_file = path
        manager.add_config_path(path.parent, manager.get("config_path") or ())
        return manager


__all__ = ["ConfigItem", "ConfigManager", "ConfigSection", "ConfigurationError"]
