"""The Graphite listener with all kinds of clients: what they send is stored, or refused with a reason."""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
import threading

import pytest
from metric_world import Listening, listening, make_intake
from waiting import wait_until

from eventproc.bus.memory import MemoryBus
from eventproc.errors import StoreUnavailable
from eventproc.metrics import writer
from eventproc.metrics.lines import MAX_LINE
from eventproc.metrics.pickles import MAX_FRAME
from eventproc.store.memory import MemoryStore


@pytest.fixture
def world():
    with listening() as found:
        yield found


def frame(*samples: tuple[str, tuple[float, float]]) -> bytes:
    body = pickle.dumps(list(samples), 2)
    return struct.pack(">I", len(body)) + body


def test_a_client_that_closes_its_half_is_answered_with_the_end(world: Listening):
    assert world.send(b"test.metric 4 1386120789\ntest.metric 5 1386120799\r\ntest.metric 6.5 1386120999") == b""
    assert world.wait_for("test.metric", 3) == [(1386120789, 4), (1386120799, 5), (1386120999, 6.5)]


def test_lines_may_be_cut_anywhere(world: Listening):
    text = b"a.b 1 10\na.b 2 20\n\na.b 3 30\n"
    with world.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in text:
            client.sendall(bytes([byte]))
        world.wait_for("a.b", 3)
    assert world.wait_for_rejects(1) == [("unreadable", "graphite tcp 127.0.0.1", "", 1)]


def test_interleaved_connections_are_not_mixed_up(world: Listening):
    with world.connect() as one, world.connect() as two:
        one.sendall(b"one 1 ")
        two.sendall(b"two 2 ")
        one.sendall(b"10\none 3")
        two.sendall(b"20\ntwo 4")
        one.sendall(b" 11\n")
        two.sendall(b" 21\n")
        assert world.wait_for("one", 2) == [(10, 1), (11, 3)]
        assert world.wait_for("two", 2) == [(20, 2), (21, 4)]


def test_a_thousand_short_connections_lose_nothing(world: Listening):
    def work(first: int) -> None:
        for number in range(first, first + 100):
            assert world.send(b"short.%d %d 1\nall %d %d\n" % (number, number, number, number + 1)) == b""

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 1000, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: all(world.values(f"short.{n}") for n in (99, 199, 999)), what="the last samples")
    with world.store.read() as tx:
        assert len(tx.metrics.find(prefix="short.", limit=5000)) == 1000
        metric = tx.metrics.by_name("all")
        assert metric is not None
        assert metric.last_rowid + metric.rejected == 1000  # they raced each other: some came late


def test_bad_samples_are_refused_singly_counted_and_readable(world: Listening):
    world.send(
        b"ok 1 1\nok nan 2\nok inf 3\nok 1e999 4\nok 5 5\nok 6 5\nok 7 4\n"
        + b"x" * 600
        + b" 1 1\nna\xc3\xafve 1 1\nbad;tag 1 1\nok 8 1e13\nok 9 99999999999\nok 10 -5\nwhat is all this\nok 11 11\n"
    )
    assert world.wait_for("ok", 3) == [(1, 1), (5, 5), (11, 11)]
    source = "graphite tcp 127.0.0.1"
    assert world.wait_for_rejects(12) == [
        ("bad name", source, "", 3),
        ("bad time", source, "ok", 3),
        ("bad value", source, "ok", 3),
        ("duplicate", source, "ok", 1),
        ("late", source, "ok", 1),
        ("unreadable", source, "", 1),
    ]
    with world.store.read() as tx:
        examples = {reject.reason: reject.examples for reject in tx.rejects.page()}
    assert examples["duplicate"] == ("ok 6.0 5.0",)
    assert examples["unreadable"] == ("what is all this",)


def test_refusals_name_their_own_source_and_metric(world: Listening):
    with world.connect() as one:
        one.sendall(b"a 1 5\n")
        world.wait_for("a", 1)
        one.sendall(b"b 1 1\na 1 4\nb 2 2\na 1 3\nnever nan 1\nnobody 1 -5\nnever inf 2\n")
        world.wait_for("b", 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"a 1 2", world.datagrams)
        world.wait_for_rejects(6)
    assert world.rejects() == [
        ("bad time", "graphite tcp 127.0.0.1", "nobody", 1),
        ("bad value", "graphite tcp 127.0.0.1", "never", 2),
        ("late", "graphite tcp 127.0.0.1", "a", 2),
        ("late", "graphite udp 127.0.0.1", "a", 1),
    ]


def test_a_line_without_end_is_refused_and_the_next_one_read(world: Listening):
    with world.connect() as client:
        client.sendall(b"a 1 1\n" + b"x" * (MAX_LINE + 5))
        world.wait_for_rejects(1)
        for _ in range(200):
            client.sendall(b"x" * 10_000)
        client.sendall(b" 1 1\na 2 2\n")
        assert world.wait_for("a", 2) == [(1, 1), (2, 2)]
    assert [row[0] for row in world.rejects()] == ["too long"]


def test_a_line_that_a_lost_connection_cut_is_refused(world: Listening):
    client = world.connect()
    client.sendall(b"a 1 1\na 12345")
    world.wait_for("a", 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset instead of a good end
    client.close()
    [row] = world.wait_for_rejects(1)
    assert row[0] == "unreadable"
    assert world.values("a") == [(1, 1)]


def test_datagrams_hold_one_or_more_lines(world: Listening):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"u 1 1\nu 2 2\r\nu 3 3", world.datagrams)
        udp.sendto(b"", world.datagrams)
        udp.sendto(b"u 4 4\n", world.datagrams)
        assert world.wait_for("u", 4) == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_pickles_may_be_cut_anywhere_and_follow_each_other(world: Listening):
    data = frame(("p.a", (1, 1.5)), ("p.b", (2, 2))) + frame(("p.a", (2, 2.5))) + frame()
    with world.connect(world.pickles) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), 7):
            client.sendall(data[start : start + 7])
        assert world.wait_for("p.a", 2) == [(1, 1.5), (2, 2.5)]
        assert world.wait_for("p.b", 1) == [(2, 2)]


def test_bad_frames_are_refused_and_the_next_one_read(world: Listening):
    bad = b"cos\nsystem\n(S'true'\ntR."
    assert world.send(struct.pack(">I", len(bad)) + bad + frame(("p", (1, 1))), world.pickles) == b""
    assert world.wait_for("p", 1) == [(1, 1)]
    # Not all was understood, so this is no good end: a reset, perhaps before the client has said that it is done.
    with pytest.raises(OSError, match=r"reset by peer|not connected|Broken pipe"):
        world.send(struct.pack(">I", MAX_FRAME + 1), world.pickles)
    world.send(frame(("p", (2, 2)))[:-3], world.pickles)
    rows = world.wait_for_rejects(3)
    assert [(row[0], row[3]) for row in rows] == [("too long", 1), ("unreadable", 2)]


def test_metrics_are_created_with_tags_and_say_so_once():
    store, bus = MemoryStore(), MemoryBus()
    ear = bus.listen("samples")
    with listening(store, intake=make_intake(store, bus=bus)) as world:
        world.send(b"disk;host=b;dc=eu 1 1\ndisk;dc=eu;host=b 2 2\nplain 1 1\n")
        assert len(world.wait_for("disk;dc=eu;host=b", 2)) == 2
        assert ear.wait(60) == {"samples"}
        with store.read() as tx:
            events = [event.payload_json for event in tx.events.page(hook="metric.created")]
            assert [metric.name for metric in tx.metrics.find(tags={"host": "b"})] == ["disk;dc=eu;host=b"]
    assert len(events) == 2
    assert any('"tags":{"dc":"eu","host":"b"}' in text for text in events)
    assert all('"source":"graphite tcp 127.0.0.1"' in text for text in events)
    store.close()


def test_a_deleted_metric_comes_again_with_its_next_sample(world: Listening):
    world.send(b"m 1 1\nother 1 1\n")
    world.wait_for("m", 1)
    with world.store.begin() as tx:
        old = tx.metrics.by_name("m")
        assert old is not None
        tx.metrics.delete(old.id)
    world.send(b"m 2 1\nother 2 2\n")
    assert world.wait_for("m", 1) == [(1, 2)]
    assert len(world.wait_for("other", 2)) == 2
    with world.store.read() as tx:
        new = tx.metrics.by_name("m")
    assert new is not None
    assert new.uid != old.uid


def test_where_there_is_a_key_only_those_who_have_it_are_heard():
    store = MemoryStore()
    with listening(store, intake=make_intake(store, key="s3cret")) as world:
        world.send(b"s3cret.a.b 1 1\na.b 2 2\ns3cre.a.b 3 3\ns3cret.a.b x 4\ns3cret.a.b 5 1\n")
        assert world.wait_for("a.b", 1) == [(1, 1)]
        rows = world.wait_for_rejects(4)
        with store.read() as tx:
            shown = repr(tx.rejects.page())
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("bad value", "a.b", 1),
        ("duplicate", "a.b", 1),
        ("unauthorized", "", 2),
    ]
    assert "s3cre" not in shown
    store.close()


def test_too_many_connections_are_refused_and_counted():
    with listening(max_connections=2) as world:
        with world.connect() as one, world.connect() as two:
            for client in (one, two):
                client.sendall(b"a 1 1\n")
            world.wait_for("a", 1)
            with world.connect() as third:
                third.settimeout(20)
                with contextlib.suppress(ConnectionResetError):
                    assert third.recv(10) == b""
            rows = world.wait_for_rejects(2)
            assert [row[0] for row in rows] == ["duplicate", "overload"]
        assert world.send(b"a 9 9\n") == b""
        world.wait_for("a", 2)


class Away(MemoryStore):
    """A store that can be away."""

    away = False

    def begin(self):
        if self.away:
            raise StoreUnavailable("away")
        return super().begin()


def test_while_the_store_is_away_senders_wait_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(writer, "HIGH", 200_000)
    monkeypatch.setattr(writer, "LOW", 50_000)
    store = Away()
    intake = make_intake(store)
    with listening(store, intake=intake) as world:
        world.send(b"m 0 0\n")
        world.wait_for("m", 1)
        store.away = True
        sent = 0
        with world.connect() as client:
            client.setblocking(False)
            lines = b"".join(b"m %d %d\n" % (number, number) for number in range(1, 2_000_000))

            def blocked() -> bool:
                nonlocal sent
                try:
                    sent += client.send(lines[sent : sent + 65536])
                except BlockingIOError:
                    return world.service.writer.full
                return False

            wait_until(blocked, what="the listener to stop reading")
            assert sent < len(lines) / 2
            whole = lines[:sent].rfind(b"\n") + 1
            store.away = False
            client.setblocking(True)
            client.sendall(lines[sent : sent + 20])
            world.wait_for("m", lines[:whole].count(b"\n"))
            assert not world.service.writer.full
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"u 1 1", world.datagrams)
            world.wait_for("u", 1)
    store.close()


def test_what_was_read_before_the_stop_is_stored():
    store = MemoryStore()
    with listening(store) as world:
        assert world.send(b"".join(b"m%d 1 1\n" % number for number in range(5000))) == b""
        wait_until(lambda: world.service.writer.total.accepted > 0 or world.values("m0"), what="the first batch")
    with store.read() as tx:
        assert len(tx.metrics.find(limit=10_000)) == 5000
    store.close()


def test_a_sample_that_brings_out_a_fault_of_ours_is_refused_by_itself(monkeypatch):
    store = MemoryStore()
    intake = make_intake(store)
    real = intake.store

    def store_or_fail(batch):
        if b"poison" in batch.names:
            raise RuntimeError("a fault of ours")
        return real(batch)

    monkeypatch.setattr(intake, "store", store_or_fail)
    with listening(store, intake=intake) as world:
        lines = [b"m %d %d\n" % (number, number) for number in range(1, 1000)]
        assert world.send(b"".join([*lines[:500], b"poison 1 7\nwhat is all this\n", *lines[500:]])) == b""
        assert [value for _, value in world.values("m")] == list(range(1, 1000))
        assert [row[0] for row in world.rejects()] == ["internal error", "unreadable"]
        with store.read() as tx:
            [found] = tx.rejects.page(reason="internal error")
        assert found.count == 1
        assert found.source == "graphite tcp 127.0.0.1"
        assert found.examples == ("poison 1.0 7.0 (RuntimeError: a fault of ours)",)
    store.close()


def test_a_batch_of_nothing_but_faults_is_counted_and_the_next_one_stored(monkeypatch):
    store = MemoryStore()
    intake = make_intake(store)
    real = intake.store
    faults = 0

    def store_or_fail(batch):
        nonlocal faults
        if b"poison" in batch.names:
            faults += 1
            raise RuntimeError("a fault of ours")
        return real(batch)

    monkeypatch.setattr(intake, "store", store_or_fail)
    with listening(store, intake=intake) as world:
        assert world.send(b"poison 1 7\n" * 5000) == b""
        assert world.rejects() == [("internal error", "graphite tcp 127.0.0.1", "", 5000)]
        assert faults < 500
        assert world.send(b"m 1 1\n") == b""
        assert world.values("m") == [(1, 1)]
    store.close()


# A client that closes its half and waits for the end knows that all is stored.


@pytest.mark.parametrize("kind", ["lines", "pickles"])
def test_the_end_comes_once_everything_is_stored(kind):
    store = Away()
    with listening(store) as world:
        data = b"m 1 1\n" if kind == "lines" else frame(("m", (1, 1)))
        assert world.send(b"first 1 1\n") == b""
        store.away = True
        with world.connect(getattr(world, kind)) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)
            assert world.values("m") == []
            store.away = False
            client.settimeout(20)
            assert client.recv(1) == b""
            assert world.values("m") == [(1, 1)]
    store.close()


def test_the_end_is_a_reset_when_the_listener_stops_before_all_is_stored():
    store = Away()
    with listening(store) as world:
        assert world.send(b"first 1 1\n") == b""
        with world.connect() as idle, world.connect() as client:
            store.away = True
            client.sendall(b"m 1 1\n")
            client.shutdown(socket.SHUT_WR)
            wait_until(lambda: world.service.writer._bytes > 0, what="the line to be read")
            world.service.stop(0.5)
            for one in (client, idle):
                with pytest.raises(ConnectionResetError):
                    one.recv(1)
    store.away = False
    assert world.values("m") == []
    store.close()


def test_clients_that_said_all_are_answered_when_the_listener_stops():
    store = MemoryStore()
    with listening(store) as world:
        with world.connect() as client:
            client.sendall(b"m 1 1\n" * 20_000)
            client.shutdown(socket.SHUT_WR)
            wait_until(lambda: world.service.writer._put > 0, what="something to be read")
            wait_until(lambda: world.service._hub.ending or world.values("m"), what="the client's end to be read")
            world.service.stop(20)
            assert client.recv(1) == b""
        assert world.values("m") == [(1, 1)]
        assert world.rejects() == [("duplicate", "graphite tcp 127.0.0.1", "m", 19_999)]
    store.close()
