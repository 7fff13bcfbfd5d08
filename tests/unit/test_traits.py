"""What triggers see of an event."""

from __future__ import annotations

import datetime as dt

import pytest

from eventproc.model import TraitEvent
from eventproc.registry.traits import trait_event, traits_of


def test_traits_are_the_scalars_of_the_payload() -> None:
    event = trait_event("a.b", 7, {"s": "x", "i": 1, "f": 0.5, "b": True, "n": None, "l": [1], "o": {"x": 1}})
    assert event == TraitEvent("a.b", 7, {"s": "x", "i": 1, "f": 0.5, "b": True})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2015-02-27T01:02:03.000004", dt.datetime(2015, 2, 27, 1, 2, 3, 4, tzinfo=dt.UTC)),
        ("2015-02-27T01:02:03Z", dt.datetime(2015, 2, 27, 1, 2, 3, tzinfo=dt.UTC)),
        ("2015-02-27T01:02:03+02:00", dt.datetime(2015, 2, 26, 23, 2, 3, tzinfo=dt.UTC)),
    ],
)
def test_members_listed_as_datetimes_are_datetimes_in_utc(text: str, moment: dt.datetime) -> None:
    assert traits_of({"at": text, "also": text, "_datetimes": ["at"]}) == {"at": moment, "also": text}


@pytest.mark.parametrize("listed", ["at", None, 7, ["other", 7, None], ["at"]])
def test_a_list_of_datetimes_that_does_not_fit_changes_nothing(listed: object) -> None:
    traits = traits_of({"at": "tomorrow", "_datetimes": listed})
    assert traits["at"] == "tomorrow"
