"""A real SMTP server on loopback (aiosmtpd), which can be told to misbehave."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(kw_only=True)
class Mailbox:
    """What arrived, and how the server is to answer."""

    mails: list[tuple[str, tuple[str, ...], bytes]] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)  # recipient → answer, once for each entry in `once`
    once: set[str] = field(default_factory=set)
    sender_answer: str | None = None
    data_answers: list[str] = field(default_factory=list)  # taken one after another, then the mail is accepted
    hang_in: str | None = None  # RCPT, DATA or EHLO
    drop_in: str | None = None  # DATA: before the mail is taken; DATA-taken: after it was
    tries: int = 0
    helo: list[str] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    options: list[list[str]] = field(default_factory=list)

    def texts(self) -> list[bytes]:
        return [mail for _, _, mail in self.mails]


def _transport(server: SMTP) -> asyncio.Transport:
    assert isinstance(server.transport, asyncio.Transport)
    return server.transport


class _Handler:
    def __init__(self, box: Mailbox) -> None:
        self.box = box

    async def _hang(self) -> None:
        await asyncio.Event().wait()  # until the server is closed

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.box.helo.append(hostname)
        if self.box.hang_in == "EHLO":
            await self._hang()
        return responses

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, mail_options: list[str]
    ) -> str:
        self.box.tries += 1
        self.box.options.append(mail_options)
        if self.box.sender_answer is not None:
            return self.box.sender_answer
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        if self.box.hang_in == "RCPT":
            await self._hang()
        answer = self.box.refuse.get(address)
        if answer is not None:
            if address in self.box.once:
                del self.box.refuse[address]
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.box.hang_in == "DATA":
            await self._hang()
        if self.box.drop_in == "DATA":
            _transport(server).abort()
            return "451 dropped"
        if self.box.data_answers:
            return self.box.data_answers.pop(0)
        assert isinstance(envelope.content, bytes)
        self.box.encrypted.append(
            session.ssl is not None or _transport(server).get_extra_info("sslcontext") is not None
        )
        self.box.mails.append((str(envelope.mail_from), tuple(envelope.rcpt_tos), envelope.content))
        if self.box.drop_in == "DATA-taken":
            _transport(server).abort()
        return "250 OK"


class SmtpServer:
    """Runs on its own event loop in a thread; `port` is the one it got."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, implicit_tls: bool = False, **options: Any) -> None:
        self.box = Mailbox()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="smtp-server")
        self._thread.start()
        if not implicit_tls and tls is not None:
            options["tls_context"] = tls
        if "user" in options:
            wanted = LoginPassword(options.pop("user").encode(), options.pop("password").encode())
            options["authenticator"] = self._authenticator(wanted)
            options["auth_require_tls"] = options.get("tls_context") is not None

        def protocol() -> SMTP:
            return SMTP(_Handler(self.box), hostname="mail.test", enable_SMTPUTF8=True, loop=self._loop, **options)

        starting = self._loop.create_server(protocol, "127.0.0.1", 0, ssl=tls if implicit_tls else None)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(30)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _authenticator(self, wanted: LoginPassword) -> Any:
        def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
            self.box.logins.append((given.login.decode(), given.password.decode()))
            return AuthResult(success=given == wanted, handled=False)

        return check

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


def make_certificate(directory: Path, name: str = "localhost") -> tuple[ssl.SSLContext, Path]:
    """Make a self-signed certificate for `name` and 127.0.0.1; return a server's context and the file to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    authority = directory / "ca.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, authority
