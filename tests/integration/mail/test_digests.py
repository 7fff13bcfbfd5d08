"""Mails that tell of many: for a throttle, and where failures come in crowds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email import message_from_bytes, policy
from typing import Any

import pytest
from mail_lab import DAY, drain, notifier_for
from notice_world import HandClock, NoticeWorld
from smtp_server import SmtpServer

from eventproc.abc import Mailer, Renderer
from eventproc.engine.notifier import NotifierSettings
from eventproc.model import Failure, Notice, NoticeFacts, NoticeState, Rendered
from eventproc.notify import MemoryMailer, SmtpMailer, TemplateRenderer


def states(world: NoticeWorld, notices: Sequence[Notice]) -> set[NoticeState]:
    return {world.now(notice).state for notice in notices}


def subject_of(mail: bytes) -> str:
    return str(message_from_bytes(mail, policy=policy.default)["subject"])


def text_of(mail: bytes) -> str:
    body = message_from_bytes(mail, policy=policy.default).get_body(("plain",))  # type: ignore[attr-defined]
    return str(body.get_content())


# ------------------------------------------------------------------------------------------------- throttle


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


def test_every_failure_can_be_mailed_by_itself(world: NoticeWorld) -> None:
    mailer = MemoryMailer()
    notifier = notifier_for(world, mailer, settings=NotifierSettings(burst=0))
    for _ in range(30):
        world.ended()
    drain(notifier)
    assert len(mailer.sent) == 30
