"""Playing a recorded day of notifications through a winchester configuration, on a platform of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventproc.codec.records import Records, open_records
from eventproc.compat.winchester.configuration import READY, SHIMS, Configuration
from eventproc.engine.clock import ManualClock
from eventproc.errors import ConfigError, InvalidInput
from eventproc.ingress.distiller import Distiller
from eventproc.model import NewEvent, StreamState
from eventproc.playback import Playback, Played, Player, playback_on
from eventproc.testing import Harness

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
EVERY_US = 600_000_000  # of the worker in interleaved mode, in the day's own time
FIRE_AFTER_US = 2 * HOUR_US  # from the day's end: when what is ready fires at last
EXPIRE_AFTER_US = 3 * DAY_US  # and when what is left expires

EXISTS = "compute.instance.exists"
MAX_WAITING = 1000
RESULTS = f"{EXISTS}."


@dataclass(slots=True)
class Read:
    """What reading the notifications came to."""

    notifications: int = 0
    dropped: int = 0  # that no event definition matches
    refused: list[dict[str, Any]] = field(default_factory=list)
    instances: dict[str, str | None] = field(default_factory=dict)  # by id: the last exists of each
    _latest: dict[str, int] = field(default_factory=dict)

    def note(self, event: NewEvent) -> None:
        time_us = event.time_us or 0
        instance = event.payload.get("instance_id")
        if not isinstance(instance, str):
            return
        self.instances.setdefault(instance, None)
        if event.hook == EXISTS and time_us >= self._latest.get(instance, time_us):
            self._latest[instance] = time_us
            self.instances[instance] = event.id


def read_notifications(
    configuration: Configuration, records: Records, read: Read
) -> Iterator[tuple[int, NewEvent | None]]:
    """
    Yield time and event of each notification.

    The event is None where no definition matches, and where it is malformed, which is noted in `read`.
    """
    if configuration.distiller is None:
        raise ConfigError(f"{configuration.path}: distiller_config is missing, so notifications can not be read")
    for number, text in records:
        read.notifications += 1
        notification: Any = None
        try:
            notification = unwrapped(json.loads(text))
            event = configuration.distiller.distill(notification)
        except (InvalidInput, ValueError, RecursionError) as error:
            read.refused.append({"line": number, "error": str(error)})
            event = None
        else:
            read.dropped += event is None
        if event is not None:
            read.note(event)
        yield _time_of(configuration.distiller, notification, event), event


def _time_of(distiller: Distiller, notification: Any, event: NewEvent | None) -> int:
    """Return a notification's time, 0 where there is none: the clock goes by those that are refused too."""
    if event is not None:
        return event.time_us or 0
    try:
        return distiller.when(notification) or 0 if isinstance(notification, dict) else 0
    except InvalidInput:
        return 0


def unwrapped(notification: Any) -> Any:
    """Return what is in the envelope that oslo.messaging puts around notifications, else the notification itself."""
    inner = notification.get("oslo.message") if isinstance(notification, dict) else None
    return json.loads(inner) if isinstance(inner, str) else notification


def replay(
    configuration: Configuration,
    notifications: Path,
    *,
    interleave: bool,
    database: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """
    Play a day of notifications; return the report: what came of each instance, and the counts of the whole.

    The clock is the latest time of the notifications so far. Streams fire and expire after the last of them: what is
    ready at 02:00 of the next day, then what expires within three days; with `interleave` also every ten minutes in
    between. Raises ConfigError and InvalidInput.
    """
    read = Read()
    with Player(database=database, handler_path=[SHIMS, *configuration.handler_path]) as player:
        harness = player.harness
        set_up(harness, configuration)
        playback = playback_on(harness, every_s=None, on_progress=on_progress)
        day = _Day(playback, harness.clock, every_us=EVERY_US if interleave else None)
        with open_records(notifications) as records:
            for time_us, event in read_notifications(configuration, records, read):
                day.take(time_us, event)
        played = day.end()
        instances, states = _outcomes(harness, read)
    return {
        "instances": instances,
        "meta": {
            "mode": "interleave" if interleave else "batch",
            "notifications": read.notifications,
            "events": played.events,
            "duplicates": played.duplicates,
            "dropped": read.dropped,
            "refused": read.refused + [{"event": number, "error": error.message} for number, error in played.refused],
            "fired": played.fired,
            "expired": played.expired,
            "streams": states,
            "warnings": list(configuration.warnings),
        },
    }


class _Day:
    """Hands notifications to a playback, and says when the worker looks."""

    def __init__(self, playback: Playback, clock: ManualClock, *, every_us: int | None) -> None:
        self._playback = playback
        self._clock = clock
        self._every_us = every_us
        self._waiting: list[NewEvent] = []
        self._now_us = 0
        self._looked_us: int | None = None

    def take(self, time_us: int, event: NewEvent | None) -> None:
        """Take a notification, or the time of one that is no event; a time of 0 is none."""
        if self._looked_us is None and time_us > 0:
            self._looked_us = time_us // DAY_US * DAY_US
            self._clock.set(self._looked_us)
        self._now_us = max(self._now_us, time_us)
        looked_us = self._now_us if self._looked_us is None else self._looked_us
        if self._every_us is not None and self._now_us - looked_us >= self._every_us:
            self._give()
            self._looked_us = self._now_us
            self._playback.look(self._now_us)
        if event is None:
            self._give()
            self._playback.advance(self._now_us)
            return
        self._waiting.append(event)
        if len(self._waiting) >= MAX_WAITING:
            self._give()

    def _give(self) -> None:
        if self._waiting:
            self._playback.play(self._waiting)
            self._waiting = []

    def end(self) -> Played:
        """See to what is left."""
        self._give()
        # The last records of a day come shortly after its end; that end is what the worker's last looks go by.
        end_us = -(-(self._now_us - FIRE_AFTER_US) // DAY_US) * DAY_US
        self._playback.look(end_us + FIRE_AFTER_US)
        return self._playback.look(end_us + EXPIRE_AFTER_US)


def set_up(harness: Harness, configuration: Configuration) -> None:
    """Register the pipelines and triggers of a configuration."""
    for name, uses in configuration.pipelines.items():
        harness.register_pipeline(name, [use.described() for use in uses], naive=True, setup=[READY], isolation="batch")
    harness.use.triggers.put(harness.admin, [trigger.definition for trigger in configuration.triggers])


def _outcomes(harness: Harness, read: Read) -> tuple[dict[str, Any], dict[str, int]]:
    results: dict[str, list[dict[str, Any]]] = {instance: [] for instance in read.instances}
    for event in harness.events:
        if event.caused_by_run is not None and event.hook != "run.failed":
            instance = str(event.payload.get("instance_id", ""))
            results.setdefault(instance, []).append(_result(event))
    failed: set[str] = set()
    states: dict[str, int] = {}
    for stream in harness.streams:
        states[stream.state.label] = states.get(stream.state.label, 0) + 1
        if stream.state in (StreamState.ERROR, StreamState.EXPIRE_ERROR):
            failed.add(str(stream.distinguished_by.get("instance_id", "")))
    return {
        instance: {
            "final": _final(found, read.instances.get(instance), failed=instance in failed),
            "results": found,
        }
        for instance, found in results.items()
    }, dict(sorted(states.items()))


def _result(event: Any) -> dict[str, Any]:
    payload = event.payload
    return {
        "event_type": event.hook,
        "result": event.hook.removeprefix(RESULTS),
        "error_code": payload.get("error_code"),
        "error": None if payload.get("error") == "None" else payload.get("error"),  # winchester's word for none
        "warnings": payload.get("warnings"),
        "timestamp": str(event.time.replace(tzinfo=None)),
        "original_message_id": payload.get("original_message_id"),
        "message_id": event.id,
    }


def _final(results: list[dict[str, Any]], last_exists: str | None, *, failed: bool) -> str:
    """Return what came of the instance's last exists, else of the instance."""
    judged = [each for each in results if each["result"] in ("verified", "failed")]
    for each in judged:
        if last_exists is not None and each["original_message_id"] == last_exists:
            return "verified" if each["result"] == "verified" else f"failed:{each['error_code']}"
    if failed:
        return "stream_error"
    return f"failed:{judged[-1]['error_code']}" if judged and judged[-1]["error_code"] else "none"
