"""The outbox on a running platform: to a real broker that is late, by command line, and what is given up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pika
import pytest
from servers import free_port
from waiting import wait_until

from eventproc.engine.clock import SystemClock
from eventproc.model import NewOutgoing
from eventproc.store import open_store


class Server:
    """A web server that answers 500 on the paths that it can not take."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.broken: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                bad = self.path in outer.broken
                if not bad:
                    outer.got.append(self.path)
                self.send_response(500 if bad else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def put(served, *messages: NewOutgoing) -> None:
    store = open_store(f"sqlite:///{served.data}/eventproc.db")
    with store.begin() as tx:
        tx.outbox.add(messages, now_us=SystemClock().now_us())
    store.close()


@pytest.mark.external_service
def test_messages_reach_the_broker_and_doctor_says_where_they_go(serve, rabbitmq):
    served = serve(EVENTPROC_BROKER_URL=rabbitmq.url)
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    channel = connection.channel()
    channel.queue_declare("told")
    put(served, *[NewOutgoing(kind="amqp", target="/told", body=b"%d" % number) for number in range(3)])
    wait_until(
        lambda: channel.queue_declare("told", passive=True).method.message_count == 3, timeout_s=60, what="messages"
    )
    assert [channel.basic_get("told", auto_ack=True)[2] for _ in range(3)] == [b"0", b"1", b"2"]
    connection.close()
    found = {finding["what"]: finding for finding in served.json("doctor")["findings"]}
    assert found["broker"]["level"] == "ok"
    assert "guest" not in found["broker"]["says"]


def test_what_was_given_up_is_listed_requeued_and_deleted(serve):
    served = serve()
    dead = f"http://127.0.0.1:{free_port()}/hook"
    put(
        served,
        NewOutgoing(kind="http", target="ftp://x/y", body=b"{}"),
        NewOutgoing(kind="http", target=dead, body=b"{}"),
    )

    def states() -> dict[str, str]:
        return {message["target"]: message["state"] for message in served.json("outbox", "list")}

    wait_until(lambda: states() == {"ftp://x/y": "failed", dead: "pending"}, timeout_s=60, what="the verdicts")
    [bad] = served.json("outbox", "list", "--state", "failed")
    assert "ftp" in served.json("outbox", "show", str(bad["id"]))["error"]
    done = served.cli("outbox", "requeue", "4711")
    assert (done.returncode, done.stderr) == (1, "there is no message 4711 that was given up\n")
    assert served.json("outbox", "requeue", str(bad["id"])) == {"requeued": [bad["id"]]}
    wait_until(lambda: states()["ftp://x/y"] == "failed", timeout_s=60, what="the same verdict")
    assert served.cli("outbox", "delete", str(bad["id"])).returncode == 0
    again = served.cli("outbox", "delete", str(bad["id"]))
    assert again.returncode == 4
    assert "what is delivered leaves it" in again.stderr
    assert set(states()) == {dead}


def test_a_message_that_always_gets_a_500_is_given_up_and_holds_up_none_behind_it(serve, server):
    served = serve(EVENTPROC_OUTBOX_MAX_AGE="1s")
    server.broken = {"/bad"}
    put(served, *[NewOutgoing(kind="http", target=server.url(path), body=b"{}") for path in ("/bad", "/a", "/b")])
    wait_until(lambda: server.got == ["/a", "/b"], timeout_s=120, what="those behind it")

    def given_up() -> list[dict[str, object]]:
        found: list[dict[str, object]] = served.json("outbox", "list", "--state", "failed")
        return found

    wait_until(lambda: len(given_up()) == 1, timeout_s=120, what="the end of its tries")
    [bad] = given_up()
    assert (bad["target"], bad["error"]) == (server.url("/bad"), "500 Internal Server Error")
    findings = {finding["what"]: finding for finding in served.json("doctor")["findings"]}
    assert findings["outbox"]["level"] == "warning"
    server.broken = set()
    served.json("outbox", "requeue", str(bad["id"]))
    wait_until(lambda: served.json("outbox", "list") == [], timeout_s=120, what="its delivery")
    assert server.got == ["/a", "/b", "/bad"]
    assert "outbox" not in {finding["what"] for finding in served.json("doctor")["findings"]}


def test_a_broker_url_that_is_none_ends_the_start_with_its_reason(serve):
    served = serve(EVENTPROC_BROKER_URL="http://localhost", wait=False)
    assert served.wait() != 0
    assert "amqp://user:password@host" in served.tail()
