"""`eventproc init`."""

from __future__ import annotations

from pathlib import Path

import click

from eventproc.cli import output
from eventproc.cli.base import Command

SETTINGS = """\
# Settings of this eventproc project. Environment variables (EVENTPROC_HTTP, ...) come before what stands here.
data = ".eventproc"
http = "127.0.0.1:8080"

# Without a mail server, mails become files: `eventproc mail list` shows them.
# smtp_url = "smtp://user:password@mail.example.com:587?starttls=require"
# mail_sender = "eventproc <eventproc@example.com>"

# database_url = "postgresql://user@host/eventproc"

[retention]
events = "30d"
failed_runs = "90d"
"""

HOOK = """\
# The hooks of this project: named points in a process, each with the shape of its payload.
hooks:
  - name: order.placed
    summary: A customer placed an order.
    schema:
      type: object
      required: [order, total]
      properties:
        order: {type: string}
        total: {type: number, minimum: 0}
    sample:
      order: A-1
      total: 250.0
"""

HANDLER = '''\
"""Say something about each order."""

from eventproc import register


@register(name="greet-order", hook="order.placed")
def greet_order(db, order, total, **kwargs):
    print(f"order {order} over {total:.2f}")
    return f"order {order}: {'large' if total >= 100 else 'small'}"
'''

IGNORE = "/.eventproc/\n"


@click.command(cls=Command)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path())
def init(directory: Path) -> None:
    """Make a project in DIRECTORY (else here): settings, an example hook and an example handler."""
    files = {
        "eventproc.toml": SETTINGS,
        "hooks/orders.yaml": HOOK,
        "handlers/greet_order.py": HANDLER,
        ".gitignore": IGNORE,
    }
    made, kept = [], []
    for name, text in files.items():
        path = directory / name
        if path.exists():
            kept.append(name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        made.append(name)
    output.show(
        {"directory": str(directory.absolute()), "made": made, "kept": kept}, lambda: _say(directory, made, kept)
    )


def _say(directory: Path, made: list[str], kept: list[str]) -> None:
    for name in made:
        click.echo(f"{output.style('made', fg='green')}  {directory / name}")
    for name in kept:
        click.echo(f"{output.style('kept', fg='yellow')}  {directory / name} (it was there)")
    into = f"cd {directory} && " if directory != Path() else ""
    click.echo(f"\nnext:  {into}eventproc test handlers/greet_order.py\n       {into}eventproc serve")
