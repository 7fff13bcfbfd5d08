"""What a newcomer types, and what the command line says to it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from serving import Served

HOOKS = "hooks:\n- {name: tea.asked, summary: x, sample: {kind: green}}\n- {name: tea.*, summary: x}\n"
HANDLERS = """\
from eventproc import register

@register(name="brew", hook="tea.asked", notify_on_success="a@example.com")
def brew(db, kind, **kwargs):
    if kind == "none":
        raise ValueError("no tea\\nat all")
    return f"{kind} tea"

@register(name="taste", hook="tea.*", tags=["guests"])
def taste(db, **kwargs):
    return None

@register(name="sweeten", hook="schedule.tick")
def sweeten(db, **kwargs):
    return None
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("newcomer") / "data")
    made.start()
    (made.data.parent / "tea.yaml").write_text(HOOKS)
    (made.data.parent / "tea.py").write_text(HANDLERS)
    assert made.cli("hooks", "add", "tea.yaml").returncode == 0
    assert made.cli("handlers", "push", "tea.py").returncode == 0
    yield made
    made.close()


def emit(served: Served, kind: str, *more: str):
    return served.cli("emit", "tea.asked", "--wait", "--payload", json.dumps({"kind": kind}), *more)


def test_emit_waits_for_its_runs_and_says_what_each_came_to(served):
    done = emit(served, "black", "--tag", "guests")
    assert done.returncode == 0
    assert [line.split(" ", 2)[2] for line in done.stdout.splitlines()[1:]] == [
        "succeeded: brew v0 → black tea",
        "succeeded: taste v0",
    ]


def test_emit_that_waited_for_a_failure_is_exit_code_1(served):
    done = emit(served, "none", "--tag", "nobody")
    assert done.returncode == 1
    assert "failed: brew v0 → ValueError: no tea\\nat all" in done.stdout


def test_waiting_for_an_event_that_was_accepted_before_waits_for_its_first_runs(served):
    assert emit(served, "mint", "--id", "tea-1").returncode == 0
    again = emit(served, "mint", "--id", "tea-1")
    assert again.returncode == 0
    assert "had been accepted before" in again.stdout
    assert "brew v0 → mint tea" in again.stdout


def test_waiting_without_a_run_ends_at_once(served):
    done = served.cli("emit", "metric.created", "--sample", "--wait")
    assert done.returncode == 0
    assert "no handler matches" in done.stdout


def test_waiting_for_programs_is_one_json_document(served):
    done = emit(served, "none", "--tag", "nobody", "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert [run["state"] for run in said["ended"]] == ["failed"]
    again = served.cli("runs", "requeue", str(said["ended"][0]["id"]), "--wait", "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout)["ended"][0]["failure"]["type"] == "ValueError"


def test_waiting_ends_with_the_time_given(served):
    assert served.cli("handlers", "pause", "brew").returncode == 0
    done = emit(served, "slow", "--timeout", "0.1")
    assert served.cli("handlers", "resume", "brew").returncode == 0
    assert done.returncode == 6
    assert "is still queued" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("emit", "tea.asked", "--lines", "--wait"), ("runs", "requeue", "1", "--state", "failed"), ("runs", "cancel")],
)
def test_what_makes_no_sense_together_is_refused(served, arguments):
    assert served.cli(*arguments).returncode == 2


def test_why_without_a_handler_explains_all_that_are_on_the_hook(served):
    event = served.json("emit", "tea.asked", "--payload", '{"kind": "red"}', "--tag", "nobody")
    found = served.json("events", "why", event["id"])
    assert [(answer["handler"], bool(answer["runs"])) for answer in found] == [("brew", True), ("taste", False)]
    shown = served.cli("events", "why", event["id"]).stdout
    assert "brew: " in shown
    assert "taste: " in shown
    assert "sweeten" not in shown


def test_an_unknown_handler_is_met_with_near_names_or_all(served):
    assert "did you mean: taste" in served.cli("handlers", "show", "tast").stderr
    assert "there are: brew, sweeten, taste" in served.cli("handlers", "show", "zzz").stderr


def test_a_hook_file_may_hold_one_hook_at_its_top(served):
    (served.data.parent / "one.yaml").write_text("name: milk.added\nsummary: x\nsample: {}\n")
    done = served.cli("hooks", "add", "one.yaml")
    assert (done.returncode, done.stdout) == (0, "hook milk.added is there\n")


def test_a_shown_mail_has_plain_line_ends(served):
    emit(served, "white", "--tag", "nobody")
    notice = served.json("mail", "list")[0]["id"]
    for option in ((), ("--raw",)):
        shown = served.cli("mail", "show", str(notice), *option).stdout
        assert "white tea" in shown or option
        assert "\\x0d" not in shown


def test_a_mistyped_hook_is_told_where_there_are_no_events(served):
    done = served.cli("events", "list", "--hook", "tea.aksed.twice")
    assert (done.returncode, done.stdout, done.stderr.strip()) == (0, "", "no events"), "`tea.*` takes that"
    done = served.cli("events", "list", "--hook", "schedule.tik")
    assert "did you mean: schedule.tick" in done.stderr


def test_why_takes_one_handler_as_an_argument(served):
    emit(served, "why", "--id", "tea-why")
    one = served.cli("events", "why", "tea-why", "brew")
    assert one.stdout.startswith("brew: run ")
    assert "taste" not in one.stdout
    assert one.stdout == served.cli("events", "why", "tea-why", "--handler", "brew").stdout
    assert "did you mean: brew" in served.cli("events", "why", "tea-why", "brwe").stderr


def test_a_run_that_can_not_be_queued_again_is_named_once(served):
    emit(served, "again", "--id", "tea-again")
    runs = json.loads(served.cli("runs", "list", "--event", "tea-again", "--json").stdout)
    done = served.cli("runs", "requeue", str(runs[0]["id"]))
    assert done.returncode == 5
    assert f"run {runs[0]['id']} is succeeded" in done.stderr.splitlines()


def test_a_file_is_tried_on_a_hook_that_no_project_has_with_a_payload_only(served):
    unknown = served.cli("test", "tea.py", "--name", "brew")
    assert unknown.returncode == 4
    assert "unknown hook 'tea.asked'; there are: anomaly.found, " in unknown.stderr
    assert (
        "those of a project are in its hooks/ (`eventproc init`); else give the payload: --event JSON" in unknown.stderr
    )
    tried = served.cli("test", "tea.py", "--name", "brew", "--event", '{"kind": "mint"}')
    assert tried.returncode == 0, tried.stderr
    assert "succeeded: mint tea" in tried.stdout
