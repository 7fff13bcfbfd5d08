"""`eventproc environments`: packages on this host; works without a server."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group, state


@click.group(cls=Group)
def environments() -> None:
    """Packages that were installed on this host for handlers with requirements."""


@environments.command("list")
def list_() -> None:
    """List what is installed here, the one used last at the end."""
    from eventproc.config import load
    from eventproc.wiring import Platform

    with Platform(load(config=state().config)) as platform:
        users = _users(platform)
        rows = [_row(entry, users) for entry in platform.provider.environments.all()]
    columns = ["name", "python", "packages", "size", "used_at", "in_use", "handlers"]
    output.show(rows, lambda: output.table([_short(row) for row in rows], columns, empty="nothing is installed here"))


@environments.command("prune")
@click.option("--all", "everything", is_flag=True, help="Also what registered handlers need; it is installed again.")
def prune(*, everything: bool) -> None:
    """
    Remove what no registered handler needs, and what killed installations have left.

    What is in use stays. For example: eventproc environments prune --all
    """
    from eventproc.config import load
    from eventproc.wiring import Platform

    with Platform(load(config=state().config)) as platform:
        users = _users(platform)
        kept = platform.provider.environments
        kept.sweep()
        before = kept.total()
        removed: list[str] = []
        busy: list[str] = []
        for entry in kept.all():
            if everything or not (users.get(entry.name) or entry.about.get("tools")):
                (removed if kept.remove(entry.name) else busy).append(entry.name)
        if everything:
            platform.provider.installer.clean()
        freed = max(0, before - kept.total())
    result = {"removed": removed, "in_use": busy, "freed": freed}
    words = f"{len(removed)} removed, {freed / (1 << 20):.1f} MiB freed" + (f", {len(busy)} in use" if busy else "")
    output.show(result, lambda: click.echo(words))


def _users(platform: Any) -> Mapping[str, Sequence[str]]:
    """Return the handlers of each environment; none where there is no database yet."""
    found, needed = platform.store.revision()
    if found != needed:
        return {}
    with platform.store.read() as tx:
        return {environment.digest: handlers for environment, handlers in tx.environments.all()}


def _row(entry: Any, users: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "python": entry.about.get("python"),
        "packages": entry.about.get("packages", []),
        "requirements": entry.about.get("requirements", []),
        "without": entry.about.get("without", {}),
        "size": entry.size,
        "used_at": dt.datetime.fromtimestamp(entry.used_at, dt.UTC)
        .isoformat(timespec="seconds")
        .replace("+00:00", "Z"),
        "in_use": entry.in_use,
        "handlers": list(users.get(entry.name, ())),
    }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "name": row["name"][:12],
        "packages": ", ".join(row["packages"]),
        "size": f"{row['size'] / (1 << 20):.1f} MiB",
        "handlers": ", ".join(row["handlers"]) or ("for every handler" if row["name"].startswith("tools-") else ""),
    }
