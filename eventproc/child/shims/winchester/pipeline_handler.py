"""winchester's base class for handlers, and the handlers that come with it."""

from __future__ import annotations

import abc
import builtins
import datetime as dt
import fnmatch
import json
import logging
import uuid
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple
from xml.sax.saxutils import escape, quoteattr

logger = logging.getLogger("winchester.pipeline_handler")

Event = Dict[str, Any]


class PipelineHandlerBase(abc.ABC):
    """
    Base of pipeline handlers: one instance per stream, `handle_events`, then `commit` or `rollback`.

    Side effects belong into `commit`: it is called once everything the pipeline made is stored.
    """

    def __init__(self, **_kw: Any) -> None:
        super().__init__()

    @abc.abstractmethod
    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        """Return the events for the next handler: the same, fewer, or more. `env` is shared by all handlers."""

    @abc.abstractmethod
    def commit(self) -> None:
        """Called when all handlers of the pipeline have succeeded."""

    @abc.abstractmethod
    def rollback(self) -> None:
        """Called when one of them has failed."""


class _NothingToDo(PipelineHandlerBase):
    def commit(self) -> None: ...

    def rollback(self) -> None: ...


class LoggingHandler(_NothingToDo):
    """Write the type and id of each event into the log."""

    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        del env
        emsg = ", ".join(f"{event['event_type']}: {event['message_id']}" for event in events)
        logger.info("Received %s events: \n%s", len(events), emsg)
        return events


class UsageException(Exception):
    """What is wrong with a record of usage: `code` is U1 to U8."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


OPERATIONS = ("compute.instance.rebuild.end", "compute.instance.finish_resize.end", "compute.instance.rescue.end")
DELETE = "compute.instance.delete.end"
EXISTS = "compute.instance.exists"
DAY = dt.timedelta(days=1)


class UsageHandler(_NothingToDo):
    """
    Check each compute.instance.exists against the events before it, and say what came of it in a new event.

    The new event is compute.instance.exists.verified or .failed, with error and error_code U0 to U8. Overriding
    `_get_core_fields` changes which traits have to agree.
    """

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
        return events + new_events

    def _no_exists(self, block: List[Event]) -> Event:
        first = block[0]
        return {
            "event_type": "compute.instance.exists.failed",
            "message_id": str(uuid.uuid4()),
            "timestamp": first.get("timestamp", _utcnow()),
            "stream_id": int(self.stream_id),
            "instance_id": first.get("instance_id"),
            "error": "Notifications, but no .exists notification found.",
            "error_code": "U0",
        }

    def _process_block(self, block: List[Event], exists: Event) -> List[Event]:
        error: Optional[UsageException] = None
        try:
            self._do_checks(block, exists)
            event_type = "compute.instance.exists.verified"
        except UsageException as found:
            error = found
            event_type = "compute.instance.exists.failed"
            logger.warning("Stream %s UsageException: (%s) %s", self.stream_id, found.code, found)
            apb, ape = self._get_audit_period(exists)
            logger.warning(
                "Stream %s deleted_at: %s, launched_at: %s, state: %s, APB: %s, APE: %s, #events: %s",
                *(self.stream_id, exists.get("deleted_at"), exists.get("launched_at"), exists.get("state")),
                *(apb, ape, len(block)),
            )
        made: List[Event] = []
        if self.warnings:
            made.append(self._warnings_event(exists))
        made.append(
            {
                **self._base_notification(exists),
                "message_id": self._generate_new_id(exists["message_id"], event_type),
                "event_type": event_type,
                "publisher_id": "stv3",
                "timestamp": exists.get("timestamp", _utcnow()),
                "stream_id": int(self.stream_id),
                "error": str(error),
                "error_code": error.code if error is not None else None,
            }
        )
        return made

    def _warnings_event(self, exists: Event) -> Event:
        return {
            "event_type": "compute.instance.exists.warnings",
            "publisher_id": "stv3",
            "message_id": str(uuid.uuid4()),
            "timestamp": exists.get("timestamp", _utcnow()),
            "stream_id": int(self.stream_id),
            "instance_id": exists.get("instance_id"),
            "warnings": ", ".join(self.warnings),
        }

    def _base_notification(self, exists: Event) -> Event:
        defaults = {"bandwidth_in": 0, "bandwidth_out": 0, "rax_options": "0"}
        return {**defaults, **exists, "original_message_id": exists.get("message_id", "")}

    def _generate_new_id(self, original_message_id: str, event_type: str) -> str:
        return str(uuid.uuid5(uuid.UUID(original_message_id), event_type))

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
            if this[field] != that[field]:
                raise UsageException("U2", f"Conflicting '{field}' values ('{this[field]}' != '{that[field]}')")

    def _confirm_delete(self, exists: Event, deleted: List[Event], fields: Sequence[str]) -> None:
        deleted_at, launched_at = exists.get("deleted_at"), exists.get("launched_at")
        if not deleted_at:
            if deleted:
                raise UsageException("U6", ".deleted events found but .exists has no deleted_at value.")
            return
        if exists.get("state") != "deleted":
            raise UsageException("U3", ".exists state not 'deleted' but .exists deleted_at is set.")
        if not deleted:
            if launched_at and deleted_at < launched_at:
                raise UsageException("U4", ".exists deleted_at < .exists launched_at.")
            apb, ape = self._get_audit_period(exists)
            if apb and ape and apb <= deleted_at <= ape:
                raise UsageException("U5", ".exists deleted_at in audit period, but no matching .delete event found.")
        elif len(deleted) > 1:
            raise UsageException("U7", "Multiple .delete.end events")
        else:
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


def _platform() -> Any:
    found = getattr(builtins, "ep", None)
    if found is None:
        raise RuntimeError("publishing needs the platform: it works where eventproc runs the pipeline")
    return found


# ---------------------------------------------------------------------- AMQP


class NotabeneException(Exception):
    """A parameter of the NotabeneHandler is missing or can not be honoured."""


class ConnectionManager:
    """
    Names the brokers that handlers publish to.

    Connections are the platform's own: messages wait in its outbox, and the notifier sends them.
    """

    def get_connection(self, properties: Dict[str, Any], queue_name: str) -> Tuple[Any, Any]:
        """Return what stands for connection and exchange in a handler: their names."""
        connection = tuple(sorted((name, properties.get(name)) for name in ("host", "port", "user", "vhost")))
        return connection, (properties.get("exchange_name"), properties.get("exchange_type", "topic"), queue_name)


connection_manager = ConnectionManager()


class NotabeneHandler(_NothingToDo):
    """
    Publish the notifications that earlier handlers left in `env` under the keys `env_keys`.

    Messages go to `exchange` with `queue_name` as routing key through the platform's broker, once the pipeline's
    results are stored: what connects (host, port, user, password, vhost, library) is the platform's setting.
    """

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self.queue_name = kw.get("queue_name")
        if self.queue_name is None:
            raise NotabeneException("No 'queue_name' provided")
        self.exchange = kw.get("exchange")
        if self.exchange is None:
            raise NotabeneException("No 'exchange' provided")
        self.exchange_type = kw.get("exchange_type", "topic")
        self.env_keys: List[str] = kw.get("env_keys", [])
        self.pending_notifications: List[Event] = []

    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        self.pending_notifications = []
        for key in self.env_keys:
            self.pending_notifications.extend(env.get(key, []))
        for notification in self.pending_notifications:
            _platform().publish(
                self.exchange,
                self.queue_name,
                json.dumps(notification, default=str).encode(),
                content_type="application/json",
                declare=self.exchange_type,
            )
        return events


# ---------------------------------------------------------------------- AtomPub


class AtomPubException(Exception):
    """An entry could not be made of an event."""


class AtomPubHandler(_NothingToDo):
    """
    Post events as Atom entries to `url`, once the pipeline's results are stored.

    The platform's outbox delivers them, with retries that end: nothing waits for a server that is down.
    With `auth_user`, `auth_key` and `auth_server` it logs in there first, and again when the token is refused; an
    answer of 409 means that the entry is there already. `format_NAME` and `event_type_NAME` of a subclass add a
    content format.
    """

    auth_token_cache: ClassVar[Any] = None

    def __init__(self, url: str, event_types: Any = None, extra_info: Any = None, **kw: Any) -> None:
        self.url = url
        self.content_format: str = kw.pop("content_format", "json")
        self.title: Optional[str] = kw.pop("title", None)
        self.categories: Sequence[str] = kw.pop("categories", None) or ()
        self.auth_user: str = kw.pop("auth_user", "")
        self.auth_key: str = kw.pop("auth_key", "")
        self.auth_server: str = kw.pop("auth_server", "")
        self.wait_interval: float = kw.pop("wait_interval", 30)
        self.max_wait: float = kw.pop("max_wait", 600)
        self.http_timeout: float = kw.pop("http_timeout", 120)
        super().__init__(**kw)
        self.extra_info: Dict[str, Any] = extra_info or {}
        self.included_types: List[str] = []
        self.excluded_types: List[str] = []
        self._read_types(event_types)
        self.events: List[Event] = []

    def _read_types(self, event_types: Any) -> None:
        names = [event_types] if isinstance(event_types, str) else (event_types or ["*"])
        for name in names:
            (self.excluded_types if name.startswith("!") else self.included_types).append(name.lstrip("!"))
        if self.excluded_types and not self.included_types:
            self.included_types.append("*")

    def match_type(self, event_type: str) -> bool:
        """Tell whether events of that type are posted."""
        return any(fnmatch.fnmatchcase(event_type, name) for name in self.included_types) and not any(
            fnmatch.fnmatchcase(event_type, name) for name in self.excluded_types
        )

    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        del env
        self.events = [event for event in events if self.match_type(event["event_type"])]
        for event in self.events:
            self.publish_event(event)
        return events

    def publish_event(self, event: Event) -> None:
        """Put one event into the outbox."""
        headers = {"Content-Type": "application/atom+xml", "Accept": "application/atom+xml"}
        login = None
        if self.auth_user and self.auth_server:
            login = {"server": self.auth_server, "user": self.auth_user, "key": self.auth_key}
        # 409: the server has the entry already.
        _platform().post(self.url, self.generate_atom(event).encode("utf-8"), headers, login=login, accept=[409])

    def generate_atom(self, event: Event) -> str:
        """Return an event as an atom:entry."""
        content, content_type = self._format(event)
        event_type = self._event_type(event)
        original = event.get("original_message_id", event["message_id"])
        names = [*self.categories, event_type, f"original_message_id:{original}"]
        categories = "".join(f"<atom:category term={quoteattr(str(name))} />" for name in names)
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<atom:entry xmlns:atom="http://www.w3.org/2005/Atom">'
            f"<atom:id>urn:uuid:{escape(str(event['message_id']))}</atom:id>{categories}"
            f'<atom:title type="text">{escape(self.title or event_type)}</atom:title>'
            f"<atom:content type={quoteattr(content_type)}>{content}</atom:content></atom:entry>"
        )

    def _format(self, event: Event) -> Tuple[str, str]:
        make = getattr(self, f"format_{self.content_format}", None)
        if make is None:
            raise AtomPubException(f"there is no content format {self.content_format!r}")
        content, content_type = make(event)
        return content, content_type

    def _event_type(self, event: Event) -> str:
        name = getattr(self, f"event_type_{self.content_format}", None)
        return str(event["event_type"] if name is None else name(event["event_type"]))

    def format_json(self, event: Event) -> Tuple[str, str]:
        """Return the event as JSON; times are ISO texts."""
        return escape(json.dumps(event, default=_iso)), "application/json"

    # ------------------------------------------------------------------ cloud usage feed

    cuf_states: ClassVar[Dict[str, str]] = {
        "active": "ACTIVE",
        "building": "BUILD",
        "deleted": "DELETED",
        "soft-delete": "DELETED",
        "error": "ERROR",
        "paused": "PAUSED",
        "rescued": "RESCUE",
        "resized": "VERIFY_RESIZE",
        "stopped": "SHUTOFF",
        "suspended": "SUSPENDED",
    }
    cuf_options: ClassVar[Sequence[Tuple[int, str, str]]] = (
        (0, "isRedHat", "RHEL"),
        (2, "isWindows", "WINDOWS"),
        (6, "isVyatta", "VYATTA"),
        (3, "isMSSQL", "MSSQL"),
        (5, "isMSSQLWeb", "MSSQL_WEB"),
    )

    def event_type_cuf_xml(self, event_type: str) -> str:
        return f"{event_type}.cuf"

    def format_cuf_xml(self, event: Event) -> Tuple[str, str]:
        """Return the event as an entry of Rackspace's cloud usage feed."""
        start, end = self._get_times(event)
        info = {"data_center": "", "region": "", **self.extra_info}
        status = self.cuf_states.get(str(event.get("state")), "UNKNOWN")
        if status == "UNKNOWN":
            logger.error("Unknown state %r in event %s", event.get("state"), event["message_id"])
        attributes = {
            "bandwidthIn": event.get("bandwidth_in", 0),
            "bandwidthOut": event.get("bandwidth_out", 0),
            "flavorId": event.get("instance_flavor_id", ""),
            "flavorName": event.get("instance_type", ""),
            "status": status,
            **self._get_options(event),
        }
        product = " ".join(f"{name}={quoteattr(str(value))}" for name, value in attributes.items())
        head = {
            "dataCenter": info["data_center"],
            "endTime": _iso(end),
            "environment": "PROD",
            "id": event["message_id"],
            "region": info["region"],
            "resourceId": event.get("instance_id", ""),
            "startTime": _iso(start),
            "tenantId": event.get("tenant_id", ""),
            "type": "USAGE",
            "version": "1",
        }
        opening = " ".join(f"{name}={quoteattr(str(value))}" for name, value in head.items())
        content = (
            f'<event xmlns="http://docs.rackspace.com/core/event" xmlns:nova="http://docs.rackspace.com/event/nova" '
            f'{opening}><nova:product resourceType="SERVER" serviceCode="CloudServersOpenStack" version="1" '
            f"{product} /></event>"
        )
        return content, "application/xml"

    def _get_options(self, event: Event) -> Dict[str, str]:
        try:
            bits = int(event.get("rax_options") or 0)
        except ValueError:
            bits = 0
        licence = "".join(f"{name} " for bit, _, name in self.cuf_options if bits >> bit & 1).strip()
        options = {flag: "true" for bit, flag, _ in self.cuf_options if bits >> bit & 1}
        return {"osLicenseType": licence, **options} if licence else options

    def _get_times(self, event: Event) -> Tuple[Any, Any]:
        apb, ape = event.get("audit_period_beginning"), event.get("audit_period_ending")
        ended = event.get("terminated_at") or event.get("deleted_at")
        launched = event.get("launched_at")
        start = max(each for each in (launched, apb) if each) if launched or apb else None
        end = min(each for each in (ended, ape) if each) if ended or ape else None
        if start and end and start > end:
            start = apb
        return start, end


def _iso(value: Any) -> str:
    if isinstance(value, dt.datetime):
        naive = value.replace(tzinfo=None) if value.tzinfo is None else value.astimezone(dt.timezone.utc)
        return naive.replace(tzinfo=None).isoformat() + "Z"
    return "" if value is None else str(value)
