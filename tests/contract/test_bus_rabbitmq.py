"""Wake-ups between hosts: two data directories and one broker, which comes and goes."""

from __future__ import annotations

import pytest
from servers import free_port, rabbitmq_server
from waiting import wait_until

from eventproc.bus.local import LocalBus
from eventproc.bus.rabbitmq import RabbitMQBus
from eventproc.errors import ConfigError

pytestmark = pytest.mark.external_service


@pytest.fixture
def hosts(tmp_path):
    """Make the bus of a host by its name; several of one name are processes of that host."""
    made = []

    def host(url: str, name: str) -> RabbitMQBus:
        bus = RabbitMQBus(url, LocalBus(tmp_path / name), place=name)
        made.append(bus)
        return bus

    yield host
    for bus in made:
        bus.close()


def quiet(listener) -> None:
    """Take what the connections themselves woke."""
    wait_until(lambda: listener.wait(0.3) == set(), timeout_s=30, what="silence")


def test_what_one_host_wakes_is_heard_on_the_others(rabbitmq, hosts):
    here, there = hosts(rabbitmq.url, "a"), hosts(rabbitmq.url, "b")
    listener, other = there.listen("runs", "cancel"), there.listen("notices")
    assert here.connected(60)
    assert there.connected(60)
    quiet(listener)
    quiet(other)
    here.wake("runs", "samples")
    assert listener.wait(30) == {"runs"}
    here.wake("cancel")
    assert listener.wait(30) == {"cancel"}
    assert other.wait(0.1) == set()


def test_a_host_does_not_hear_twice_what_it_woke_itself(rabbitmq, hosts):
    first, second, there = hosts(rabbitmq.url, "a"), hosts(rabbitmq.url, "a"), hosts(rabbitmq.url, "b")
    listener, remote = second.listen("runs"), there.listen("runs")
    for bus in (first, second, there):
        assert bus.connected(60)
    quiet(listener)
    quiet(remote)
    first.wake("runs")
    assert listener.wait(30) == {"runs"}
    assert remote.wait(30) == {"runs"}  # so the broker has sent it round
    assert listener.wait(0.3) == set()


def test_a_connection_wakes_everybody_for_nobody_knows_what_was_missed(rabbitmq, hosts):
    listener = hosts(rabbitmq.url, "a").listen("runs", "notices")
    quiet(listener)
    assert hosts(rabbitmq.url, "b").connected(60)
    assert listener.wait(30) == {"runs", "notices"}


def test_without_a_broker_the_host_goes_on_alone_and_nothing_waits(hosts):
    bus = hosts(f"amqp://guest:guest@127.0.0.1:{free_port()}/", "a")
    listener = bus.listen("runs")
    for _ in range(100):
        bus.wake("runs")
    assert listener.wait(60) == {"runs"}
    assert not bus.connected(0)


def test_a_broker_that_was_killed_and_comes_back_is_used_again(hosts):
    with rabbitmq_server() as broker:
        here, there = hosts(broker.url, "a"), hosts(broker.url, "b")
        local, remote = here.listen("runs"), there.listen("runs")
        assert here.connected(60)
        assert there.connected(60)
        quiet(local)
        quiet(remote)
        broker.kill()
        wait_until(lambda: not here.connected(0), timeout_s=60, what="the loss to be seen")
        here.wake("runs")
        assert local.wait(60) == {"runs"}
        broker.start()
        assert here.connected(90)
        assert there.connected(90)
        assert remote.wait(90) == {"runs"}
        quiet(remote)
        here.wake("runs")
        assert remote.wait(30) == {"runs"}


@pytest.mark.parametrize("url", ["http://host", "amqp://", "rabbit"])
def test_a_url_that_is_none_of_a_broker_is_refused(url, tmp_path):
    local = LocalBus(tmp_path / "a")
    with pytest.raises(ConfigError, match="amqp://user:password@host"):
        RabbitMQBus(url, local, place="a")
    local.close()
