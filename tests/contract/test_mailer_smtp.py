"""The SMTP mailer against a real server, well-behaved and otherwise."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from smtp_server import SmtpServer, make_certificate

from eventproc.errors import ConfigError, MailError, MailRefused
from eventproc.notify import EmlMailer, MemoryMailer, SmtpMailer, mailer_from_url

SENDER = "eventproc@example.org"
TO = "a@example.com"
PASSWORD = "p@ss:w/rd?#%é"  # all that must be percent-encoded
QUOTED = "p%40ss%3Aw%2Frd%3F%23%25%C3%A9"


@pytest.fixture
def serve() -> Iterator[Callable[..., SmtpServer]]:
    servers: list[SmtpServer] = []

    def start(**options: Any) -> SmtpServer:
        servers.append(SmtpServer(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def mail(to: str = TO, policy: Any = SMTP) -> bytes:
    message = EmailMessage(policy=policy)
    message["From"] = SENDER
    message["To"] = to
    message["Subject"] = "news"
    message["Message-ID"] = "<m@test>"
    message.set_content("hello")
    return message.as_bytes()


def test_without_tls_on_offer_a_mail_goes_in_the_clear_unless_starttls_is_required(serve: Any) -> None:
    server = serve()
    SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(mail(), SENDER, [TO])
    assert server.box.encrypted == [False]
    with pytest.raises(MailError, match="STARTTLS"):
        SmtpMailer(f"smtp://127.0.0.1:{server.port}?starttls=require").send(mail(), SENDER, [TO])
    assert len(server.box.mails) == 1


def test_starttls_is_used_where_it_is_offered_even_with_a_certificate_nobody_vouches_for(
    serve: Any, tmp_path: Path
) -> None:
    context, _ = make_certificate(tmp_path)
    server = serve(tls=context)
    SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(mail(), SENDER, [TO])
    SmtpMailer(f"smtp://127.0.0.1:{server.port}?starttls=never").send(mail(), SENDER, [TO])
    assert server.box.encrypted == [True, False]


def test_required_starttls_checks_the_certificate(serve: Any, tmp_path: Path) -> None:
    context, authority = make_certificate(tmp_path)
    server = serve(tls=context)
    with pytest.raises(MailError, match="certificate can not be trusted"):
        SmtpMailer(f"smtp://127.0.0.1:{server.port}?starttls=require").send(mail(), SENDER, [TO])
    SmtpMailer(f"smtp://127.0.0.1:{server.port}?starttls=require&ca={authority}").send(mail(), SENDER, [TO])
    assert server.box.encrypted == [True]


def test_smtps_is_encrypted_from_the_first_byte_and_checks_the_certificate(serve: Any, tmp_path: Path) -> None:
    context, authority = make_certificate(tmp_path)
    server = serve(tls=context, implicit_tls=True)
    SmtpMailer(f"smtps://localhost:{server.port}?ca={authority}").send(mail(), SENDER, [TO])
    assert server.box.encrypted == [True]
    with pytest.raises(MailError, match="certificate"):
        SmtpMailer(f"smtps://localhost:{server.port}").send(mail(), SENDER, [TO])


def test_a_certificate_of_another_host_is_refused(serve: Any, tmp_path: Path) -> None:
    context, authority = make_certificate(tmp_path, name="elsewhere.test")
    server = serve(tls=context, implicit_tls=True)
    with pytest.raises(MailError, match="certificate"):
        SmtpMailer(f"smtps://localhost:{server.port}?ca={authority}").send(mail(), SENDER, [TO])


def test_user_and_password_come_percent_encoded_from_the_url(serve: Any, tmp_path: Path) -> None:
    context, authority = make_certificate(tmp_path)
    server = serve(tls=context, user="me@example.org", password="s3/cr:et@")
    url = f"smtp://me%40example.org:s3%2Fcr%3Aet%40@127.0.0.1:{server.port}?ca={authority}"
    SmtpMailer(url).send(mail(), SENDER, [TO])
    assert server.box.logins[-1] == ("me@example.org", "s3/cr:et@")
    assert len(server.box.mails) == 1


def test_a_wrong_password_is_reported_without_the_password(serve: Any, tmp_path: Path) -> None:
    context, authority = make_certificate(tmp_path)
    server = serve(tls=context, user="me", password="right")
    mailer = SmtpMailer(f"smtp://me:hunter2secret@127.0.0.1:{server.port}?ca={authority}")
    with pytest.raises(MailError, match="log-in as me failed: 535") as caught:
        mailer.send(mail(), SENDER, [TO])
    shown = f"{caught.value!r} {caught.value.details} {mailer.describe()} {vars(mailer)!r}"
    assert "hunter2secret" not in shown
    assert not isinstance(caught.value, MailRefused)  # the operator can mend it, the mail then goes out


def test_a_password_is_not_sent_to_a_server_whose_certificate_is_not_trusted(serve: Any, tmp_path: Path) -> None:
    context, _ = make_certificate(tmp_path)
    server = serve(tls=context, user="me", password="right")
    with pytest.raises(MailError, match="certificate"):
        SmtpMailer(f"smtp://me:right@127.0.0.1:{server.port}").send(mail(), SENDER, [TO])
    assert server.box.logins == []


def test_a_hanging_server_is_an_error_to_retry(serve: Any) -> None:
    for stage in ("EHLO", "RCPT", "DATA"):
        server = serve()
        server.box.hang_in = stage
        with pytest.raises(MailError, match="took too long to answer") as caught:
            SmtpMailer(f"smtp://127.0.0.1:{server.port}?timeout=0.3").send(mail(), SENDER, [TO])
        assert not isinstance(caught.value, MailRefused)
        assert caught.value.details["server"] is (stage == "EHLO")


def test_a_server_that_drips_one_byte_at_a_time_is_cut_off() -> None:
    """Each byte comes within the time-out; the whole mail still has a deadline."""
    stop = threading.Event()

    def drip(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            while not stop.wait(0.05):
                try:
                    peer.send(b"2")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        try:
            with pytest.raises(MailError, match="took too long"):
                SmtpMailer(f"smtp://127.0.0.1:{listener.getsockname()[1]}?timeout=0.2").send(mail(), SENDER, [TO])
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("stage", ["DATA", "DATA-taken"])
def test_a_connection_lost_in_the_middle_of_a_mail_is_an_error_to_retry(serve: Any, stage: str) -> None:
    server = serve()
    server.box.drop_in = stage
    with pytest.raises(MailError) as caught:
        SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(mail(), SENDER, [TO])
    assert not isinstance(caught.value, MailRefused)


def test_a_mail_that_is_put_off_goes_through_at_the_next_try(serve: Any) -> None:
    server = serve()
    server.box.data_answers = ["451 try later"]
    mailer = SmtpMailer(f"smtp://127.0.0.1:{server.port}")
    with pytest.raises(MailError, match="451 try later"):
        mailer.send(mail(), SENDER, [TO])
    assert mailer.send(mail(), SENDER, [TO]) == {}
    assert len(server.box.mails) == 1


def test_a_mail_the_server_will_never_take_is_refused_for_good(serve: Any) -> None:
    server = serve()
    server.box.data_answers = ["554 looks like spam"]
    with pytest.raises(MailRefused, match="looks like spam"):
        SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(mail(), SENDER, [TO])


def test_a_mail_over_the_servers_size_limit_is_refused_for_good(serve: Any) -> None:
    server = serve(data_size_limit=2000)
    message = EmailMessage(policy=SMTP)
    message["To"] = TO
    message.set_content("x" * 70 + "\n" + "y\n" * 2000)
    with pytest.raises(MailRefused, match="552"):
        SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(message.as_bytes(), SENDER, [TO])


def test_a_refused_sender_is_the_platforms_fault_and_tried_again(serve: Any) -> None:
    server = serve()
    server.box.sender_answer = "550 who are you"
    with pytest.raises(MailError, match=r"the sender .* was refused: 550 who are you") as caught:
        SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(mail(), SENDER, [TO])
    assert not isinstance(caught.value, MailRefused)
    assert caught.value.details["server"] is True


def test_addresses_outside_ascii_use_smtputf8_where_the_server_has_it(serve: Any) -> None:
    server = serve()
    refused = SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(
        mail("jürgen@example.com", SMTPUTF8), SENDER, ["jürgen@example.com", "b@bücher.example"]
    )
    assert refused == {}
    assert server.box.mails[0][1] == ("jürgen@example.com", "b@xn--bcher-kva.example")
    assert any("SMTPUTF8" in options for options in server.box.options)


def test_plain_mails_do_not_ask_for_smtputf8(serve: Any) -> None:
    server = serve()
    SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(mail(), SENDER, [TO])
    assert not any("SMTPUTF8" in options for options in server.box.options)


def test_an_address_that_could_smuggle_commands_is_refused_and_its_neighbour_reached(serve: Any) -> None:
    server = serve()
    evil = "a@example.com>\r\nRCPT TO:<evil@example.com"
    refused = SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(mail(), SENDER, [evil, TO, "nodomain", "\ud800@x.org"])
    assert set(refused) == {evil, "nodomain", "\ud800@x.org"}
    assert [to for _, to, _ in server.box.mails] == [(TO,)]


def test_bare_line_feeds_are_sent_as_crlf_so_that_no_mail_hides_in_another(serve: Any) -> None:
    server = serve()
    SmtpMailer(f"smtp://127.0.0.1:{server.port}").send(b"Subject: x\n\none\n.\nMAIL FROM:<evil>\n", SENDER, [TO])
    assert server.box.texts() == [b"Subject: x\r\n\r\none\r\n.\r\nMAIL FROM:<evil>\r\n"]


def test_the_name_for_ehlo_can_be_given(serve: Any) -> None:
    server = serve()
    SmtpMailer(f"smtp://127.0.0.1:{server.port}?helo=mta.example.org").check()
    assert server.box.helo == ["mta.example.org"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("smtp://", "names no host"),
        ("smtp://h:notaport", "malformed"),
        ("smtp://user:p@ss/word@host", "port|host|malformed"),
        ("smtp://h?starttls=maybe", "starttls must be"),
        ("smtp://h?timeout=soon", "timeout must be"),
        ("smtp://h?timeout=inf", "timeout must be"),
        ("smtp://h?tls=1", "unknown option 'tls'"),
        ("smtp://h/path", "known options"),
        ("http://h", "not one of smtp, smtps"),
    ],
)
def test_a_malformed_url_says_what_is_wrong_and_never_shows_the_password(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        mailer_from_url(url, "/nowhere")
    assert "p@ss" not in str(caught.value)


@given(st.text(max_size=60))
@example("smtp://u:secret@[::1")
@example("smtp://u:secret@h:99999")
def test_any_url_is_either_taken_or_refused_as_a_setting(text: str) -> None:
    """No text makes anything but a ConfigError."""
    try:
        SmtpMailer("smtp://u:hunter2secret@" + text).describe()
    except ConfigError as error:
        assert "hunter2secret" not in str(error)  # noqa: PT017


def test_the_password_of_a_url_shows_nowhere() -> None:
    mailer = SmtpMailer(f"smtps://me:{QUOTED}@mail.example.org")
    assert mailer._server.password == PASSWORD
    assert mailer.describe() == "mail server mail.example.org:465 (TLS, as me)"
    assert PASSWORD not in repr(vars(mailer))


def test_the_url_picks_the_mailer(tmp_path: Path) -> None:
    assert isinstance(mailer_from_url(None, tmp_path), EmlMailer)
    assert isinstance(mailer_from_url("", tmp_path), EmlMailer)
    assert isinstance(mailer_from_url("smtp://localhost", tmp_path), SmtpMailer)
    assert isinstance(mailer_from_url("memory:", tmp_path), MemoryMailer)
    elsewhere = mailer_from_url(f"eml://{tmp_path}/x", tmp_path)
    assert str(tmp_path / "x") in elsewhere.describe()
