"""winchester.trigger_manager: feeds notifications and events into a running platform."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eventproc.client import Connection
from eventproc.compat.winchester.configuration import Configuration, read_configuration
from eventproc.compat.winchester.modules.config import ConfigManager
from eventproc.compat.winchester.modules.time_sync import TimeSync
from eventproc.errors import ConfigError, Conflict
from eventproc.model import DATETIMES, NewEvent

logger = logging.getLogger("winchester.trigger_manager")

_OWN = ("message_id", "event_type", "timestamp")


def new_event(event: Mapping[str, Any]) -> NewEvent:
    """Return an event given as a dict as the platform takes it: datetimes are ISO texts whose names it tells."""
    payload: dict[str, Any] = {}
    moments = []
    for name, value in event.items():
        if name in _OWN or value is None:
            continue
        if isinstance(value, dt.datetime):
            moments.append(name)
            value = value.isoformat()  # noqa: PLW2901 - the same value, as JSON has it
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "ignore")  # noqa: PLW2901 - as winchester stores it
        payload[name] = value
    if moments:
        payload[DATETIMES] = moments
    when = event["timestamp"]
    aware = when.replace(tzinfo=dt.UTC) if when.tzinfo is None else when
    return NewEvent(
        hook=event["event_type"],
        payload=payload,
        id=event["message_id"],
        time_us=(aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1),
    )


def _path_of(config: ConfigManager | str | Path) -> Path:
    if isinstance(config, str | Path):
        return Path(config)
    found = getattr(config, "config_file", None)
    if found is None:
        raise ConfigError("a configuration names other files: give the path of winchester.yaml, or what was read there")
    return Path(found)


class TriggerManager:
    """
    Sends what winchester's takes to a platform, where triggers match it.

    `config` is the path of winchester.yaml, what `ConfigManager.load_config_file` or what `read_configuration` made of
    it; `connection` the platform's, by default the one that the environment names. Raises ConfigError.
    """

    def __init__(
        self,
        config: Configuration | ConfigManager | str | Path,
        *,
        connection: Connection | None = None,
        time_sync: TimeSync | None = None,
    ) -> None:
        self.config = config if isinstance(config, Configuration) else read_configuration(_path_of(config))
        self._connection = connection or Connection()
        self.time_sync = time_sync or TimeSync()
        self.received = 0
        self.saved = 0

    def current_time(self) -> dt.datetime:
        return self.time_sync.current_time()

    def convert_notification(self, notification: Mapping[str, Any]) -> NewEvent | None:
        """Return a notification's event; None if no definition matches. Raises InvalidInput."""
        if self.config.distiller is None:
            raise ConfigError(f"{self.config.path}: distiller_config is missing")
        return self.config.distiller.distill(dict(notification))

    def add_notification(self, notification: Mapping[str, Any]) -> bool:
        """Send a notification's event; tell whether it is new. Raises EventprocError."""
        self.received += 1
        event = self.convert_notification(notification)
        return event is not None and self._send(event)

    def add_event(self, event: Mapping[str, Any]) -> bool:
        """Send an event given as a dict; tell whether it is new. Raises EventprocError."""
        lacking = [name for name in _OWN if not event.get(name)]
        if lacking:
            logger.warning("Received invalid event, without %s: %s", ", ".join(lacking), event.get("message_id"))
            return False
        return self._send(new_event(event))

    def _send(self, event: NewEvent) -> bool:
        (answer,) = self._connection.emit_many([event])
        error = answer.get("error")
        if error is not None and error["code"] != "event_conflict":
            raise Conflict(error["message"], **error.get("details", {}))
        new = error is None and not answer["duplicate"]
        self.saved += new
        return new

    def add_trigger_definition(self, list_of_triggerdefs: Sequence[Mapping[str, Any]]) -> None:
        """Store triggers, for all processes; one whose name is known stays as it is."""
        known = {trigger["name"] for trigger in self._connection.triggers()}
        for definition in list_of_triggerdefs:
            if definition.get("name") in known:
                continue
            known.add(self._connection.put_trigger(**definition)["name"])

    def delete_trigger_definition(self, trigger_def_name: str) -> None:
        """Delete a trigger, for all processes."""
        self._connection.delete_trigger(trigger_def_name)
