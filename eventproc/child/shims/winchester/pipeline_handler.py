"""winchester's base class for handlers, and the handlers that come with it."""

from __future__ import annotations

import builtins
import datetime as dt
import fnmatch
import json
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple
from xml.sax.saxutils import escape, quoteattr

from .base import Event, NothingToDo, PipelineHandlerBase, logger
from .usage import UsageException, UsageHandler

__travels__ = True


class LoggingHandler(NothingToDo):
    """Write the type and id of each event into the log."""

    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        del env
        emsg = ", ".join(f"{event['event_type']}: {event['message_id']}" for event in events)
        logger.info("Received %s events: \n%s", len(events), emsg)
        return events


def _platform() -> Any:
    """Return the platform's `ep`; None in a process of one's own, such as a test."""
    return getattr(builtins, "ep", None)


def _spare_commit(handler: NothingToDo, of: Any) -> None:
    """Leave commit out where before_commit has done its work: the run saves a transaction, and what may go wrong."""
    made = type(handler)
    if _platform() is not None and made.commit is of.commit and made.before_commit is of.before_commit:  # type: ignore[attr-defined]
        handler.commit = NothingToDo.commit.__get__(handler)  # type: ignore[method-assign]


# ---------------------------------------------------------------------- AMQP


class NotabeneException(Exception):
    """A parameter of the NotabeneHandler is missing, or there is nothing to publish with."""


def _create_connection(*said: Any) -> Any:
    return SimpleNamespace(said=said, channel=lambda: None)


def _create_exchange(name: str, exchange_type: str) -> Any:
    return SimpleNamespace(name=name, type=exchange_type)


def _create_queue(name: str, exchange: Any, routing_key: str, channel: Any = None) -> Any:
    del name, exchange, routing_key, channel  # the notifier makes it before it sends the first message
    return SimpleNamespace(declare=lambda: None)


def _send_notification(notification: Event, routing_key: str, connection: Any, exchange: Any) -> None:
    del connection
    platform = _platform()
    if platform is None:
        raise NotabeneException("publishing needs the platform: it works where eventproc runs the pipeline")
    body = json.dumps(notification, default=str).encode()
    platform.publish(
        exchange.name,
        routing_key,
        body,
        content_type="application/json",
        declare=exchange.type,
        queue=routing_key,  # a handler's queue_name is both
    )


# Under the names of notabene's module, so that what replaces them in tests of winchester's users does so here.
driver = SimpleNamespace(
    create_connection=_create_connection,
    create_exchange=_create_exchange,
    create_queue=_create_queue,
    send_notification=_send_notification,
)


class ConnectionManager:
    """
    Keeps one connection for each set of parameters, and its exchanges.

    In the platform they are names only: messages wait in its outbox, and the notifier sends them.
    """

    def __init__(self) -> None:
        self.pool: Dict[Any, Tuple[Any, Dict[Any, Any]]] = {}

    def _extract_params(self, kw: Dict[str, Any]) -> Tuple[Dict[str, Any], Any, Dict[str, Any], Any]:
        exchange_name = kw.get("exchange")
        if exchange_name is None:
            raise NotabeneException("No 'exchange' name provided")
        defaults = {
            "host": "localhost",
            "user": "guest",
            "password": "guest",
            "port": 5672,
            "vhost": "/",
            "library": "librabbitmq",
        }
        connection = {name: kw.get(name, default) for name, default in defaults.items()}
        exchange = {"exchange_name": exchange_name, "exchange_type": kw.get("exchange_type", "topic")}
        return connection, tuple(sorted(connection.items())), exchange, tuple(sorted(exchange.items()))

    def get_connection(self, properties: Dict[str, Any], queue_name: str) -> Tuple[Any, Any]:
        """Return connection and exchange; both are made when they are asked for first."""
        said, connection_key, about, exchange_key = self._extract_params(properties)
        if connection_key not in self.pool:
            names = ("host", "port", "user", "password", "library", "vhost")
            self.pool[connection_key] = (driver.create_connection(*(said[name] for name in names)), {})
        connection, exchanges = self.pool[connection_key]
        if exchange_key not in exchanges:
            exchange = driver.create_exchange(about["exchange_name"], about["exchange_type"])
            exchanges[exchange_key] = exchange
            driver.create_queue(queue_name, exchange, queue_name, channel=connection.channel()).declare()
        return connection, exchanges[exchange_key]


connection_manager = ConnectionManager()


class NotabeneHandler(NothingToDo):
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
        self.connection, self.exchange = connection_manager.get_connection(kw, self.queue_name)
        self.env_keys: List[str] = kw.get("env_keys", [])
        self.pending_notifications: List[Event] = []
        _spare_commit(self, NotabeneHandler)

    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        self.pending_notifications = []
        for key in self.env_keys:
            self.pending_notifications.extend(env.get(key, []))
        return events

    def before_commit(self) -> None:
        """Put what is pending into the platform's outbox, with all else that the pipeline made."""
        for notification in self.pending_notifications:
            driver.send_notification(notification, self.queue_name, self.connection, self.exchange)
        self.pending_notifications = []

    def commit(self) -> None:
        """Publish what is pending still: nothing in the platform, all of it where a test calls the handler."""
        for notification in self.pending_notifications:
            logger.info("Publishing '%s' with routing_key '%s'", notification["event_type"], self.queue_name)
            try:
                driver.send_notification(notification, self.queue_name, self.connection, self.exchange)
            except Exception as error:  # noqa: BLE001 - the other notifications are published all the same
                logger.exception(error)


# ---------------------------------------------------------------------- AtomPub


class AtomPubException(Exception):
    """An entry could not be made of an event, or could not be posted."""


def _post(url: str, data: Any = None, headers: Optional[Dict[str, str]] = None, timeout: float = 120) -> Any:
    body = data.encode() if isinstance(data, str) else data
    if not url.startswith(("http://", "https://")):
        raise AtomPubException(f"{url!r} does not begin with http:// or https://")
    request = urllib.request.Request(url, data=body, headers=headers or {})  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - the same
            return _answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error.code, error.read())


def _answer(status: int, body: bytes) -> Any:
    def raise_for_status() -> None:
        if status >= 400:
            raise AtomPubException(f"the server answered {status}")

    return SimpleNamespace(status_code=status, json=lambda: json.loads(body), raise_for_status=raise_for_status)


requests = SimpleNamespace(post=_post)  # what tests of winchester's users replace

MEDIA_TYPE = "application/atom+xml"
UNAUTHORIZED = 401
LONGEST_ANSWER_S = 120
SHORTEST_S = 1  # the platform's; 0 was allowed here, and meant no pause


def _seconds(given: float) -> float:
    return max(SHORTEST_S, given)


class AtomPubHandler(NothingToDo):
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
        self.categories: Optional[Sequence[str]] = kw.pop("categories", None)
        self.auth_user: str = kw.pop("auth_user", "")
        self.auth_key: str = kw.pop("auth_key", "")
        self.auth_server: str = kw.pop("auth_server", "")
        self.wait_interval: float = kw.pop("wait_interval", 30)
        self.max_wait: float = kw.pop("max_wait", 600)
        self.http_timeout: float = kw.pop("http_timeout", 120)
        super().__init__(**kw)
        if self.http_timeout > LONGEST_ANSWER_S and _platform() is not None:
            raise AtomPubException(f"http_timeout: the platform waits {LONGEST_ANSWER_S} seconds for an answer at most")
        self.extra_info: Dict[str, Any] = extra_info or {}
        self.included_types: List[str] = []
        self.excluded_types: List[str] = []
        self._read_types(event_types)
        self.events: List[Event] = []
        _spare_commit(self, AtomPubHandler)

    def _read_types(self, event_types: Any) -> None:
        names = [event_types] if isinstance(event_types, str) else (event_types or ["*"])
        for name in names:
            (self.excluded_types if name.startswith("!") else self.included_types).append(name.lstrip("!"))
        if self.excluded_types and not self.included_types:
            self.included_types.append("*")

    def _included_type(self, event_type: str) -> bool:
        return any(fnmatch.fnmatchcase(event_type, name) for name in self.included_types)

    def _excluded_type(self, event_type: str) -> bool:
        return any(fnmatch.fnmatchcase(event_type, name) for name in self.excluded_types)

    def match_type(self, event_type: str) -> bool:
        """Tell whether events of that type are posted."""
        return self._included_type(event_type) and not self._excluded_type(event_type)

    def handle_events(self, events: List[Event], env: Dict[str, Any]) -> List[Event]:
        del env
        self.events = [event for event in events if self.match_type(event["event_type"])]
        return events

    def before_commit(self) -> None:
        """Put the entries into the platform's outbox, with all else that the pipeline made."""
        for event in self.events:
            self.publish_event(event)
        self.events = []

    def commit(self) -> None:
        """Post what was not put into an outbox: nothing in the platform, all of it where a test calls the handler."""
        for event in self.events:
            try:
                self.publish_event(event)
            except Exception:  # noqa: BLE001 - the other events are posted all the same
                logger.exception("Error publishing %s event %s", event["event_type"], event.get("message_id"))

    def publish_event(self, event: Event) -> int:
        """Post one event; return the status, 202 where it went into the outbox."""
        content, content_type = self.format(event)
        event_type = self.get_event_type(event["event_type"])
        atom = self.generate_atom(
            event, event_type, content, content_type, categories=self.categories, title=self.title
        )
        return self._send_event(atom)

    def generate_atom(  # noqa: PLR0917 - winchester's signature
        self,
        event: Event,
        event_type: str,
        content: str,
        content_type: str,
        categories: Optional[Sequence[str]] = None,
        title: Optional[str] = None,
    ) -> str:
        """Return an event as an atom:entry; content that is no XML is escaped."""
        names = [*(categories or ()), event_type]
        original = event.get("original_message_id")
        if original is not None:
            names.append(f"original_message_id:{original}")
        terms = "".join(f"<atom:category term={quoteattr(str(name))} />" for name in names)
        inner = content if content_type.endswith("xml") else escape(content)
        return (
            '<atom:entry xmlns:atom="http://www.w3.org/2005/Atom">'
            f"<atom:id>urn:uuid:{escape(str(event.get('message_id')))}</atom:id>{terms}"
            f'<atom:title type="text">{escape(event_type if title is None else title)}</atom:title>'
            f"<atom:content type={quoteattr(content_type)}>{inner}</atom:content></atom:entry>"
        )

    def format(self, event: Event) -> Tuple[str, str]:
        """Return an event's content and its media type."""
        made = getattr(self, f"format_{self.content_format}", None)
        if made is None:
            raise AtomPubException(f"there is no content format {self.content_format!r}")
        content, content_type = made(event)
        return content, content_type

    def get_event_type(self, event_type: str) -> str:
        """Return the type that an entry tells, as its format wants it."""
        named = getattr(self, f"event_type_{self.content_format}", None)
        return event_type if named is None else str(named(event_type))

    def format_json(self, event: Event) -> Tuple[str, str]:
        """Return the event as JSON; times are ISO texts."""
        return json.dumps(event, default=_iso), "application/json"

    # ------------------------------------------------------------------ sending

    def _get_auth(self, force: bool = False, headers: Optional[Dict[str, str]] = None) -> Dict[str, str]:  # noqa: FBT001, FBT002 - winchester's signature
        """Return the headers with a token, asked for where there is none yet or `force` says so."""
        headers = {} if headers is None else headers
        if not self.auth_server:
            return headers
        if force or not AtomPubHandler.auth_token_cache:
            said = {"RAX-KSKEY:apiKeyCredentials": {"username": self.auth_user, "apiKey": self.auth_key}}
            kinds = {"Accept": "application/json", "Content-Type": "application/json"}
            answer = requests.post(self.auth_server, data=json.dumps({"auth": said}), headers=kinds)
            answer.raise_for_status()
            AtomPubHandler.auth_token_cache = answer.json()["access"]["token"]["id"]
        headers["X-Auth-Token"] = AtomPubHandler.auth_token_cache
        return headers

    def _send_event(self, atom: str) -> int:
        """Hand an entry to the platform's outbox; in a process of one's own post it once, twice after a 401."""
        platform = _platform()
        headers = {"Content-Type": MEDIA_TYPE}
        if platform is not None:
            login = None
            if self.auth_user and self.auth_server:
                login = {"server": self.auth_server, "user": self.auth_user, "key": self.auth_key}
            # 409: the server has the entry already.
            platform.post(
                self.url,
                atom.encode("utf-8"),
                headers,
                login=login,
                accept=[409],
                timeout=_seconds(self.http_timeout),
                wait_interval=_seconds(self.wait_interval),
                max_wait=_seconds(self.max_wait),
            )
            return 202
        headers = self._get_auth(headers=headers)
        answer = requests.post(self.url, data=atom, headers=headers, timeout=self.http_timeout)
        if answer.status_code == UNAUTHORIZED:
            headers = self._get_auth(headers=headers, force=True)
            answer = requests.post(self.url, data=atom, headers=headers, timeout=self.http_timeout)
        return int(answer.status_code)

    # ------------------------------------------------------------------ cloud usage feed

    cuf_states: ClassVar[Dict[str, str]] = {
        "building": "BUILD",
        "deleted": "DELETED",
        "error": "ERROR",
        "paused": "PAUSED",
        "rescued": "RESCUE",
        "shelved": "SHELVED",
        "shelved_offloaded": "SHELVED_OFFLOADED",
        "soft-delete": "SOFT_DELETED",
        "stopped": "SHUTOFF",
        "suspended": "SUSPENDED",
    }
    cuf_active: ClassVar[Dict[str, str]] = {  # what is done to an active instance, by its state_description
        "migrating": "MIGRATING",
        "rebooting": "REBOOT",
        "rebooting_hard": "HARD_REBOOT",
        "rebuild_block_device_mapping": "REBUILD",
        "rebuild_spawning": "REBUILD",
        "rebuilding": "REBUILD",
        "resize_finish": "RESIZE",
        "resize_migrated": "RESIZE",
        "resize_migrating": "RESIZE",
        "resize_prep": "RESIZE",
        "updating_password": "PASSWORD",
    }
    cuf_systems: ClassVar[Sequence[Tuple[int, str]]] = ((6, "VYATTA"), (2, "WINDOWS"), (0, "RHEL"))
    cuf_applications: ClassVar[Sequence[Tuple[int, str]]] = ((5, "MSSQL_WEB"), (3, "MSSQL"))

    def event_type_cuf_xml(self, event_type: str) -> str:
        return f"{event_type}.cuf"

    def format_cuf_xml(self, event: Event) -> Tuple[str, str]:
        """Return the event as an entry of Rackspace's cloud usage feed; `extra_info` goes before its traits."""
        said = {**event, **self.extra_info}
        start, end = self._get_times(event)
        head = {
            "version": 1,
            "id": said.get("message_id", ""),
            "resourceId": said.get("instance_id", ""),
            "resourceName": said.get("display_name", ""),
            "dataCenter": said.get("data_center", ""),
            "region": said.get("region", ""),
            "tenantId": said.get("tenant_id", ""),
            "startTime": self._format_time(start),
            "endTime": self._format_time(end),
            "type": "USAGE",
        }
        product = {
            "version": 1,
            "serviceCode": "CloudServersOpenStack",
            "resourceType": "SERVER",
            "flavorId": said.get("instance_flavor_id", ""),
            "flavorName": said.get("instance_flavor", ""),
            "status": self._get_status(event),
        }
        bandwidth = {"bandwidthIn": said.get("bandwidth_in", ""), "bandwidthOut": said.get("bandwidth_out", "")}
        content = (
            '<event xmlns="http://docs.rackspace.com/core/event" xmlns:nova="http://docs.rackspace.com/event/nova" '
            f"{_attributes(head)}><nova:product {_attributes(product)} {self._get_options(event)} "
            f"{_attributes(bandwidth)}/></event>"
        )
        return content, "application/xml"

    def _get_options(self, event: Event) -> str:
        """Return the attributes that say which licences the bits of rax_options stand for."""
        try:
            bits = int(event.get("rax_options") or 0)
        except ValueError:
            logger.error("rax_options of event %s is no number: %r", event.get("message_id"), event["rax_options"])
            bits = 0
        system = next((name for bit, name in self.cuf_systems if bits >> bit & 1), "LINUX")
        application = next((name for bit, name in self.cuf_applications if bits >> bit & 1), None)
        found = {"osLicenseType": system}
        return _attributes(found if application is None else {**found, "applicationLicense": application})

    def _get_status(self, event: Event) -> str:
        """Return what the feed calls the state of an instance."""
        state, description = event.get("state"), event.get("state_description")
        if state == "active":
            return self.cuf_active.get(str(description), "ACTIVE")
        if state == "resized":
            return "REVERT_RESIZE" if description == "resize_reverting" else "VERIFY_RESIZE"
        status = self.cuf_states.get(str(state), "UNKNOWN")
        if status == "UNKNOWN":
            logger.error("Unknown status for event %s: state %s (%s)", event.get("message_id"), state, description)
        return status

    def _get_times(self, event: Event) -> Tuple[Any, Any]:
        """Return begin and end of what was used within the audit period."""
        apb, ape = event.get("audit_period_beginning"), event.get("audit_period_ending")
        ended = event.get("terminated_at") or event.get("deleted_at")
        start = max((each for each in (event.get("launched_at"), apb) if each), default=None)
        end = min((each for each in (ended, ape) if each), default=None)
        return (apb if start and end and start > end else start), end

    def _format_time(self, moment: Any) -> str:
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


def _attributes(said: Dict[str, Any]) -> str:
    return " ".join(f"{name}={quoteattr('' if value is None else str(value))}" for name, value in said.items())


def _iso(value: Any) -> str:
    if isinstance(value, dt.datetime):
        naive = value.replace(tzinfo=None) if value.tzinfo is None else value.astimezone(dt.timezone.utc)
        return naive.replace(tzinfo=None).isoformat() + "Z"
    return str(value)


__all__ = [
    "AtomPubException",
    "AtomPubHandler",
    "ConnectionManager",
    "LoggingHandler",
    "NotabeneException",
    "NotabeneHandler",
    "PipelineHandlerBase",
    "UsageException",
    "UsageHandler",
    "connection_manager",
    "driver",
    "logger",
    "requests",
]
