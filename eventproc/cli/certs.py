"""`eventproc certs`: TLS for the gRPC service and for HTTPS. Works without a server."""

from __future__ import annotations

import click

from eventproc.cli import output
from eventproc.cli.base import Group, state


@click.group(cls=Group)
def certs() -> None:
    """TLS certificates: init, show."""


@certs.command()
@click.option("--name", "names", metavar="HOST", multiple=True, help="One more name or address of the server.")
def init(names: tuple[str, ...]) -> None:
    """
    Make a certificate for localhost and 127.0.0.1, and an authority that signs it.

    Given once more, the authority stays: clients that trust it go on working.
    """
    from eventproc import config
    from eventproc.datadir import make_private
    from eventproc.roles import certs as making

    settings = config.load(config=state().config)
    make_private(settings)
    made = making.init(settings.certs_dir, names)
    port = settings.grpc.port or "PORT"
    client = {
        "BTRDB_ENDPOINTS": f"localhost:{port}",
        "BTRDB_CA_BUNDLE": str(made.ca),
        "BTRDB_API_KEY": f"$(cat {settings.admin_key_file})",
    }
    found = {
        "ca": str(made.ca),
        "certificate": str(made.server),
        "names": made.names(),
        "ends": made.ends().isoformat(),
        "client": client,
    }

    def show() -> None:
        click.echo(f"certificate of the server  {made.server}, for {', '.join(made.names())}")
        click.echo(f"authority, for clients     {made.ca}")
        click.echo("Start `eventproc serve` (again). Clients of btrdbextras then need, before they import it:")
        for name, value in client.items():
            click.echo(f"  export {name}={value}")
        click.echo(f'With grpcio 1.80 or newer the endpoint needs a "#" at its end: "localhost:{port}#"')

    output.show(found, show)


@certs.command()
def show() -> None:
    """Say for what names the certificate is, and until when."""
    from eventproc import config
    from eventproc.roles.doors import certificates

    settings = config.load(config=state().config)
    found = certificates(settings)
    facts = {
        "certificate": str(found.server),
        "names": ", ".join(found.names()),
        "ends": found.ends().isoformat(),
        "ca": str(found.ca) if found.ca.exists() else "another authority",
    }
    output.show(facts, lambda: output.record(facts))
