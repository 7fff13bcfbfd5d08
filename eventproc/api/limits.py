"""Middleware: a cap on request bodies, headers that every answer carries, and HEAD wherever there is GET."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventproc.api import shapes
from eventproc.api.errors import error_response, fault_message
from eventproc.errors import InvalidInput, TooLarge

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """
    Refuses bodies over the limit, by their stated length or once they have grown past it.

    Paths that begin with one of `streaming` look after their own bodies. Faults get the answer that hides them.
    HEAD is answered as GET is, without the body: with the same key, the same status and the same headers.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, streaming: tuple[str, ...] = ()) -> None:
        self._app = app
        self._max_body = max_body
        self._streaming = streaming

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, head=scope["method"] == "HEAD")
        if answer.head:
            scope = {**scope, "method": "GET"}  # the server's own scope still says HEAD
        try:
            if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
                # No database can hold it as text, so nothing that is there can be meant.
                await error_response(InvalidInput("the path or query holds the character NUL"))(scope, receive, answer)
                return
            await self._guarded(scope, receive, answer)
        except ClientDisconnect:
            return  # nobody is left to be answered, or HEAD was
        except Exception as error:
            body = fault_message(error, f"{scope['method']} {scope['path']}")
            if answer.begun:
                raise  # too late for another answer: the server closes the connection
            await shapes.answer({"error": body}, status=500)(scope, receive, answer)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(self._streaming):
            await self._app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "")
        await self._app(scope, self._capped(receive, int(stated) if stated.isdigit() else 0), send)

    def _capped(self, receive: Receive, stated: int) -> Receive:
        """Look at the size when the body is asked for: who may not send it is told that, and not its limit."""
        seen = 0

        async def capped() -> Message:
            nonlocal seen
            message: Message = {} if stated > self._max_body else await receive()
            seen += len(message.get("body", b""))
            if max(seen, stated) > self._max_body:
                # The framework takes any other exception here for malformed JSON.
                raise HTTPException(413, self._refusal(max(seen, stated)).message)
            return message

        return capped

    def _refusal(self, size: int) -> TooLarge:
        return TooLarge(
            f"the request's body has {size:,} bytes or more, and {self._max_body:,} are allowed; send it in parts",
            limit=self._max_body,
        )


class _Answer:
    """Passes an answer on, with the headers that all carry; to HEAD only these."""

    def __init__(self, send: Send, *, head: bool = False) -> None:
        self._send = send
        self.head = head
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if headers.get("allow") == "GET":
                headers["allow"] = "GET, HEAD"
        elif self.head:
            await self._send({"type": message["type"], "body": b"", "more_body": False})
            if message.get("more_body", False):
                raise ClientDisconnect  # or a file would be read to its end for nobody
            return
        await self._send(message)
