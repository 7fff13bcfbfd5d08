"""`eventproc serve`."""

from __future__ import annotations

import os

import click

from eventproc.cli.base import Command, state
from eventproc.roles import ROLES


@click.command(cls=Command)
@click.option("--role", metavar="ROLE", help=f"Run one role only: {', '.join(ROLES)}.")
@click.option("--http", metavar="HOST:PORT", help="Where the API listens (EVENTPROC_HTTP; port 0: any free one).")
@click.option("--data", metavar="DIR", help="Data directory (EVENTPROC_DATA).")
@click.option("--database-url", metavar="URL", help="Database (EVENTPROC_DATABASE_URL).")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
def serve(role: str | None, **options: str | None) -> int:
    """Run the platform: API, engine, worker, notifier, Graphite listener and models, until Ctrl-C."""
    from eventproc import config
    from eventproc.roles import ENV_SUPERVISOR

    supervised = ENV_SUPERVISOR in os.environ  # then the environment is all there is
    settings = config.load(config=None if supervised else state().config, search=not supervised, **options)
    if role is not None:
        from eventproc.roles.mains import run_role

        return run_role(role, settings)
    from eventproc.roles.platform import run_platform

    return run_platform(settings)
