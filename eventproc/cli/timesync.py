"""`eventproc timesync`."""

from __future__ import annotations

import click

from eventproc.cli.base import Command
from eventproc.errors import ConfigError


@click.command("timesync", cls=Command)
@click.option("--listen", default="127.0.0.1:8088", show_default=True, metavar="HOST:PORT")
def timesync(listen: str) -> None:
    """
    Serve one time to several processes, for playing back recorded days.

    `GET /time` tells it, `POST /time` sets it. Start the platform with EVENTPROC_TIME_SYNC=http://127.0.0.1:8088, and
    all due times and expiries follow that time.
    """
    from eventproc.config import Address
    from eventproc.timesync import TimeService

    try:
        address = Address.parse(listen)
        service = TimeService(address.host, address.port)
    except (ValueError, OSError) as error:
        raise ConfigError(f"can not listen on {listen}: {error}") from error
    with service:
        click.echo(f"the time is at {service.url}/time")
        service.serve_forever()
