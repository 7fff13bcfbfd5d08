"""What the tests of notices have in common: a notifier and its settings."""

from __future__ import annotations

from typing import Any

from notice_world import NoticeWorld

from eventproc.abc import Mailer
from eventproc.bus.memory import MemoryBus
from eventproc.engine.notifier import Notifier, NotifierSettings
from eventproc.notify import TemplateRenderer

SETTINGS = NotifierSettings(
    sender="The Platform <eventproc@example.org>", jitter=0.0, backoff_s=30, backoff_max_s=3600, poll_s=60, burst=0
)
DAY = 86400.0


def notifier_for(world: NoticeWorld, mailer: Mailer, **changes: Any) -> Notifier:
    settings = changes.pop("settings", SETTINGS)
    return Notifier(
        store=changes.pop("store", world.store),
        bus=changes.pop("bus", None) or MemoryBus(),
        mailer=mailer,
        renderer=changes.pop("renderer", None) or TemplateRenderer(base_url="http://localhost:8080"),
        clock=world.clock,
        settings=settings,
    )


def drain(notifier: Notifier) -> None:
    while notifier.turn():
        pass
