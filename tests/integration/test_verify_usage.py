"""The ready-made usage verification agrees with winchester's over half a day of notifications, in all its codes."""

from __future__ import annotations

import gzip
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eventproc import plugins
from eventproc.child.shims.winchester.pipeline_handler import UsageHandler
from eventproc.compat.winchester.configuration import read_configuration
from eventproc.ingress.distiller.definitions import parse_time
from eventproc.testing import Harness

DAY = Path(os.environ.get("EVENTPROC_TEST_DATA", "/nonexistent")) / "winchester"
ENV = {"stream_id": 7, "stream_name": "usage"}
EXISTS = "compute.instance.exists"

needs_the_day = pytest.mark.skipif(not DAY.is_dir(), reason="set EVENTPROC_TEST_DATA to the directory of recordings")


def handler() -> Any:
    module = plugins.load(plugins.bundled_dir("handlers") / "verify_usage.py")
    module.ep = SimpleNamespace(log=SimpleNamespace(warning=lambda *_: None))
    (found,) = plugins.marked_handlers(module)
    return found.target


HANDLER = handler()


def blocks() -> Iterator[list[dict[str, Any]]]:
    """Yield the events of each instance by their times, as pipelines see them."""
    distiller = read_configuration(DAY / "config_batch" / "winchester.yaml").distiller
    assert distiller is not None
    instances: dict[str, dict[str, dict[str, Any]]] = {}
    with gzip.open(DAY / "notifications_dev.jsonl.gz", "rt") as lines:
        for line in lines:
            event = distiller.distill(json.loads(line))
            if event is None or not event.hook.startswith("compute.instance."):
                continue
            seen = dict(event.payload)
            for name in seen.pop("_datetimes", ()):
                seen[name] = parse_time(seen[name])
            seen |= {"message_id": event.id, "event_type": event.hook, "timestamp": event.time_us}
            instances.setdefault(seen["instance_id"], {})[str(event.id)] = seen
    for events in instances.values():
        yield sorted(events.values(), key=lambda event: event["timestamp"])


def said(events: list[dict[str, Any]]) -> Counter[Any]:
    results = [event for event in events if event["event_type"].startswith(f"{EXISTS}.")]
    return Counter(
        (
            event["event_type"],
            event["timestamp"],
            event.get("error"),
            event.get("error_code"),
            event.get("original_message_id"),
            event["message_id"] if event.get("original_message_id") else None,
        )
        for event in results
        if not event["event_type"].endswith(".warnings")
    )


@needs_the_day
def test_it_agrees_with_winchesters_over_a_day() -> None:
    codes: Counter[str | None] = Counter()
    one_sided = 0
    for events in blocks():
        results = said(HANDLER().handle_events(events, dict(ENV)))
        codes.update(code for (_, _, _, code, *_), number in results.items() for _ in range(number))
        try:
            expected = said(UsageHandler().handle_events(events, dict(ENV)))
        except KeyError:  # there, the stream goes into error
            one_sided += 1
            assert "U2" in {code for _, _, _, code, *_ in results}
        else:
            assert results == expected
    assert one_sided > 0
    assert {"U0", "U1", "U2", "U3", "U4", "U5", "U6", "U7", "U8", None} == set(codes)


def test_in_a_pipeline_it_makes_an_event_that_a_repeated_run_makes_again() -> None:
    module = plugins.load(plugins.bundled_dir("handlers") / "verify_usage.py")
    (ready,) = plugins.marked_handlers(module)
    record = str(uuid.UUID(int=1))
    with Harness() as platform:
        platform.add_hook("compute.instance.*")
        platform.register_pipeline("usage", [ready.target])
        platform.add_trigger(
            name="usage",
            distinguished_by=["instance_id"],
            expiration="$last + 1d",
            match_criteria=[{"event_type": ["compute.instance.*", "!compute.instance.exists.*"]}],
            fire_criteria=[{"event_type": EXISTS}],
            fire_pipeline="usage",
        )
        platform.emit(EXISTS, {"instance_id": "i", "state": "active"}, id=record)
        platform.run_until_idle()
        (made,) = (event for event in platform.events if event.hook.startswith(f"{EXISTS}."))
        assert "has no launched_at" in platform.runs[0].logs
    assert (made.hook, made.payload["error_code"]) == (f"{EXISTS}.failed", "U1")
    assert made.id == str(uuid.uuid5(uuid.UUID(record), f"{EXISTS}.failed"))
    assert made.payload["original_message_id"] == record


def test_what_comes_without_a_record_has_an_id_made_from_its_first_event() -> None:
    events = [{"message_id": "no-uuid", "event_type": "compute.instance.update", "timestamp": 1, "instance_id": "i"}]
    first, again = (HANDLER().handle_events(list(events), dict(ENV))[-1] for _ in range(2))
    assert first == again
    assert (first["error_code"], first["instance_id"], first["stream_id"]) == ("U0", "i", 7)
