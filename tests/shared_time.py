"""Setting the time of a time service, as whoever feeds a recorded day does."""

from __future__ import annotations

import urllib.request

from eventproc.model import isoformat
from eventproc.timesync import TimeService


def publish(service: TimeService, now_us: int) -> None:
    """Set the service's time."""
    request = urllib.request.Request(service.url + "/time", data=isoformat(now_us).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30):
        pass
