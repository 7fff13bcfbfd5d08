"""`eventproc emit`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Command, split_tags, state
from eventproc.cli.ended import all_succeeded, show_ended, timeout_option, wait_for, wait_option
from eventproc.cli.remote import Remote, connect
from eventproc.client.paths import segment
from eventproc.codec.records import in_batches
from eventproc.errors import EventprocError, InvalidInput, InvalidPayload

BATCH = 500  # events in one request


@click.command(cls=Command)
@click.argument("hook")
@click.option("--payload", "-p", metavar="JSON|@FILE|-", default="{}", help="The payload, a JSON object.")
@click.option("--sample", is_flag=True, help="Send the hook's sample payload.")
@click.option("--tag", "-t", "tags", multiple=True, help="A tag; may be repeated.")
@click.option("--key", help="Ordering key.")
@click.option("--id", "event_id", help="Event id; the same id with the same content is accepted once.")
@click.option("--time", "when", metavar="ISO", help="When it happened (else now).")
@click.option("--source", help="Who reports it.")
@click.option("--lines", is_flag=True, help="The payload holds many events, one JSON object a line (NDJSON).")
@wait_option
@timeout_option
def emit(  # one argument for each option
    hook: str,
    payload: str,
    tags: tuple[str, ...],
    *,
    sample: bool,
    lines: bool,
    wait: bool,
    timeout_s: float,
    **more: str | None,
) -> int:
    """
    Report an event of HOOK.

    With --lines each line is a payload, or {"payload": {…}, "id": …, "tags": […], "key": …}; a bad line is
    reported by itself and its neighbours are accepted.
    """
    common = {
        "hook": hook,
        "tags": split_tags(tags),
        "key": more["key"],
        "source": more["source"],
        "time": more["when"],
    }
    common = {name: value for name, value in common.items() if value not in (None, [])}
    if lines:
        if more["event_id"]:
            raise click.UsageError('--id names one event; with --lines each line may have its own "id"')
        if wait:
            raise click.UsageError("--wait is for one event; `eventproc runs list` shows the runs of many")
        return emit_lines(connect(), common, open_lines(payload))
    remote = connect()
    content = remote.get(f"/hooks/{segment(hook)}")["sample"] if sample else read_json(payload)
    event = common | {"payload": content} | ({"id": more["event_id"]} if more["event_id"] else {})
    accepted = remote.post("/events", event)
    if not wait:
        output.show(accepted, lambda: click.echo(describe(accepted)))
        return 0
    return _wait(remote, accepted, timeout_s)


def _wait(remote: Remote, accepted: dict[str, Any], timeout_s: float) -> int:
    """Stay until the event's runs have ended; those of its first acceptance when it was accepted before."""
    if not state().json:
        click.echo(describe(accepted))
    ids = accepted["runs"] or [run["id"] for run in remote.pages("/runs", {"event": accepted["id"]})]
    ended = wait_for(remote, sorted(ids), timeout_s)
    output.show(accepted | {"ended": ended}, lambda: show_ended(ended))
    return 0 if all_succeeded(ended) else 1


def describe(accepted: dict[str, Any]) -> str:
    """Say in one line what became of an event."""
    runs = accepted.get("runs") or []
    if accepted.get("duplicate"):
        return f"event {output.plain(accepted['id'])} had been accepted before"
    streams = accepted.get("streams") or []
    said = [f"runs {', '.join(map(str, runs))}"] if runs else []
    said += [f"joined streams {', '.join(map(str, streams))}"] if streams else []
    what = "; ".join(said) or "no handler matches"
    return f"event {output.plain(accepted['id'])} accepted: {what}"


def read_text(value: str) -> str:
    """Return the text itself, or that of `@FILE`, or of stdin for `-`."""
    try:
        if value == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        return Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the payload can not be read from {value}: {error}") from error


def read_json(value: str) -> dict[str, Any]:
    """Read a JSON object given on the line, in a file, or on stdin."""
    try:
        found = json.loads(read_text(value))
    except ValueError as error:
        raise InvalidPayload(f"the payload is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidPayload(f"the payload must be a JSON object, not {type(found).__name__}")
    return found


def open_lines(value: str) -> Iterator[str]:
    """Return the lines of stdin (`-`, as they come), of `@FILE`, or of the text itself."""
    if value == "-":
        for raw in sys.stdin.buffer:
            yield raw.decode("utf-8", "replace")
        return
    if value.startswith("@"):
        try:
            with Path(value[1:]).open(encoding="utf-8", errors="replace") as file:
                yield from file
        except OSError as error:
            raise InvalidInput(f"the lines can not be read from {value[1:]}: {error}") from error
        return
    yield from value.splitlines()


def emit_lines(remote: Remote, common: dict[str, Any], lines: Iterable[str]) -> int:
    """Emit one event a line, in batches; every line gets its own verdict."""
    accepted = refused = 0
    for batch in in_batches(_parse(common, lines), size=BATCH):
        verdicts = _send(remote, [event for _, event in batch if isinstance(event, dict)])
        for number, event in batch:
            verdict = next(verdicts) if isinstance(event, dict) else {"error": {"message": str(event)}}
            error = verdict.get("error")
            accepted, refused = accepted + (not error), refused + bool(error)
            if state().json:
                click.echo(json.dumps({"line": number} | verdict, default=str))
            elif error:
                click.echo(f"line {number}: {output.plain(error.get('message'))}", err=True)
    if not state().json:
        click.echo(f"{accepted} accepted, {refused} refused")
    return InvalidInput.exit_code if refused else 0


def _parse(common: dict[str, Any], lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:  # whose own words count lines within this one
            yield number, f"not JSON: {error.msg} at character {error.pos + 1}"
            continue
        except ValueError as error:
            yield number, f"not JSON: {error}"
            continue
        if not isinstance(found, dict):
            yield number, f"a JSON object is needed, not {type(found).__name__}"
        elif isinstance(found.get("payload"), dict) and found.keys() <= {
            "payload",
            "id",
            "tags",
            "key",
            "time",
            "source",
        }:
            yield number, common | found
        else:
            yield number, common | {"payload": found}


def _send(remote: Remote, events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if not events:
        return iter(())
    try:
        return iter(remote.post("/events", {"events": events})["items"])
    except EventprocError as error:
        if len(events) == 1 or error.code not in ("invalid", "too_large", "invalid_payload"):
            raise
        # The request as a whole was refused: find the one to blame.
        middle = len(events) // 2
        return iter([*_send_or_blame(remote, events[:middle]), *_send_or_blame(remote, events[middle:])])


def _send_or_blame(remote: Remote, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return list(_send(remote, events))
    except EventprocError as error:
        if len(events) > 1:
            raise
        return [{"error": {"code": error.code, "message": error.message}}]
