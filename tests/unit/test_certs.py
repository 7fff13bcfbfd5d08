"""Certificates: made once, renewed without a new authority, kept private, and never mixed up."""

from __future__ import annotations

import datetime as dt
import ssl
import stat

import pytest

from eventproc.cli.main import run
from eventproc.errors import ConfigError, Conflict
from eventproc.roles import certs

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def test_keys_are_for_their_owner_alone_and_the_names_are_the_local_ones(tmp_path):
    made = certs.init(tmp_path / "certs", ["worker.example.com", "10.0.0.7"])
    assert stat.S_IMODE(made.directory.stat().st_mode) == 0o700
    for key in (made.ca_key, made.server_key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert made.names() == ["localhost", "127.0.0.1", "::1", "worker.example.com", "10.0.0.7"]


def test_a_client_that_trusts_the_authority_trusts_the_server_also_after_renewal(tmp_path):
    for _ in range(2):
        made = certs.init(tmp_path)
        made.read()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(made.server, made.server_key)
        shake_hands(server, ssl.create_default_context(cafile=made.ca), "localhost")
        authority = made.ca.read_bytes()
    assert certs.init(tmp_path).ca.read_bytes() == authority


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ours.do_handshake()


def test_another_authority_is_not_trusted(tmp_path):
    made, other = certs.init(tmp_path / "a"), certs.init(tmp_path / "b")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.server, made.server_key)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, ssl.create_default_context(cafile=other.ca), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, ssl.create_default_context(cafile=made.ca), "elsewhere.example.com")


def test_a_certificate_of_somebody_else_is_never_overwritten(tmp_path):
    made = certs.init(tmp_path)
    made.ca_key.unlink()
    before = made.server.read_bytes()
    with pytest.raises(Conflict, match=r"ca\.key"):
        certs.init(tmp_path)
    assert made.server.read_bytes() == before


def test_a_key_of_another_certificate_is_named(tmp_path):
    made, other = certs.init(tmp_path / "a"), certs.init(tmp_path / "b")
    made.server_key.write_bytes(other.server_key.read_bytes())
    with pytest.raises(ConfigError, match=r"server\.key is not the key of"):
        made.read()
    made.server_key.write_text("nothing")
    with pytest.raises(ConfigError, match="must hold PEM"):
        made.read()
    made.server_key.unlink()
    with pytest.raises(ConfigError, match="can not be read"):
        made.read()


def test_an_end_that_is_near_or_past_is_told(tmp_path):
    made = certs.init(tmp_path, now=NOW)
    ends = made.ends()
    assert made.warning(NOW) is None
    assert "ends at" in made.warning(ends - dt.timedelta(days=5))
    assert "clients refuse it" in made.warning(ends + dt.timedelta(days=1))


def test_a_name_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="neither a host name nor an IP address"):
        certs.init(tmp_path, ["a..b"])


def test_the_command_prints_what_a_client_needs_and_doctor_knows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "data"))
    assert run(["certs", "init", "--name", "worker.example.com"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "export BTRDB_ENDPOINTS=localhost:4411",
        f"export BTRDB_CA_BUNDLE={tmp_path}/data/certs/ca.pem",
        f"export BTRDB_API_KEY=$(cat {tmp_path}/data/admin.key)",
    ):
        assert line in printed
    assert run(["certs", "show"]) == 0
    assert "worker.example.com" in capsys.readouterr().out
    run(["doctor"])
    assert "gRPC on 127.0.0.1:4411" in capsys.readouterr().out


def test_showing_what_is_not_there_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path / "data"))
    assert run(["certs", "show"]) == 2
    assert "eventproc certs init" in capsys.readouterr().err
