"""Code that imports winchester finds its names, where that was asked for, and nowhere else."""

from __future__ import annotations

import builtins
import datetime as dt
import http.server
import json
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from eventproc.child.pipeline import Part, Pipeline
from eventproc.compat.winchester import MODULES, install
from eventproc.errors import Conflict
from eventproc.model.network import NetworkGrant, NetworkPolicy
from eventproc.service.messages import to_web


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("winchester", "timex")]:
        del sys.modules[name]


@pytest.fixture
def installed() -> Iterator[None]:
    install()
    yield
    forget()


def test_nothing_is_importable_before_it_is_asked_for() -> None:
    with pytest.raises(ModuleNotFoundError):
        import winchester  # noqa: F401


@pytest.mark.usefixtures("installed")
def test_the_names_of_users_code_are_there() -> None:
    from winchester.config import ConfigManager, ConfigurationError  # noqa: F401
    from winchester.db import DBInterface, DuplicateError, LockError, NoSuchStreamError  # noqa: F401
    from winchester.debugging import DebugManager, NoOpDebugger, NoOpGroup  # noqa: F401
    from winchester.definition import DefinitionError, TriggerDefinition  # noqa: F401
    from winchester.models import Datatype, StreamState
    from winchester.pipeline_handler import (  # noqa: F401
        AtomPubHandler,
        ConnectionManager,
        LoggingHandler,
        NotabeneException,
        NotabeneHandler,
        PipelineHandlerBase,
        UsageException,
        UsageHandler,
        connection_manager,
    )
    from winchester.pipeline_manager import Pipeline, PipelineConfigError, PipelineExecutionError  # noqa: F401
    from winchester.time_sync import TimeSync  # noqa: F401
    from winchester.trigger_manager import TriggerManager  # noqa: F401

    assert (StreamState.retry_expire, Datatype.timerange) == (8, 5)
    install()  # a second time changes nothing
    assert set(MODULES) <= {name.partition(".")[2] for name in sys.modules if name.startswith("winchester.")}


def test_a_real_winchester_is_not_hidden_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    real = types.ModuleType("winchester")
    monkeypatch.setitem(sys.modules, "winchester", real)
    with pytest.raises(Conflict, match="replace=True"):
        install()
    assert sys.modules["winchester"] is real
    install(replace=True)
    assert sys.modules["winchester"] is not real
    forget()


class Counter:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def bump_counter(self, name: str, inc: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + inc


class Handler:
    calls: ClassVar[list[str]] = []

    def __init__(self, name: str = "?", *, fails: str = "") -> None:
        self.name = name
        self.fails = fails

    def _do(self, what: str) -> None:
        self.calls.append(f"{self.name}.{what}")
        if self.fails == what:
            raise RuntimeError(what)

    def handle_events(self, events: list[Any], env: dict[str, Any]) -> list[Any]:
        self._do("handle")
        assert env == {"stream_id": 7, "stream_name": "s"}
        return [*events, {"message_id": self.name}]

    def commit(self) -> None:
        self._do("commit")

    def rollback(self) -> None:
        self._do("rollback")


STREAM = types.SimpleNamespace(id=7, name="s")


@pytest.mark.usefixtures("installed")
def test_a_pipeline_can_be_tried_in_ones_own_process() -> None:
    from winchester.pipeline_manager import Pipeline, PipelineConfigError, PipelineExecutionError

    Handler.calls.clear()
    counter = Counter()
    steps = [{"name": "h", "params": {"name": "a", "fails": "commit"}}, {"name": "h", "params": {"name": "b"}}]
    pipeline = Pipeline("p", steps, {"h": Handler})
    assert pipeline.handle_events([{"message_id": "old"}], STREAM, counter) == [
        {"message_id": "a"},
        {"message_id": "b"},
    ]
    assert Handler.calls == ["a.handle", "b.handle", "a.commit", "b.commit"]
    assert counter.counts == {"Pre-commit successful": 1, "Commit error": 1, "Commit successful": 1}
    with pytest.raises(PipelineConfigError, match="Unknown handler"):
        Pipeline("p", ["other"], {"h": Handler})
    broken = Pipeline("p", [{"name": "h", "params": {"fails": "handle"}}], {"h": Handler})
    with pytest.raises(PipelineExecutionError) as caught:
        broken.handle_events([], STREAM, counter)
    assert isinstance(caught.value.cause, RuntimeError)
    assert Handler.calls[-1] == "?.rollback"


@pytest.mark.usefixtures("installed")
def test_a_definition_matches_events_that_are_dicts() -> None:
    from winchester.debugging import DebugManager
    from winchester.definition import DefinitionError, TriggerDefinition

    manager = DebugManager()
    definition = TriggerDefinition(
        {
            "name": "t",
            "debug_level": 2,
            "distinguished_by": ["i", {"timestamp": "day"}],
            "expiration": "$last + 1d",
            "fire_delay": 30,
            "fire_pipeline": "p",
            "match_criteria": [{"event_type": "a.*"}],
            "fire_criteria": [{"event_type": "a.b", "number": 2}],
        },
        manager,
    )
    noon = dt.datetime(2015, 2, 27, 12)  # noqa: DTZ001 - winchester's times are naive
    event = {"event_type": "a.b", "message_id": "m", "timestamp": noon, "i": "x"}
    matching = definition.match(event)
    assert matching is not None
    found = definition.get_distinguishing_traits(event, matching)
    assert found["i"] == "x"
    assert (found["timestamp"].begin, found["timestamp"].end) == (noon.replace(hour=0), noon.replace(day=28, hour=0))
    assert definition.match({**event, "event_type": "b"}) is None
    assert not definition.should_fire([event])
    assert definition.should_fire([event, event])
    assert definition.get_fire_timestamp(noon) == noon.replace(second=30)
    assert manager.get_debugger(definition).get_group("Match")._reasons["Wrong event type"] == 1
    with pytest.raises(DefinitionError, match="the key 'expiration' is missing"):
        TriggerDefinition({"name": "t"}, manager)


@pytest.mark.usefixtures("installed")
def test_a_time_is_the_one_that_was_published() -> None:
    from winchester.time_sync import TimeSync

    clock = TimeSync({}, publishes=True)
    clock.publish("2015-02-27T12:00:00Z")
    assert clock.current_time() == dt.datetime(2015, 2, 27, 12)  # noqa: DTZ001
    deaf = TimeSync({})
    deaf.publish("2015-02-27T12:00:00Z")
    assert deaf.current_time().year > 2020


NOON = dt.datetime(2015, 2, 27, 12)  # noqa: DTZ001
DAY = {"audit_period_beginning": NOON.replace(hour=0), "audit_period_ending": NOON.replace(day=28, hour=0)}
EXISTS = {
    "event_type": "compute.instance.exists",
    "message_id": "2cf4e3a4-4a5e-4d57-8d0a-7b2f7a1ce8f1",
    "timestamp": NOON,
    "state": "active",
    "launched_at": NOON.replace(month=1),
    **DAY,
}
DELETE = {"event_type": "compute.instance.delete.end", "message_id": "d", "timestamp": NOON, "deleted_at": NOON}
DELETED = {**EXISTS, "state": "deleted", "deleted_at": NOON}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([EXISTS], None),
        ([{**DELETE}], "U0"),
        ([{**EXISTS, "launched_at": None}], "U1"),
        ([{**DELETE, "launched_at": NOON, "deleted_at": NOON}, {**DELETED, "launched_at": NOON.replace(day=1)}], "U2"),
        ([{**EXISTS, "deleted_at": NOON}], "U3"),
        ([{**DELETED, "launched_at": NOON.replace(hour=13)}], "U4"),
        ([DELETED], "U5"),
        ([{**DELETED, "launched_at": None}], "U5"),
        ([DELETE, EXISTS], "U6"),
        ([DELETE, DELETE, DELETED], "U7"),
        ([{**EXISTS, "launched_at": NOON}], "U8"),
        ([{**DELETE, "launched_at": EXISTS["launched_at"]}, DELETED], None),
    ],
)
def test_usage_is_judged_by_its_codes(events: list[dict[str, Any]], code: str | None) -> None:
    from winchester.pipeline_handler import UsageHandler

    result = UsageHandler().handle_events(list(events), {"stream_id": 3, "stream_name": "s"})[-1]
    assert result["event_type"] == f"compute.instance.exists.{'failed' if code else 'verified'}"
    assert result["error_code"] == code
    assert result["stream_id"] == 3


@pytest.mark.usefixtures("installed")
def test_a_field_that_one_side_lacks_is_a_key_error() -> None:
    from winchester.pipeline_handler import UsageHandler

    with pytest.raises(KeyError):
        UsageHandler().handle_events([DELETE, DELETED], {"stream_id": 3, "stream_name": "s"})


@pytest.mark.usefixtures("installed")
def test_publishing_handlers_say_what_they_lack() -> None:
    from winchester.pipeline_handler import AtomPubHandler, NotabeneException, NotabeneHandler, driver

    with pytest.raises(NotabeneException, match="queue_name"):
        NotabeneHandler(exchange="x")
    with pytest.raises(NotabeneException, match="exchange"):
        NotabeneHandler(queue_name="x")
    handler = AtomPubHandler("https://example.com", event_types=["a.*", "!a.b"], content_format="cuf_xml")
    assert [handler.match_type(name) for name in ("a.c", "a.b", "b")] == [True, False, False]
    assert handler.get_event_type("a.c") == "a.c.cuf"
    with pytest.raises(NotabeneException, match="needs the platform"):
        driver.send_notification({"event_type": "a"}, "key", None, None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("traits", "wanted"),
    [
        ({}, 'status="ACTIVE" osLicenseType="LINUX" bandwidthIn="" bandwidthOut=""'),
        ({"state_description": "rebooting_hard"}, 'status="HARD_REBOOT"'),
        ({"state": "resized", "state_description": "resize_reverting"}, 'status="REVERT_RESIZE"'),
        ({"state": "resized"}, 'status="VERIFY_RESIZE"'),
        ({"state": "soft-delete"}, 'status="SOFT_DELETED"'),
        ({"state": "odd"}, 'status="UNKNOWN"'),
        ({"rax_options": "1"}, 'osLicenseType="RHEL" bandwidthIn'),
        ({"rax_options": "12"}, 'osLicenseType="WINDOWS" applicationLicense="MSSQL"'),
        ({"rax_options": "36"}, 'osLicenseType="WINDOWS" applicationLicense="MSSQL_WEB"'),
        ({"rax_options": "odd"}, 'osLicenseType="LINUX"'),
        ({"instance_id": 'a"<b'}, "resourceId='a\"&lt;b'"),
        ({}, 'startTime="2015-02-27T00:00:00Z" endTime="2015-02-28T00:00:00Z"'),
        ({"launched_at": NOON}, 'startTime="2015-02-27T12:00:00Z"'),
        ({"deleted_at": NOON}, 'endTime="2015-02-27T12:00:00Z"'),
        ({"launched_at": None, "audit_period_beginning": None}, 'startTime=""'),
    ],
)
def test_the_cloud_usage_feed_tells_state_licences_and_times(traits: dict[str, Any], wanted: str) -> None:
    from winchester.pipeline_handler import AtomPubHandler

    handler = AtomPubHandler("https://example.com", content_format="cuf_xml", extra_info={"region": "TST"})
    content, kind = handler.format_cuf_xml({**EXISTS, **traits})
    assert wanted in content
    assert 'region="TST"' in content
    assert kind == "application/xml"


class Feed(http.server.ThreadingHTTPServer):
    """An Atom server that wants a token; the first one that is asked for has expired."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str | None, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Answer)


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Feed

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        token = self.headers["x-auth-token"]
        self.server.got.append((self.path, token, body))
        logins = sum(path == "/auth" for path, _, _ in self.server.got)
        if self.path == "/auth":
            self._say(200, json.dumps({"access": {"token": {"id": f"token-{logins}"}}}).encode())
        else:
            self._say(201 if token == "token-2" else 401, b"")

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None: ...


@pytest.mark.usefixtures("installed")
def test_in_ones_own_process_an_entry_is_posted_with_a_new_token_when_the_old_one_is_refused() -> None:
    from winchester.pipeline_handler import AtomPubHandler

    AtomPubHandler.auth_token_cache = None
    with Feed() as feed:
        thread = threading.Thread(target=feed.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{feed.server_address[1]}"
        handler = AtomPubHandler(f"{url}/feed", title="a <b>", auth_user="u", auth_key="k", auth_server=f"{url}/auth")
        handler.handle_events([EXISTS], {})
        handler.commit()
        feed.shutdown()
        thread.join()
    assert [(path, token) for path, token, _ in feed.got] == [
        ("/auth", None),
        ("/feed", "token-1"),
        ("/auth", None),
        ("/feed", "token-2"),
    ]
    assert json.loads(feed.got[0][2]) == {"auth": {"RAX-KSKEY:apiKeyCredentials": {"username": "u", "apiKey": "k"}}}
    text = feed.got[-1][2].decode()
    assert 'type="text">a &lt;b&gt;<' in text
    assert '"launched_at": "2015-01-27T12:00:00Z"' in text


@pytest.mark.usefixtures("installed")
def test_no_pause_at_all_becomes_the_shortest_that_the_platform_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    from winchester.pipeline_handler import AtomPubHandler

    def accepts(url: str, body: bytes, headers: dict[str, str], **options: Any) -> None:
        patience = {"timeout": options["timeout"], "interval": options["wait_interval"], "max": options["max_wait"]}
        args = {"url": url, "headers": headers, "method": "POST", "accept": options["accept"], "patience": patience}
        sent.append(to_web(args, body, NetworkPolicy(grant=NetworkGrant.ANY)).headers)

    sent: list[Any] = []
    monkeypatch.setattr(builtins, "ep", types.SimpleNamespace(post=accepts), raising=False)
    handler = AtomPubHandler("https://example.com", wait_interval=0, max_wait=0, http_timeout=0.5)
    handler.handle_events([EXISTS], {})
    handler.before_commit()
    assert [sent[0][f"patience.{name}"] for name in ("timeout", "interval", "max")] == ["1", "1", "1"]


@pytest.mark.usefixtures("installed")
def test_results_are_left_in_env_as_the_notifications_of_an_older_release() -> None:
    from winchester.pipeline_handler import UsageHandler

    env = {"stream_id": 3, "stream_name": "s"}
    events = UsageHandler().handle_events([{**EXISTS, "instance_flavor": "1GB"}, DELETE], env)
    verified, lost = env["usage_notifications"]
    assert lost == events[-1]
    assert (verified["event_type"], verified["message_id"]) == (events[-2]["event_type"], events[-2]["message_id"])
    assert verified["payload"]["instance_type"] == "1GB"
    assert verified["payload"]["audit_period_ending"] == "2015-02-28 00:00:00"
    assert verified["original_message_id"] == EXISTS["message_id"]


def test_subclasses_in_a_notebook_carry_winchesters_classes_along() -> None:
    """They are pickled by value: where handlers run there is neither winchester nor eventproc."""
    from eventproc.codec.blob import pack
    from eventproc.compat.winchester import UsageHandler

    class Mine(UsageHandler):
        def _get_core_fields(self) -> list[str]:
            return ["launched_at"]

    program = """
import sys
sys.modules["eventproc"] = sys.modules["winchester"] = None
import dill
made = dill.load(sys.stdin.buffer)()
events = [{"event_type": "a", "message_id": "m", "timestamp": 1}]
print(made._get_core_fields(), made.handle_events(events, {"stream_id": 1})[-1]["error_code"])
"""
    blob = pack(Mine).blob
    done = subprocess.run([sys.executable, "-c", program], input=blob, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["['launched_at']", "U0"]


class Asked:
    """An execution that keeps what it is asked for."""

    def __init__(self) -> None:
        self.on_commit: list[Any] = []
        self.on_rollback: list[Any] = []
        self.published: list[str] = []

    def ask(self, *_: Any) -> None: ...

    def publish(self, exchange: str, routing_key: str, *_: Any, **__: Any) -> None:
        self.published.append(f"{exchange}/{routing_key}")


@pytest.mark.usefixtures("installed")
def test_what_goes_into_the_outbox_needs_no_commit_and_own_ones_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    from winchester.pipeline_handler import AtomPubHandler, NotabeneHandler

    class Own(NotabeneHandler):
        def commit(self) -> None:
            print("committed")

    run = Asked()
    monkeypatch.setattr(builtins, "ep", run, raising=False)
    params = {"queue_name": "q", "exchange": "e", "env_keys": ["k"]}
    fill = Part("fill", lambda events, env: env.update(k=[{"event_type": "a.b"}]) or events, {})
    parts = [fill, Part("amqp", NotabeneHandler, params), Part("atom", AtomPubHandler, {"url": "https://x/"})]
    Pipeline([*parts, Part("own", Own, params)], naive=True).run(
        run, None, {"events": [], "stream_id": 1, "stream_name": "s"}
    )
    assert run.published == ["e/q", "e/q"]
    assert [name for name, _ in run.on_commit] == ["own.commit"]


class Triggers:
    """A platform as far as TriggerManager goes."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.kept = {"t": 1}

    def emit_many(self, events: list[Any]) -> list[dict[str, Any]]:
        self.sent += events
        return [{"id": event.id, "duplicate": False} for event in events]

    def triggers(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in self.kept]

    def put_trigger(self, *, name: str, number: int) -> dict[str, Any]:
        self.kept[name] = number
        return {"name": name}


@pytest.mark.usefixtures("installed")
def test_a_trigger_manager_takes_what_winchesters_takes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from winchester.trigger_manager import TriggerManager

    (tmp_path / "p.yaml").write_text("{}\n")
    (tmp_path / "w.yaml").write_text("database: {url: 'sqlite://'}\npipeline_handlers: {}\npipeline_config: p.yaml\n")
    platform = Triggers()
    manager = TriggerManager(tmp_path / "w.yaml", connection=platform)
    moment = dt.datetime(2026, 1, 2)  # noqa: DTZ001 - winchester's are naive
    event = {"message_id": "m", "event_type": "a.b", "timestamp": moment, "host": b"h\xc3\xa4\xff"}
    for name in ("timestamp", "message_id", "event_type"):
        assert manager.add_event({key: value for key, value in event.items() if key != name}) is False
        assert f"without {name}" in caplog.text
    assert manager.add_event(event) is True
    assert [each.payload for each in platform.sent] == [{"host": "hä"}]
    manager.add_trigger_definition([{"name": "t", "number": 2}, {"name": "u", "number": 3}, {"name": "u", "number": 4}])
    assert platform.kept == {"t": 1, "u": 3}
