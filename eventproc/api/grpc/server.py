"""The gRPC server: TLS, logins, and errors as status codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from eventproc.api.errors import fault_message
from eventproc.api.grpc import messages
from eventproc.api.grpc.service import EventProcessing
from eventproc.errors import (
    Conflict,
    EventprocError,
    Forbidden,
    HandlerTooLarge,
    InvalidInput,
    NotFound,
    SandboxError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from eventproc.model import User
from eventproc.service.facade import UseCases

THREADS = 16
MAX_CALLS = 512  # at a time, those that wait for a thread included; more are refused at once
ROOM = 1 << 20  # bytes beside the blob in a request
MAX_DETAILS = 4000  # bytes of an error's text, as it travels; clients take headers of 8 KiB
IDLE_MS = 10 * 60 * 1000  # btrdbextras opens a connection for each call and never closes it
MAX_PORT = 65_535

# The most special first.
STATUSES: tuple[tuple[type[EventprocError], grpc.StatusCode], ...] = (
    (HandlerTooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.FAILED_PRECONDITION),
    (Unauthorized, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (SandboxError, grpc.StatusCode.UNAVAILABLE),
)

Method = Callable[[User, str, Any], Any]


def status_of(error: EventprocError) -> grpc.StatusCode:
    return next((status for kind, status in STATUSES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def shorten(text: str) -> str:
    """Cut an error's text to what travels: anything but printable ASCII takes three bytes each."""
    room = MAX_DETAILS
    for index, char in enumerate(text):
        room -= 1 if " " <= char <= "~" and char != "%" else 3 * len(char.encode(errors="replace"))
        if room < 0:
            return f"{text[:index]}..."
    return text


class GrpcServer:
    """Serves on one address until it is stopped."""

    def __init__(self, cases: UseCases, address: str, *, key: bytes, chain: bytes) -> None:
        """
        Listen on HOST:PORT (port 0: any free one) with a PEM key and certificate chain; `start` takes calls.

        Raises OSError when the address can not be had.
        """
        self._cases = cases
        limit = cases.context.settings.max_blob_bytes + ROOM
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="grpc")
        self._server = grpc.server(
            self._pool,
            options=(
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_connection_idle_ms", IDLE_MS),
                ("grpc.so_reuseport", 1),  # whoever supervises us holds the port by a socket that does not listen
            ),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        self._health = health.HealthServicer()
        self._add_services()
        try:
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if not 0 < self.port <= MAX_PORT:
            raise OSError(f"{address} can not be had")

    def _add_services(self) -> None:
        service = EventProcessing(self._cases)
        calls: dict[str, Method] = {
            "ListHooks": service.list_hooks,
            "ListHandlers": service.list_handlers,
            "Register": service.register,
            "Deregister": service.deregister,
        }
        handlers = {name: self._handler(name, calls[name]) for name in messages.METHODS}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (messages.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def _handler(self, name: str, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        """
        Make the handler of one call.

        On the wire one request is a stream of one message. Taken as a stream, the login comes first: nobody without
        a key has a large blob read.
        """

        def behave(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            try:
                return self._answer(method, requests, context)
            except EventprocError as error:
                status, text = status_of(error), error.message
                if status is grpc.StatusCode.INTERNAL:
                    text = fault_message(error, f"gRPC {name}")["message"]
            except Exception as error:  # the outermost place: its text is kept from the client
                if not context.is_active():  # the client has gone, or sent what the transport already refused
                    raise
                status, text = grpc.StatusCode.INTERNAL, fault_message(error, f"gRPC {name}")["message"]
            return context.abort(status, shorten(text))

        return grpc.stream_unary_rpc_method_handler(
            behave,
            request_deserializer=getattr(messages, f"{name}Request").FromString,
            response_serializer=getattr(messages, f"{name}Response").SerializeToString,
        )

    def _answer(self, method: Method, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        key = bearer_key(context)
        user = self._cases.auth.authenticate(key, address=address(context))
        assert key is not None
        request = next(requests, None)
        if request is None:
            raise InvalidInput("the call carries no message")
        return method(user, key, request)

    def start(self) -> None:
        self._server.start()
        for name in ("", messages.SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float) -> None:
        """Take no more calls, let those under way finish for at most `grace_s`, and end."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)


def address(context: grpc.ServicerContext) -> str | None:
    """Return the caller's address without its port."""
    kind, _, rest = unquote(context.peer()).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None


def bearer_key(context: grpc.ServicerContext) -> str | None:
    """Return the API key in the call's metadata."""
    for name, value in context.invocation_metadata() or ():
        if name == "authorization" and isinstance(value, str):
            scheme, _, rest = value.partition(" ")
            if scheme.lower() == "bearer":
                return rest.strip()
    return None
