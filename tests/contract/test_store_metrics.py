"""Contract of the store: metrics are unique by name, and know how far their samples and scores have come."""

from __future__ import annotations

import threading

from eventproc.abc import Store
from eventproc.model import Metric, MetricStatus, NewMetric
from eventproc.store import open_store


def create(store: Store, *names: str, **values) -> list[Metric]:
    with store.begin() as tx:
        return [metric for metric, _ in tx.metrics.create([NewMetric(name=name, **values) for name in names], now_us=7)]


def names(found: list[Metric]) -> list[str]:
    return [metric.name for metric in found]


def test_a_metric_is_created_once_by_name_and_case_matters(store: Store):
    with store.begin() as tx:
        first = tx.metrics.create([NewMetric(name="cpu"), NewMetric(name="CPU"), NewMetric(name="cpu")], now_us=5)
        again = tx.metrics.create([NewMetric(name="CPU", resource="other"), NewMetric(name="new")], now_us=6)
        assert tx.metrics.create([], now_us=6) == []
    assert [(metric.name, new) for metric, new in first] == [("cpu", True), ("CPU", True), ("cpu", False)]
    assert [(metric.name, new) for metric, new in again] == [("CPU", False), ("new", True)]
    assert again[0][0] == first[1][0]
    cpu = first[0][0]
    assert (cpu.resource, cpu.description, cpu.created_us, cpu.status) == ("cpu", "Custom metric cpu", 5, 0)
    assert (cpu.last_rowid, cpu.last_time_us, cpu.scored_rowid, cpu.rejected) == (0, None, 0, 0)
    assert len({metric.uid for metric, _ in first}) == 2
    with store.read() as tx:
        assert tx.metrics.get(cpu.id) == tx.metrics.by_uid(cpu.uid) == tx.metrics.by_name("cpu") == cpu
        assert tx.metrics.by_name("Cpu") is None
        assert tx.metrics.ids(["cpu", "CPU", "none"]) == {"cpu": cpu.id, "CPU": first[1][0].id}
        assert set(tx.metrics.many([cpu.id, 999])) == {cpu.id}


def test_metrics_are_found_by_prefix_glob_tags_resource_and_status(store: Store):
    create(store, "web.cpu", "web.mem", "db.cpu", "db_cpu", "100%")
    create(store, "disk;dc=eu;host=a", tags={"dc": "eu", "host": "a"}, resource="a")
    create(store, "disk;dc=us;host=ab", tags={"dc": "us", "host": "ab"}, resource="ab")
    with store.begin() as tx:
        found = tx.metrics.by_name("db.cpu")
        assert found is not None
        assert tx.metrics.set_status(found.id, MetricStatus.ACTIVE)
    with store.read() as tx:
        find = tx.metrics.find
        assert names(find(prefix="web.")) == ["web.cpu", "web.mem"]
        assert names(find(prefix="100%")) == ["100%"]
        assert names(find(glob="*.cpu")) == ["db.cpu", "web.cpu"]
        assert names(find(glob="db?cpu")) == ["db.cpu", "db_cpu"]
        assert names(find(glob="[dw]*.mem")) == ["web.mem"]
        assert names(find(tags={"dc": "eu"})) == ["disk;dc=eu;host=a"]
        assert names(find(tags={"host": "a*"})) == ["disk;dc=eu;host=a", "disk;dc=us;host=ab"]
        assert names(find(tags={"host": "a*", "dc": "us"})) == ["disk;dc=us;host=ab"]
        assert names(find(tags={"none": "*"})) == []
        assert names(find(resource="ab")) == ["disk;dc=us;host=ab"]
        assert names(find(status=MetricStatus.ACTIVE)) == ["db.cpu"]
        assert names(find(name="web.cpu")) == ["web.cpu"]
        assert len(find()) == 7
        page = find(limit=3)
        assert names(page + find(after=page[-1].name)) == sorted(names(find()))
        assert tx.metrics.counts() == {0: 6, 1: 1}


def test_status_changes_only_from_what_was_expected(store: Store):
    [metric] = create(store, "m")
    with store.begin() as tx:
        assert not tx.metrics.set_status(metric.id, 1, expected=[2, 8])
        assert tx.metrics.set_status(metric.id, 2, expected=[0, 8])
        assert tx.metrics.set_status(metric.id, 1, expected=[2])
        assert not tx.metrics.set_status(999, 1)
        locked = tx.metrics.lock(metric.id)
        assert locked is not None
        assert locked.status == MetricStatus.ACTIVE
        assert tx.metrics.lock(999) is None
        assert tx.metrics.update(metric.id, resource="r", unit="ms")
        assert not tx.metrics.update(999, unit="ms")
        changed = tx.metrics.get(metric.id)
    assert changed is not None
    assert (changed.resource, changed.unit, changed.description) == ("r", "ms", "Custom metric m")


def test_metrics_that_wait_for_samples_are_found_once_they_have_enough(store: Store):
    a, b, c = create(store, "a", "b", "c")
    with store.begin() as tx:
        for metric, status, count in ((a, 8, 287), (b, 8, 288), (c, 1, 300)):
            tx.metrics.set_status(metric.id, status)
            tx.samples.add_batch([metric.id] * count, list(range(count)), [0.0] * count)
        assert [row.metric_id for row in tx.metrics.enough()] == [b.id]
        tx.samples.add_batch([a.id], [287], [0.0])
        assert [(row.metric_id, row.last_rowid) for row in tx.metrics.enough()] == [(a.id, 288), (b.id, 288)]
        assert [row.metric_id for row in tx.metrics.enough(after=a.id, limit=1)] == [b.id]


def test_monitored_metrics_with_rows_to_score_are_found(store: Store):
    a, b, c, d = create(store, "a", "b", "c", "d")
    with store.begin() as tx:
        for metric, status in ((a, 1), (b, 1), (c, 8)):
            tx.metrics.set_status(metric.id, status)
        tx.samples.add_batch([a.id, b.id, c.id, d.id, a.id], [1, 2, 3, 4, 5], [0.0] * 5)
        assert [
            (row.metric_id, row.scored_rowid, row.last_rowid, row.last_time_us) for row in tx.metrics.behind(1)
        ] == [
            (a.id, 0, 2, 5),
            (b.id, 0, 1, 2),
        ]
        assert [row.metric_id for row in tx.metrics.behind(8)] == [c.id]
        assert tx.metrics.behind(0) == []  # unmonitored
        assert [row.metric_id for row in tx.metrics.behind(1, after=a.id)] == [b.id]
        assert [row.metric_id for row in tx.metrics.behind(1, limit=1)] == [a.id]
        tx.metrics.set_scored([(b.id, 1), (a.id, 1)])
        assert [(row.metric_id, row.scored_rowid) for row in tx.metrics.behind(1)] == [(a.id, 1)]
        tx.metrics.set_scored([(b.id, 0)])
        assert [row.metric_id for row in tx.metrics.behind(1)] == [a.id, b.id]
        backlogs = tx.metrics.backlogs([a.id, d.id, 999])
    assert {key: (row.status, row.last_rowid) for key, row in backlogs.items()} == {a.id: (1, 2), d.id: (0, 1)}


def test_a_deleted_metric_is_gone_at_once_and_its_name_is_free(store: Store):
    [old] = create(store, "m")
    with store.begin() as tx:
        tx.metrics.set_status(old.id, 1)
        tx.samples.add_batch([old.id] * 3, [1, 2, 3], [1.0, 2.0, 3.0])
        assert tx.metrics.delete(old.id)
        assert not tx.metrics.delete(old.id)
    [new] = create(store, "m")
    assert new.id != old.id
    assert new.uid != old.uid
    with store.begin() as tx:
        assert tx.metrics.get(old.id) is None
        assert tx.metrics.behind(1) == []
        assert tx.metrics.backlogs([old.id]) == {}
        assert not tx.metrics.set_status(old.id, 0)
        result = tx.samples.add_batch([old.id, new.id], [9, 9], [9.0, 9.0])
        assert result.verdicts.tolist() == [3, 0]
        assert tx.samples.purge_deleted(limit=2) == 2
        assert tx.samples.purge_deleted(limit=2) == 1
        assert tx.samples.purge_deleted(limit=2) == 0
        assert tx.samples.query(old.id) == []
        assert [sample.value for sample in tx.samples.query(new.id)] == [9.0]
        assert tx.metrics.counts() == {0: 1}


def test_many_writers_create_the_same_metrics_once(store_url: str):
    stores = [open_store(store_url) for _ in range(4)]
    barrier = threading.Barrier(len(stores))
    found: list[list[tuple[int, bool]]] = []

    def work(store: Store) -> None:
        barrier.wait()
        with store.begin() as tx:
            new = tx.metrics.create([NewMetric(name=f"m{number}") for number in range(50)], now_us=1)
            result = tx.samples.add_batch([metric.id for metric, _ in new], [1] * 50, [1.0] * 50)
            found.append([(metric.id, fresh) for metric, fresh in new])
            assert result.accepted in (0, 50)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({tuple(metric_id for metric_id, _ in rows) for rows in found}) == 1
    assert sum(fresh for rows in found for _, fresh in rows) == 50
    with stores[0].read() as tx:
        rejected = [metric.rejected for metric in tx.metrics.find()]
    assert rejected == [3] * 50
    for store in stores:
        store.close()
