"""Moving a winchester configuration into a running platform, and feeding that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from eventproc.client import Connection
from eventproc.client.requests import error_item
from eventproc.codec.records import Records, in_batches
from eventproc.compat.winchester.configuration import READY, Configuration
from eventproc.compat.winchester.replay import Read, read_notifications
from eventproc.errors import EventprocError, Unavailable
from eventproc.model import NewEvent, TriggerDefinition

BATCH = 500  # events in one request
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
TRIES = 7  # of an event that the platform breaks down on, while it takes others: some 16 seconds


def move_in(connection: Connection, configuration: Configuration) -> dict[str, Any]:
    """Put hooks, pipelines and triggers of a configuration; what is there already and says the same stays."""
    hooks = event_types(configuration)
    known = {spec["name"] for spec in connection.hook_specs()}
    for name in hooks:
        if name not in known:
            connection.put_hook(name, summary="Events distilled from notifications.")
    for name, uses in configuration.pipelines.items():
        connection.register_pipeline(
            name, [use.described() for use in uses], naive=True, setup=[READY], isolation="batch"
        )
    for trigger in configuration.triggers:
        connection.put_trigger(**as_mapping(trigger.definition))
    return {
        "hooks": hooks,
        "pipelines": list(configuration.pipelines),
        "triggers": [trigger.definition.name for trigger in configuration.triggers],
        "warnings": list(configuration.warnings),
    }


def event_types(configuration: Configuration) -> list[str]:
    """Return the event types, with wildcards, that definitions and triggers speak of."""
    found = list(configuration.distiller.event_types) if configuration.distiller else []
    for trigger in configuration.triggers:
        for criteria in (*trigger.definition.match_criteria, *trigger.definition.fire_criteria):
            given = criteria.get("event_type", [])
            found += [name for name in ([given] if isinstance(given, str) else given) if not name.startswith("!")]
    return list(dict.fromkeys(found))


def as_mapping(definition: TriggerDefinition) -> dict[str, Any]:
    """Return a definition with the keys of triggers.yaml."""
    given = asdict(definition)
    given["fire_delay"] = given.pop("fire_delay_s")
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value is not None
    }


def feed(
    connection: Connection,
    configuration: Configuration,
    records: Records,
    *,
    on_progress: Callable[[int], None] | None = None,
    on_wait: Callable[[EventprocError], None] | None = None,
) -> dict[str, Any]:
    """
    Send the events of notifications, as they come; return the counts, and what was refused and why.

    With `on_wait` a platform that is away is waited for, as long as it takes, and `on_wait` told why: what was taken
    from a pipe can not be taken again.
    """
    read = Read()
    sender = Sender(connection)
    counts = {"events": 0, "duplicates": 0}

    def events() -> Iterator[NewEvent]:
        for _, event in read_notifications(configuration, records, read):
            if event is not None:
                yield event

    refused: list[dict[str, Any]] = []
    for batch in in_batches(events(), size=BATCH):
        for event, answer in zip(batch, _sent(sender, batch, on_wait), strict=True):
            if "error" in answer:
                refused.append({"message_id": event.id, "error": answer["error"]["message"]})
            else:
                counts["duplicates" if answer["duplicate"] else "events"] += 1
        if on_progress is not None:
            on_progress(len(batch))
    return {
        "notifications": read.notifications,
        **counts,
        "dropped": read.dropped,
        "refused": read.refused + refused,
    }


def _sent(
    sender: Sender, events: Sequence[NewEvent], on_wait: Callable[[EventprocError], None] | None
) -> list[dict[str, Any]]:
    """Return the answers to all events. Sending one again does no harm: notifications have ids."""
    answers: dict[int, dict[str, Any]] = {}
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            sender.send(events, answers)
        except EventprocError as error:
            if on_wait is None or not passes(error) or error.details.get("for_good"):
                raise
            if pause_s == FIRST_PAUSE_S:
                on_wait(error)
        else:
            return [answers[place] for place in range(len(events))]
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class Sender:
    """
    Sends events, and gives up those that the platform breaks down on by themselves, each time, while it takes others.

    Else one such event would hold up all that come behind it, for ever. A platform that breaks down on all of them is
    another matter: it is ill, and is waited for.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._taken: NewEvent | None = None  # sent once more it changes nothing, but shows that the platform works

    def send(self, events: Sequence[NewEvent], answers: dict[int, dict[str, Any]]) -> None:
        """
        Put the answers to events into `answers`, by their places; what has one there already is not sent.

        Raises an EventprocError for which `passes` when the platform is away or ill; what it took is in `answers`.
        """
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, TRIES + 1):
            places = [place for place in range(len(events)) if place not in answers]
            error = self._some(events, places, answers) if places else None
            if error is None:
                return
            if not self._works():
                raise error
            if attempt < TRIES:
                time.sleep(pause_s)
                pause_s *= 2
        reason = EventprocError(f"the platform takes other events, and failed on this one {TRIES} times: {error}")
        for place in range(len(events)):
            answers.setdefault(place, error_item(reason))

    def _some(
        self, events: Sequence[NewEvent], places: Sequence[int], answers: dict[int, dict[str, Any]]
    ) -> EventprocError | None:
        """Try events, halving those that the platform fails on; return why it failed on one, if it did."""
        try:
            found = self._connection.emit_many([events[place] for place in places])
        except EventprocError as error:
            if type(error) is not EventprocError:
                raise
            if len(places) == 1 or (self._taken is not None and not self._works()):
                return error
            half = len(places) // 2
            first = self._some(events, places[:half], answers)
            return self._some(events, places[half:], answers) or first
        answers.update(zip(places, found, strict=True))
        self._taken = next((events[place] for place in places if "error" not in answers[place]), self._taken)
        return None

    def _works(self) -> bool:
        if self._taken is None:
            return False
        try:
            self._connection.emit_many([self._taken])
        except EventprocError as error:
            if not passes(error):
                raise
            return False
        return True


def passes(error: EventprocError) -> bool:
    """Tell whether it may go well later: the platform is away, or answers 500, which has no class of its own."""
    return isinstance(error, Unavailable) or type(error) is EventprocError
