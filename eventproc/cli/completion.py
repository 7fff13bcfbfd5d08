"""`eventproc completion`."""

from __future__ import annotations

import click

from eventproc.cli.base import Command


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print the completion script of a shell.

    Try `eval "$(eventproc completion bash)"`, or put that line into the shell's start file.
    """
    from click.shell_completion import get_completion_class

    from eventproc.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "eventproc", "_EVENTPROC_COMPLETE").source())
