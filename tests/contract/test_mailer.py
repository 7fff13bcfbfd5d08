"""What every Mailer does: SMTP against a real server, `.eml` files, memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from smtp_server import SmtpServer

from eventproc.abc import Mailer
from eventproc.errors import MailError, MailRefused
from eventproc.notify import EmlMailer, MemoryMailer, SmtpMailer


@dataclass
class Rig:
    """A mailer, a way to see what arrived, and ways to make recipients hard to reach where that is possible."""

    mailer: Mailer
    arrived: Callable[[], list[bytes]]
    refuse: Callable[[str, str], None] | None
    broken: Callable[[], Mailer]


def smtp_rig(tmp_path: Path) -> Iterator[Rig]:
    server = SmtpServer()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        try:
            yield Rig(
                mailer=SmtpMailer(f"smtp://127.0.0.1:{server.port}"),
                arrived=server.box.texts,
                refuse=lambda to, words: server.box.refuse.update({to: words}),
                broken=lambda: SmtpMailer(f"smtp://127.0.0.1:{unused.getsockname()[1]}?timeout=2"),
            )
        finally:
            server.close()


def eml_rig(tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "file").write_text("in the way")
    yield Rig(
        mailer=EmlMailer(tmp_path / "mails"),
        arrived=lambda: [path.read_bytes() for path in sorted((tmp_path / "mails").glob("*.eml"))],
        refuse=None,
        broken=lambda: EmlMailer(tmp_path / "file"),
    )


def memory_rig(tmp_path: Path) -> Iterator[Rig]:
    mailer = MemoryMailer()

    def refuse(to: str, words: str) -> None:
        (mailer.refused if words.startswith("5") else mailer.deferred)[to] = words

    yield Rig(
        mailer=mailer,
        arrived=lambda: [mail.message for mail in mailer.sent],
        refuse=refuse,
        broken=lambda: MemoryMailer(down="no network"),
    )


@pytest.fixture(params=[smtp_rig, eml_rig, memory_rig], ids=["smtp", "eml", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from request.param(tmp_path)


@pytest.fixture(params=[smtp_rig, memory_rig], ids=["smtp", "memory"])  # files refuse nobody
def refusing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    yield from request.param(tmp_path)


def mail(body: str = "hello\n.\n..\nend", message_id: str = "<m1@test>") -> bytes:
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = "eventproc@example.org"
    message["To"] = "a@example.com"
    message["Subject"] = "Grüße"
    message["Date"] = "Mon, 23 Nov 2026 12:00:00 +0000"
    message["Message-ID"] = message_id
    message.set_content(body, cte="quoted-printable")
    return message.as_bytes()


def test_a_mail_arrives_as_it_was_written(rig: Rig) -> None:
    refused = rig.mailer.send(mail(), "eventproc@example.org", ["a@example.com", "b@example.com"])
    assert dict(refused) == {}
    (arrived,) = rig.arrived()
    parsed = message_from_bytes(arrived, policy=policy.default)
    assert parsed["Subject"] == "Grüße"
    assert parsed["Message-ID"] == "<m1@test>"
    assert parsed.get_content().replace("\r\n", "\n") == "hello\n.\n..\nend\n"


def test_two_mails_are_two_mails(rig: Rig) -> None:
    for number in range(2):
        rig.mailer.send(mail(message_id=f"<m{number}@test>"), "eventproc@example.org", ["a@example.com"])
    assert len(rig.arrived()) == 2


def test_one_refused_recipient_does_not_spoil_the_others(refusing: Rig) -> None:
    assert refusing.refuse is not None
    refusing.refuse("bad@example.com", "550 5.1.1 no such user")
    refused = refusing.mailer.send(mail(), "eventproc@example.org", ["bad@example.com", "a@example.com"])
    assert list(refused) == ["bad@example.com"]
    assert "no such user" in refused["bad@example.com"]
    assert len(refusing.arrived()) == 1


def test_all_refused_for_good_is_final_and_quotes_the_server(refusing: Rig) -> None:
    assert refusing.refuse is not None
    refusing.refuse("x@example.com", "550 no such user")
    refusing.refuse("y@example.com", "553 not here")
    with pytest.raises(MailRefused, match=r"no such user.*not here") as caught:
        refusing.mailer.send(mail(), "eventproc@example.org", ["x@example.com", "y@example.com"])
    assert set(caught.value.details["refused"]) == {"x@example.com", "y@example.com"}
    assert refusing.arrived() == []


def test_a_recipient_put_off_is_the_only_one_to_be_tried_again(refusing: Rig) -> None:
    assert refusing.refuse is not None
    refusing.refuse("later@example.com", "451 greylisted")
    refusing.refuse("never@example.com", "550 no such user")
    everybody = ["a@example.com", "later@example.com", "never@example.com"]
    with pytest.raises(MailError, match="greylisted") as caught:
        refusing.mailer.send(mail(), "eventproc@example.org", everybody)
    assert not isinstance(caught.value, MailRefused)
    assert caught.value.details["recipients"] == ["later@example.com"]
    assert list(caught.value.details["refused"]) == ["never@example.com"]
    assert len(refusing.arrived()) == 1


def test_nobody_reached_and_one_put_off_is_no_final_refusal(refusing: Rig) -> None:
    assert refusing.refuse is not None
    refusing.refuse("later@example.com", "451 greylisted")
    refusing.refuse("never@example.com", "550 no such user")
    with pytest.raises(MailError) as caught:
        refusing.mailer.send(mail(), "eventproc@example.org", ["later@example.com", "never@example.com"])
    assert not isinstance(caught.value, MailRefused)
    assert caught.value.details["recipients"] == ["later@example.com"]
    assert refusing.arrived() == []


def test_a_destination_that_is_not_there_is_worth_another_try_for_everybody(rig: Rig) -> None:
    with pytest.raises(MailError) as caught:
        rig.broken().send(mail(), "eventproc@example.org", ["a@example.com"])
    assert not isinstance(caught.value, MailRefused)
    assert caught.value.details["server"] is True
    assert "recipients" not in caught.value.details


def test_it_says_where_mails_go(rig: Rig) -> None:
    assert rig.mailer.describe()
