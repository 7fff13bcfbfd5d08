"""`eventproc triggers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.changing import add_change
from eventproc.cli.playback import RECORDING
from eventproc.cli.remote import connect
from eventproc.client.paths import segment

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Group)
def triggers() -> None:
    """Triggers: rules that collect events into streams, and fire or expire those into pipelines."""


@triggers.command("push")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--lenient", is_flag=True, help="Warn of keys that winchester passes over, in place of refusing them.")
def push(files: tuple[Path, ...], *, lenient: bool) -> None:
    """Store the triggers of FILES, for example `triggers push triggers.yaml`; of each file all or none."""
    remote = connect()
    answers = []
    for file in files:
        body = {"text": file.read_text(encoding="utf-8"), "name": str(file), "lenient": lenient}
        answers.append(remote.post("/triggers", body))
    output.show(answers, lambda: _pushed(answers))


def _pushed(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        for warning in answer["warnings"]:
            click.echo(output.plain(warning), err=True)
        for trigger in answer["triggers"]:
            news = f"version {trigger['version']}" if trigger["name"] in answer["changed"] else "unchanged"
            click.echo(output.plain(f"{trigger['name']}: {news}"))


@triggers.command("list")
def list_() -> None:
    """List the triggers."""
    items = list(connect().pages("/triggers"))
    columns = ["name", "version", "distinguished_by", "expiration", "fire_pipeline", "expire_pipeline", "paused"]
    output.show(items, lambda: output.table(items, columns, empty="no triggers"))


@triggers.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show one trigger, and what its checks came to (debug_level 1 and above), to see why it did not fire."""
    found = connect().get(f"/triggers/{segment(name)}")
    output.show(found, lambda: _shown(found))


def _shown(found: dict[str, Any]) -> None:
    checks = found.pop("checks")
    output.record(found)
    if not checks and not found["debug_level"]:
        click.echo("\nnothing is counted: set debug_level to 1 (counts) or 2 (counts and reasons)")
    for line in debug_lines(checks):
        click.echo(output.plain(line))


def debug_lines(checks: list[dict[str, Any]]) -> list[str]:
    """Write counters as winchester's debugger does."""
    lines = [""] if checks else []
    for kind in ("Match", "Fire"):
        group = [each for each in checks if each["kind"] == kind]
        lines += [
            f"{kind} Criteria: {each['checks']} checks, {each['passed']} passed" for each in group if not each["name"]
        ]
        lines += [f" - {each['name']} = {each['checks']}" for each in group if each["name"]]
    lines += [f'Counter "{each["name"]}" = {each["checks"]}' for each in checks if each["kind"] == "Counter"]
    return lines


@triggers.command("explain")
@click.argument("name")
@click.argument("event_id")
def explain(name: str, event_id: str) -> None:
    """Say why the trigger NAME does or does not collect an event, and what its stream lacks to fire."""
    found = connect().get(f"/triggers/{segment(name)}/explain", {"event": event_id})
    output.show(found, lambda: _explained(found))


def _explained(found: dict[str, Any]) -> None:
    if not found["matches"]:
        click.echo(output.plain(f"does not match: {'; '.join(found['reasons'])}"))
        return
    click.echo(output.plain(f"matches, distinguished by {output.cell(found['distinguished_by'])}"))
    click.echo(output.plain(f"in streams: {', '.join(map(str, found['streams'])) or 'none'}"))
    for each in found["fire_criteria"]:
        mark = "counts" if each["this_event_counts"] else "does not count"
        text = f"  {each['have']} of {each['need']} events, this one {mark}: {output.cell(each['criteria'])}"
        click.echo(output.plain(text))


@triggers.command("test")
@click.argument("file", type=FILE)
@click.argument("recording", type=RECORDING)
def test(file: Path, recording: Path) -> None:
    """
    Play RECORDING through the triggers of FILE here, without a server or any pipeline.

    For example `triggers test triggers.yaml day.jsonl.gz`. Each line of the recording is an event: hook, payload, id,
    time. Says for each trigger how many streams fired and expired, and why events did not match.
    """
    from eventproc.cli.playback import progress
    from eventproc.playback import trial

    with progress(f"{recording.name}: events") as count:
        found = trial(file.read_text(encoding="utf-8"), recording, name=str(file), on_progress=count)
    output.show(found, lambda: _tried(found))


def _tried(found: dict[str, Any]) -> None:
    click.echo(f"{found['events']} events, {found['duplicates']} duplicates, {len(found['refused'])} refused")
    for line in found["refused"][:10]:
        click.echo(output.plain(f"  line {line['line']}: {line['error']}"))
    for trigger in found["triggers"]:
        numbers = f"{trigger['streams']} streams, {trigger['fired']} fired, {trigger['expired']} expired"
        click.echo(output.style(output.plain(f"{trigger['name']}: {numbers}"), bold=True))
        for line in debug_lines(trigger["checks"])[1:]:
            click.echo(output.plain(f"  {line}"))


add_change(
    triggers,
    "pause",
    "/triggers/{name}/pause",
    help="Let a trigger collect nothing for now; its streams still fire and expire.",
    said="trigger {name} is paused",
)
add_change(
    triggers,
    "resume",
    "/triggers/{name}/resume",
    help="Let a trigger collect again.",
    said="trigger {name} collects again",
)
add_change(
    triggers,
    "clear",
    "/triggers/{name}/checks",
    method="DELETE",
    help="Let a trigger's counters begin anew.",
    said="the counters of {name} begin anew",
)
add_change(
    triggers,
    "delete",
    "/triggers/{name}",
    method="DELETE",
    help="Delete a trigger; streams that it has collected still fire and expire.",
    said="trigger {name} is gone",
)
