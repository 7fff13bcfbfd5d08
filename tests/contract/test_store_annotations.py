"""Annotations, aggregates and the ranking over every implementation of the store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eventproc.model import NewMetric, SampleScores
from eventproc.model.annotations import Aggregate, AggregateFunction, Annotation, AnnotationFilter

HOUR_US = 3_600_000_000


def note(number: int, **values) -> Annotation:
    given = {"device": "phone", "user": "ann", "server": "web-1", "message": f"note {number}"}
    return Annotation(
        uid=f"u{number}", time_us=number * HOUR_US, created_us=number, updated_us=number, **(given | values)
    )


def test_annotations_are_kept_changed_and_deleted(store):
    with store.begin() as tx:
        tx.annotations.add(note(1))
        tx.annotations.add(note(2, data={"why": ["deploy"]}, message=None, owner_id=7))
        assert tx.annotations.replace(replace(note(1), message="changed", updated_us=9))
        assert not tx.annotations.replace(note(3))
    with store.read() as tx:
        first, second = tx.annotations.get("u1"), tx.annotations.get("u2")
        assert (first.message, first.updated_us, first.created_us) == ("changed", 9, 1)
        assert (second.data, second.message, second.owner_id) == ({"why": ["deploy"]}, None, 7)
        assert tx.annotations.get("u3") is None
    with store.begin() as tx:
        assert tx.annotations.delete("u1")
        assert not tx.annotations.delete("u1")


@pytest.mark.parametrize(
    ("which", "found"),
    [
        ({}, ["u4", "u3", "u2", "u1"]),
        ({"device": "desk"}, ["u3"]),
        ({"user": "bob"}, ["u4"]),
        ({"server": "db-1"}, ["u2"]),
        ({"metric": "m1"}, ["u2"]),
        ({"start_us": 2 * HOUR_US, "end_us": 4 * HOUR_US}, ["u3", "u2"]),
        ({"server": "web-1", "start_us": 2 * HOUR_US}, ["u4", "u3"]),
    ],
)
def test_annotations_are_found_by_what_they_say(store, which, found):
    with store.begin() as tx:
        for each in (note(1), note(2, server="db-1", metric="m1"), note(3, device="desk"), note(4, user="bob")):
            tx.annotations.add(each)
    with store.read() as tx:
        items = tx.annotations.page(AnnotationFilter(**which))
        assert [item.uid for item in items] == found
        rest = tx.annotations.page(AnnotationFilter(**which), after=items[0].id, limit=2)
        assert [item.uid for item in rest] == found[1:3]


def test_aggregates_are_kept_by_name_and_remember_where_they_stand(store):
    wanted = Aggregate(name="all.cpu", pattern="*.cpu", tags={"dc": "e*"}, function=AggregateFunction.SUM, owner_id=3)
    with store.begin() as tx:
        made = tx.aggregates.add(wanted)
        assert tx.aggregates.add(wanted) is None
        tx.aggregates.move(replace(made, next_us=5, newest_us=6, seen_us=7, members=8, periods=9, message="so"))
        assert tx.aggregates.pause("all.cpu", paused=True)
        assert not tx.aggregates.pause("none", paused=True)
    with store.begin() as tx:
        found = tx.aggregates.lock(made.id)
        assert found == tx.aggregates.get("all.cpu")
        assert (found.next_us, found.newest_us, found.seen_us, found.members, found.periods) == (5, 6, 7, 8, 9)
        assert (found.pattern, found.tags, found.function, found.paused) == ("*.cpu", {"dc": "e*"}, "sum", True)
        assert [item.name for item in tx.aggregates.all()] == ["all.cpu"]
        assert tx.aggregates.delete("all.cpu")
        assert not tx.aggregates.delete("all.cpu")


def test_the_ranking_adds_up_each_bar_s_worst(store):
    rows = {  # bar of an hour -> display values
        "quiet": [(1, 1000.1, 0.9)],
        "often": [(1, 1000.2, 0.99), (1, 1000.3, 0.999), (2, 1000.2, 0.99)],
        "loud": [(3, 1_000_000_001.0, 1.0)],
        "before": [(-5, 1_000_000_001.0, 1.0)],
        "calm": [(2, 1000.0, 0.5)],
    }
    with store.begin() as tx:
        made = tx.metrics.create([NewMetric(name=name, resource=f"host-{name}") for name in rows], now_us=1)
        for (metric, _), values in zip(made, rows.values(), strict=True):
            times = [100 * HOUR_US + bar * HOUR_US - 9 + place for place, (bar, _, _) in enumerate(values)]
            tx.samples.add_batch([metric.id] * len(times), times, [1.0] * len(times))
            tx.samples.set_scores(
                [
                    SampleScores(metric.id, place + 1, 0.5, anomaly, display)
                    for place, (_, display, anomaly) in enumerate(values)
                ]
            )
            tx.metrics.set_status(metric.id, 1)
    with store.read() as tx:
        assert tx.ranking.newest_us() == 103 * HOUR_US - 9
        found = tx.ranking.rank(start_us=100 * HOUR_US, end_us=103 * HOUR_US, bar_us=HOUR_US, limit=10)
        assert [item.name for item in found] == ["loud", "often", "quiet"]
        assert found[1].score == pytest.approx(2000.5)
        assert (found[1].worst, found[1].rows, found[1].resource) == (0.999, 3, "host-often")
        assert len(tx.ranking.rank(start_us=0, end_us=200 * HOUR_US, bar_us=HOUR_US, limit=1)) == 1
