"""Notices from the store to the mailbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from mail_lab import DAY, SETTINGS, drain, notifier_for
from notice_world import BOOM, FlakyStore, HandClock, NoticeWorld
from smtp_server import SmtpServer
from waiting import wait_until

from eventproc.abc import Mailer, Renderer, Store
from eventproc.bus.memory import MemoryBus
from eventproc.engine.notifier import Notifier, NotifierSettings
from eventproc.model import NoticeFacts, NoticeState, Rendered
from eventproc.notify import MemoryMailer, SmtpMailer, TemplateRenderer
from eventproc.store import open_store


def test_a_success_is_mailed_with_the_returned_text_and_marked(world: NoticeWorld) -> None:
    notice = world.ended("a@example.com", "b@example.com", failure=None, result_json='"M1: 0.93"')
    mailer = MemoryMailer()
    drain(notifier_for(world, mailer))
    (mail,) = mailer.sent
    assert mail.recipients == ("a@example.com", "b@example.com")
    assert mail.sender == "eventproc@example.org"
    assert mail.text.startswith("M1: 0.93\n")
    now = world.now(notice)
    assert (now.state, now.error, now.mail) == (NoticeState.SENT, None, mail.message)
    assert now.subject == mail.subject
    drain(notifier_for(world, mailer))
    assert len(mailer.sent) == 1


def test_a_failure_is_mailed_with_traceback_and_the_last_lines_of_the_log(world: NoticeWorld) -> None:
    world.ended(logs=["".join(f"line {number}\n" for number in range(200)), "the ", "end\n"])
    mailer = MemoryMailer()
    drain(notifier_for(world, mailer))
    text = mailer.sent[0].text
    assert "ValueError: no such meter" in text
    assert "line 199\nthe end\n" in text
    assert "line 151\n" in text
    assert "line 150\n" not in text  # 50 lines
    assert "eventproc runs requeue 1" in text


def test_a_server_that_is_down_is_tried_again_later_and_later_with_the_same_mail(
    world: NoticeWorld, clock: HandClock, smtp: SmtpServer
) -> None:
    notice = world.ended()
    smtp.box.data_answers = ["451 later", "451 later", "451 later"]
    notifier = notifier_for(world, SmtpMailer(f"smtp://127.0.0.1:{smtp.port}"))
    waits = []
    kept = set()
    for _ in range(3):
        drain(notifier)
        now = world.now(notice)
        assert now.state is NoticeState.PENDING
        assert "451 later" in str(now.error)
        kept.add(now.mail)
        waits.append((now.due_us - clock.now_us()) / 1e6)
        clock.forward(waits[-1])
    assert waits == [30, 60, 120]
    drain(notifier)
    assert world.now(notice).state is NoticeState.SENT
    assert smtp.box.texts() == list(kept)


def test_nothing_is_tried_before_its_time(world: NoticeWorld, clock: HandClock) -> None:
    world.ended()
    mailer = MemoryMailer(down="no network")
    notifier = notifier_for(world, mailer)
    drain(notifier)
    mailer.down = None
    clock.forward(29)
    drain(notifier)
    assert mailer.sent == []
    clock.forward(1)
    drain(notifier)
    assert len(mailer.sent) == 1


def test_only_recipients_not_reached_are_tried_again(world: NoticeWorld, clock: HandClock, smtp: SmtpServer) -> None:
    notice = world.ended("a@example.com", "never@example.com", "later@example.com")
    smtp.box.refuse = {"never@example.com": "550 no such user", "later@example.com": "451 greylisted"}
    smtp.box.once = {"later@example.com"}
    notifier = notifier_for(world, SmtpMailer(f"smtp://127.0.0.1:{smtp.port}"))
    drain(notifier)
    between = world.now(notice)
    assert between.recipients == ("later@example.com",)
    assert between.refused == ("never@example.com",)
    clock.forward(30)
    drain(notifier)
    assert [to for _, to, _ in smtp.box.mails] == [("a@example.com",), ("later@example.com",)]
    now = world.now(notice)
    assert now.state is NoticeState.SENT
    assert now.refused == ("never@example.com",)


def test_a_notice_that_every_recipient_refused_is_given_up_in_sight(
    world: NoticeWorld, clock: HandClock, smtp: SmtpServer
) -> None:
    notice = world.ended("x@example.com", "y@example.com")
    smtp.box.refuse = {"x@example.com": "550 no such user", "y@example.com": "550 moved away"}
    notifier = notifier_for(world, SmtpMailer(f"smtp://127.0.0.1:{smtp.port}"))
    drain(notifier)
    now = world.now(notice)
    assert now.state is NoticeState.FAILED
    assert set(now.refused) == {"x@example.com", "y@example.com"}
    assert "moved away" in str(now.error)
    clock.forward(DAY)
    drain(notifier)
    assert smtp.box.tries == 1


def test_a_notice_too_old_is_given_up_in_sight(world: NoticeWorld, clock: HandClock) -> None:
    notice = world.ended()
    mailer = MemoryMailer(down="connection refused")
    notifier = notifier_for(world, mailer, settings=NotifierSettings(max_age_s=200, jitter=0.0))
    for _ in range(3):
        drain(notifier)
        clock.forward(max(0.0, (world.now(notice).due_us - clock.now_us()) / 1e6))
    now = world.now(notice)
    assert now.state is NoticeState.FAILED
    assert now.error == "given up after 3 tries: connection refused"


def test_a_dead_mail_server_is_asked_once_per_batch_and_all_notices_wait(
    world: NoticeWorld, clock: HandClock, smtp: SmtpServer
) -> None:
    notices = [world.ended() for _ in range(5)]
    smtp.box.sender_answer = "451 not now"
    notifier = notifier_for(world, SmtpMailer(f"smtp://127.0.0.1:{smtp.port}"))
    drain(notifier)
    assert smtp.box.tries == 1
    assert {world.now(notice).state for notice in notices} == {NoticeState.PENDING}
    smtp.box.sender_answer = None
    clock.forward(30)
    drain(notifier)
    assert len(smtp.box.mails) == 5


def test_a_hanging_server_holds_up_nothing_for_ever(world: NoticeWorld, clock: HandClock, smtp: SmtpServer) -> None:
    first, second = world.ended("a@example.com"), world.ended("b@example.com")
    smtp.box.hang_in = "RCPT"
    notifier = notifier_for(world, SmtpMailer(f"smtp://127.0.0.1:{smtp.port}?timeout=0.2"))
    drain(notifier)
    assert "took too long" in str(world.now(first).error)
    smtp.box.hang_in = None
    clock.forward(30)
    drain(notifier)
    assert {world.now(notice).state for notice in (first, second)} == {NoticeState.SENT}


class OneBad(Renderer):
    """Fails on one run, as a renderer of somebody's own might."""

    def __init__(self, run_id: int) -> None:
        self.run_id = run_id
        self.inner = TemplateRenderer()

    def render(self, facts: NoticeFacts) -> Rendered:
        if facts.run.id == self.run_id:
            raise ZeroDivisionError("odd facts")
        return self.inner.render(facts)


def test_a_mail_that_can_not_be_written_does_not_stop_its_neighbours(world: NoticeWorld, clock: HandClock) -> None:
    bad, good = world.ended(), world.ended()
    mailer = MemoryMailer()
    drain(notifier_for(world, mailer, renderer=OneBad(bad.run_id)))
    assert world.now(good).state is NoticeState.SENT
    now = world.now(bad)
    assert now.state is NoticeState.PENDING
    assert "ZeroDivisionError: odd facts" in str(now.error)


# ------------------------------------------------------------------------------------------------- once


class Spy(Mailer):
    """Does something around each send."""

    def __init__(self, inner: Mailer, *, before: Callable[[], None] | None = None, after: Any = None) -> None:
        self.inner, self.before, self.after = inner, before, after

    def send(self, message: bytes, sender: str, recipients: Sequence[str]) -> Mapping[str, str]:
        if self.before is not None:
            self.before()
        refused = self.inner.send(message, sender, recipients)
        if self.after is not None:
            self.after()
        return refused

    def describe(self) -> str:
        return self.inner.describe()


def test_a_store_that_is_away_for_a_moment_after_the_send_costs_no_second_mail(
    world: NoticeWorld, store: Store
) -> None:
    """Not recorded would mean sent again, so the notifier insists."""
    notice = world.ended()
    flaky = FlakyStore(store)
    mailer = MemoryMailer()
    spy = Spy(mailer, after=flaky.away.set)
    thread = threading.Thread(target=notifier_for(world, spy, store=flaky).turn)
    thread.start()
    wait_until(lambda: flaky.refused >= 2, what="tries to mark the notice")
    flaky.away.clear()
    thread.join(30)
    assert world.now(notice).state is NoticeState.SENT
    assert len(mailer.sent) == 1


def test_who_lost_the_lease_does_not_send(world: NoticeWorld, clock: HandClock) -> None:
    world.ended()
    mailer = MemoryMailer()
    other = notifier_for(world, mailer)

    class Slow(TemplateRenderer):
        def render(self, facts: NoticeFacts) -> Rendered:
            clock.forward(SETTINGS.lease_s + 1)  # so long does it take; meanwhile another notifier takes over
            drain(other)
            return super().render(facts)

    drain(notifier_for(world, mailer, renderer=Slow()))
    assert len(mailer.sent) == 1


def test_several_notifiers_on_one_database_send_each_mail_once(tmp_path: Path, clock: HandClock) -> None:
    url = f"sqlite:///{tmp_path}/db"
    stores = [open_store(url) for _ in range(3)]
    stores[0].upgrade()
    world = NoticeWorld(stores[0], clock)
    notices = [world.ended(f"n{number}@example.com") for number in range(60)]
    mailer = MemoryMailer()
    threads = [threading.Thread(target=drain, args=(notifier_for(world, mailer, store=one),)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(mail.recipients[0] for mail in mailer.sent) == sorted(notice.recipients[0] for notice in notices)
    for one in stores:
        one.close()


KILLED = """
import os, signal, sys
from eventproc.engine.notifier import Notifier, NotifierSettings
from eventproc.bus.memory import MemoryBus
from eventproc.notify import SmtpMailer, TemplateRenderer
from eventproc.store import open_store
from notice_world import HandClock

url, port, when = sys.argv[1:]

class Killed(SmtpMailer):
    def send(self, *args):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        refused = super().send(*args)
        if when == "between":
            os.kill(os.getpid(), signal.SIGKILL)
        return refused

notifier = Notifier(store=open_store(url), bus=MemoryBus(), mailer=Killed(f"smtp://127.0.0.1:{port}"),
    renderer=TemplateRenderer(), clock=HandClock(), settings=NotifierSettings(jitter=0.0))
notifier.turn()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("when", "mails"), [("before", 1), ("between", 2), ("after", 1)])
def test_a_notifier_killed_between_send_and_mark_doubles_the_mail_recognisably_and_never_otherwise(
    tmp_path: Path, clock: HandClock, smtp: SmtpServer, when: str, mails: int
) -> None:
    """SMTP has no way to ask whether a mail had been taken; the second copy has the first one's Message-ID."""
    url = f"sqlite:///{tmp_path}/db"
    store = open_store(url)
    store.upgrade()
    world = NoticeWorld(store, clock)
    notice = world.ended()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, url, str(smtp.port), when], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    clock.forward(SETTINGS.lease_s + 1)
    drain(notifier_for(world, SmtpMailer(f"smtp://127.0.0.1:{smtp.port}")))
    assert world.now(notice).state is NoticeState.SENT
    assert len(smtp.box.mails) == mails
    assert len(set(smtp.box.texts())) == 1
    clock.forward(DAY)
    drain(notifier_for(world, SmtpMailer(f"smtp://127.0.0.1:{smtp.port}")))
    assert len(smtp.box.mails) == mails
    store.close()


# ------------------------------------------------------------------------------------------------- the loop


class Running:
    """A notifier at work in a thread."""

    def __init__(self, notifier: Notifier) -> None:
        self.notifier = notifier
        self.thread = threading.Thread(target=notifier.run)

    def __enter__(self) -> Notifier:
        self.thread.start()
        return self.notifier

    def __exit__(self, *_: object) -> None:
        self.notifier.stop(30)
        self.thread.join(30)
        assert not self.thread.is_alive()


class ListeningBus(MemoryBus):
    """Says when somebody listens."""

    def __init__(self) -> None:
        super().__init__()
        self.listening = threading.Event()

    def listen(self, *topics: str) -> Any:
        listener = super().listen(*topics)
        self.listening.set()
        return listener


def test_a_wake_up_sends_at_once_and_without_one_polling_does(world: NoticeWorld) -> None:
    mailer = MemoryMailer()
    bus = ListeningBus()
    with Running(notifier_for(world, mailer, bus=bus)):  # polls once in a minute
        bus.listening.wait(30)
        world.ended()
        bus.wake("notices")
        wait_until(lambda: mailer.sent, what="the mail after a wake-up")
    with Running(notifier_for(world, mailer, settings=NotifierSettings(poll_s=0.05))):
        world.ended()
        wait_until(lambda: len(mailer.sent) == 2, what="the mail without a wake-up")


def test_the_notifier_outlives_a_store_that_is_away(
    world: NoticeWorld, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventproc.engine.notifier.STORE_PAUSE_S", 0.05)
    flaky = FlakyStore(store)
    flaky.away.set()
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer, store=flaky, settings=NotifierSettings(poll_s=0.05))
    with Running(notifier):
        wait_until(lambda: flaky.refused >= 3, what="turns that fail")
        flaky.away.clear()
        world.ended()
        wait_until(lambda: mailer.sent, what="the mail once the store is back")


def test_stopping_gives_back_what_was_not_begun(world: NoticeWorld) -> None:
    notices = [world.ended() for _ in range(4)]
    mailer = MemoryMailer()
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(30)

    notifier = notifier_for(world, Spy(mailer, before=wait))
    thread = threading.Thread(target=notifier.run)
    thread.start()
    begun.wait(30)
    notifier.stop(0.05)
    assert thread.is_alive()  # a send is under way, and is not cut off
    go_on.set()
    thread.join(30)
    assert world.now(notices[0]).state is NoticeState.SENT
    assert len(mailer.sent) == 1
    drain(notifier_for(world, mailer))  # without waiting for any lease to run out
    assert len(mailer.sent) == 4


def test_mails_of_one_notifier_name_the_installation(world: NoticeWorld) -> None:
    world.ended()
    world.ended(failure=BOOM)
    mailer = MemoryMailer()
    drain(notifier_for(world, mailer))
    ids = [str(message_from_bytes(mail.message, policy=policy.default)["Message-ID"]) for mail in mailer.sent]
    with world.store.read() as tx:
        store_id = tx.get_meta("store_id")
    assert store_id
    assert all(store_id in one for one in ids)
    assert len(set(ids)) == 2
