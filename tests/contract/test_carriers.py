"""Contract of the carriers: each message gets its own verdict, and a real broker or server has what is delivered."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pika
import pytest
from servers import free_port, rabbitmq_server
from waiting import wait_until

from eventproc.bus.carrier import RabbitMQCarrier
from eventproc.model import Outgoing, OutgoingState
from eventproc.notify.webhook import HttpCarrier


def outgoing(number: int, target: str, body: bytes = b"{}", **headers: str) -> Outgoing:
    return Outgoing(
        id=number,
        kind="any",
        target=target,
        headers=headers,
        body=body,
        state=OutgoingState.PENDING,
        attempts=1,
        due_us=0,
        created_us=7,
        error=None,
        token=1,
        since_us=7,
        refusals=0,
    )


# ---------------------------------------------------------------------------------------------------- amqp


@pytest.fixture
def channel(rabbitmq):
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    yield connection.channel()
    connection.close()


@pytest.fixture
def carrier(rabbitmq):
    made = RabbitMQCarrier(rabbitmq.url)
    yield made
    made.close()


def taken(channel, queue: str, wanted: int = 1):
    got = []

    def all_there() -> bool:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is not None:
            got.append((properties, body))
        return len(got) == wanted

    wait_until(all_there, timeout_s=30, what=f"{wanted} messages in {queue}")
    return got


@pytest.mark.external_service
def test_a_message_reaches_its_queue_with_its_properties(carrier, channel):
    channel.queue_declare("q1", durable=True)
    body = b'{"a": "\xc3\xa4"}'
    sent = outgoing(5, "/q1", body, content_type="application/json", type="t", **{"header.x": "1"})
    [verdict] = carrier.deliver([sent])
    assert verdict.error is None
    [(properties, received)] = taken(channel, "q1")
    assert received == body
    assert (properties.content_type, properties.type, properties.headers) == ("application/json", "t", {"x": "1"})
    assert (properties.delivery_mode, properties.message_id) == (2, "eventproc-7-5")


@pytest.mark.external_service
def test_an_exchange_is_declared_when_asked_for_and_everybody_bound_to_it_gets_the_message(carrier, channel):
    declared = {"declare": "fanout"}
    assert carrier.deliver([outgoing(1, "results/", **declared)])[0].error is None  # nobody listens: that is fine
    for queue in ("q2", "q3"):
        channel.queue_declare(queue)
        channel.queue_bind(queue, "results")
    messages = [outgoing(number, "results/", str(number).encode(), **declared) for number in range(20)]
    assert [verdict.error for verdict in carrier.deliver(messages)] == [None] * 20
    for queue in ("q2", "q3"):
        assert [body for _, body in taken(channel, queue, 20)] == [message.body for message in messages]


@pytest.mark.external_service
def test_an_exchange_that_is_there_is_taken_as_it_is(carrier, channel):
    channel.exchange_declare("passing", "topic", durable=False)  # as OpenStack's are by default
    channel.queue_declare("q-passing")
    channel.queue_bind("q-passing", "passing", "a.*")
    assert carrier.deliver([outgoing(1, "passing/a.b", b"1", declare="topic")])[0].error is None
    assert [body for _, body in taken(channel, "q-passing")] == [b"1"]


@pytest.mark.external_service
@pytest.mark.parametrize("there", [True, False])
def test_a_queue_is_made_and_bound_before_the_first_message(carrier, channel, there):
    queue = f"kept-{there}"
    if there:  # and is not durable, as OpenStack's are by default
        channel.queue_declare(queue)
    asked = {"declare": "topic", "queue": queue}
    assert carrier.deliver([outgoing(1, f"keeping/{queue}", b"1", **asked)])[0].error is None
    assert [body for _, body in taken(channel, queue)] == [b"1"]
    channel.queue_delete(queue)
    [verdict] = carrier.deliver([outgoing(2, f"keeping/{queue}", b"2", **asked)])
    assert verdict.error == f"there is no queue {queue!r}"
    assert not verdict.final
    assert carrier.deliver([outgoing(2, f"keeping/{queue}", b"2", **asked)])[0].error is None
    assert [body for _, body in taken(channel, queue)] == [b"2"]
    if not there:
        channel.queue_declare(queue, durable=True)  # refused if it were not


@pytest.mark.external_service
def test_one_bad_message_does_not_spoil_its_neighbours(carrier, channel):
    channel.queue_declare("q4")
    channel.exchange_declare("straight", exchange_type="direct", durable=True)
    messages = [
        outgoing(1, "/q4"),
        outgoing(2, "nowhere/x"),
        outgoing(3, "/no-such-queue"),
        outgoing(4, "straight/x", declare="fanout"),
        outgoing(5, "/" + "x" * 300),
        outgoing(6, "/q4"),
    ]
    verdicts = carrier.deliver(messages)
    assert [verdict.error is None for verdict in verdicts] == [True, False, False, False, False, True]
    assert [verdict.final for verdict in verdicts] == [False, False, False, True, True, False]
    assert not any(verdict.unreachable for verdict in verdicts)
    assert "no exchange 'nowhere'" in verdicts[1].error
    assert "no queue 'no-such-queue'" in verdicts[2].error
    assert len(taken(channel, "q4", 2)) == 2


@pytest.mark.external_service
def test_a_broker_that_went_and_came_back_is_connected_to_again():
    with rabbitmq_server() as broker:
        carrier = RabbitMQCarrier(broker.url)
        assert carrier.deliver([outgoing(1, "e/", declare="topic")])[0].error is None
        broker.kill()
        verdicts = carrier.deliver([outgoing(2, "e/"), outgoing(3, "e/")])
        assert [verdict.unreachable for verdict in verdicts] == [True, True]
        assert "guest" not in verdicts[0].error
        broker.start()
        assert carrier.deliver([outgoing(4, "e/", declare="topic")])[0].error is None
        carrier.close()


def test_without_a_broker_nothing_is_tried():
    carrier = RabbitMQCarrier(f"amqp://u:secret@127.0.0.1:{free_port()}/")
    verdicts = carrier.deliver([outgoing(1, "/q"), outgoing(2, "/q")])
    assert [verdict.unreachable for verdict in verdicts] == [True, True]
    assert "secret" not in str(verdicts) + carrier.describe()
    carrier.close()
    carrier.close()


# ---------------------------------------------------------------------------------------------------- http


@pytest.fixture
def server():
    """Answer with the status that the path names, and keep what came."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.command, self.path, dict(self.headers), body))
            answer = b"because"
            self.send_response(int(self.path.strip("/")))
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_POST  # noqa: N815 - the base class calls it so

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.received = received
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def webhooks():
    made = HttpCarrier(timeout_s=20, turn_s=300)
    yield made
    made.close()


def test_a_webhook_gets_the_body_and_the_headers(server, webhooks):
    url = f"http://127.0.0.1:{server.server_port}"
    verdicts = webhooks.deliver(
        [outgoing(1, f"{url}/200", b'{"a": 1}', **{"x-key": "k"}), outgoing(2, f"{url}/204", method="PUT")]
    )
    assert [verdict.error for verdict in verdicts] == [None, None]
    (method, _, headers, body), (second, *_) = server.received
    assert (method, second, json.loads(body)) == ("POST", "PUT", {"a": 1})
    headers = {name.lower(): text for name, text in headers.items()}
    assert (headers["x-key"], headers["content-type"]) == ("k", "application/json")
    assert headers["idempotency-key"] == "eventproc-7-1"


@pytest.mark.parametrize(
    ("status", "final"), [(301, True), (400, True), (404, True), (410, True), (429, False), (500, False), (503, False)]
)
def test_an_answer_says_whether_another_try_is_worth_it(server, webhooks, status, final):
    [verdict] = webhooks.deliver([outgoing(1, f"http://127.0.0.1:{server.server_port}/{status}")])
    assert verdict.final is final
    assert str(status) in verdict.error
    assert "because" in verdict.error


def test_a_dead_host_is_tried_once_and_holds_up_nobody(server, webhooks):
    dead = f"http://127.0.0.1:{free_port()}/200"
    alive = f"http://127.0.0.1:{server.server_port}/200"
    verdicts = webhooks.deliver([outgoing(1, dead), outgoing(2, dead), outgoing(3, alive)])
    assert [verdict.unreachable for verdict in verdicts] == [False, True, False]
    assert [verdict.error is None for verdict in verdicts] == [False, False, True]
    assert not verdicts[0].final


@pytest.fixture
def odd():
    """Answer each connection with the bytes that belong to the request's path, then go on as `then` does."""
    answers, then = {}, {}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            path = self.rfile.readline().split()[1].decode()
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answers[path])
            with contextlib.suppress(OSError):  # the other side went
                then.get(path, lambda _: None)(self.wfile)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as running:
        running.answers, running.then = answers, then
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("charset", ["hex", "rot13", "base64", "no-such"])
def test_an_odd_answer_is_one_messages_own_matter(odd, webhooks, charset):
    plain = b"connection: close\r\ncontent-length: 5\r\n\r\nplain"
    odd.answers["/gzip-200"] = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n" + plain
    odd.answers["/500"] = b"HTTP/1.1 500 No\r\ncontent-type: text/plain; charset=" + charset.encode() + b"\r\n" + plain
    odd.answers["/no-http"] = b"what?\r\n\r\n"
    odd.answers["/cut-off"] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\npl"
    paths = ["/no-http", "/gzip-200", "/500", "/cut-off"]
    verdicts = webhooks.deliver([outgoing(number, odd.url + path) for number, path in enumerate(paths)])
    assert [verdict.error for verdict in verdicts[1:]] == [None, "500 No: plain", None]
    assert "RemoteProtocolError" in verdicts[0].error
    assert not any(verdict.unreachable or verdict.final for verdict in verdicts)


def drip(to):
    while True:
        to.write(b"x: y\r\n")
        time.sleep(0.05)


def test_an_answer_that_never_ends_is_bounded(odd, webhooks):
    odd.answers |= {"/head": b"HTTP/1.1 200 OK\r\n", "/body": b"HTTP/1.1 200 OK\r\n\r\n"}
    odd.answers["/flood"] = b"HTTP/1.1 503 Busy\r\n\r\n" + 1000 * b"much "
    odd.then |= {"/head": drip, "/body": drip, "/flood": lambda to: [to.write(1000 * b"more ") for _ in iter(int, 1)]}
    paths = ["/head", "/body", "/flood"]
    verdicts = webhooks.deliver(
        [outgoing(number, odd.url + path, **{"patience.timeout": "1"}) for number, path in enumerate(paths)]
    )
    assert "Timeout" in verdicts[0].error
    assert verdicts[1].error is None  # it said 200
    assert verdicts[2].error.startswith("503 Busy: much much")
    assert len(verdicts[2].error) < 250


def test_who_waits_shorter_than_usual_keeps_the_next_from_nothing(odd, webhooks):
    odd.answers |= {"/hung": b"", "/fine": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"}
    odd.then["/hung"] = lambda _: time.sleep(5)
    impatient = outgoing(1, odd.url + "/hung", **{"patience.timeout": "0.1"})
    assert [verdict.error is None for verdict in webhooks.deliver([impatient, outgoing(2, odd.url + "/fine")])] == [
        False,
        True,
    ]


def test_a_slow_host_has_its_turn_and_others_wait_no_longer(server):
    slow, quick = (f"http://{host}:{server.server_port}/200" for host in ("127.0.0.1", "localhost"))
    carrier = HttpCarrier(timeout_s=60, turn_s=0)  # so that every host is slow
    try:
        waiting = [outgoing(number, slow) for number in (1, 2, 3)]
        first = carrier.deliver([*waiting, outgoing(4, quick)])
        again = carrier.deliver(waiting[1:])
    finally:
        carrier.close()
    assert [verdict.error is None for verdict in first] == [True, False, False, True]
    assert [(verdict.unreachable, verdict.later_s) for verdict in first[1:3]] == [(True, 1.0)] * 2
    assert first[1].error == "it waits for its turn: the host is slow"
    assert [verdict.error is None for verdict in again] == [True, False]


def test_a_host_that_is_not_there_is_left_alone_for_a_while(webhooks):
    dead = f"http://127.0.0.1:{free_port()}/200"
    first = webhooks.deliver([outgoing(1, dead), outgoing(2, dead)])
    again = webhooks.deliver([outgoing(3, dead)])
    assert [verdict.unreachable for verdict in first + again] == [False, True, True]
    assert 0 < again[0].later_s <= first[1].later_s <= 2
    assert "ConnectError" in again[0].error


class Identity:
    """Gives a token to those who know the key, and a server that takes the newest one only."""

    def __init__(self):
        self.given, self.posted, self.valid = [], [], True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status, answer = outer.answer(self.path, self.headers, body)
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def answer(self, path, headers, body):
        if path == "/tokens":
            who = json.loads(body)["auth"]["RAX-KSKEY:apiKeyCredentials"]
            if who != {"username": "u", "apiKey": "k"}:
                return 401, b"no"
            self.given.append(f"token-{len(self.given)}")
            return 200, json.dumps({"access": {"token": {"id": self.given[-1]}}}).encode()
        if not self.valid or headers["x-auth-token"] != (self.given or [""])[-1]:
            return 401, b"old"
        self.posted.append((path, body, {name.lower(): value for name, value in headers.items()}))
        return int(path.strip("/")), b""

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def identity():
    made = Identity()
    yield made
    made.close()


def with_login(number, identity, path="/200", key="k", **more):
    login = {"login.server": f"{identity.url}/tokens", "login.user": "u", "login.key": key}
    return outgoing(number, identity.url + path, b"entry", **login, **more)


def test_a_request_with_a_login_sends_its_token_and_asks_again_when_it_is_refused(identity, webhooks):
    verdicts = webhooks.deliver([with_login(1, identity), with_login(2, identity)])
    assert [verdict.error for verdict in verdicts] == [None, None]
    assert identity.given == ["token-0"]  # one login for both
    identity.given.append("token-of-another")  # the first is no good any more
    assert webhooks.deliver([with_login(3, identity)])[0].error is None
    assert [headers["x-auth-token"] for _, _, headers in identity.posted] == ["token-0", "token-0", "token-2"]
    sent = {name for _, _, headers in identity.posted for name in headers}
    assert not any(name.startswith("login") or name == "accept-status" for name in sent)


def test_a_login_that_is_refused_is_tried_a_few_times(identity, webhooks):
    [wrong] = webhooks.deliver([with_login(1, identity, key="wrong-key")])
    assert "no login at" in wrong.error
    assert "401" in wrong.error
    assert "wrong-key" not in wrong.error
    assert "'u'" in wrong.error
    assert "requeue" in wrong.error
    assert (wrong.final, wrong.tries) == (False, 5)
    identity.valid = False
    [refused] = webhooks.deliver([with_login(2, identity)])
    assert "401" in refused.error
    assert (refused.final, refused.tries) == (False, 5)
    assert len(identity.given) == 2  # asked once more, not for ever


def test_an_identity_service_that_is_away_or_broken_is_waited_for(identity, webhooks, server):
    url = f"http://127.0.0.1:{server.server_port}/503"
    broken, away = ({"login.server": at, "login.user": "u", "login.key": "k"} for at in (url, "http://127.0.0.1:9/"))
    for headers in (broken, away):
        [verdict] = webhooks.deliver([outgoing(1, identity.url + "/200", b"entry", **headers)])
        assert "no login" in verdict.error
        assert (verdict.final, verdict.tries) == (False, None)


def test_a_message_brings_its_own_time_limit_and_it_is_not_sent_along(identity, webhooks):
    with socket.create_server(("127.0.0.1", 0)) as hung:  # it takes connections and says nothing
        url = "http://{}:{}/".format(*hung.getsockname())
        [verdict] = webhooks.deliver([outgoing(1, url, **{"patience.timeout": "0.05"})])
    assert "Timeout" in verdict.error
    assert webhooks.deliver([with_login(2, identity, **{"patience.max": "7"})])[0].error is None
    assert not any(name.startswith("patience") for name in identity.posted[-1][2])


def test_other_answers_may_be_as_good(identity, webhooks, server):
    assert webhooks.deliver([with_login(1, identity, "/409", **{"accept-status": "409,410"})])[0].error is None
    url = f"http://127.0.0.1:{server.server_port}/409"
    assert webhooks.deliver([outgoing(2, url, **{"accept-status": "410"})])[0].final


@pytest.mark.parametrize("url", ["ftp://x/y", "http://", "nonsense", "http://[::1/x"])
def test_a_url_that_is_none_is_refused_for_good(webhooks, url):
    [verdict] = webhooks.deliver([outgoing(1, url)])
    assert verdict.final
    assert verdict.error
