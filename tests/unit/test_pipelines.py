"""Pipelines: handlers in order over a stream's events, commit and rollback, and what becomes of the stream."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from eventproc.errors import InvalidHandler, InvalidInput, NotFound
from eventproc.model import HandlerRecord, NewEvent, Role, Stream, StreamState
from eventproc.testing import Harness

TRIGGER = {
    "name": "order",
    "distinguished_by": ["order"],
    "expiration": "$last + 1h",
    "match_criteria": [{"event_type": ["order.*", "!order.summed*"]}],
    "fire_criteria": [{"event_type": "order.closed"}],
    "fire_pipeline": "sum",
    "expire_pipeline": "late",
}


class Sum:
    """Adds up the items and makes an event of the sum."""

    def __init__(self, rate=1, kind="order.summed"):
        self.rate = rate
        self.kind = kind

    def handle_events(self, events, env):
        print("events", [event["message_id"] for event in events], env["stream_name"])
        last = events[-1]
        env["sum"] = sum(event.get("price", 0) for event in events) * self.rate
        new = {
            "message_id": f"sum-{last['order']}",
            "event_type": self.kind,
            "timestamp": last["timestamp"],
            "order": last["order"],
            "sum": env["sum"],
            "closed_at": last["timestamp"],
            "note": None,
        }
        return [*events, new]


class Noted:
    """Says in the run's log what it is asked for."""

    def __init__(self, name="noted", fails=""):
        self.name = name
        self.fails = fails
        print(name, "made")
        if fails == "init":
            raise ValueError("init failed")

    def handle_events(self, events, env):
        return self._do("handle", events)

    def commit(self):
        self._do("commit", None)

    def rollback(self):
        self._do("rollback", None)

    def _do(self, what, value):
        print(self.name, what)
        if self.fails == what:
            raise KeyError(f"{what} failed")
        return value


@pytest.fixture
def platform() -> Iterator[Harness]:
    with Harness() as harness:
        harness.add_hook("order.*")
        yield harness


def collect(platform: Harness, *, order: str = "7", closed: bool = True, **trigger: Any) -> Stream:
    platform.add_trigger(**{**TRIGGER, **trigger})
    prices = [10, 20, 30]
    for number, price in enumerate(prices):
        platform.emit("order.item", {"order": order, "price": price}, id=f"{order}-{number}")
    if closed:
        platform.emit("order.closed", {"order": order}, id=f"{order}-closed")
    platform.run_until_idle()
    return platform.streams[0]


def pipelines(platform: Harness, *handlers: Any, **more: Any) -> HandlerRecord:
    platform.register_pipeline("late", [Noted])
    return platform.register_pipeline("sum", list(handlers), **more)


def test_a_stream_that_fires_goes_through_its_pipeline(platform: Harness) -> None:
    pipelines(platform, (Sum, {"rate": 2}))
    stream = collect(platform)
    assert stream.state is StreamState.COMPLETED
    (run,) = platform.runs
    assert run.result == {"events": 4, "new": ["sum-7"]}
    assert "['7-0', '7-1', '7-2', '7-closed'] order" in run.logs
    summed = platform.events[-1]
    assert (summed.id, summed.hook, summed.caused_by_run) == ("sum-7", "order.summed", run.id)
    closed_at = platform.clock.now_us()
    assert summed.payload["sum"] == 120
    assert summed.payload["_datetimes"] == ["closed_at"]
    assert dt.datetime.fromisoformat(summed.payload["closed_at"]).timestamp() * 1e6 == pytest.approx(closed_at)
    assert "note" not in summed.payload


def test_new_events_are_matched_with_all_triggers(platform: Harness) -> None:
    platform.register_pipeline("grand", [Noted])
    pipelines(platform, Sum)
    total = {**TRIGGER, "name": "total", "distinguished_by": [], "match_criteria": [{"event_type": "order.summed"}]}
    platform.add_trigger(**{**total, "fire_pipeline": None, "expire_pipeline": "grand"})
    collect(platform)
    first, second = platform.streams
    assert (first.name, second.name, second.events) == ("order", "total", 1)
    assert second.hops == 1


def test_a_stream_that_expires_goes_to_the_other_pipeline(platform: Harness) -> None:
    pipelines(platform, Sum)
    stream = collect(platform, closed=False)
    assert stream.state is StreamState.ACTIVE
    platform.clock.advance(3600)
    platform.run_until_idle()
    assert platform.streams[0].state is StreamState.COMPLETED
    (run,) = platform.runs
    assert (run.handler, run.hook) == ("late", "stream.expired")


def test_a_stream_without_a_pipeline_for_its_way_out_is_completed(platform: Harness) -> None:
    pipelines(platform, Sum)
    stream = collect(platform, fire_pipeline=None)
    assert stream.state is StreamState.COMPLETED
    assert platform.runs == []


def test_handlers_are_made_anew_for_each_stream_and_share_env(platform: Harness) -> None:
    class Counts:
        def __init__(self):
            self.calls = 0

        def handle_events(self, events, env):
            self.calls += 1
            env["calls"] = self.calls
            return events

    def tell(events, env):
        print("calls", env)
        return events

    pipelines(platform, Counts, tell, isolation="batch")
    for order in "ab":
        collect(platform, order=order)
    ids = [stream.id for stream in platform.streams]
    assert [f"'stream_id': {ids[n]}, 'stream_name': 'order', 'calls': 1" in platform.runs[n].logs for n in (0, 1)] == [
        True,
        True,
    ]


def test_commit_follows_the_stored_result_in_order(platform: Harness) -> None:
    pipelines(platform, Sum, {"name": "a", "handler": Noted, "params": {"name": "a"}}, (Noted, {"name": "b"}))
    stream = collect(platform)
    assert stream.state is StreamState.COMPLETED
    said = [line for line in platform.runs[0].logs.splitlines() if not line.startswith("events")]
    assert said == ["a made", "b made", "a handle", "b handle", "a commit", "b commit"]


def test_streams_of_a_batch_commit_each_by_itself(platform: Harness) -> None:
    class Marked:
        def handle_events(self, events, env):
            self.order = events[0]["order"]
            print("handle", self.order)
            new = {"message_id": f"m{self.order}", "event_type": "order.summed", "timestamp": events[0]["timestamp"]}
            return [*events, new]

        def commit(self):
            print("commit", self.order)
            if self.order == "5":
                raise ValueError("no commit for 5")

        def rollback(self):
            print("rollback", self.order)

    pipelines(platform, Marked, isolation="batch")
    platform.add_trigger(**TRIGGER)
    for number in range(40):
        platform.emit("order.closed", {"order": str(number)})
    platform.run_until_idle()
    states = {stream.distinguished_by["order"]: stream.state for stream in platform.streams}
    assert states.pop("5") is StreamState.COMMIT_ERROR
    assert set(states.values()) == {StreamState.COMPLETED}
    assert len(states) == 39
    assert sum(event.hook == "order.summed" for event in platform.events) == 40
    assert all(
        run.logs.splitlines() == [f"handle {run.logs.split()[1]}", f"commit {run.logs.split()[1]}"]
        for run in platform.runs
        if run.state == "succeeded"
    )


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("handle", ["a made", "b made", "c made", "a handle", "b handle", "a rollback", "b rollback", "c rollback"]),
        ("init", ["a made", "b made", "a rollback"]),
    ],
)
def test_all_constructed_handlers_roll_back_in_order(platform: Harness, fails: str, said: list[str]) -> None:
    pipelines(
        platform,
        (Noted, {"name": "a"}),
        (Noted, {"name": "b", "fails": fails}),
        (Noted, {"name": "c"}),
        Sum,
    )
    stream = collect(platform)
    assert platform.runs[0].logs.splitlines() == said
    assert stream.state is StreamState.ERROR
    assert stream.failure is not None
    assert f"{fails} failed" in stream.failure.message
    assert "test_pipelines.py" in (stream.failure.traceback or "")
    assert all(event.hook != "order.summed" for event in platform.events)


def test_the_other_way_out_has_an_error_of_its_own(platform: Harness) -> None:
    platform.register_pipeline("sum", [Sum])
    platform.register_pipeline("late", [(Noted, {"fails": "handle"})])
    collect(platform, closed=False)
    platform.clock.advance(3600)
    platform.run_until_idle()
    assert platform.streams[0].state is StreamState.EXPIRE_ERROR


def test_a_failed_commit_is_an_error_of_its_own_and_reset_repeats_it_alone(platform: Harness) -> None:
    pipelines(platform, Sum, (Noted, {"name": "a", "fails": "commit"}), (Noted, {"name": "b"}))
    stream = collect(platform)
    assert stream.state is StreamState.COMMIT_ERROR
    assert stream.failure is not None
    assert "commit failed" in stream.failure.message
    assert [event.id for event in platform.events].count("sum-7") == 1
    assert "b commit" in platform.runs[0].logs
    changed = platform.use.streams.reset(platform.admin, [stream.id])
    assert changed.ids == [stream.id]
    assert platform.streams[0].state is StreamState.FIRING
    platform.run_until_idle()
    assert platform.streams[0].state is StreamState.COMMIT_ERROR
    assert platform.runs[0].attempt == 2
    assert [event.id for event in platform.events].count("sum-7") == 1


def test_reset_sends_a_stream_through_the_present_version(platform: Harness) -> None:
    pipelines(platform, (Noted, {"fails": "handle"}))
    stream = collect(platform)
    assert stream.state is StreamState.ERROR
    pipelines(platform, Sum)
    platform.use.streams.reset(platform.admin, [stream.id])
    assert platform.streams[0].state is StreamState.RETRY_FIRE
    platform.run_until_idle()
    done = platform.streams[0]
    assert (done.state, done.attempts, done.failure) == (StreamState.COMPLETED, 2, None)


def test_of_many_streams_those_of_others_are_refused_by_themselves(platform: Harness) -> None:
    pipelines(platform, (Noted, {"fails": "handle"}))
    theirs = collect(platform)
    with platform.store.begin() as tx:
        olga = tx.users.add("olga", Role.DEVELOPER, now_us=1)
    platform.use.triggers.put_one(olga, {**TRIGGER, "name": "olgas"})
    platform.emit("order.item", {"order": "8", "price": 1}, id="8-0")
    platform.emit("order.closed", {"order": "8"}, id="8-closed")
    platform.run_until_idle()
    hers = next(stream for stream in platform.streams if stream.name == "olgas")
    done = platform.use.streams.reset(olga, [theirs.id, hers.id, 4242])
    assert (done.count, done.ids) == (1, [hers.id])
    (other, forbidden), (missing, unknown) = done.refused
    assert (other, missing) == (theirs.id, 4242)
    assert "belongs to user 'tester'" in str(forbidden)
    assert str(unknown) == "there is no stream 4242"


def test_retries_have_their_own_time(platform: Harness) -> None:
    pipelines(platform, (Noted, {"fails": "handle"}), retries={"max": 1, "backoff": "10s"})
    assert collect(platform).state is StreamState.FIRING
    platform.clock.advance(20)
    platform.run_until_idle()
    assert platform.streams[0].state is StreamState.ERROR
    assert platform.runs[0].attempt == 2


def test_cancelling_and_requeueing_the_run_moves_its_stream(platform: Harness) -> None:
    record = pipelines(platform, Sum)
    platform.use.pipelines.set_paused(platform.admin, "sum", paused=True)
    assert collect(platform).state is StreamState.FIRING
    (run,) = platform.runs
    platform.use.runs.cancel(platform.admin, run.id)
    assert platform.streams[0].state is StreamState.ERROR
    platform.use.runs.requeue(platform.admin, run.id)
    assert platform.streams[0].state is StreamState.FIRING
    platform.use.pipelines.set_paused(platform.admin, record.name, paused=False)
    platform.run_until_idle()
    assert platform.streams[0].state is StreamState.COMPLETED


def test_a_pipeline_that_is_gone_leaves_streams_in_error_until_it_is_back(platform: Harness) -> None:
    pipelines(platform, Sum)
    platform.use.pipelines.set_paused(platform.admin, "sum", paused=True)
    waiting = collect(platform)
    platform.use.pipelines.deregister(platform.admin, "sum")
    platform.run_until_idle()
    platform.emit("order.closed", {"order": "8"})
    platform.run_until_idle()
    assert [stream.state for stream in platform.streams] == [StreamState.ERROR, StreamState.ERROR]
    failure = platform.streams[1].failure
    assert failure is not None
    assert "there is no pipeline 'sum'" in failure.message
    pipelines(platform, Sum)
    platform.use.streams.reset(platform.admin, [waiting.id, platform.streams[1].id])
    platform.run_until_idle()
    assert {stream.state for stream in platform.streams} == {StreamState.COMPLETED}


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (lambda events, env: None, "returned NoneType"),
        (lambda events, env: [*events, "x"], "not a dict"),
        (lambda events, env: [*events, {"event_type": "order.x", "timestamp": 1}], "no message_id"),
        (lambda events, env: [*events, {"message_id": "x", "timestamp": 1}], "no event_type"),
        (lambda events, env: [*events, {"message_id": "x", "event_type": "order.x"}], "no timestamp"),
        (lambda events, env: [*events, {"message_id": "x", "event_type": "no.such", "timestamp": 1}], "no.such"),
    ],
)
def test_what_is_no_event_is_an_error_of_that_stream(platform: Harness, made: Any, word: str) -> None:
    pipelines(platform, {"name": "odd", "handler": made})
    stream = collect(platform)
    assert stream.state is StreamState.ERROR
    assert stream.failure is not None
    assert word in stream.failure.message


def test_events_that_exist_already_are_left_as_they_are(platform: Harness) -> None:
    pipelines(platform, Sum)
    platform.emit("order.summed", {"other": "content"}, id="sum-7")
    assert collect(platform).state is StreamState.COMPLETED
    assert [event.payload for event in platform.events if event.id == "sum-7"] == [{"other": "content"}]


def test_a_loop_of_pipelines_ends_with_an_error(platform: Harness) -> None:
    def again(events, env):
        new = dict(events[0], message_id=events[0]["message_id"] + "+", event_type="order.closed")
        return [*events, new]

    pipelines(platform, again)
    collect(platform)
    states = [stream.state for stream in platform.streams]
    assert states[:-1] == [StreamState.COMPLETED] * (len(states) - 1)
    assert states[-1] is StreamState.ERROR
    assert "chain" in (platform.streams[-1].failure.message if platform.streams[-1].failure else "")


def test_a_trigger_on_everything_does_not_collect_what_its_own_streams_cause(platform: Harness) -> None:
    def refuses(events, env):
        raise ValueError(events[0]["event_type"])

    platform.register_pipeline("all", [refuses])
    platform.add_trigger(
        name="all", expiration="$last + 1h", match_criteria=[{}], fire_criteria=[], fire_pipeline="all"
    )
    platform.emit("order.item", {"order": "7"})
    platform.run_until_idle()
    assert {event.hook for event in platform.events} == {"order.item", "stream.fired", "run.failed"}
    assert [(stream.state, stream.events) for stream in platform.streams] == [(StreamState.ERROR, 1)]


def test_naive_datetimes_for_those_who_want_them(platform: Harness) -> None:
    def look(events, env):
        print([event["timestamp"].tzinfo for event in events], events[0].get("at"))
        return events

    platform.register_pipeline("late", [Noted])
    platform.register_pipeline("sum", [look], naive=True)
    platform.add_trigger(**TRIGGER)
    at = "2026-01-02T03:04:05+02:00"
    platform.emit("order.closed", {"order": "1", "at": at, "_datetimes": ["at"]})
    platform.run_until_idle()
    assert platform.runs[0].logs.strip() == "[None] 2026-01-02 01:04:05"


def test_handlers_by_name_and_by_import(platform: Harness) -> None:
    platform.register(Sum, hook="order.*", name="adds-up", tags=["never"])
    pipelines(platform, {"handler": "adds-up", "params": {"rate": 3}}, "collections:OrderedDict.fromkeys")
    stream = collect(platform)
    assert stream.state is StreamState.ERROR  # which is what OrderedDict makes of it
    record, parts = platform.use.pipelines.get(platform.admin, "sum")
    assert [(part["name"], part["params"], part.get("import")) for part in parts] == [
        ("adds-up", {"rate": 3}, None),
        ("collections:OrderedDict.fromkeys", {}, "collections:OrderedDict.fromkeys"),
    ]
    assert record.current.python


def test_the_same_pipeline_again_is_no_new_version(platform: Harness) -> None:
    assert pipelines(platform, Sum).current.version == 0
    assert pipelines(platform, Sum).current.version == 0
    assert pipelines(platform, (Sum, {"rate": 2})).current.version == 1
    assert pipelines(platform, (Sum, {"rate": 2}), notify_on_failure="a@example.com").current.version == 2


@pytest.mark.parametrize(
    ("handlers", "options", "error", "word"),
    [
        ([], {}, InvalidInput, "1 to 100 handlers"),
        (["nobody"], {}, NotFound, "no handler is registered as 'nobody'"),
        (["no.such.module:Class"], {}, InvalidHandler, "no module"),
        (["json:Nothing"], {}, InvalidHandler, "has no Nothing"),
        (["json:"], {}, InvalidInput, "write module:Class"),
        ([int], {}, InvalidHandler, "handle_events"),
        ([(Sum, {"rate": object()})], {}, InvalidInput, "JSON"),
        ([7], {}, InvalidInput, "not 7"),
        ([Sum], {"filter": {"a": [1]}}, InvalidInput, "no option 'filter'"),
        ([Sum], {"timout": 3}, InvalidInput, "timeout"),
    ],
)
def test_what_could_not_work_is_refused(
    platform: Harness, handlers: list[Any], options: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        platform.register_pipeline("sum", handlers, **options)


def test_a_failed_run_is_mailed(platform: Harness) -> None:
    pipelines(platform, (Noted, {"fails": "handle"}), notify_on_failure="ops@example.com")
    collect(platform)
    (mail,) = platform.mails
    assert "sum" in str(mail["Subject"])


def test_streams_of_a_deleted_trigger_go_through_its_pipeline(platform: Harness) -> None:
    pipelines(platform, Sum)
    collect(platform, closed=False)
    platform.use.triggers.delete(platform.admin, "order")
    platform.emit("order.closed", {"order": "7"})
    platform.clock.advance(3601)
    platform.run_until_idle()
    (stream,) = platform.streams
    assert (stream.events, stream.state) == (3, StreamState.COMPLETED)
    assert "noted handle" in platform.runs[0].logs


def test_a_pipeline_with_another_name_takes_the_streams_that_wait(platform: Harness) -> None:
    pipelines(platform, Sum)
    collect(platform, closed=False)
    platform.register_pipeline("total", [Sum])
    platform.use.pipelines.deregister(platform.admin, "sum")
    platform.add_trigger(**{**TRIGGER, "fire_pipeline": "total"})
    platform.emit("order.closed", {"order": "7"})
    platform.run_until_idle()
    assert [(stream.events, stream.state) for stream in platform.streams] == [(4, StreamState.COMPLETED)]
    assert platform.runs[0].handler == "total"


def test_a_trigger_that_fires_by_other_criteria_now_goes_by_those(platform: Harness) -> None:
    pipelines(platform, Sum)
    collect(platform, closed=False)
    platform.add_trigger(**{**TRIGGER, "fire_criteria": [{"event_type": "order.item", "number": 4}]})
    platform.run_until_idle()
    assert platform.streams[0].state is StreamState.ACTIVE
    platform.emit("order.item", {"order": "7", "price": 40})
    platform.run_until_idle()
    assert [(stream.events, stream.state) for stream in platform.streams] == [(4, StreamState.COMPLETED)]


def test_a_clock_that_goes_backwards_loses_and_splits_nothing(platform: Harness) -> None:
    pipelines(platform, Sum)
    collect(platform, closed=False)
    platform.clock.advance(-7200)
    platform.emit("order.item", {"order": "7", "price": 40}, id="early")
    platform.run_until_idle()
    assert [(stream.events, stream.state) for stream in platform.streams] == [(4, StreamState.ACTIVE)]
    platform.emit("order.closed", {"order": "7"})
    platform.run_until_idle()
    assert [(stream.events, stream.state) for stream in platform.streams] == [(5, StreamState.COMPLETED)]
    assert "['early'," in platform.runs[0].logs
    assert platform.runs[0].state == "succeeded"


def test_ten_thousand_events_go_through_a_pipeline(platform: Harness) -> None:
    pipelines(platform, Sum)
    platform.add_trigger(**TRIGGER)
    items = [
        NewEvent(hook="order.item", payload={"order": "7", "price": 1}, id=f"i{number}") for number in range(10_000)
    ]
    for first in range(0, len(items), 1000):
        platform.use.events.emit_many(platform.admin, items[first : first + 1000])
    platform.emit("order.closed", {"order": "7"})
    platform.run_until_idle()
    assert [(stream.events, stream.state) for stream in platform.streams] == [(10_001, StreamState.COMPLETED)]
    assert next(event for event in platform.events if event.id == "sum-7").payload["sum"] == 10_000


def test_a_stream_that_is_too_large_for_a_child_says_what_to_do(platform: Harness) -> None:
    pipelines(platform, Sum)
    platform.add_trigger(**TRIGGER)
    heavy = {"order": "7", "note": "x" * 950_000}
    platform.use.events.emit_many(platform.admin, [NewEvent(hook="order.item", payload=heavy) for _ in range(54)])
    platform.emit("order.closed", {"order": "7"})
    platform.run_until_idle()
    (stream,) = platform.streams
    assert stream.state is StreamState.ERROR
    assert stream.failure is not None
    assert "more than the 50,331,648 that a child is given; distinguish its trigger by more" in stream.failure.message


def test_the_counters_of_a_trigger_tell_what_fired_and_what_expired() -> None:
    with Harness() as platform:
        platform.add_hook("a.*")
        platform.register_pipeline("p", [Nothing])
        platform.add_trigger(
            name="t",
            debug_level=1,
            distinguished_by=["k"],
            expiration="$last + 1h",
            match_criteria=[{"event_type": "a.*"}],
            fire_criteria=[{"event_type": "a.end"}],
            fire_pipeline="p",
        )
        for number, hook in enumerate(["a.end", "a.end", "a.part"]):
            platform.emit(hook, {"k": number})
        platform.run_until_idle()
        platform.clock.advance(2 * 3600)
        platform.run_until_idle()
        platform.cache.tally.flush()
        _, checks = platform.use.triggers.get(platform.admin, "t")
        counts = {each.name: each.checks for each in checks if each.kind == "Counter"}
    told = {"Streams fired": 2, "Streams expired": 1, "No expire pipeline for 't'": 1}
    ended = {"Pre-commit successful": 2, "Commit successful": 2}
    assert counts == {"New stream": 3, "Ready to fire": 2, **told, **ended}


@pytest.mark.parametrize(
    ("fails", "counted"),
    [
        ("nowhere", {"Pre-commit successful": 1, "Commit successful": 1}),
        ("handle", {"Pipeline error": 1, "Rollback successful": 1}),
        ("rollback", {"Pipeline error": 1, "Rollback error": 1}),
        ("commit", {"Pre-commit successful": 1, "Commit error": 1}),
    ],
)
def test_the_counters_of_a_trigger_tell_how_its_pipelines_ended(fails: str, counted: dict[str, int]) -> None:
    with Harness() as platform:
        platform.add_hook("a.*")
        platform.register_pipeline("p", [(Failing, {"fails": fails})])
        platform.add_trigger(
            name="t",
            debug_level=1,
            expiration="$last + 1h",
            match_criteria=[{"event_type": "a.*"}],
            fire_criteria=[{"event_type": "a.end"}],
            fire_pipeline="p",
        )
        platform.emit("a.end", {"k": 1})
        platform.run_until_idle()
        platform.cache.tally.flush()
        _, checks = platform.use.triggers.get(platform.admin, "t")
        counts = {each.name: each.checks for each in checks if each.kind == "Counter"}
    assert counts == {"New stream": 1, "Ready to fire": 1, "Streams fired": 1, **counted}


class Failing:
    def __init__(self, fails):
        self.fails = fails

    def handle_events(self, events, env):
        if self.fails in {"handle", "rollback"}:
            raise ValueError("no")
        return events

    def commit(self):
        if self.fails == "commit":
            raise ValueError("no")

    def rollback(self):
        if self.fails == "rollback":
            raise ValueError("no")


class Nothing:
    def handle_events(self, events, env):
        return events
