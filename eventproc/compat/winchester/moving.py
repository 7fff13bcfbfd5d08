"""Moving a winchester configuration into a running platform, and feeding that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from eventproc.client import Connection
from eventproc.codec.records import Records, in_batches
from eventproc.compat.winchester.configuration import READY, Configuration
from eventproc.compat.winchester.replay import Read, read_notifications
from eventproc.errors import EventprocError, Unavailable
from eventproc.model import NewEvent, TriggerDefinition

BATCH = 500  # events in one request
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0


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
    counts = {"events": 0, "duplicates": 0}

    def events() -> Iterator[NewEvent]:
        for _, event in read_notifications(configuration, records, read):
            if event is not None:
                yield event

    refused: list[dict[str, Any]] = []
    for batch in in_batches(events(), size=BATCH):
        for event, answer in zip(batch, _sent(connection, batch, on_wait), strict=True):
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
    connection: Connection, events: Sequence[NewEvent], on_wait: Callable[[EventprocError], None] | None
) -> list[dict[str, Any]]:
    """Return the answers to all events. Sending one again does no harm: notifications have ids."""
    answers: list[dict[str, Any]] = []
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return answers + connection.emit_many(events[len(answers) :])
        except EventprocError as error:
            if on_wait is None or not passes(error) or error.details.get("for_good"):
                raise
            if pause_s == FIRST_PAUSE_S:
                on_wait(error)
            answers += error.details.get("done", [])
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def passes(error: EventprocError) -> bool:
    """Tell whether it may go well later: the platform is away, or answers 500, which has no class of its own."""
    return isinstance(error, Unavailable) or type(error) is EventprocError
