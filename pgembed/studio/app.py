"""The application: routes, and what they share."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pgembed.errors import PgembedError
from pgembed.studio import pages
from pgembed.studio.database import Busy, Database
from pgembed.studio.render import STATIC, page
from pgembed.studio.security import Guard, Keys
from pgembed.studio.settings import StudioSettings
from pgembed.studio.shared import Studio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response


def create_app(dsn: str, settings: StudioSettings | None = None) -> Starlette:
    """Make the application; whoever runs it listens where the settings say.

    Args:
        dsn: Connection string; the studio has the rights of its role.
        settings: How it is served.
    """
    settings = settings or StudioSettings()
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
            Route("/login", pages.login, methods=["GET", "POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        lifespan=lifespan,
        middleware=[Middleware(Guard, settings=settings, keys=keys, closed=closed)],
        exception_handlers={
            404: pages.not_found,
            Busy: pages.failed,
            PgembedError: pages.failed,
            psycopg.Error: pages.failed,
            Exception: pages.failed,
        },
    )
    app.state.studio = Studio(database, keys, settings)
    return app
