"""winchester.yaml and the files that it names, read and checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eventproc.child.shims.winchester import pipeline_handler
from eventproc.compat.winchester import simport
from eventproc.errors import ConfigError
from eventproc.ingress.distiller import Distiller
from eventproc.registry.documents import Document, Place, hint, kind, read_document
from eventproc.registry.triggers import CompiledTrigger, TimexError, load_triggers
from eventproc.registry.triggers import parse as parse_time_expression

SHIMS = Path(__file__).resolve().parents[2] / "child" / "shims"
READY = f"{SHIMS}|winchester:ready"

DEFAULTS: dict[str, Any] = {
    "config_path": ".",
    "distiller_trait_plugins": {},
    "catch_all_notifications": False,
    "statistics_period": 10,
    "pipeline_worker_batch_size": 1000,
    "pipeline_worker_delay": 10,
    "purge_completed_streams": True,
    "trim_events": False,
    "trim_events_age": "$timestamp - 14d",
    "trim_events_batch_size": 100,
    "log_level": "info",
    "log_file": "%(proc_name)s.log",
}
REQUIRED = ("database", "pipeline_handlers", "pipeline_config")
OTHERS = ("distiller_config", "trigger_definitions", "time_sync_endpoint", "logging_config")
ENVELOPE = ("message_id", "event_type", "timestamp")  # what every event has
KEYS = (*DEFAULTS, *REQUIRED, *OTHERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class HandlerUse:
    """A handler in a pipeline: its name, the code it names, and its parameters."""

    name: str
    target: str  # as the child imports it: directories are absolute
    params: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        return {"name": self.name, "import": self.target, "params": dict(self.params)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """What the files of one winchester say."""

    path: Path
    values: Mapping[str, Any]
    pipelines: Mapping[str, tuple[HandlerUse, ...]]
    triggers: tuple[CompiledTrigger, ...]
    distiller: Distiller | None
    handler_path: tuple[Path, ...]  # directories that handlers are imported from
    warnings: tuple[str, ...]


def read_configuration(path: Path, *, strict: bool = False) -> Configuration:
    """
    Read winchester.yaml, and the files that it names, from the directories in its `config_path`.

    `strict` is strict compatibility: what winchester passes over in silence is passed over with a warning. Raises
    ConfigError or InvalidInput, naming file and line.
    """
    document = read_document(path)
    warnings: list[str] = []
    root = Place(document=document, lenient=True, warnings=warnings)  # winchester keeps keys of others, such as logfile
    given = root.mapping(document.value, known=KEYS)
    for name in REQUIRED:
        if name not in given:
            raise root.fail(f"Required Configuration setting {name} is missing!")
    values = {**DEFAULTS, **given}
    _database(root.at("database"), given["database"])
    _elsewhere(root, values)
    search = _search_path(path, values["config_path"])
    handlers = _handlers(root.at("pipeline_handlers"), given["pipeline_handlers"], path.parent)
    pipelines = _pipelines(_find(root, given, "pipeline_config", search), handlers)
    triggers: list[CompiledTrigger] = []
    if given.get("trigger_definitions"):
        found = _find(root, given, "trigger_definitions", search)
        triggers, complaints = load_triggers(found, pipelines=pipelines, lenient=strict)
        warnings += complaints
    else:
        root.complain("there are no trigger_definitions: nothing collects events")
    distiller = None
    if given.get("distiller_config"):
        plugins = _plugins(root.at("distiller_trait_plugins"), values["distiller_trait_plugins"], path.parent)
        found = _find(root, given, "distiller_config", search)
        distiller = Distiller(found, plugins=plugins, catchall=bool(values["catch_all_notifications"]))
    _distinguished(root, triggers, distiller)
    directories = [directory for directory, _ in handlers.values() if directory is not None]
    return Configuration(
        path=path,
        values=values,
        pipelines=pipelines,
        triggers=tuple(triggers),
        distiller=distiller,
        handler_path=tuple(dict.fromkeys([*directories, path.parent.resolve()])),
        warnings=tuple(warnings),
    )


def _database(place: Place, value: Any) -> None:
    if not isinstance(value, Mapping) or not value.get("url"):
        raise place.fail("Required Configuration setting database/url is missing!")


def _elsewhere(root: Place, values: Mapping[str, Any]) -> None:
    """Say which settings of the platform stand for what is said here and not used."""
    if values["trim_events"]:
        root.at("trim_events").complain("not used: how long events stay is EVENTPROC_RETENTION__EVENTS")
        try:
            parse_time_expression(str(values["trim_events_age"]))
        except TimexError as error:
            root.at("trim_events_age").complain(f"winchester trims nothing because of it: {error.message}")
    if not values["purge_completed_streams"]:
        reason = "not used: how long completed streams stay is EVENTPROC_RETENTION__STREAMS"
        root.at("purge_completed_streams").complain(reason)
    if values.get("time_sync_endpoint"):
        root.at("time_sync_endpoint").complain("not used: the platform's is EVENTPROC_TIME_SYNC")


def _distinguished(root: Place, triggers: Sequence[CompiledTrigger], distiller: Distiller | None) -> None:
    """Say which distinguishing traits no event has: such a trigger matches nothing."""
    known = {*ENVELOPE, *(distiller.trait_names if distiller is not None else ())}
    for trigger in triggers if distiller is not None else ():
        named = [name for each in trigger.definition.distinguished_by for name in _names_of(each)]
        mapped = [str(name) for each in trigger.definition.match_criteria for name in _sources_of(each)]
        for name in dict.fromkeys([*named, *mapped]):
            if name not in known:
                where = f"trigger {trigger.definition.name!r}"
                root.at("trigger_definitions").complain(
                    f"{where}: no event definition has the trait {name!r} that distinguishes its streams; "
                    f"{hint(name, known)}"
                )


def _names_of(each: Any) -> list[str]:
    return [str(name) for name in each] if isinstance(each, Mapping) else [str(each)]


def _sources_of(criteria: Mapping[str, Any]) -> list[Any]:
    found = criteria.get("map_distinguished_by")
    return list(found.values()) if isinstance(found, Mapping) else []


def _search_path(path: Path, value: Any) -> list[Path]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: config_path is a directory or a list of directories")
    # winchester looks from where it was started; files beside winchester.yaml are what people mean.
    return [base / name for name in names for base in (path.parent, Path.cwd())]


def _find(root: Place, given: Mapping[str, Any], key: str, search: list[Path]) -> Document:
    name = root.at(key).text(given[key], what="the name of a file")
    if Path(name).suffix not in (".yaml", ".yml"):
        raise root.at(key).fail(f"Unknown config file type: {name}; only YAML is read")
    for directory in search:
        if (directory / name).is_file():
            return read_document(directory / name)
    raise root.at(key).fail(f"there is no file {name!r} in {', '.join(dict.fromkeys(str(each) for each in search))}")


def _plugins(place: Place, value: Any, base: Path) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise place.fail(f"a mapping of names to code is expected, not {kind(value)}")
    return {str(name): simport.load(place.at(str(name)).text(target), base=base) for name, target in value.items()}


def _handlers(place: Place, value: Any, base: Path) -> dict[str, tuple[Path | None, str]]:
    if not isinstance(value, Mapping):
        raise place.fail(f"a mapping of names to code is expected, not {kind(value)}")
    found: dict[str, tuple[Path | None, str]] = {}
    for name, target in value.items():
        here = place.at(str(name))
        directory, rest = simport.split(here.text(target, max_length=1000), base=base)
        if ":" not in rest:
            raise here.fail(f"{target!r} names no code: write module:Class")
        if directory is not None and not directory.is_dir():
            here.complain(f"there is no directory {directory}")
            directory = None
        _importable(here, rest, [path for path in (directory, base) if path is not None])
        found[str(name)] = (directory, rest if directory is None else f"{directory}|{rest}")
    return found


def _importable(place: Place, target: str, directories: Sequence[Path]) -> None:
    """Look whether there is such a module, without importing any code of users."""
    module, _, name = target.partition(":")
    package = module.partition(".")[0]
    if package == "winchester":
        if module != "winchester.pipeline_handler":
            raise place.fail(f"there is no module {module!r} where handlers run, only winchester.pipeline_handler")
        if not hasattr(pipeline_handler, name.partition(".")[0]):
            raise place.fail(f"{module} has no {name!r}; {hint(name, pipeline_handler.__all__)}")
        return
    here = any((directory / package).is_dir() or (directory / f"{package}.py").is_file() for directory in directories)
    if not here and find_spec(package) is None:
        place.complain(f"there is no module {package!r} here; it has to be there where handlers run (handler_path)")


def _pipelines(
    document: Document, handlers: Mapping[str, tuple[Path | None, str]]
) -> dict[str, tuple[HandlerUse, ...]]:
    root = document.root
    if not isinstance(document.value, Mapping):
        raise root.fail(f"a mapping of pipelines to their handlers is expected, not {kind(document.value)}")
    return {
        str(name): tuple(
            _use(root.at(str(name)).at(index), entry, handlers)
            for index, entry in enumerate(root.at(str(name)).items(entries, "handlers"))
        )
        for name, entries in document.value.items()
    }


def _use(place: Place, entry: Any, handlers: Mapping[str, tuple[Path | None, str]]) -> HandlerUse:
    given = (
        {"name": entry}
        if isinstance(entry, str)
        else place.mapping(entry, known=("name", "params"), required=("name",))
    )
    name = given["name"]
    if name not in handlers:
        raise place.fail(f"Unknown handler in pipeline config: {name!r}; {hint(str(name), handlers)}")
    params = given.get("params") or {}
    if not isinstance(params, Mapping):
        raise place.at("params").fail(f"a mapping is expected, not {kind(params)}")
    return HandlerUse(name=str(name), target=handlers[name][1], params=params)
