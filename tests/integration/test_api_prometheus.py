"""Prometheus' remote-write over HTTP: bodies as Prometheus makes them, written here from the protocol's text."""

from __future__ import annotations

import struct

import cramjam
import pytest

from eventproc import Connection
from eventproc.api.prometheus import MAX_BYTES

T_MS = 1_700_000_000_000
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
HEADERS = {
    "content-type": "application/x-protobuf",
    "content-encoding": "snappy",
    "x-prometheus-remote-write-version": "0.1.0",
}
PATH = "/metrics/prometheus/write"


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def series(labels: dict[str, str], *samples: tuple[float, int], more: bytes = b"") -> bytes:
    """A TimeSeries: labels 1, samples 2 of value 1 (double) and timestamp 2 (int64, milliseconds)."""
    found = b"".join(
        field(1, field(1, name.encode()) + field(2, value.encode())) for name, value in sorted(labels.items())
    )
    for value, time in samples:
        found += field(2, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(time & (1 << 64) - 1))
    return field(1, found + more)


def packed(*parts: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(b"".join(parts)))


@pytest.fixture
def emitter(api):
    return api.client("emitter")


@pytest.fixture
def conn(api):
    with Connection(api.url, api.keys["admin"]) as connection:
        yield connection


def test_series_become_metrics_with_their_labels_as_tags(emitter, conn):
    up = {"__name__": "up", "job": "node", "instance": "localhost:9090", "empty": ""}
    body = packed(
        series(up, (1.0, T_MS), (0.5, T_MS + 15_250)),
        series({"__name__": "node_load1"}, (0.25, T_MS)),
        field(3, b"\x08\x01" + field(2, b"up")),  # metadata, which is of no use here
    )
    done = emitter.post(PATH, content=body, headers=HEADERS)
    assert (done.status_code, done.content) == (204, b"")
    assert [one["name"] for one in conn.metrics()] == ["node_load1", "up;instance=localhost:9090;job=node"]
    assert conn.metric("up;job=node;instance=localhost:9090")["tags"] == {"job": "node", "instance": "localhost:9090"}
    rows = conn.samples("up;instance=localhost:9090;job=node")
    assert [(row["timestamp"], row["value"]) for row in rows] == [(T_MS / 1000, 1.0), (T_MS / 1000 + 15.25, 0.5)]
    assert emitter.post(PATH, content=body, headers=HEADERS).status_code == 204  # Prometheus tries again
    assert len(conn.samples("up;instance=localhost:9090;job=node")) == 2
    assert {row["reason"] for row in conn.rejected_samples()} == {"duplicate", "late"}
    assert {row["source"] for row in conn.rejected_samples()} == {"prometheus emitter"}


def test_what_a_tag_can_not_hold_is_written_with_percent_signs(emitter, conn):
    labels = {"__name__": "uname", "version": "#1 SMP; Debian", "path": "~a", "city": "Zürich", "load": "5%"}
    emitter.post(PATH, content=packed(series(labels, (1.0, T_MS))), headers=HEADERS)
    assert conn.metrics()[0]["tags"] == {
        "version": "#1%20SMP%3B%20Debian",
        "path": "%7Ea",
        "city": "Z%C3%BCrich",
        "load": "5%25",
    }


def test_bad_samples_are_refused_singly_and_ends_of_series_quietly(emitter, conn):
    body = packed(
        series({"__name__": "good"}, (1.0, T_MS), (STALE, T_MS + 1), (float("nan"), T_MS + 2), (2.0, T_MS + 3)),
        series({"job": "nameless"}, (1.0, T_MS), (2.0, T_MS + 1)),
        series({"__name__": "long", "text": "x" * 600}, (1.0, T_MS)),
        series({"__name__": "early"}, (1.0, -5)),
        series({"__name__": "histogram"}, more=field(4, b"\x08\x01")),
        series({"__name__": "gone"}, (STALE, T_MS)),
    )
    assert emitter.post(PATH, content=body, headers=HEADERS).status_code == 204
    assert [one["name"] for one in conn.metrics()] == ["good"]
    assert [row["value"] for row in conn.samples("good")] == [1.0, 2.0]
    rows = {(row["reason"], row["metric"]): row for row in conn.rejected_samples()}
    assert {key: row["count"] for key, row in rows.items()} == {
        ("bad value", "good"): 1,
        ("bad name", ""): 3,
        ("bad time", "early"): 1,
        ("unreadable", "histogram"): 1,
    }
    assert "{job='nameless'}" in rows["bad name", ""]["examples"]
    assert rows["unreadable", "histogram"]["examples"] == ["histogram: native histograms are not kept"]


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"up 1 1700000000", {}, (400, "not compressed by snappy")),
        (b"", {}, (400, "not compressed by snappy")),
        (packed(series({"__name__": "up"}, (1.0, T_MS)))[:-3], {}, (400, "not compressed by snappy")),
        (packed(b"\x0a\x7fno message"), {}, (400, "no WriteRequest")),
        (packed(series({"__name__": "up"}, (1.0, T_MS))), {"content-encoding": "gzip"}, (415, "'gzip'")),
        (
            packed(b""),
            {"content-type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"},
            (415, "remote-write 2.0"),
        ),
        (packed(bytes(MAX_BYTES + 1)), {}, (413, "max_samples_per_send")),
        (varint(0xFFFFFFFF) + b"\x00a", {}, (413, "4,294,967,295 bytes when unpacked")),
        (varint(MAX_BYTES) + b"\x00a", {}, (400, "not compressed by snappy")),  # less than it says
        (varint(1) + packed(bytes(1 << 20))[3:], {}, (400, "not compressed by snappy")),  # more than it says
    ],
)
def test_bodies_that_are_none_are_refused_with_words(emitter, conn, body, headers, expected):
    status, words = expected
    said = emitter.post(PATH, content=body, headers={**HEADERS, **headers})
    assert said.status_code == status
    assert words in said.json()["error"]["message"]
    assert conn.metrics() == []


def test_a_key_with_the_right_to_send_is_needed(api):
    body = packed(series({"__name__": "up"}, (1.0, T_MS)))
    assert api.client(None).post(PATH, content=body, headers=HEADERS).status_code == 401
    assert api.client("viewer").post(PATH, content=body, headers=HEADERS).status_code == 403
    assert api.client("emitter").post(PATH, content=body, headers=HEADERS).status_code == 204
