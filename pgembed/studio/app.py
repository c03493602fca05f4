"""The application: routes, and what they share."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pgembed.errors import PgembedError
from pgembed.studio import api, health, judgements, maps, openapi, pages, rows
from pgembed.studio.database import Busy, Database
from pgembed.studio.health import Looks
from pgembed.studio.render import STATIC, page
from pgembed.studio.security import Guard, Keys
from pgembed.studio.shared import Studio, is_part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from pgembed.studio.settings import StudioSettings


def create_app(dsn: str, settings: StudioSettings) -> Starlette:
    """Make the application."""
    keys = Keys(settings.token, settings.port)
    database = Database(dsn, settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await database.open()
        try:
            yield
        finally:
            await database.close()

    async def closed(request: Request) -> Response:
        answer = page("closed.html", status=401)
        if is_part(request):
            answer.headers["HX-Refresh"] = "true"
        return answer

    app = Starlette(
        routes=[
            Route("/", pages.search_page),
            Route("/parts/source", pages.source_part),
            Route("/parts/condition", pages.condition_part),
            Route("/judge", judgements.judge, methods=["POST"]),
            Route("/rows", rows.rows_page),
            Route("/map", maps.map_page),
            Route("/parts/map/source", maps.source_part),
            Route("/parts/map/points", maps.points_part),
            Route("/parts/map/row", maps.row_part),
            Route("/parts/map/rows", maps.rows_part, methods=["POST"]),
            Route("/parts/map/hits", maps.hits_part),
            Route("/health", health.health_page),
            Route("/parts/health", health.health_part),
            Route("/parts/findings", health.findings_part),
            Route("/parts/recall", health.recall_part),
            Route("/docs", openapi.documentation),
            Route("/openapi.json", openapi.document),
            Route("/v1/search", api.search, methods=["POST"]),
            Route("/v1/embeddings", api.embeddings, methods=["POST"]),
            Route("/v1/models", api.models),
            Route("/v1/status", api.status),
            Route("/login", pages.login, methods=["GET", "POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        lifespan=lifespan,
        middleware=[Middleware(Guard, settings=settings, keys=keys, closed=closed)],
        exception_handlers={
            HTTPException: pages.refused,
            Busy: pages.failed,
            PgembedError: pages.failed,
            psycopg.Error: pages.failed,
            Exception: pages.failed,
        },
    )
    app.state.studio = Studio(database, keys, settings, Looks(database))
    return app
