"""Thumbs on hits: what the role has judged, and a new judgement."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast
from urllib.parse import urlencode

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from starlette.responses import RedirectResponse, Response

from pgembed import aclient
from pgembed.errors import InvalidParameter
from pgembed.studio import sources
from pgembed.studio.cells import escaped
from pgembed.studio.shared import form_of, is_part, read_json, studio_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from pgembed.studio.database import Connection, Database

_LONGEST_KEY = 100_000  # characters of JSON
#: What the buttons say, and what it is worth.
GRADES: Mapping[str, int | None] = {"up": 1, "down": 0, "none": None}
# Nothing where the role may not judge: the page has no thumbs then.
_GIVEN = sql.SQL(
    "select case when (%(elsewhere)s or not pg_catalog.pg_is_in_recovery()) and"
    " pg_catalog.has_table_privilege(pg_catalog.to_regclass('pgembed.judgement'),"
    "  'delete') then (select coalesce(pg_catalog.jsonb_agg("
    "  pg_catalog.jsonb_build_array(j.key, j.grade)), '[]')"
    "  from pgembed.judgements(null::{}, %(query)s) as j"
    "  where j.judged_by operator(pg_catalog.=) current_user::pg_catalog.text) end"
)


async def given(
    database: Database, conn: Connection, table: str, query: str
) -> dict[str, int] | None:
    """Look up what the role has judged of a query: grades by the keys' JSON.

    Returns:
        None where the role may not judge.
    """
    try:
        async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            values = {"query": query, "elsewhere": database.has_primary}
            await cursor.execute(_GIVEN.format(escaped(table)), values, prepare=False)
            row = await cursor.fetchone()
    except psycopg.Error:
        return None  # the hits are there all the same
    if row is None or row[0] is None:
        return None
    return {json.dumps(key): grade for key, grade in row[0]}


async def judge(request: Request) -> Response:
    """Keep what a thumb says of a hit, or take it back."""
    form = await form_of(request)
    table, query, thumb = (form.get(name, "") for name in ("table", "q", "thumb"))
    if thumb not in GRADES:
        raise InvalidParameter(
            f"thumb is {thumb!r}", hint=f"Known: {', '.join(GRADES)}."
        )
    if not table:
        raise InvalidParameter("the form names no table")
    key = _key(form.get("key", ""))
    database = studio_of(request).database
    async with database.connection() as conn:
        async with database.reading(conn):
            chosen = sources.chosen(await sources.tables(conn), table)
        assert chosen is not None
        async with database.primary(conn) as primary, database.writing(primary):
            grade = GRADES[thumb]
            if grade:  # it may have been judged with more than a thumb can say
                before = await given(database, primary, chosen.name, query) or {}
                grade = max(grade, before.get(json.dumps(key), 0))
            await aclient.judge(primary, chosen.name, query, key, grade)
    if not is_part(request):
        return RedirectResponse(f"/?{urlencode({'table': table, 'q': query})}", 303)
    # The page may have the row in several columns: its script tells them all.
    said = {"judged": {"key": json.dumps(key), "thumb": thumb}}
    return Response(headers={"HX-Trigger": json.dumps(said)})


def _key(text: str) -> object:
    if len(text) > _LONGEST_KEY:
        raise InvalidParameter(
            f"the key has {len(text):,} characters, and may have {_LONGEST_KEY:,}"
        )
    key = read_json("key", text)
    parts = key if isinstance(key, list) else [key]
    if any(isinstance(part, list | dict) for part in parts):
        raise InvalidParameter("a key is a value, or a list of values")
    return cast("object", key)
