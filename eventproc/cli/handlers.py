"""`eventproc handlers`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group, split_tags, state
from eventproc.cli.remote import connect, find_handler
from eventproc.errors import NotFound, PluginError

COLUMNS = ["id", "hook", "name", "version", "tags", "notify_on_success", "notify_on_failure", "paused", "updated_at"]


@click.group(cls=Group)
def handlers() -> None:
    """Handlers: callables registered on hooks."""


@handlers.command("list")
@click.option("--hook", help="Those of one hook.")
def list_(hook: str | None) -> None:
    """List the registered handlers."""
    items = list(connect().pages("/handlers", {"hook": hook}))
    output.show(
        items, lambda: output.table(items, COLUMNS, empty="no handlers; `eventproc handlers push FILE` makes one")
    )


@handlers.command("show")
@click.argument("handler", metavar="ID|NAME")
def show(handler: str) -> None:
    """Show one handler."""
    found = find_handler(connect(), handler)
    output.show(found, lambda: output.record(found))


@handlers.command("push")
@click.argument("paths", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
def push(paths: tuple[Path, ...]) -> int:
    """Register the handlers that FILEs, or the files of DIRs, mark with `@register(...)`."""
    return _push(handler_files(paths), tags=None, success=None, failure=None)


def handler_files(paths: Iterable[Path]) -> list[Path]:
    """Return the handler files among and in the paths; a file named by hand is always one."""
    from eventproc.plugins import files_in

    files: list[Path] = []
    for path in paths:
        files += files_in(path, "handlers") if path.is_dir() else [path]
    return files


def ready_made() -> dict[str, Path]:
    """Return the ready-made handlers by name: those that come with eventproc and those of other distributions."""
    from eventproc.plugins import find

    files, problems = find("handlers")
    for problem in problems:
        output.note(f"{output.style('warning', fg='yellow')}: {output.plain(problem.message)}")
    return {file.name: file.path for file in files}


def _push(files: list[Path], *, tags: list[str] | None, success: str | None, failure: str | None) -> int:
    """Register what the files mark; a broken file is reported and its neighbours are registered."""
    from eventproc.cli.marked import register_marked
    from eventproc.plugins import load_all

    if not files:
        raise NotFound("there are no handler files")
    connection = connect().connection
    results: list[dict[str, Any]] = []
    for file, marked in load_all(files):
        if isinstance(marked, PluginError):
            results.append({"file": str(file), "error": {"code": marked.code, "message": marked.message}})
        elif not marked:
            said = f"{file}: marks no handler with @register(...)"
            results.append({"file": str(file), "error": {"code": PluginError.code, "message": said}})
        else:
            results += [
                register_marked(connection, file, item, tags=tags, success=success, failure=failure) for item in marked
            ]
    output.show(results, lambda: _show_pushed(results))
    return PluginError.exit_code if any("error" in result for result in results) else 0


def _show_pushed(results: list[dict[str, Any]]) -> None:
    for result in results:
        if "error" in result:
            click.echo(f"{output.style('refused', fg='red')}  {output.plain(result['error']['message'])}", err=True)
            continue
        word = output.style("registered", fg="green")
        click.echo(f"{word}  {result['name']} on {result['hook']}, version {result['version']} (id {result['id']})")
        for warning in result.get("warnings") or []:
            click.echo(f"  {output.style('warning', fg='yellow')}: {output.plain(warning)}", err=True)


@handlers.command("available")
def available() -> None:
    """List the ready-made handlers that can be added."""
    items = [{"name": name, "summary": _summary(file)} for name, file in ready_made().items()]
    output.show(items, lambda: output.table(items, ["name", "summary"], empty="none come with this version"))


def _summary(file: Path) -> str:
    """Return the first line of a file's docstring, without executing anything of it."""
    import ast

    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError) as error:
        return f"(broken: {error})"
    return text.strip().split("\n", 1)[0]


@handlers.command("add")
@click.argument("name")
@click.option("--tag", "-t", "tags", multiple=True, help="Instead of its own tags; may be repeated.")
@click.option("--notify-on-success", metavar="MAIL")
@click.option("--notify-on-failure", metavar="MAIL")
def add(name: str, tags: tuple[str, ...], notify_on_success: str | None, notify_on_failure: str | None) -> int:
    """Register the ready-made handler NAME (see `handlers available`)."""
    known = ready_made()
    name = name if name in known else name.replace("-", "_")
    if name not in known:
        raise NotFound(f"there is no ready-made handler {name!r}; there are: {', '.join(known) or 'none'}")
    return _push([known[name]], tags=split_tags(tags) or None, success=notify_on_success, failure=notify_on_failure)


@handlers.command("versions")
@click.argument("handler", metavar="ID|NAME")
def versions(handler: str) -> None:
    """List a handler's versions."""
    remote = connect()
    found = find_handler(remote, handler)
    items = list(remote.pages(f"/handlers/{found['id']}/versions"))
    rows = [item | {"current": item.get("version") == found["version"]} for item in items]
    columns = ["version", "current", "created_at", "created_by", "python", "size", "digest"]
    output.show(rows, lambda: output.table(rows, columns))


@handlers.command("source")
@click.argument("handler", metavar="ID|NAME")
@click.option("--version", type=int, help="Else the current one.")
def source(handler: str, version: int | None) -> None:
    """Print the source text of a version."""
    remote = connect()
    found = find_handler(remote, handler)
    number = found["version"] if version is None else version
    got = remote.get(f"/handlers/{found['id']}/versions/{number}")
    output.show(got, lambda: click.echo(output.plain(got.get("source") or "(no source was recorded)")))


@handlers.command("diff")
@click.argument("handler", metavar="ID|NAME")
@click.argument("old", type=int, required=False)
@click.argument("new", type=int, required=False)
def diff(handler: str, old: int | None, new: int | None) -> None:
    """Compare two versions' source (else the current one with the one before)."""
    remote = connect()
    found = find_handler(remote, handler)
    newest = found["version"] if new is None else new
    params = {"old": max(0, newest - 1) if old is None else old, "new": newest}
    got = remote.get(f"/handlers/{found['id']}/diff", params)
    output.show(got, lambda: _show_diff(got.get("diff") or ""))


def _show_diff(text: str) -> None:
    for line in text.splitlines():
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.echo(output.style(output.plain(line), fg=colour) if colour else output.plain(line))
    if not text:
        output.note("no difference in the source")


@handlers.command("use")
@click.argument("handler", metavar="ID|NAME")
@click.argument("version", type=int)
def use(handler: str, version: int) -> None:
    """Make an older version the current one."""
    remote = connect()
    done = remote.post(f"/handlers/{find_handler(remote, handler)['id']}/current", {"version": version})
    output.show(done, lambda: click.echo(f"{done['name']}: version {done['version']} is current"))


def _switch(handler: str, action: str) -> None:
    remote = connect()
    done = remote.post(f"/handlers/{find_handler(remote, handler)['id']}/{action}")
    output.show(done, lambda: click.echo(f"{done['name']}: {action}d"))


@handlers.command("pause")
@click.argument("handler", metavar="ID|NAME")
def pause(handler: str) -> None:
    """Let a handler's runs wait."""
    _switch(handler, "pause")


@handlers.command("resume")
@click.argument("handler", metavar="ID|NAME")
def resume(handler: str) -> None:
    """Let a handler's runs go on."""
    _switch(handler, "resume")


@handlers.command("delete")
@click.argument("handler", metavar="ID|NAME")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(handler: str, *, yes: bool) -> None:
    """Deregister a handler; its waiting runs are cancelled."""
    remote = connect()
    found = find_handler(remote, handler)
    if not yes and not state().json and output.for_people():
        click.confirm(f"deregister {found['name']} on {found['hook']} and cancel its waiting runs?", abort=True)
    remote.delete(f"/handlers/{found['id']}")
    output.show({"deleted": found["id"]}, lambda: click.echo(f"{found['name']} on {found['hook']} is deregistered"))
