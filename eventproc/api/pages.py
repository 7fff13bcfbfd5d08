"""The pages there are: what runs here, and how its API is used."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

from eventproc.api import shapes
from eventproc.api.deps import Cases, Id, Login, use_cases
from eventproc.api.reference import reference
from eventproc.model import isoformat

LOG_CHUNKS = 500  # of a run's output on its page
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

router = APIRouter(include_in_schema=False)
health = APIRouter(tags=["server"])


@cache
def platform_version() -> str:
    return version("eventproc")


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("eventproc.api"), autoescape=True, undefined=StrictUndefined)


@cache
def _style() -> bytes:
    return files("eventproc.api").joinpath("static/plain.css").read_bytes()


def _html(text: str) -> Response:
    return Response(text, media_type="text/html", headers={"Content-Security-Policy": POLICY})


@router.get("/")
def index(request: Request) -> Response:
    page = _templates().get_template("index.html")
    base_url = use_cases(request).context.settings.base_url.rstrip("/")
    return _html(page.render(version=platform_version(), base_url=base_url))


@router.get("/docs")
def docs(request: Request) -> Response:
    page = _templates().get_template("reference.html")
    base_url = use_cases(request).context.settings.base_url.rstrip("/")
    return _html(page.render(base_url=base_url, **reference(request.app.openapi())))


@router.get("/runs/{run_id}")
def run(principal: Login, cases: Cases, run_id: Id) -> Response:
    """Show one run to whoever follows the link in its mail and logs in."""
    found, chunks = cases.runs.logs(principal, run_id, limit=LOG_CHUNKS)
    text = (
        _templates()
        .get_template("run.html")
        .render(
            run=found,
            files=cases.runs.files(principal, run_id),
            started=isoformat(found.started_us) if found.started_us else None,
            finished=isoformat(found.finished_us) if found.finished_us else None,
            output="".join(chunk.text for chunk in chunks),
            more=len(chunks) == LOG_CHUNKS,
        )
    )
    return _html(text)


@router.get("/static/plain.css")
def style() -> Response:
    return Response(_style(), media_type="text/css", headers={"Cache-Control": "max-age=3600"})


@health.get("/health", summary="Is the server well? (no key needed)")
def get_health(request: Request) -> Response:
    with use_cases(request).context.store.read() as tx:
        tx.handlers.revision()
    return shapes.answer({"status": "ok", "version": platform_version()})
