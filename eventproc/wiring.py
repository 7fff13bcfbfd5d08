"""
The composition root: settings in, the platform's parts out.

Nothing is built, opened or imported before it is asked for: each role pays for what it uses.
"""

# ruff: noqa: PLC0415  # each part is imported when it is first asked for

from __future__ import annotations

import atexit
import os
import secrets
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import structlog

from eventproc.abc import Blobs, Bus, Carrier, Clock, Mailer, Renderer, RetentionPolicy, Sandbox, Store
from eventproc.config import Address, Settings, current_directory, hook_times, load
from eventproc.datadir import make_private, write_atomically
from eventproc.engine.clock import SystemClock
from eventproc.errors import ConfigError, Conflict, EventprocError, InvalidInput, NotFound
from eventproc.model import Accepted, HookSpec, NewEvent, Role
from eventproc.model.quiet import OWN_SOURCES

if TYPE_CHECKING:
    from pydantic import SecretStr

    from eventproc.engine.group import GroupCommit
    from eventproc.metrics.intake import Intake
    from eventproc.metrics.queue import QueueService
    from eventproc.model import Policy
    from eventproc.registry import CatalogueCache, MaxLimits
    from eventproc.sandbox.provider import Provider
    from eventproc.service.context import ServiceContext, ServiceSettings
    from eventproc.service.vault import Vault
    from eventproc.service.world import World

log = structlog.get_logger(__name__)

ADMIN = "admin"
FIRST_TIME_S = 2.0  # for the time service to answer when a process starts
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not bound


class _Closable(Protocol):
    def close(self) -> None: ...


P = TypeVar("P", bound=_Closable)


class Platform:
    """Everything that one process of the platform may need; made lazily, closed once."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.draining = threading.Event()
        self._opened: list[_Closable] = []

    # ------------------------------------------------------------------------------------------- parts

    @cached_property
    def store(self) -> Store:
        from eventproc.store import open_store

        return self._keep(open_store(self.settings.database, durability=self.settings.durability))

    @cached_property
    def bus(self) -> Bus:
        from eventproc.bus.local import LocalBus

        local = LocalBus(self.settings.run_dir / "bus")
        if self.settings.broker_url is None:
            return self._keep(local)
        from eventproc.bus.rabbitmq import RabbitMQBus

        place = f"{socket.gethostname()}:{self.settings.run_dir.resolve()}"
        return self._keep(RabbitMQBus(self.settings.broker_url.get_secret_value(), local, place=place))

    @cached_property
    def carriers(self) -> list[Carrier]:
        """What delivers the outbox's messages, by kind."""
        from eventproc.notify.webhook import HttpCarrier

        found: list[Carrier] = [HttpCarrier()]
        if self.settings.broker_url is not None:
            from eventproc.bus.carrier import RabbitMQCarrier

            found.append(RabbitMQCarrier(self.settings.broker_url.get_secret_value()))
        return found

    @cached_property
    def blobs(self) -> Blobs:
        from eventproc.blobs import FileBlobs

        return FileBlobs(self.settings.data / "files")

    @cached_property
    def sandbox(self) -> Sandbox:
        from eventproc.sandbox.forkserver import ForkServerSandbox

        downloads = self.base_url.partition("://")[2]
        environ = {"DOWNLOADS_ENDPOINT": downloads}  # handlers written for btrdbextras may name links themselves
        return self._keep(
            ForkServerSandbox(
                allow_unsafe=self.settings.unsafe_sandbox,
                environ=environ,
                policy=self.policy,
                provider=self.provider,
                handler_path=self._handler_path(),
            )
        )

    def _handler_path(self) -> list[Path]:
        """Return the directories that pipelines may import from; handlers can read all that is in them."""
        paths = [path.resolve() for path in self.settings.handler_path]
        data = self.settings.data.resolve()
        for path in paths:
            if not path.is_dir():
                raise ConfigError(f"there is no directory {path} (setting 'handler_path')")
            if data.is_relative_to(path):
                raise ConfigError(
                    f"the setting 'handler_path' would let handlers read the platform's own data: {data} lies in {path}"
                )
        return paths

    @cached_property
    def provider(self) -> Provider:
        """The Pythons of this host, and directories of packages."""
        from eventproc.sandbox.installer import InstallSettings
        from eventproc.sandbox.interpreters import Interpreters
        from eventproc.sandbox.provider import NoPackages, Provider

        given = self.settings.environments
        settings = InstallSettings(
            index_url=given.index_url.get_secret_value() if given.index_url else None,
            extra_index_urls=tuple(url.get_secret_value() for url in given.extra_index),
            find_links=given.find_links,
            offline=given.offline,
            build_sdists=given.build_sdists,
            timeout_s=given.timeout,
            max_bytes=given.max_size,
        )
        kind = Provider if given.allowed else NoPackages
        interpreters = Interpreters(self.settings.interpreters)
        return kind(self.settings.environments_dir, settings=settings, interpreters=interpreters)

    @cached_property
    def mailer(self) -> Mailer:
        from eventproc.notify import mailer_from_url

        url = self.settings.smtp_url
        return mailer_from_url(url.get_secret_value() if url else None, self.settings.mail_dir)

    @cached_property
    def renderer(self) -> Renderer:
        from eventproc.notify import TemplateRenderer

        override = self.settings.templates
        if override is not None and not override.is_dir():
            raise ConfigError(f"the directory of mail templates {override} does not exist (setting 'templates')")
        return TemplateRenderer(override, self.base_url)

    @property
    def base_url(self) -> str:
        """Where people reach the platform."""
        scheme, listens = "http", self.settings.http
        if self.settings.https is not None:
            scheme, listens = "https", self.settings.https
        local = Address(EVERYWHERE.get(listens.host, listens.host), listens.port)
        return (self.settings.public_url or f"{scheme}://{local}").rstrip("/")

    @cached_property
    def cache(self) -> CatalogueCache:
        from eventproc.registry import CatalogueCache

        return CatalogueCache(self.store, event_clock=self.event_clock)

    @cached_property
    def event_clock(self) -> Clock | None:
        """The time of events and streams, where a time service tells it."""
        if self.settings.time_sync is None:
            return None
        from eventproc.timesync import TimeSyncClock

        return self._keep(TimeSyncClock(self.settings.time_sync)).start(wait_s=FIRST_TIME_S)

    @cached_property
    def group(self) -> GroupCommit:
        from eventproc.engine.group import GroupCommit

        return self._keep(GroupCommit(self.store))

    @cached_property
    def context(self) -> ServiceContext:
        from eventproc.service.context import ServiceContext

        self.settings.data.joinpath("tmp").mkdir(mode=0o700, parents=True, exist_ok=True)
        return ServiceContext(
            store=self.store,
            bus=self.bus,
            blobs=self.blobs,
            sandbox=self.sandbox,
            clock=self.clock,
            cache=self.cache,
            group=self.group,
            vault=self.vault,
            delegates=True,
            draining=self.draining,
            settings=replace(self.service_settings, work_dir=self.settings.data / "tmp"),
        )

    @property
    def service_settings(self) -> ServiceSettings:
        """What the operator set for use cases; uploads on their way lie in the system's own place."""
        from eventproc.service.context import ServiceSettings

        return ServiceSettings(
            base_url=self.base_url,
            results_exchange=self.results_exchange,
            max_ahead_s=self.settings.metrics.max_ahead,
            max_payload_bytes=self.settings.max_payload,
            max_body_bytes=max(32 << 20, self.settings.max_blob // 3 * 4 + (4 << 20)),  # a blob as base64 fits
            max_blob_bytes=self.settings.max_blob,
            max_limits=self.max_limits,
            policy=self.policy,
            prepare_timeout_s=self.settings.environments.timeout + 120,
        )

    @property
    def results_exchange(self) -> str | None:
        """Where results of models are published; nowhere without a broker."""
        return self.settings.models.results_exchange if self.settings.broker_url is not None else None

    @cached_property
    def vault(self) -> Vault:
        from eventproc.service.vault import Vault

        return Vault(self._secret_keys)

    def _secret_keys(self) -> str:
        if self.settings.secret_key is not None:
            return self.settings.secret_key.get_secret_value()
        file = self.settings.secret_key_file
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the key of secrets can not be read from {file}: {getattr(error, 'strerror', error)}; "
                "put the file back, or set EVENTPROC_SECRET_KEY"
            ) from error

    @cached_property
    def intake(self) -> Intake:
        return self._make_intake(self.settings.graphite_key)

    @cached_property
    def queue(self) -> QueueService | None:
        """What takes samples from the broker's queue, where there is a broker."""
        if self.settings.broker_url is None:
            return None
        from eventproc.bus.consumer import QueueConsumer
        from eventproc.metrics.queue import QueueIntake, QueueService

        name = self.settings.metrics.queue
        taker = QueueIntake(self._make_intake(None), name)  # the broker has asked its clients who they are
        return QueueService(QueueConsumer(self.settings.broker_url.get_secret_value(), name, taker.take))

    def _make_intake(self, key: SecretStr | None) -> Intake:
        from eventproc.metrics.intake import Intake, IntakeSettings

        settings = IntakeSettings(
            key=key.get_secret_value() if key else None, max_ahead_s=self.settings.metrics.max_ahead
        )
        return Intake(store=self.store, clock=self.clock, cache=self.cache, bus=self.bus, settings=settings)

    @cached_property
    def world(self) -> World:
        from eventproc.service.world import World

        return self._keep(World(self.context))

    @property
    def retention(self) -> RetentionPolicy:
        keep = self.settings.retention
        return RetentionPolicy(
            events_s=_whole(keep.events),
            runs_s=_whole(keep.runs),
            failed_runs_s=_whole(keep.failed_runs),
            logs_s=_whole(keep.logs),
            files_s=_whole(keep.files),
            notices_s=_whole(keep.notices),
            audit_s=_whole(keep.audit),
            samples_s=_whole(keep.samples),
            rejects_s=_whole(keep.rejects),
            outbox_s=_whole(keep.outbox),
            dedup_s=int(keep.dedup),
            streams_s=_whole(keep.streams),
        )

    @property
    def policy(self) -> Policy:
        """What the operator lets registrations ask for."""
        from eventproc.model import NetworkGrant, NetworkPolicy, Policy

        said = self.settings.policy
        network = NetworkPolicy(grant=NetworkGrant(said.network), hosts=said.network_hosts)
        return Policy(allow_subprocess=said.allow_subprocess, network=network)

    @property
    def max_limits(self) -> MaxLimits:
        """What the operator grants at most."""
        from eventproc.registry import MaxLimits

        most = self.settings.limits
        return MaxLimits(
            timeout_s=most.timeout,
            cpu_s=most.cpu,
            memory_bytes=most.memory,
            file_bytes=most.file_size,
            open_files=most.open_files,
            upload_bytes=most.uploads,
            processes=most.processes,
            scratch_bytes=most.scratch,
            scratch_files=most.scratch_files,
            output_bytes=most.output,
            result_bytes=most.result,
        )

    def _keep(self, part: P) -> P:
        self._opened.append(part)
        return part

    # ------------------------------------------------------------------------------------------- life

    def prepare(self) -> list[str]:
        """Make the data directory, the schema, the bundled hooks and the first admin; return what to tell people."""
        make_private(self.settings)
        self.store.upgrade()
        told = self._sync_hooks()
        self._make_admin()
        self._make_secret()
        return [*told, *self.strange_admin_key()]

    def strange_admin_key(self) -> list[str]:
        """Say so if the key in admin.key is of another database: one was restored or exchanged."""
        file = self.settings.admin_key_file
        try:
            prefix = file.read_text(encoding="utf-8").split("_")[1]
        except (OSError, ValueError, IndexError):
            return []  # moved elsewhere, as the operations page has it, or read by others only
        with self.store.read() as tx:
            if tx.users.by_key_prefix(prefix) is not None:
                return []
        return [f"{file} holds a key that this database does not know; `eventproc keys recover` writes a new one"]

    def _sync_hooks(self) -> list[str]:
        from eventproc.service.hooks import sync_bundled_hooks

        specs, problems = load_hooks(self.settings)
        with self.store.begin() as tx:
            sync_bundled_hooks(tx, specs, now_us=self.clock.now_us())
        return problems

    def _make_admin(self) -> None:
        """Create the first admin, unless there is one or another host is making one just now."""
        with suppress(Conflict):
            self._make_first_admin()

    def _make_first_admin(self) -> None:
        """Have the key on the disk before the database knows it, so that none is lost between."""
        from eventproc.service.auth import issue_key

        now_us = self.clock.now_us()
        with self.store.begin() as tx:
            if tx.users.all():
                return
            admin = tx.users.add(ADMIN, Role.ADMIN, now_us=now_us)
            key, prefix = issue_key(tx, admin, label="first admin key", now_us=now_us)
            tx.audit.add(
                user="eventproc", action="user.create", object=f"user:{ADMIN}", detail={"key": prefix}, now_us=now_us
            )
            write_atomically(self.settings.admin_key_file, f"{key}\n")

    def recover_admin(self) -> tuple[str, str]:
        """
        Make a new key for an admin and write it to admin.key; return (user, prefix).

        Whoever may write the database and its directory needs no other key. Raises NotFound where no platform was.
        """
        from eventproc.service.auth import issue_key

        now_us = self.clock.now_us()
        with self.store.begin() as tx:
            admins = [user for user in tx.users.all() if user.role == Role.ADMIN and not user.disabled]
            if not admins:
                raise NotFound("that database has no admin yet: `eventproc serve` makes the first one")
            admin = next((user for user in admins if user.name == ADMIN), admins[0])
            key, prefix = issue_key(tx, admin, label="recovered", now_us=now_us)
            detail = {"user": admin.name, "label": "recovered"}
            tx.audit.add(user="eventproc", action="key.create", object=f"key:{prefix}", detail=detail, now_us=now_us)
            write_atomically(self.settings.admin_key_file, f"{key}\n")
        return admin.name, prefix

    def _make_secret(self) -> None:
        if self.settings.secret_key is None and not self.settings.secret_key_file.exists():
            write_atomically(self.settings.secret_key_file, f"{secrets.token_urlsafe(32)}\n")

    def close(self) -> None:
        """Close what was opened, the last first; one part's trouble does not keep the others open."""
        self.draining.set()
        while self._opened:
            part = self._opened.pop()
            try:
                part.close()
            except Exception:  # at the end of a process: the rest must still be closed
                log.exception("a part could not be closed", part=type(part).__name__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def load_hooks(settings: Settings) -> tuple[list[HookSpec], list[str]]:
    """Read the hook files: bundled, of other distributions, of the project; return a line for each that is broken."""
    from eventproc.plugins import find
    from eventproc.registry.specs import load_specs

    files, problems = find("hooks", [settings.project] if settings.project is not None else [])
    merged: dict[str, HookSpec] = {}
    for file in files:
        specs, broken = load_specs([file.path], source="bundled" if file.origin == "bundled" else "file")
        merged.update((spec.name, spec) for spec in specs)
        problems += broken
    told = [problem.message for problem in problems]
    told += _keep_as_set(merged, hook_times(settings.retention.keep), "keep")
    told += _keep_as_set(merged, hook_times(settings.retention.keep_idle), "keep_idle")
    return list(merged.values()), told


def _keep_as_set(specs: dict[str, HookSpec], times: Mapping[str, float | None], setting: str) -> list[str]:
    """Let the operator's settings stand above what the files say; return a line for each hook that no file has."""
    from eventproc.registry.documents import hint

    told = []
    for name, seconds in times.items():
        if name in specs:
            change: dict[str, Any] = {f"{setting}_s": None if seconds is None else max(1, int(seconds))}
            specs[name] = replace(specs[name], **change)
        else:
            told.append(
                f"the setting retention.{setting} names the hook {name!r}, which is in no file: {hint(name, specs)}"
            )
    return told


_lock = threading.Lock()
_for_sessions: dict[tuple[Any, ...], Platform] = {}


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  # a thread that is not in the child may have held it
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def emit_in_session(session: Any, event: NewEvent) -> Accepted:
    """
    Report an event inside the caller's own database transaction (transactional outbox).

    `session` is a SQLAlchemy session or connection on the platform's database; the event and its runs exist once it
    commits, and never if it rolls back. Settings are read as `eventproc serve` reads them.
    """
    from eventproc.engine.accept import accept_events

    if event.source in OWN_SOURCES:
        raise InvalidInput(
            f"source {event.source!r}: what the platform itself reports has that one; say which program reports this, "
            "or leave it out",
            field="source",
        )
    platform = _session_platform()
    tx = platform.store.join(session)
    verdict = accept_events(
        tx,
        platform.cache.current(tx),
        [event],
        user_id=None,
        now_us=platform.clock.now_us(),
        max_payload_bytes=platform.settings.max_payload,
        bus=platform.bus,
    )[0]
    if isinstance(verdict, EventprocError):
        raise verdict
    return verdict


def _session_platform() -> Platform:
    """
    Return this process's platform for what the environment says: it is kept over calls.

    A forked process makes its own: the connections of the one that it comes from stay that one's.
    """
    with _lock:
        key = (os.getpid(), *_surroundings())
        platform = _for_sessions.get(key)
        if platform is None:
            platform = _for_sessions[key] = Platform(load())
            atexit.register(_close_own, os.getpid(), platform)
        return platform


def _surroundings() -> tuple[str, ...]:
    """Return what settings are read by; reading them anew would cost more than the event."""
    said = (f"{name}={value}" for name, value in os.environ.items() if name.startswith(("EVENTPROC_", "XDG_", "HOME")))
    return (str(current_directory()), *sorted(said))


def _close_own(pid: int, platform: Platform) -> None:
    if os.getpid() == pid:
        platform.close()


__all__: Sequence[str] = [
    "Platform",
    "SystemClock",
    "emit_in_session",
    "load_hooks",
]
