"""Logging in at an OpenStack identity service, for requests that need its token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import httpx

from eventproc.model import Outgoing
from eventproc.model.outbox import LOGIN
from eventproc.notify.answers import ask

_WITHIN_S: Final = 10.0
_ANSWER_BYTES: Final = 1 << 20  # catalogues of services come along
PASSING: Final = frozenset({408, 425, 429})  # of the answers 4xx, those that may be others the next time


class LoginFailed(Exception):
    """There is no token to be had; `refused`: whoever logs in is not let in."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in, and where: `server` is the whole URL that tokens are asked of."""

    server: str
    user: str
    key: str

    @classmethod
    def of(cls, message: Outgoing) -> Login | None:
        """Return what the message says of it, None where it needs no token."""
        parts = [message.headers.get(LOGIN + name) for name in ("server", "user", "key")]
        return cls(*(part or "" for part in parts)) if parts[0] else None


class Tokens:
    """The tokens that were given lately."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._known: dict[Login, str] = {}

    async def get(self, login: Login, *, refused: str | None = None) -> str:
        """
        Return the token that is known, or a new one where that was `refused`.

        Raises LoginFailed. The request is the identity API's version 2 with an API key (RAX-KSKEY:apiKeyCredentials),
        as winchester's AtomPubHandler sends it.
        """
        known = self._known.get(login)
        if known is not None and known != refused:
            return known
        token = self._known[login] = await self._ask(login)
        return token

    async def _ask(self, login: Login) -> str:
        body = {"auth": {"RAX-KSKEY:apiKeyCredentials": {"username": login.user, "apiKey": login.key}}}
        try:
            headers = {"accept": "application/json", "accept-encoding": "identity"}
            request = self._client.build_request("POST", login.server, json=body, headers=headers)
            answer, text = await ask(self._client, request, within_s=_WITHIN_S, most=_ANSWER_BYTES)
            if not answer.is_success:
                status = answer.status_code
                raise LoginFailed(
                    f"no login at {login.server} for {login.user!r}: it answered {status} {answer.reason_phrase}",
                    refused=400 <= status < 500 and status not in PASSING,
                )
            return str(json.loads(text)["access"]["token"]["id"])
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise LoginFailed(f"no login at {login.server}: {type(error).__name__}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise LoginFailed(f"no login at {login.server}: its answer holds no access.token.id") from error


__all__ = ["PASSING", "Login", "LoginFailed", "Tokens"]
