"""What the mails say, whatever the facts hold."""

from __future__ import annotations

import json
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.model import (
    DIGEST_HEADER,
    Event,
    Failure,
    FileRecord,
    LogChunk,
    Notice,
    NoticeFacts,
    NoticeState,
    Rendered,
    Run,
    RunState,
)
from eventproc.notify import TemplateRenderer
from eventproc.notify.text import clean_line, clean_text, cut_end, cut_middle, cut_start

FAILURE = Failure(
    kind="exception",
    type="ValueError",
    message="no such meter",
    traceback="Traceback (most recent call last):\n  File ...\nValueError: no such meter\n",
    rolled_back=True,
)
MESSY = st.text(st.characters(), max_size=60)  # lone surrogates and controls too


def make_run(**changes: Any) -> Run:
    run = Run(
        id=7,
        event_seq=1,
        event_id="e-1",
        hook="demo.hook",
        handler_id=3,
        handler_name="spike-report",
        version=2,
        state=RunState.FAILED,
        attempt=2,
        interruptions=0,
        round=0,
        created_us=1,
        due_us=1,
        started_us=1_000_000,
        finished_us=3_500_000,
        order_key=None,
        result_json=None,
        failure=FAILURE,
        worker="w",
        sandbox=None,
        cpu_us=1,
        memory_bytes=1,
    )
    return replace(run, **changes)


def make_facts(**changes: Any) -> NoticeFacts:
    outcome = changes.pop("outcome", "failure")
    recipients = changes.pop("recipients", ("a@example.com", "b@example.com"))
    notice = Notice(
        id=12,
        run_id=7,
        outcome=outcome,
        serial=0,
        recipients=recipients,
        refused=(),
        state=NoticeState.PENDING,
        attempts=1,
        due_us=0,
        created_us=0,
        sent_us=None,
        error=None,
        message_id=None,
        subject=None,
        mail=None,
    )
    event = Event(
        seq=1,
        id="e-1",
        hook="demo.hook",
        source="test",
        time_us=1_700_000_000_000_000,
        tags=("north", "west"),
        key=None,
        payload_json='{"meter": "M1"}',
        digest="",
        trace_parent=None,
        hops=0,
        accepted_us=0,
    )
    facts = NoticeFacts(
        notice=notice,
        run=make_run(),
        handler=None,
        event=event,
        sender="eventproc@example.org",
        store_id="abc",
        now_us=1_700_000_000_000_000,
    )
    return replace(facts, **changes)


def success(result: Any) -> NoticeFacts:
    run = make_run(state=RunState.SUCCEEDED, failure=None, result_json=json.dumps(result))
    return make_facts(outcome="success", run=run)


def parse(rendered: Rendered) -> EmailMessage:
    return message_from_bytes(rendered.mail, policy=policy.default)


def text_of(rendered: Rendered) -> str:
    body = parse(rendered).get_body(("plain",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def html_of(rendered: Rendered) -> str:
    body = parse(rendered).get_body(("html",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def test_a_success_mail_holds_the_returned_text_as_it_is() -> None:
    rendered = TemplateRenderer().render(success("M1: 0.93\n.\nworst of <all>"))
    assert "spike-report succeeded on demo.hook" in rendered.subject
    assert text_of(rendered).startswith("M1: 0.93\n.\nworst of <all>\n")
    assert "worst of &lt;all&gt;" in html_of(rendered)


def test_a_returned_structure_is_shown_as_json_and_nothing_as_words() -> None:
    assert '"a": [\n    1\n  ]' in text_of(TemplateRenderer().render(success({"a": [1]})))
    assert "returned nothing" in text_of(TemplateRenderer().render(success(None)))


def test_a_failure_mail_tells_what_where_and_how_to_run_it_again() -> None:
    chunks = (LogChunk(run_id=7, attempt=2, stream="stdout", at_us=0, text="reading M1\n"),)
    rendered = TemplateRenderer().render(make_facts(log_tail=chunks))
    assert rendered.subject == "[eventproc] spike-report failed on demo.hook: ValueError: no such meter"
    for body in (text_of(rendered), html_of(rendered)):
        assert "Traceback (most recent call last)" in body
        assert "reading M1" in body
        assert "attempt 2" in body
        assert "eventproc runs requeue 7" in body
        assert "rollback ran" in body
        assert "M1" in body


def test_a_failed_commit_says_that_the_effects_are_recorded() -> None:
    rendered = TemplateRenderer().render(make_facts(run=make_run(state=RunState.COMMIT_FAILED)))
    assert "failed to commit" in rendered.subject
    assert "runs only the callbacks again" in text_of(rendered)


def test_a_killed_childs_missing_rollback_is_said() -> None:
    killed = Failure(kind="signal", message="killed by SIGKILL", rolled_back=False)
    assert "before its rollback could run" in text_of(
        TemplateRenderer().render(make_facts(run=make_run(failure=killed)))
    )


def test_files_come_with_the_address_to_get_them_from() -> None:
    file = FileRecord(code="0" * 32, run_id=7, name="plot.png", size=12345, digest="", created_us=0)
    renderer = TemplateRenderer(base_url=lambda: "http://127.0.0.1:8080/")
    rendered = renderer.render(replace(success("ok"), files=(file,)))
    assert f"http://127.0.0.1:8080/{'0' * 32}" in text_of(rendered)
    assert "plot.png (12,345 bytes)" in text_of(rendered)
    assert f'href="http://127.0.0.1:8080/{"0" * 32}"' in html_of(rendered)
    assert "http://127.0.0.1:8080/runs/7" in text_of(rendered)


def test_headers_name_the_mail_for_machines() -> None:
    message = parse(TemplateRenderer().render(make_facts()))
    assert message["Message-ID"] == "<eventproc.abc.12@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert "handler-3" in message["List-Id"]
    assert message["Date"].datetime.timestamp() == 1_700_000_000
    assert message["To"] == "a@example.com, b@example.com"
    assert message["X-Eventproc-Run"] == "7"


def test_the_senders_name_is_shown_and_can_not_add_headers() -> None:
    rendered = TemplateRenderer().render(make_facts(sender="Meter Room <m@bücher.example>"))
    assert parse(rendered)["From"] == "Meter Room <m@xn--bcher-kva.example>"
    assert rendered.message_id.endswith("@xn--bcher-kva.example>")
    assert parse(TemplateRenderer().render(make_facts()))["From"] == "eventproc <eventproc@example.org>"


def test_the_same_facts_give_the_same_bytes() -> None:
    facts = make_facts()
    assert TemplateRenderer().render(facts) == TemplateRenderer().render(facts)


def test_the_message_id_differs_by_notice_and_by_installation() -> None:
    facts = make_facts()
    others = [replace(facts, store_id="other"), replace(facts, notice=replace(facts.notice, id=13))]
    assert len({TemplateRenderer().render(one).message_id for one in [facts, *others]}) == 3


def test_a_requeued_run_that_lost_its_failure_still_gets_a_mail() -> None:
    rendered = TemplateRenderer().render(make_facts(run=make_run(state=RunState.QUEUED, failure=None)))
    assert "queued again before this mail was written" in text_of(rendered)


def test_facts_that_retention_took_are_left_out() -> None:
    assert "requeue 7" in text_of(TemplateRenderer().render(make_facts(event=None, handler=None)))


def test_a_digest_lists_the_runs_it_stands_for_and_says_what_it_left_out() -> None:
    runs = tuple(make_run(id=100 + number) for number in range(60))
    facts = make_facts(digest=runs, digest_ids=(13, 250), digest_count=200, digest_why="at most one in 300 s")
    rendered = TemplateRenderer().render(facts)
    assert "failed 201 times" in rendered.subject
    body = text_of(rendered)
    assert "Run 7 " in body
    assert "Run 149 " in body
    assert "... and 150 more" in body
    assert "at most one in 300 s" in body
    assert str(parse(rendered)[DIGEST_HEADER]) == "13-250"


# ------------------------------------------------------------------------------------------------- hostile facts


@given(name=MESSY, hook=MESSY, message=MESSY, event_id=MESSY, file_name=MESSY)
def test_no_text_breaks_out_of_a_header(name: str, hook: str, message: str, event_id: str, file_name: str) -> None:
    run = make_run(handler_name=name, hook=hook, event_id=event_id, failure=replace(FAILURE, message=message))
    file = FileRecord(code="0" * 32, run_id=7, name=file_name, size=1, digest="", created_us=0)
    plain = TemplateRenderer().render(make_facts())
    rendered = TemplateRenderer().render(make_facts(run=run, files=(file,)))
    assert rendered.mail.isascii()
    assert {key.lower() for key in parse(rendered)} == {key.lower() for key in parse(plain)}
    assert parse(rendered)["To"] == "a@example.com, b@example.com"
    assert "\n" not in rendered.subject


def test_a_name_with_line_ends_adds_no_recipient() -> None:
    run = make_run(handler_name="x\r\nBcc: evil@example.com\r\n\r\nbody")
    rendered = TemplateRenderer().render(make_facts(run=run))
    assert parse(rendered)["Bcc"] is None
    assert len(rendered.mail.split(b"\r\n\r\n")[0].split(b"Bcc")) <= 3  # only inside Subject and X-Eventproc-Handler


@given(traceback=MESSY, log=MESSY, result=MESSY, payload=MESSY)
def test_any_text_makes_a_mail_that_can_be_read_back(traceback: str, log: str, result: str, payload: str) -> None:
    run = make_run(failure=replace(FAILURE, traceback=traceback), result_json=result)
    chunk = LogChunk(run_id=7, attempt=2, stream="stdout", at_us=0, text=log)
    facts = make_facts(run=run, log_tail=(chunk,))
    assert facts.event is not None
    facts = replace(facts, event=replace(facts.event, payload_json=payload))
    rendered = TemplateRenderer().render(facts)
    assert rendered.mail.isascii()
    assert "requeue 7" in text_of(rendered)
    assert b"\n" not in rendered.mail.replace(b"\r\n", b"")


def test_markup_in_facts_stays_text() -> None:
    evil = '<script>alert("x")</script>'
    run = make_run(handler_name=evil, failure=replace(FAILURE, message=evil, traceback=evil))
    assert "<script>" not in html_of(TemplateRenderer().render(make_facts(run=run)))


def test_what_is_too_long_is_cut_with_a_note_of_how_much() -> None:
    run = make_run(failure=replace(FAILURE, traceback="first\n" + "x" * 10_000_000 + "\nlast"))
    chunk = LogChunk(run_id=7, attempt=2, stream="stdout", at_us=0, text="y" * 1_000_000 + "\nend of log")
    rendered = TemplateRenderer().render(make_facts(run=run, log_tail=(chunk,)))
    body = text_of(rendered)
    assert len(rendered.mail) < 500_000
    assert "first" in body
    assert "last" in body
    assert "characters were cut here" in body
    assert "end of log" in body
    assert "characters before this were cut" in body


def test_a_recipient_outside_ascii_is_not_named_to_servers_that_could_choke_on_it() -> None:
    mixed = TemplateRenderer().render(make_facts(recipients=("jürgen@example.com", "b@bücher.example")))
    assert mixed.mail.isascii()
    assert parse(mixed)["To"] == "b@xn--bcher-kva.example"
    alone = TemplateRenderer().render(make_facts(recipients=("jürgen@example.com",)))
    assert parse(alone)["To"] == "jürgen@example.com"


# ------------------------------------------------------------------------------------------------- overrides


def test_an_override_takes_a_templates_place_and_can_extend_the_original(tmp_path: Path) -> None:
    (tmp_path / "failure.subject.txt").write_text("ACME: {{ handler.name }} broke")
    (tmp_path / "layout.html").write_text(
        '{% extends "default/layout.html" %}{% block facts %}<p>ACME</p>{% endblock %}'
    )
    rendered = TemplateRenderer(tmp_path).render(make_facts())
    assert rendered.subject == "ACME: spike-report broke"
    assert "<p>ACME</p>" in html_of(rendered)
    assert "ValueError" in html_of(rendered)
    assert "Traceback" in text_of(rendered)


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ nothing.there }}", "nothing"), ("{% if %}", "TemplateSyntaxError"), ("{{ 1 / 0 }}", "ZeroDivisionError")],
)
def test_a_broken_override_costs_no_mail_and_says_what_is_wrong(tmp_path: Path, template: str, words: str) -> None:
    (tmp_path / "failure.txt").write_text("ok\n" + template)
    rendered = TemplateRenderer(tmp_path).render(make_facts())
    assert "Traceback" in text_of(rendered)
    assert words in parse(rendered)["X-Eventproc-Template-Error"]
    assert "failure.txt" in parse(rendered)["X-Eventproc-Template-Error"]


@pytest.mark.parametrize(
    ("name", "template", "where"),
    [
        ("failure.txt", b"ok\n{{ nothing.there }}\n", "failure.txt, line 2: UndefinedError"),
        ("failure.txt", b"ok\n\n{{ 1 / 0 }}\n", "failure.txt, line 3: ZeroDivisionError"),
        ("failure.html", b"ok\n{% if %}\n", "failure.html, line 2: TemplateSyntaxError"),
        ("layout.html", b"<html>\n{% if %}\n", "layout.html, line 2 (for failure.html): TemplateSyntaxError"),
        ("layout.html", b"<html>\n\n{{ nothing.there }}", "layout.html, line 3 (for failure.html): UndefinedError"),
        ("layout.html", b"<html>\ncaf\xe9", "layout.html, line 2 (for failure.html): TemplateSyntaxError: not UTF-8"),
        ("failure.txt", b"ok\n{% include 'gone.txt' %}", "failure.txt, line 2: TemplateNotFound: gone.txt"),
    ],
)
def test_what_is_wrong_with_an_override_names_its_file_and_line(
    tmp_path: Path, name: str, template: bytes, where: str
) -> None:
    (tmp_path / name).write_bytes(template)
    message = parse(TemplateRenderer(tmp_path).render(make_facts()))
    assert where in message["X-Eventproc-Template-Error"]
    assert "Traceback" in text_of(TemplateRenderer(tmp_path).render(make_facts()))


def test_an_override_that_is_not_text_costs_no_mail(tmp_path: Path) -> None:
    (tmp_path / "failure.html").write_bytes(b"\xff\xfe\x00")
    rendered = TemplateRenderer(tmp_path).render(make_facts())
    assert "ValueError" in html_of(rendered)


def test_an_empty_html_override_makes_plain_text_mails(tmp_path: Path) -> None:
    (tmp_path / "failure.html").write_text("")
    message = parse(TemplateRenderer(tmp_path).render(make_facts()))
    assert message.get_content_type() == "text/plain"


def test_an_override_can_not_break_out_of_the_subject(tmp_path: Path) -> None:
    (tmp_path / "failure.subject.txt").write_text("one\nBcc: x@example.com")
    message = parse(TemplateRenderer(tmp_path).render(make_facts()))
    assert message["Subject"] == "one Bcc: x@example.com"
    assert message["Bcc"] is None


def test_an_override_directory_that_does_not_exist_is_as_good_as_none(tmp_path: Path) -> None:
    assert TemplateRenderer(tmp_path / "none").render(make_facts()) == TemplateRenderer().render(make_facts())


# ------------------------------------------------------------------------------------------------- text


@given(MESSY)
def test_clean_text_can_be_encoded_and_stays_clean(text: str) -> None:
    clean = clean_text(text)
    assert clean.encode().decode() == clean
    assert clean_text(clean) == clean
    assert "\x1b" not in clean
    assert "\r" not in clean


@given(MESSY, st.integers(2, 40))
def test_clean_line_is_one_short_line(text: str, limit: int) -> None:
    line = clean_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1


def test_words_in_other_scripts_and_emoji_stay() -> None:
    text = "Grüße, 測試 \N{CLINKING BEER MUGS} न\u200dम"
    assert clean_text(text) == text


@given(st.text(max_size=300), st.integers(8, 100))
def test_cutting_keeps_the_ends_it_should_and_counts_the_rest(text: str, limit: int) -> None:
    if len(text) <= limit:
        assert cut_end(text, limit) == cut_start(text, limit) == cut_middle(text, limit) == text
        return
    gone = f"{len(text) - limit:,}"
    assert cut_end(text, limit).startswith(text[:limit])
    assert cut_start(text, limit).endswith(text[-limit:])
    assert cut_middle(text, limit).startswith(text[: limit // 4])
    assert all(gone in cut(text, limit) for cut in (cut_end, cut_start, cut_middle))
