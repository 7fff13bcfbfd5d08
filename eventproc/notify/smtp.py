"""Mails over SMTP."""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from eventproc.abc import Mailer
from eventproc.errors import ConfigError, MailError, MailRefused
from eventproc.notify.memory import settle

TIMEOUT_S = 30.0  # of each answer of the server
DEADLINE_FACTOR = 4  # one mail may take so many times-outs in all, however slowly the server drips
_READY = 220
_TOO_BIG = 552
_SHUTTING_DOWN = 421
_WORDS = 300  # characters of a server's answer that are passed on


@dataclass(frozen=True, kw_only=True, slots=True)
class _Server:
    """What the URL says."""

    host: str
    port: int
    tls: bool  # from the first byte
    starttls: str  # auto | require | never
    timeout_s: float
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    helo: str | None = None
    ca: str | None = None  # file of the authorities that may have signed the server's certificate


class SmtpMailer(Mailer):
    """
    Sends through a mail server: `smtp://[user:password@]host[:port]` or `smtps://…` (TLS from the first byte).

    User and password are percent-encoded. After `?` may stand `starttls=require` (no mail without it) or `never`,
    `timeout=SECONDS`, `helo=NAME` and `ca=FILE` (certificate authorities). Without `starttls`, it is used where the
    server offers it. The certificate is checked whenever that protects something: with smtps, with
    `starttls=require` and before a password is sent. A password goes in the clear only to this machine, or with
    `starttls=never`.
    """

    def __init__(self, url: str, *, timeout_s: float | None = None) -> None:
        self._server = _parse(url, timeout_s)

    def describe(self) -> str:
        server = self._server
        how = "TLS" if server.tls else f"STARTTLS {server.starttls}"
        login = f", as {server.user}" if server.user else ""
        return f"mail server {server.host}:{server.port} ({how}{login})"

    def check(self) -> None:
        """Connect, log in and leave again; raises MailError as `send` would."""
        with self._session():
            pass

    def send(self, message: bytes, sender: str, recipients: Sequence[str]) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        wire = re.sub(rb"\r\n|\r|\n", b"\r\n", message)  # a bare LF or CR could end the mail early on some servers
        with self._session() as smtp:
            utf8 = smtp.has_extn("smtputf8")
            reachable: dict[str, str] = {}
            for recipient in recipients:
                try:
                    reachable[_wire_address(recipient, utf8=utf8)] = recipient
                except ValueError as error:
                    refused[recipient] = str(error)
            deferred = self._transmit(smtp, wire, sender, reachable, refused) if reachable else {}
        settle(recipients, refused, deferred)
        return refused

    def _transmit(
        self, smtp: smtplib.SMTP, wire: bytes, sender: str, reachable: dict[str, str], refused: dict[str, str]
    ) -> dict[str, str]:
        """Send, add to `refused`, return the recipients to be tried again."""
        try:
            from_address = _wire_address(sender, utf8=smtp.has_extn("smtputf8"))
        except ValueError as error:
            raise MailError(f"the sender {sender!r} can not be used: {error}", server=True) from error
        plain = wire.isascii() and from_address.isascii() and all(address.isascii() for address in reachable)
        options = [] if plain or not smtp.has_extn("smtputf8") else ["SMTPUTF8", "BODY=8BITMIME"]
        try:
            answers = smtp.sendmail(from_address, list(reachable), wire, mail_options=options)
        except smtplib.SMTPRecipientsRefused as error:  # nobody got it: whom the server did not name is to be tried
            answers = {address: error.recipients.get(address, (_SHUTTING_DOWN, b"")) for address in reachable}
        except smtplib.SMTPSenderRefused as error:
            if error.smtp_code == _TOO_BIG:
                raise _refused_whole(error.smtp_code, error.smtp_error, reachable, refused) from None
            raise MailError(f"the sender {sender} was refused: {_words(error)}", server=True) from None
        except smtplib.SMTPDataError as error:
            if error.smtp_code >= 500:
                raise _refused_whole(error.smtp_code, error.smtp_error, reachable, refused) from None
            raise MailError(
                f"the mail was not taken: {_words(error)}",
                recipients=list(reachable.values()),
                refused=dict(refused),
            ) from None
        deferred: dict[str, str] = {}
        for address, (code, text) in answers.items():
            kind = refused if 500 <= code < 600 else deferred
            kind[reachable[address]] = _answer(code, text)
        return deferred

    @contextlib.contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        """Open a connection and log in; what goes wrong with the server or the network becomes a MailError."""
        smtp: smtplib.SMTP | None = None
        late = threading.Event()
        watchdog: threading.Timer | None = None
        where = f"mail server {self._server.host}:{self._server.port}"
        entered = False
        try:
            smtp = _client(self._server)
            watchdog = _watch(smtp, self._server.timeout_s * DEADLINE_FACTOR, late)
            _greet(smtp, self._server)
            _secure(smtp, self._server)
            entered = True
            yield smtp
            with contextlib.suppress(OSError, smtplib.SMTPException):  # the mail is delivered; goodbye is a courtesy
                smtp.quit()
        except (OSError, smtplib.SMTPException, ValueError) as error:
            reason = "took too long to answer" if late.is_set() or _timed_out(error) else _reason(error)
            answered = isinstance(error, smtplib.SMTPResponseException) and not late.is_set()
            raise MailError(
                f"{where}: {reason}", server=answered or not entered
            ) from None  # a chain could quote the URL
        finally:
            if watchdog is not None:
                watchdog.cancel()
            if smtp is not None:
                smtp.close()


def _client(server: _Server) -> smtplib.SMTP:
    """Make the client without connecting, so that the watchdog can see to the greeting already."""
    name = server.helo or _own_name()
    client: smtplib.SMTP
    if server.tls:
        context = _context(server, verify=True)
        client = smtplib.SMTP_SSL(local_hostname=name, timeout=server.timeout_s, context=context)
    else:
        client = smtplib.SMTP(local_hostname=name, timeout=server.timeout_s)
    client._host = server.host  # type: ignore[attr-defined] # noqa: SLF001  # only its constructor sets the name that TLS checks
    return client


def _greet(smtp: smtplib.SMTP, server: _Server) -> None:
    code, words = smtp.connect(server.host, server.port)
    if code != _READY:
        raise smtplib.SMTPConnectError(code, words)


def _secure(smtp: smtplib.SMTP, server: _Server) -> None:
    smtp.ehlo_or_helo_if_needed()
    encrypted = server.tls
    if not encrypted and server.starttls != "never":
        if smtp.has_extn("starttls"):
            verify = server.starttls == "require" or server.user is not None
            smtp.starttls(context=_context(server, verify=verify))
            smtp.ehlo()
            encrypted = True
        elif server.starttls == "require":
            raise smtplib.SMTPException("offers no STARTTLS, which starttls=require asks for")
    if server.user is None:
        return
    if not encrypted and server.starttls != "never" and server.host not in ("localhost", "127.0.0.1", "::1"):
        raise smtplib.SMTPException(
            "offers no STARTTLS, so the password is not sent; use smtps://, or starttls=never to send it in the clear"
        )
    try:
        smtp.login(server.user, server.password or "")
    except smtplib.SMTPAuthenticationError as error:
        text = _words(error)
        raise smtplib.SMTPException(f"log-in as {server.user} failed: {_mask(text, server.password)}") from None


def _context(server: _Server, *, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=server.ca)
    except OSError as error:
        raise smtplib.SMTPException(f"the file {server.ca} of ca= can not be used: {error}") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _watch(smtp: smtplib.SMTP, deadline_s: float, late: threading.Event) -> threading.Timer:
    """Cut the connection after the deadline: a time-out per answer does not end a server that drips."""

    def cut() -> None:
        late.set()
        sock = smtp.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # closed already
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(deadline_s, cut)
    timer.daemon = True
    timer.start()
    return timer


@lru_cache(maxsize=1)
def _own_name() -> str:
    name = socket.getfqdn()
    return name if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name) else "[127.0.0.1]"


def _wire_address(address: str, *, utf8: bool) -> str:
    """Return the address as the server is told it; raises ValueError with words for people."""
    local, _, domain = address.rpartition("@")
    if not local or not domain or re.search(r"[\x00-\x20\x7f<>]", address):
        raise ValueError("not an address")
    with contextlib.suppress(UnicodeError):  # an address that is no IDNA name is the server's to judge
        domain = domain if domain.isascii() else domain.encode("idna").decode("ascii")
    wire = f"{local}@{domain}"
    if not wire.isascii() and not utf8:
        raise ValueError("the mail server does not support addresses outside ASCII (SMTPUTF8)")
    try:
        wire.encode()
    except UnicodeEncodeError as error:
        raise ValueError("not an address") from error
    return wire


def _refused_whole(code: int, text: bytes | str, reachable: Mapping[str, str], refused: dict[str, str]) -> MailRefused:
    answer = _answer(code, text)
    refused.update(dict.fromkeys(reachable.values(), answer))
    return MailRefused(f"the mail was refused: {answer}", refused=dict(refused))


def _words(error: smtplib.SMTPResponseException) -> str:
    return _answer(error.smtp_code, error.smtp_error)


def _answer(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    printable = "".join(char if char.isprintable() else " " for char in words)
    return f"{code} {' '.join(printable.split())[:_WORDS]}".strip()


def _timed_out(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or "timed out" in str(error)  # smtplib wraps some as "closed"


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return _words(error)
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return f"closed the connection ({error})"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate can not be trusted: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)[:_WORDS]


def _mask(text: str, secret: str | None) -> str:
    return text.replace(secret, "***") if secret else text


def _parse(url: str, timeout_s: float | None) -> _Server:
    """Read the URL; errors never quote it, it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise _wrong("it is malformed (a special character in user or password must be percent-encoded)") from None
    if parts.scheme not in ("smtp", "smtps"):
        raise _wrong("it must begin with smtp:// or smtps://")
    if not parts.hostname:
        raise _wrong("it names no host")
    unknown = sorted(set(options) - {"starttls", "timeout", "helo", "ca"})
    if unknown or parts.path not in ("", "/") or parts.fragment:
        extra = f"unknown option {unknown[0]!r}" if unknown else "nothing may stand behind the port but ?options"
        raise _wrong(f"{extra}; known options: starttls, timeout, helo, ca")
    starttls = options.get("starttls", "auto")
    if starttls not in ("auto", "require", "never"):
        raise _wrong("starttls must be require, never or auto")
    tls = parts.scheme == "smtps"
    return _Server(
        host=parts.hostname,
        port=port or (465 if tls else 25),
        tls=tls,
        starttls=starttls,
        timeout_s=_seconds(options, timeout_s),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        helo=options.get("helo"),
        ca=options.get("ca"),
    )


def _seconds(options: Mapping[str, Any], given: float | None) -> float:
    text = options.get("timeout")
    if text is None:
        return TIMEOUT_S if given is None else given
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 600:
        raise _wrong("timeout must be a number of seconds up to 600")
    return value


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"mail URL: {what}; example: smtp://user:password@mail.example.com:587", setting="SMTP_URL")
