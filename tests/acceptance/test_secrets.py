"""Secrets on a running platform: handlers use them, and no byte that the platform keeps or says shows them."""

# ruff: noqa: F821 - `ep` is there for handlers

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from serving import Served, command_line
from waiting import wait_until

from eventproc import Connection
from eventproc.errors import Conflict, MissingSecret

VALUE = 'Gr8-s3cr3t/tök3n+77 "q'
FORMS = (
    VALUE,
    json.dumps(VALUE)[1:-1],
    json.dumps(VALUE, ensure_ascii=False)[1:-1],
    base64.b64encode(VALUE.encode()).decode(),
    quote(VALUE),
    "s3cr3t/t",
)
FINAL = ("succeeded", "failed", "commit_failed")


def tells(db, how, **kwargs):
    import base64
    import json
    import sys
    import urllib.parse

    token = ep.secrets["TOKEN"]
    print("token is", token, json.dumps(token), base64.b64encode(token.encode()).decode(), urllib.parse.quote(token))
    for character in token:
        sys.stderr.write(character)
        sys.stderr.flush()
    ep.log.warning("with %s", token)
    if how == "raise":
        raise ValueError(f"the server refused {token}")
    return {"token": token, "length": len(token)}


def needs(db, **kwargs):
    return len(ep.secrets["TOKEN"])


def run_one(conn: Connection, hook: str, payload: dict) -> dict:
    (run_id,) = conn.emit(hook, payload)["runs"]
    return wait_until(
        lambda: run if (run := conn.run(run_id))["state"] in FINAL else None, timeout_s=60, what=f"run {run_id}"
    )


def kept_bytes(served: Served) -> dict[str, bytes]:
    """Return all that lies in the data directory, and the log."""
    files = [path for path in served.data.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in [*files, served.log]}


def pages_of(conn: Connection, *paths: str) -> str:
    return "\n".join(json.dumps(conn.request("GET", path), ensure_ascii=False) for path in paths)


def test_whatever_a_handler_does_with_a_secret_the_platform_shows_its_name(serve):
    served = serve()
    conn = served.connect()
    assert served.cli("secrets", "set", "TOKEN", "--value-file", "-", stdin=VALUE + "\n").returncode == 0
    conn.put_hook("work", summary="x", sample={"how": "return"})
    conn.register(
        tells,
        hook="work",
        secrets=["TOKEN"],
        notify_on_success="a@example.com",
        notify_on_failure="b@example.com",
    )
    good, bad = run_one(conn, "work", {"how": "return"}), run_one(conn, "work", {"how": "raise"})
    assert (good["state"], good["result"]) == ("succeeded", {"token": "***TOKEN***", "length": len(VALUE)})
    assert bad["state"] == "failed"
    assert "the server refused ***TOKEN***" in bad["failure"]["message"]
    mails = wait_until(
        lambda: found if len(found := list((served.data / "mail").glob("*.eml"))) == 2 else None, what="two mails"
    )
    assert all("TOKEN" in mail.read_text() for mail in mails)
    said = pages_of(
        conn,
        *("/secrets", "/runs", f"/runs/{good['id']}", f"/runs/{bad['id']}", f"/runs/{good['id']}/logs"),
        *(f"/runs/{bad['id']}/logs", "/events", "/notices", "/audit", "/handlers"),
    )
    said += json.dumps(conn.dry_run(conn.list_handlers()[0].id, payload={"how": "raise"}), ensure_ascii=False)
    said += "".join(chunk["text"] for chunk in conn.logs(bad["id"]))
    said += "".join(str(conn.notice(notice["id"])) for notice in conn.notices())
    said += served.cli("secrets", "list").stdout + served.cli("runs", "show", str(bad["id"])).stdout
    assert "***TOKEN***" in said
    for form in FORMS:
        assert form not in said
    served.stop()
    for name, data in kept_bytes(served).items():
        for form in FORMS:
            assert form.encode() not in data, (name, form)


def test_no_process_that_handlers_come_from_carries_keys_or_values(serve):
    served = serve(EVENTPROC_SECRET_KEY="the-key-of-the-operator")
    conn = served.connect()
    conn.set_secret("TOKEN", VALUE)
    conn.put_hook("work", summary="x", sample={"how": "return"})
    conn.register(tells, hook="work", secrets=["TOKEN"])
    assert run_one(conn, "work", {"how": "return"})["state"] == "succeeded"
    zygotes = [pid for pid in served.tree() if any("zygote" in word for word in command_line(pid))]
    assert zygotes
    for pid in zygotes:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        words = " ".join(command_line(pid)).encode()
        for hidden in (b"the-key-of-the-operator", b"EVENTPROC", VALUE.encode()):
            assert hidden not in environ
        assert b"the-key-of-the-operator" not in words
        assert VALUE.encode() not in words


def test_another_user_can_not_have_it(serve):
    served = serve()
    conn = served.connect()
    conn.set_secret("TOKEN", VALUE)
    conn.put_hook("work", summary="x")
    key = conn.request("POST", "/users", json={"name": "eve", "role": "developer"}) and conn.add_key("eve")["key"]
    with Connection(served.endpoints["http"], key) as eve:
        assert eve.secrets() == []
        with pytest.raises(MissingSecret, match="user 'eve' has no secret 'TOKEN'"):
            eve.register(needs, hook="work", secrets=["TOKEN"])
        eve.register(needs, hook="work")
        failed = run_one(eve, "work", {})
    assert "was not registered with the secret 'TOKEN'" in failed["failure"]["message"]


def test_the_key_can_be_changed_and_a_wrong_one_says_so(serve):
    served = serve(EVENTPROC_SECRET_KEY="first")
    conn = served.connect()
    conn.set_secret("TOKEN", VALUE)
    conn.put_hook("work", summary="x")
    conn.register(needs, hook="work", secrets=["TOKEN"])
    assert run_one(conn, "work", {})["result"] == len(VALUE)

    def restarted(keys: str) -> Connection:
        served.stop()
        served.environ["EVENTPROC_SECRET_KEY"] = keys
        return served.start().connect()

    assert run_one(restarted("second,first"), "work", {})["result"] == len(VALUE)
    rotated = served.cli("secrets", "rotate")
    assert rotated.stdout == "1 secrets are under the first key now\n", rotated.stderr
    assert run_one(restarted("second"), "work", {})["result"] == len(VALUE)
    conn = restarted("third")
    failed = run_one(conn, "work", {})
    assert failed["state"] == "failed"
    assert "EVENTPROC_SECRET_KEY" in failed["failure"]["message"]
    refused = served.cli("secrets", "rotate")
    assert refused.returncode == Conflict.exit_code
    assert "1 of 1 secrets can not be decrypted with the keys of EVENTPROC_SECRET_KEY" in refused.stderr
    assert "admin/TOKEN. Nothing was changed" in refused.stderr
    conn.set_secret("TOKEN", VALUE + "!")
    assert run_one(conn, "work", {})["result"] == len(VALUE) + 1


def test_the_command_line_sets_lists_and_deletes(serve, tmp_path):
    served = serve()
    file = tmp_path / "value.txt"
    file.write_text(VALUE + "\n")
    done = served.cli("secrets", "set", "TOKEN", "--value-file", str(file))
    assert (done.returncode, done.stdout) == (0, "secret TOKEN is set\n"), done.stderr
    (item,) = served.json("secrets", "list")
    assert item["name"] == "TOKEN"
    short = served.cli("secrets", "set", "PIN", "-f", "-", stdin="123")
    assert "under 4 characters" in short.stderr
    no_terminal = served.cli("secrets", "set", "TOKEN", stdin="")
    assert no_terminal.returncode == 2
    assert "--value-file" in no_terminal.stderr
    assert served.cli("secrets", "delete", "TOKEN").stdout == "secret TOKEN is gone\n"
    assert served.cli("secrets", "delete", "TOKEN").returncode == 4


def test_at_a_terminal_the_value_is_asked_for_and_not_echoed(serve):
    served = serve()
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "eventproc", "secrets", "set", "TOKEN"],
        env=served.environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        answered = 0
        while True:
            try:
                piece = os.read(ours, 1000)
            except OSError:  # the terminal is closed with the last process on it
                break
            if not piece:
                break
            shown += piece
            if shown.count(b"alue:") + shown.count(b"confirmation:") > answered:
                answered += 1
                os.write(ours, b"typed-s3cret\n")
        process.wait(60)
    os.close(ours)
    assert process.returncode == 0, shown
    assert b"typed-s3cret" not in shown
    assert [item["name"] for item in served.json("secrets", "list")] == ["TOKEN"]
