"""`eventproc test`: try a handler file on a sample event, here and now, without a server and without consequences."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventproc.cli import output
from eventproc.cli.base import Command, split_tags, state
from eventproc.cli.emit import read_json
from eventproc.cli.runs import show_trial
from eventproc.errors import MissingSecret, PluginError, UnknownHook

if TYPE_CHECKING:
    from eventproc.config import Settings


@click.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--event", "-e", metavar="JSON|@FILE|-", help="The payload (else the hook's sample).")
@click.option("--hook", help="The hook to try it on, where the file's own is a glob or unknown here.")
@click.option("--name", help="Of several handlers in the file, this one.")
@click.option("--tag", "-t", "tags", multiple=True, help="A tag of the event; may be repeated.")
def test(file: Path, *, event: str | None, hook: str | None, name: str | None, tags: tuple[str, ...]) -> int:
    """
    Run the handlers of FILE on a sample event in a sandbox and show result, logs and effects.

    No server is needed, and nothing is kept: what a handler emits, inserts and uploads is shown and forgotten.
    Secrets that it declares are taken from environment variables of their names. Packages that it requires are
    installed as a worker would, and kept for the next time; what the operator's settings do not grant is refused.
    """
    from eventproc.config import load as load_settings
    from eventproc.plugins import load, marked_handlers

    output.quiet()
    found = [item for item in marked_handlers(load(file)) if name in (None, item.mark.name)]
    if not found:
        raise PluginError(f"{file}: marks no handler{f' named {name!r}' if name else ''} with @register(...)")
    payload = read_json(event if event is None or event[:1] in "@{-" else f"@{event}") if event is not None else None
    settings = load_settings(config=state().config)
    results = [_try(item, settings, payload=payload, hook=hook, tags=split_tags(tags)) for item in found]
    output.show(results, lambda: _show(results))
    return 1 if any(result.get("failure") for result in results) else 0


def _try(
    item: Any, settings: Settings, *, payload: dict[str, Any] | None, hook: str | None, tags: list[str]
) -> dict[str, Any]:
    from eventproc.testing import Harness
    from eventproc.wiring import Platform

    wanted = hook or item.mark.hook
    with (
        Platform(settings) as platform,
        Harness(sandbox=platform.sandbox, settings=platform.service_settings) as harness,
    ):
        for definition in _project_hooks(settings):
            harness.use.hooks.put(harness.admin, definition.pop("name"), definition)
        _let_be_known(harness, wanted, sampled=payload is None)
        for secret in item.mark.options.get("secrets", ()):
            harness.set_secret(secret, _secret(secret))
        record = harness.register(item.target, hook=wanted, name=item.mark.name, **item.mark.options)
        sample = payload if payload is not None else dict(harness.use.hooks.get(harness.admin, wanted).sample)
        done = harness.use.trials.dry_run(harness.admin, record.id, payload=sample, tags=tags)
    return {"handler": item.mark.name, "hook": wanted, "payload": sample, **done.to_json()}


def _secret(name: Any) -> str:
    """Return a stand-in's value: this platform is a new one, which has nobody's secrets."""
    value = os.environ.get(str(name))
    if not value:
        raise MissingSecret(
            f"the handler declares the secret {name!r}: give it a value to try with as an environment variable of "
            "that name",
            missing=[str(name)],
        )
    return value


def _let_be_known(harness: Any, hook: str, *, sampled: bool) -> None:
    """Add a hook that no file here holds, unless its sample is asked for. Raises UnknownHook."""
    try:
        harness.use.hooks.get(harness.admin, hook)
    except UnknownHook as error:
        if sampled:
            hint = "those of a project are in its hooks/ (`eventproc init`); else give the payload: --event JSON"
            raise UnknownHook(f"{error.message}; {hint}", **error.details) from None
        harness.add_hook(hook)


def _project_hooks(settings: Settings) -> list[dict[str, Any]]:
    """Return the hooks of the project that the settings name; broken ones are reported."""
    from eventproc.wiring import load_hooks

    specs, problems = load_hooks(settings)
    for problem in problems:
        output.note(f"{output.style('warning', fg='yellow')}: {output.plain(problem)}")
    return [
        {
            "name": spec.name,
            "summary": spec.summary,
            "schema": dict(spec.schema),
            "sample": dict(spec.sample),
        }
        for spec in specs
        if spec.source != "bundled"
    ]


def _show(results: list[dict[str, Any]]) -> None:
    for result in results:
        sample = output.plain(json.dumps(result["payload"], ensure_ascii=False))
        if len(sample) > 200:
            sample = sample[:200] + "…"
        click.echo(output.style(f"{result['handler']} on {result['hook']}", bold=True) + f" {sample}")
        show_trial(result)
