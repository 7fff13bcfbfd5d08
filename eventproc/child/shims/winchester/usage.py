"""Usage verification: the rules U0 to U8, in winchester's methods, which subclasses override."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .base import Event, NothingToDo, logger

__travels__ = True

OPERATIONS = ("compute.instance.rebuild.end", "compute.instance.finish_resize.end", "compute.instance.rescue.end")
DELETE = "compute.instance.delete.end"
EXISTS = "compute.instance.exists"
DAY = dt.timedelta(days=1)


class UsageException(Exception):
    """What is wrong with a record of usage: `code` is U1 to U8."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UsageHandler(NothingToDo):
    """
    Check each compute.instance.exists against the events before it, and say what came of it in a new event.

    The new event is compute.instance.exists.verified or .failed, with error and error_code U0 to U8. Overriding
    `_get_core_fields` changes which traits have to agree. `env["usage_notifications"]` has what was found as
    notifications, as winchester 0.56 left it there for a NotabeneHandler.
    """

    publisher_id = "stv3"

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self.warnings: List[str] = []
        self.stream_id: Any = 0
        self.env: Dict[str, Any] = {}

    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        self.env = env
        self.stream_id = env["stream_id"]
        self.warnings = []
        new_events: List[Event] = []
        block: List[Event] = []
        for event in events:
            if self._is_exists(event):
                new_events.extend(self._process_block(block, event))
                block = []
            else:
                block.append(event)
        if block:
            new_events.append(self._no_exists(block))
        env["usage_notifications"] = [self._notification(event) for event in new_events]
        return events + new_events

    def _no_exists(self, block: List[Event]) -> Event:
        event_type = f"{EXISTS}.failed"
        return {
            "event_type": event_type,
            "message_id": self._generate_own_id(block[0], event_type),
            "timestamp": block[0].get("timestamp", _utcnow()),
            "stream_id": int(self.stream_id),
            "instance_id": block[0].get("instance_id"),
            "error": "Notifications, but no .exists notification found.",
            "error_code": "U0",
        }

    def _process_block(self, block: List[Event], exists: Event) -> List[Event]:
        error: Optional[UsageException] = None
        try:
            self._do_checks(block, exists)
            event_type = f"{EXISTS}.verified"
        except UsageException as found:
            error = found
            event_type = f"{EXISTS}.failed"
            self._log_failure(block, exists, found)
        made = [self._warnings_event(exists)] if self.warnings else []
        result = self._base_notification(exists)
        result.update(
            {
                "message_id": self._generate_new_id(result["original_message_id"], event_type),
                "event_type": event_type,
                "publisher_id": self.publisher_id,
                "timestamp": exists.get("timestamp", _utcnow()),
                "stream_id": int(self.stream_id),
                "error": str(error),
                "error_code": error.code if error is not None else None,
            }
        )
        return [*made, result]

    def _log_failure(self, block: List[Event], exists: Event, error: UsageException) -> None:
        logger.warning("Stream %s UsageException: (%s) %s", self.stream_id, error.code, error)
        apb, ape = self._get_audit_period(exists)
        logger.warning(
            "Stream %s deleted_at: %s, launched_at: %s, state: %s, APB: %s, APE: %s, #events: %s",
            *(self.stream_id, exists.get("deleted_at"), exists.get("launched_at"), exists.get("state")),
            *(apb, ape, len(block)),
        )

    def _warnings_event(self, exists: Event) -> Event:
        event_type = f"{EXISTS}.warnings"
        return {
            "event_type": event_type,
            "publisher_id": self.publisher_id,
            "message_id": self._generate_own_id(exists, event_type),
            "timestamp": exists.get("timestamp", _utcnow()),
            "stream_id": int(self.stream_id),
            "instance_id": exists.get("instance_id"),
            "warnings": ", ".join(self.warnings),
        }

    def _base_notification(self, exists: Event) -> Event:
        defaults = {"bandwidth_in": 0, "bandwidth_out": 0, "rax_options": "0"}
        return {**defaults, **exists, "original_message_id": exists.get("message_id", "")}

    def _generate_new_id(self, original_message_id: str, event_type: str) -> str:
        """Return the id of a result: the same whenever the record is judged alike. Raises ValueError for no UUID."""
        return str(uuid.uuid5(uuid.UUID(original_message_id), event_type))

    def _generate_own_id(self, event: Event, event_type: str) -> str:
        """Return the id of what is said beside the results."""
        del event, event_type
        return str(uuid.uuid4())

    def _notification(self, event: Event) -> Event:
        """Return a result as winchester 0.56 makes it, a notification with a payload; others as they are."""
        if "original_message_id" not in event:
            return event
        texts = {name: str(event.get(name, "")) for name in ("launched_at", "deleted_at")}
        texts.update({name: str(event.get(name)) for name in ("audit_period_beginning", "audit_period_ending")})
        plain = ("instance_id", "tenant_id", "display_name", "instance_flavor_id", "state", "state_description")
        public = {"bw_in": event.get("bandwidth_in", 0), "bw_out": event.get("bandwidth_out", 0)}
        payload = {
            **texts,
            **{name: event.get(name, "") for name in plain},
            "instance_type": event.get("instance_flavor", ""),
            "bandwidth": {"public": public},
            "image_meta": {
                "org.openstack__1__architecture": event.get("os_architecture", ""),
                "org.openstack__1__os_version": event.get("os_version", ""),
                "org.openstack__1__os_distro": event.get("os_distro", ""),
                "org.rackspace__1__options": event.get("rax_options", "0"),
            },
        }
        outer = ("event_type", "message_id", "publisher_id", "timestamp", "stream_id", "error", "error_code")
        said = {name: event.get(name) for name in (*outer, "original_message_id")}
        return {**said, "payload": payload}

    # ------------------------------------------------------------------ checks

    def _do_checks(self, block: List[Event], exists: Event) -> None:
        self._confirm_launched_at(block, exists)
        interesting = self._extract_interesting_events(block, OPERATIONS)
        if interesting:
            self._verify_fields(interesting[-1], exists, self._get_core_fields())
        elif self._is_non_EOD_exists(exists):
            self.warnings.append(f"Non-EOD .exists found (msg_id: {exists['message_id']}) with no operation event.")
        self._confirm_delete(exists, self._find_deleted_events(block), self._get_delete_fields())

    def _get_core_fields(self) -> List[str]:
        return ["launched_at", "instance_flavor_id", "tenant_id", "os_architecture", "os_version", "os_distro"]

    def _get_delete_fields(self) -> List[str]:
        return ["launched_at", "deleted_at"]

    def _confirm_launched_at(self, block: List[Event], exists: Event) -> None:
        if exists.get("state") != "active":
            return
        launched_at = self._extract_launched_at(exists)
        apb, ape = self._get_audit_period(exists)
        if apb and ape and apb <= launched_at <= ape and not block:
            raise UsageException("U8", ".exists launched_at in audit period, but no related events found.")

    def _extract_launched_at(self, exists: Event) -> Any:
        if not exists.get("launched_at"):
            raise UsageException("U1", ".exists has no launched_at value.")
        return exists["launched_at"]

    def _verify_fields(self, this: Event, that: Event, fields: Sequence[str]) -> None:
        """Compare two events; a field that only one of them has is a KeyError, which sends the stream into error."""
        for field in fields:
            if field not in this and field not in that:
                continue
            self._verify_field(field, this[field], that[field])

    def _verify_field(self, field: str, this: Any, that: Any) -> None:
        if this != that:
            raise UsageException("U2", f"Conflicting '{field}' values ('{this}' != '{that}')")

    def _confirm_delete(self, exists: Event, deleted: List[Event], fields: Sequence[str]) -> None:
        deleted_at, launched_at = exists.get("deleted_at"), exists.get("launched_at")
        if not deleted_at and deleted:
            raise UsageException("U6", ".deleted events found but .exists has no deleted_at value.")
        if deleted_at and exists.get("state") != "deleted":
            raise UsageException("U3", ".exists state not 'deleted' but .exists deleted_at is set.")
        if deleted_at and not deleted:
            if launched_at and deleted_at < launched_at:
                raise UsageException("U4", ".exists deleted_at < .exists launched_at.")
            apb, ape = self._get_audit_period(exists)
            if apb and ape and apb <= deleted_at <= ape:
                raise UsageException("U5", ".exists deleted_at in audit period, but no matching .delete event found.")
        if len(deleted) > 1:
            raise UsageException("U7", "Multiple .delete.end events")
        if deleted:
            self._verify_fields(exists, deleted[0], fields)

    # ------------------------------------------------------------------ events

    def _extract_interesting_events(self, events: List[Event], interesting: Sequence[str]) -> List[Event]:
        return [event for event in events if event["event_type"] in interesting]

    def _find_deleted_events(self, events: List[Event]) -> List[Event]:
        return self._extract_interesting_events(events, [DELETE])

    def _find_events(self, events: List[Event], event_type: str) -> List[Event]:
        return self._extract_interesting_events(events, [event_type])

    def _get_audit_period(self, event: Event) -> Tuple[Any, Any]:
        return event.get("audit_period_beginning"), event.get("audit_period_ending")

    def _is_exists(self, event: Event) -> bool:
        return bool(event["event_type"] == EXISTS)

    def _is_non_EOD_exists(self, event: Event) -> bool:  # noqa: N802 - winchester's name
        if not self._is_exists(event):
            return False
        apb, ape = self._get_audit_period(event)
        return bool(apb and ape and ape.date() != apb.date() + DAY)

    def _is_EOD_exists(self, event: Event) -> bool:  # noqa: N802 - winchester's name
        if not self._is_exists(event):
            return False
        apb, ape = self._get_audit_period(event)
        midnight = dt.time(0, 0, 0)
        return bool(
            apb and ape and apb.time() == midnight and ape.time() == midnight and ape.date() == apb.date() + DAY
        )


def _utcnow() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
