"""Every Bus: wake-ups reach those who listen, and nothing ever blocks or breaks the one who wakes."""

from __future__ import annotations

import threading
import time

import pytest

from eventproc.bus.local import LocalBus
from eventproc.bus.memory import MemoryBus
from eventproc.bus.rabbitmq import RabbitMQBus


@pytest.fixture(params=["memory", "local", pytest.param("rabbitmq", marks=pytest.mark.external_service)])
def bus(request, tmp_path):
    made = MemoryBus() if request.param == "memory" else LocalBus(tmp_path / "bus")
    if request.param == "rabbitmq":
        made = RabbitMQBus(request.getfixturevalue("rabbitmq").url, made, place="here")
        assert made.connected(60)  # from here on nothing but what the test wakes
    yield made
    made.close()


def test_a_wake_up_reaches_its_listener(bus):
    listener = bus.listen("runs")
    bus.wake("runs")
    assert listener.wait(60) == {"runs"}


def test_a_wake_up_sent_before_the_wait_is_not_lost(bus):
    listener = bus.listen("runs", "cancel")
    bus.wake("cancel")
    bus.wake("runs")
    assert listener.wait(60) == {"runs", "cancel"}


def test_wake_ups_of_one_topic_melt_into_one(bus):
    listener = bus.listen("runs")
    for _ in range(5):
        bus.wake("runs")
    assert listener.wait(60) == {"runs"}
    assert listener.wait(0) == set()


def test_other_topics_are_not_heard(bus):
    listener = bus.listen("notices")
    bus.wake("runs")
    assert listener.wait(0.05) == set()


def test_several_topics_go_out_in_one_call_and_each_listener_hears_its_own(bus):
    first, second = bus.listen("runs"), bus.listen("cancel", "notices")
    bus.wake("runs", "cancel")
    assert first.wait(60) == {"runs"}
    assert second.wait(60) == {"cancel"}


def test_everybody_who_listens_is_woken(bus):
    listeners = [bus.listen("runs") for _ in range(5)]
    bus.wake("runs")
    assert [listener.wait(60) for listener in listeners] == [{"runs"}] * 5


def test_waking_nobody_is_fine(bus):
    bus.wake("runs")
    bus.wake()


def test_a_closed_listener_is_not_woken_and_disturbs_nobody(bus):
    closed, other = bus.listen("runs"), bus.listen("runs")
    closed.close()
    closed.close()
    bus.wake("runs")
    assert other.wait(60) == {"runs"}
    assert closed.wait(0) == set()


def test_a_flood_without_a_reader_neither_blocks_nor_raises(bus):
    listener = bus.listen("runs")
    for _ in range(20_000):
        bus.wake("runs")
    assert listener.wait(60) == {"runs"}


def test_waiting_ends_with_the_time_out(bus):
    before = time.monotonic()
    assert bus.listen("runs").wait(0.05) == set()
    assert time.monotonic() - before >= 0.04


def test_a_sleeping_thread_is_woken(bus):
    heard = []
    listener = bus.listen("runs")
    thread = threading.Thread(target=lambda: heard.append(listener.wait(60)))
    thread.start()
    bus.wake("runs")
    thread.join(30)
    assert heard == [{"runs"}]


def test_closing_a_listener_ends_the_wait_of_another_thread(bus):
    listener = bus.listen("runs")
    heard = []
    thread = threading.Thread(target=lambda: heard.append(listener.wait(60)))
    thread.start()
    listener.close()
    thread.join(30)
    assert heard == [set()]


def test_many_threads_may_wake_at_once(bus):
    listeners = {topic: bus.listen(topic) for topic in ("runs", "notices", "cancel")}
    failures = []

    def hammer(topic):
        try:
            for _ in range(300):
                bus.wake(topic)
        except Exception as error:  # noqa: BLE001  # threads do not raise into the test
            failures.append(error)

    threads = [threading.Thread(target=hammer, args=(topic,)) for topic in listeners for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {topic: listener.wait(60) for topic, listener in listeners.items()} == {t: {t} for t in listeners}


def test_a_closed_bus_is_silent(bus):
    bus.listen("runs")
    bus.close()
    bus.wake("runs")
    bus.close()
