"""
Verify usage: check each record that says an instance exists against the events before it.

For pipelines: `{name: verify-usage, params: {core_fields: [launched_at, tenant_id]}}`, after a trigger that collects an
instance's events of a day. Each `compute.instance.exists` gives a new event, `compute.instance.exists.verified` or
`.failed`, with its members and `error_code`:

U0 events, but no record · U1 active without launched_at · U2 record and event disagree · U3 deleted_at, but not in
state deleted · U4 deleted before it was launched · U5 deleted in the period without an event of it · U6 an event of
deletion without deleted_at · U7 several deletions · U8 launched in the period without any event

Rules and ids are those of StackTach winchester's UsageHandler, which this is, with four faults less: a member that only
one side has is U2 (a KeyError there), warnings belong to their own record, ids of U0 and of warnings come from the
events too, so that a repeated run makes no second ones, and records whose ids are no UUIDs are taken.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from eventproc import register
from eventproc.compat.winchester import UsageHandler

Event = dict[str, Any]


@register(name="verify-usage", hook="compute.instance.*")
class VerifyUsage(UsageHandler):
    """Make an event of each record of usage that says whether it holds."""

    def __init__(self, core_fields: list[str] | None = None, publisher_id: str = "stv3") -> None:
        super().__init__()
        self.core_fields = core_fields
        self.publisher_id = publisher_id

    def handle_events(self, events: list[Event], env: dict[str, Any]) -> list[Event]:
        """Return the events of the stream and what was found; events between two records belong to the later one."""
        env.setdefault("stream_id", 0)  # a handler of single events has no stream
        return super().handle_events(events, env)

    def _get_core_fields(self) -> list[str]:
        return self.core_fields or super()._get_core_fields()

    def _process_block(self, block: list[Event], exists: Event) -> list[Event]:
        self.warnings = []
        return super()._process_block(block, exists)

    def _verify_fields(self, this: Event, that: Event, fields: Sequence[str]) -> None:
        for field in fields:
            self._verify_field(field, this.get(field), that.get(field))

    def _generate_new_id(self, original_message_id: str, event_type: str) -> str:
        try:
            namespace = uuid.UUID(original_message_id)
        except ValueError:
            namespace = uuid.uuid5(uuid.NAMESPACE_OID, original_message_id)
        return str(uuid.uuid5(namespace, event_type))

    def _generate_own_id(self, event: Event, event_type: str) -> str:
        return self._generate_new_id(event["message_id"], event_type)
