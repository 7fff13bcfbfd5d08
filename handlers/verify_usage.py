"""
Verify usage: check each record that says an instance exists against the events before it.

For pipelines: `{name: verify-usage, params: {core_fields: [launched_at, tenant_id]}}`, after a trigger that collects an
instance's events of a day. Each `compute.instance.exists` gives a new event, `compute.instance.exists.verified` or
`.failed`, with its members and `error_code`:

U0 events, but no record · U1 active without launched_at · U2 record and event disagree · U3 deleted_at, but not in
state deleted · U4 deleted before it was launched · U5 deleted in the period without an event of it · U6 an event of
deletion without deleted_at · U7 several deletions · U8 launched in the period without any event

Rules and ids are those of StackTach winchester's UsageHandler, with four faults less: a member that only one side has
is U2 (a KeyError there), warnings belong to their own record, ids of U0 and of warnings come from the events too, so
that a repeated run makes no second ones, and records whose ids are no UUIDs are taken.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from eventproc import ep, register

Event = dict[str, Any]

EXISTS = "compute.instance.exists"
DELETED = "compute.instance.delete.end"
OPERATIONS = {f"compute.instance.{name}.end" for name in ("rebuild", "finish_resize", "rescue")}
CORE_FIELDS = ("launched_at", "instance_flavor_id", "tenant_id", "os_architecture", "os_version", "os_distro")
DELETE_FIELDS = ("launched_at", "deleted_at")
DEFAULTS = {"bandwidth_in": 0, "bandwidth_out": 0, "rax_options": "0"}


class Wrong(Exception):
    """A record that does not hold: code and what is wrong."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@register(name="verify-usage", hook="compute.instance.*")
class VerifyUsage:
    """Make an event of each record of usage that says whether it holds."""

    def __init__(self, core_fields: list[str] | None = None, publisher_id: str = "stv3") -> None:
        self.core_fields = tuple(core_fields or CORE_FIELDS)
        self.publisher_id = publisher_id
        self.stream: Any = 0

    def handle_events(self, events: list[Event], env: dict[str, Any]) -> list[Event]:
        """Return the events of the stream and what was found; events between two records belong to the later one."""
        self.stream = env.get("stream_id", 0)
        found: list[Event] = []
        block: list[Event] = []
        for event in events:
            if event["event_type"] == EXISTS:
                found += self.verdict(block, event)
                block = []
            else:
                block.append(event)
        if block:
            error = {"error": "Notifications, but no .exists notification found.", "error_code": "U0"}
            found.append({**self.about(block[0], f"{EXISTS}.failed"), **error})
        return events + found

    def verdict(self, block: list[Event], record: Event) -> list[Event]:
        """Return the result of one record, behind its warnings if there are any."""
        warnings: list[str] = []
        kind, error, code = "verified", "None", None
        try:
            self.check(block, record, warnings)
        except Wrong as wrong:
            kind, error, code = "failed", str(wrong), wrong.code
            ep.log.warning("%s: %s (%s)", record["message_id"], error, code)
        result = {**DEFAULTS, **record, "original_message_id": record["message_id"], "publisher_id": self.publisher_id}
        result.update(self.about(record, f"{EXISTS}.{kind}"), error=error, error_code=code)
        if not warnings:
            return [result]
        said = {"publisher_id": self.publisher_id, "warnings": ", ".join(warnings)}
        return [{**self.about(record, f"{EXISTS}.warnings"), **said}, result]

    def about(self, event: Event, event_type: str) -> Event:
        """Return what every new event says, with an id that is the same in every run."""
        return {
            "message_id": str(uuid.uuid5(_namespace(event["message_id"]), event_type)),
            "event_type": event_type,
            "timestamp": event["timestamp"],
            "stream_id": int(self.stream),
            "instance_id": event.get("instance_id"),
        }

    # What is checked, in this order: the first that does not hold is the result's code.

    def check(self, block: list[Event], record: Event, warnings: list[str]) -> None:
        """Raise Wrong for the first rule that the record breaks."""
        self.check_launch(block, record)
        operations = [event for event in block if event["event_type"] in OPERATIONS]
        if operations:
            self.compare(operations[-1], record, self.core_fields)
        elif not _whole_day(record):
            warnings.append(f"Non-EOD .exists found (msg_id: {record['message_id']}) with no operation event.")
        self.check_deletion(record, [event for event in block if event["event_type"] == DELETED])

    def check_launch(self, block: list[Event], record: Event) -> None:
        """Look at what is active: U1 and U8."""
        if record.get("state") != "active":
            return
        if not record.get("launched_at"):
            raise Wrong("U1", ".exists has no launched_at value.")
        if not block and _in_period(record, record["launched_at"]):
            raise Wrong("U8", ".exists launched_at in audit period, but no related events found.")

    def check_deletion(self, record: Event, deletions: list[Event]) -> None:
        """Look at what was deleted, or should have been: U3 to U7."""
        deleted_at, launched_at = record.get("deleted_at"), record.get("launched_at")
        if not deleted_at:
            if deletions:
                raise Wrong("U6", ".deleted events found but .exists has no deleted_at value.")
            return
        if record.get("state") != "deleted":
            raise Wrong("U3", ".exists state not 'deleted' but .exists deleted_at is set.")
        if len(deletions) > 1:
            raise Wrong("U7", "Multiple .delete.end events")
        if deletions:
            self.compare(record, deletions[0], DELETE_FIELDS)
        elif launched_at and deleted_at < launched_at:
            raise Wrong("U4", ".exists deleted_at < .exists launched_at.")
        elif _in_period(record, deleted_at):
            raise Wrong("U5", ".exists deleted_at in audit period, but no matching .delete event found.")

    def compare(self, left: Event, right: Event, names: tuple[str, ...]) -> None:
        """Raise Wrong when two events say different things: U2."""
        for name in names:
            if left.get(name) != right.get(name):
                raise Wrong("U2", f"Conflicting '{name}' values ('{left.get(name)}' != '{right.get(name)}')")


def _namespace(message_id: str) -> uuid.UUID:
    try:
        return uuid.UUID(message_id)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, message_id)


def _in_period(record: Event, moment: Any) -> bool:
    begin, end = record.get("audit_period_beginning"), record.get("audit_period_ending")
    return bool(begin and end and begin <= moment <= end)


def _whole_day(record: Event) -> bool:
    begin, end = record.get("audit_period_beginning"), record.get("audit_period_ending")
    return not (begin and end) or end.date() == begin.date() + dt.timedelta(days=1)
