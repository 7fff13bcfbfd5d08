"""The pages there are: what runs here, and how its API is used."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from eventproc.api import html, run_page, shapes
from eventproc.api.deps import Cases, Id, Login, use_cases
from eventproc.api.reference import reference

router = APIRouter(include_in_schema=False)
health = APIRouter(tags=["server"])


@cache
def platform_version() -> str:
    return version("eventproc")


@router.get("/")
def index(request: Request) -> Response:
    return html.page(request, "index.html", version=platform_version(), base_url=_base_url(request))


@router.get("/docs")
def docs(request: Request) -> Response:
    described = reference(request.app.openapi())
    return html.page(request, "reference.html", base_url=_base_url(request), **described)


@router.get("/runs/{run_id}")
def run(request: Request, principal: Login, cases: Cases, run_id: Id) -> Response:
    """Show one run to whoever follows the link in its mail and logs in."""
    return html.page(request, "run.html", **run_page.facts(cases, principal, run_id))


@router.get("/static/plain.css")
def style() -> Response:
    return _static("plain.css", "text/css")


@router.get("/static/icon.svg")
def icon() -> Response:
    return _static("icon.svg", "image/svg+xml")


@cache
def _bytes(name: str) -> bytes:
    return files("eventproc.api").joinpath(f"static/{name}").read_bytes()


def _static(name: str, media: str) -> Response:
    return Response(_bytes(name), media_type=media, headers={"Cache-Control": "max-age=3600"})


def _base_url(request: Request) -> str:
    return use_cases(request).context.settings.base_url.rstrip("/")


@health.get("/health", summary="Is the server well? (no key needed)")
def get_health(request: Request) -> Response:
    with use_cases(request).context.store.read() as tx:
        tx.handlers.revision()
    return shapes.answer({"status": "ok", "version": platform_version()})
