"""
Bad input, on one running platform.

Each costs its own run, or is refused; the text says what was wrong and what to do, the failure mail says it too, and
the platform then runs a good handler at once.
"""

# Handlers stand here as users write them.
# ruff: noqa: BLE001

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import itertools
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Served
from smtp_server import SmtpServer
from waiting import wait_until

from eventproc import Connection
from eventproc.codec.blob import pack
from eventproc.codec.bundle import bundle_to_json
from eventproc.errors import EventConflict, InvalidHandler, InvalidInput, VersionMismatch

_numbers = itertools.count()


@pytest.fixture(scope="module")
def smtp() -> Iterator[SmtpServer]:
    server = SmtpServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, smtp: SmtpServer) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("bad-input")
    made = Served(directory / "data", EVENTPROC_SMTP_URL=f"smtp://127.0.0.1:{smtp.port}?timeout=1")
    yield made.start()
    made.close()


@pytest.fixture
def conn(served: Served) -> Iterator[Connection]:
    """Connect, and see afterwards that the platform is in good order: a good handler runs at once."""
    connection = served.connect()
    yield connection
    name = f"good{next(_numbers)}"
    connection.put_hook(name, summary="x", sample={})
    connection.register(lambda db, n, **kwargs: f"fine {n}", hook=name, name=name)
    run = connection.wait(connection.emit(name, {"n": 1})["runs"][0])
    assert (run["state"], run["result"]) == ("succeeded", "fine 1")
    connection.deregister(run["handler_id"])
    assert served.process is not None
    assert served.process.poll() is None
    assert connection.health()["status"] == "ok"


def plain(mail: bytes) -> str:
    message = email.message_from_bytes(mail, policy=email.policy.default)
    body = message.get_body(("plain",))
    assert body is not None
    text: str = body.get_content()
    return text


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


class Case:
    """A handler on a hook of its own, and what came of one event."""

    def __init__(self, conn: Connection, smtp: SmtpServer, handler: Any, **options: Any) -> None:
        self.name = f"bad{next(_numbers)}"
        self.address = f"{self.name}@example.com"
        self.conn = conn
        self.smtp = smtp
        conn.put_hook(self.name, summary="x", sample={})
        self.handler = conn.register(
            handler, hook=self.name, name=self.name, notify_on_failure=self.address, **{"timeout": 20, **options}
        )
        self.run = conn.wait(conn.emit(self.name, {"n": 1})["runs"][0])

    @property
    def output(self) -> str:
        return "".join(chunk["text"] for chunk in self.conn.logs(self.run["id"]))

    def mail(self) -> str:
        return plain(wait_until(self._mails, what=f"the mail to {self.address}")[0])

    def _mails(self) -> list[bytes]:
        return [mail for _, recipients, mail in self.smtp.box.mails if self.address in recipients]

    def failed(self, kind: str, *said: str) -> Case:
        """Expect a failure of that kind whose text, in the run and in the mail, holds all that is `said`."""
        failure = self.run["failure"]
        assert self.run["state"] == "failed", self.run
        assert failure["kind"] == kind, failure
        assert "eventproc_child" not in str(failure), "our own names say nothing to the handler's owner"
        mail = one_line(self.mail())
        for text in said:
            assert text in failure["message"]
            assert text in mail
        assert f"eventproc runs requeue {self.run['id']}" in mail
        return self


# ---------------------------------------------------------------------------------------------------- handlers


def test_a_result_of_100_mb_is_refused_by_its_size_and_files_are_named_as_the_way(conn, smtp):
    case = Case(conn, smtp, lambda db, **kwargs: "x" * 100_000_000)
    case.failed("result", "1 MiB", "95.3674 MiB", "ep.upload_file")
    assert case.run["failure"]["message"].count("ep.upload_file") == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{'rows': [1, {'cell': object()}]}", "$.rows[1].cell is an object object, which JSON can not hold"),
        ("{'names': {'a', 'b'}}", "return sorted(it) instead"),
        ("[float('nan')]", "$[0] is nan, which JSON can not hold; return None or a str instead"),
        ("{(1, 2): 3}", "has a key of type tuple; JSON objects have str keys"),
        ("b'raw'", "ep.upload_file"),
    ],
)
def test_a_result_that_json_can_not_hold_is_refused_by_its_path(conn, smtp, value, said):
    def handler(db, **kwargs):
        return eval(value)

    Case(conn, smtp, handler).failed("result", said)


def test_a_class_may_return_its_events_though_they_carry_datetimes(conn, smtp):
    class Keeps:
        def __init__(self):
            self.events = []

        def handle_events(self, events, env):
            self.events += events
            return self.events

        def commit(self):
            pass

        def rollback(self):
            pass

    case = Case(conn, smtp, Keeps)
    assert case.run["state"] == "succeeded"
    (event,) = case.run["result"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", event["timestamp"])
    assert (event["n"], event["event_type"]) == (1, case.name)


def test_invalid_utf8_is_shown_escaped_in_the_log_and_the_mail(conn, smtp):
    def handler(db, **kwargs):
        import os
        import sys

        os.write(1, b"raw \xff\xfe\n")
        sys.stdout.buffer.write(b"buffer \xc3\x28\n")
        print("surrogate \udcff")
        raise ValueError("also here: \udcff")

    case = Case(conn, smtp, handler).failed("exception", "also here: \\udcff")
    assert case.output == "raw \\xff\\xfe\nbuffer \\xc3(\nsurrogate \\udcff\n"
    assert "raw \\xff\\xfe" in case.mail()


def test_an_exception_whose_str_raises_is_named_by_its_class(conn, smtp):
    def handler(db, **kwargs):
        class Grudge(Exception):
            def __str__(self):
                raise RuntimeError("no")

            __repr__ = __str__

        raise Grudge

    Case(conn, smtp, handler).failed("exception", "<Grudge whose str() raised RuntimeError>")


def test_os_exit_is_told_apart_from_an_exception(conn, smtp):
    def handler(db, **kwargs):
        import os

        print("before")
        os._exit(3)

    case = Case(conn, smtp, handler).failed("exit", "exit code 3", "os._exit", "return")
    assert case.output == "before\n"
    assert "rollback" in case.mail(), "the mail says that no rollback ran"


def test_a_segfault_is_a_signal_by_name_and_the_output_has_the_line(conn, smtp):
    def crashes_here(db, **kwargs):
        import ctypes

        ctypes.string_at(0)

    case = Case(conn, smtp, crashes_here).failed("signal", "SIGSEGV", "output")
    assert "in crashes_here" in case.output


def test_sleeping_for_ever_and_ignoring_sigterm_ends_with_the_timeout(conn, smtp):
    def handler(db, **kwargs):
        import signal
        import time

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                print("still here", flush=True)

    Case(conn, smtp, handler, timeout=0.5).failed("timeout", "0.5 s", "register(..., timeout=...)")


def test_a_fork_is_refused_in_words_or_ends_with_its_run(conn, smtp, served):
    """Where the kernel lets us, processes are refused; elsewhere the copy ends with the run."""

    def handler(db, **kwargs):
        import os
        import time

        if os.fork() == 0:
            time.sleep(3600)
        return "parent"

    case = Case(conn, smtp, handler)
    if case.run["state"] == "failed":
        case.failed("exception", "allow_subprocess=True")
    else:
        assert case.run["result"] == "parent"


def test_opening_a_network_connection_is_refused_in_words(conn, smtp):
    def handler(db, **kwargs):
        import socket

        socket.create_connection(("127.0.0.1", 80), timeout=2)

    Case(conn, smtp, handler).failed("exception", "127.0.0.1:80", "no network", "network=['127.0.0.1:80']")


def test_a_batch_child_that_dies_costs_one_event_of_many(conn, smtp):
    def handler(db, n, **kwargs):
        import os

        if n == 7:
            os._exit(9)
        return n

    case = Case(conn, smtp, handler, isolation="batch")
    items = conn.emit_many([(case.name, {"n": n}) for n in range(2, 40)])
    runs = [conn.wait(item["runs"][0]) for item in items]
    assert [run["result"] for run in runs] == [None if n == 7 else n for n in range(2, 40)]
    assert [run["failure"]["kind"] for run in runs if run["state"] == "failed"] == ["exit"]


# ---------------------------------------------------------------------------------------------------- blobs


def post_bundle(conn: Connection, **changes: Any) -> Any:
    conn.put_hook("blobs", summary="x", sample={})
    bundle = {**bundle_to_json(pack(lambda db, **kwargs: 1)), **changes}
    body = {"hook": "blobs", "name": "sent", "tags": [], "options": {}, "bundle": bundle}
    return conn.request("POST", "/handlers", json=body)


def test_a_blob_of_another_python_is_refused_naming_both_versions(conn):
    with pytest.raises(VersionMismatch) as caught:
        post_bundle(conn, python="3.6")
    assert "made by Python 3.6" in caught.value.message
    assert "the workers here run 3." in caught.value.message
    assert "register it" in caught.value.message


def test_a_blob_damaged_on_the_way_is_refused(conn):
    with pytest.raises(InvalidHandler, match=r"damaged on the way"):
        post_bundle(conn, blob=base64.b64encode(b"something else").decode())


@pytest.mark.parametrize("blob", [b"no pickle at all", b"\x80\x04\x95\xff\xff", pack(lambda db: 1).blob[:-40]])
def test_a_blob_that_can_not_be_loaded_is_refused_at_registration(conn, blob):
    with pytest.raises(InvalidHandler, match="can not be loaded"):
        post_bundle(conn, blob=base64.b64encode(blob).decode(), digest=hashlib.sha256(blob).hexdigest())


def test_a_blob_that_is_damaged_in_the_store_fails_its_runs_and_says_to_register_again(conn, served, smtp):
    case = Case(conn, smtp, lambda db, **kwargs: 1, isolation="batch")
    assert case.run["state"] == "succeeded"
    spoilt = Case(conn, smtp, lambda db, **kwargs: 2)
    conn.pause(spoilt.handler.id)
    run = conn.emit(spoilt.name, {"n": 2})["runs"][0]
    digest = conn.version(spoilt.handler.id, 0)["digest"]
    with sqlite3.connect(served.data / "eventproc.db", timeout=20) as database:
        statement = "UPDATE handler_versions SET blob = substr(blob, 1, 40) WHERE digest = ?"
        changed = database.execute(statement, (digest,)).rowcount
    database.close()
    assert changed == 1
    served.kill_role("worker")  # which may still hold the good bytes
    wait_until(lambda: served.pid_of("worker"), what="the next worker")
    conn.resume(spoilt.handler.id)
    spoilt.run = conn.wait(run)
    spoilt.failed("load", "register")


# ---------------------------------------------------------------------------------------------------- events


def test_ten_thousand_tags_are_refused_naming_the_limit_and_a_hundred_are_taken(conn):
    conn.put_hook("tagged", summary="x", sample={})
    with pytest.raises(InvalidInput, match=r"10000 tags, the limit is \d+"):
        conn.emit("tagged", {}, tags=[f"t{n}" for n in range(10_000)])
    with pytest.raises(InvalidInput, match=r"10000 tags, the limit is \d+"):
        conn.register(lambda db, **kw: 1, hook="tagged", name="many", tags=[f"t{n}" for n in range(10_000)])
    tags = [f"t{n}" for n in range(50)]
    conn.register(lambda db, **kw: 1, hook="tagged", name="some", tags=tags)
    assert conn.wait(conn.emit("tagged", {}, tags=tags[-1:])["runs"][0])["state"] == "succeeded"


def test_an_event_id_used_twice_with_another_payload_is_a_conflict_and_changes_nothing(conn):
    conn.put_hook("once", summary="x", sample={})
    first = conn.emit("once", {"n": 1}, id="the-id")
    again = conn.emit("once", {"n": 1}, id="the-id")
    assert (again["duplicate"], again["seq"]) == (True, first["seq"])
    with pytest.raises(EventConflict, match="give each event an id of its own"):
        conn.emit("once", {"n": 2}, id="the-id")
    good, bad, other = conn.emit_many(
        [{"hook": "once", "payload": {"n": n}, "id": name} for n, name in ((3, "a"), (4, "the-id"), (5, "b"))]
    )
    assert bad["error"]["code"] == "event_conflict"
    assert (good["id"], other["id"]) == ("a", "b")
    assert conn.event("the-id")["payload"] == {"n": 1}


# ---------------------------------------------------------------------------------------------------- plugin files


def test_a_broken_handler_file_among_good_ones_is_reported_and_the_others_are_registered(conn, served, tmp_path):
    conn.put_hook("files", summary="x", sample={})
    register = "from eventproc import register\n\n\n@register(hook='files', name={name!r})\n"
    good = register + "def handle(db, **kw):\n    {body}\n"
    (tmp_path / "a_good.py").write_text(good.format(name="a", body="return 'a'"))
    (tmp_path / "b_broken.py").write_text("from eventproc import register\n\ndef oops(:\n")
    (tmp_path / "c_raises.py").write_text("import no_such_module_anywhere\n")
    (tmp_path / "d_good.py").write_text(good.format(name="d", body="return 'd'"))
    done = served.cli("handlers", "push", str(tmp_path))
    assert done.returncode != 0
    assert "b_broken.py:3: SyntaxError" in done.stderr
    assert "c_raises.py" in done.stderr
    assert "no_such_module_anywhere" in done.stderr
    assert sorted(handler.name for handler in conn.list_handlers("files")) == ["a", "d"]


# ---------------------------------------------------------------------------------------------------- mail


def notice_of(conn: Connection, run: dict[str, Any]) -> dict[str, Any]:
    (notice,) = conn.notices(run=run["id"])
    return notice


def mailed(conn: Connection, *addresses: str) -> dict[str, Any]:
    name = f"mails{next(_numbers)}"
    conn.put_hook(name, summary="x", sample={})
    conn.register(lambda db, **kw: "done", hook=name, name=name, notify_on_success=", ".join(addresses))
    return conn.wait(conn.emit(name, {})["runs"][0])


def test_a_recipient_the_server_refuses_is_named_and_the_others_get_their_mail(conn, smtp):
    smtp.box.refuse["gone@example.com"] = "550 no such mailbox"
    run = mailed(conn, "here@example.com", "gone@example.com")
    notice = wait_until(
        lambda: (found := notice_of(conn, run)) and found["state"] == "sent" and found, what="the notice to be sent"
    )
    assert notice["refused"] == ["gone@example.com"]
    assert any("here@example.com" in recipients for _, recipients, _ in smtp.box.mails)
    assert run["state"] == "succeeded"


def test_a_mail_that_all_recipients_refuse_is_given_up_in_sight(conn, served, smtp):
    smtp.box.refuse |= dict.fromkeys(("x@example.com", "y@example.com"), "550 no such mailbox")
    run = mailed(conn, "x@example.com", "y@example.com")
    notice = wait_until(
        lambda: (found := notice_of(conn, run)) and found["state"] != "pending" and found,
        what="the notice to be given up",
    )
    assert notice["state"] == "failed"
    assert "550 no such mailbox" in notice["error"]
    assert run["state"] == "succeeded"
    listed = served.cli("mail", "list").stdout
    assert "failed" in listed
    assert "x@example.com" in served.cli("mail", "show", str(notice["id"])).stdout


def test_a_mail_server_that_hangs_holds_up_no_run_and_its_mail_is_put_off(conn, smtp):
    smtp.box.hang_in = "DATA"
    try:
        run = mailed(conn, "patient@example.com")
        assert run["state"] == "succeeded"
        notice = wait_until(
            lambda: (found := notice_of(conn, run)) and found["error"] and found,
            timeout_s=90,
            what="the try to be given up",
        )
        assert notice["state"] == "pending"
        assert notice["due_at"] > notice["created_at"]
        assert "took too long to answer" in notice["error"]
        assert mailed(conn, "second@example.com")["state"] == "succeeded"
    finally:
        smtp.box.hang_in = None
