"""The unmodified package btrdbextras 5.11.9 against a running platform: what its documentation shows, and errors."""

from __future__ import annotations

import base64
import email
import email.policy
import json
import re
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from btrdbextras_client import RUNNABLE, STRICT, STRICT_ENVIRON, Client, environment
from serving import Served
from waiting import wait_until

pytestmark = [pytest.mark.external_service, pytest.mark.slow]

HEAD = """
from btrdbextras import Connection
import btrdbextras.eventproc as ep
from btrdbextras.eventproc import hooks, register, list_handlers, deregister, upload_file
conn = Connection()
"""
HELLO = """
@register(conn, "hello", "ctingress.on_complete", "good@example.com", "bad@example.com", tags=["power", "quality"])
def hello(btrdb, **event):
    return "hello " + ", ".join(sorted(event))
"""
TELL = """
def tell(call, *args, **kwargs):
    try:
        print("answer:", call(*args, **kwargs))
    except Exception as error:
        code = getattr(error, "code", None)
        print("%s | %s | %s" % (type(error).__name__, code() if code else "", error.details() if code else error))
"""
PINS = {"strict": (STRICT, STRICT_ENVIRON), "runnable": (RUNNABLE, {})}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    served = Served(tmp_path_factory.mktemp("btrdbextras") / "data", EVENTPROC_GRPC="127.0.0.1:0", EVENTPROC_HTTPS=":0")
    yield served.start()
    served.close()


def make_client(served: Served, pins: str) -> Client:
    packages, environ = PINS[pins]
    return Client(environment(sys.executable, packages), served, environ=environ)


@pytest.fixture
def client(served) -> Client:
    yield make_client(served, "runnable")
    for handler in served.connect().list_handlers():
        served.connect().deregister(handler.id)


@pytest.fixture(params=PINS)
def each_client(request, served) -> Client:
    yield make_client(served, request.param)
    for handler in served.connect().list_handlers():
        served.connect().deregister(handler.id)


def sample(served: Served) -> dict:
    return served.json("hooks", "show", "ctingress.on_complete")["sample"]


def emit(served: Served, *, tags=("power",)) -> dict:
    """Report an import as the ingress does; return the run, once it has ended."""
    conn = served.connect()
    return conn.wait(conn.emit("ctingress.on_complete", sample(served), tags=list(tags))["runs"][0])


def mail_to(served: Served, address: str, *, holding: str) -> str:
    """Wait for a mail to that address with those words; return its text."""

    def look():
        for path in (served.data / "mail").glob("*.eml"):
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            text = mail.get_body(("plain",)).get_content()
            if mail["To"] == address and holding in text:
                return text
        return None

    return wait_until(look, what=f"a mail to {address} that holds {holding!r}")


# ------------------------------------------------------------------------------------------------- examples


def test_the_documented_examples_work_in_their_order(each_client, served):
    program = (
        HEAD
        + "print(hooks(conn))\n"
        + HELLO
        + """
print(hello(None, a=1))
(handler,) = list_handlers(conn)
print(type(handler).__name__, handler._fields)
print(handler.name, handler.hook, handler.version, handler.tags, handler.notify_on_success, handler.notify_on_failure)
print(handler.created_by, handler.created_at.tzinfo, handler.created_at == handler.updated_at)
print(list_handlers(conn, hook="ctingress.on_complete") == [handler])
print(deregister(conn, handler.id), list_handlers(conn))
"""
    )
    lines = each_client.output(program).splitlines()
    assert "ctingress.on_complete" in lines[0]
    assert lines[1] == "hello a"
    assert lines[2] == (
        "Handler ('id', 'name', 'hook', 'version', 'notify_on_success', 'notify_on_failure', 'tags', 'created_at',"
        " 'created_by', 'updated_at', 'updated_by')"
    )
    assert lines[3] == "hello ctingress.on_complete 0 ['power', 'quality'] good@example.com bad@example.com"
    assert lines[4:] == ["admin UTC True", "True", "True []"]


def test_a_registered_handler_runs_and_its_result_comes_by_mail(each_client, served):
    each_client.output(HEAD + HELLO)
    run = emit(served)
    assert (run["state"], run["result"]) == ("succeeded", "hello DataSets, File, RequestID, SubmittedAt")
    assert "hello" in mail_to(served, "good@example.com", holding=run["result"])


def test_a_failure_comes_by_mail_with_the_line_where_it_happened(each_client, served):
    program = (
        HEAD
        + """
@register(conn, "fails", "ctingress.on_complete", "good@example.com", "bad@example.com")
def fails(btrdb, **event):
    first = 1
    raise ValueError("not today")
"""
    )
    each_client.output(program)
    assert emit(served)["state"] == "failed"
    text = mail_to(served, "bad@example.com", holding="ValueError: not today")
    line = program.splitlines().index('    raise ValueError("not today")') + 1
    assert f"line {line}, in fails" in text


def test_tags_choose_and_none_means_all(client, served):
    client.output(
        HEAD
        + HELLO
        + """
@register(conn, "all", "ctingress.on_complete", "", "", tags=[])
def everything(btrdb, **event):
    return "all"
register(conn, "none", "ctingress.on_complete", None, None)(everything)
"""
    )
    conn = served.connect()
    names = {handler.id: handler.name for handler in conn.list_handlers()}

    def chosen(*tags):
        accepted = conn.emit("ctingress.on_complete", sample(served), tags=list(tags))
        return sorted(names[conn.run(run)["handler_id"]] for run in accepted["runs"])

    assert chosen("quality", "other") == ["all", "hello", "none"]
    assert chosen("other") == ["all", "none"]


@pytest.mark.parametrize("form", ["localhost:{}", "localhost:{}#", "127.0.0.1:{}", "127.0.0.1:{}?"])
def test_each_form_of_endpoint_works(client, served, form):
    client.endpoint = form.format(served.endpoints["grpc"].rpartition(":")[2])
    assert "ctingress.on_complete" in client.output(HEAD + "print(hooks(conn))")


def test_from_registration_to_a_link_that_downloads_the_very_bytes(each_client, served, tmp_path):
    each_client.output(
        HEAD
        + """
@register(conn, "report", "ctingress.on_complete", "reports@example.com", "bad@example.com")
def report(btrdb, **event):
    import os
    file = open("report.bin", "wb")
    file.write(bytes(range(256)) * 1000)
    file.close()
    assert os.environ["EXECUTOR_CONTEXT"] == "true"
    link = ep.upload_file("report.bin", "Report for Jos\\u00e9.bin")
    assert link.startswith("https://" + os.environ["DOWNLOADS_ENDPOINT"] + "/"), link
    return link
"""
    )
    run = emit(served)
    assert run["state"] == "succeeded", run
    text = mail_to(served, "reports@example.com", holding=run["result"])
    link = re.search(r"https://\S+/[0-9a-f]{32}\b", text)[0]
    context = ssl.create_default_context(cafile=served.data / "certs" / "ca.pem")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(link, context=context)
    assert refused.value.code == 401
    refused.value.close()
    login = base64.b64encode(f"me:{served.key}".encode()).decode()
    with urllib.request.urlopen(
        urllib.request.Request(link, headers={"Authorization": f"Basic {login}"}), context=context
    ) as answer:
        assert answer.read() == bytes(range(256)) * 1000
        assert "Jos%C3%A9" in answer.headers["Content-Disposition"]


def test_the_module_can_be_imported_inside_a_handler_in_every_way(client, served):
    client.output(
        HEAD
        + """
@register(conn, "imports", "ctingress.on_complete", "", "")
def imports(btrdb, **event):
    import btrdbextras.eventproc
    import btrdbextras.eventproc as one
    from btrdbextras import eventproc as two
    from btrdbextras.eventproc import upload_file
    with open("a.txt", "w") as file:
        file.write("a")
    links = {each("a.txt", "a.txt") for each in (btrdbextras.eventproc.upload_file, one.upload_file,
                                                 two.upload_file, upload_file, ep.upload_file)}
    return len(links)
"""
    )
    assert emit(served)["result"] == 5


def test_the_first_argument_answers_as_a_btrdb_connection_does(client, served):
    client.output(
        HEAD
        + """
@register(conn, "makes", "ctingress.on_complete", "", "", tags=["make"])
def makes(btrdb, **event):
    from uuid import UUID
    stream = btrdb.create(UUID(int=7), "plant/one", tags={"name": "V1", "unit": "volts"}, annotations={"phase": "A"})
    stream.insert([(1000 + i, float(i)) for i in range(10)])

@register(conn, "reads", "ctingress.on_complete", "", "", tags=["read"])
def reads(btrdb, **event):
    from uuid import UUID
    stream = btrdb.stream_from_uuid("00000000-0000-0000-0000-000000000007")
    assert btrdb.streams(UUID(int=7))[0].uuid == stream.uuid == UUID(int=7)
    assert btrdb.streams("plant/one/V1")[0].name == "V1"
    assert [each.name for each in btrdb.streams_in_collection("plant")] == ["V1"]
    assert "plant/one" in btrdb.list_collections("plant")
    assert stream.collection == "plant/one" and stream.unit == "volts" and stream.tags()["name"] == "V1"
    assert stream.annotations()[0] == {"phase": "A"}
    points = stream.values(start=1002, end=1005)
    assert [(point.time, point.value) for point, version in points] == [(1002, 2.0), (1003, 3.0), (1004, 4.0)]
    assert stream.earliest()[0].time == 1000 and stream.latest()[0].value == 9.0
    assert stream.count() == 10 and stream.count(start=1002, end=1005) == 3
    windows = stream.windows(start=1000, end=1010, width=5)
    assert [(point.time, point.mean, point.count) for point, version in windows] == [(1000, 2.0, 5), (1005, 7.0, 5)]
    assert [point.min for point, _ in stream.aligned_windows(start=1000, end=1008, pointwidth=2)] == [0.0, 4.0]
    assert stream.nearest(1004, version=0, backward=True)[0].time == 1003
    assert stream.nearest(1004, version=0)[0].time == 1004
    return "all read"
"""
    )
    assert emit(served, tags=["make"])["state"] == "succeeded"
    run = emit(served, tags=["read"])
    assert (run["state"], run["result"]) == ("succeeded", "all read"), run


def test_twenty_megabytes_travel_inside_a_handler(client, served):
    client.output(
        HEAD
        + """
import os
def make():
    data = os.urandom(20_000_000)
    def big(btrdb, **event):
        return len(data)
    return big
register(conn, "big", "ctingress.on_complete", "", "")(make())
"""
    )
    assert emit(served)["result"] == 20_000_000


def test_eight_registrations_at_once_leave_one_handler_with_eight_more_versions(client, served):
    program = (
        HEAD
        + HELLO
        + """
from concurrent.futures import ThreadPoolExecutor
(first,) = list_handlers(conn)
again = register(conn, "hello", "ctingress.on_complete", "", "")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda _: again(hello), range(8)))
(last,) = list_handlers(conn)
print(last.id == first.id, first.version, last.version)
print(last.created_at == first.created_at, last.updated_at > first.updated_at)
deregister(conn, last.id)
again(hello)
(new,) = list_handlers(conn)
print(new.id == first.id, new.version)
"""
    )
    assert client.output(program).splitlines() == ["True 0 8", "True True", "False 0"]


# ------------------------------------------------------------------------------------------------- errors


def test_errors_say_what_was_wrong(client):
    lines = client.output(
        HEAD
        + TELL
        + """
def fine(btrdb, **event):
    return 1
tell(register(conn, "x", "ctingress.on_complet", "", ""), fine)
tell(register(conn, "x", "ctingress.on_complete", "nobody", ""), fine)
tell(register(conn, "", "ctingress.on_complete", "", ""), fine)
tell(register(conn, "x", "ctingress.on_complete", "", "", tags=["x" * 1000]), fine)
tell(register(conn, "x", "ctingress.on_complete", "", ""), 42)
tell(register(conn, "x", "ctingress.on_complete", "", ""), len)
tell(deregister, conn, 99)
tell(deregister, conn, None)
tell(list_handlers, conn, "no.such")
"""
    ).splitlines()
    expected = [
        ("NOT_FOUND", "did you mean: ctingress.on_complete"),
        ("INVALID_ARGUMENT", "nobody"),
        ("INVALID_ARGUMENT", "name"),
        ("INVALID_ARGUMENT", "tag"),
        ("INVALID_ARGUMENT", "int"),
        ("answer", "built-in"),
        ("NOT_FOUND", "no handler 99"),
        ("INVALID_ARGUMENT", "no id was sent"),
        ("NOT_FOUND", "unknown hook 'no.such'"),
    ]
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert all(word in line for word in words), (line, words)


def test_a_function_of_the_users_own_module_is_refused_with_what_to_do(client, served):
    (served.data.parent / "ownmodule.py").write_text("def handler(btrdb, **event):\n    return 1\n")
    (line,) = client.output(
        HEAD
        + TELL
        + """
import ownmodule
tell(register(conn, "x", "ctingress.on_complete", "", ""), ownmodule.handler)
"""
    ).splitlines()
    assert "INVALID_ARGUMENT" in line
    assert "needs the module 'ownmodule'" in line


def test_a_wrong_key_is_refused_and_never_repeated(client):
    client.key = "ep_aaaaaaaa_" + "x" * 43
    (line,) = client.output(HEAD + TELL + "tell(hooks, conn)").splitlines()
    assert "UNAUTHENTICATED" in line
    assert "unknown API key" in line
    assert "x" * 43 not in line


def test_the_wrong_authority_or_no_server_is_unavailable_at_once(client, served, tmp_path):
    from eventproc.roles import certs

    other = certs.init(tmp_path / "certs")
    (line,) = client.output(HEAD + TELL + "tell(hooks, conn)", BTRDB_CA_BUNDLE=str(other.ca)).splitlines()
    assert "UNAVAILABLE" in line
    client.endpoint = "localhost:9"
    (line,) = client.output(HEAD + TELL + "tell(hooks, conn)").splitlines()
    assert "UNAVAILABLE" in line


def test_another_users_handler_can_not_be_taken_over_or_removed(client, served):
    client.output(HEAD + HELLO)
    conn = served.connect()
    conn.add_user("dora", "developer")
    client.key = conn.add_key("dora", label="test")["key"]
    lines = client.output(
        HEAD
        + TELL
        + """
def mine(btrdb, **event):
    return 1
tell(register(conn, "hello", "ctingress.on_complete", "", ""), mine)
tell(deregister, conn, list_handlers(conn)[0].id)
tell(register(conn, "other", "ctingress.on_complete", "", ""), mine)
"""
    ).splitlines()
    assert ["PERMISSION_DENIED" in line and "belongs to user 'admin'" in line for line in lines[:2]] == [True, True]
    assert lines[2].startswith("answer")
    assert {handler.name: handler.created_by for handler in conn.list_handlers()} == {"hello": "admin", "other": "dora"}


def test_a_try_block_that_an_old_dill_has_lost_is_refused_with_the_reason(served):
    """dill 0.3.2, which the package declares, drops the exception tables of Python 3.11."""
    client = make_client(served, "strict")
    (line,) = client.output(
        HEAD
        + TELL
        + """
def tries(btrdb, **event):
    try:
        return event["nothing"]
    except KeyError:
        return "caught"
tell(register(conn, "x", "ctingress.on_complete", "", ""), tries)
"""
    ).splitlines()
    assert "INVALID_ARGUMENT" in line
    assert "its try and with blocks got lost, as they do with dill before 0.3.6" in line
    assert served.connect().list_handlers() == []


# ------------------------------------------------------------------------------------------------- starting


def test_a_port_that_is_taken_is_named_with_what_to_set(serve, served):
    port = served.endpoints["grpc"].rpartition(":")[2]
    second = serve(wait=False, EVENTPROC_GRPC=f"127.0.0.1:{port}")
    assert second.wait() == 2
    assert f"port {port}" in second.tail()
    assert "EVENTPROC_GRPC=127.0.0.1:0" in second.tail()


def test_the_port_stays_when_the_api_starts_again(serve):
    served = serve(EVENTPROC_GRPC="127.0.0.1:0", EVENTPROC_HTTPS="127.0.0.1:0")
    client = make_client(served, "runnable")
    before = dict(served.endpoints)
    assert set(before) >= {"http", "https", "grpc"}
    served.kill_role("api")
    program = HEAD + TELL + "tell(hooks, conn)"
    wait_until(lambda: "answer" in client.output(program), timeout_s=60, what="the gRPC service to answer again")
    assert served.endpoints == before
    assert served.stop() == 0


def test_certificates_made_beforehand_are_enough_and_the_printed_settings_work(serve, tmp_path):
    data = tmp_path / "data"
    first = serve("--help", data=data, wait=False)
    first.wait()
    made = json.loads(first.cli("certs", "init", "--json").stdout)
    assert Path(made["ca"]) == data / "certs" / "ca.pem"
    assert made["client"]["BTRDB_ENDPOINTS"] == "localhost:4411"
    served = serve(data=data, EVENTPROC_GRPC="127.0.0.1:0")
    assert "ctingress.on_complete" in make_client(served, "runnable").output(HEAD + "print(hooks(conn))")
    assert any(line.split() == ["grpc", served.endpoints["grpc"]] for line in served.said)


def test_without_certificates_and_address_there_is_no_grpc(serve):
    assert not {"https", "grpc"} & set(serve().endpoints)
