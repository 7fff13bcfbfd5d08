"""What each role's process does."""

# ruff: noqa: PLC0415  # each role imports what it needs, not what the others do

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Protocol

import structlog

from eventproc.config import Settings
from eventproc.datadir import make_private
from eventproc.errors import ConfigError, EventprocError
from eventproc.roles import ENV_READY, ENV_SUPERVISOR, ROLES, files, logs
from eventproc.roles.doors import Doors
from eventproc.roles.metric_doors import VARIABLES as METRIC_DOORS
from eventproc.roles.metric_doors import MetricDoors
from eventproc.wiring import Platform

log = structlog.get_logger(__name__)

PR_SET_PDEATHSIG = 1


class Service(Protocol):
    """What a role runs: `run` blocks until `stop` is called from another thread."""

    def run(self) -> None: ...
    def stop(self, grace_s: float) -> None: ...


def make_api(platform: Platform, doors: Doors, ready: Callable[[], None]) -> Service:
    from eventproc.roles.web import ApiService

    return ApiService(platform, doors, ready=ready)


def make_worker(platform: Platform) -> Service:
    from eventproc.engine.preparing import Preparer
    from eventproc.engine.worker import Worker, WorkerSettings

    worker = platform.settings.worker
    platform.sandbox.report()  # starts it: a sandbox that can not be had shows now, not at the first event
    settings = WorkerSettings(slots=worker.slots, lease_s=worker.lease, poll_s=worker.poll)
    if worker.idle_children is not None:
        settings = replace(settings, children_max_idle=worker.idle_children)
    preparer = Preparer(
        store=platform.store,
        bus=platform.bus,
        sandbox=platform.sandbox,
        clock=platform.clock,
        name=settings.name,
        poll_s=settings.poll_s,
    )
    return Worker(
        store=platform.store,
        bus=platform.bus,
        sandbox=platform.sandbox,
        services=platform.world,
        clock=platform.clock,
        settings=settings,
        cache=platform.cache,
        beside=[preparer],
    )


def make_housekeeper(platform: Platform) -> Service:
    from eventproc.engine.housekeeping import Housekeeper, HousekeeperSettings
    from eventproc.engine.steadiness import Steadiness
    from eventproc.metrics.aggregates import EVERY_S, Aggregator

    aggregator = Aggregator(store=platform.store, clock=platform.clock, bus=platform.bus)
    return Housekeeper(
        store=platform.store,
        bus=platform.bus,
        blobs=platform.blobs,
        clock=platform.clock,
        cache=platform.cache,
        settings=HousekeeperSettings(
            policy=platform.retention, max_interruptions=platform.settings.worker.max_interruptions
        ),
        steadiness=Steadiness(platform.clock),
        others=[("aggregates", EVERY_S, aggregator.tick)],
    )


def make_notifier(platform: Platform) -> Service:
    """Return what sends mails, with what delivers the outbox's messages beside it."""
    from eventproc.engine.postman import Postman, PostmanSettings
    from eventproc.roles.together import Together

    settings = PostmanSettings(max_age_s=platform.settings.outbox_max_age)
    postmen = [
        Postman(store=platform.store, bus=platform.bus, carrier=carrier, clock=platform.clock, settings=settings)
        for carrier in platform.carriers
    ]
    return Together([_make_mail_notifier(platform), *postmen])


def _make_mail_notifier(platform: Platform) -> Service:
    from eventproc.engine.notifier import Notifier, NotifierSettings

    given = platform.settings
    settings = NotifierSettings(sender=given.mail_sender, burst=given.mail_burst, burst_s=given.mail_digest)
    if platform.settings.smtp_url is None:
        # Files do not hang as mail servers do: what a killed notifier held need not wait for minutes.
        settings = replace(settings, lease_s=20.0, send_s=5.0)
    return Notifier(
        store=platform.store,
        bus=platform.bus,
        mailer=platform.mailer,
        renderer=platform.renderer,
        clock=platform.clock,
        settings=settings,
    )


def make_models(platform: Platform) -> Service:
    from eventproc.htm import warm
    from eventproc.models.lifecycle import Teller
    from eventproc.models.runner import ModelRunner, RunnerSettings
    from eventproc.models.shares import Shares, ShareSettings
    from eventproc.models.uploaded import Uploads

    settings = platform.settings.models
    name = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(3)}"
    return ModelRunner(
        store=platform.store,
        bus=platform.bus,
        clock=platform.clock,
        teller=Teller(catalogue=platform.cache.current, bus=platform.bus, exchange=platform.results_exchange),
        shares=Shares(platform.store, platform.clock, name, settings=ShareSettings(lease_s=settings.lease)),
        settings=RunnerSettings(
            threads=settings.threads,
            memory=settings.memory,
            checkpoint_every=settings.checkpoint_every,
            poll_s=settings.poll,
        ),
        full_speed=warm.ready,
        uploads=Uploads(  # the sandbox is set up when the first one is asked for
            platform.store, lambda: platform.sandbox, max_children=settings.idle_detectors
        ),
    )


def make_listener(platform: Platform, doors: MetricDoors) -> Service:
    from eventproc.metrics.listener import GraphiteService, Sockets

    tls = None
    if platform.settings.graphite_tls:
        from eventproc.roles.certs import server_context
        from eventproc.roles.doors import certificates

        tls = server_context(certificates(platform.settings))
    sockets = Sockets(
        lines=[sock for sock in (doors.graphite,) if sock is not None],
        datagrams=[sock for sock in (doors.graphite_udp,) if sock is not None],
        pickles=[sock for sock in (doors.graphite_pickle,) if sock is not None],
    )
    graphite = GraphiteService(
        platform.intake, sockets, tls=tls, max_connections=platform.settings.metrics.max_connections
    )
    if platform.queue is None:
        return graphite
    from eventproc.roles.together import Together

    return Together([graphite, platform.queue])


class RoleMain:
    """One role's process, from start to end."""

    def __init__(self, role: str, settings: Settings) -> None:
        if role not in ROLES:
            raise ConfigError(f"unknown role {role!r}; the roles are: {', '.join(ROLES)}")
        self.role = role
        self.settings = settings
        self._service: Service | None = None
        self._stops = 0
        self._stopper: threading.Thread | None = None
        self._ready_fd = _take_fd(ENV_READY)
        self._supervised = os.environ.pop(ENV_SUPERVISOR, None)
        self._doors: Doors | None = None
        self._metric_doors: MetricDoors | None = None

    def run(self) -> int:
        """Run until a signal; return the exit status."""
        if self._supervised is not None:
            die_with(int(self._supervised))
        logs.configure(self.settings, self.role)
        try:
            return self._run()
        except EventprocError:  # shown in one line by the command
            raise
        except Exception:  # the supervisor starts the role again; what broke it must be in the log
            log.exception("the role broke")
            return 1

    def _run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if self._supervised is not None:
            return self._work()
        make_private(self.settings)
        with contextlib.ExitStack() as held:
            if self.role == "api":
                held.enter_context(files.locked(self.settings.run_dir / "api.lock", "eventproc serve --role api"))
                held.callback(files.remove_endpoints, self.settings.endpoints_file)
            if self.role == "listener":
                held.callback(files.change_endpoints, self.settings.endpoints_file, {}, METRIC_DOORS)
            with Platform(self.settings) as platform:
                for problem in platform.prepare():
                    log.warning(problem)
            return self._work()

    def _work(self) -> int:
        if self.role == "api":
            self._doors = Doors.inherited() or Doors.open(self.settings)
            self.settings = self._doors.bound(self.settings)
        if self.role == "listener":
            self._metric_doors = MetricDoors.inherited() or MetricDoors.open(self.settings)
        with Platform(self.settings) as platform:
            self._service = service = self._build(platform)
            if self._stops:  # the signal came while there was nothing to stop
                return 0
            if self.role != "api":
                self._ready()
            _settle_heap()
            service.run()
            if self._stopper is not None:
                self._stopper.join()
        log.info("role ended")
        return 0

    def _build(self, platform: Platform) -> Service:
        if self._doors is not None:
            return make_api(platform, self._doors, self._ready)
        if self._metric_doors is not None:
            return make_listener(platform, self._metric_doors)
        makers = {
            "worker": make_worker,
            "engine": make_housekeeper,
            "notifier": make_notifier,
            "models": make_models,
        }
        return makers[self.role](platform)

    def _ready(self) -> None:
        log.info("role is ready", pid=os.getpid())
        if self._ready_fd is not None:
            os.write(self._ready_fd, b"1")
            os.close(self._ready_fd)
            self._ready_fd = None
        elif self._supervised is None:
            if self._doors is not None:
                files.write_endpoints(self.settings.endpoints_file, self._doors.endpoints())
            if self._metric_doors is not None:
                files.change_endpoints(self.settings.endpoints_file, self._metric_doors.endpoints())
            sys.stdout.write("ready\n")
            sys.stdout.flush()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1
        if self._stops > 1:
            os._exit(1)  # leases run out by themselves
        if self._service is not None:
            # In a thread: the handler interrupts `run`, which may hold the very locks that `stop` needs.
            self._stopper = threading.Thread(target=self._stop, args=(self._service,), name="stop", daemon=True)
            self._stopper.start()

    def _stop(self, service: Service) -> None:
        try:
            service.stop(self.settings.worker.grace)
        except EventprocError:
            log.exception("the role could not be stopped in good order")
            os._exit(1)


def _settle_heap() -> None:
    """
    Leave what start-up made out of every later garbage collection.

    It is most of the heap and stays to the end; walking through it again and again took a tenth of a worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _take_fd(variable: str) -> int | None:
    value = os.environ.pop(variable, None)
    if value is None:
        return None
    os.set_inheritable(int(value), False)  # a handler's process must not hold it open
    return int(value)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)


def run_role(role: str, settings: Settings) -> int:
    """Run one role in this process."""
    return RoleMain(role, settings).run()


__all__ = ["RoleMain", "Service", "run_role"]
