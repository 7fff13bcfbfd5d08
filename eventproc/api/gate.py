"""Routes that look at who is asking before they read what is sent."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from eventproc.api.deps import address, bearer_key, principal, use_cases
from eventproc.model import Role, User
from eventproc.service.rights import require

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_needed: dict[Any, tuple[Role, str]] = {}  # by endpoint


def needs(role: Role, what: str) -> Callable[[Endpoint], Endpoint]:
    """Have a route of the class KeyFirst refuse those without the role before it reads the body; `what` is refused."""

    def mark(endpoint: Endpoint) -> Endpoint:
        _needed[endpoint] = (role, what)
        return endpoint

    return mark


class KeyFirst(APIRoute):
    """
    A route that reads nothing of the body for those whose key is not good, or whose role is not enough.

    FastAPI takes in and parses the whole body before it asks any dependency, and so would do that for everybody.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None or all(each.call is not principal for each in self.dependant.dependencies):
            return handle

        async def gated(request: Request) -> Response:
            request.state.principal = await admitted(request, *_needed.get(self.endpoint, ()))
            return await handle(request)

        return gated


async def admitted(request: Request, role: Role | None = None, what: str = "") -> User:
    """Return the owner of the request's key. Raises Unauthorized, and Forbidden for `what` needs another role."""
    auth, key = use_cases(request).auth, bearer_key(request)
    user = auth.remembered(key)
    if user is None:
        user = await run_in_threadpool(auth.authenticate, key, address=address(request))
    if role is not None:
        require(user, role, what)
    return user
