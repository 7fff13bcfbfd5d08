"""Bundled hooks follow their files and leave users' hooks alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eventproc.abc import Registration
from eventproc.model import HandlerBundle, HookSpec, Options, Role
from eventproc.service.hooks import sync_bundled_hooks
from eventproc.store.memory import MemoryStore


@pytest.fixture
def store():
    made = MemoryStore()
    yield made
    made.close()


def spec(name, **fields):
    return HookSpec(name=name, summary=name, source=fields.pop("source", "bundled"), **fields)


def sync(store, *specs):
    with store.begin() as tx:
        return sync_bundled_hooks(tx, specs, now_us=1)


def names(store):
    with store.read() as tx:
        return sorted(hook.name for hook in tx.hooks.all())


def test_new_hooks_come_changed_ones_change_and_lost_ones_go(store):
    assert sync(store, spec("a"), spec("b")) == ["a", "b"]
    assert sync(store, spec("a"), spec("b")) == []
    changed = replace(spec("a"), summary="other")
    assert sync(store, changed) == ["a", "b"]
    with store.read() as tx:
        assert tx.hooks.get("a") == changed
    assert names(store) == ["a"]


def test_a_paused_hook_stays_paused(store):
    sync(store, spec("a"))
    with store.begin() as tx:
        tx.hooks.set_paused("a", paused=True)
    assert sync(store, spec("a")) == []
    sync(store, spec("a", keep_s=5))
    with store.read() as tx:
        assert tx.hooks.get("a").paused


def test_users_hooks_are_left_alone(store):
    with store.begin() as tx:
        tx.hooks.put(spec("mine", source="user", keep_s=1), now_us=1, by="olga")
    sync(store, spec("mine", keep_s=2))
    with store.read() as tx:
        assert tx.hooks.get("mine").keep_s == 1
    sync(store)
    assert names(store) == ["mine"]


def test_a_hook_that_is_used_stays_though_its_file_is_gone(store):
    sync(store, spec("a"))
    with store.begin() as tx:
        owner = tx.users.add("olga", Role.DEVELOPER, now_us=1)
        bundle = HandlerBundle(blob=b"x", digest="", python="3.11", dill="", source=None, filename=None, qualname="f")
        registration = Registration(
            hook="a",
            name="h",
            bundle=bundle,
            tags=(),
            notify_on_success=None,
            notify_on_failure=None,
            options=Options(),
        )
        tx.handlers.put(registration, owner=owner, now_us=1)
    assert sync(store) == []
    assert names(store) == ["a"]
