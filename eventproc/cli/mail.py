"""`eventproc mail`."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.remote import connect


@click.group(cls=Group)
def mail() -> None:
    """Notices about runs: mails sent, waiting or given up."""


@mail.command("list")
@click.option("--run", type=int, metavar="ID", help="Those about one run.")
@click.option("--limit", "-n", default=50, show_default=True, type=click.IntRange(1))
def list_(run: int | None, limit: int) -> None:
    """List notices, newest first."""
    items = list(connect().pages("/notices", {"run": run}, limit=limit))
    columns = ["id", "state", "run", "outcome", "recipients", "subject", "attempts", "sent_at", "error"]
    output.show(items, lambda: output.table(items, columns, empty="no notices"))


@mail.command("show")
@click.argument("notice_id", type=int)
@click.option("--raw", is_flag=True, help="The message as it goes over the wire.")
def show(notice_id: int, *, raw: bool) -> None:
    """Show a notice with its mail."""
    found = connect().get(f"/notices/{notice_id}")
    text = found.get("mail")
    if raw and text:
        click.echo(output.plain(text.replace("\r\n", "\n")))
        return
    output.show(found, lambda: _show(found, text))


def _show(found: dict[str, object], text: str | None) -> None:
    output.record(found, skip=("mail",))
    if not text:
        output.note("the mail is not written yet")
        return
    message = email.message_from_string(text, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    click.echo()
    for name in ("From", "To", "Subject", "Date", "Message-ID"):
        if message[name]:
            click.echo(f"{name}: {output.plain(message[name])}")
    body = message.get_body(("plain", "html"))
    content = body.get_content().replace("\r\n", "\n") if body is not None else ""
    click.echo(f"\n{output.plain(content)}")
