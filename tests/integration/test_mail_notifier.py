"""Notices from the store to the mailbox."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from notice_world import BOOM, FlakyStore, HandClock, NoticeWorld
from smtp_server import SmtpServer
from waiting import wait_until

from eventproc.abc import Mailer, Renderer, Store
from eventproc.bus.memory import MemoryBus
from eventproc.engine.notifier import Notifier, NotifierSettings
from eventproc.model import Failure, Notice, NoticeFacts, NoticeState, Rendered
from eventproc.notify import MemoryMailer, SmtpMailer, TemplateRenderer
from eventproc.store import open_store
from eventproc.store.memory import MemoryStore

SETTINGS = NotifierSettings(
    sender="The Platform <eventproc@example.org>", jitter=0.0, backoff_s=30, backoff_max_s=3600, poll_s=60, burst=0
)
DAY = 86400.0


@pytest.fixture
def store() -> Iterator[Store]:
    memory = MemoryStore()
    memory.upgrade()
    yield memory
    memory.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def world(store: Store, clock: HandClock) -> NoticeWorld:
    return NoticeWorld(store, clock)


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.close()


def notifier_for(world: NoticeWorld, mailer: Mailer, **changes: Any) -> Notifier:
    settings = changes.pop("settings", SETTINGS)
    return Notifier(
        store=changes.pop("store", world.store),
        bus=changes.pop("bus", None) or MemoryBus(),
        mailer=mailer,
        renderer=changes.pop("renderer", None) or TemplateRenderer(base_url="http://localhost:8080"),
        clock=world.clock,
        settings=settings,
    )


def drain(notifier: Notifier) -> None:
    while notifier.turn():
        pass


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
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
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


# ------------------------------------------------------------------------------------------------- throttle


def states(world: NoticeWorld, notices: Sequence[Notice]) -> set[NoticeState]:
    return {world.now(notice).state for notice in notices}


def test_throttle_sends_the_first_at_once_and_the_rest_as_one_digest(world: NoticeWorld, clock: HandClock) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer)
    world.ended(throttle_s=300)
    drain(notifier)
    assert len(mailer.sent) == 1
    held = []
    for number in range(25):
        clock.forward(10)
        held.append(world.ended(throttle_s=300, failure=Failure(kind="exit", message=f"status {number}")))
        drain(notifier)
    assert len(mailer.sent) == 1
    assert "digest at" in str(world.now(held[0]).error)
    clock.forward(50)
    drain(notifier)
    assert len(mailer.sent) == 2
    digest = mailer.sent[1]
    assert "failed 25 times" in digest.subject
    assert all(f"status {number}" in digest.text for number in range(25))
    assert states(world, held) == {NoticeState.SENT}
    clock.forward(DAY)
    drain(notifier)
    assert len(mailer.sent) == 2


def test_throttle_counts_each_outcome_and_each_handler_for_itself(world: NoticeWorld) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer)
    world.ended(throttle_s=300)
    drain(notifier)
    world.ended(throttle_s=300, failure=None)
    world.ended(throttle_s=300, handler="other")
    drain(notifier)
    assert len(mailer.sent) == 3


def test_a_digest_goes_only_to_those_its_notices_were_for(world: NoticeWorld, clock: HandClock) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer)
    world.ended("old@example.com", throttle_s=300)
    drain(notifier)
    for to in ("old@example.com", "new@example.com", "old@example.com"):
        world.ended(to, throttle_s=300)
    for _ in range(2):
        clock.forward(300)
        drain(notifier)
    assert [mail.recipients for mail in mailer.sent] == [
        ("old@example.com",),
        ("old@example.com",),
        ("new@example.com",),
    ]


def test_a_digest_that_is_put_off_is_sent_later_unchanged_and_covers_the_same_notices(
    world: NoticeWorld, clock: HandClock
) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer)
    world.ended(throttle_s=300)
    drain(notifier)
    held = [world.ended(throttle_s=300) for _ in range(3)]
    clock.forward(300)
    mailer.down = "no network"
    drain(notifier)
    assert states(world, held) == {NoticeState.PENDING}
    kept = world.now(held[0]).mail
    later = world.ended(throttle_s=300)
    mailer.down = None
    clock.forward(30)
    drain(notifier)
    assert [mail.message for mail in mailer.sent[1:]] == [kept]
    assert states(world, held) == {NoticeState.SENT}
    assert world.now(later).state is NoticeState.PENDING
    clock.forward(300)
    drain(notifier)
    assert world.now(later).state is NoticeState.SENT
    assert len(mailer.sent) == 3


def test_a_digest_refused_for_good_gives_up_all_it_stands_for(world: NoticeWorld, clock: HandClock) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer)
    world.ended(throttle_s=300)
    drain(notifier)
    held = [world.ended(throttle_s=300) for _ in range(3)]
    clock.forward(300)
    mailer.refused = {"a@example.com": "550 gone"}
    drain(notifier)
    assert states(world, held) == {NoticeState.FAILED}
    assert "550 gone" in str(world.now(held[2]).error)


def test_a_digest_that_waited_long_because_of_its_throttle_is_not_too_old(world: NoticeWorld, clock: HandClock) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer)
    week = 7 * DAY
    world.ended(throttle_s=week)
    drain(notifier)
    held = world.ended(throttle_s=week)
    clock.forward(week)
    mailer.down = "no network"
    drain(notifier)
    assert world.now(held).state is NoticeState.PENDING


# ------------------------------------------------------------------------------------------------- bursts


def test_of_many_failures_the_first_are_mailed_at_once_and_the_rest_as_digests(
    world: NoticeWorld, clock: HandClock, smtp: SmtpServer
) -> None:
    notifier = notifier_for(
        world,
        SmtpMailer(f"smtp://127.0.0.1:{smtp.port}"),
        settings=NotifierSettings(burst=3, burst_s=600.0),
    )
    failed = [world.ended(failure=Failure(kind="exit", message=f"status {number}")) for number in range(10)]
    world.more(failed[4], 5000)
    failed.append(world.ended())
    drain(notifier)
    subjects = [subject_of(mail) for _, _, mail in smtp.box.mails]
    assert len(subjects) == 3
    assert not any("times" in subject for subject in subjects)
    assert "waits for a digest at" in str(world.now(failed[8]).error)
    clock.forward(600)
    drain(notifier)
    assert len(smtp.box.mails) == 4
    digest = smtp.box.mails[3][2]
    assert "5008 times" in subject_of(digest)
    assert len(digest) < 50_000
    text = text_of(digest)
    assert f"The first was run {failed[3].run_id} at " in text
    assert f"the last was run {failed[10].run_id} at " in text
    assert "... and 4957 more" in text
    assert "eventproc runs list --handler" in text
    assert states(world, everything(world)) == {NoticeState.SENT}
    clock.forward(600)
    for _ in range(2):  # it has been quiet: failures are single again
        world.ended()
        drain(notifier)
    assert len(smtp.box.mails) == 6


def everything(world: NoticeWorld) -> list[Notice]:
    with world.store.read() as tx:
        return tx.notices.page(limit=100_000)


def test_a_server_that_was_down_gets_one_digest_soon_and_what_came_later_in_the_next(
    world: NoticeWorld, clock: HandClock, smtp: SmtpServer
) -> None:
    """Being held back is no try: the first one that fails is followed by the shortest pause."""
    notifier = notifier_for(
        world,
        SmtpMailer(f"smtp://127.0.0.1:{smtp.port}"),
        settings=NotifierSettings(burst=1, burst_s=600.0, jitter=0.0),
    )
    world.ended()
    drain(notifier)
    carrier = world.ended()
    world.more(carrier, 300)
    for _ in range(3):
        drain(notifier)
        clock.forward(190)
    smtp.box.data_answers = ["451 later", "451 later"]
    clock.forward(30)
    drain(notifier)
    assert (world.now(carrier).attempts, world.now(carrier).due_us) == (1, clock.now_us() + 30_000_000)
    later = world.ended()
    for wait in (30, 60):
        drain(notifier)
        clock.forward(wait)
    drain(notifier)
    assert [told_by(subject_of(mail)) for _, _, mail in smtp.box.mails] == [1, 301]
    assert [notice.id for notice in everything(world) if notice.state is NoticeState.PENDING] == [later.id]
    clock.forward(600)
    drain(notifier)
    assert states(world, everything(world)) == {NoticeState.SENT}
    assert len(smtp.box.mails) == 3


class Killed(BaseException):
    """Ends a notifier wherever it is, and leaves what it had written."""


class Dies(Renderer, Mailer):
    """Ends the notifier once: right before a mail is written, or right after it was sent."""

    def __init__(self, renderer: Renderer, mailer: Mailer, when: str) -> None:
        self.renderer, self.mailer, self.when = renderer, mailer, when

    def render(self, facts: NoticeFacts) -> Rendered:
        if self.when == "gathered":
            raise Killed
        return self.renderer.render(facts)

    def send(self, *args: Any) -> Any:
        refused = self.mailer.send(*args)
        if self.when == "sent":
            raise Killed
        return refused

    def describe(self) -> str:
        return self.mailer.describe()

    def check(self) -> str:
        return self.mailer.check()


@pytest.mark.parametrize(("when", "told"), [("gathered", [1, 52]), ("sent", [1, 51, 51, 1])])
def test_a_notifier_that_ends_over_a_digest_leaves_no_failure_untold(
    world: NoticeWorld, clock: HandClock, when: str, told: list[int]
) -> None:
    mailer = MemoryMailer()
    settings = NotifierSettings(burst=1, burst_s=600.0, jitter=0.0)
    world.ended()
    drain(notifier_for(world, mailer, settings=settings))
    world.more(world.ended(), 50)
    drain(notifier_for(world, mailer, settings=settings))
    clock.forward(600)
    dies = Dies(TemplateRenderer(), mailer, when)
    with pytest.raises(Killed):
        notifier_for(world, dies, renderer=dies, settings=settings).turn()
    later = world.ended()
    after = notifier_for(world, mailer, settings=settings)
    drain(after)
    clock.forward(settings.lease_s + 2)
    drain(after)
    assert world.now(later).state is (NoticeState.SENT if when == "gathered" else NoticeState.PENDING)
    clock.forward(600)
    drain(after)
    assert states(world, everything(world)) == {NoticeState.SENT}
    assert [told_by(mail.subject) for mail in mailer.sent] == told
    if when == "sent":
        assert mailer.sent[1].message == mailer.sent[2].message


def test_while_failures_go_on_there_is_one_digest_in_each_period(world: NoticeWorld, clock: HandClock) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer, settings=NotifierSettings(burst=2, burst_s=600.0))
    for _ in range(120):
        world.ended()
        world.ended(handler="other", failure=None)
        drain(notifier)
        clock.forward(60)
    failures = [mail for mail in mailer.sent if "report" in mail.subject]
    assert len(failures) == 2 + 11
    assert len(mailer.sent) == len(failures) + 120  # successes are all mailed
    clock.forward(600)
    drain(notifier)
    assert sum(told_by(mail.subject) for mail in mailer.sent) == 120 + 120


def told_by(subject: str) -> int:
    """Return how many notices a mail is for."""
    found = re.search(r"failed (\d+) times", subject)
    return 1 if found is None else int(found[1])


def subject_of(mail: bytes) -> str:
    return str(message_from_bytes(mail, policy=policy.default)["subject"])


def text_of(mail: bytes) -> str:
    body = message_from_bytes(mail, policy=policy.default).get_body(("plain",))  # type: ignore[attr-defined]
    return str(body.get_content())


def test_every_failure_can_be_mailed_by_itself(world: NoticeWorld) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer, settings=NotifierSettings(burst=0))
    for _ in range(30):
        world.ended()
    drain(notifier)
    assert len(mailer.sent) == 30


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
