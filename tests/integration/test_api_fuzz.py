"""Whatever is sent to whichever route: an answer in the one shape, never a fault of the server's own."""

from __future__ import annotations

import json
import random
import re
from typing import Any
from urllib.parse import quote

import pytest

REQUESTS = 800
TEXTS = (
    *("", "a", "a.b", "*", "?", "[", "[a", "(", "a{99999}", "%00", "\n", "\\", "=x", "/", ".", "..", "a/b"),
    *("x" * 300, "\x00", "a\x00b", "\ud800", "é", "\u202eabc", "\U0001f600", "<script>alert(1)</script>"),
    *("-1", "0", "1", "1e999", "NaN", "9" * 18, "9223372036854775807", "9223372036854775808", "9" * 400),
    *("2026-01-01", "2026-13-01", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "1969-12-31T00:00:00Z"),
    *("* * * * *", "60 0 * * *", "0 0 30 2 *", "Europe/Berlin", "../UTC", "/etc/localtime"),
    *("1s", "forever", "-5s", "1e400s", "9" * 400 + "d", "5/10s", "9" * 30 + "/s", "a@example.com", "a@b\nBcc: c@d"),
    *("door.opened", "compute.*", "viewer", "dead", "queued", "mean", "web.cpu", "daily"),
)
NUMBERS = (
    0,
    1,
    -1,
    1000,
    1001,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**30,
    10**400,
    0.5,
    1e17,
    1e308,
    5e-324,
)
BROKEN = (b"", b"{", b"\xff\xfe", b"[" * 50_000, b'{"a": NaN}', b"web.cpu 1 1700000000\n", b"a b c")


class Sender:
    """Makes requests of a description; half of the values have the types that it names, the others do not."""

    def __init__(self, schemas: dict[str, Any], seed: int) -> None:
        self.schemas = schemas
        self.random = random.Random(seed)

    def anything(self, depth: int = 0) -> Any:
        kind = self.random.randrange(5 if depth < 3 else 3)
        if kind == 3:
            return [self.anything(depth + 1) for _ in range(self.random.randrange(3))]
        if kind == 4:
            return {self.random.choice(TEXTS): self.anything(depth + 1) for _ in range(self.random.randrange(3))}
        return self.random.choice((TEXTS, NUMBERS, (None, True, False))[kind])

    def fitting(self, schema: dict[str, Any], depth: int = 0) -> Any:
        if depth > 5 or self.random.random() < 0.12:
            return self.anything(depth)
        if "$ref" in schema:
            return self.fitting(self.schemas[schema["$ref"].rpartition("/")[2]], depth)
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            return self.fitting(self.random.choice(choices), depth + 1)
        if "properties" in schema:
            return {
                name: self.fitting(member, depth + 1)
                for name, member in schema["properties"].items()
                if name in schema.get("required", ()) or self.random.random() < 0.4
            }
        if schema.get("type") == "array":
            return [self.fitting(schema.get("items", {}), depth + 1) for _ in range(self.random.randrange(4))]
        texts = schema.get("enum") or TEXTS
        ranges = {"string": texts, "integer": NUMBERS, "number": NUMBERS, "boolean": (True, False)}
        return self.random.choice(ranges[schema["type"]]) if schema.get("type") in ranges else self.anything(depth)

    def request(self, path: str, operation: dict[str, Any]) -> tuple[str, bytes | None, dict[str, str]]:
        query = []
        for parameter in operation.get("parameters", ()):
            value = escaped(self.fitting(parameter.get("schema", {})))
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", value or "x")
            elif parameter.get("required") or self.random.random() < 0.4:
                query.append(f"{parameter['name']}={value}")
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            return f"{path}?{'&'.join(query)}", None, {}
        media = self.random.choice(list(content))
        body = self.random.choice(BROKEN)
        if "json" in media and self.random.random() < 0.9:
            body = json.dumps(self.fitting(content[media].get("schema", {}))).encode()
        return f"{path}?{'&'.join(query)}", body, {"content-type": media}


def escaped(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.fixture
def furnished(api):
    """Something that each kind of request can find."""
    client = api.client()
    for method, path, body in (
        ("POST", "/events", {"hook": "door.opened", "payload": {"door": "n"}, "id": "1"}),
        ("PUT", "/schedules/daily", {"cron": "0 0 * * *", "payload": {"n": 1}}),
        ("POST", "/metrics", {"name": "web.cpu"}),
    ):
        assert client.request(method, path, json=body).status_code < 300
    pushed = client.post("/metrics/samples", content=b"web.cpu 1 1700000000\n", headers={"content-type": "text/plain"})
    assert pushed.status_code == 200, pushed.text
    return api


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_that_is_sent_makes_a_fault(furnished, seed):
    client = furnished.client()
    client.base_url = furnished.url
    document = client.get("/openapi.json").json()
    sender = Sender(document["components"]["schemas"], seed)
    operations = [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if not path.endswith("/keys/{prefix}")  # it might be that of the test's own key
    ]
    statuses = set()
    for _ in range(REQUESTS):
        method, path, operation = sender.random.choice(operations)
        url, body, headers = sender.request(path, operation)
        answer = client.request(method, url, content=body, headers=headers)
        statuses.add(answer.status_code)
        assert answer.status_code != 500, f"{method} {url} {body!r}: {answer.text}"
        if answer.status_code >= 400:
            assert set(answer.json()) == {"error"}, answer.text
    assert {200, 201, 400, 404} <= statuses
    assert "fault" not in client.get("/api/v1/health").text


LIMITS = [
    ("GET", "/metrics/web.cpu/windows?width=1e308", None, "width"),
    ("GET", f"/metrics/web.cpu/samples?after={10**30}", None, "after"),
    ("PUT", "/hooks/mine", {"keep": 1e308}, "keep"),
    ("PUT", "/hooks/mine", {"keep_idle_s": 2**63}, "keep_idle"),
    ("PUT", "/hooks/mine", {"keep": "9" * 400 + "d"}, "keep"),
    ("PUT", "/hooks/mine", {"schema": {"title": "\ud800"}}, "surrogate"),
    ("POST", "/annotations", {"timestamp": "0001-01-01T00:00:00+23:59", "server": "s", "message": "m"}, "timestamp"),
    ("GET", "/events?since=9999-12-31T23:59:59-23:59", None, "since"),
    ("POST", "/models", {"\ud800": 1}, "has no"),
    ("POST", "/streams/delete", {"traits": {"a": {"b": ["\ud800"]}}}, "surrogate"),
    ("POST", "/runs/cancel", {"handler": str(2**63)}, "handler"),
]


@pytest.mark.parametrize(("method", "path", "body", "named"), LIMITS, ids=[f"{m} {p}" for m, p, _, _ in LIMITS])
def test_what_no_database_can_hold_is_refused_by_name(furnished, method, path, body, named):
    content = None if body is None else json.dumps(body).encode()
    answer = furnished.client().request(method, path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert re.search(re.escape(named), answer.json()["error"]["message"]), answer.text
