"""The flows of judgements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.types.json import Jsonb

from pgembed._client.arguments import checked, named
from pgembed._client.names import table_identifier
from pgembed._client.results import Judgement
from pgembed._client.steps import Flow, Rows, Statement
from pgembed._client.values import check_int, check_query, json_key
from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from pgembed.options import Table


def judge(table: Table, query: str, key: object, grade: int | None) -> Flow[None]:
    """Say how relevant a row is to a query."""
    if key is None:
        raise InvalidParameter("key is None", hint="Give the row's primary key.")
    arguments = {
        "query": check_query(query),
        "key": Jsonb(json_key(key, "key")),
        "grade": None if grade is None else check_int(grade, "grade", 0),
    }
    yield Statement(
        sql.SQL("select pgembed.judge(NULL::{}, {})").format(
            table_identifier(table), named(arguments)
        ),
        arguments,
        table=table,
    )


def judgements(table: Table, only_query: str | None) -> Flow[list[Judgement]]:
    """Read what was judged."""
    arguments = checked({"only_query": only_query})
    given = sql.SQL(", ") + named(arguments) if arguments else sql.SQL("")
    rows: Rows = yield Statement(
        sql.SQL(
            "select query, key, grade, judged_by, judged_at"
            " from pgembed.judgements(NULL::{}{})"
        ).format(table_identifier(table), given),
        arguments,
        table=table,
    )
    return [Judgement(*row) for row in rows.rows]
