"""What a user sees when the other side is missing, slow, strange or unfriendly."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from eventproc import Connection
from eventproc.errors import (
    ConfigError,
    DeadlineExceeded,
    EventprocError,
    InvalidInput,
    NotFound,
    ServerUnreachable,
    Unauthorized,
    Unavailable,
    UnknownHook,
    from_wire,
)
from eventproc.model import NewEvent
from eventproc.registry.triggers.timex import TimexError

KEY = "top-secret-key"


class Stub:
    """An HTTP server that answers as it is told and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] = reply(200, {"items": [], "next": None})
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                stub.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                stub.answer(self)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names

            def log_message(self, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        self.endpoint = f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def reply(status: int, body: object, *, content_type: str = "application/json", **headers: str):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-type", content_type)
        handler.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def in_turn(*answers: Callable[[http.server.BaseHTTPRequestHandler], None]):
    """Answer each request with the next of `answers`, and the last for ever."""
    left = list(answers)

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return answer


def dropped(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def conn(stub) -> Iterator[Connection]:
    with Connection(stub.endpoint, KEY, timeout=10) as connection:
        yield connection


@contextlib.contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a raw TCP server; `serve` gets each connection in a thread of its own."""
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)

    def accept() -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        stop.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def error_of(kind: type[EventprocError], endpoint: str, **kwargs: object) -> EventprocError:
    with Connection(endpoint, KEY, **kwargs) as conn, pytest.raises(kind) as caught:
        conn.hooks()
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.details)
    return caught.value


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


# ------------------------------------------------------------------------------------------- not there


def test_nothing_listens():
    endpoint = f"127.0.0.1:{free_port()}"
    text = str(error_of(ServerUnreachable, endpoint))
    assert f"nothing answers at http://{endpoint}" in text
    assert "eventproc serve" in text


def test_an_unknown_host():
    assert "host of http://nowhere.invalid:8080 is not known" in str(
        error_of(ServerUnreachable, "nowhere.invalid:8080")
    )


def test_the_next_endpoint_is_tried(stub):
    with Connection(f"127.0.0.1:{free_port()}, {stub.endpoint}", KEY) as conn:
        assert conn.hooks() == []
        assert conn.endpoint == f"http://{stub.endpoint}"


def test_a_server_that_comes_up_late_is_found(stub, conn):
    """A connection that is dropped is tried again for requests that may be repeated."""
    stub.answer = in_turn(dropped, dropped, reply(200, {"items": [], "next": None}))
    assert conn.hooks() == []
    assert len(stub.asked) == 3


def test_a_registration_is_never_sent_twice(stub, conn):
    stub.answer = dropped
    with pytest.raises(ServerUnreachable, match="connection broke"):
        conn.request("POST", "/handlers", json={})
    assert len(stub.asked) == 1


def test_an_emit_is_sent_again_under_the_same_id(stub, conn):
    """The server knows the id again, so a lost answer costs nothing; the caller sees one plain acceptance."""
    stub.answer = in_turn(dropped, reply(200, {"id": "x", "seq": 1, "duplicate": True, "runs": []}))
    assert conn.emit("a.b", {"x": 1})["duplicate"] is False
    first, second = (json.loads(asked[3]) for asked in stub.asked)
    assert first == second
    assert first["id"]


def test_a_duplicate_under_the_callers_own_id_is_told(stub, conn):
    stub.answer = reply(200, {"id": "mine", "seq": 1, "duplicate": True, "runs": []})
    assert conn.emit("a.b", {}, id="mine")["duplicate"] is True


def test_what_was_sent_before_a_break_is_told(stub, conn):
    accepted = reply(200, {"items": [{"id": str(n), "seq": n, "duplicate": False, "runs": []} for n in range(500)]})
    stub.answer = in_turn(accepted, dropped)
    with pytest.raises(ServerUnreachable) as caught:
        conn.emit_many(("a.b", {"n": n}) for n in range(700))
    assert len(caught.value.details["done"]) == 500


def test_a_time_that_can_not_be_written_is_refused_by_itself(stub, conn):
    stub.answer = reply(200, {"items": [{"id": "x", "seq": 1, "duplicate": False, "runs": []}]})
    beyond = NewEvent(hook="a.b", payload={}, time_us=1 << 60)
    before = dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5)))
    late, good, early = conn.emit_many([beyond, ("a.b", {"x": 1}), {"hook": "a.b", "time": before}])
    assert (good["id"], good["duplicate"]) == ("x", False)
    for answer in (late, early):
        assert answer["error"]["code"] == "invalid"
        assert "outside of the years 1 to 9999" in answer["error"]["message"]
    with pytest.raises(InvalidInput, match="outside of the years"):
        conn.emit("a.b", {}, time=before)


# ------------------------------------------------------------------------------------------- slow


def test_a_server_that_hangs():
    hang = threading.Event()
    with listener(lambda connection: hang.wait(600)) as endpoint:
        text = str(error_of(DeadlineExceeded, endpoint, timeout=0.3))
        hang.set()
    assert "did not answer within 0.3 s" in text


def drip(head: bytes, rest: bytes):
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        for byte in rest:
            time.sleep(0.05)
            connection.sendall(bytes([byte]))

    return serve


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n", b" " * 600),
        (b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n" * 80),
    ],
    ids=["body", "headers"],
)
def test_a_server_that_drips(head, rest):
    """Each read succeeds in time; the call as a whole has a deadline all the same."""
    with listener(drip(head, rest)) as endpoint:
        error_of(DeadlineExceeded, endpoint, timeout=0.5)


# ------------------------------------------------------------------------------------------- strange


GRPC_SETTINGS = bytes.fromhex("000018040000000000000400400000000500400000000600002000fe0300000001")


def test_a_grpc_port_in_plain_text():
    def serve(connection: socket.socket) -> None:
        connection.sendall(GRPC_SETTINGS)
        while connection.recv(4096):
            pass

    with listener(serve) as endpoint:
        text = str(error_of(ServerUnreachable, endpoint))
    assert "a gRPC server answers there; this client speaks HTTP. Try http://127.0.0.1:8080" in text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", f"{path}.key", "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_name("cert.pem.key").read_text())
    return str(path)


@contextlib.contextmanager
def tls_listener(certificate: str, protocols: list[str], serve: Callable[[ssl.SSLSocket], None]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(protocols)

    def secured(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            serve(secure)

    with listener(secured) as endpoint:
        yield endpoint


def test_a_grpc_port_with_tls_names_the_platforms_http_endpoint(certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    (tmp_path / "endpoints.json").write_text('{"http": "http://127.0.0.1:9871", "grpc": "127.0.0.1:4411"}')
    with tls_listener(certificate, ["h2"], lambda secure: secure.recv(10)) as endpoint:
        text = str(error_of(ServerUnreachable, endpoint))
        assert "a gRPC server answers there; this client speaks HTTP. Try http://127.0.0.1:9871" in text
        text = str(error_of(ServerUnreachable, f"https://{endpoint}", ca=certificate))
        assert "gRPC" in text


def http_ok(secure: socket.socket) -> None:
    secure.recv(65536)
    body = b'{"items": [], "next": null}'
    secure.sendall(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    )


def test_https_with_an_own_certificate(certificate):
    with tls_listener(certificate, ["http/1.1"], http_ok) as endpoint:
        with Connection(f"https://{endpoint}", KEY, ca=certificate) as conn:
            assert conn.hooks() == []
        assert "certificate of" in str(error_of(ServerUnreachable, f"https://{endpoint}"))
        text = str(error_of(ServerUnreachable, f"http://{endpoint}"))
        assert f"a TLS server answers there; try https://{endpoint}" in text


def test_https_to_a_plain_server(stub):
    text = str(error_of(ServerUnreachable, f"https://{stub.endpoint}"))
    assert f"does not speak TLS; try http://{stub.endpoint}" in text


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"<html>It works!</html>", content_type="text/html"),
        reply(404, b"<html>nothing here</html>", content_type="text/html"),
        reply(302, b"", location="https://sso.example.com/login"),
        reply(500, b"oops", content_type="text/plain"),
        reply(200, b"[" * 100_000),
    ],
    ids=["html", "html 404", "redirect", "plain 500", "bottomless JSON"],
)
def test_another_kind_of_server(stub, answer):
    stub.answer = answer
    text = str(error_of(ServerUnreachable, stub.endpoint))
    assert "it is not an eventproc server" in text
    assert len(stub.asked) == 1


def test_bytes_that_are_no_http():
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"220 smtp.example.com ESMTP\r\n")

    with listener(serve) as endpoint:
        error_of(ServerUnreachable, endpoint)


def test_a_key_is_not_sent_elsewhere_by_a_redirect(stub):
    other = Stub()
    try:
        stub.answer = reply(307, b"", location=f"http://{other.endpoint}/api/v1/hooks")
        error_of(ServerUnreachable, stub.endpoint)
        assert other.asked == []
    finally:
        other.close()


# ------------------------------------------------------------------------------------------- refusals


def test_the_servers_own_error_comes_through(stub, conn):
    body = {"error": {"code": "unknown_hook", "message": "unknown hook 'x'", "details": {"near": ["y"]}}}
    stub.answer = reply(404, body)
    with pytest.raises(UnknownHook, match="unknown hook 'x'") as caught:
        conn.hook("x")
    assert caught.value.details == {"near": ["y"]}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthorized), (404, NotFound), (503, Unavailable), (504, DeadlineExceeded)],
)
def test_a_status_without_our_body(stub, conn, status, kind):
    stub.answer = reply(status, {"detail": "from a proxy"})
    with pytest.raises(kind, match="from a proxy"):
        conn.me()


def test_the_key_goes_into_the_header_and_nowhere_else(stub, conn):
    conn.hooks()
    _, path, headers, _ = stub.asked[0]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in path
    assert KEY not in repr(conn)
    assert KEY not in repr(vars(conn))
    assert conn.apikey == KEY


def test_proxies_of_the_environment_are_not_used(stub, conn, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert conn.hooks() == []


def test_names_are_quoted_in_paths(stub, conn):
    stub.answer = reply(200, {"name": "x"})
    conn.hook("a/../b?c#d é")
    assert stub.asked[0][1] == "/api/v1/hooks/a%2F..%2Fb%3Fc%23d%20%C3%A9"


def test_a_list_is_read_to_its_end(stub, conn):
    pages = {None: ([{"name": "a"}], "1"), "1": ([{"name": "b"}], None)}

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        after = "1" if "after=1" in handler.path else None
        items, following = pages[after]
        reply(200, {"items": items, "next": following})(handler)

    stub.answer = answer
    assert conn.hooks() == ["a", "b"]


# ------------------------------------------------------------------------------------------- archives, files


def test_an_import_reports_its_progress(stub, conn, tmp_path):
    lines = [
        {"done": 1, "total": 2, "name": "a.cfg", "ok": True},
        {"done": 2, "total": 2, "name": "b.cfg", "ok": False, "error": "cfg format error"},
        {"result": {"event_id": "e1", "payload": {"File": "x.zip"}}},
    ]
    stub.answer = reply(200, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    archive = tmp_path / "x.zip"
    archive.write_bytes(b"PK")
    seen: list[dict] = []
    result = conn.ingest_comtrade(archive, ["a", "b"], progress=seen.append)
    assert result["event_id"] == "e1"
    assert [line["name"] for line in seen] == ["a.cfg", "b.cfg"]
    assert stub.asked[0][1] == "/api/v1/ingest/comtrade?tag=a&tag=b&name=x.zip"


def test_a_failed_import_is_an_error(stub, conn, tmp_path):
    archive = tmp_path / "x.zip"
    archive.write_bytes(b"PK")
    stub.answer = reply(200, b'{"error": {"code": "ingress", "message": "not an archive", "details": {}}}\n')
    with pytest.raises(EventprocError, match="not an archive"):
        conn.ingest_comtrade(archive)
    stub.answer = reply(200, b'{"done": 1, "total": 2, "name": "a", "ok": true}\n')
    with pytest.raises(ServerUnreachable, match="broke off"):
        conn.ingest_comtrade(archive)


def test_a_download_is_written_whole(stub, conn, tmp_path):
    stub.answer = reply(200, b"x" * 100_000, content_type="application/octet-stream")
    assert conn.download("https://host/" + "a" * 32, tmp_path / "file") == 100_000
    assert (tmp_path / "file").read_bytes() == b"x" * 100_000
    assert stub.asked[0][1] == "/api/v1/files/" + "a" * 32


# ------------------------------------------------------------------------------------------- what the caller gave


def test_without_anything_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="EVENTPROC_ENDPOINTS"):
        Connection()
    with pytest.raises(Unauthorized, match="EVENTPROC_API_KEY"):
        Connection("localhost:8080")


def test_the_environment_is_read_when_the_connection_is_made(monkeypatch):
    monkeypatch.setenv("BTRDB_ENDPOINTS", "old.example.com:4411")
    monkeypatch.setenv("BTRDB_API_KEY", "old")
    conn = Connection()
    assert (conn.endpoint, conn.apikey) == ("http://old.example.com:4411", "old")
    monkeypatch.setenv("EVENTPROC_ENDPOINTS", "https://new.example.com")
    monkeypatch.setenv("EVENTPROC_API_KEY", "new")
    conn = Connection()
    assert (conn.endpoint, conn.apikey) == ("https://new.example.com", "new")
    conn = Connection("localhost:1", "given")
    assert (conn.endpoint, conn.apikey) == ("http://localhost:1", "given")


def test_the_platform_of_this_machine_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    (tmp_path / "endpoints.json").write_text('{"http": "http://127.0.0.1:9871"}')
    (tmp_path / "admin.key").write_text("local-key\n")
    conn = Connection()
    assert (conn.endpoint, conn.apikey) == ("http://127.0.0.1:9871", "local-key")
    assert Connection("127.0.0.1:9871").apikey == "local-key"


def test_the_local_admin_key_is_not_sent_to_another_server(tmp_path, monkeypatch):
    monkeypatch.setenv("EVENTPROC_DATA", str(tmp_path))
    (tmp_path / "endpoints.json").write_text('{"http": "http://127.0.0.1:9871"}')
    (tmp_path / "admin.key").write_text("local-key\n")
    with pytest.raises(Unauthorized):
        Connection("elsewhere.example.com:8080")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("localhost", "the port is missing; write localhost:8080"),
        ("localhost:http", "the port must be"),
        ("localhost:99999", "the port must be"),
        ("localhost:0", "write it as host:port"),
        ("ftp://localhost:1", "ftp:// is not spoken"),
        ("http://", "write it as host:port"),
        ("http://user:pass@localhost:1", "must not hold a name or password"),
        ("localhost:4411#", "no ? or # belongs there"),
        ("local host:1 2", "invalid endpoint"),
        ("", "empty"),
        ("a b c", "invalid endpoint"),
    ],
)
def test_a_malformed_endpoint_is_explained(text, words):
    with pytest.raises(InvalidInput) as caught:
        Connection(text, KEY)
    assert words in str(caught.value)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["localhost:1", "http://localhost", "https://[::1]:8080/base/", "127.0.0.1:1,localhost:2"]
)
def test_good_endpoints(endpoint):
    Connection(endpoint, KEY)


@pytest.mark.parametrize("key", ["", "  ", "two words", "line\nbreak", "schlüssel"])
def test_a_malformed_key_is_refused_without_being_repeated(key):
    with pytest.raises(Unauthorized) as caught:
        Connection("localhost:1", key)
    assert not key.strip() or key not in str(caught.value)


def test_other_arguments_are_checked(tmp_path):
    with pytest.raises(InvalidInput, match="timeout"):
        Connection("localhost:1", KEY, timeout=0)
    with pytest.raises(ConfigError, match="no file"):
        Connection("localhost:1", KEY, ca=tmp_path / "none.pem")
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificates")
    with Connection("https://localhost:1", KEY, ca=empty) as conn, pytest.raises(ConfigError, match="certificates"):
        conn.hooks()


def test_a_connection_that_nobody_closed_says_nothing_at_the_end_of_the_process():
    """It is kept by a module that is taken apart late, when other modules are gone already."""
    code = """
from eventproc.client import transport
from eventproc.client.endpoint import Address

kept = transport.Transport(Address(bases=("http://127.0.0.1:1",), apikey="k"), timeout=1, ca=None)
kept._open()
transport.kept = kept
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_comes_back_as_the_class_that_its_code_names():
    """A special kind of InvalidInput that has no code of its own is not taken for all of them."""
    assert issubclass(TimexError, InvalidInput)
    assert type(from_wire("invalid", "no")) is InvalidInput
    for code in ("error", "nothing-known"):
        assert type(from_wire(code, "no")) is EventprocError
