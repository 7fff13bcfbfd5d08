"""
Every error that eventproc raises on purpose.

* EventprocError
  + ConfigError                 a setting is missing, unknown or malformed
  + InvalidInput                the caller sent something that can not be accepted
    - InvalidPayload            an event's payload breaks its hook's schema
    - UnsupportedOption         a registration option that this platform can not honour
    - UnsupportedMedia          a body of a kind that is not taken there
    - InvalidHandler            a callable that can not be turned into a handler
      . HandlerTooLarge
      . VersionMismatch         the blob was made by a Python that no worker has
      . RequirementsError       the packages that it needs can not be had
  + NotFound
    - UnknownHook
    - UnknownHandler
    - MissingSecret             one that a handler declares
  + Conflict                    the state of things does not allow it
    - EventConflict             an event id used twice with different content
    - MetricAlreadyExists
    - MetricAlreadyMonitored    the metric has a model
    - MetricNotMonitored        the metric has none
    - StatisticsNotReady        nothing is known of a metric's values yet
  + Unauthorized                no key, or a key that is unknown, revoked or malformed
    - TooManyLogins             so many were tried that the next is not looked at yet
  + Forbidden                   the key is good, its owner's role is not enough
  + TooLarge                    a body, blob or file over its limit
  + Unavailable                 try again: something needed is not there right now
    - StoreUnavailable
    - BrokerUnavailable
    - ServerUnreachable
    - DeadlineExceeded
  + IngressError                an archive or record that can not be imported
  + MailError                   a notice could not be delivered
    - MailRefused               ... and never will be: the server refused it for good
  + SandboxError                a handler's process could not be set up
  + DetectorFailed              a user's detector raised, took too long, or gave what is no score
  + PluginError                 a plugin file is broken
  + DamagedData                 what the platform stored is not what it reads back

Errors carry data: `details` is JSON-able and travels over HTTP; `code` names the class there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar


class EventprocError(Exception):
    """Base of every error that eventproc raises on purpose."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message or (type(self).__doc__ or self.code).strip().splitlines()[0])
        self.details: dict[str, Any] = details

    @property
    def message(self) -> str:
        return str(self.args[0])


class ConfigError(EventprocError):
    """A setting is missing, unknown or malformed."""

    code = "config"
    exit_code = 2


class InvalidInput(EventprocError, ValueError):
    """The request can not be accepted as it is."""

    code = "invalid"
    exit_code = 2


class InvalidPayload(InvalidInput):
    """The payload breaks the hook's schema."""

    code = "invalid_payload"


class UnsupportedOption(InvalidInput):
    """The platform can not honour that option."""

    code = "unsupported_option"


class InvalidHandler(InvalidInput):
    """That callable can not be turned into a handler."""

    code = "invalid_handler"


class HandlerTooLarge(InvalidHandler):
    """The pickled handler is over the size limit."""

    code = "handler_too_large"


class VersionMismatch(InvalidHandler):
    """The handler was made by a Python that no worker has."""

    code = "version_mismatch"


class RequirementsError(InvalidHandler):
    """The packages that the handler needs can not be had."""

    code = "requirements"


class NotFound(EventprocError, LookupError):
    """There is no such thing."""

    code = "not_found"
    exit_code = 4


class UnknownHook(NotFound):
    """There is no such hook."""

    code = "unknown_hook"

    @classmethod
    def named(cls, name: str, known: Iterable[str]) -> UnknownHook:
        """Build the error for `name`, listing the hooks with near names (the first of them all when none is near)."""
        names = sorted(known)
        near = get_close_matches(name, names, n=5, cutoff=0.6)
        hint = f"did you mean: {', '.join(near)}" if near else f"there are: {', '.join(names[:20]) or '(no hooks)'}"
        return cls(f"unknown hook {name!r}; {hint}", hook=name, near=near or names[:20])


class UnknownHandler(NotFound):
    """There is no such handler."""

    code = "unknown_handler"


class MissingSecret(NotFound):
    """A handler declares a secret that its owner does not have."""

    code = "missing_secret"


class Conflict(EventprocError):
    """The present state does not allow that."""

    code = "conflict"
    exit_code = 5


class EventConflict(Conflict):
    """That event id was already used with other content."""

    code = "event_conflict"


class MetricAlreadyExists(Conflict):
    """There is a metric of that name."""

    code = "metric_already_exists"

    @property
    def uid(self) -> str:
        """The metric that is there."""
        return str(self.details.get("uid", ""))


class MetricAlreadyMonitored(Conflict):
    """The metric has a model already."""

    code = "metric_already_monitored"

    @property
    def uid(self) -> str:
        """The metric, and its model."""
        return str(self.details.get("uid", ""))


class MetricNotMonitored(Conflict):
    """The metric has no model."""

    code = "metric_not_monitored"


class StatisticsNotReady(Conflict):
    """The metric has no samples yet, so that nothing is known of its values."""

    code = "statistics_not_ready"


class Unauthorized(EventprocError):
    """No API key, or one that is not valid."""

    code = "unauthorized"
    exit_code = 3


class TooManyLogins(Unauthorized):
    """So many keys that are not good were tried that the next one is not looked at yet."""

    code = "too_many_logins"


class Forbidden(EventprocError):
    """The API key's owner may not do that."""

    code = "forbidden"
    exit_code = 3


class TooLarge(EventprocError):
    """Over a size limit."""

    code = "too_large"
    exit_code = 2


class UnsupportedMedia(InvalidInput):
    """The request's body is of a kind that is not taken here."""

    code = "unsupported_media"


class Unavailable(EventprocError):
    """Something that is needed is not there right now; try again."""

    code = "unavailable"
    exit_code = 6


class StoreUnavailable(Unavailable):
    """The database can not be used right now."""

    code = "store_unavailable"


class BrokerUnavailable(Unavailable):
    """The message broker can not be used right now."""

    code = "broker_unavailable"


class ServerUnreachable(Unavailable):
    """No eventproc server answers at that endpoint."""

    code = "server_unreachable"


class DeadlineExceeded(Unavailable):
    """The server did not answer in time."""

    code = "deadline_exceeded"


class IngressError(EventprocError):
    """That archive or record can not be imported."""

    code = "ingress"
    exit_code = 2


class MailError(EventprocError):
    """A notice could not be delivered; it will be tried again."""

    code = "mail"


class MailRefused(MailError):
    """The mail server refused the notice for good."""

    code = "mail_refused"


class SandboxError(EventprocError):
    """The process for a handler could not be set up."""

    code = "sandbox"


class DetectorFailed(EventprocError):
    """A detector of a user's own did not do its part: it raised, took too long, or gave what is no score."""

    code = "detector_failed"
    exit_code = 1


class PluginError(EventprocError):
    """A plugin file is broken."""

    code = "plugin"
    exit_code = 2


class DamagedData(EventprocError):
    """Stored data is damaged."""

    code = "damaged_data"


def _tree(root: type[EventprocError]) -> Iterable[type[EventprocError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def from_wire(code: str, message: str, details: Mapping[str, Any] | None = None) -> EventprocError:
    """Rebuild the error that a server reported; an unknown code becomes a plain `EventprocError`."""
    # Classes without a code of their own share that of their base, which is the one that is meant.
    cls = next((error for error in _tree(EventprocError) if vars(error).get("code") == code), EventprocError)
    error = cls(message)
    error.details = dict(details or {})
    return error
