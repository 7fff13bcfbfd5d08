"""The command line against a running platform: every command, for people and for programs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served
from waiting import wait_until

HOOKS = """\
hooks:
  - name: order.placed
    summary: A customer placed an order.
    schema:
      type: object
      required: [total]
      properties: {total: {type: number}}
    sample: {total: 1}
"""
GOOD = '''\
"""Doubles."""
from eventproc import register

@register(name="double", hook="order.placed", tags=["shop"], notify_on_success="a@example.com")
def double(db, total, **kwargs):
    print(f"total \\x1b[31m{total}")
    with open("note.txt", "w") as file:
        file.write("x")
    ep.upload_file("note.txt")
    return total * 2
'''
BAD = "from eventproc import register\nthis is no python\n"
BOOM = """\
from eventproc import register

@register(name="boom", hook="order.placed", tags=["bad"])
def boom(db, **kwargs):
    raise ValueError("\\x1b[2Jgone")
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("cli") / "data")
    made.start()
    (made.data.parent / "hooks.yaml").write_text(HOOKS)
    folder = made.data.parent / "handlers"
    folder.mkdir()
    (folder / "a_good.py").write_text(GOOD)
    (folder / "broken.py").write_text(BAD)
    (folder / "z_boom.py").write_text(BOOM)
    assert made.cli("hooks", "add", "hooks.yaml").returncode == 0
    pushed = made.cli("handlers", "push", "handlers", "--json")
    assert pushed.returncode == 2
    assert [("error" in item) for item in json.loads(pushed.stdout)] == [False, True, False]
    yield made
    made.close()


def emitted(served: Served, *arguments: str) -> dict:
    return served.json("emit", "order.placed", *arguments)


def finished(served: Served, run_id: int) -> dict:
    return wait_until(
        lambda: (run := served.json("runs", "show", str(run_id)))["state"] in ("succeeded", "failed") and run,
        what=f"run {run_id} to finish",
    )


def test_hooks_are_listed_shown_paused_and_resumed(served):
    assert "order.placed" in {hook["name"] for hook in served.json("hooks", "list")}
    assert served.json("hooks", "show", "order.placed")["sample"] == {"total": 1}
    assert served.json("hooks", "pause", "order.placed")["paused"] is True
    assert served.json("hooks", "resume", "order.placed")["paused"] is False


def test_a_hook_of_ones_own_can_be_deleted_and_a_used_one_only_by_force(served, tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text("hooks:\n  - name: short.lived\n    summary: x\n    sample: {}\n")
    assert served.cli("hooks", "add", str(file)).returncode == 0
    assert served.cli("hooks", "delete", "short.lived").returncode == 0
    refused = served.cli("hooks", "delete", "order.placed")
    assert refused.returncode == 5
    assert "double" in refused.stderr


def test_an_unknown_hook_is_exit_code_4_and_lists_the_near_ones(served):
    done = served.cli("emit", "order.plased", "--payload", "{}")
    assert done.returncode == 4
    assert "order.placed" in done.stderr


def test_an_event_runs_its_handlers_and_logs_are_harmless_to_print(served):
    accepted = emitted(served, "--payload", '{"total": 21}', "--tag", "shop")
    run = finished(served, accepted["runs"][0])
    assert run["result"] == 42
    assert [file["name"] for file in run["files"]] == ["note.txt"]
    logs = served.cli("runs", "logs", str(run["id"]), "-f")
    assert logs.returncode == 0
    assert logs.stdout == "total \\x1b[31m21\n"
    assert served.json("events", "show", accepted["id"])["payload"] == {"total": 21}


def test_a_failure_is_shown_with_its_traceback_and_no_escape(served):
    run = finished(served, emitted(served, "--payload", '{"total": 1}', "--tag", "bad")["runs"][0])
    shown = served.cli("runs", "show", str(run["id"])).stdout
    assert "ValueError" in shown
    assert "\x1b" not in shown
    requeued = served.cli("runs", "requeue", str(run["id"]))
    assert requeued.returncode == 0
    wait_until(
        lambda: (again := finished(served, run["id"])) and again["started_at"] != run["started_at"],
        what="the second execution",
    )


def test_the_payload_may_come_from_a_file_or_from_stdin(served, tmp_path):
    (tmp_path / "p.json").write_text('{"total": 1}')
    assert emitted(served, "--payload", f"@{tmp_path / 'p.json'}")["id"]
    done = served.cli("emit", "order.placed", "--payload", "-", stdin='{"total": 2}')
    assert done.returncode == 0
    assert "accepted" in done.stdout


@pytest.mark.parametrize(
    ("payload", "words"), [("{", "not JSON"), ("[]", "JSON object"), ('{"total": "x"}', "$.total")]
)
def test_a_bad_payload_is_exit_code_2_and_says_where(served, payload, words):
    done = served.cli("emit", "order.placed", "--payload", payload)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_hooks_sample_can_be_sent(served):
    event = emitted(served, "--sample", "--tag", "nobody")
    assert served.json("events", "show", event["id"])["payload"] == {"total": 1}


def test_the_same_id_is_accepted_once_and_refused_with_other_content(served):
    first = emitted(served, "--payload", '{"total": 5}', "--id", "once")
    again = emitted(served, "--payload", '{"total": 5}', "--id", "once")
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    other = served.cli("emit", "order.placed", "--payload", '{"total": 6}', "--id", "once")
    assert other.returncode == 5


def test_many_events_by_lines_each_with_its_own_verdict(served):
    lines = '{"total": 1}\nnonsense\n{"total": "x"}\n{"payload": {"total": 2}, "id": "line-4"}'
    done = served.cli("emit", "order.placed", "--lines", "--payload", "-", "--json", stdin=lines)
    assert done.returncode == 2
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [verdict["line"] for verdict in verdicts] == [1, 2, 3, 4]
    assert ["error" in verdict for verdict in verdicts] == [False, True, True, False]
    assert served.json("events", "show", "line-4")["payload"] == {"total": 2}


def test_lists_are_tables_for_people_and_arrays_for_programs(served):
    plain = served.cli("handlers", "list").stdout.splitlines()
    assert plain[0].split()[:3] == ["id", "hook", "name"]
    assert {"double", "boom"} <= {handler["name"] for handler in served.json("handlers", "list")}
    assert "\x1b" not in "".join(plain)


def test_a_list_can_be_longer_than_a_page(served):
    lines = "\n".join(json.dumps({"payload": {"total": n}, "tags": ["nobody"]}) for n in range(1200))
    assert served.cli("emit", "order.placed", "--lines", "--payload", "-", stdin=lines).returncode == 0
    assert len(served.json("events", "list", "--tag", "nobody", "--limit", "1100")) == 1100


def test_versions_can_be_compared_and_an_old_one_used_again(served):
    folder = served.data.parent / "second"
    folder.mkdir(exist_ok=True)
    (folder / "good.py").write_text(GOOD.replace("total * 2", "total * 3"))
    [pushed] = served.json("handlers", "push", str(folder))
    assert pushed["version"] == 1
    assert [item["version"] for item in served.json("handlers", "versions", "double")] in ([0, 1], [1, 0])
    assert "+    return total * 3" in served.cli("handlers", "diff", "double").stdout
    assert "total * 3" in served.cli("handlers", "source", "double").stdout
    assert served.json("handlers", "use", "double", "0")["version"] == 0
    run = finished(served, emitted(served, "--payload", '{"total": 2}', "--tag", "shop")["runs"][0])
    assert run["result"] == 4


def test_a_paused_handlers_runs_wait_and_can_be_cancelled(served):
    assert served.json("handlers", "pause", "double")["paused"] is True
    run_id = emitted(served, "--payload", '{"total": 1}', "--tag", "shop")["runs"][0]
    assert served.json("runs", "show", str(run_id))["state"] == "queued"
    assert served.cli("runs", "cancel", str(run_id)).returncode == 0
    assert served.json("runs", "show", str(run_id))["state"] == "cancelled"
    assert served.json("handlers", "resume", "double")["paused"] is False


def test_which_runs_must_be_said(served):
    assert "--all" in served.cli("runs", "cancel").stderr
    assert served.cli("runs", "cancel", "1", "--all").returncode == 2
    assert served.json("runs", "cancel", "--all")["refused"] == []


def test_unknown_things_are_exit_code_4(served):
    for line in (["runs", "show", "99999"], ["events", "show", "no-such"], ["handlers", "show", "no-such"]):
        assert served.cli(*line).returncode == 4, line


def test_users_get_keys_and_only_the_rights_of_their_role(served):
    made = served.json("users", "add", "eve", "--role", "viewer")
    theirs = {"EVENTPROC_API_KEY": made["key"], "EVENTPROC_ENDPOINTS": served.endpoints["http"]}
    assert served.cli("events", "list", **theirs).returncode == 0
    refused = served.cli("emit", "order.placed", "--payload", '{"total": 1}', **theirs)
    assert refused.returncode == 3
    assert made["key"] not in refused.stderr
    [key] = served.json("keys", "list", "eve")
    assert served.cli("keys", "revoke", key["prefix"]).returncode == 0
    wait_until(lambda: served.cli("events", "list", **theirs).returncode == 3, what="the key to be refused")
    assert served.json("users", "disable", "eve")["disabled"] is True
    assert "user.create" in {entry["action"] for entry in served.json("audit")}


def test_schedules_are_set_listed_and_deleted(served):
    assert served.json("schedules", "set", "nightly", "0 3 * * *", "--timezone", "Europe/Berlin")["cron"] == "0 3 * * *"
    assert [item["name"] for item in served.json("schedules", "list")] == ["nightly"]
    assert served.cli("schedules", "set", "bad", "whenever").returncode == 2
    assert served.cli("schedules", "delete", "nightly").returncode == 0
    assert served.json("schedules", "list") == []


def test_mails_are_listed_and_shown(served):
    run = finished(served, emitted(served, "--payload", '{"total": 21}', "--tag", "shop")["runs"][0])
    [notice] = wait_until(
        lambda: (
            (found := served.json("mail", "list", "--run", str(run["id"]))) and found[0]["state"] == "sent" and found
        ),
        what="the mail",
    )
    shown = served.cli("mail", "show", str(notice["id"])).stdout
    assert "To: a@example.com" in shown
    assert "42" in shown
    assert "\x1b" not in shown


def test_a_dry_run_shows_result_and_effects_and_keeps_nothing(served):
    before = len(served.json("runs", "list", "--limit", "100000"))
    done = served.json("runs", "dry-run", "double", "--payload", '{"total": 4}')
    assert done["result"] == 8
    failed = served.cli("runs", "dry-run", "boom", "--payload", '{"total": 4}')
    assert failed.returncode == 1
    assert "\x1b" not in failed.stdout
    assert len(served.json("runs", "list", "--limit", "100000")) == before


def test_why_says_why_a_handler_did_not_run(served):
    event = emitted(served, "--payload", '{"total": 4}', "--tag", "bad")
    done = served.cli("events", "why", event["id"], "--handler", "double")
    assert done.returncode == 0
    assert "tag" in done.stdout


def test_replay_runs_past_events_again(served):
    event = emitted(served, "--payload", '{"total": 7}', "--tag", "shop")
    finished(served, event["runs"][0])
    when = served.json("events", "show", event["id"])["time"]
    done = served.json(
        "events",
        "replay",
        "--hook",
        "order.placed",
        "--since",
        when,
        "--until",
        "2999-01-01T00:00:00Z",
        "--handler",
        "double",
    )
    assert done["events"] >= 1


def test_an_archive_or_a_folder_is_imported(served, tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "fault.cfg").write_text(
        "Station,1,1999\n1,1A,0D\n1,Ua,,,V,1.0,0.0,0,-100,100,1,1,P\n50\n1\n1000,3\n"
        "01/01/2020,00:00:00.000000\n01/01/2020,00:00:00.000000\nASCII\n1\n"
    )
    (folder / "fault.dat").write_text("1,0,1\n2,1000,2\n3,2000,3\n")
    result = served.json("ingest", "comtrade", str(folder), "--tag", "relay")
    assert [item["Success"] for item in result["payload"]["DataSets"]] == [True]
    assert served.json("events", "show", result["event_id"])["tags"] == ["relay"]
    archive = tmp_path / "records.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.write(folder / "fault.cfg", "fault.cfg")
        made.write(folder / "fault.dat", "fault.dat")
        made.writestr("stray.txt", "hello")
    shown = served.cli("ingest", "comtrade", str(archive))
    assert shown.returncode == 0
    assert "1 of 1 records imported" in shown.stdout


def test_an_archive_that_is_none_is_refused(served, tmp_path):
    file = tmp_path / "not.zip"
    file.write_text("hello")
    done = served.cli("ingest", "comtrade", str(file))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_doctor_sees_the_running_server(served):
    report = served.json("doctor")
    assert any(finding["what"] == "server" and "answers" in finding["says"] for finding in report["findings"])


def test_ready_made_handlers_are_listed_and_added(served):
    names = [item["name"] for item in served.json("handlers", "available")]
    assert served.cli("handlers", "add", "no-such-handler").returncode == 4
    if not names:
        pytest.skip("none come with this version")
    done = served.cli("handlers", "add", names[0], "--tag", "mine")
    assert done.returncode == 0, done.stderr
    assert served.cli("handlers", "add", names[0].replace("_", "-")).returncode == 0


def test_a_handler_can_be_deregistered(served, tmp_path):
    file: Path = tmp_path / "gone.py"
    file.write_text(GOOD.replace('"double"', '"gone"'))
    assert served.cli("handlers", "push", str(file)).returncode == 0
    assert served.cli("handlers", "delete", "gone").returncode == 0
    assert "gone" not in {handler["name"] for handler in served.json("handlers", "list")}
