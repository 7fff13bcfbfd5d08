"""Logs: structlog and the standard library's loggers, to stderr, in one format, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from eventproc.config import Settings

SECRET_NAMES = re.compile(r"passw|secret|api_?key|authori[sz]ation|cookie|credential", re.IGNORECASE)
KEYS = re.compile(r"\bep_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")
URL_PASSWORDS = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s@]+(?=@)", re.IGNORECASE)
MASK = "***"


def scrub(text: str) -> str:
    """Mask API keys and passwords of URLs inside a text."""
    return URL_PASSWORDS.sub(rf"\g<before>{MASK}", KEYS.sub(rf"ep_\1_{MASK}", text))


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask values whose name says that they are secret, and secrets inside any text."""
    for name, value in event.items():
        if SECRET_NAMES.search(name):
            event[name] = MASK
        elif isinstance(value, str):
            event[name] = scrub(value)
    return event


def configure(settings: Settings, role: str) -> None:
    """Send all logs of this process to stderr."""
    people = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        named(role),
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        render: structlog.typing.Processor = structlog.processors.JSONRenderer(default=str)
    elif people:
        render = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    else:
        shared.append(structlog.processors.format_exc_info)
        render = structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "role", "event"], drop_missing=True, bool_as_flag=False
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, mask_secrets, _flatten, render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in ("httpx", "httpcore", "alembic", "asyncio", "uvicorn.access", "mail.log"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it warns of it also raises, and we say that better
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        cache_logger_on_first_use=False,
    )


def named(role: str) -> structlog.typing.Processor:
    """Make the step that says in each line which role speaks, from whatever thread."""

    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("role", role)
        return event

    return add


def _flatten(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep one line one line: whoever reads the log must not take a handler's words for the platform's."""
    for name, value in event.items():
        if name != "exception" and isinstance(value, str):
            event[name] = value.translate(CONTROLS)
    return event


CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {9: " ", 10: "\\n", 13: "\\r"}
