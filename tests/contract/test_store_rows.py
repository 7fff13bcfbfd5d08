"""Contract of the store: hooks, handlers, users, files, series, schedules, audit and settings."""

from __future__ import annotations

import contextlib
import threading

import pytest
from store_world import World, make_bundle, make_registration

from eventproc.abc import Store
from eventproc.errors import Conflict, NotFound, UnknownHandler
from eventproc.model import (
    Chunk,
    Concurrency,
    FileRecord,
    HookSpec,
    Isolation,
    Limits,
    Options,
    Rate,
    Retries,
    Role,
    Schedule,
    Series,
)


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


# ------------------------------------------------------------------------------------------------ hooks


def test_a_hook_spec_is_replaced_but_stays_paused(store: Store):
    spec = HookSpec(name="a.*", summary="s", schema={"type": "object"}, sample={"x": 1}, keep_s=60, keep_idle_s=5)
    with store.begin() as tx:
        tx.hooks.put(spec, now_us=1, by="ada")
        assert tx.hooks.get("a.*") == spec
        assert tx.hooks.set_paused("a.*", paused=True)
        tx.hooks.put(HookSpec(name="a.*", summary="new", source="file"), now_us=2, by="eve")
    with store.read() as tx:
        assert tx.hooks.all() == [HookSpec(name="a.*", summary="new", source="file", paused=True)]
    with store.begin() as tx:
        assert tx.hooks.delete("a.*")
        assert not tx.hooks.delete("a.*")
        assert not tx.hooks.set_paused("a.*", paused=True)
        assert tx.hooks.get("a.*") is None


# ------------------------------------------------------------------------------------------------ handlers

ALL_OPTIONS = Options(
    limits=Limits(timeout_s=5, memory_bytes=1 << 20),
    retries=Retries(max=3, backoff_s=0.5),
    isolation=Isolation.BATCH,
    filter={"a": [{"numeric": [">", 3]}]},
    order_by=None,
    concurrency=Concurrency(count=2, key="site"),
    rate=Rate(count=5, per_s=60.0),
    throttle_s=300.0,
)


def test_a_version_comes_back_as_it_was_registered(world: World):
    handler = world.handler(
        bundle=make_bundle(b"\x00code\xff"),
        tags=("a", "b"),
        notify_on_success="a@example.com",
        notify_on_failure="b@example.com",
        options=ALL_OPTIONS,
    )
    version = handler.current
    assert (version.version, version.tags, version.options) == (0, ("a", "b"), ALL_OPTIONS)
    assert (version.notify_on_success, version.notify_on_failure) == ("a@example.com", "b@example.com")
    assert (version.size, version.globals, version.source) == (6, ("LIMIT",), "def f(db): ...")
    assert (handler.created_by, handler.updated_by, handler.owner_id) == ("ada", "ada", world.user().id)
    with world.store.read() as tx:
        assert tx.handlers.get(handler.id) == handler
        assert tx.handlers.find("test.happened", "handler") == handler
        assert tx.handlers.blob(handler.id, 0) == b"\x00code\xff"
        assert tx.handlers.blob(handler.id, 1) is None
        assert tx.handlers.version(handler.id, 0) == version


def test_registering_again_makes_the_next_version_current(world: World):
    first = world.handler()
    world.later(1)
    world.user("eve")
    second = world.handler(owner="eve", bundle=make_bundle(b"2"))
    assert second.id == first.id
    assert (second.current.version, second.created_us, second.created_by) == (1, first.created_us, "ada")
    assert (second.updated_us, second.updated_by, second.owner_id) == (world.now_us, "eve", first.owner_id)
    with world.store.begin() as tx:
        assert [version.version for version in tx.handlers.versions(first.id)] == [0, 1]
        back = tx.handlers.set_current(first.id, 0, by="ada", now_us=9)
        assert (back.current.version, back.updated_us) == (0, 9)
    assert world.handler(bundle=make_bundle(b"3")).current.version == 2


def test_what_can_not_be_made_current_is_an_error(world: World):
    handler = world.handler()
    with pytest.raises(NotFound, match="has no version 7; it has 0 to 0"), world.store.begin() as tx:
        tx.handlers.set_current(handler.id, 7, by="ada", now_us=9)
    with pytest.raises(UnknownHandler), world.store.begin() as tx:
        tx.handlers.set_current(99, 0, by="ada", now_us=9)
    with world.store.begin() as tx:
        tx.handlers.deregister(handler.id, by="ada", now_us=9)
    with pytest.raises(Conflict), world.store.begin() as tx:
        tx.handlers.set_current(handler.id, 0, by="ada", now_us=9)


def test_a_deregistered_handler_is_another_one_when_it_comes_back(world: World):
    first = world.handler()
    with world.store.begin() as tx:
        tx.handlers.deregister(first.id, by="ada", now_us=5)
        assert tx.handlers.find("test.happened", "handler") is None
        assert tx.handlers.live() == []
    second = world.handler()
    assert second.id != first.id
    assert second.current.version == 0
    with world.store.begin() as tx:
        tx.handlers.deregister(second.id, by="ada", now_us=6)
        gone = tx.handlers.get(first.id)
        assert gone is not None
        assert gone.deregistered_us == 5
        assert not tx.handlers.set_paused(first.id, paused=True, by="ada", now_us=7)


def test_live_handlers_come_by_id_and_hook(world: World):
    one, two, three = world.handler("a", "x"), world.handler("b", "x"), world.handler("a", "y")
    with world.store.read() as tx:
        assert [handler.id for handler in tx.handlers.live()] == [one.id, two.id, three.id]
        assert [handler.id for handler in tx.handlers.live("a")] == [one.id, three.id]
        assert tx.handlers.live("a*") == []


def test_eight_callers_at_once_get_eight_versions_of_one_handler(store: Store):
    world = World(store)
    owner = world.user()
    barrier = threading.Barrier(8)
    versions: list[tuple[int, int, bytes | None]] = []

    def put(number: int) -> None:
        barrier.wait()
        registration = make_registration(bundle=make_bundle(b"%d" % number))
        with store.begin() as tx:
            record = tx.handlers.put(registration, owner=owner, now_us=number)
            versions.append((record.id, record.current.version, tx.handlers.blob(record.id, record.current.version)))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(version for _, version, _ in versions) == list(range(8))
    assert len({handler_id for handler_id, _, _ in versions}) == 1
    assert len({blob for _, _, blob in versions}) == 8
    with store.read() as tx:
        [live] = tx.handlers.live()
        assert live.current.version == 7


def test_the_revision_changes_with_hooks_handlers_and_users_only(world: World):
    def revision() -> int:
        with world.store.read() as tx:
            return tx.handlers.revision()

    seen = [revision()]

    def changed() -> bool:
        seen.append(revision())
        return seen[-1] != seen[-2]

    handler = world.handler()
    assert changed()
    world.run(handler)
    assert not changed()
    with world.store.begin() as tx:
        tx.handlers.set_paused(handler.id, paused=True, by="ada", now_us=1)
    assert changed()
    with world.store.begin() as tx:
        tx.hooks.put(HookSpec(name="a", summary="s"), now_us=1, by="ada")
    assert changed()
    with world.store.begin() as tx:
        tx.users.update(world.user().id, disabled=True)
    assert changed()
    with contextlib.suppress(ZeroDivisionError), world.store.begin() as tx:
        tx.handlers.deregister(handler.id, by="ada", now_us=1)
        raise ZeroDivisionError
    assert not changed()


# ------------------------------------------------------------------------------------------------ users


def test_users_and_their_keys(store: Store):
    with store.begin() as tx:
        ada = tx.users.add("ada", Role.ADMIN, now_us=5)
        eve = tx.users.add("eve", Role.VIEWER, now_us=6)
        key = tx.users.add_key(ada.id, prefix="abc", digest="d1", label="laptop", now_us=7)
        tx.users.add_key(eve.id, prefix="xyz", digest="d2", label="", now_us=8)
    with store.begin() as tx:
        assert tx.users.find("ada") == tx.users.get(ada.id) == ada
        assert tx.users.find("bob") is None
        assert tx.users.all() == [ada, eve]
        assert tx.users.by_key_prefix("abc") == (ada, key, "d1")
        assert tx.users.by_key_prefix("none") is None
        assert [item.prefix for item in tx.users.keys(None)] == ["abc", "xyz"]
        assert [item.prefix for item in tx.users.keys(eve.id)] == ["xyz"]
        tx.users.touch_key(key.id, now_us=9)
        assert tx.users.revoke_key("abc", now_us=10)
        assert not tx.users.revoke_key("abc", now_us=11)
        found = tx.users.by_key_prefix("abc")
        assert found is not None
        assert (found[1].last_used_us, found[1].revoked_us) == (9, 10)
        changed = tx.users.update(eve.id, role=Role.EMITTER, disabled=True)
        assert (changed.role, changed.disabled) == (Role.EMITTER, True)
        assert tx.users.update(eve.id, disabled=False).role == Role.EMITTER


def test_a_user_name_is_taken_once(store: Store):
    with store.begin() as tx:
        tx.users.add("ada", Role.ADMIN, now_us=5)
    with pytest.raises(Conflict, match="ada"), store.begin() as tx:
        tx.users.add("ada", Role.VIEWER, now_us=6)
    with pytest.raises(NotFound), store.begin() as tx:
        tx.users.update(99, disabled=True)


# ------------------------------------------------------------------------------------------------ the rest


def test_files_by_code_and_run(store: Store):
    record = FileRecord(code="0" * 32, run_id=3, name="plot.png", size=5, digest="d", created_us=1)
    other = FileRecord(code="1" * 32, run_id=4, name="b", size=0, digest="e", created_us=2)
    with store.begin() as tx:
        tx.files.add([record, other])
        tx.files.add([])
    with store.read() as tx:
        assert tx.files.get("0" * 32) == record
        assert tx.files.get("2" * 32) is None
        assert tx.files.of_run(3) == [record]
        assert tx.files.exists(["0" * 32, "2" * 32]) == {"0" * 32}
        assert tx.files.exists([]) == set()


def test_the_audit_log_comes_newest_first(store: Store):
    with store.begin() as tx:
        for number in range(5):
            tx.audit.add(user="ada", action="pause", object=f"h{number}", detail={"n": number}, now_us=number)
    with store.read() as tx:
        first = tx.audit.page(limit=3)
        rest = tx.audit.page(after=first[-1].id)
    assert [(entry.object, entry.detail) for entry in first + rest] == [(f"h{n}", {"n": n}) for n in (4, 3, 2, 1, 0)]


def test_schedules_are_due_and_advance(store: Store):
    def schedule(name: str, next_us: int, **values) -> Schedule:
        defaults = {"id": 0, "cron": "* * * * *", "timezone": "UTC", "hook": "schedule.tick", "tags": ("t",)}
        return Schedule(name=name, next_us=next_us, payload={"x": 1}, **(defaults | values))

    with store.begin() as tx:
        early = tx.schedules.put(schedule("early", 10))
        late = tx.schedules.put(schedule("late", 20, user_id=3))
        tx.schedules.put(schedule("never", 5, paused=True))
    with store.begin() as tx:
        assert tx.schedules.due(now_us=9) == []
        assert tx.schedules.due(now_us=30) == [early, late]
        assert tx.schedules.due(now_us=30, limit=1) == [early]
        tx.schedules.advance(early.id, 40)
        assert tx.schedules.due(now_us=30) == [late]
        again = tx.schedules.put(schedule("early", 7, cron="0 * * * *"))
        assert (again.id, again.cron) == (early.id, "0 * * * *")
        assert [item.name for item in tx.schedules.all()] == ["early", "late", "never"]
        assert tx.schedules.delete("late")
        assert not tx.schedules.delete("late")
        assert tx.schedules.get("late") is None


def make_series(uuid: str, **values) -> Series:
    defaults = {"name": "va", "collection": "site/a", "unit": "V", "tags": {"phase": "a"}, "created_us": 5}
    return Series(uuid=uuid, **(defaults | values))


def test_series_are_registered_once_and_found(store: Store):
    one = make_series("u1", owner_id=3)
    two = make_series("u2", name="vb", collection="site/b", tags={"phase": "b", "x": "1"})
    three = make_series("u3", collection="other%", tags={})
    with store.begin() as tx:
        assert tx.series.put(one) == one
        assert tx.series.put(make_series("u1", name="another")) == one
        tx.series.put(two)
        tx.series.put(three)
    with store.read() as tx:
        assert tx.series.get("u2") == two
        assert tx.series.get("u9") is None
        assert tx.series.find(name="va") == [three, one]
        assert tx.series.find(collection="site/a") == [one]
        assert tx.series.find(collection="site/", prefix=True) == [one, two]
        assert tx.series.find(collection="%", prefix=True) == []
        assert tx.series.find(tags={"phase": "b"}) == [two]
        assert tx.series.find(tags={"phase": "b", "x": "2"}) == []
        assert len(tx.series.find(limit=2)) == 2
        assert tx.series.collections() == ["other%", "site/a", "site/b"]
        assert tx.series.collections("site/") == ["site/a", "site/b"]
    with store.begin() as tx:
        assert tx.series.set_annotations("u1", {"note": "ü"})
        assert not tx.series.set_annotations("u9", {})
        found = tx.series.get("u1")
        assert found is not None
        assert found.annotations == {"note": "ü"}


def test_chunks_are_replaced_and_read_by_range(store: Store):
    def chunk(start: int, end: int, count: int) -> Chunk:
        return Chunk(series="u1", start_ns=start, end_ns=end, count=count, data=b"%d" % start)

    big = 2**62
    with store.begin() as tx:
        tx.series.put(make_series("u1"))
        tx.series.put(make_series("u2"))
        tx.series.lock("u1")
        tx.series.replace_chunks("u1", [], [chunk(10, 19, 3), chunk(20, 20, 1), chunk(big, big + 5, 2)])
    with store.read() as tx:
        found = tx.series.get("u1")
        assert found is not None
        assert (found.count, found.earliest_ns, found.latest_ns) == (6, 10, big + 5)

        def starts(start: int, end: int) -> list[int]:
            return [item.start_ns for item in tx.series.chunks("u1", start, end)]

        assert starts(0, big * 2 - 1) == [10, 20, big]
        assert starts(15, 20) == [10]
        assert starts(19, 21) == [10, 20]
        assert starts(0, 10) == []
        assert starts(21, big) == []
        assert starts(big + 5, big + 6) == [big]
        assert tx.series.chunks("u1", 15, 20) == [chunk(10, 19, 3)]
        assert tx.series.chunks("u2", 0, big) == []
        assert tx.series.chunks("u1", 15, big, limit=1) == [chunk(10, 19, 3)]
    with store.begin() as tx:
        tx.series.replace_chunks("u1", [10, 20], [chunk(12, 18, 4)])
        tx.series.replace_chunks("u1", [big], [])
        found = tx.series.get("u1")
        assert found is not None
        assert (found.count, found.earliest_ns, found.latest_ns) == (4, 12, 18)
        tx.series.replace_chunks("u1", [12], [])
        found = tx.series.get("u1")
        assert found is not None
        assert (found.count, found.earliest_ns, found.latest_ns) == (0, None, None)


def test_settings_are_kept(store: Store):
    with store.begin() as tx:
        assert tx.get_meta("x") is None
        tx.set_meta("x", "1")
        tx.set_meta("x", "2")
    with store.read() as tx:
        assert tx.get_meta("x") == "2"
        assert tx.get_meta("store_id")


# ------------------------------------------------------------------------------------------------ secrets


def test_secrets_belong_to_users_and_keep_the_time_of_their_making(store: Store):
    with store.begin() as tx:
        ada = tx.users.add("ada", Role.DEVELOPER, now_us=1)
        eve = tx.users.add("eve", Role.DEVELOPER, now_us=1)
        tx.secrets.put(ada.id, "B", b"\x00one", now_us=5)
        tx.secrets.put(ada.id, "A", b"two", now_us=6)
        tx.secrets.put(eve.id, "A", b"three", now_us=7)
        changed = tx.secrets.put(ada.id, "B", b"four", now_us=8)
        assert (changed.user_id, changed.name, changed.created_us, changed.updated_us) == (ada.id, "B", 5, 8)
    with store.read() as tx:
        assert [(record.name, record.created_us) for record in tx.secrets.of_user(ada.id)] == [("A", 6), ("B", 5)]
        assert tx.secrets.values(ada.id, ["A", "B", "C"]) == {"A": b"two", "B": b"four"}
        assert tx.secrets.values(ada.id, []) == {}
        assert tx.secrets.all_values() == [(ada.id, "A", b"two"), (ada.id, "B", b"four"), (eve.id, "A", b"three")]
    with store.begin() as tx:
        tx.secrets.replace_value(eve.id, "A", b"other key")
        assert tx.secrets.of_user(eve.id)[0].updated_us == 7
        assert tx.secrets.delete(ada.id, "A")
        assert not tx.secrets.delete(ada.id, "A")
        assert tx.secrets.all_values() == [(ada.id, "B", b"four"), (eve.id, "A", b"other key")]


def test_options_of_versions_from_before_there_were_secrets_are_read(store: Store):
    world = World(store)
    handler = world.handler(options=Options(secrets=("A", "B")))
    plain = world.handler(options=Options(), name="plain")
    with store.read() as tx:
        assert tx.handlers.get(handler.id).current.options.secrets == ("A", "B")
        assert tx.handlers.get(plain.id).current.options.secrets == ()
