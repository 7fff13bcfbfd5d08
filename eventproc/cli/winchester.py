"""`eventproc winchester`."""

from __future__ import annotations

import json
import logging
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventproc.cli import output
from eventproc.cli.base import Group, state
from eventproc.cli.playback import progress
from eventproc.cli.remote import connect

if TYPE_CHECKING:
    from eventproc.compat.winchester.configuration import Configuration
    from eventproc.errors import EventprocError

CONFIG = click.argument("file", metavar="CONFIG", type=click.Path(exists=True, dir_okay=False, path_type=Path))
STRICT = click.option(
    "--strict", is_flag=True, help="As winchester: pass over misspelt keys and load_criteria, with a warning."
)


@click.group(cls=Group)
def winchester() -> None:
    """Move in from StackTach's winchester: use its configuration files and handlers as they are."""


@winchester.command("check")
@CONFIG
@STRICT
def check(file: Path, *, strict: bool) -> None:
    """Read CONFIG and the files it names, and say what is wrong; as `winchester check etc/winchester.yaml`."""
    from eventproc.compat.winchester.configuration import read_configuration

    found = read_configuration(file, strict=strict)
    shown = {
        "triggers": [trigger.definition.name for trigger in found.triggers],
        "pipelines": {name: [use.name for use in uses] for name, uses in found.pipelines.items()},
        "event_types": found.distiller.event_types if found.distiller else [],
        "warnings": list(found.warnings),
    }
    output.show(shown, lambda: _checked(shown))


def _checked(shown: dict[str, Any]) -> None:
    for warning in shown["warnings"]:
        click.echo(output.plain(warning), err=True)
    click.echo(output.plain(f"triggers: {', '.join(shown['triggers']) or 'none'}"))
    for name, handlers in shown["pipelines"].items():
        click.echo(output.plain(f"pipeline {name}: {', '.join(handlers)}"))


@winchester.command("replay")
@CONFIG
@click.argument("notifications", type=click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True))
@click.option("--mode", type=click.Choice(["batch", "interleave"]), default="batch", show_default=True)
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Write there what came of each instance."
)
@click.option("--database-url", metavar="URL", help="An empty database of its own (else SQLite in memory).")
@STRICT
def replay(
    file: Path, notifications: Path, mode: str, report: Path | None, database_url: str | None, *, strict: bool
) -> None:
    """
    Play a day of recorded NOTIFICATIONS (JSON lines or an array, also gzipped) at their own times, without a server.

    For example `winchester replay etc/winchester.yaml day.jsonl.gz --report day.json`. In mode batch streams fire and
    expire after the day, in mode interleave also every ten minutes of it.
    """
    from eventproc.compat.winchester.configuration import read_configuration
    from eventproc.compat.winchester.replay import replay as play

    with progress(f"{notifications.name}: events") as count:
        found = play(
            read_configuration(file, strict=strict),
            notifications,
            interleave=mode == "interleave",
            database=database_url,
            on_progress=count,
        )
    if report is not None:
        report.write_text(json.dumps(found, indent=1), encoding="utf-8")
    finals = Counter(each["final"] for each in found["instances"].values())
    shown = {**found["meta"], "finals": dict(sorted(finals.items()))}
    output.show(shown, lambda: _played(shown))


def _played(shown: dict[str, Any]) -> None:
    for warning in shown["warnings"]:
        click.echo(output.plain(warning), err=True)
    click.echo(
        f"{shown['notifications']} notifications: {shown['events']} events, {shown['duplicates']} duplicates, "
        f"{shown['dropped']} without a definition, {len(shown['refused'])} refused"
    )
    for line in shown["refused"][:10]:
        click.echo(output.plain(f"  {line}"))
    click.echo(f"{shown['fired']} streams fired, {shown['expired']} expired")
    for name, number in shown["finals"].items():
        click.echo(output.plain(f"  {name}: {number}"))


@winchester.command("import")
@CONFIG
@STRICT
def import_(file: Path, *, strict: bool) -> None:
    """
    Move a configuration into a running platform: hooks for its event types, its pipelines and its triggers.

    Handlers are imported where handlers run: the operator names their directories in the setting handler_path.
    """
    from eventproc.compat.winchester.configuration import read_configuration
    from eventproc.compat.winchester.moving import move_in

    found = move_in(connect().connection, read_configuration(file, strict=strict))
    output.show(found, lambda: _moved(found))


def _moved(found: dict[str, Any]) -> None:
    for warning in found["warnings"]:
        click.echo(output.plain(warning), err=True)
    for what in ("hooks", "pipelines", "triggers"):
        click.echo(output.plain(f"{what}: {', '.join(found[what]) or 'none'}"))


@winchester.command("import-streams")
@click.argument("database_url", metavar="DATABASE_URL")
@click.option("--completed", is_flag=True, help="Also those that have fired or expired, if winchester kept them.")
@click.option("--dry-run", is_flag=True, help="Change nothing, and say what would be done.")
def import_streams(database_url: str, *, completed: bool, dry_run: bool) -> int:
    """
    Carry the streams of a winchester database, with their events, over into the platform.

    For example `winchester import-streams sqlite:////var/lib/winchester.db`, or postgresql://user:password@host/name,
    once winchester has stopped and its configuration was moved in by `winchester import`. Run it where the platform is:
    it works on the platform's database, with a server or without. Run twice it changes nothing. Exit 1 when streams
    are left behind, each with its reason.
    """
    from eventproc.compat.winchester.carrying import Carrier
    from eventproc.config import load
    from eventproc.datadir import has_database, make_private
    from eventproc.errors import NotFound
    from eventproc.store.winchester import existing_database
    from eventproc.wiring import Platform

    settings = load(config=state().config)
    if not has_database(settings):
        raise NotFound(f"there is no platform's database in {settings.data}; EVENTPROC_DATA says where it is")
    make_private(settings)
    source = existing_database(database_url)
    try:
        with Platform(settings) as platform, progress("streams") as count:
            carrier = Carrier(
                source,
                store=platform.store,
                cache=platform.cache,
                clock=platform.clock,
                bus=platform.bus,
                completed=completed,
                dry_run=dry_run,
            )
            done = carrier.run(on_progress=count)
    finally:
        source.close()
    found = {"dry_run": dry_run, **done.as_dict()}
    output.show(found, lambda: _carried(found))
    return 0 if done.complete else 1


def _carried(found: dict[str, Any]) -> None:
    states = ", ".join(f"{number} {name}" for name, number in found["states"].items())
    click.echo(
        f"{'would carry' if found['dry_run'] else 'carried'} over: {found['streams']} streams"
        f"{f' ({states})' if states else ''}, {found['events']} new events"
    )
    click.echo(
        f"{found['joined']} joined streams that were here, {found['unchanged']} were carried over before, "
        f"{found['completed']} had fired or expired"
    )
    for name, number in found["unknown_triggers"].items():
        click.echo(
            output.plain(f"{number} streams of {name}: there is no such trigger here, or it is paused"), err=True
        )
    for line in found["refused"][:10]:
        text = f"stream {line['stream']} of {line['trigger']}: {line['error']}"
        click.echo(output.plain(text), err=True)
    if len(found["refused"]) > 10:
        click.echo(f"… and {len(found['refused']) - 10} more (--json lists all)", err=True)


@winchester.command("run")
@CONFIG
@click.argument("notifications", required=False, type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@click.option("--queue", metavar="NAME", help="Take notifications from this queue of a RabbitMQ broker, until stopped.")
@click.option("--exchange", metavar="NAME", help="Bind the queue to this topic exchange, under its own name.")
@click.option(
    "--broker",
    metavar="URL",
    envvar="EVENTPROC_BROKER_URL",
    show_envvar=True,
    help="amqp://user:password@host:5672/vhost",
)
@STRICT
def run(
    file: Path,
    notifications: Path | None,
    queue: str | None,
    exchange: str | None,
    broker: str | None,
    *,
    strict: bool,
) -> int:
    """
    Feed NOTIFICATIONS (JSON lines or an array, also gzipped; - for the standard input) into a running platform.

    It stands in for winchester's yagi handler: `consumer | eventproc winchester run etc/winchester.yaml`, or
    `eventproc winchester run etc/winchester.yaml --queue monitor.info --exchange nova`. The platform itself does what
    pipeline_worker does. A notification that was sent before changes nothing.
    """
    from eventproc.compat.winchester.configuration import read_configuration

    if queue is None and (exchange is not None or notifications is None):
        if exchange is not None:
            raise click.UsageError("--exchange says what a queue is bound to: give --queue too")
        notifications = Path("-")
    if queue is not None and notifications is not None:
        raise click.UsageError("give a file of notifications or --queue, not both")
    configuration = read_configuration(file, strict=strict)
    if queue is not None:
        if broker is None:
            raise click.UsageError("where is the queue? Give --broker URL, or set EVENTPROC_BROKER_URL")
        return _consume(configuration, broker=broker, queue=queue, exchange=exchange)
    assert notifications is not None
    return _send(configuration, notifications)


def _send(configuration: Configuration, notifications: Path) -> int:
    from eventproc.codec.records import open_records
    from eventproc.compat.winchester.moving import feed

    with open_records(notifications) as records, progress("events") as count:
        # A file can be fed again, what was taken from a pipe can not.
        on_wait = _waiting if str(notifications) == "-" else None
        found = feed(connect().connection, configuration, records, on_progress=count, on_wait=on_wait)
    output.show(found, lambda: _fed(found))
    return 1 if found["refused"] else 0


def _waiting(error: EventprocError) -> None:
    click.echo(output.plain(f"waiting for the platform: {error}"), err=True)


def _consume(configuration: Configuration, *, broker: str, queue: str, exchange: str | None) -> int:
    from eventproc.compat.winchester.queues import QueueFeed

    output.quiet()
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # the consumer says once that the broker is away
    connection = connect().connection
    with progress(f"{queue}: notifications") as count:
        feed = QueueFeed(connection, configuration, broker=broker, queue=queue, exchange=exchange, on_progress=count)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: feed.stop())
        found = feed.run()
    output.show(found, lambda: click.echo(", ".join(f"{number} {name}" for name, number in found.items())))
    return 1 if found["rejected"] else 0


def _fed(found: dict[str, Any]) -> None:
    click.echo(
        f"{found['notifications']} notifications: {found['events']} events, {found['duplicates']} duplicates, "
        f"{found['dropped']} without a definition, {len(found['refused'])} refused"
    )
    for line in found["refused"][:10]:
        click.echo(output.plain(f"  {line}"), err=True)
