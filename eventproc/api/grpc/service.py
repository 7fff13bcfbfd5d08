"""The four calls, on the use cases."""

from __future__ import annotations

import hmac
from typing import Any

from eventproc.api.grpc import messages
from eventproc.codec.bundle import digest_of
from eventproc.errors import Forbidden, InvalidHandler, InvalidInput, TooLarge, UnsupportedOption
from eventproc.model import HandlerBundle, HandlerRecord, User
from eventproc.service.facade import UseCases

MAX_ANSWER = (4 << 20) - (64 << 10)  # bytes: what clients take unless they were told otherwise, and some room
NS_PER_US = 1000


class EventProcessing:
    """What each call does; `key` is the caller's, already known to be good."""

    def __init__(self, cases: UseCases) -> None:
        self._cases = cases

    def list_hooks(self, user: User, key: str, request: Any) -> Any:
        del key, request
        found = self._cases.hooks.all(user)
        return messages.ListHooksResponse(hooks=[messages.Hook(name=hook.name) for hook in found])

    def list_handlers(self, user: User, key: str, request: Any) -> Any:
        """Return the handlers of a hook, of all hooks when none is named."""
        del key
        found = self._cases.handlers.all(user, hook=request.hook or None)
        answer = messages.ListHandlersResponse(handlers=[handler_message(handler) for handler in found])
        if answer.ByteSize() > MAX_ANSWER:
            raise TooLarge(
                f"{len(found)} handlers do not fit into one answer; name a hook: list_handlers(conn, hook=...)",
                count=len(found),
            )
        return answer

    def register(self, user: User, key: str, request: Any) -> Any:
        """Register a handler whose Python is not stated."""
        asked = request.registration
        # Else one key could register code that runs with another user's rights.
        if asked.api_key and not hmac.compare_digest(asked.api_key.encode(), key.encode()):
            raise Forbidden("registration.api_key is not the key of the call; leave it empty or send the same")
        if asked.user and asked.user != user.name:
            raise Forbidden(f"registration.user is {asked.user!r}, and the key belongs to {user.name!r}")
        if asked.dependencies:
            raise UnsupportedOption("registration.dependencies must be empty: packages can not be installed here")
        if not asked.blob:
            raise InvalidHandler("registration.blob is empty; it must be the function, pickled with dill")
        done = self._cases.handlers.register(
            user,
            hook=asked.hook,
            name=asked.name,
            bundle=bundle_of(asked),
            tags=tuple(asked.tags),
            notify_on_success=asked.notify_on_success or None,
            notify_on_failure=asked.notify_on_failure or None,
        )
        return messages.RegisterResponse(handler=handler_message(done.handler))

    def deregister(self, user: User, key: str, request: Any) -> Any:
        del key
        if request.id <= 0:
            raise InvalidInput("id must be that of a handler, as list_handlers shows it; no id was sent")
        return messages.DeregisterResponse(id=self._cases.handlers.deregister(user, request.id).id)


def bundle_of(registration: Any) -> HandlerBundle:
    """Return the handler as it came: the client tells neither its Python nor its dill, nor the source."""
    return HandlerBundle(
        blob=registration.blob,
        digest=digest_of(registration.blob),
        python="",
        dill="",
        source=None,
        filename=None,
        qualname=registration.name,
    )


def handler_message(handler: HandlerRecord) -> Any:
    current = handler.current
    return messages.Handler(
        id=handler.id,
        hook=handler.hook,
        name=handler.name,
        version=current.version,
        tag=current.tags,
        notify_on_success=current.notify_on_success or "",
        notify_on_failure=current.notify_on_failure or "",
        created_by=handler.created_by,
        created_at=handler.created_us * NS_PER_US,
        updated_by=handler.updated_by,
        updated_at=handler.updated_us * NS_PER_US,
    )
