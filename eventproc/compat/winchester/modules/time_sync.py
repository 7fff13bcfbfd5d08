"""winchester.time_sync: what time it is, here or at the time service that several processes share."""

from __future__ import annotations

import datetime as dt
import logging
import time
import urllib.request
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from eventproc.ingress.distiller.definitions import parse_time

logger = logging.getLogger("winchester.time_sync")

EVERY_S = 20  # seconds between two calls of the service
TIMEOUT_S = 10.0
MAX_BODY = 100  # bytes of a time


def _call(url: str, data: str | None = None) -> SimpleNamespace:
    request = urllib.request.Request(url, data=None if data is None else data.encode())  # noqa: S310 - checked where it is given
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the same
        return SimpleNamespace(status_code=answer.status, text=answer.read(MAX_BODY).decode("utf-8", "replace"))


# Under the names of the packages that winchester calls, so that what replaces them there does so here.
requests = SimpleNamespace(get=_call, post=_call)
dateutil = SimpleNamespace(parser=SimpleNamespace(parse=parse_time))


class TimeSync:
    """
    The present time, as naive UTC.

    With `time_sync_endpoint` in `config` it is the service's (such as `eventproc timesync`),
    asked for every 20 s and standing still in between. Who `publishes` sets it.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, publishes: bool = False) -> None:  # noqa: FBT001, FBT002 - winchester's signature
        url = (config or {}).get("time_sync_endpoint")
        if url and not str(url).startswith(("http://", "https://")):
            logger.error("time_sync_endpoint %r can not be asked: it does not begin with http:// or https://", url)
        self.endpoint = f"{url}/time" if url else None
        self.publishes = publishes
        self.last_update: dt.datetime | None = None
        self.last_tyme: dt.datetime | None = None

    def _get_now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC).replace(tzinfo=None)

    def _should_update(self, now: dt.datetime) -> bool:
        if self.last_update is None:
            return True
        passed = (now - self.last_update).total_seconds()
        return passed > EVERY_S or passed < 0

    def _fetch(self) -> str:
        """Return the service's time as it says it, waiting until it has one."""
        while True:
            text: str = requests.get(self.endpoint).text
            if text and text != "None":
                return text
            time.sleep(1)

    def current_time(self) -> dt.datetime:
        now = self._get_now()
        if self.publishes:
            return self.last_tyme or now
        if self.endpoint is None:
            return now
        if self._should_update(now):
            try:
                self.last_tyme = _naive(dateutil.parser.parse(self._fetch()))
            except Exception:  # the last known time stays, whatever the service does
                logger.exception("time sync: %s can not be read", self.endpoint)
            self.last_update = now
        return self.last_tyme or now

    def publish(self, tyme: str) -> None:
        """Take the time of a notification, an ISO 8601 text, and tell the service now and then. Raises ValueError."""
        if not self.publishes:
            return
        moment = _naive(dateutil.parser.parse(tyme))
        self.last_tyme = moment
        if self.endpoint is None or not self._should_update(moment):
            return
        self.last_update = moment
        try:
            requests.post(self.endpoint, data=tyme)
        except Exception:  # notifications go on being read
            logger.exception("time sync: %s can not be told", self.endpoint)


def _naive(found: Any) -> Any:
    if isinstance(found, dt.datetime) and found.tzinfo is not None:
        return found.astimezone(dt.UTC).replace(tzinfo=None)
    return found
