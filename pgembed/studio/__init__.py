"""A page in the browser over the searches, and the same as an HTTP API.

`pgembed studio` serves it. Everything runs with the rights of the role that it connects
as, in transactions that only read, but for what people judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgembed.errors import MissingExtra
from pgembed.studio.settings import StudioSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["StudioSettings", "create_app"]


def create_app(dsn: str, settings: StudioSettings | None = None) -> Starlette:
    """Make the ASGI application; whoever runs it listens where the settings say.

    Args:
        dsn: Connection string; the studio has the rights of its role.
        settings: How it is served.

    Raises:
        MissingExtra: The extra `studio` is not installed.
    """
    try:
        from pgembed.studio import app
    except ImportError as exc:
        raise MissingExtra("studio") from exc
    return app.create_app(dsn, settings or StudioSettings())
