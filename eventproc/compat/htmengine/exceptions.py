"""htmengine's exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eventproc import errors


class HTMEngineError(Exception):
    """Base of all."""


class ObjectNotFoundError(HTMEngineError):
    """There is no such metric."""


class ApplicationNotConfiguredError(HTMEngineError, KeyError):
    """APPLICATION_CONFIG_PATH is not set."""


class ObjectAlreadyExistsBase(HTMEngineError):
    """Something is there already; `uid` says which."""

    def __init__(self, *args: object, uid: str | None = None) -> None:
        super().__init__(*args)
        self.uid = uid


class MetricAlreadyExists(ObjectAlreadyExistsBase):
    """There is a metric of that name."""


class MetricAlreadyMonitored(ObjectAlreadyExistsBase):
    """The metric has a model already."""


class MetricNotMonitoredError(HTMEngineError):
    """The metric has no model."""


class MetricNotSupportedError(HTMEngineError):
    """A datasource does not know such a metric."""


class MetricNotActiveError(HTMEngineError):
    """The metric's model is not active."""


class MetricStatisticsNotReadyError(HTMEngineError):
    """Nothing is known of the metric's values yet."""


class MetricStatusChangedError(HTMEngineError):
    """The metric's status changed meanwhile."""


class DuplicateRecordError(HTMEngineError):
    """The record is there already."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise htmengine's exceptions for the platform's; its ValueErrors are ValueErrors here, word for word."""
    try:
        yield
    except errors.MetricAlreadyMonitored as error:
        raise MetricAlreadyMonitored(error.message, uid=_uid(error)) from error
    except errors.MetricAlreadyExists as error:
        raise MetricAlreadyExists(error.message, uid=_uid(error)) from error
    except errors.MetricNotMonitored as error:
        raise MetricNotMonitoredError(error.message) from error
    except errors.StatisticsNotReady as error:
        raise MetricStatisticsNotReadyError(error.message) from error
    except errors.NotFound as error:
        raise ObjectNotFoundError(error.message) from error


def _uid(error: errors.EventprocError) -> str | None:
    found = error.details.get("uid")
    return str(found) if found else None
