"""Every error as a status and one JSON shape, or a page for browsers; nothing of the inside reaches the client."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from eventproc.api import html
from eventproc.api.shapes import answer, error_json
from eventproc.errors import (
    Conflict,
    EventprocError,
    Forbidden,
    HandlerTooLarge,
    IngressError,
    InvalidInput,
    InvalidPayload,
    NotFound,
    SandboxError,
    TooLarge,
    TooManyLogins,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
# The most special first.
STATUSES: tuple[tuple[type[EventprocError], int], ...] = (
    (HandlerTooLarge, 413),
    (InvalidPayload, 422),
    (UnsupportedMedia, 415),
    (InvalidInput, 400),
    (NotFound, 404),
    (Conflict, 409),
    (TooManyLogins, 429),
    (Unauthorized, 401),
    (Forbidden, 403),
    (TooLarge, 413),
    (Unavailable, 503),
    (SandboxError, 503),
    (IngressError, 400),
)
_CODES = {404: "not_found", 405: "invalid", 413: "too_large"}
_TITLES = {401: "Please log in", 403: "Not allowed", 404: "Not found", 429: "Too many tries", 503: "Not just now"}


def status_of(error: EventprocError) -> int:
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def error_response(error: EventprocError, *, basic: bool = False) -> Response:
    """Return the response for an error; `basic` lets browsers ask for a login."""
    status = status_of(error)
    headers = {}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 429:
        headers["Retry-After"] = str(error.details.get("retry_after_s", RETRY_AFTER_S))
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="eventproc", charset="UTF-8"' if basic else "Bearer"
    return answer({"error": error_json(error)}, status=status, headers=headers)


def fault_message(error: BaseException, what: str) -> dict[str, Any]:
    """Log an unexpected exception under an id; return what the client is told: only that id."""
    fault = secrets.token_hex(6)
    log.error("fault %s in %s", fault, what, exc_info=error)
    message = f"internal error; the server's log has the reason under {fault}"
    return {"code": "error", "message": message, "details": {"fault": fault}}


def install(app: FastAPI) -> None:
    """Let every error of the routes come out in the one shape."""

    @app.exception_handler(EventprocError)
    def known(request: Request, error: EventprocError) -> Response:
        if status_of(error) == 500:
            log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
        found = error_response(error, basic=getattr(request.state, "basic", False))
        return _for_people(request, error.message, found)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        explained = _explain(error.errors())
        return _for_people(request, explained.message, error_response(explained))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "error")
        message = error.detail if error.status_code == 413 else f"{request.method} {request.url.path}: {error.detail}"
        body = {"error": {"code": code, "message": message, "details": {}}}
        found = answer(body, status=error.status_code, headers=error.headers)
        return _for_people(request, message, found)


def _for_people(request: Request, message: str, found: Response) -> Response:
    """Give a browser a page that says what the JSON would, with the same status; programs get the JSON."""
    if not html.wanted(request):
        return found
    headers = {name: found.headers[name] for name in ("www-authenticate", "retry-after") if name in found.headers}
    title = _TITLES.get(found.status_code, "That did not work")
    return html.page(request, "error.html", status=found.status_code, headers=headers, title=title, message=message)


def _explain(problems: Sequence[Any]) -> InvalidInput:
    """Say what is wrong with a request in the caller's terms: the JSON path, or the query's name."""
    found = []
    for problem in problems[:20]:
        place, *steps = problem["loc"]
        path = _path(steps) if place == "body" else ".".join(str(step) for step in steps)
        reason = problem["msg"]
        if problem["type"] == "json_invalid":
            path, reason = "$", f"not JSON: {problem.get('ctx', {}).get('error', reason)} at character {steps[0]}"
        found.append({"path": path, "reason": reason, "in": str(place)})
    text = "; ".join(f"{item['path']}: {item['reason']}" for item in found[:3])
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return InvalidInput(f"{text}{more}", path=found[0]["path"] if found else "$", problems=found)


def _path(steps: Sequence[Any]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
