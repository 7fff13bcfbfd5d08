"""The HTTP API: a thin skin over the use cases."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from eventproc.api import annotations as notes
from eventproc.api import (
    detectors,
    emit,
    events,
    files,
    handlers,
    hooks,
    ingest,
    metrics,
    misc,
    monitoring,
    outbox,
    pages,
    people,
    runs,
    secrets,
    streams,
)
from eventproc.api.deps import ERRORS, SECURED
from eventproc.api.errors import install
from eventproc.api.limits import Guard
from eventproc.api.models import schemas_by_hand
from eventproc.service.context import ServiceContext
from eventproc.service.facade import UseCases

PREFIX = "/api/v1"
DESCRIPTION = """
Register Python handlers on hooks, emit events, and see how the runs went.

Requests carry an API key: `Authorization: Bearer KEY`. Errors are `{"error": {"code", "message", "details"}}`.
Times are ISO-8601 in UTC. Lists are `{"items", "next"}`; pass `next` as `after` for the following page.
"""


def create_app(context: ServiceContext) -> FastAPI:
    """Build the application around one context."""
    app = FastAPI(
        title="eventproc",
        version=pages.platform_version(),
        description=DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url=None,  # FastAPI's loads scripts from elsewhere on the internet; ours is in `pages`
        redoc_url=None,
    )
    app.state.use_cases = UseCases(context)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document["components"]["schemas"].update(schemas_by_hand())
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it
    install(app)
    for router in (
        people.router,
        notes.router,
        hooks.router,
        handlers.router,
        detectors.router,
        events.router,
        runs.router,
        misc.router,
        monitoring.router,
        outbox.router,
        metrics.router,
        secrets.router,
        streams.pipelines,
        streams.triggers,
        streams.streams,
    ):
        app.include_router(router, prefix=PREFIX, dependencies=SECURED, responses=ERRORS)
    for router in (emit.router, ingest.router, metrics.push_router, files.router, pages.health):
        app.include_router(router, prefix=PREFIX)
    app.include_router(pages.router)
    app.include_router(files.router)
    app.include_router(files.short)
    app.add_middleware(Guard, max_body=context.settings.max_body_bytes, streaming=(f"{PREFIX}{ingest.PATH}",))
    return app
