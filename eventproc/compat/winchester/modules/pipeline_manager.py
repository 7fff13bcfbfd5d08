"""winchester.pipeline_manager: a pipeline's handlers, run here and now, as tests of handlers do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from eventproc.compat.winchester.modules.config import ConfigManager
from eventproc.compat.winchester.modules.trigger_manager import TriggerManager

logger = logging.getLogger("winchester.pipeline_manager")

Event = dict[str, Any]


class Debugger(Protocol):
    def bump_counter(self, name: str, inc: int = 1) -> None: ...


class PipelineConfigError(Exception):
    """A pipeline names a handler that there is not."""


class PipelineExecutionError(Exception):
    """A handler raised; `cause` is what."""

    def __init__(self, msg: str = "", cause: Exception | None = None) -> None:
        super().__init__(f"{msg}: {cause}" if cause is not None else msg)
        self.cause = cause


class Pipeline:
    """
    New instances of the handlers of `pipeline`, a list of names or {name, params}.

    The platform runs pipelines in its sandbox; this is for trying one in a process of one's own.
    """

    @classmethod
    def check_handler_config(cls, conf: Any, handler_map: Mapping[str, Any]) -> dict[str, Any]:
        """Return {name, params} of an entry. Raises PipelineConfigError."""
        if isinstance(conf, str):
            conf = {"name": conf}
        if not isinstance(conf, Mapping) or "name" not in conf:
            raise PipelineConfigError(f"Handler name not specified in pipeline config: {conf!r}")
        if conf["name"] not in handler_map:
            raise PipelineConfigError(f"Unknown handler in pipeline config: {conf['name']!r}")
        return {"name": conf["name"], "params": dict(conf.get("params") or {})}

    def __init__(self, name: str, pipeline: Sequence[Any], handler_map: Mapping[str, Callable[..., Any]]) -> None:
        self.name = name
        self.env: dict[str, Any] = {}
        self.handlers: list[Any] = []
        for entry in pipeline:
            conf = self.check_handler_config(entry, handler_map)
            try:
                self.handlers.append(handler_map[conf["name"]](**conf["params"]))
            except Exception as error:
                logger.exception("Error initializing handler %s", conf["name"])
                raise PipelineExecutionError("Error loading pipeline", error) from error

    def handle_events(self, events: list[Event], stream: Any, debugger: Debugger) -> list[Event]:
        """
        Hand the events from handler to handler, then commit; return the new events.

        What a handler raises rolls all of them back. Raises PipelineExecutionError.
        """
        self.env["stream_id"] = stream.id
        self.env["stream_name"] = stream.name
        known = {event["message_id"] for event in events}
        try:
            for handler in self.handlers:
                events = handler.handle_events(events, self.env)
            new = [event for event in events if event["message_id"] not in known]
        except Exception as error:
            logger.exception("Error processing pipeline %s", self.name)
            debugger.bump_counter("Pipeline error")
            self.rollback(debugger)
            raise PipelineExecutionError("Error in pipeline", error) from error
        debugger.bump_counter("Pre-commit successful")
        self.commit(debugger)
        return new

    def commit(self, debugger: Debugger) -> None:
        """Commit all handlers, in order; what one of them raises is counted."""
        self._all("commit", "Commit", debugger)

    def rollback(self, debugger: Debugger) -> None:
        """Roll all handlers back, in order; what one of them raises is counted."""
        self._all("rollback", "Rollback", debugger)

    def _all(self, method: str, label: str, debugger: Debugger) -> None:
        for handler in self.handlers:
            try:
                getattr(handler, method)()
                debugger.bump_counter(f"{label} successful")
            except Exception:  # the other handlers have to be called all the same
                logger.exception("%s error on handler in pipeline %s", label, self.name)
                debugger.bump_counter(f"{label} error")


class PipelineManager:
    """Runs no pipelines: the platform does, see `eventproc winchester import`."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise PipelineConfigError(
            "there is no pipeline worker to run: `eventproc winchester import CONFIG` moves the pipelines into a "
            "platform, and `eventproc serve` runs them"
        )


__all__ = [
    "ConfigManager",
    "Pipeline",
    "PipelineConfigError",
    "PipelineExecutionError",
    "PipelineManager",
    "TriggerManager",
]
