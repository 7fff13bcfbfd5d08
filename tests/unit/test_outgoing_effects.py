"""`ep.publish` and `ep.post`: written with the run's result, refused when they are called."""

from __future__ import annotations

from typing import Any

import pytest

from eventproc.errors import Forbidden, InvalidInput
from eventproc.model import Outgoing, RunState
from eventproc.model.network import NetworkGrant, NetworkPolicy
from eventproc.service.messages import to_broker, to_web
from eventproc.testing import Harness

OPEN = NetworkPolicy(grant=NetworkGrant.ANY)


def outbox(platform: Harness) -> list[Outgoing]:
    with platform.store.read() as tx:
        return tx.outbox.page()[::-1]


def run(handler: Any) -> tuple[Any, list[Outgoing]]:
    with Harness() as platform:
        platform.register(handler, hook="schedule.tick")
        platform.emit("schedule.tick")
        platform.run_until_idle()
        return platform.runs[0], outbox(platform)


def test_messages_are_stored_with_the_result_of_the_run() -> None:
    def handler(db: Any, **_: Any) -> None:
        ep.publish("usage", "verified", {"a": 1}, headers={"x": "y"}, declare="topic", queue="q")  # noqa: F821
        ep.publish("usage", "plain", "text")  # noqa: F821
        ep.post("https://8.8.8.8/hook", b"raw", {"X-Token": "t"})  # noqa: F821

    done, (first, second, third) = run(handler)
    assert done.state == RunState.SUCCEEDED
    assert (first.kind, first.target, first.body) == ("amqp", "usage/verified", b'{"a":1}')
    assert first.headers == {"header.x": "y", "content_type": "application/json", "declare": "topic", "queue": "q"}
    assert (second.target, second.body) == ("usage/plain", b"text")
    assert (third.kind, third.target, third.body) == ("http", "https://8.8.8.8/hook", b"raw")
    assert third.headers == {"x-token": "t", "content-type": "application/octet-stream", "method": "POST"}


def test_nothing_is_sent_by_a_run_that_fails() -> None:
    def handler(db: Any, **_: Any) -> None:
        ep.publish("usage", "verified", {"a": 1})  # noqa: F821
        raise RuntimeError("no")

    done, messages = run(handler)
    assert done.state == RunState.FAILED
    assert messages == []


def test_a_callback_can_not_send() -> None:
    def handler(db: Any, **_: Any) -> None:
        ep.on_commit(lambda: ep.publish("usage", "late", "x"))  # noqa: F821

    done, messages = run(handler)
    assert done.state == RunState.COMMIT_FAILED
    assert "settled already" in done.failure.message
    assert messages == []


def test_a_refusal_is_told_to_the_handler_at_once() -> None:
    def handler(db: Any, **_: Any) -> str:
        try:
            ep.post("http://127.0.0.1:1/x", "x")  # noqa: F821
        except ep.Error as error:  # noqa: F821
            return str(error)
        return "taken"

    done, messages = run(handler)
    assert "127.0.0.1:1 can not be reached" in done.result
    assert messages == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"exchange": ""}, "'exchange' must be a text"),
        ({"exchange": "amq.direct"}, "can not publish to the exchange 'amq.direct'"),
        ({"exchange": "eventproc.wake"}, "can not publish to the exchange"),
        ({"exchange": "a/b"}, "can not publish to the exchange"),
        ({"exchange": "x" * 300}, "at most 200"),
        ({"exchange": "x", "declare": "headers"}, "declare: 'headers' is none of topic"),
        ({"exchange": "x", "queue": "eventproc.in"}, "can not publish to the queue 'eventproc.in'"),
        ({"exchange": "x", "queue": "q" * 300}, "at most 200"),
        ({"exchange": "x", "headers": {"a b": "c"}}, "'a b' is no name of a header"),
    ],
)
def test_what_is_no_message_for_a_broker_is_refused(args: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says.replace("(", r"\(")):
        to_broker({"content_type": "text/plain", "routing_key": "k", **args}, b"")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.com/", "is no URL such as"),
        ("https://", "is no URL such as"),
        ("https://u:p@example.com/", "name and password"),
        ("https://example.com:99999/", "is no URL"),
    ],
)
def test_what_is_no_address_is_refused(url: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        to_web({"url": url, "method": "POST"}, b"", OPEN)


@pytest.mark.parametrize(
    "patience",
    [
        {"timeout": 0.999},
        {"timeout": 121},
        {"interval": 1e-9},
        {"interval": -1.0},
        {"max": "7"},
        {"max": 0},
        {"max": float("nan")},
        {"other": 1},
    ],
)
def test_what_is_no_patience_is_refused_by_its_name(patience: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(patience))):
        to_web({"url": "https://example.com/", "method": "POST", "patience": patience}, b"", OPEN)


@pytest.mark.parametrize("patience", [["timeout"], "timeout", 7, {7: 7}])
def test_patience_that_is_no_mapping_is_bad_input_too(patience: Any) -> None:
    with pytest.raises(InvalidInput, match="patience"):
        to_web({"url": "https://example.com/", "method": "POST", "patience": patience}, b"", OPEN)


def test_a_handler_says_how_long_to_wait() -> None:
    def handler(db: Any, **_: Any) -> None:
        ep.post("https://example.com/", "x", timeout=60, wait_interval=30, max_wait=600)  # noqa: F821

    _, [message] = run(handler)
    assert [message.patience(name, 0.0) for name in ("timeout", "interval", "max")] == [60.0, 30.0, 600.0]


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/", "http://localhost/"])
def test_handlers_reach_no_inner_address_by_the_platform(url: str) -> None:
    with pytest.raises(Forbidden, match="can not be reached"):
        to_web({"url": url, "method": "POST"}, b"", NetworkPolicy())


def test_a_login_is_asked_for_at_no_inner_address_either() -> None:
    login = {"server": "http://169.254.169.254/tokens", "user": "u", "key": "k"}
    args = {"url": "https://8.8.8.8/", "method": "POST"}
    with pytest.raises(Forbidden, match=r"169\.254\.169\.254:80 can not be reached"):
        to_web({**args, "login": login}, b"", NetworkPolicy())
    with pytest.raises(InvalidInput, match=r"'Login\.server' is not yours"):
        to_web({**args, "headers": {"Login.server": login["server"]}}, b"", NetworkPolicy())
    with pytest.raises(InvalidInput, match="server, user and key"):
        to_web({**args, "login": {"server": "https://8.8.8.8/"}}, b"", NetworkPolicy())
    with pytest.raises(InvalidInput, match="statuses from 300 to 599"):
        to_web({**args, "accept": ["409"]}, b"", NetworkPolicy())


def test_the_operator_may_grant_places_and_may_grant_none() -> None:
    listed = NetworkPolicy(grant=NetworkGrant.NONE, hosts=("127.0.0.1:8000",))
    assert to_web({"url": "http://127.0.0.1:8000/x", "method": "PUT"}, b"x", listed).headers == {"method": "PUT"}
    with pytest.raises(Forbidden, match="grants handlers no network"):
        to_web({"url": "https://8.8.8.8/", "method": "POST"}, b"", listed)


def test_too_large_a_message_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most"):
        to_broker({"exchange": "x", "content_type": "t"}, bytes(2_000_000))
