"""Event definitions give the events that stackdistiller gives, and mistakes in them are refused with their line."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import InvalidInput
from eventproc.ingress.distiller import Distiller, TraitPluginBase
from eventproc.ingress.distiller.definitions import parse_time
from eventproc.ingress.distiller.jsonpath import PathError, parse
from eventproc.model import NewEvent, to_datetime
from eventproc.registry.documents import parse_document, read_document

DATA = Path(__file__).parent.parent / "data"
RECORDED = json.loads((DATA / "distiller.json").read_text())  # made with stackdistiller 0.12 and jsonpath-rw 1.4.0
ENVELOPE = {"message_id": "m", "event_type": "a.b", "timestamp": "2015-02-27 01:02:03"}


def distiller(text: str, **options: Any) -> Distiller:
    return Distiller(parse_document(text, name="definitions.yaml"), **options)


@pytest.mark.parametrize(("text", "found"), RECORDED["paths"], ids=[row[0] or "(empty)" for row in RECORDED["paths"]])
def test_paths_lead_where_jsonpath_rw_goes(text: str, found: Any) -> None:
    if found == "error" or text == "a&b":  # which jsonpath-rw reads, and then fails on
        with pytest.raises(PathError) as caught:
            parse(text)
        assert 0 <= caught.value.details["position"] <= len(text)
    elif isinstance(found, list):
        path = parse(text)
        assert [list(pair) for pair in path.find(RECORDED["document"])] == found
        assert path.first(RECORDED["document"]) == (found[0][1] if found else None)
    else:  # jsonpath-rw fails on the document: here nothing is found
        parse(text).find(RECORDED["document"])


def plain(event: NewEvent | None) -> dict[str, Any] | None:
    if event is None:
        return None
    assert event.time_us is not None
    members = {**event.payload, "event_type": event.hook, "message_id": event.id}
    for name in members.pop("_datetimes", []):
        members[name] = {"datetime": dt.datetime.fromisoformat(members[name]).isoformat() + "+00:00"}
    return {**members, "when": {"datetime": to_datetime(event.time_us).isoformat()}}


@pytest.mark.parametrize("catchall", [False, True])
def test_gives_the_events_that_stackdistiller_gave(*, catchall: bool) -> None:
    ours = Distiller(read_document(DATA / "distiller.yaml"), catchall=catchall)
    for notification, recorded in zip(
        RECORDED["notifications"], RECORDED["catchall" if catchall else "plain"], strict=True
    ):
        if recorded == "error":
            with pytest.raises(InvalidInput):
                ours.distill(notification)
        else:
            assert plain(ours.distill(notification)) == recorded


def test_an_event_without_any_traits_is_refused_as_winchester_does() -> None:
    bare = distiller("[{event_type: a.b, traits: {}}]")
    with pytest.raises(InvalidInput, match="no traits"):
        bare.distill(ENVELOPE)


@pytest.mark.parametrize(
    ("notification", "says"),
    [
        ([], "a JSON object, not a list"),
        ({"message_id": "m"}, "no event_type"),
        ({"event_type": "a.b"}, "no message_id"),
        ({"event_type": 5, "message_id": "m"}, "no event_type"),
        ({**ENVELOPE, "timestamp": "soon"}, "timestamp: 'soon' is no ISO 8601 time"),
        ({**ENVELOPE, "timestamp": "0001-01-01T00:00:00+05:00"}, "outside of the years 1 to 9999"),
        ({**ENVELOPE, "timestamp": "9999-12-31 23:59-01:00"}, "outside of the years 1 to 9999"),
        ({**ENVELOPE, "publisher_id": "p", "i": "abc"}, "trait 'i': 'abc': invalid literal"),
        ({**ENVELOPE, "publisher_id": "p", "f": "nan"}, "no finite number"),
    ],
)
def test_a_malformed_notification_is_refused_saying_why(notification: Any, says: str) -> None:
    ours = distiller("[{event_type: '*', traits: {i: {type: int, fields: i}, f: {type: float, fields: f}}}]")
    with pytest.raises(InvalidInput) as caught:
        ours.distill(notification)
    assert says in caught.value.message


class Loud(TraitPluginBase):
    def __init__(self, suffix: str = "!", **parameters: Any) -> None:
        super().__init__(**parameters)
        self.suffix = suffix

    def trait_value(self, match_list: Any) -> Any:
        if not match_list:
            return "nothing"
        (path, value), *_ = match_list
        if value == "boom":
            raise RuntimeError("boom")
        return f"{path}={value}{self.suffix}"


def test_own_plugins_get_paths_and_values_and_their_parameters() -> None:
    ours = distiller(
        "[{event_type: a.b, traits: {x: {fields: payload.x, plugin: {name: loud, parameters: {suffix: '?'}}}}}]",
        plugins={"loud": Loud},
    )
    event = ours.distill({**ENVELOPE, "payload": {"x": "v"}})
    assert event is not None
    assert event.payload["x"] == "payload.x=v?"
    empty = ours.distill(ENVELOPE)
    assert empty is not None
    assert empty.payload["x"] == "nothing"
    with pytest.raises(InvalidInput, match="trait 'x': its plugin raised RuntimeError"):
        ours.distill({**ENVELOPE, "payload": {"x": "boom"}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "definitions.yaml:1: a list of definitions is expected, not a mapping"),
        ("- event_type: a\n", "definitions.yaml:1: [0]: the key 'traits' is missing"),
        ("- event_type: a\n  trait: {}\n", "definitions.yaml:2: [0].trait: unknown key; did you mean 'traits'?"),
        ("- event_type: a\n  traits:\n    x: {}\n", "definitions.yaml:3: [0].traits.x: the key 'fields' is missing"),
        (
            "- event_type: a\n  traits:\n    x:\n      fields: a.[\n",
            "definitions.yaml:4: [0].traits.x.fields: path 'a.['",
        ),
        ("- event_type: a\n  traits: {x: {fields: a, type: string}}\n", "unknown type 'string'; there are"),
        (
            "- event_type: a\n  traits: {x: {fields: a, plugin: spilt}}\n",
            "no plugin is named 'spilt'; did you mean 'split'?",
        ),
        ("- event_type: a\n  traits: {x: {fields: a, plugin: {nam: split}}}\n", "did you mean 'name'?"),
        (
            "- event_type: a\n  traits: {x: {fields: a, plugin: {name: bitfield, parameters: {flags: [{}]}}}}\n",
            "KeyError",
        ),
        ("- event_type: 5\n  traits: {}\n", "a list of event types is expected"),
    ],
)
def test_mistakes_in_definitions_are_refused_with_file_line_and_near_key(text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        distiller(text)
    assert says in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)


@given(document=JSON, text=st.text(alphabet="abc.*[]0:|$()' ", max_size=12))
def test_any_path_is_followed_or_refused(document: Any, text: str) -> None:
    try:
        path = parse(text)
    except PathError:
        return
    found = path.find(document)
    assert path.first(document) == (found[0][1] if found else None)


DATETIMES = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))  # noqa: DTZ001


@given(DATETIMES, st.sampled_from(["", "Z", "+02:30", "-0100", "+05"]))
def test_times_are_read_as_they_are_written(moment: dt.datetime, zone: str) -> None:
    digits = zone[1:].replace(":", "").ljust(4, "0") if zone not in ("", "Z") else "0000"
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) * (-1 if zone[:1] == "-" else 1)
    expected = moment.replace(tzinfo=dt.UTC) - offset
    assert parse_time(moment.isoformat() + zone) == expected
    assert parse_time(moment.isoformat(" ") + zone) == expected
