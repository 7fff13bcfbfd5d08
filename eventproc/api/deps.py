"""What routes ask for: the use cases, and who is asking."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPBasic, HTTPBearer

from eventproc.api.models import MAX_ID, MAX_PAGE, MAX_VERSION, ErrorAnswer
from eventproc.errors import InvalidInput, Unauthorized
from eventproc.model import User
from eventproc.service.facade import UseCases

bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer ep_…`")


class _Described(HTTPBasic):
    """Only stands in the description: `login` reads the header, and its errors have the shape of all others."""

    async def __call__(self, request: Request) -> None:  # type: ignore[override]  # nobody uses what it returns
        del request


basic = _Described(auto_error=False, description="Any user name, and the API key as the password; for downloads.")

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Something in the request is wrong."},
    401: {"model": ErrorAnswer, "description": "No API key, or one that is not valid."},
    403: {"model": ErrorAnswer, "description": "The key's owner may not do that."},
    404: {"model": ErrorAnswer, "description": "There is no such thing."},
    429: {"model": ErrorAnswer, "description": "Too many keys that are not good were tried; `Retry-After` says when."},
    409: {"model": ErrorAnswer, "description": "The present state does not allow that."},
    413: {"model": ErrorAnswer, "description": "Over a size limit."},
    503: {"model": ErrorAnswer, "description": "Try again: something needed is not there right now."},
}


def use_cases(request: Request) -> UseCases:
    found = request.app.state.use_cases
    assert isinstance(found, UseCases)
    return found


def bearer_key(request: Request) -> str | None:
    """Return the key of the request's Authorization header."""
    return _credentials(request, "bearer")


def _credentials(request: Request, scheme: str) -> str | None:
    stated, _, rest = request.headers.get("authorization", "").partition(" ")
    return rest.strip() if stated.lower() == scheme else None


def address(request: Request) -> str | None:
    """Return where the request came from; behind a proxy that is the proxy."""
    return request.client.host if request.client else None


def principal(request: Request) -> User:
    """Return the owner of the request's key. Raises Unauthorized."""
    known = getattr(request.state, "principal", None)  # a route that looked before it read the body knows already
    if isinstance(known, User):
        return known
    return use_cases(request).auth.authenticate(bearer_key(request), address=address(request))


def login(request: Request) -> User:
    """Return the owner of the request's key, given as a bearer token or as the password of a basic login."""
    request.state.basic = True
    key = bearer_key(request) or _basic_key(request)
    return use_cases(request).auth.authenticate(key, address=address(request))


def _basic_key(request: Request) -> str | None:
    encoded = _credentials(request, "basic")
    if encoded is None:
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        raise Unauthorized("malformed basic login; send any user name and the API key as the password") from None


def keyset(after: str | None, name: str = "after") -> int | None:
    """Read the cursor that an earlier page gave as `next`."""
    if not after:
        return None
    if not after.isdecimal() or len(after) > 18:
        raise InvalidInput(f"{name!r} must be what an earlier page gave as 'next', not {after[:50]!r}", path=name)
    return int(after)


Cases = Annotated[UseCases, Depends(use_cases)]
Principal = Annotated[User, Depends(principal)]
Login = Annotated[User, Depends(login)]
After = Annotated[str | None, Query(description="The `next` of the page before.")]
Id = Annotated[int, Path(ge=0, le=MAX_ID)]
Version = Annotated[int, Path(ge=0, le=MAX_VERSION)]
Nanoseconds = Annotated[int, Query(ge=-MAX_ID - 1, le=MAX_ID)]
Number = Annotated[int, Query(ge=0, le=MAX_ID)]
VersionNumber = Annotated[int, Query(ge=0, le=MAX_VERSION)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
SECURED = [Depends(bearer)]
DOWNLOAD = [Depends(bearer), Depends(basic)]
