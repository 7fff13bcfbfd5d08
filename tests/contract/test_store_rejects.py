"""Contract of the store: refused samples are counted, with the last examples, and never without bound."""

from __future__ import annotations

from eventproc.abc import Store
from eventproc.model import NewReject, RejectReason
from eventproc.store import rejects

LATE, BAD = RejectReason.LATE, RejectReason.BAD_VALUE


def reject(reason=BAD, source="tcp 10.0.0.1", metric="m", count=1, examples=("a",)) -> NewReject:
    return NewReject(reason=reason, source=source, metric=metric, count=count, examples=tuple(examples))


def test_refusals_add_up_by_reason_source_and_metric(store: Store):
    with store.begin() as tx:
        tx.rejects.add([reject(), reject(count=2, examples=["b"]), reject(LATE)], now_us=10)
        tx.rejects.add([reject(source="udp"), reject(examples=["c", "d", "e", "f"])], now_us=20)
        tx.rejects.add([], now_us=30)
    with store.read() as tx:
        found = tx.rejects.page()
        assert [(r.reason, r.source, r.count, r.first_us, r.last_us) for r in found] == [
            ("bad value", "tcp 10.0.0.1", 4, 10, 20),
            ("bad value", "udp", 1, 20, 20),
            ("late", "tcp 10.0.0.1", 1, 10, 10),
        ]
        assert found[0].examples == ("b", "c", "d", "e", "f")
        assert [r.count for r in tx.rejects.page(reason="late")] == [1]
        assert [r.source for r in tx.rejects.page(source="u*")] == ["udp"]
        assert len(tx.rejects.page(since_us=11)) == 2
        assert len(tx.rejects.page(limit=1)) == 1
        assert tx.rejects.page(metric="x*") == []
        assert tx.rejects.totals() == {"bad value": 5, "late": 1}


def test_examples_that_no_database_likes_are_kept_readable(store: Store):
    with store.begin() as tx:
        tx.rejects.add([reject(metric="a\0b", examples=["nul \0", "half \ud800", "x" * 5000])], now_us=1)
    with store.read() as tx:
        [found] = tx.rejects.page()
    assert found.metric == "a\\x00b"
    assert found.examples[:2] == ("nul \\x00", "half \\ud800")
    assert len(found.examples[2]) == rejects.MAX_EXAMPLE


def test_the_number_of_rows_is_bounded_and_nothing_goes_uncounted(store: Store, monkeypatch):
    monkeypatch.setattr(rejects, "MAX_ROWS", 3)
    with store.begin() as tx:
        tx.rejects.add([reject(metric=f"m{number}") for number in range(10)], now_us=1)
        tx.rejects.add([reject(metric="m0"), reject(metric="new"), reject(LATE, metric="newer")], now_us=2)
        found = {(r.reason, r.source, r.metric): r.count for r in tx.rejects.page()}
    assert found == {
        ("bad value", "tcp 10.0.0.1", "m0"): 2,
        ("bad value", "tcp 10.0.0.1", "m1"): 1,
        ("bad value", "tcp 10.0.0.1", "m2"): 1,
        ("bad value", "*", "*"): 8,
        ("late", "*", "*"): 1,
    }


def test_old_refusals_are_forgotten(store: Store):
    with store.begin() as tx:
        for number in range(5):
            tx.rejects.add([reject(metric=f"m{number}")], now_us=number)
        assert tx.rejects.prune(4, limit=2) == 2
        assert tx.rejects.prune(4, limit=2) == 2
        assert tx.rejects.prune(4, limit=2) == 0
        assert [r.metric for r in tx.rejects.page()] == ["m4"]
