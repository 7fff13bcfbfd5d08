"""
Settings: one frozen object, read once, from options, environment, `eventproc.toml` and defaults, in that order.

The environment variable of a setting is its name in capitals behind `EVENTPROC_`; members of a section follow
two underscores (`EVENTPROC_RETENTION__EVENTS=7d`). Secrets are masked wherever settings are shown.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from eventproc.errors import ConfigError
from eventproc.model.units import MAX_SECONDS, bytes_in, seconds_in

FILE_NAME = "eventproc.toml"
PREFIX = "EVENTPROC_"
# Read by clients, not by the server; the test suite's own names start with EVENTPROC_TEST_.
CLIENT_NAMES = frozenset({"EVENTPROC_ENDPOINTS", "EVENTPROC_API_KEY", "EVENTPROC_CONFIG"})

FOREVER = ("forever", "never")


def parse_duration(value: object) -> float | None:
    """Read `30d`, `12h`, `1h30m`, `90` (seconds) as seconds, and `forever` as None."""
    if value is None or isinstance(value, bool):
        if value is None:
            return None
        raise ValueError("a duration such as 30d, 12h, 90s or forever is needed")
    if isinstance(value, int | float):
        return _bounded(float(value))
    text = str(value).strip().lower()
    if text in FOREVER:
        return None
    seconds = seconds_in(text)
    if seconds is None:
        raise ValueError(f"{value!r} is no duration; write 30d, 12h, 1h30m, 90s or forever")
    return _bounded(seconds)


def _bounded(seconds: float) -> float:
    if not seconds <= MAX_SECONDS:
        raise ValueError("that is more than 100 years; write forever where something may stay")
    return seconds


def parse_some_duration(value: object) -> float:
    """Read a duration where there must be one."""
    seconds = parse_duration(value)
    if seconds is None:
        raise ValueError("this can not be forever; write a duration such as 30s, 12h or 7d")
    return seconds


def parse_size(value: object) -> int:
    """Read `64MiB`, `1GB`, `1048576` as bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    size = bytes_in(str(value))
    if size is None or size == math.inf:
        raise ValueError(f"{value!r} is no size; write 64MiB, 1GB or a number of bytes")
    return int(size)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: host and port; port 0 takes a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> Address:
        """Read `127.0.0.1:8080`, `[::1]:8080`, `localhost:0` or `:8080` (127.0.0.1)."""
        if isinstance(value, Address):
            return value
        match = re.fullmatch(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\s/]*)):(?P<port>\d{1,5})", str(value).strip())
        if not match or int(match["port"]) > 65_535:
            raise ValueError(f"{value!r} is no address; write HOST:PORT, such as 127.0.0.1:8080 (port 0: any free one)")
        return cls(match["six"] or match["host"] or "127.0.0.1", int(match["port"]))

    @classmethod
    def parse_or_off(cls, value: object) -> Address:
        """Read an address as `parse` does, and `off` as an address whose `is_off` is true."""
        return OFF if isinstance(value, str) and value.strip().lower() == "off" else cls.parse(value)

    @property
    def is_off(self) -> bool:
        return self == OFF

    def __str__(self) -> str:
        if self.is_off:
            return "off"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


OFF = Address("off", 0)


def mask_url(url: str) -> str:
    """Hide the password of a URL; everything else stays readable."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    credentials, _, host = parts.netloc.rpartition("@")
    user = credentials.split(":", 1)[0]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}" if ":" in credentials else f"{user}@{host}"))


class SecretUrl(SecretStr):
    """A URL whose password is never shown."""

    def _display(self) -> str:
        return mask_url(self.get_secret_value())


_base: ContextVar[Path | None] = ContextVar("_base", default=None)


def _path(value: object) -> object:
    """Expand `~`, and take a relative path from the settings file's directory where there is one."""
    if not isinstance(value, str | Path) or not str(value).strip():
        return value
    path = Path(value).expanduser()
    return (_base.get() or current_directory()) / path


def current_directory() -> Path:
    """Return the current directory; if it was removed, what can be joined to absolute paths and has no files."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()


class Paths(tuple[Path, ...]):
    """Directories, written as PATH is."""

    __slots__ = ()

    def __str__(self) -> str:
        return os.pathsep.join(str(path) for path in self)


def _paths(value: object) -> object:
    """Read directories, as PATH has them in the environment."""
    return tuple(part for part in value.split(os.pathsep) if part.strip()) if isinstance(value, str) else value


Seconds = Annotated[float | None, BeforeValidator(parse_duration)]
Bytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Listen = Annotated[Address, NoDecode, BeforeValidator(Address.parse), PlainSerializer(str)]
ListenOrOff = Annotated[Address, NoDecode, BeforeValidator(Address.parse_or_off), PlainSerializer(str)]
DataPath = Annotated[Path, BeforeValidator(_path)]


def _search_path(value: object) -> object:
    """Read `auto:/opt/python3.9/bin/python3.9`, written as PATH is, as a list."""
    return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


def _words(value: object) -> object:
    """Read a text or a JSON list as a list; several words are so many entries."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else tuple(value.split())


Places = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_search_path)]


class Section(BaseModel):
    """A part of the settings that has its own table in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def hook_times(text: str) -> dict[str, float | None]:
    """Read `inference.batch_done=7d samples.stored=forever` as seconds by hook; None is forever."""
    times: dict[str, float | None] = {}
    for word in text.replace(",", " ").split():
        name, equals, duration = word.partition("=")
        if not (name and equals):
            raise ValueError(f"{word!r} is not HOOK=DURATION, such as inference.batch_done=7d")
        times[name] = parse_duration(duration)
    return times


def _hook_times(text: str) -> str:
    hook_times(text)
    return text


HookTimes = Annotated[str, AfterValidator(_hook_times)]


class Retention(Section):
    """How long things stay; `forever` keeps them. A hook's own `keep` comes before `events`."""

    events: Seconds = "30d"  # type: ignore[assignment]
    runs: Seconds = "30d"  # type: ignore[assignment]
    failed_runs: Seconds = "90d"  # type: ignore[assignment]
    logs: Seconds = "14d"  # type: ignore[assignment]
    files: Seconds = "30d"  # type: ignore[assignment]
    notices: Seconds = "30d"  # type: ignore[assignment]
    audit: Seconds = "365d"  # type: ignore[assignment]
    samples: Seconds = "forever"  # type: ignore[assignment]
    rejects: Seconds = "30d"  # type: ignore[assignment]
    outbox: Seconds = "30d"  # type: ignore[assignment]
    dedup: Annotated[float, BeforeValidator(parse_some_duration)] = "7d"  # type: ignore[assignment]
    streams: Seconds = "7d"  # type: ignore[assignment]  # completed ones
    keep: HookTimes = ""  # both instead of what hook files say
    keep_idle: HookTimes = ""


class Maxima(Section):
    """The operator's upper bounds for what a registration may ask for."""

    timeout: Annotated[float, BeforeValidator(parse_some_duration), Field(gt=0)] = "1h"  # type: ignore[assignment]
    cpu: Annotated[float, BeforeValidator(parse_some_duration), Field(gt=0)] = "1h"  # type: ignore[assignment]
    memory: Bytes = "8GiB"  # type: ignore[assignment]
    file_size: Bytes = "4GiB"  # type: ignore[assignment]
    open_files: int = Field(default=4096, gt=0)
    uploads: Bytes = "4GiB"  # type: ignore[assignment]
    processes: int = Field(default=1024, gt=0)
    scratch: Bytes = "8GiB"  # type: ignore[assignment]
    scratch_files: int = Field(default=1_000_000, gt=0)
    output: Bytes = "64MiB"  # type: ignore[assignment]
    result: Annotated[int, BeforeValidator(parse_size), Field(gt=0, le=48 << 20)] = "16MiB"  # type: ignore[assignment]


def _places(value: object) -> object:
    """Read a list of `host:port` written with commas."""
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return value
    found = tuple(str(text).strip().lower() for text in texts if str(text).strip())
    for text in found:
        if not re.fullmatch(r"(\[[0-9a-f:.]+\]|[^\s:/\[\]]+):(\d{1,5}|\*)", text):
            raise ValueError(f"{text!r} is no HOST:PORT; the port may be *, and the host begin with *.")
    return found


class PolicySection(Section):
    """What registrations may ask for beyond limits."""

    allow_subprocess: bool = True
    network: Literal["none", "public", "any", "full"] = "public"
    network_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_places)] = ()


class MetricsSection(Section):
    """How samples are taken in."""

    max_connections: int = Field(default=10_000, ge=1)  # of Graphite clients at a time
    max_ahead: Seconds = "366d"  # type: ignore[assignment]  # how far ahead of the clock a sample's time may lie
    queue: str = "eventproc.metrics"  # of the broker, whose messages are taken in too, where there is a broker


class EnvironmentsSection(Section):
    """Packages that registrations ask for: whether they may, where packages come from, what they may take."""

    allowed: bool = True
    index_url: SecretUrl | None = None  # PyPI, or what uv is configured for
    extra_index: Annotated[tuple[SecretUrl, ...], NoDecode, BeforeValidator(_words)] = ()
    find_links: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()  # directories or pages with wheels
    offline: bool = False  # no index: find_links only
    build_sdists: bool = False  # executes what is in source archives, with the worker's rights
    timeout: Annotated[float, BeforeValidator(parse_some_duration), Field(gt=0)] = "10m"  # type: ignore[assignment]
    max_size: Bytes = "5GiB"  # type: ignore[assignment]  # of all environments and downloads on a host


class WorkerSection(Section):
    """How a worker works."""

    slots: int = Field(default_factory=lambda: max(2, min(8, os.cpu_count() or 2)), ge=1, le=256)
    lease: Annotated[float, BeforeValidator(parse_some_duration), Field(ge=2)] = "30s"  # type: ignore[assignment]
    grace: Annotated[float, BeforeValidator(parse_some_duration), Field(ge=0)] = "30s"  # type: ignore[assignment]
    poll: Annotated[float, BeforeValidator(parse_some_duration), Field(gt=0)] = "1s"  # type: ignore[assignment]
    max_interruptions: int = Field(default=3, ge=0)
    idle_children: int | None = Field(default=None, ge=0, le=10_000)  # kept for the next run; None: as memory allows


class ModelsSection(Section):
    """How the role `models` works; see docs/metrics.rst for what the numbers cost."""

    processes: int = Field(default=1, ge=1, le=256)  # on this host; every host takes its share
    threads: int = Field(default_factory=lambda: max(1, min(8, os.cpu_count() or 1)), ge=1, le=256)
    memory: Bytes = "1GiB"  # type: ignore[assignment]  # of models, per process
    checkpoint_every: int = Field(default=100, ge=1, le=10_000)  # samples
    idle_detectors: int = Field(default=16, ge=1, le=1000)  # children of users' detectors that stay in memory
    lease: Annotated[float, BeforeValidator(parse_some_duration), Field(ge=2)] = "15s"  # type: ignore[assignment]
    poll: Annotated[float, BeforeValidator(parse_some_duration), Field(gt=0)] = "1s"  # type: ignore[assignment]
    results_exchange: str = Field(default="eventproc.model.results", min_length=1, max_length=200, pattern=r"^[^/]+$")


def default_data_dir() -> Path:
    """Return `$XDG_DATA_HOME/eventproc`, or `~/.local/share/eventproc`. Raises ConfigError where there is no home."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if base.startswith("/"):
        return Path(base) / "eventproc"
    try:
        return Path.home() / ".local" / "share" / "eventproc"
    except RuntimeError:
        raise ConfigError(
            f"user id {os.getuid()} has no account and HOME is not set, so there is no home to keep data in: set "
            "EVENTPROC_DATA to a directory"
        ) from None


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        validate_default=True,
    )

    data: DataPath = Field(default_factory=default_data_dir)
    http: Listen = "127.0.0.1:8080"  # type: ignore[assignment]
    https: Listen | None = None  # the HTTP API once more, with TLS
    graphite: ListenOrOff = "127.0.0.1:2003"  # type: ignore[assignment]  # plaintext over TCP
    graphite_udp: ListenOrOff | None = None  # plaintext over UDP; None: where `graphite` is
    graphite_pickle: ListenOrOff = "127.0.0.1:2004"  # type: ignore[assignment]
    graphite_key: SecretStr | None = None  # every metric's name must begin with it and a dot
    graphite_tls: bool = False  # of the TCP ports, with the certificate of gRPC and HTTPS
    grpc: Listen = "127.0.0.1:4411"  # type: ignore[assignment]  # served when set, or when there are certificates
    database_url: SecretUrl | None = None
    broker_url: SecretUrl | None = None
    smtp_url: SecretUrl | None = None
    secret_key: SecretStr | None = None
    public_url: Annotated[str, Field(pattern=r"^https?://")] | None = (
        None  # as people reach the API, for links in mails
    )
    mail_sender: str = "eventproc <eventproc@localhost>"
    mail_burst: int = Field(default=5, ge=0)  # failure mails of one handler in `mail_digest` that go at once; 0: all do
    mail_digest: Annotated[float, BeforeValidator(parse_some_duration), Field(gt=0)] = "15m"  # type: ignore[assignment]
    outbox_max_age: Annotated[float, BeforeValidator(parse_some_duration), Field(gt=0)] = "3d"  # type: ignore[assignment]
    templates: DataPath | None = None
    project: DataPath | None = None  # directory with hooks/ (and handlers/); the settings file's own unless said
    unsafe_sandbox: bool = False
    time_sync: Annotated[str, Field(pattern=r"^https?://")] | None = None  # of a time service, for events and streams
    handler_path: Annotated[tuple[DataPath, ...], NoDecode, BeforeValidator(_paths), AfterValidator(Paths)] = ()
    durability: Literal["normal", "full"] = "normal"
    max_payload: Bytes = "1MB"  # type: ignore[assignment]
    max_blob: Annotated[int, BeforeValidator(parse_size), Field(gt=0, le=48 << 20)] = "32MiB"  # type: ignore[assignment]  # of a pickled handler
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    interpreters: Places = ("auto",)  # where to look for other Pythons: "auto", paths, directories, patterns
    worker: WorkerSection = WorkerSection()
    models: ModelsSection = ModelsSection()
    metrics: MetricsSection = MetricsSection()
    environments: EnvironmentsSection = EnvironmentsSection()
    retention: Retention = Retention()
    limits: Maxima = Maxima()
    policy: PolicySection = PolicySection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings  # neither is a documented way to set anything
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=dict(_file_values.get()))

    @property
    def database(self) -> str:
        """The database URL, secrets and all."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data / 'eventproc.db'}"

    @property
    def database_file(self) -> Path | None:
        """SQLite's file; None for a database that is none."""
        kind, _, path = self.database.partition(":///")
        return Path(path.partition("?")[0]) if kind.partition("+")[0] == "sqlite" and path else None

    @property
    def run_dir(self) -> Path:
        return self.data / "run"

    @property
    def endpoints_file(self) -> Path:
        return self.data / "endpoints.json"

    @property
    def admin_key_file(self) -> Path:
        return self.data / "admin.key"

    @property
    def secret_key_file(self) -> Path:
        return self.data / "secret.key"

    @property
    def certs_dir(self) -> Path:
        return self.data / "certs"

    @property
    def environments_dir(self) -> Path:
        return self.data / "environments"

    @property
    def mail_dir(self) -> Path:
        return self.data / "mail"

    def as_environ(self) -> dict[str, str]:
        """Return the environment in which `load()` gives these settings again, for processes that belong to us."""
        environ = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, Section):
                environ[_env_name(name)] = _reparsable(value)
            elif isinstance(value, tuple):
                environ[_env_name(name)] = os.pathsep.join(map(str, value))
            else:
                environ[_env_name(name)] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return environ

    def shown(self) -> dict[str, str]:
        """Return the settings for people: flat names, secrets masked."""
        flat: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Section):
                flat.update({f"{name}.{key}": str(getattr(value, key)) for key in type(value).model_fields})
            else:
                flat[name] = str(value)
        return flat

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some settings changed (validated values only)."""
        return self.model_copy(update=changes)


_file_values: ContextVar[Mapping[str, Any]] = ContextVar("_file_values", default={})  # noqa: B039  # never mutated


def _reparsable(section: Section) -> str:
    """Write a section as JSON in which "for ever" is a word: null would read as "not set"."""
    values = {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if value is None and field.default is None:
            continue
        values[key] = FOREVER[0] if value is None else _revealed(value)
    return json.dumps(values)


def _revealed(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return [_revealed(item) for item in value] if isinstance(value, tuple) else value


def _env_name(name: str) -> str:
    return PREFIX + name.upper()


def _is_file(path: Path) -> bool:
    """Tell whether it is one. Raises PermissionError where one may not look, as Path's own does up to Python 3.13."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def find_file(explicit: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the settings file to read: `explicit`, else one in EVENTPROC_DATA, else one in the current directory."""
    named = explicit or (Path(environ["EVENTPROC_CONFIG"]) if environ.get("EVENTPROC_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"there is no settings file {named}; `eventproc init` writes one")
        return named.absolute()
    data = Path(environ["EVENTPROC_DATA"]).expanduser() if environ.get("EVENTPROC_DATA") else default_data_dir()
    try:
        if _is_file(data / FILE_NAME):
            return (data / FILE_NAME).absolute()
    except PermissionError:
        raise ConfigError(
            f"the data directory {data} is closed to this user: run this as the user that it belongs to, or set "
            "EVENTPROC_DATA to another"
        ) from None
    here = current_directory() / FILE_NAME
    # Nothing of a closed directory can be meant; `sudo -u` leaves one in such.
    return here.absolute() if os.access(here, os.F_OK) and here.is_file() else None


def load(*, config: Path | None = None, search: bool = True, **options: Any) -> Settings:
    """
    Read the settings: options before environment before file before defaults.

    Raises ConfigError that names the key and where it was set.
    """
    file = find_file(config) if search or config else None
    text = _read(file) if file else ""
    values = _parse(file, text) if file else {}
    given = {name: value for name, value in options.items() if value is not None}
    base = _base.set(file.parent if file else None)
    seen = _file_values.set(values)
    try:
        settings = Settings(**_absolute(given))
    except ValidationError as error:
        raise _explain(error, file=file, text=text, options=given) from None
    except SettingsError as error:  # a section as one variable must be JSON
        match = re.search(r'field "(\w+)"', str(error))
        name = _env_name(match[1]) if match else PREFIX
        raise ConfigError(f"environment variable {name}: is not JSON; {name}__MEMBER sets a single member") from None
    finally:
        _file_values.reset(seen)
        _base.reset(base)
    if settings.project is None and file is not None:
        settings = settings.replace(project=file.parent)
    return settings


def _absolute(options: dict[str, Any]) -> dict[str, Any]:
    """Take relative paths of options and environment from the current directory, not from the file's."""
    cwd = current_directory()
    found = dict(options)
    for name in ("data", "templates", "project"):
        value = options.get(name) or os.environ.get(_env_name(name))
        if value:
            found[name] = cwd / Path(value).expanduser()
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {file} can not be read: {error}") from error


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from error
    _check_keys(file, text, values, Settings, ())
    return values


def _check_keys(
    file: Path, text: str, values: Mapping[str, Any], model: type[BaseModel], path: tuple[str, ...]
) -> None:
    for key, value in values.items():
        field = model.model_fields.get(key)
        where = f"{file}, line {_line(text, (*path, key))}"
        if field is None:
            near = get_close_matches(key, model.model_fields, n=1, cutoff=0.5)
            known = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(model.model_fields)}"
            raise ConfigError(f"{where}: unknown setting {'.'.join((*path, key))!r}; {known}")
        section = field.annotation if isinstance(field.annotation, type) else None
        if section is not None and issubclass(section, Section):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {key!r} is a section; write [{key}] and its settings below it")
            _check_keys(file, text, value, section, (*path, key))


def _line(text: str, path: tuple[str, ...]) -> int:
    """Return the line on which a key stands; good enough for every way people write these files."""
    *sections, key = path
    section: list[str] = []
    header = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
    for number, line in enumerate(text.splitlines(), 1):
        if match := header.match(line):
            section = [part.strip().strip("\"'") for part in match[1].split(".")]
            if section == list(path):
                return number
            continue
        dotted = re.match(r"\s*([\w.\"'\- ]+?)\s*=", line)
        if dotted and section + [part.strip().strip("\"'") for part in dotted[1].split(".")] == [*sections, key]:
            return number
    return 1


def _explain(error: ValidationError, *, file: Path | None, text: str, options: Mapping[str, Any]) -> ConfigError:
    """Say which setting is wrong, where it was set, and why; never its value where that is a secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = tuple(str(part) for part in first["loc"])
    env = PREFIX + "__".join(path).upper()
    if path and path[0] in options:
        where = f"option --{path[0].replace('_', '-')}"
    elif env in os.environ or (path and _env_name(path[0]) in os.environ):
        where = f"environment variable {env if env in os.environ else _env_name(path[0])}"
    elif file is not None:
        where = f"{file}, line {_line(text, path)}"
    else:
        where = "settings"
    reason = str(first["msg"]).removeprefix("Value error, ")
    return ConfigError(f"{where}: {'.'.join(path)}: {reason}", setting=".".join(path))


def unknown_environment(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the EVENTPROC_ variables that nothing reads: most likely misspelt."""
    known = {_env_name(name) for name in Settings.model_fields} | CLIENT_NAMES
    sections = tuple(
        f"{_env_name(name)}__"
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    )
    return sorted(
        name
        for name in environ
        if name.startswith(PREFIX)
        and name not in known
        and not name.startswith((*sections, "EVENTPROC_TEST_", "EVENTPROC_ROLE_"))
    )


__all__ = [
    "Address",
    "Maxima",
    "ModelsSection",
    "Retention",
    "Settings",
    "WorkerSection",
    "find_file",
    "load",
    "mask_url",
    "parse_duration",
    "parse_size",
    "unknown_environment",
]
