"""The listener with the clients that people have: unmodified, from PyPI and from Debian."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import graphitesend
import graphyte
import pytest
from metric_world import Listening, listening
from servers import free_port, missing
from waiting import wait_until

from eventproc import Connection


@pytest.fixture
def world():
    with listening() as found:
        yield found


def test_graphyte(world: Listening):
    for protocol, (host, port) in (("tcp", world.lines), ("udp", world.datagrams)):
        sender = graphyte.Sender(host, port=port, prefix=protocol, protocol=protocol, interval=None)
        sender.send("web.requests", 42.5, timestamp=1_700_000_000)
        sender.send("web.requests", 43, timestamp=1_700_000_060, tags={"host": "b", "dc": "eu"})
        sender.stop()
        assert world.wait_for(f"{protocol}.web.requests", 1) == [(1_700_000_000, 42.5)]
        assert world.wait_for(f"{protocol}.web.requests;dc=eu;host=b", 1) == [(1_700_000_060, 43)]
    assert world.rejects() == []


def test_graphyte_in_batches_from_its_thread(world: Listening):
    host, port = world.lines
    sender = graphyte.Sender(host, port=port, interval=0.05, batch_size=7)
    for number in range(100):
        sender.send("many", number, timestamp=1_700_000_000 + number)
    sender.stop()
    assert [value for _, value in world.wait_for("many", 100)] == [*range(100)]


@pytest.mark.parametrize("protocol", ["plaintext", "pickle"])
def test_graphitesend(world: Listening, protocol: str):
    host, port = world.lines if protocol == "plaintext" else world.pickles
    client = graphitesend.init(
        init_type=f"{protocol}_tcp",
        graphite_server=host,
        graphite_port=port,
        prefix=protocol,
        system_name="",
        lowercase_metric_names=True,
    )
    client.send("One", 1.5, 1_700_000_000)
    client.send_dict({"two": 2, "three": 3.25}, 1_700_000_000)
    client.send_list([("one", 2.5, 1_700_000_060), ("four", 4, 1_700_000_000)])
    client.socket.close()  # its own disconnect() forgets to
    graphitesend.reset()
    assert world.wait_for(f"{protocol}.one", 2) == [(1_700_000_000, 1.5), (1_700_000_060, 2.5)]
    for name, value in (("two", 2), ("three", 3.25), ("four", 4)):
        assert world.wait_for(f"{protocol}.{name}", 1) == [(1_700_000_000, value)]
    assert world.rejects() == []


@contextlib.contextmanager
def program(*command: str | Path, log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env
        )
    try:
        yield process
    except BaseException:
        print(f"{command[0]} said:\n{log.read_text(errors='replace')}")  # pytest shows it with the failure
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


RELAYED_S = 120.0  # a relay that once found its destination slow leaves it alone for a while

COLLECTD = """
BaseDir "{home}"
PIDFile "{home}/collectd.pid"
TypesDB "/usr/share/collectd/types.db"
Hostname "laptop"
FQDNLookup false
Interval 0.2
LoadPlugin load
LoadPlugin memory
LoadPlugin write_graphite
<Plugin write_graphite>
  <Node "eventproc">
    Host "{host}"
    Port "{port}"
    Protocol "{protocol}"
    Prefix "collectd."
    {more}
  </Node>
</Plugin>
"""


@pytest.mark.external_service
@pytest.mark.parametrize(("protocol", "more"), [("tcp", ""), ("udp", ""), ("tcp", "UseTags true")])
def test_collectd(world: Listening, tmp_path: Path, protocol: str, more: str):
    found = shutil.which("collectd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if found is None:
        missing("collectd", "apt-get install --no-install-recommends collectd-core")
    host, port = world.lines if protocol == "tcp" else world.datagrams
    config = tmp_path / "collectd.conf"
    config.write_text(COLLECTD.format(home=tmp_path, host=host, port=port, protocol=protocol, more=more))
    with program(found, "-f", "-C", config, log=tmp_path / "log"):

        def names() -> set[str]:
            with world.store.read() as tx:
                return {metric.name for metric in tx.metrics.find(prefix="collectd.") if metric.last_rowid > 2}

        wanted = "collectd.load.load.shortterm;" if more else "collectd.laptop.load.load.shortterm"
        wait_until(lambda: any(name.startswith(wanted) for name in names()), timeout_s=60, what="collectd's figures")
    if more:
        with world.store.read() as tx:
            assert tx.metrics.find(tags={"host": "laptop", "plugin": "load"})
    assert [row for row in world.rejects() if row[0] not in ("duplicate", "late")] == []


@pytest.mark.external_service
def test_carbon_c_relay(world: Listening, tmp_path: Path):
    found = shutil.which("carbon-c-relay")
    if found is None:
        missing("carbon-c-relay", "apt-get install --no-install-recommends carbon-c-relay")
    port = free_port()
    config = tmp_path / "relay.conf"
    config.write_text(
        f"cluster eventproc forward {world.lines[0]}:{world.lines[1]} proto tcp;\nmatch * send to eventproc stop;\n"
    )
    # -T: it takes a server that is not quick for one that is down, and leaves it alone for longer and longer.
    with program(found, "-f", config, "-p", str(port), "-T", "20000", log=tmp_path / "log") as process:

        def ready() -> bool:  # it listens earlier, and a client that comes then can make it crash
            assert process.poll() is None, f"it ended with {process.returncode}"
            return "startup sequence complete" in (tmp_path / "log").read_text()

        wait_until(ready, what="carbon-c-relay to be ready")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            for number in range(700):
                client.sendall(b"relayed.%d %d %d\n" % (number % 7, number, 1_700_000_000 + number))
            for number in range(7):
                assert len(world.wait_for(f"relayed.{number}", 100, timeout_s=RELAYED_S)) == 100, world.rejects()
    assert world.rejects() == []


def carbon_python() -> Path:
    """Return the Python of an environment with carbon, which is made at the first use, as for the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        from peers.carbon import python

        try:
            return python()
        except FileNotFoundError as error:
            found: Path = missing("A Python that carbon can be had for", str(error).rpartition(": ")[2])
            return found


RELAY = """
[relay]
USER =
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {port}
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = {pickle}
RELAY_METHOD = consistent-hashing
REPLICATION_FACTOR = 1
DESTINATIONS = {host}:{to}:a
DESTINATION_PROTOCOL = {protocol}
CARBON_METRIC_INTERVAL = 0
USE_FLOW_CONTROL = True
"""


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["pickle", "line"])
def test_graphites_own_carbon_relay(world: Listening, tmp_path: Path, protocol: str):
    python = carbon_python()
    host, to = world.pickles if protocol == "pickle" else world.lines
    port = free_port()
    (tmp_path / "conf").mkdir()
    (tmp_path / "storage" / "log").mkdir(parents=True)
    config = tmp_path / "conf" / "carbon.conf"
    config.write_text(RELAY.format(port=port, pickle=free_port(), host=host, to=to, protocol=protocol))
    (config.parent / "storage-schemas.conf").write_text("[all]\npattern = .*\nretentions = 300s:60d\n")
    environ = {**os.environ, "GRAPHITE_ROOT": str(tmp_path), "GRAPHITE_CONF_DIR": str(tmp_path / "conf")}
    command = [python, python.with_name("carbon-relay.py"), "--config", config, "--nodaemon", "start"]
    with program(*command, log=tmp_path / "log", env=environ) as process:

        def connected() -> socket.socket | None:
            assert process.poll() is None, (tmp_path / "log").read_text()
            with contextlib.suppress(OSError):  # not up yet
                return socket.create_connection(("127.0.0.1", port), timeout=20)
            return None

        with wait_until(connected, timeout_s=60, what="carbon-relay to listen") as client:
            for number in range(700):
                client.sendall(b"relayed.%d %d %d\n" % (number % 7, number, 1_700_000_000 + number))
            for number in range(7):
                assert len(world.wait_for(f"relayed.{number}", 100, timeout_s=RELAYED_S)) == 100, world.rejects()
    assert world.rejects() == []


PROMETHEUS = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs: [{{job_name: itself, static_configs: [{{targets: ["{listens}"]}}]}}]
remote_write:
- url: {url}/api/v1/metrics/prometheus/write
  authorization: {{credentials: {key}}}
"""


@pytest.mark.external_service
def test_prometheus(api, tmp_path: Path):
    found = shutil.which("prometheus")
    if found is None:
        missing("Prometheus", "apt-get install --no-install-recommends prometheus")
    listens = f"127.0.0.1:{free_port()}"
    config = tmp_path / "prometheus.yml"
    config.write_text(PROMETHEUS.format(listens=listens, url=api.url, key=api.keys["emitter"]))
    options = (f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address={listens}")
    name = f"up;instance={listens};job=itself"
    with (
        program(found, *options, log=tmp_path / "log"),
        Connection(api.url, api.keys["admin"]) as conn,
    ):
        wait_until(
            lambda: any(one["accepted"] > 3 for one in conn.metrics(name)), timeout_s=90, what="Prometheus' samples"
        )
        assert {row["value"] for row in conn.samples(name)} <= {0.0, 1.0}
        assert {row["reason"] for row in conn.rejected_samples()} <= {"bad value"}  # NaN, of summaries without a sample
