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
from pgembed.studio import api, openapi, pages
from pgembed.studio.database import Busy, Database
from pgembed.studio.render import STATIC, page
from pgembed.studio.security import Guard, Keys
from pgembed.studio.shared import Studio

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

    async def closed(_: Request) -> Response:
        return page("closed.html", status=401)

    app = Starlette(
        routes=[
            Route("/", pages.search_page),
            Route("/parts/source", pages.source_part),
            Route("/parts/condition", pages.condition_part),
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
    app.state.studio = Studio(database, keys, settings)
    return app
