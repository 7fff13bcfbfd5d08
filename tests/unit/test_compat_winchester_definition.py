"""winchester's criteria, definitions and clock, tried one by one as its users' tests do."""

from __future__ import annotations

import datetime as dt
import logging
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from eventproc.compat.winchester import install
from eventproc.timesync import TimeService

NOON = dt.datetime(2015, 2, 27, 12)  # noqa: DTZ001 - winchester's times are naive
MINIMAL = {
    "name": "t",
    "expiration": "$last + 1d",
    "fire_pipeline": "p",
    "match_criteria": [{"event_type": "a.*"}],
    "fire_criteria": [],
}


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    install()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("winchester", "timex")]:
        del sys.modules[name]


@pytest.fixture
def group() -> Any:
    from winchester.debugging import DebugManager

    return DebugManager().get_debugger(None).get_group("Match")


@pytest.mark.parametrize(
    ("kind", "expression", "value", "matches"),
    [
        ("Criterion", 3, 3, True),
        ("Criterion", 3, "3", False),
        ("Criterion", "x", "x", True),
        ("NumericCriterion", 3, 3, True),
        ("NumericCriterion", "= 3", 3, True),
        ("NumericCriterion", "> 3", 3, False),
        ("NumericCriterion", "> 3", 4, True),
        ("NumericCriterion", ">= 3", 3, True),
        ("NumericCriterion", "< 3", "2", False),
        ("FloatCriterion", "< 3.5", 3.4, True),
        ("FloatCriterion", 3.5, 3.4, False),
        ("TimeCriterion", "day", NOON, True),
        ("TimeCriterion", "day", NOON.replace(day=28), False),
        ("TimeCriterion", "$timestamp + 1h to $timestamp + 3h", NOON.replace(hour=14), True),
        ("TimeCriterion", "$other", NOON, False),
    ],
)
def test_a_criterion_is_asked_for_one_trait(
    kind: str, expression: Any, value: Any, group: Any, *, matches: bool
) -> None:
    from winchester import definition

    criterion = getattr(definition, kind)(expression, "x")
    assert criterion.match({"timestamp": NOON, "x": value}, group) is matches
    assert (group._match, group._mismatch) == (int(matches), int(not matches))
    assert not criterion.match({"timestamp": NOON}, group)
    assert criterion.trait_name == "x"


@pytest.mark.parametrize(
    ("kind", "expression"),
    [("NumericCriterion", "zazz"), ("NumericCriterion", "> zazz"), ("FloatCriterion", "% 1"), ("TimeCriterion", "dya")],
)
def test_a_criterion_that_says_nothing_is_a_definition_error(kind: str, expression: str) -> None:
    from winchester import definition

    with pytest.raises(definition.DefinitionError, match="trait 'x'"):
        getattr(definition, kind)(expression, "x")


@pytest.mark.parametrize(
    ("event_type", "included", "excluded"),
    [
        (None, ["*"], []),
        ("a.*", ["a.*"], []),
        (["a.*", "!a.b"], ["a.*"], ["a.b"]),
        ("!a.b", ["*"], ["a.b"]),
        (["!a.b", "!c"], ["*"], ["a.b", "c"]),
        ([], [], []),
    ],
)
def test_criteria_tell_their_event_types(event_type: Any, included: list[str], excluded: list[str]) -> None:
    from winchester.definition import Criteria

    criteria = Criteria({} if event_type is None else {"event_type": event_type})
    assert (criteria.included_types, criteria.excluded_types) == (included, excluded)
    assert (criteria.number, criteria.timestamp, criteria.map_distinguished_by, criteria.traits) == (1, None, {}, {})


def test_criteria_match_type_time_and_traits(group: Any, caplog: pytest.LogCaptureFixture) -> None:
    import timex
    from winchester.definition import Criteria, Criterion, FloatCriterion, NumericCriterion, TimeCriterion

    criteria = Criteria(
        {
            "event_type": ["a.*", "!a.b"],
            "number": 2,
            "timestamp": "day($begin)",
            "map_distinguished_by": {"timestamp": "begin"},
            "traits": {"s": "x", "n": {"int": "> 5"}, "f": {"float": 1.5}, "d": {"datetime": "day"}},
        }
    )
    assert {name: type(each) for name, each in criteria.traits.items()} == {
        "s": Criterion,
        "n": NumericCriterion,
        "f": FloatCriterion,
        "d": TimeCriterion,
    }
    assert (criteria.number, criteria.map_distinguished_by) == (2, {"timestamp": "begin"})
    assert criteria.timestamp(begin=NOON) == timex.TimeRange(NOON.replace(hour=0), NOON.replace(day=28, hour=0))
    event = {"event_type": "a.c", "timestamp": NOON, "begin": NOON, "s": "x", "n": 6, "f": 1.5, "d": NOON}
    assert criteria.match(event, group)
    for change in ({"event_type": "a.b"}, {"begin": NOON.replace(day=1)}, {"n": 5}, {"d": None}):
        assert not criteria.match({**event, **change}, group)
    assert {"Wrong event type", "Not time yet.", "> failed", "Time: not 'd'"} <= set(group._reasons)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        Criteria({"map_distingushed_by": {}})
    assert "map_distinguished_by" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name"),
        ({"expiration": "$last + 1q"}, "unknown unit"),
        ({"fire_pipeline": None}, "fire_pipeline and expire_pipeline"),
        ({"distinguished_by": [{"a": "day", "b": "day"}]}, "one trait per entry"),
        ({"match_criteria": [{"traits": {"x": {"int": 1, "float": 2}}}]}, "one kind of comparison"),
    ],
)
def test_a_malformed_definition_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    from winchester.definition import DefinitionError, TriggerDefinition

    with pytest.raises(DefinitionError, match=message):
        TriggerDefinition({**MINIMAL, **change}, None)


def test_a_definition_has_the_names_and_defaults_of_winchester() -> None:
    from winchester.debugging import DebugManager
    from winchester.definition import Criteria, TriggerDefinition

    minimal = TriggerDefinition(MINIMAL, DebugManager())
    assert (minimal.distinguished_by, minimal.fire_delay, minimal.fire_criteria, minimal.load_criteria) == (
        [],
        0,
        [],
        [],
    )
    assert minimal.get_fire_timestamp(NOON) == NOON
    event = {"event_type": "a.b", "timestamp": NOON, "message_id": "m"}
    matching = minimal.match(event)
    assert matching is minimal.match_criteria[0]
    assert minimal.get_distinguishing_traits(event, matching) == {}
    assert minimal.should_fire([event])
    full = TriggerDefinition(
        {**MINIMAL, "load_criteria": [{"event_type": "x"}], "fire_criteria": [{"number": 3}]}, None
    )
    assert isinstance(full.load_criteria[0], Criteria)
    assert full.fire_criteria[0].number == 3


def test_the_criteria_that_matched_say_where_a_distinguishing_trait_comes_from() -> None:
    import timex
    from winchester.definition import TriggerDefinition

    definition = TriggerDefinition(
        {
            **MINIMAL,
            "distinguished_by": ["i", {"timestamp": "day"}],
            "match_criteria": [
                {"event_type": "a.exists", "map_distinguished_by": {"timestamp": "begin"}},
                {"event_type": "a.*"},
            ],
        },
        None,
    )
    yesterday = timex.TimeRange(NOON.replace(day=26, hour=0), NOON.replace(hour=0))
    today = timex.TimeRange(NOON.replace(hour=0), NOON.replace(day=28, hour=0))
    for event_type, expected in (("a.exists", yesterday), ("a.b", today)):
        event = {"event_type": event_type, "timestamp": NOON, "begin": NOON.replace(day=26), "i": 1}
        matching = definition.match(event)
        assert definition.get_distinguishing_traits(event, matching) == {"i": 1, "timestamp": expected}
    assert definition.match({"event_type": "a.b", "timestamp": NOON}) is None
    with pytest.raises(KeyError):
        definition.get_distinguishing_traits({"timestamp": NOON, "i": 1}, definition.match_criteria[0])


def test_time_expressions_are_evaluated_with_naive_times() -> None:
    import timex

    assert timex.parse("$last + 1d")(last=NOON).timestamp == NOON.replace(day=28)
    assert NOON in timex.parse("day")(timestamp=NOON)
    assert NOON in timex.parse("$timestamp")(timestamp=NOON)
    with pytest.raises(timex.TimexParserError, match="position"):
        timex.parse("$last +")
    with pytest.raises(timex.TimexExpressionError):
        timex.parse("$last + 1d")()


# ---------------------------------------------------------------------- time_sync


@pytest.fixture
def service() -> Iterator[TimeService]:
    import threading

    server = TimeService()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_time_is_the_services_and_stands_still_between_two_looks(service: TimeService) -> None:
    from winchester.time_sync import TimeSync

    service.text = "2015-02-27T12:00:00Z"
    clock = TimeSync({"time_sync_endpoint": service.url})
    assert clock.endpoint == f"{service.url}/time"
    assert clock.current_time() == NOON
    service.text = "2015-02-27T13:00:00Z"
    assert clock.current_time() == NOON
    assert clock.last_update is not None
    clock.last_update -= dt.timedelta(seconds=21)
    assert clock.current_time() == NOON.replace(hour=13)


def test_who_publishes_tells_the_service_now_and_then(service: TimeService) -> None:
    from winchester.time_sync import TimeSync

    clock = TimeSync({"time_sync_endpoint": service.url}, publishes=True)
    told = []
    for text in ("2015-02-27T12:00:00", "2015-02-27T12:00:20", "2015-02-27T12:00:21", "2015-02-27T11:00:00"):
        clock.publish(text)
        told.append(service.text)
        assert clock.current_time() == dt.datetime.fromisoformat(text)
    assert told == ["2015-02-27T12:00:00", "2015-02-27T12:00:00", "2015-02-27T12:00:21", "2015-02-27T11:00:00"]


def test_the_known_time_stays_while_the_service_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from winchester import time_sync

    clock = time_sync.TimeSync({"time_sync_endpoint": "http://127.0.0.1:1"})
    clock.last_tyme = NOON
    assert clock.current_time() == NOON
    assert "http://127.0.0.1:1/time can not be read" in caplog.text
    texts = iter(["", "None", "2015-02-27T12:00:00"])
    pauses: list[float] = []
    monkeypatch.setattr(time_sync.requests, "get", lambda _url: types.SimpleNamespace(text=next(texts)))
    monkeypatch.setattr(time_sync, "time", types.SimpleNamespace(sleep=pauses.append))
    assert clock._fetch() == "2015-02-27T12:00:00"
    assert pauses == [1, 1]
    clock.last_update = None
    monkeypatch.setattr(time_sync.dateutil.parser, "parse", lambda text: f"{text}, parsed")
    monkeypatch.setattr(time_sync.requests, "get", lambda _url: types.SimpleNamespace(text="now"))
    assert clock.current_time() == "now, parsed"
