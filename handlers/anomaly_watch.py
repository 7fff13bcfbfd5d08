"""
Watch scored samples and emit `anomaly.found` when one is unusual enough, at most once in a while per resource.

Register it, and then whatever should hear of anomalies (anomaly_mail, anomaly_webhook, anomaly_report, your own) on
`anomaly.found`. A metric's model specification may say otherwise than the constants here:
`{"metricSpec": {"metric": "...", "userInfo": {"sensitivity": 0.999, "windowsize": 600}}}`.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

from eventproc import ep, register

SENSITIVITY = 0.99999  # anomaly likelihood from which on people are told
WINDOW_S = 3600  # per resource: nothing more is told for so long
SETTLED_ROWS = 1000  # a model younger than that is not trusted
MAX_AGE_S = 3600  # samples older than that (a backlog, a history) wake nobody


@register(
    name="anomaly-watch",
    hook="inference.batch_done",
    filter={"results": {"anomaly": [{"numeric": [">=", 0.9]}]}},
    order_by="metric.resource",  # one batch of a resource at a time, so that none is told of twice
)
def anomaly_watch(db: Any, *, metric: dict[str, Any], results: list[dict[str, Any]], **_others: Any) -> str:
    """Emit an event for the most unusual row of the batch, unless its resource had one lately."""
    from datetime import datetime, timedelta

    wishes = ((metric.get("spec") or {}).get("userInfo") or {}) if isinstance(metric.get("spec"), dict) else {}
    sensitivity = float(wishes.get("sensitivity", SENSITIVITY))
    window_s = float(wishes.get("windowsize", WINDOW_S))
    oldest = ep.event.timestamp.timestamp() - MAX_AGE_S
    rows = [
        row
        for row in results
        if row["anomaly"] >= sensitivity and row.get("rowid", SETTLED_ROWS + 1) > SETTLED_ROWS and row["ts"] >= oldest
    ]
    if not rows:
        ep.quiet()
        return "nothing to tell"
    worst = max(rows, key=lambda row: row["anomaly"])
    resource = metric.get("resource") or metric["name"]
    when = datetime.fromtimestamp(worst["ts"], UTC)
    since = when - timedelta(seconds=window_s)
    told = [event for event in db.events("anomaly.found", key=resource, limit=20) if event["time"] > since]
    if told:
        ep.quiet()  # or the throttle would be one of events only, not of this handler's own mails
        return f"{resource}: told at {told[0]['time']:%Y-%m-%d %H:%M:%S}, and not again within {window_s:g} s"
    ep.emit(
        "anomaly.found",
        {
            "metric": metric["name"],
            "uid": metric["uid"],
            "resource": resource,
            "ts": worst["ts"],
            "value": worst["value"],
            "anomaly": worst["anomaly"],
            "raw_score": worst["raw_score"],
            "rowid": worst.get("rowid", 0),
            "tags": metric.get("tags") or {},
        },
        id=f"anomaly:{metric['uid']}:{worst.get('rowid', worst['ts'])}",
        key=resource,
        time=when,
        tags=list(ep.event.tags),
    )
    return f"{metric['name']}: {worst['anomaly']:.6f} at {when:%Y-%m-%d %H:%M:%S}"
