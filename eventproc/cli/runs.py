"""`eventproc runs`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group, split_tags, state
from eventproc.cli.emit import read_json
from eventproc.cli.ended import all_succeeded, show_ended, timeout_option, wait_for, wait_option
from eventproc.cli.remote import Remote, connect, find_handler
from eventproc.client.bulk import change_many
from eventproc.errors import Conflict

FINAL = ("succeeded", "failed", "commit_failed", "cancelled")
COLUMNS = ["id", "state", "hook", "handler", "event_id", "attempt", "created_at"]
POLL_S = 0.5


@click.group(cls=Group)
def runs() -> None:
    """Runs: one handler on one event."""


def _which(which: dict[str, Any], remote: Remote) -> dict[str, Any]:
    found = {name: value for name, value in which.items() if value}
    if "handler" in found:
        found["handler"] = str(find_handler(remote, str(found["handler"]))["id"])
    return found


@runs.command("list")
@click.option("--state", "states", multiple=True, help="queued, running, failed, …; may be repeated.")
@click.option("--hook")
@click.option("--handler", metavar="ID|NAME")
@click.option("--event", metavar="ID")
@click.option("--limit", "-n", default=50, show_default=True, type=click.IntRange(1))
def list_(states: tuple[str, ...], limit: int, **which: str | None) -> None:
    """List runs, newest first."""
    remote = connect()
    items = list(remote.pages("/runs", _which({"state": split_tags(states), **which}, remote), limit=limit))
    output.show(items, lambda: output.table([_row(item) for item in items], COLUMNS, empty="no runs"))


def _row(run: dict[str, Any]) -> dict[str, Any]:
    return {"handler": f"{run.get('handler_name')} v{run.get('version')}", **run}


@runs.command("show")
@click.argument("run_id", type=int)
def show(run_id: int) -> None:
    """Show one run: state, result or failure, files."""
    remote = connect()
    run = remote.get(f"/runs/{run_id}")
    files = list(remote.pages(f"/runs/{run_id}/files"))
    output.show(run | {"files": files}, lambda: _show(run, files))


def _show(run: dict[str, Any], files: list[dict[str, Any]]) -> None:
    output.record(run, skip=("failure", "result", "files"))
    if run.get("result") is not None:
        click.echo(output.style("result", bold=True))
        click.echo(output.text(run["result"]))
    failure = run.get("failure")
    if failure:
        click.echo(output.style(f"{failure.get('kind')}: {output.plain(failure.get('message'))}", fg="red"))
        if failure.get("traceback"):
            click.echo(output.plain(failure["traceback"]))
    if files:
        output.table(files, ["name", "size", "url", "code"])


@runs.command("logs")
@click.argument("run_id", type=int)
@click.option("--follow", "-f", is_flag=True, help="Stay until the run has ended.")
def logs(run_id: int, *, follow: bool) -> None:
    """Print what a run printed and logged."""
    remote = connect()
    for chunk in _chunks(remote, run_id, follow=follow):
        if state().json:
            click.echo(json.dumps(chunk, default=str))
        else:
            text = output.plain(chunk.get("text", ""))
            click.echo(output.style(text, fg="yellow") if chunk.get("stream") == "stderr" else text, nl=False)
            if chunk.get("stream") == "log" and not text.endswith("\n"):
                click.echo()


def _chunks(remote: Remote, run_id: int, *, follow: bool) -> Iterator[dict[str, Any]]:
    after: Any = None
    while True:
        ended = not follow or remote.get(f"/runs/{run_id}")["state"] in FINAL  # asked first: nothing comes later
        page = remote.get(f"/runs/{run_id}/logs", {"after": after} if after is not None else None)
        yield from page["items"]
        if page["items"]:
            after = page.get("next") or page["items"][-1].get("id")
        if ended and not page.get("next"):
            return
        if not page["items"]:
            time.sleep(POLL_S)


def _ids_or_filter(ids: tuple[int, ...], which: dict[str, Any], remote: Remote, *, everything: bool) -> dict[str, Any]:
    chosen = _which(which, remote)
    if not (ids or chosen or everything):
        raise click.UsageError("say which runs: ids, or --state, --hook, --handler, --event, or --all")
    if bool(ids) + bool(chosen) + everything > 1:
        raise click.UsageError("say which runs by ids, by a filter or by --all: one of these")
    if everything:
        return {"all": True}
    return {"ids": list(ids)} if ids else chosen


@runs.command("cancel")
@click.argument("run_ids", type=int, nargs=-1)
@click.option("--state", "states", multiple=True)
@click.option("--hook")
@click.option("--handler", metavar="ID|NAME")
@click.option("--event", metavar="ID")
@click.option("--all", "everything", is_flag=True, help="All that are not over.")
def cancel(run_ids: tuple[int, ...], states: tuple[str, ...], *, everything: bool, **which: str | None) -> int:
    """Cancel runs by id or by filter."""
    remote = connect()
    chosen = _ids_or_filter(run_ids, {"state": split_tags(states), **which}, remote, everything=everything)
    return _tell(change_many(lambda body: remote.post("/runs/cancel", body), chosen), "cancelled")


@runs.command("requeue")
@click.argument("run_ids", type=int, nargs=-1)
@click.option("--current", is_flag=True, help="With the handler's current version.")
@click.option("--state", "states", multiple=True)
@click.option("--hook")
@click.option("--handler", metavar="ID|NAME")
@click.option("--event", metavar="ID")
@click.option("--all", "everything", is_flag=True, help="All that failed.")
@wait_option
@timeout_option
def requeue(
    run_ids: tuple[int, ...],
    states: tuple[str, ...],
    *,
    everything: bool,
    current: bool,
    wait: bool,
    timeout_s: float,
    **which: str | None,
) -> int:
    """Queue failed or cancelled runs again, by id or by filter."""
    remote = connect()
    body = _ids_or_filter(run_ids, {"state": split_tags(states), **which}, remote, everything=everything)
    done = change_many(lambda part: remote.post("/runs/requeue", part), body | {"current": current})
    if not wait:
        return _tell(done, "requeued")
    if not state().json:
        _show_changed(done, "requeued")
    ended = wait_for(remote, done["ids"], timeout_s)
    output.show(done | {"ended": ended}, lambda: show_ended(ended))
    if done.get("refused"):
        return Conflict.exit_code
    return 0 if all_succeeded(ended) else 1


def _tell(done: dict[str, Any], verb: str) -> int:
    """Say what a bulk change came to; runs that were refused make it a conflict."""
    output.show(done, lambda: _show_changed(done, verb))
    return Conflict.exit_code if done.get("refused") else 0


def _show_changed(done: dict[str, Any], verb: str) -> None:
    asked = done.get("asked")
    more = f", {asked} of them were running and were asked to end" if asked else ""
    count = done.get(verb, 0)
    click.echo(f"{count} run{'' if count == 1 else 's'} {verb}{more}")
    for refused in done.get("refused") or []:
        run, reason = f"run {refused['id']}", output.plain(refused["reason"])
        click.echo(reason if f"{run} " in f"{reason} " else f"{run}: {reason}", err=True)


@runs.command("dry-run")
@click.argument("handler")
@click.option("--event", "event_id", metavar="ID", help="A stored event.")
@click.option("--payload", "-p", metavar="JSON|@FILE|-", help="Or a payload.")
@click.option("--tag", "-t", "tags", multiple=True)
@click.option("--hook", help="Of the payload, where the handler is on a pattern of names.")
def dry_run(handler: str, *, event_id: str | None, payload: str | None, tags: tuple[str, ...], hook: str | None) -> int:
    """Run HANDLER (id or name) on an event with nothing committed."""
    if (event_id is None) == (payload is None):
        raise click.UsageError("give either --event ID or --payload JSON")
    remote = connect()
    body: dict[str, Any] = {"event_id": event_id} if event_id else {"payload": read_json(payload or "{}")}
    if tags:
        body["tags"] = split_tags(tags)
    if hook:
        body["hook"] = hook
    found = remote.post(f"/handlers/{find_handler(remote, handler)['id']}/dry-run", body)
    output.show(found, lambda: show_trial(found))
    return 1 if found.get("failure") else 0


def show_trial(found: dict[str, Any]) -> None:
    """Show what an execution with nothing committed came to."""
    for chunk in found.get("logs") or []:
        text = output.plain(chunk["text"] if isinstance(chunk, dict) else chunk)
        click.echo(text if text.endswith("\n") else f"{text}\n", nl=False)
    failure = found.get("failure")
    if failure:
        if failure.get("traceback"):
            click.echo(output.plain(failure["traceback"]))
        click.echo(output.style(f"failed ({failure.get('kind')}): {output.plain(failure.get('message'))}", fg="red"))
    else:
        click.echo(f"{output.style('succeeded', fg='green')}: {output.plain(output.cell(found.get('result')))}")
    effects = found.get("effects")
    if effects and any(effects.values()):
        output.record({"would " + name: value for name, value in effects.items() if value})
