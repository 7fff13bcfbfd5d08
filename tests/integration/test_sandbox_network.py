"""Handlers with a list of places on the network: ordinary clients work, everything else is refused and says so."""

# Handlers stand here as users write them.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined,attr-defined"

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import ssl
import threading

import pytest
from sandbox_world import run_one
from servers import postgres_server

from eventproc.model import FULL_NETWORK, Limits, NetworkGrant, NetworkPolicy, Policy
from eventproc.roles import certs
from eventproc.sandbox import dialer
from eventproc.sandbox.forkserver import ForkServerSandbox

ANY = Policy(network=NetworkPolicy(grant=NetworkGrant.ANY))
FULL = Policy(network=NetworkPolicy(grant=NetworkGrant.FULL))


class Answers(http.server.BaseHTTPRequestHandler):
    """Says which host it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello from {self.headers['Host'].partition(':')[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serving(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def web():
    server = serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers))
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def secure_web(tmp_path_factory):
    """Serve HTTPS; gives the port and the CA's certificate."""
    made = certs.init(tmp_path_factory.mktemp("certs"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server, made.server_key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving(server)
    yield server.server_port, made.ca.read_text()
    server.shutdown()
    server.server_close()


@pytest.fixture
def canary():
    """A socket that listens and that nobody may reach."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        yield listening.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.fixture(scope="module", params=["A", "B"])
def level(request):
    return request.param


@pytest.fixture(scope="module")
def sandbox(level):
    made = ForkServerSandbox(levels=[level], policy=ANY)
    yield made
    made.close()


def run(sandbox, handler, payload, *network, **asked):
    outcome, session = run_one(sandbox, handler, payload, network=network, **asked)
    return outcome, session.text()


def looked_up(monkeypatch, name, *addresses):
    """Stand in for a name server that we do not have."""
    real = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        hosts = addresses if host == name else [host]
        return [each for one in hosts for each in real(one, *args, **kwargs)]

    monkeypatch.setattr(dialer.socket, "getaddrinfo", getaddrinfo)


def result(sandbox, handler, payload, *network, **asked):
    outcome, said = run(sandbox, handler, payload, *network, **asked)
    assert outcome.failure is None, (outcome.failure, said)
    return json.loads(outcome.result_json)


def failure(sandbox, handler, payload, *network, **asked):
    outcome, said = run(sandbox, handler, payload, *network, **asked)
    assert outcome.failure is not None, outcome.result_json
    return outcome.failure.message, said


def _made_here():
    """Define the handler inside a function, so that it travels by value."""

    def get(db, url):
        import urllib.request

        return urllib.request.urlopen(url, timeout=5).read().decode()

    return get


urllib_get = _made_here()


# ---------------------------------------------------------------------- clients work unchanged


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("isolation", ["run", "cell"])
def test_a_listed_place_is_reached_by_name_and_by_address(sandbox, web, host, isolation):
    found = result(sandbox, urllib_get, {"url": f"http://{host}:{web}/"}, f"{host}:{web}", isolation=isolation)
    assert found == f"hello from {host}"


def test_httpx_works_blocking_and_in_asyncio(sandbox, web):
    def handler(db, url):
        import asyncio

        import httpx

        async def twice():
            async with httpx.AsyncClient(timeout=60) as client:
                answers = await asyncio.gather(client.get(url), client.get(url))
            return [answer.text for answer in answers]

        return [httpx.get(url, timeout=60).text, *asyncio.run(twice())]

    found = result(sandbox, handler, {"url": f"http://localhost:{web}/"}, f"localhost:{web}")
    assert found == ["hello from localhost"] * 3


def test_tls_is_the_clients_own_from_end_to_end(sandbox, secure_web):
    port, ca = secure_web

    def handler(db, url, ca):
        import ssl
        import urllib.request

        context = ssl.create_default_context(cadata=ca)
        return urllib.request.urlopen(url, timeout=5, context=context).read().decode()

    found = result(sandbox, handler, {"url": f"https://localhost:{port}/", "ca": ca}, f"localhost:{port}")
    assert found == "hello from localhost"


def test_a_client_written_in_c_works(sandbox):
    """libpq connects by itself; Python's socket module has no part in it."""
    with postgres_server() as server:

        def handler(db, port):
            import psycopg

            with psycopg.connect(f"postgresql://eventproc@127.0.0.1:{port}/postgres") as connection:
                return connection.execute("select 40 + 2").fetchone()[0]

        assert result(sandbox, handler, {"port": server.port}, f"127.0.0.1:{server.port}") == 42


def test_programs_find_listed_names_in_their_hosts_file(sandbox, monkeypatch, level, web):
    if level == "B":
        pytest.skip("level B starts no programs")
    if shutil.which("curl") is None:
        pytest.skip("apt-get install --no-install-recommends curl")

    def handler(db, port):
        import subprocess

        def curl(host):
            done = subprocess.run(["curl", "-sS", f"http://{host}:{port}"], capture_output=True, text=True, check=False)
            return done.stdout or f"curl gave {done.returncode}"

        return [curl("listed.example"), curl("other.example"), curl("127.0.0.1")]

    looked_up(monkeypatch, "listed.example", "127.0.0.1")
    found = result(sandbox, handler, {"port": web}, f"listed.example:{web}", allow_subprocess=True)
    assert found == ["hello from listed.example", "curl gave 6", "curl gave 7"]


def test_localhost_is_listed_for_clients_that_know_its_address_by_heart(sandbox, web):
    assert (
        result(sandbox, urllib_get, {"url": f"http://127.0.0.1:{web}/"}, f"localhost:{web}") == "hello from 127.0.0.1"
    )


def test_options_that_were_set_before_connecting_hold_afterwards(sandbox, web):
    def handler(db, port):
        import fcntl
        import os
        import socket

        made = socket.socket()
        made.settimeout(7)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.connect(("127.0.0.1", port))
        return [
            made.getpeername(),
            made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            os.get_blocking(made.fileno()),
            fcntl.fcntl(made.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC,
        ]

    assert result(sandbox, handler, {"port": web}, f"127.0.0.1:{web}") == [["127.0.0.1", web], 1, 1, False, 1]


def test_many_threads_connect_at_a_time(sandbox, web):
    def handler(db, url):
        import urllib.request
        from concurrent.futures import ThreadPoolExecutor

        def get(_):
            return len(urllib.request.urlopen(url, timeout=20).read())

        with ThreadPoolExecutor(16) as pool:
            return sum(pool.map(get, range(100)))

    assert result(sandbox, handler, {"url": f"http://localhost:{web}/"}, f"localhost:{web}") == 100 * 20


def test_a_server_that_refuses_is_the_handlers_own_to_deal_with(sandbox):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

    def handler(db, port):
        import socket

        try:
            socket.create_connection(("127.0.0.1", port), timeout=5)
        except ConnectionRefusedError:
            return "refused"

    assert result(sandbox, handler, {"port": port}, f"127.0.0.1:{port}") == "refused"


def test_a_connection_that_hangs_is_ended_by_the_time_limit(sandbox):
    """Nobody answers at an address of the documentation's block, or the host says at once that there is no way."""

    def handler(db, address):
        import socket

        try:
            socket.create_connection((address, 80))
        except OSError as error:
            return error.errno

    outcome, _ = run_one(
        sandbox, handler, {"address": "203.0.113.1"}, network=("203.0.113.1:80",), limits=Limits(timeout_s=1.0)
    )
    assert outcome.failure is None or outcome.failure.kind == "timeout"


# ---------------------------------------------------------------------- refusals


def test_another_port_of_a_listed_host_is_refused_by_name(sandbox, web, canary):
    message, said = failure(sandbox, urllib_get, {"url": f"http://localhost:{canary}/"}, f"localhost:{web}")
    for words in (f"localhost:{canary}", f"localhost:{web}", "network=["):
        assert words in message
        assert words in said


def test_another_host_is_refused_by_name(sandbox, web):
    message, _ = failure(sandbox, urllib_get, {"url": "http://example.com/"}, f"localhost:{web}")
    assert "example.com:80" in message
    assert "network=['example.com:80']" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "example.com", "[::1]"])
def test_without_a_network_the_refusal_names_place_and_option(sandbox, canary, host):
    message, _ = failure(sandbox, urllib_get, {"url": f"http://{host}:{canary}/"})
    assert f"{host}:{canary}" in message
    assert "no network" in message
    assert f"network=['{host}:{canary}']" in message


def test_udp_is_refused(sandbox, web):
    def handler(db, port):
        import socket

        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))

    message, _ = failure(sandbox, handler, {"port": web}, f"127.0.0.1:{web}")
    assert "TCP" in message


def test_a_name_that_leads_elsewhere_than_its_list_says_is_refused(sandbox, monkeypatch, web):
    """As by an attacker's name server, which first gives one address and then the one of the cloud's own service."""
    looked_up(monkeypatch, "rebinding.example", "169.254.169.254")
    message, said = failure(sandbox, urllib_get, {"url": "http://rebinding.example:80/"}, "rebinding.example:80")
    assert "policy" in message
    assert "rebinding.example leads to 169.254.169.254" in said


def test_by_default_a_name_must_not_lead_into_the_private_network(level, web, canary):
    made = ForkServerSandbox(levels=[level])
    try:
        message, said = failure(made, urllib_get, {"url": f"http://localhost:{canary}/"}, f"localhost:{canary}")
    finally:
        made.close()
    assert "policy" in message
    assert "not on the public internet" in said


def test_of_a_names_addresses_those_are_tried_that_may_be(sandbox, monkeypatch, web):
    looked_up(monkeypatch, "several.example", "169.254.169.254", "127.0.0.1")
    found = result(sandbox, urllib_get, {"url": f"http://several.example:{web}/"}, f"several.example:{web}")
    assert found == "hello from several.example"


def test_the_operators_word_of_today_counts_for_handlers_of_yesterday(level, web):
    made = ForkServerSandbox(levels=[level], policy=Policy(network=NetworkPolicy(grant=NetworkGrant.NONE)))
    try:
        message, _ = failure(made, urllib_get, {"url": f"http://localhost:{web}/"}, f"localhost:{web}")
    finally:
        made.close()
    assert "policy.network" in message


# ---------------------------------------------------------------------- hostile code


def test_no_way_around_the_workers_answer_leads_anywhere(sandbox, web, canary):  # noqa: C901, PLR0915
    """Straight to the kernel, with a connected socket in hand; whatever is reached shows at the canary."""

    def handler(db, port, canary):  # noqa: C901, PLR0915
        import ctypes
        import fcntl
        import os
        import socket
        import struct
        import threading

        libc = ctypes.CDLL(None, use_errno=True)
        target = struct.pack("=H", 2) + struct.pack(">H4s8x", canary, bytes([127, 0, 0, 1]))
        good = struct.pack("=H", 2) + struct.pack(">H4s8x", port, bytes([127, 0, 0, 1]))
        got = []

        def attempt(name, action):
            try:
                outcome = action()
            except OSError:
                return
            if outcome not in (None, -1):
                got.append(name)

        connected = socket.create_connection(("127.0.0.1", port))
        fd = connected.fileno()
        attempt("disconnect", lambda: libc.connect(fd, bytes(16), 16))
        attempt("reconnect", lambda: libc.connect(fd, target, 16))
        fresh = socket.socket()
        attempt("connect", lambda: libc.connect(fresh.fileno(), target, 16))
        attempt("fast open", lambda: libc.sendto(fresh.fileno(), b"x", 1, 0x20000000, target, 16))
        attempt("sendto", lambda: libc.sendto(fresh.fileno(), b"x", 1, 0, target, 16))
        attempt("fast open message", lambda: fresh.sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", canary)) and 1)
        for option in (23, 30, 31, 19, 14):
            attempt(f"option {option}", lambda option=option: fresh.setsockopt(6, option, 1) or 1)
        for what in ("bind", "listen"):
            argument = (("127.0.0.1", 0),) if what == "bind" else (1,)
            attempt(what, lambda what=what, argument=argument: getattr(fresh, what)(*argument) or 1)
        attempt("accept", lambda: libc.accept(fd, None, None))
        kinds = [
            (2, 2, 0),
            (2, 3, 1),
            (2, 1, 262),
            (2, 1, 132),
            (2, 5, 132),
            (16, 3, 0),
            (17, 3, 0),
            (40, 1, 0),
            (1, 1, 0),
        ]
        for kind in kinds:
            attempt(f"socket {kind}", lambda kind=kind: libc.socket(*kind))
        for request in (0x8912, 0x8915, 0x8927, 0x8946):
            attempt(f"ioctl {request:#x}", lambda request=request: fcntl.ioctl(fd, request, bytes(64)) and 1)
        attempt("long address", lambda: libc.connect(fresh.fileno(), target + bytes(1 << 16), 1 << 16))
        attempt("short address", lambda: libc.connect(fresh.fileno(), target, 4))
        attempt("no address", lambda: libc.connect(fresh.fileno(), None, 16))
        attempt("far address", lambda: libc.connect(fresh.fileno(), ctypes.c_void_p((1 << 64) - 4096), 16))
        attempt("no socket", lambda: libc.connect(0, good, 16))
        attempt("no descriptor", lambda: libc.connect(9999, good, 16))
        attempt("a pipe", lambda: libc.connect(os.pipe()[0], good, 16))

        racing = ctypes.create_string_buffer(good, 16)  # swapped while the worker looks at it
        stop = threading.Event()

        def swap():
            while not stop.is_set():
                ctypes.memmove(racing, target, 16)
                ctypes.memmove(racing, good, 16)

        swapper = threading.Thread(target=swap)
        swapper.start()
        for _ in range(100):
            with socket.socket() as tried:
                libc.connect(tried.fileno(), racing, 16)
        stop.set()
        swapper.join()
        return got

    assert result(sandbox, handler, {"port": web, "canary": canary}, f"127.0.0.1:{web}") == []


def test_a_flood_of_connections_costs_the_flooder_only(sandbox, web):
    def flood(db, port):
        import socket
        import threading

        def connect():
            for _ in range(50):
                with socket.socket() as made:
                    made.connect_ex(("127.0.0.1", port + 1))

        threads = [threading.Thread(target=connect) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    _, said = run(sandbox, flood, {"port": web}, f"127.0.0.1:{web}")
    assert said.count("was refused") <= dialer.MAX_NOTES
    assert (
        result(sandbox, urllib_get, {"url": f"http://localhost:{web}/"}, f"localhost:{web}") == "hello from localhost"
    )


def test_nothing_is_left_of_connections_and_their_threads(sandbox, web):
    url = f"http://localhost:{web}/"
    result(sandbox, urllib_get, {"url": url}, f"localhost:{web}")

    def held():
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208

    for _ in range(3):
        result(sandbox, urllib_get, {"url": url}, f"localhost:{web}")
    fds, threads = held()
    for _ in range(20):
        result(sandbox, urllib_get, {"url": url}, f"localhost:{web}")
    assert held()[0] <= fds + 4
    assert held()[1] <= threads + 4


# ---------------------------------------------------------------------- the whole network


def test_the_full_network_is_the_hosts_own(level, web):
    made = ForkServerSandbox(levels=[level], policy=FULL)

    def handler(db, url):
        import socket
        import urllib.request

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first, socket.socket(socket.AF_INET, 2) as second:
            first.bind(("127.0.0.1", 0))
            first.settimeout(5)
            second.sendto(b"datagram", first.getsockname())
            received = first.recv(100).decode()
        return [urllib.request.urlopen(url, timeout=5).read().decode(), received]

    try:
        found = result(made, handler, {"url": f"http://localhost:{web}/"}, *FULL_NETWORK)
        assert found == ["hello from localhost", "datagram"]
        outcome, _ = run_one(made, urllib_get, {"url": f"http://localhost:{web}/"})
        assert "no network" in outcome.failure.message
    finally:
        made.close()


def test_the_full_network_is_refused_where_the_operator_does_not_grant_it(sandbox):
    message, _ = failure(sandbox, urllib_get, {"url": "http://localhost/"}, *FULL_NETWORK)
    assert 'network="full"' in message
