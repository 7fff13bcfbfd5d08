"""What to try when nothing was found."""

from __future__ import annotations

from collections.abc import Sequence

import click

from eventproc.cli.remote import connect
from eventproc.errors import NotFound


def show_hints(traits: Sequence[str], trigger: str | None = None) -> None:
    """Say which of what was looked for may have been meant otherwise."""
    from eventproc.registry.traits import hint_of

    for hint in filter(None, map(hint_of, traits)):
        click.echo(hint, err=True)
    if trigger is not None:
        from eventproc.client.paths import segment

        try:
            connect().get(f"/triggers/{segment(trigger)}")
        except NotFound as error:
            click.echo(error.message, err=True)
