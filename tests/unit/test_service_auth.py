"""Keys: who they belong to, and how quickly they stop working."""

from __future__ import annotations

import re
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventproc.engine.clock import ManualClock
from eventproc.errors import TooManyLogins, Unauthorized, Unavailable
from eventproc.model import Role
from eventproc.service.attempts import MAX_KEPT, Attempts
from eventproc.service.auth import Authenticator, digest_of, issue_key, new_key
from eventproc.store.memory import MemoryStore


class Inline:
    """Writes at once what the group commit would write a moment later."""

    def __init__(self, store):
        self._store = store
        self.writes = 0

    def submit(self, function):
        future = Future()
        with self._store.begin() as tx:
            future.set_result(function(tx))
        self.writes += 1
        return future


class Setting:
    def __init__(self):
        self.store = MemoryStore()
        self.clock = ManualClock()
        self.group = Inline(self.store)
        self.seconds = 0.0
        self.auth = self.another()
        with self.store.begin() as tx:
            self.user = tx.users.add("olga", Role.DEVELOPER, now_us=1)
            self.key, self.prefix = issue_key(tx, self.user, label="x", now_us=1)

    def another(self):
        """Make what another process has."""
        return Authenticator(self.store, self.group, self.clock, cache_s=2.0, monotonic=lambda: self.seconds)

    def revoke(self):
        with self.store.begin() as tx:
            tx.users.revoke_key(self.prefix, now_us=5)

    def last_used(self):
        with self.store.read() as tx:
            return tx.users.keys(self.user.id)[0].last_used_us


@pytest.fixture
def setting():
    made = Setting()
    yield made
    made.store.close()


def test_keys_are_long_printable_and_never_the_same():
    keys = {new_key()[0] for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"ep_[a-z2-7]{8}_[A-Za-z0-9_-]{43}", key) for key in keys)


def test_the_secret_itself_is_not_stored(setting):
    with setting.store.read() as tx:
        _, _, digest = tx.users.by_key_prefix(setting.prefix)
    assert digest == digest_of(setting.key)
    assert setting.key[12:] not in digest


def test_a_good_key_is_its_owners(setting):
    assert setting.auth.authenticate(setting.key) == setting.user
    assert setting.auth.remembered(setting.key) == setting.user


@settings(deadline=None)  # each example makes a database
@given(st.text(max_size=100))
def test_anything_else_is_refused_and_not_repeated(text):
    setting = Setting()
    try:
        with pytest.raises(Unauthorized) as refused:
            setting.auth.authenticate(text)
        assert len(text) < 20 or text not in str(refused.value)
        assert setting.auth.remembered(text) is None
    finally:
        setting.store.close()


def test_a_revoked_key_stops_at_once_here_and_soon_elsewhere(setting):
    elsewhere = setting.another()
    elsewhere.authenticate(setting.key)
    setting.auth.authenticate(setting.key)
    setting.revoke()
    setting.auth.forget()
    with pytest.raises(Unauthorized, match="revoked"):
        setting.auth.authenticate(setting.key)
    assert elsewhere.authenticate(setting.key) == setting.user
    setting.seconds += 2.1
    with pytest.raises(Unauthorized, match="revoked"):
        elsewhere.authenticate(setting.key)


def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(setting, monkeypatch):
    read = setting.store.read

    def slowly():
        found = read()
        setting.auth.forget()  # what revoking it does, in between
        return found

    monkeypatch.setattr(setting.store, "read", slowly)
    setting.auth.authenticate(setting.key)
    assert setting.auth.remembered(setting.key) is None


def test_a_disabled_users_keys_stop(setting):
    with setting.store.begin() as tx:
        tx.users.update(setting.user.id, disabled=True)
    with pytest.raises(Unauthorized, match="disabled"):
        setting.auth.authenticate(setting.key)


def test_last_use_is_written_at_most_once_a_minute(setting):
    first = setting.clock.now_us()
    for _ in range(5):
        setting.auth.authenticate(setting.key)
        setting.clock.advance(10)
    assert (setting.group.writes, setting.last_used()) == (1, first)
    setting.clock.advance(10)
    setting.auth.authenticate(setting.key)
    assert (setting.group.writes, setting.last_used()) == (2, first + 60_000_000)


def test_a_stopping_platform_still_answers_good_keys(setting, monkeypatch):
    def stopped(function):
        raise Unavailable("stopped")

    monkeypatch.setattr(setting.group, "submit", stopped)
    assert setting.auth.authenticate(setting.key) == setting.user


def bad_key(number=0, prefix=None):
    return f"ep_{prefix or 'abcdefgh'}_{number:0>43}"


def refused(setting, key, address):
    with pytest.raises(Unauthorized) as caught:
        setting.auth.authenticate(key, address=address)
    return type(caught.value).__name__


def test_an_address_that_tries_many_keys_waits_longer_and_longer(setting):
    def guess(number):
        return refused(setting, bad_key(number, prefix=new_key()[1]), "10.0.0.1")

    assert {guess(number) for number in range(20)} == {"Unauthorized"}
    assert guess(20) == "TooManyLogins"
    assert refused(setting, bad_key(), "10.0.0.2") == "Unauthorized", "others are not shut out"
    waits = []
    for number in range(30, 40):
        before = setting.seconds
        while guess(number) == "TooManyLogins":
            setting.seconds += 0.5
        waits.append(setting.seconds - before)
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == 60.0
    setting.seconds += 3600
    assert {guess(number) for number in range(20)} == {"Unauthorized"}, "old failures are forgotten"


def test_what_a_waiting_address_sends_is_not_looked_up_and_says_when_to_come_again(setting):
    for number in range(20):
        refused(setting, bad_key(number, prefix=new_key()[1]), "10.0.0.1")
    with setting.store.begin() as tx:
        good, _ = issue_key(tx, setting.user, label="never used yet", now_us=1)
    with pytest.raises(TooManyLogins, match="1 s") as caught:
        setting.auth.authenticate(good, address="10.0.0.1")
    assert caught.value.details == {"retry_after_s": 1}
    setting.seconds += 1
    assert setting.auth.authenticate(good, address="10.0.0.1").name == "olga"


def test_guesses_at_one_prefix_wait_from_wherever_they_come_but_its_owner_does_not(setting):
    setting.auth.authenticate(setting.key, address="10.0.0.9")
    guesses = [refused(setting, bad_key(n, prefix=setting.prefix), f"10.0.1.{n}") for n in range(12)]
    assert guesses == ["Unauthorized"] * 10 + ["TooManyLogins"] * 2
    setting.seconds += 5  # longer than authentications are remembered
    for number in range(20):
        refused(setting, bad_key(number, prefix=new_key()[1]), "10.0.0.9")
    assert setting.auth.authenticate(setting.key, address="10.0.0.9").name == "olga"


def test_a_key_that_was_good_and_is_revoked_waits_like_any_other(setting):
    setting.auth.authenticate(setting.key, address="10.0.0.9")
    setting.revoke()
    setting.seconds += 5
    assert [refused(setting, setting.key, "10.0.0.9") for _ in range(11)] == ["Unauthorized"] * 10 + ["TooManyLogins"]


def test_what_is_remembered_of_failures_is_bounded():
    attempts = Attempts(monotonic=lambda: 0.0)
    for number in range(MAX_KEPT + 500):
        attempts.failed(f"digest {number}", [("address", f"2001:db8::{number:x}")])
        attempts.succeeded(f"good {number}")
    assert len(attempts._failures) == len(attempts._good) == MAX_KEPT
