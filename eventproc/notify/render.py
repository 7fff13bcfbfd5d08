"""Writing the mails: Jinja2 templates in, RFC 5322 bytes out."""

from __future__ import annotations

import datetime as dt
import json
import os
import traceback
from collections.abc import Callable, Mapping
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Any

import structlog
from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PrefixLoader,
    StrictUndefined,
    TemplateSyntaxError,
    select_autoescape,
)

from eventproc.abc import Renderer
from eventproc.model import (
    DIGEST_HEADER,
    SECOND_US,
    FileRecord,
    NoticeFacts,
    Rendered,
    Run,
    RunState,
    isoformat,
    to_datetime,
)
from eventproc.notify.text import clean_line, clean_text, cut_end, cut_middle, cut_start

TEMPLATES = Path(__file__).parent / "templates"
SUBJECT = 200  # characters
NAME = 80
RESULT = 100_000
TRACEBACK = 50_000
LOG = 20_000
PAYLOAD = 10_000
MESSAGE = 2_000
DIGEST_ROWS = 50
FILE_ROWS = 100

log = structlog.get_logger(__name__)


class TemplateRenderer(Renderer):
    """
    Renders notices from templates.

    For each of the kinds `success`, `failure` and `digest` there are `KIND.subject.txt`, `KIND.txt` and `KIND.html`;
    the HTML ones extend `layout.html`. A file of the same name in `override_dir` takes a template's place; it can
    extend the original as `default/NAME`. An override that is broken never costs a mail: the default is used, the
    log and the mail's `X-Eventproc-Template-Error` header say what is wrong.

    `base_url` is where the platform's pages are; a function is asked anew for each mail.
    """

    def __init__(
        self, override_dir: str | os.PathLike[str] | None = None, base_url: str | Callable[[], str] = ""
    ) -> None:
        default = FileSystemLoader(TEMPLATES)
        self._default = _environment([default])
        self._custom = None
        if override_dir is not None and Path(override_dir).is_dir():
            self._custom = _environment([_TextLoader(override_dir), default])
        self._base_url = base_url

    def render(self, facts: NoticeFacts) -> Rendered:
        kind = _kind(facts)
        base_url = self._base_url() if callable(self._base_url) else self._base_url
        view = _view(facts, base_url.rstrip("/"))
        problems: list[str] = []
        subject = clean_line(self._fill(f"{kind}.subject.txt", view, problems), SUBJECT) or "eventproc"
        text = clean_text(self._fill(f"{kind}.txt", view, problems)).strip() + "\n"
        html = clean_text(self._fill(f"{kind}.html", view, problems)).strip()
        message = _message(facts, subject)
        for problem in problems[:3]:
            message["X-Eventproc-Template-Error"] = clean_line(problem, SUBJECT)
        message.set_content(text, cte="quoted-printable")
        if html:
            message.add_alternative(html + "\n", subtype="html", cte="quoted-printable")
            message.set_boundary(
                f"=_eventproc_{facts.store_id}_{facts.notice.id}_="
            )  # a random one would differ each time
        return Rendered(subject=subject, message_id=str(message["Message-ID"]), mail=message.as_bytes())

    def _fill(self, name: str, view: Mapping[str, Any], problems: list[str]) -> str:
        if self._custom is not None:
            try:
                return self._custom.get_template(name).render(view)
            except Exception as error:  # noqa: BLE001  # any code may stand in a template; the default does instead
                problem = f"{_where(name, error)}: {type(error).__name__}: {_first_line(str(error))}"
                problems.append(problem)
                log.warning("mail template is broken, the default is used", template=name, error=problem)
        return self._default.get_template(name).render(view)


class _TextLoader(FileSystemLoader):
    """Loads templates; one that is not UTF-8 is told with its name and line, as any other mistake in it."""

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        try:
            return super().get_source(environment, template)
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise TemplateSyntaxError(f"not UTF-8: {error.reason}", line, template) from error


def _where(name: str, error: Exception) -> str:
    """Name the template and the line that went wrong: often not those of `name`, but of one that it extends."""
    file, line = name, None
    if isinstance(error, TemplateSyntaxError):
        file, line = error.name or name, error.lineno
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename.endswith((".txt", ".html")):  # jinja's tracebacks lead into the templates themselves
                file, line = Path(frame.filename).name, frame.lineno
    place = file if line is None else f"{file}, line {line}"
    return place if file == name else f"{place} (for {name})"


def _environment(loaders: list[FileSystemLoader]) -> Environment:
    chain: list[BaseLoader] = [*loaders, PrefixLoader({"default": loaders[-1]})]
    environment = Environment(
        loader=ChoiceLoader(chain),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["line"] = clean_line
    return environment


def _kind(facts: NoticeFacts) -> str:
    if facts.digest_count:
        return "digest"
    return "success" if facts.notice.outcome == "success" else "failure"


def _message(facts: NoticeFacts, subject: str) -> EmailMessage:
    """Make the headers. Addresses outside ASCII are named only when there is no other: not every server takes them."""
    recipients = [_ascii_domain(address) for address in facts.notice.recipients]
    shown = [address for address in recipients if address.isascii()] or recipients
    name, sender = parseaddr(facts.sender)
    sender = _ascii_domain(sender or facts.sender)
    ascii_only = all(address.isascii() for address in [*shown, sender])
    message = EmailMessage(policy=policy.SMTP if ascii_only else policy.SMTPUTF8)
    run, notice = facts.run, facts.notice
    message["Subject"] = subject
    message["From"] = _address(sender, clean_line(name, NAME) or "eventproc")
    message["To"] = tuple(_address(address) for address in shown)
    message["Date"] = format_datetime(to_datetime(facts.now_us // SECOND_US * SECOND_US).astimezone(dt.UTC))
    message["Message-ID"] = f"<eventproc.{facts.store_id}.{notice.id}@{_domain(sender)}>"
    message["List-Id"] = f"<handler-{run.handler_id}.{facts.store_id}.eventproc.invalid>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message["X-Eventproc-Run"] = str(run.id)
    message["X-Eventproc-Handler"] = clean_line(run.handler_name, NAME).encode("ascii", "replace").decode()
    message["X-Eventproc-Outcome"] = clean_line(notice.outcome, NAME).encode("ascii", "replace").decode()
    if facts.digest_ids is not None:
        message[DIGEST_HEADER] = "{}-{}".format(*facts.digest_ids)
    return message


def _address(address: str, display_name: str = "") -> Address:
    local, _, domain = address.rpartition("@")
    return Address(display_name, local, domain)


def _ascii_domain(address: str) -> str:
    local, _, domain = address.rpartition("@")
    try:
        return f"{local}@{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        return address


def _domain(address: str) -> str:
    domain = address.rpartition("@")[2]
    return domain if domain.isascii() else "eventproc.invalid"


def _view(facts: NoticeFacts, base_url: str) -> dict[str, Any]:
    """Return what templates may use; all text in it is clean and bounded."""
    run = facts.run
    handler = facts.handler
    return {
        "outcome": facts.notice.outcome,
        "notice": {"id": facts.notice.id, "created": isoformat(facts.notice.created_us)},
        "run": _run_view(run, base_url),
        "handler": {
            "name": clean_line(run.handler_name, NAME),
            "id": run.handler_id,
            "version": run.version,
            "filename": clean_line(handler.filename or "", SUBJECT) if handler else "",
            "qualname": clean_line(handler.qualname, SUBJECT) if handler else "",
            "python": clean_line(handler.python, NAME) if handler else "",
        },
        "event": _event_view(facts),
        "failure": _failure_view(run),
        "result": _result(run.result_json),
        "log": _log(facts),
        "files": [_file_view(file, base_url) for file in facts.files[:FILE_ROWS]],
        "files_cut": max(0, len(facts.files) - FILE_ROWS),
        "requeue": f"eventproc runs requeue {run.id}",
        "show": f"eventproc runs show {run.id}",
        "requeued": run.state not in (RunState.SUCCEEDED, RunState.FAILED, RunState.COMMIT_FAILED, RunState.CANCELLED),
        "base_url": base_url,
        "digest": [_run_view(other, base_url) for other in facts.digest[:DIGEST_ROWS]],
        "digest_count": facts.digest_count,
        "digest_cut": max(0, facts.digest_count - min(len(facts.digest), DIGEST_ROWS)),
        "total": facts.digest_count + 1,
        "digest_last": None if facts.digest_last is None else _run_view(facts.digest_last, base_url),
        "digest_why": clean_line(facts.digest_why, SUBJECT),
        "list": f"eventproc runs list --handler {run.handler_id} --state dead",
        "throttle_s": facts.throttle_s,
    }


def _run_view(run: Run, base_url: str) -> dict[str, Any]:
    failure = run.failure
    summary = ""
    if failure is not None:
        summary = clean_line(_first_line(failure.message), NAME * 2) or failure.kind
        if failure.type:
            summary = f"{clean_line(failure.type, NAME)}: {summary}"
    elif run.result_json is not None:
        summary = clean_line(_first_line(_result(run.result_json)), NAME * 2)
    return {
        "id": run.id,
        "url": f"{base_url}/runs/{run.id}" if base_url else "",
        "state": str(run.state),
        "attempt": run.attempt,
        "interruptions": run.interruptions,
        "hook": clean_line(run.hook, NAME),
        "event_id": clean_line(run.event_id, SUBJECT),
        "started": isoformat(run.started_us) if run.started_us is not None else "",
        "finished": isoformat(run.finished_us) if run.finished_us is not None else "",
        "seconds": _seconds(run),
        "summary": summary,
    }


def _seconds(run: Run) -> str:
    if run.started_us is None or run.finished_us is None:
        return ""
    return f"{max(0, run.finished_us - run.started_us) / SECOND_US:.3f}"


def _event_view(facts: NoticeFacts) -> dict[str, Any]:
    event = facts.event
    if event is None:
        return {"id": clean_line(facts.run.event_id, SUBJECT), "time": "", "source": "", "tags": [], "payload": ""}
    return {
        "id": clean_line(event.id, SUBJECT),
        "time": isoformat(event.time_us),
        "source": clean_line(event.source, SUBJECT),
        "tags": [clean_line(tag, NAME) for tag in event.tags[:FILE_ROWS]],
        "payload": cut_end(clean_text(_pretty(event.payload_json)), PAYLOAD),
    }


def _failure_view(run: Run) -> dict[str, Any] | None:
    failure = run.failure
    if failure is None:
        return None
    message = clean_text(failure.message).strip()
    return {
        "kind": clean_line(failure.kind, NAME),
        "type": clean_line(failure.type or "", NAME),
        "message": cut_end(message, MESSAGE) if "\n" in message or len(message) > NAME * 2 else "",
        "headline": _run_view(run, "")["summary"],
        "traceback": cut_middle(clean_text(failure.traceback or ""), TRACEBACK).strip("\n"),
        "rolled_back": failure.rolled_back,
        "commit": run.state == RunState.COMMIT_FAILED,
    }


def _result(result_json: str | None) -> str:
    """Return a returned text as it is, anything else as indented JSON."""
    if result_json is None or result_json == "null":
        return ""
    try:
        value = json.loads(result_json)
    except ValueError:
        value = result_json
    return cut_end(clean_text(value if isinstance(value, str) else _pretty(result_json)), RESULT)


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _log(facts: NoticeFacts) -> str:
    return cut_start(clean_text("".join(chunk.text for chunk in facts.log_tail)), LOG).strip("\n")


def _file_view(file: FileRecord, base_url: str) -> dict[str, Any]:
    return {
        "name": clean_line(file.name, SUBJECT),
        "size": file.size,
        "url": f"{base_url}/{file.code}",
    }


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")
