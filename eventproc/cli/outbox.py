"""`eventproc outbox`."""

from __future__ import annotations

import click

from eventproc.cli import output
from eventproc.cli.base import Group
from eventproc.cli.remote import connect


@click.group(cls=Group)
def outbox() -> None:
    """Messages to other systems (broker, webhooks) that wait or were given up; what is delivered leaves."""


@outbox.command("list")
@click.option("--state", type=click.Choice(["pending", "failed"]), help="Only those.")
@click.option("--limit", "-n", default=50, show_default=True, type=click.IntRange(1))
def list_(state: str | None, limit: int) -> None:
    """List messages, newest first."""
    items = list(connect().pages("/outbox", {"state": state}, limit=limit))
    columns = ["id", "kind", "target", "state", "bytes", "attempts", "due_at", "created_at", "error"]
    output.show(items, lambda: output.table(items, columns, empty="the outbox is empty"))


@outbox.command("show")
@click.argument("message_id", type=int)
def show(message_id: int) -> None:
    """Show a message with its body."""
    found = connect().get(f"/outbox/{message_id}")
    output.show(found, lambda: output.record(found))


@outbox.command("requeue")
@click.argument("message_ids", type=int, nargs=-1, required=True)
def requeue(message_ids: tuple[int, ...]) -> int:
    """Try given-up messages again, for example `outbox requeue 7 8`."""
    found = connect().post("/outbox/requeue", {"ids": list(message_ids)})
    done = found["requeued"]
    for message_id in message_ids:
        if message_id not in done:
            output.note(f"there is no message {message_id} that was given up")
    output.show(found, lambda: click.echo(f"requeued: {', '.join(map(str, done)) or 'none'}"))
    return 0 if len(done) == len(message_ids) else 1


@outbox.command("delete")
@click.argument("message_id", type=int)
def delete(message_id: int) -> None:
    """Delete a message: it will not be sent."""
    found = connect().delete(f"/outbox/{message_id}")
    output.show(found, lambda: click.echo(f"message {message_id} is deleted"))
