"""Commands that change one thing by its name, alike for triggers and pipelines."""

from __future__ import annotations

import click

from eventproc.cli import output
from eventproc.cli.remote import connect
from eventproc.client.paths import segment


def add_change(group: click.Group, verb: str, route: str, *, help: str, said: str, method: str = "POST") -> None:
    """
    Add the command `verb NAME` to a group.

    :param route: of the request, with `{name}`
    :param said: what people are told once it is done, with `{name}`
    """

    @group.command(verb, help=help)
    @click.argument("name")
    def change(name: str) -> None:
        path, remote = route.format(name=segment(name)), connect()
        done = remote.post(path) if method == "POST" else remote.delete(path)
        output.show(done, lambda: click.echo(output.plain(said.format(name=name))))
