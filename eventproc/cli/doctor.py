"""`eventproc doctor`: what is configured, reachable and enforced. Works without a server."""

from __future__ import annotations

import datetime as dt
import json
import platform as machine
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from eventproc.cli import output
from eventproc.cli.base import Command, state
from eventproc.errors import ConfigError, EventprocError, Unavailable
from eventproc.model import isoformat

if TYPE_CHECKING:
    from eventproc.config import Settings
    from eventproc.wiring import Platform

HEALTH_S = 5
LOW_DISK = 1 << 30  # bytes
MARKS = {"ok": "green", "warning": "yellow", "problem": "red", "info": "cyan"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: str  # ok | info | warning | problem
    says: str


@click.command(cls=Command)
@click.option("--settings", "show_settings", is_flag=True, help="List all settings too, secrets masked.")
@click.option(
    "--warm", is_flag=True, help="Compile the anomaly models' kernels now, so that the first model starts quickly."
)
def doctor(*, show_settings: bool, warm: bool) -> int:
    """Say what is configured, reachable and really enforced; exit 1 when something must be mended."""
    from eventproc import config

    output.quiet()
    settings = config.load(config=state().config)
    findings = list(examine(settings))
    findings.append(_warmed() if warm else _kernels())
    bad = any(finding.level == "problem" for finding in findings)
    found = {"ok": not bad, "findings": [asdict(finding) for finding in findings]}
    if show_settings:
        found["settings"] = settings.shown()
    output.show(found, lambda: _show(findings, settings.shown() if show_settings else {}))
    return 1 if bad else 0


def _warmed() -> Finding:
    from eventproc.htm.warm import warm

    return Finding("anomaly models", "ok", warm())


def _kernels() -> Finding:
    from eventproc.htm import jit, places
    from eventproc.htm.warm import MISSING, compiled

    what = "anomaly models"
    if not jit.COMPILED:
        return Finding(what, "warning", MISSING)
    if compiled():
        return Finding(what, "ok", "kernels are compiled")
    if places.compiling():
        return Finding(what, "info", "kernels are being compiled; models work meanwhile, slowly")
    return Finding(
        what, "info", "kernels are compiled with the first model, which is slow for half a minute; --warm does it now"
    )


def _show(findings: list[Finding], settings: dict[str, str]) -> None:
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        mark = output.style(finding.level.ljust(7), fg=MARKS[finding.level])
        click.echo(f"{mark}  {finding.what.ljust(width)}  {output.plain(finding.says)}")
    if settings:
        click.echo()
        output.record(settings)


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything; one check that breaks is a problem by itself and the others go on."""
    from eventproc.wiring import Platform

    checks: list[tuple[str, Callable[[Settings, Platform], Iterator[Finding]]]] = [
        ("python", _python),
        ("settings", _settings),
        ("data directory", _data),
        ("disk", _disk),
        ("database", _database),
        ("secrets", _secrets),
        ("server", _server),
        ("metrics", _listeners),
        ("certificates", _certificates),
        ("sandbox", _sandbox),
        ("interpreters", _interpreters),
        ("environments", _environments),
        ("hooks", _hooks),
        ("mail", _mail),
        ("broker", _broker),
        ("outbox", _outbox),
        ("time", _time),
    ]
    with Platform(settings) as platform:
        for what, check in checks:
            try:
                yield from check(settings, platform)
            except EventprocError as error:
                yield Finding(what, "problem", error.message)
            except Exception as error:  # noqa: BLE001  # a check that breaks is news about this machine
                yield Finding(what, "problem", f"{type(error).__name__}: {error}")


def _python(_settings: Settings, _platform: Platform) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{machine.python_version()} at {sys.executable}, Linux {machine.release()}")


def _settings(settings: Settings, _platform: Platform) -> Iterator[Finding]:
    from eventproc.config import find_file, unknown_environment

    file = find_file(state().config)
    yield Finding("settings", "ok", f"from {file}" if file else "no eventproc.toml; environment and defaults")
    for name in unknown_environment():
        yield Finding("settings", "warning", f"{name} is set, and nothing reads it; misspelt?")
    if settings.unsafe_sandbox:
        yield Finding("settings", "warning", "unsafe_sandbox is on: handlers run with less protection than possible")


def _data(settings: Settings, _platform: Platform) -> Iterator[Finding]:
    from eventproc.datadir import what_is_closed

    if not settings.data.exists():
        yield Finding("data directory", "info", f"{settings.data} does not exist yet; `eventproc serve` makes it")
        return
    if not settings.data.is_dir():
        yield Finding("data directory", "problem", f"{settings.data} is no directory; set EVENTPROC_DATA to another")
        return
    mode = settings.data.stat().st_mode & 0o777
    closed = what_is_closed(settings)
    if closed is not None:
        yield Finding("data directory", "problem", closed)
    elif mode & 0o077:
        yield Finding("data directory", "warning", f"{settings.data} is open to others (mode {mode:o}); chmod 700 it")
    else:
        yield Finding("data directory", "ok", str(settings.data))
    for file in (settings.admin_key_file, settings.secret_key_file):
        if file.exists() and file.stat().st_mode & 0o077:
            yield Finding("data directory", "problem", f"{file} can be read by others; chmod 600 it")


def _disk(settings: Settings, _platform: Platform) -> Iterator[Finding]:
    place = settings.data
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    level = "warning" if usage.free < LOW_DISK else "ok"
    yield Finding("disk", level, f"{usage.free / (1 << 30):.1f} GiB free of {usage.total / (1 << 30):.1f} at {place}")


def _database(settings: Settings, platform: Platform) -> Iterator[Finding]:
    from eventproc.config import mask_url
    from eventproc.datadir import has_database

    url = mask_url(settings.database)
    if not has_database(settings):
        yield Finding("database", "info", f"{url} does not exist yet; `eventproc serve` makes it")
        return
    found, needed = platform.store.revision()
    if found == needed:
        yield Finding("database", "ok", f"{url}, schema revision {found}")
        for problem in platform.strange_admin_key():
            yield Finding("database", "problem", problem)
    elif found is None:
        yield Finding(
            "database", "info", f"{url} is empty; `eventproc serve` or `eventproc db upgrade` makes its tables"
        )
    else:
        yield Finding("database", "problem", f"{url} has revision {found}, {needed} is needed; `eventproc db upgrade`")


def _is_readable(settings: Settings, platform: Platform) -> bool:
    """Tell whether the database is there and of this program's revision; `_database` has told of it where not."""
    from eventproc.datadir import has_database

    if not has_database(settings):
        return False
    found, needed = platform.store.revision()
    return found == needed


def _secrets(settings: Settings, platform: Platform) -> Iterator[Finding]:
    """Whether the key that is set opens the secrets that are stored; their values are not looked at."""
    from eventproc.errors import ConfigError

    if not _is_readable(settings, platform):
        return
    with platform.store.read() as tx:
        stored = tx.secrets.all_values()
    closed, reason = 0, ""
    for user_id, name, encrypted in stored:
        try:
            platform.vault.decrypt(user_id, name, encrypted)
        except ConfigError as error:
            closed, reason = closed + 1, error.message
    if closed:
        yield Finding("secrets", "problem", f"{closed} of {len(stored)}: {reason}")
    elif stored:
        yield Finding("secrets", "ok", f"{len(stored)} stored; the key that is set opens them")


def _server(settings: Settings, _platform: Platform) -> Iterator[Finding]:
    if not settings.endpoints_file.exists():
        yield from _ports(settings)
        return
    endpoint = _bound(settings).get("http", "")
    try:
        with urllib.request.urlopen(f"{endpoint}/api/v1/health", timeout=HEALTH_S) as answer:  # noqa: S310  # our own file
            version = json.load(answer).get("version")
        yield Finding("server", "ok", f"{endpoint} answers, version {version}")
    except TimeoutError:
        says = f"does not answer within {HEALTH_S} s: it is overloaded, or its process is stopped"
        yield Finding("server", "problem", f"{endpoint} (endpoints.json) {says}")
    except (urllib.error.URLError, OSError, ValueError) as error:
        yield Finding("server", "problem", f"{endpoint} (endpoints.json) does not answer: {error}")


def _bound(settings: Settings) -> dict[str, str]:
    """Read what the server wrote. Raises ConfigError."""
    try:
        found = json.loads(settings.endpoints_file.read_text(encoding="utf-8"))
        return {str(name): str(address) for name, address in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{settings.endpoints_file} is not what `eventproc serve` writes: {error}; start the server again, and it "
            "is written anew"
        ) from error


def _listeners(settings: Settings, _platform: Platform) -> Iterator[Finding]:
    """Say of each of Graphite's ports whether it is off, bound or was not to be had."""
    bound = _bound(settings) if settings.endpoints_file.exists() else {}
    udp = settings.graphite if settings.graphite_udp is None else settings.graphite_udp
    wanted = {"graphite": settings.graphite, "graphite_udp": udp, "graphite_pickle": settings.graphite_pickle}
    for name, address in wanted.items():
        port = {"graphite": "lines, TCP", "graphite_udp": "lines, UDP", "graphite_pickle": "pickle, TCP"}[name]
        if address.is_off:
            yield Finding("metrics", "info", f"{port}: off (EVENTPROC_{name.upper()})")
        elif not bound:
            yield Finding("metrics", "info", f"{port}: {address}, once `eventproc serve` runs")
        elif name not in bound:
            why = f"{address} was taken when the server started; see its log, or set EVENTPROC_{name.upper()}"
            yield Finding("metrics", "warning", f"{port}: not bound; {why}")
        else:
            yield _listens(port, name, bound[name])
    if not all(address.is_off for address in wanted.values()):
        tls = "with TLS" if settings.graphite_tls else "without TLS"
        key = "with a key" if settings.graphite_key else "without a key"
        yield Finding("metrics", "ok", f"samples are taken {tls}, {key}; times up to {_ahead(settings)} ahead")


def _listens(port: str, name: str, where: str) -> Finding:
    import socket

    if name == "graphite_udp":
        return Finding("metrics", "ok", f"{port}: {where} is bound")
    host, _, number = where.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(number)), timeout=5):
            return Finding("metrics", "ok", f"{port}: {where} answers")
    except OSError as error:
        return Finding("metrics", "problem", f"{port}: {where} (endpoints.json) does not answer: {error}")


def _ahead(settings: Settings) -> str:
    from eventproc.registry.durations import format_duration

    ahead = settings.metrics.max_ahead
    return "any time" if ahead is None else format_duration(ahead)


def _certificates(settings: Settings, _platform: Platform) -> Iterator[Finding]:
    from eventproc.roles import doors

    found = doors.certificates(settings)
    if not found.exist():
        wanted = "are made when `eventproc serve` starts" if doors.wants_tls(settings) else "none: no gRPC, no HTTPS"
        yield Finding("certificates", "info", f"{wanted}; `eventproc certs init` makes them now")
        return
    found.read()  # raises when they do not belong together
    if found.server_key.stat().st_mode & 0o077:
        yield Finding("certificates", "problem", f"{found.server_key} can be read by others; chmod 600 it")
    warning = found.warning(dt.datetime.now(dt.UTC))
    names = ", ".join(found.names())
    served = f"gRPC on {settings.grpc}" + (f", HTTPS on {settings.https}" if settings.https else "")
    yield Finding(
        "certificates",
        "warning" if warning else "ok",
        warning or f"{found.server}, for {names}, until {found.ends():%Y-%m-%d}; {served}",
    )


def _ports(settings: Settings) -> Iterator[Finding]:
    from eventproc.roles import files

    try:
        files.bind(settings.http, variable="EVENTPROC_HTTP").close()
    except EventprocError as error:
        yield Finding("server", "problem", error.message)
    else:
        yield Finding("server", "info", f"not running; {settings.http} is free")


def _sandbox(settings: Settings, platform: Platform) -> Iterator[Finding]:
    from eventproc.sandbox.layers import PLACES

    report = platform.sandbox.report()
    layers = ", ".join(report.layers) or "none"
    yield Finding("sandbox", "ok", f"level {report.level}; enforced: {layers}")
    for layer, meaning in report.missing.items():
        text = f"{layer}: {meaning}" if layer == PLACES else f"{layer} is not enforced: {meaning}"
        yield Finding("sandbox", "info" if settings.unsafe_sandbox else "warning", text)
    yield Finding("sandbox", "info", _granted(settings, report.level))
    if report.groups and settings.policy.allow_subprocess:
        yield Finding("sandbox", "info", report.groups)


def _interpreters(settings: Settings, platform: Platform) -> Iterator[Finding]:
    usable = platform.provider.interpreters.usable()
    listed = ", ".join(f"{each.full} ({each.path})" for each in usable.values())
    yield Finding("interpreters", "ok", f"handlers may be made by Python {', '.join(usable)}: {listed}")
    named = {place for place in settings.interpreters if place != "auto"}
    for each in platform.provider.interpreters.all():
        if each.unused:
            level = "warning" if each.path in named else "info"
            yield Finding("interpreters", level, f"{each.path} is not used: {each.unused}")


def _environments(settings: Settings, platform: Platform) -> Iterator[Finding]:
    from eventproc.sandbox.installer import find_uv

    given, provider = settings.environments, platform.provider
    if find_uv() is None:
        yield Finding("environments", "warning", "there is no uv, so nothing can be installed; pip install uv")
    if not given.allowed:
        yield Finding("environments", "info", "handlers may not have requirements (environments.allowed)")
    if given.build_sdists:
        yield Finding("environments", "warning", "build_sdists is on: what is in source archives runs unconfined")
    used, count = provider.environments.total(), len(provider.environments.all())
    says = f"{count} installed, {used / (1 << 20):.0f} of at most {given.max_size / (1 << 20):.0f} MiB; from "
    level = "warning" if used > given.max_size else "ok"
    yield Finding("environments", level, says + provider.installer.describe())
    for entry in provider.environments.all():
        for name, reason in entry.about.get("without", {}).items():
            first = reason.splitlines()[0]
            yield Finding("environments", "info", f"Python {entry.about['python']} is without {name}: {first}")


def _granted(settings: Settings, level: str) -> str:
    """Say what registrations may ask for."""
    policy = settings.policy
    places = {"none": "no network", "public": "places on the public internet", "any": "any place they name"}
    network = places.get(policy.network, "the whole network")
    besides = f" and {', '.join(policy.network_hosts)}" if policy.network_hosts else ""
    programs = "no processes"
    if policy.allow_subprocess:
        programs = "processes" if level == "A" else "processes (refused at this level)"
    return f"handlers may ask for {programs} and {network}{besides} (settings policy.*)"


def _hooks(settings: Settings, _platform: Platform) -> Iterator[Finding]:
    from eventproc.wiring import load_hooks

    specs, problems = load_hooks(settings)
    yield Finding("hooks", "ok", f"{len(specs)} in files")
    for problem in problems:
        yield Finding("hooks", "warning", problem)


def _mail(_settings: Settings, platform: Platform) -> Iterator[Finding]:
    mailer = platform.mailer
    check = getattr(mailer, "check", None)
    if check is None:
        yield Finding("mail", "info", mailer.describe())
        return
    check()
    yield Finding("mail", "ok", f"{mailer.describe()} answers")


def _broker(settings: Settings, _platform: Platform) -> Iterator[Finding]:
    if settings.broker_url is None:
        return
    from eventproc.bus.amqp import Broker, close

    broker = Broker(settings.broker_url.get_secret_value(), purpose="doctor")
    close(broker.connect())
    yield Finding("broker", "ok", f"{broker} answers: wake-ups between hosts, and messages of the outbox")


def _outbox(settings: Settings, platform: Platform) -> Iterator[Finding]:
    if not _is_readable(settings, platform):
        return
    with platform.store.read() as tx:
        given_up = tx.outbox.counts().get("failed", 0)
    if given_up:
        yield Finding(
            "outbox",
            "warning",
            f"given up: {given_up} of the messages to brokers and webhooks; `eventproc outbox list --state failed` "
            "says why, `eventproc outbox requeue ID` sends one again",
        )


def _time(settings: Settings, platform: Platform) -> Iterator[Finding]:
    yield from _playback(settings, platform)
    yield from _retention(settings, platform)
    if settings.time_sync is None:
        return
    from eventproc.timesync import TimeSyncClock

    clock = TimeSyncClock(settings.time_sync)
    wrong = clock.ask()
    if wrong is not None:
        yield Finding("time", "problem", f"the time service {settings.time_sync}: {wrong}; events' time stands still")
        return
    try:
        yield Finding("time", "info", f"events go by {settings.time_sync}: it is {isoformat(clock.now_us())}")
    except Unavailable as error:
        yield Finding("time", "warning", error.message)


def _retention(settings: Settings, platform: Platform) -> Iterator[Finding]:
    from eventproc.engine.housekeeping import WAITS

    if not _is_readable(settings, platform):
        return
    with platform.store.read() as tx:
        waits = tx.get_meta(WAITS)
    if waits:
        yield Finding("retention", "warning", waits)


def _playback(settings: Settings, platform: Platform) -> Iterator[Finding]:
    from eventproc.playback.place import END, alive, describe

    if not _is_readable(settings, platform):
        return
    with platform.store.read() as tx:
        played = tx.playback.get()
    if played is not None and alive(played, platform.clock.now_us()):
        yield Finding("time", "info", f"{played.file} is being played by {played.holder}: {isoformat(played.at_us)}")
    elif played is not None:
        yield Finding("time", "warning", f"{describe(played)}; {END}")
