"""`eventproc users`, `keys` and `audit`."""

from __future__ import annotations

from typing import Any

import click

from eventproc.cli import output
from eventproc.cli.base import Command, Group, state
from eventproc.cli.remote import connect
from eventproc.client.paths import segment
from eventproc.errors import Conflict, NotFound

ROLES = click.Choice(["viewer", "emitter", "developer", "admin"])


@click.group(cls=Group)
def users() -> None:
    """Users and their roles."""


@users.command("list")
def list_() -> None:
    """List the users."""
    items = list(connect().pages("/users"))
    output.show(items, lambda: output.table(items, ["name", "role", "disabled", "created_at"]))


@users.command("add")
@click.argument("name")
@click.option("--role", type=ROLES, default="developer", show_default=True)
@click.option("--no-key", is_flag=True, help="Make no key yet.")
def add(name: str, role: str, *, no_key: bool) -> None:
    """Add a user and a first key; the key is shown once."""
    remote = connect()
    user = remote.post("/users", {"name": name, "role": role})
    key = {} if no_key else remote.post(f"/users/{segment(name)}/keys", {"label": "first key"})
    output.show(
        user | ({"key": key.get("key")} if key else {}), lambda: _show_key(f"user {name} ({role}) is there", key)
    )


def _show_key(said: str, key: dict[str, Any]) -> None:
    output.note(said)
    if key:
        output.note("this key is not shown again:")
        click.echo(key["key"])


@users.command("role")
@click.argument("name")
@click.argument("role", type=ROLES)
def role(name: str, role: str) -> None:
    """Change a user's role."""
    done = connect().patch(f"/users/{segment(name)}", {"role": role})
    output.show(done, lambda: click.echo(f"{name} is {role} now"))


@users.command("disable")
@click.argument("name")
def disable(name: str) -> None:
    """
    Refuse a user's keys and let the runs of their handlers wait; runs that are executing go on.

    Users are not deleted: handlers, events and the audit log bear their names.
    """
    done = connect().patch(f"/users/{segment(name)}", {"disabled": True})
    output.show(done, lambda: click.echo(f"{name} is disabled"))


@users.command("enable")
@click.argument("name")
def enable(name: str) -> None:
    """Take a user's keys again."""
    done = connect().patch(f"/users/{segment(name)}", {"disabled": False})
    output.show(done, lambda: click.echo(f"{name} is enabled"))


@click.group(cls=Group)
def keys() -> None:
    """API keys."""


@keys.command("list")
@click.argument("user", required=False)
def list_keys(user: str | None) -> None:
    """List the keys of USER (else your own): prefixes, never secrets."""
    remote = connect()
    name = user or remote.get("/me")["name"]
    items = list(remote.pages(f"/users/{segment(name)}/keys"))
    columns = ["prefix", "label", "created_at", "last_used_at", "revoked_at"]
    output.show(items, lambda: output.table(items, columns))


@keys.command("add")
@click.argument("user", required=False)
@click.option("--label", default="", help="What it is for.")
def add_key(user: str | None, label: str) -> None:
    """Make a key for USER (else yourself); it is shown once."""
    remote = connect()
    name = user or remote.get("/me")["name"]
    key = remote.post(f"/users/{segment(name)}/keys", {"label": label})
    output.show(key, lambda: _show_key(f"a key for {name}", key))


@keys.command("revoke")
@click.argument("prefix")
def revoke(prefix: str) -> None:
    """Revoke a key by its prefix."""
    done = connect().delete(f"/keys/{segment(prefix)}")
    output.show(done or {"revoked": prefix}, lambda: click.echo(f"key {prefix} is revoked"))


@keys.command("recover")
def recover() -> None:
    """
    Write a new admin key to admin.key, when all were lost: `eventproc keys recover`.

    It needs no key and no server, only the right to write the data directory (EVENTPROC_DATA) and the database.
    """
    from eventproc.config import load
    from eventproc.datadir import has_database
    from eventproc.wiring import Platform

    settings = load(config=state().config)
    with Platform(settings) as platform:
        found, needed = platform.store.revision() if has_database(settings) else (None, "")
        if found is None:
            raise NotFound(f"there is no platform's database in {settings.data}; EVENTPROC_DATA says where it is")
        if found != needed:
            raise Conflict(f"the database is at revision {found}, not {needed}: run `eventproc db upgrade` first")
        user, prefix = platform.recover_admin()
    file = str(settings.admin_key_file)
    output.show(
        {"user": user, "prefix": prefix, "file": file},
        lambda: click.echo(f"a new key of {user} is in {file}; revoke the lost ones: eventproc keys list {user}"),
    )


@click.command(cls=Command)
@click.option("--limit", "-n", default=50, show_default=True, type=click.IntRange(1))
def audit(limit: int) -> None:
    """List who changed what, newest first."""
    items = list(connect().pages("/audit", limit=limit))
    output.show(items, lambda: output.table(items, ["at", "user", "action", "object", "detail"]))
