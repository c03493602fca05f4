"""Judge what searches find, and read what was judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg

from pgembed._client import judge as flows
from pgembed._client.arun import arun

if TYPE_CHECKING:
    from pgembed._client.results import Judgement
    from pgembed.options import Table

AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]


async def judge(
    conn: AsyncConnection, table: Table, query: str, key: object, grade: int | None
) -> None:
    """Say how relevant a row is to a query, in place of what the role said before.

    `pgembed.evaluation` and `pgembed tune` measure by judgements, and learn from them.

    Args:
        conn: Connection whose role may search the table.
        table: As in `search`.
        query: Words, as they are searched for.
        key: The row's primary key; a tuple of its columns where it is composite.
        grade: 0: not relevant; 1, 2, 3: more and more so; None takes back what the
            role said.

    Raises:
        InvalidQuery: The query is empty, or the role sees no such row.
        InvalidParameter: The grade is another.
        UnknownEmbedding: The table has nothing to search.
    """
    await arun(conn, flows.judge(table, query, key, grade))


async def judgements(
    conn: AsyncConnection, table: Table, only_query: str | None = None
) -> list[Judgement]:
    """Read what was judged, of rows that the role sees.

    That is what it said itself, and what roles did that it is a member of; the owner of
    the table reads all.

    Args:
        conn: Connection whose role may search the table.
        table: As in `search`.
        only_query: Only what is said of this query.

    Returns:
        By query, the most relevant rows first.

    Raises:
        UnknownEmbedding: The table has nothing to search.
    """
    return await arun(conn, flows.judgements(table, only_query))
