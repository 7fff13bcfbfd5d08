"""
The `eventproc` command.

Exit codes: 0 well, 1 failed, 2 bad input, 3 not allowed, 4 not found, 5 conflict, 6 try again, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import click

from eventproc import __version__
from eventproc.cli.base import LazyGroup, State
from eventproc.errors import EventprocError

COMMANDS = {
    "init": ("project", "Make a project: settings, a handler, a hook."),
    "serve": ("serve", "Run the platform."),
    "doctor": ("doctor", "Say what is configured, reachable and enforced."),
    "emit": ("emit", "Report an event."),
    "hooks": ("hooks", "Hooks: list, show, add, delete, pause, resume."),
    "handlers": ("handlers", "Handlers: push, add, versions, diff, use, pause, delete."),
    "events": ("events", "Events: list, find, show, why, replay."),
    "triggers": ("triggers", "Triggers: push, list, show, explain, test, pause, delete."),
    "pipelines": ("pipelines", "Pipelines: push, list, show, pause, delete."),
    "streams": ("streams", "Streams: list, show, counts, reset, delete."),
    "runs": ("runs", "Runs: list, show, logs, cancel, requeue, dry-run."),
    "test": ("trial", "Try a handler file here, without a server."),
    "score": ("score", "Anomaly scores of a CSV file, without a server."),
    "anomalies": ("annotations", "The metrics that were most unusual."),
    "annotations": ("annotations", "Notes about times and servers: list, add, change, delete."),
    "aggregates": ("annotations", "Metrics made of others: list, add, preview, pause, delete."),
    "ingest": ("ingest", "Import recordings."),
    "metrics": ("metrics", "Metrics: list, query, dump, rejected, import, agent."),
    "models": ("models", "Anomaly models: list, monitor, activate, retry, export, import."),
    "detectors": ("detectors", "Detectors of one's own: push, list, show, delete."),
    "playback": ("playback", "Play a recorded day at its own times, into the platform or here."),
    "winchester": ("winchester", "Move in from winchester: check, replay, import, run."),
    "timesync": ("timesync", "Serve one time to several processes, for playback."),
    "schedules": ("schedules", "Schedules: list, set, delete."),
    "mail": ("mail", "Notices: list, show."),
    "outbox": ("outbox", "Messages to other systems: list, show, requeue, delete."),
    "users": ("users", "Users: list, add, role, disable, enable."),
    "keys": ("users", "API keys: list, add, revoke, recover."),
    "secrets": ("secrets", "Secrets for handlers: list, set, delete."),
    "audit": ("users", "Who changed what."),
    "certs": ("certs", "TLS for gRPC and HTTPS: init, show."),
    "environments": ("environments", "Packages of handlers on this host: list, prune."),
    "db": ("db", "Database: upgrade, revision."),
    "completion": ("completion", "Print shell completion for bash, zsh or fish."),
}


@click.command(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="eventproc")
def cli() -> None:
    """Run people's own Python when something happens, safely, and tell them how it went."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:  # noqa: PLR0911  # one line for each way to end
    """Run the command line; return its exit code."""
    state = State()
    try:
        result = cli.main(args, standalone_mode=False, obj=state, prog_name="eventproc")
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        if state.json:
            _show(error.format_message(), "usage", {}, as_json=True)
        else:
            error.show()
        return error.exit_code
    except EventprocError as error:
        if state.debug:
            raise
        _show(error.message, error.code, error.details, as_json=state.json)
        return error.exit_code
    except BrokenPipeError:  # `eventproc runs list | head`: nobody reads on, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the last boundary: people get a line, `--debug` gives the rest
        if state.debug:
            raise
        says, code = _unforeseen(error)
        _show(f"{says} (--debug shows where)", code, {}, as_json=state.json)
        return 1
    return result if isinstance(result, int) else 0


def _unforeseen(error: Exception) -> tuple[str, str]:
    """Return what to say of an error that no command foresaw, and its code."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} can not be read or written: {error.strerror}", "file"
    return f"unexpected {type(error).__name__}: {error}", "unexpected"


def _show(message: str, code: str, details: dict[str, object], *, as_json: bool) -> None:
    from eventproc.cli.output import plain

    if as_json:
        click.echo(json.dumps({"error": {"code": code, "message": message, "details": details}}, default=str), err=True)
    else:
        word = click.style("error:", fg="red", bold=True)
        click.echo(f"{word} {plain(message)}", err=True, color=_colours())


def _colours() -> bool | None:
    return False if os.environ.get("NO_COLOR") else None
