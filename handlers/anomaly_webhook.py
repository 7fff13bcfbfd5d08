"""
Post each anomaly as JSON to a URL of yours.

`eventproc secrets set ANOMALY_WEBHOOK_URL`, put the URL's host into `network` below (a copy of this file, pushed with
`eventproc handlers push FILE`), and register it beside anomaly_watch. A receiver that fails is tried again.
"""

from __future__ import annotations

from typing import Any

from eventproc import ep, register

HOSTS = ["hooks.example.com:443"]
TIMEOUT_S = 10


@register(
    name="anomaly-webhook", hook="anomaly.found", network=HOSTS, secrets=["ANOMALY_WEBHOOK_URL"], retries=5, timeout=30
)
def anomaly_webhook(_db: Any, /, **payload: Any) -> str:
    """Send the event's payload; the id lets the receiver tell a repetition."""
    import json
    from urllib.request import Request, urlopen

    body = json.dumps({"id": ep.event.message_id, **payload}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": ep.event.message_id}
    request = Request(ep.secrets["ANOMALY_WEBHOOK_URL"], data=body, headers=headers, method="POST")  # noqa: S310 - yours
    with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - yours
        return f"{answer.status} {answer.reason}"
