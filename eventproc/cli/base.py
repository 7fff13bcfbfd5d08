"""What all commands share: common options, lazy loading, and how errors are shown."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


@dataclass
class State:
    """The common options, wherever on the line they stood."""

    json: bool = False
    debug: bool = False
    endpoint: str | None = None
    api_key: str | None = None
    config: Path | None = None


def state() -> State:
    """Return the common options of the running command."""
    found = click.get_current_context().find_root().ensure_object(State)
    assert isinstance(found, State)
    return found


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, False):
        setattr(ctx.find_root().ensure_object(State), str(param.name), value)


def common_options() -> list[click.Option]:
    """Make the options that every command takes."""
    shared: dict[str, Any] = {"expose_value": False, "callback": _keep, "is_eager": True}
    return [
        click.Option(["--json"], is_flag=True, help="Machine-readable output.", **shared),
        click.Option(
            ["--endpoint"], metavar="URL", help="The server (else EVENTPROC_ENDPOINTS, endpoints.json).", **shared
        ),
        click.Option(["--api-key"], metavar="KEY", help="Your key (else EVENTPROC_API_KEY, admin.key).", **shared),
        click.Option(
            ["--config"],
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Settings file (else eventproc.toml in EVENTPROC_DATA or here).",
            **shared,
        ),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error.", **shared),
    ]


# What people call a command elsewhere, and what it may be called here; the first that a group has are named.
OTHER_WORDS: Mapping[str, Sequence[str]] = {
    "add": ("push", "set", "monitor"),
    "create": ("add", "push", "set", "monitor", "init"),
    "new": ("add", "push", "set", "monitor", "init"),
    "delete": ("disable", "revoke", "prune"),
    "del": ("delete", "disable", "revoke", "prune"),
    "remove": ("delete", "disable", "revoke", "prune"),
    "rm": ("delete", "disable", "revoke", "prune"),
    "ls": ("list",),
    "get": ("show",),
    "info": ("show",),
    "describe": ("show",),
    "retry": ("requeue", "reset"),
    "stop": ("pause", "cancel", "disable"),
    "start": ("resume", "enable", "serve"),
    "run": ("serve",),
    "status": ("doctor", "counts"),
}


class Command(click.Command):
    """A command that takes the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {name for param in self.params for name in param.opts}
        self.params.extend(option for option in common_options() if not taken.intersection(option.opts))


class Group(click.Group):
    """A group whose commands take the common options; a mistyped command is met with the near names."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            known = self.list_commands(ctx)
            near = [name for name in OTHER_WORDS.get(args[0], ()) if name in known]
            near = near or get_close_matches(args[0], known, n=3, cutoff=0.6)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean: {', '.join(near)}?", ctx) from None


Group.group_class = Group


class LazyGroup(Group):
    """A group that imports a command's module when the command is called, not before."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in self._lazy:
            return None
        module, _ = self._lazy[cmd_name]
        command = getattr(importlib.import_module(f"eventproc.cli.{module}"), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._lazy.items()])


def split_tags(values: Sequence[str]) -> list[str]:
    """Read `--tag a --tag b,c` as a, b, c."""
    return [tag.strip() for value in values for tag in value.split(",") if tag.strip()]
