"""What happens very often is told of only where a handler or a trigger names its hook."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import pytest

from eventproc.testing import Harness


@pytest.fixture
def platform():
    with Harness() as made:
        made.add_hook("door.opened")
        yield made


def told(platform: Harness, hook: str) -> list[dict]:
    return [dict(event.payload) for event in platform.events if event.hook == hook]


def test_what_retention_deleted_is_told_of_once(platform):
    platform.register(lambda db, **_: 1, hook="gc.*", name="purges")
    platform.emit("door.opened", {"n": 1})
    platform.clock.advance(60 * 86_400)
    platform.run_until_idle()
    platform.run_until_idle()
    assert told(platform, "gc.purged") == [{"deleted": {"events": 1}}]


def test_how_much_waits_is_told_of_once_a_minute(platform):
    platform.register(lambda db, **_: 1 / 0, hook="door.opened", name="fails")
    platform.emit("door.opened", {"n": 1})
    platform.run_until_idle()
    platform.register(lambda db, runs, **_: runs["failed"], hook="queue.depth", name="depth")
    for _ in range(2):
        platform.clock.advance(60)
        platform.run_until_idle()
        platform.run_until_idle()
    assert [run.result for run in platform.runs if run.handler == "depth"] == [1, 1]


def test_a_handler_of_everything_does_not_ask_for_it(platform):
    platform.register(lambda db, **_: 1, hook="*", name="everything")
    platform.run_until_idle()
    assert told(platform, "queue.depth") == []


def test_a_handler_of_everything_is_not_given_what_another_asked_for(platform):
    everything = platform.register(lambda db, **_: 1, hook="*", name="everything")
    platform.register(lambda db, **_: 1, hook="queue.depth", name="depth")
    platform.run_until_idle()
    assert [run.handler for run in platform.runs] == ["depth"]
    (event,) = [event for event in platform.events if event.hook == "queue.depth"]
    why = platform.use.trials.why(platform.admin, event.id, everything.id)
    assert "go only to handlers whose hook names it" in why.verdict
