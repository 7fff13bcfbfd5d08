"""The gRPC service: TLS, logins, rights, errors as status codes, and what it never lets through."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from eventproc.api.grpc import messages
from eventproc.api.grpc.server import GrpcServer
from eventproc.codec.blob import pack
from eventproc.model import Role
from eventproc.roles import certs
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.service.auth import issue_key
from eventproc.service.context import ServiceContext, ServiceSettings
from eventproc.service.facade import UseCases

Status = grpc.StatusCode


@dataclass
class Front:
    """A gRPC server, its users' keys, and clients for them."""

    context: ServiceContext
    cases: UseCases
    server: GrpcServer
    ca: bytes
    keys: dict[str, str]

    def channel(self) -> grpc.Channel:
        return grpc.secure_channel(f"localhost:{self.server.port}", grpc.ssl_channel_credentials(self.ca))

    def call(self, method: str, request: Any = None, *, user: str | None = "developer", key: str | None = None) -> Any:
        """Call as a user; raises grpc.RpcError."""
        key = key or (self.keys[user] if user else None)
        if request is None:
            request = getattr(messages, f"{method}Request")()
        data = request if isinstance(request, bytes) else request.SerializeToString()
        with self.channel() as channel:
            stub = channel.unary_unary(
                f"/{messages.SERVICE}/{method}",
                response_deserializer=getattr(messages, f"{method}Response").FromString,
            )
            return stub(data, metadata=[("authorization", f"Bearer {key}")] if key else None, timeout=60)

    def refused(self, *args: Any, **kwargs: Any) -> grpc.RpcError:
        """Call what must be refused; return the error."""
        with pytest.raises(grpc.RpcError) as error:
            self.call(*args, **kwargs)
        return error.value

    def register(self, **more: Any) -> Any:
        return self.call("Register", registration(**more)).handler


def works(btrdb, **event):
    return "done"


def registration(handler: Callable[..., Any] = works, **more: Any) -> Any:
    values = {"name": "works", "hook": "ctingress.on_complete", "blob": pack(handler).blob, **more}
    return messages.RegisterRequest(registration=messages.Registration(**values))


@pytest.fixture
def service_settings() -> ServiceSettings:
    return ServiceSettings(max_blob_bytes=100_000)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> certs.Certificates:
    return certs.init(tmp_path_factory.mktemp("tls") / "certs")


@pytest.fixture
def front(service_context, certificates) -> Iterator[Front]:
    cases = UseCases(service_context)
    key, chain = certificates.read()
    server = GrpcServer(cases, "127.0.0.1:0", key=key, chain=chain)
    keys = {}
    for role in Role:
        with service_context.store.begin() as tx:
            user = tx.users.add(role.value, role, now_us=service_context.clock.now_us())
            keys[role.value] = issue_key(tx, user, label="test", now_us=service_context.clock.now_us())[0]
    server.start()
    yield Front(service_context, cases, server, certificates.ca.read_bytes(), keys)
    server.stop(60)


# ------------------------------------------------------------------------------------------------- the interface


def test_the_proto_file_is_what_is_served(tmp_path):
    """protoc reads the file to the very description that the server builds."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="pip install grpcio-tools")
    directory = Path(messages.__file__).parent
    target = tmp_path / "set"
    done = protoc.main(["protoc", f"-I{directory}", f"--descriptor_set_out={target}", f"{messages.PACKAGE}.proto"])
    assert done == 0
    (written,) = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file
    for message in written.message_type:
        for field in message.field:
            field.ClearField("json_name")
    written.message_type.sort(key=lambda message: message.name)
    served = messages.describe()
    served.message_type.sort(key=lambda message: message.name)
    assert written == served


def test_reflection_tells_of_the_service_and_health_says_that_it_serves(front):
    with front.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert messages.SERVICE in database.get_services()
        assert health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=messages.SERVICE)
        ).status == (health_pb2.HealthCheckResponse.SERVING)


def test_a_registration_comes_back_in_lists_with_its_times_in_nanoseconds(front):
    before = front.context.clock.now_us() * 1000
    made = front.register(tags=["b", "a"], notify_on_success="a@example.com")
    (listed,) = front.call("ListHandlers").handlers
    assert listed == made
    assert (listed.name, listed.hook, listed.version, list(listed.tag)) == (
        "works",
        "ctingress.on_complete",
        0,
        ["b", "a"],
    )
    assert (listed.notify_on_success, listed.notify_on_failure, listed.created_by) == ("a@example.com", "", "developer")
    assert before <= listed.created_at == listed.updated_at
    assert listed.callable == ""


def test_the_same_name_again_keeps_the_id_and_a_new_life_gets_another(front):
    first, second = front.register(), front.register()
    assert (second.id, second.version, second.created_at) == (first.id, 1, first.created_at)
    assert second.updated_at > first.updated_at
    assert front.call("Deregister", messages.DeregisterRequest(id=first.id)).id == first.id
    third = front.register()
    assert third.id != first.id
    assert third.version == 0


def test_the_python_that_was_found_is_recorded(front):
    made = front.register()
    current = front.cases.handlers.get(front.cases.auth.authenticate(front.keys["viewer"]), made.id).current
    assert current.python in front.context.sandbox.report().pythons
    assert current.source is None


# ------------------------------------------------------------------------------------------------- who may what


def test_without_a_login_nothing_is_told(front):
    for method in messages.METHODS:
        error = front.refused(method, user=None)
        assert error.code() is Status.UNAUTHENTICATED, method
        assert "Authorization" in error.details()


def test_a_wrong_key_is_never_repeated(front):
    for key in ("ep_aaaaaaaa_" + "s" * 43, "nonsense-sssss"):
        error = front.refused("ListHooks", key=key)
        assert error.code() is Status.UNAUTHENTICATED
        assert "sssss" not in error.details()


def test_who_tries_many_keys_is_told_to_wait(front):
    """By address, whatever the port: each guess comes over a connection of its own, as from btrdbextras."""
    told = [front.refused("ListHooks", key=f"ep_{chr(97 + n) * 8}_{n:0>43}") for n in range(26)]
    assert {error.code() for error in told} == {Status.UNAUTHENTICATED}
    assert told[0].details() == "unknown API key"
    assert any("too many API keys" in error.details() for error in told)


def test_a_large_body_is_not_read_before_the_login(front):
    """Far over the size limit, and yet what is refused is the missing key."""
    assert front.refused("Register", b"x" * 20_000_000, user=None).code() is Status.UNAUTHENTICATED


def test_roles_decide_as_they_do_over_http(front):
    for user in ("viewer", "emitter"):
        assert front.call("ListHooks", user=user).hooks
        error = front.refused("Register", registration(), user=user)
        assert error.code() is Status.PERMISSION_DENIED
        assert "'developer'" in error.details()


def test_only_the_owner_or_an_admin_changes_a_handler(front):
    mine = front.register()
    with front.context.store.begin() as tx:
        other = tx.users.add("other", Role.DEVELOPER, now_us=1)
        key, _ = issue_key(tx, other, label="test", now_us=1)
    for method, request in (("Register", registration()), ("Deregister", messages.DeregisterRequest(id=mine.id))):
        error = front.refused(method, request, key=key)
        assert error.code() is Status.PERMISSION_DENIED
        assert "belongs to user 'developer'" in error.details()
    assert front.call("Deregister", messages.DeregisterRequest(id=mine.id), user="admin").id == mine.id


def test_a_key_can_not_register_in_another_users_name(front):
    for claim in ({"api_key": front.keys["admin"]}, {"user": "admin"}):
        error = front.refused("Register", registration(**claim))
        assert error.code() is Status.PERMISSION_DENIED
        assert front.keys["admin"] not in error.details()
    assert front.register(api_key=front.keys["developer"], user="developer").created_by == "developer"


def test_a_revoked_key_ends_at_once(front):
    front.call("ListHooks")
    admin = front.cases.auth.authenticate(front.keys["admin"])
    front.cases.users.revoke_key(admin, front.keys["developer"].split("_")[1])
    assert front.refused("ListHooks").code() is Status.UNAUTHENTICATED


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"hook": "ctingress.on_complet"}, Status.NOT_FOUND, "ctingress.on_complete"),
        ({"hook": ""}, Status.INVALID_ARGUMENT, "hook"),
        ({"name": ""}, Status.INVALID_ARGUMENT, "name"),
        ({"name": "a\x00b"}, Status.INVALID_ARGUMENT, "name"),
        ({"notify_on_failure": "nobody"}, Status.INVALID_ARGUMENT, "notify_on_failure"),
        ({"tags": ["x" * 1000]}, Status.INVALID_ARGUMENT, "tag"),
        ({"dependencies": "numpy"}, Status.INVALID_ARGUMENT, "dependencies"),
        ({"blob": b""}, Status.INVALID_ARGUMENT, "blob"),
        ({"blob": b"no pickle"}, Status.INVALID_ARGUMENT, "can not be loaded"),
        ({"blob": b"x" * 100_001}, Status.RESOURCE_EXHAUSTED, "100,000"),
        ({"blob": b"x" * 5_000_000}, Status.RESOURCE_EXHAUSTED, "larger than max"),
    ],
)
def test_a_bad_registration_says_what_is_wrong(front, more, status, words):
    error = front.refused("Register", registration(**more))
    assert (error.code(), words in error.details()) == (status, True), error.details()
    assert list(front.call("ListHandlers").handlers) == []


@pytest.mark.parametrize("handler_id", [0, -1, 77, 2**31 - 1])
def test_an_id_that_is_none_is_refused(front, handler_id):
    error = front.refused("Deregister", messages.DeregisterRequest(id=handler_id))
    assert error.code() is (Status.NOT_FOUND if handler_id > 0 else Status.INVALID_ARGUMENT)


def test_bytes_that_are_no_message_are_refused_and_the_server_lives(front):
    for data in (b"\xff" * 10, b"\x0a\xff\xff\xff\xff\x07", b"\x0a\x05\x0a\x03\xff\xfe\xfd"):
        assert front.refused("Register", data).code() in (Status.INTERNAL, Status.INVALID_ARGUMENT, Status.UNKNOWN)
    assert front.call("ListHooks").hooks


def test_a_call_without_a_message_is_refused(front):
    with front.channel() as channel:
        stub = channel.stream_unary(f"/{messages.SERVICE}/ListHooks")
        with pytest.raises(grpc.RpcError) as error:
            stub(iter(()), metadata=[("authorization", f"Bearer {front.keys['viewer']}")], timeout=30)
    assert error.value.code() is Status.INVALID_ARGUMENT


def test_long_texts_and_other_scripts_come_through(front):
    error = front.refused("ListHandlers", messages.ListHandlersRequest(hook="крюк" * 3000))
    assert error.code() is Status.NOT_FOUND
    assert "крюк" in error.details()


def test_a_list_that_would_not_fit_says_what_to_do(front):
    made = front.register()
    with front.context.store.begin() as tx:
        owner = front.cases.auth.authenticate(front.keys["developer"])
        record = tx.handlers.get(made.id)
        template = registration_of(record)
        for number in range(2500):
            tx.handlers.put(replace(template, name=f"h{number}"), owner=owner, now_us=1)
    error = front.refused("ListHandlers")
    assert error.code() is Status.RESOURCE_EXHAUSTED
    assert "name a hook" in error.details()


def registration_of(record: Any) -> Any:
    from eventproc.abc import Registration

    return Registration(
        hook=record.hook,
        name=record.name,
        bundle=pack(works),
        tags=tuple(f"{number:0100}" for number in range(20)),
        notify_on_success=None,
        notify_on_failure=None,
        options=record.current.options,
    )


class Broken(InProcessSandbox):
    """A sandbox with a fault inside."""

    def check(self, program, limits):
        raise RuntimeError("the password is hunter2")


class TestFaults:
    """A fault is the server's secret; the caller gets a number to ask with."""

    @pytest.fixture
    def service_context(self, service_context) -> ServiceContext:
        return replace(service_context, sandbox=Broken())

    def test_a_fault_is_not_told(self, front, caplog):
        error = front.refused("Register", registration())
        assert error.code() is Status.INTERNAL
        assert "hunter2" not in error.details()
        assert "internal error" in error.details()
        assert "hunter2" in caplog.text


def test_plain_text_is_not_served(front):
    with grpc.insecure_channel(f"localhost:{front.server.port}") as channel:
        stub = channel.unary_unary(f"/{messages.SERVICE}/ListHooks")
        with pytest.raises(grpc.RpcError) as error:
            stub(b"", timeout=30)
    assert error.value.code() is Status.UNAVAILABLE


def test_an_address_that_can_not_be_had_is_an_error(front, certificates):
    key, chain = certificates.read()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=address):
            GrpcServer(front.cases, address, key=key, chain=chain)
