"""`eventproc secrets`."""

from __future__ import annotations

import sys
from typing import TextIO

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.remote import connect
from eventproc.client.paths import segment


@click.group(cls=Group)
def secrets() -> None:
    """Secrets for handlers: kept encrypted, given to handlers registered with their names, shown to nobody."""


@secrets.command("list")
@click.option("--user", help="Whose, as an admin (else your own).")
def list_(user: str | None) -> None:
    """List the names of your secrets."""
    items = list(connect().pages("/secrets", {"user": user}))
    output.show(items, lambda: output.table(items, ["name", "created_at", "updated_at"], empty="no secrets"))


@secrets.command("set")
@click.argument("name")
@click.option(
    "--value-file",
    "-f",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE|-",
    help="Read the value from a file or from standard input; a line break at its end is left out.",
)
def set_(name: str, *, value_file: TextIO | None) -> None:
    """Set the secret NAME, for `register(..., secrets=["NAME"])`; you are asked for the value."""
    done = connect().put(f"/secrets/{segment(name)}", {"value": _value(value_file)})
    for warning in done.get("warnings", []):
        output.note(f"{output.style('warning', fg='yellow')}: {output.plain(warning)}")
    output.show(done, lambda: click.echo(f"secret {name} is set"))


def _value(file: TextIO | None) -> str:
    if file is None:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask for the value: use --value-file FILE, or - for stdin")
        return str(click.prompt("Value", hide_input=True, confirmation_prompt=True))
    try:
        text = str(file.read())
    except UnicodeDecodeError:
        raise click.UsageError(
            "the value is not UTF-8 text; write it as base64, and decode it in the handler"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


@secrets.command("delete")
@click.argument("name")
@click.option("--user", help="Whose, as an admin (else your own).")
def delete(name: str, *, user: str | None) -> None:
    """Delete the secret NAME; runs of handlers that need it fail from then on."""
    done = connect().delete(f"/secrets/{segment(name)}", {"user": user})
    output.show(done or {"deleted": name}, lambda: click.echo(f"secret {name} is gone"))


@secrets.command("rotate")
def rotate() -> None:
    """Encrypt all secrets anew with the first key of EVENTPROC_SECRET_KEY (admin); the others can go then."""
    done = connect().post("/secrets/rotate")
    output.show(done, lambda: click.echo(f"{done['rotated']} secrets are under the first key now"))
