"""The platform's own certificate authority, and the server certificate that gRPC and HTTPS show."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eventproc.datadir import make_directory, write_atomically
from eventproc.errors import ConfigError, Conflict

NAMES = ("localhost", "127.0.0.1", "::1")
CA_DAYS = 3650
SERVER_DAYS = 820  # what strict clients take at most
SOON_DAYS = 30  # before the end, people are told
CLOCK_SKEW = dt.timedelta(hours=1)
WHAT_TO_DO = "`eventproc certs init` makes a new one"


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificates:
    """Where the files are: `$EVENTPROC_DATA/certs`."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def server(self) -> Path:
        return self.directory / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.directory / "server.key"

    def exist(self) -> bool:
        return self.server.exists() or self.server_key.exists()

    def read(self) -> tuple[bytes, bytes]:
        """Return the server's key and certificate chain. Raises ConfigError when they do not belong together."""
        chain, key = _bytes(self.server), _bytes(self.server_key)
        try:
            public = x509.load_pem_x509_certificates(chain)[0].public_key()
            private = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                f"{self.server} and {self.server_key} must hold PEM, the key without a password: {error}"
            ) from None
        if _raw(public) != _raw(private.public_key()):
            raise ConfigError(f"{self.server_key} is not the key of {self.server}; {WHAT_TO_DO}")
        return key, chain

    def ends(self) -> dt.datetime:
        """Return when the server's certificate ends."""
        return x509.load_pem_x509_certificates(_bytes(self.server))[0].not_valid_after_utc

    def names(self) -> list[str]:
        """Return the names and addresses that the server's certificate is for."""
        certificate = x509.load_pem_x509_certificates(_bytes(self.server))[0]
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name.value) for name in found]

    def warning(self, now: dt.datetime) -> str | None:
        """Say when the certificate has ended or soon will."""
        ends = self.ends()
        if ends < now:
            return f"the certificate {self.server} ended at {ends:%Y-%m-%d}: clients refuse it; {WHAT_TO_DO}"
        if ends - now < dt.timedelta(days=SOON_DAYS):
            return f"the certificate {self.server} ends at {ends:%Y-%m-%d}; {WHAT_TO_DO}"
        return None


def server_context(certificates: Certificates) -> ssl.SSLContext:
    """Return what a listener shows its clients; makes the certificates where there are none."""
    if not certificates.exist():
        init(certificates.directory)
    certificates.read()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    return context


def init(directory: Path, names: Sequence[str] = (), *, now: dt.datetime | None = None) -> Certificates:
    """
    Make a server certificate, and the authority that signs it unless there is one already.

    Clients that trust `ca.pem` go on working. Raises Conflict when the certificate there comes from somebody else.
    """
    certificates = Certificates(directory=directory)
    moment = now or dt.datetime.now(dt.UTC)
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_directory(directory)
    directory.chmod(0o700)
    if certificates.ca_key.exists():
        ca, ca_key = _load_ca(certificates)
    elif certificates.exist() or certificates.ca.exists():
        raise Conflict(
            f"{directory} holds a certificate, and not the key {certificates.ca_key.name} of an authority that could "
            "sign another; move the files away first if they are not needed any more"
        )
    else:
        ca, ca_key = _make_ca(certificates, moment)
    key = ec.generate_private_key(ec.SECP256R1())
    chain = _issue(ca, ca_key, key, [*NAMES, *names], moment)
    write_atomically(certificates.server_key, _key_pem(key), mode=0o600)
    write_atomically(certificates.server, chain + _pem(ca), mode=0o644)
    return certificates


def _make_ca(certificates: Certificates, now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eventproc CA")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    ca = (
        _builder(name, key, now, CA_DAYS)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomically(certificates.ca_key, _key_pem(key), mode=0o600)
    write_atomically(certificates.ca, _pem(ca), mode=0o644)
    return ca, key


def _load_ca(certificates: Certificates) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        ca = x509.load_pem_x509_certificate(_bytes(certificates.ca))
        key = serialization.load_pem_private_key(_bytes(certificates.ca_key), password=None)
        ca.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ConfigError(f"{certificates.ca} or {certificates.ca_key} is damaged: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or _raw(ca.public_key()) != _raw(key.public_key()):
        raise ConfigError(f"{certificates.ca_key} is not the key of {certificates.ca}")
    return ca, key


def _issue(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    now: dt.datetime,
) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eventproc")])
    authority = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(subject, key, now, SERVER_DAYS)
        .issuer_name(ca.subject)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in dict.fromkeys(names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(certificate)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):  # then it is a host's name
        return x509.IPAddress(ipaddress.ip_address(name))
    try:
        return x509.DNSName(name.encode("idna").decode())
    except UnicodeError:
        raise ConfigError(f"{name!r} is neither a host name nor an IP address") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror}; {WHAT_TO_DO}") from error


def _raw(key: object) -> bytes:
    public = getattr(key, "public_bytes")  # noqa: B009  # every kind of public key has it, under no common type
    found = public(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(found, bytes)
    return found


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


__all__ = ["Certificates", "init"]
