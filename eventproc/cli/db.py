"""`eventproc db`: works without a server."""

from __future__ import annotations

import click

from eventproc.cli import output
from eventproc.cli.base import Group, state


@click.group(cls=Group)
def db() -> None:
    """The database's schema."""


@db.command("upgrade")
def upgrade() -> None:
    """Create the tables, or bring them to this version's schema."""
    from eventproc.config import load
    from eventproc.datadir import make_private
    from eventproc.wiring import Platform

    settings = load(config=state().config)
    make_private(settings)
    with Platform(settings) as platform:
        before, needed = platform.store.revision()
        platform.store.upgrade()
    word = "was up to date" if before == needed else f"upgraded from {before or 'empty'}"
    output.show({"before": before, "revision": needed}, lambda: click.echo(f"database {word}, revision {needed}"))


@db.command("revision")
def revision() -> int:
    """Show the database's revision and the one this version needs."""
    from eventproc.config import load
    from eventproc.datadir import make_private
    from eventproc.wiring import Platform

    settings = load(config=state().config)
    make_private(settings)
    with Platform(settings) as platform:
        found, needed = platform.store.revision()
    output.show({"revision": found, "needed": needed}, lambda: click.echo(f"{found or 'empty'} (needed: {needed})"))
    return 0 if found == needed else 1
