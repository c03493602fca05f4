"""The vector of a query: seen to before the search begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgembed._client import search as flows
from pgembed._client.arun import arun
from pgembed.errors import NoEncoderService

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgembed.options import Table
    from pgembed.studio.database import Connection, Database


async def have_vector(
    database: Database,
    conn: Connection,
    table: Table,
    query: str,
    options: Mapping[str, Any],
) -> None:
    """Have a query encoded, where it must be.

    Raises:
        NoEncoderService: No service encodes it, and PostgreSQL cannot either.
    """
    try:
        await arun(conn, flows.query_vector(table, query, options))
    except NoEncoderService:
        if not database.has_primary:
            raise
        async with database.primary(conn) as primary:
            await arun(primary, flows.query_vector(table, query, options))
