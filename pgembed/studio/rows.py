"""What the vectors of a table say of its rows: duplicates, topics, outliers."""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb

from pgembed._client.arguments import checked, named
from pgembed.errors import InvalidParameter
from pgembed.studio import sources
from pgembed.studio.cells import cells_sql, escaped, named_cells, title
from pgembed.studio.copies import copies_of_rows
from pgembed.studio.forms import Form, fields_of, lines_of, number
from pgembed.studio.pages import vocabulary
from pgembed.studio.problems import problem_of
from pgembed.studio.render import page
from pgembed.studio.shared import studio_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from pgembed.analysis import Clustering
    from pgembed.studio.database import Connection
    from pgembed.studio.shared import Studio
    from pgembed.studio.sources import Source

#: What can be asked, as the buttons say it.
KINDS = {
    "duplicates": "Which say the same?",
    "topics": "What are they about?",
    "outliers": "Which do not belong?",
}
#: How outliers are found.
METHODS = ("knn", "lof", "centroid")
MOST_ROWS = 100  # on the page
MOST_CLUSTERED = 20_000  # rows, of which clusters are found in some seconds
_TOPICS = 8
_WORDS = 5  # in the name of one
_FARTHEST = 20
_ASKED = sql.SQL(
    "select f.*, {cells} as cells from ("
    "select * from pgembed.{function}(null::{table}{given}) limit {most}) as f"
    " join {table} as s on {key} = f.key order by {order}, f.key"
)
# The condition finds rows by their index; the keys give the order.
_BY_KEY = sql.SQL(
    "select {key} as key, {cells} as cells from {table} as s"
    " join pg_catalog.jsonb_array_elements(%(keys)s) with ordinality as k(key, place)"
    " on {key} = k.key where {condition} order by k.place"
)
_CONDITION = (
    "select pgembed._search_condition(%(table)s::pg_catalog.regclass,"
    " %(filter)s::pg_catalog.jsonb, null, null)"
)
_AT_MOST = sql.SQL(
    "select pg_catalog.count(*) from (select from {} as s where {} limit {}) as s"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        key: Primary key, as JSON.
        title: What stands for it.
        cells: Its columns, as text.
        score: By which it is in its place; None: it has none.
    """

    key: Any
    title: str
    cells: dict[str, str | None]
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together.

    Attributes:
        name: What it is called.
        size: How many rows it has.
        rows: Some of them.
        share: Its size as a share of the largest, 0 to 1; None: sizes say nothing.
    """

    name: str
    size: int
    rows: Sequence[Row]
    share: float | None = None


@dataclass(slots=True)
class View(Form):
    """What the page shows.

    Attributes:
        kind: What was asked; None: nothing yet.
        groups: What was found.
        note: What is to be known of it.
        copies: The same in SQL and on the command line.
    """

    kind: str | None = None
    groups: Sequence[Group] = ()
    note: str = ""
    copies: Mapping[str, str] | None = None


async def rows_page(request: Request) -> Response:
    """Show the form, and what is found."""
    view = View(fields_of(request), lines=lines_of(request))
    try:
        await _fill(request, view)
    except Exception as exc:
        view.problem = problem_of(exc)
    known = {"kinds": KINDS, "methods": METHODS, **vocabulary()}
    status = 200 if view.problem is None else view.problem.status
    answer = page("rows.html", status=status, view=view, **known)
    if view.problem is not None:
        answer.headers.update(view.problem.headers)
    return answer


async def _fill(request: Request, view: View) -> None:
    studio = studio_of(request)
    database = studio.database
    async with database.connection() as conn, database.reading(conn):
        await view.look_up(conn)
        kind = view.fields["kind"]
        if view.table is None or not kind:
            return
        if kind not in KINDS:
            raise InvalidParameter(
                f"there is no question {kind!r}", hint=f"Known: {', '.join(KINDS)}."
            )
        view.read_filter()
        embedding = view.fields["embedding"] or None
        source = await sources.source(conn, view.table, view.columns, embedding)
    view.kind = kind
    # Whoever waits for their turn holds no connection.
    async with studio.looks.rows:
        found = None
        if kind == "topics":
            found = await asyncio.to_thread(_clusters, studio, source, view)
        async with (
            database.connection() as conn,
            database.reading(conn, studio.settings.analysis_seconds),
        ):
            if found is not None:
                await _topics(conn, source, view, found)
            elif kind == "duplicates":
                await _duplicates(conn, source, view)
            else:
                await _outliers(conn, source, view)


async def rows_by_key(
    conn: Connection, source: Source, keys: Sequence[Any]
) -> list[Row]:
    """Read the rows with these keys that the role may see, in the order of the keys."""
    if not keys:
        return []
    condition = await condition_of(conn, source, filter_of_keys(source.key, keys))
    statement = _BY_KEY.format(
        key=escaped(source.key_sql),
        cells=cells_sql(source.columns),
        table=escaped(source.table.name),
        condition=escaped(condition),
    )
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, {"keys": Jsonb(keys)}, prepare=False)
        return [_row(row, source) for row in await cursor.fetchall()]


async def condition_of(
    conn: Connection, source: Source, filter: Mapping[str, Any]
) -> str:
    """Write a filter as a condition on the rows s of a table.

    Raises:
        InvalidFilter: It is none, or names a column that is not there.
    """
    asked = {"table": source.table.name, "filter": Jsonb(filter)}
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_CONDITION.encode(), asked, prepare=False)
        (found,) = await cursor.fetchone() or ("true",)
    return str(found)


def filter_of_keys(names: Sequence[str], keys: Sequence[Any]) -> dict[str, Any]:
    """Write a filter that the rows with these keys meet."""
    if len(names) == 1:
        return {names[0]: {"$in": list(keys)}}
    return {"$or": [dict(zip(names, key, strict=True)) for key in keys]}


async def _duplicates(conn: Connection, source: Source, view: View) -> None:
    options = _options(view, min_similarity=float)
    rows = await _asked(conn, source, "duplicate_groups", options, "f.group_id")
    of_group: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        of_group.setdefault(row["group_id"], []).append(row)
    largest = max((row["group_size"] for row in rows), default=1)
    view.groups = [
        Group(
            f"Group {number}",
            some[0]["group_size"],
            [_row(row, source) for row in some],
            some[0]["group_size"] / largest,
        )
        for number, some in of_group.items()
    ]
    if not rows:
        view.note = "No two rows are as similar."
    elif len(rows) == MOST_ROWS:
        view.note = f"The first {MOST_ROWS} rows of groups, the largest groups first."
    view.copies = copies_of_rows(conn, source.table.name, "duplicate_groups", options)


async def _outliers(conn: Connection, source: Source, view: View) -> None:
    options = {"k": _FARTHEST, **_options(view, k=int)}
    if view.fields["method"]:
        options["method"] = view.fields["method"]
    rows = await _asked(conn, source, "outliers", options, "f.score desc")
    found = [_row(row, source) for row in rows]
    if found:
        view.groups = [Group("Farthest from the others first", len(found), found)]
    else:
        view.note = "There are too few rows to compare."
    view.copies = copies_of_rows(conn, source.table.name, "outliers", options)


def _clusters(studio: Studio, source: Source, view: View) -> Clustering:
    """Find clusters of rows, in a thread; the database is asked beside."""
    from pgembed import analysis
    from pgembed.analysis.source import condition_sql, find_source, reading

    options = analysis.ClusterOptions(**_options(view, k=int) or {"k": _TOPICS})
    table, embedding = source.table.name, view.fields["embedding"] or None
    given = None if view.filter is None else json.dumps(view.filter)
    with studio.database.beside(studio.settings.analysis_seconds) as conn:
        found = find_source(conn, table, embedding)
        condition = condition_sql(conn, found, given)
        with reading(conn) as cursor:
            cursor.execute(
                _AT_MOST.format(
                    sql.SQL(found.table),
                    sql.SQL(condition),
                    sql.Literal(MOST_CLUSTERED + 1),
                )
            )
            (many,) = cursor.fetchone() or (0,)
        if many > MOST_CLUSTERED:
            raise InvalidParameter(
                f"there are more than {MOST_CLUSTERED:,} rows, too many for a page",
                hint="Narrow them down with a filter, or run `pgembed cluster`.",
            )
        vectors = analysis.read_vectors(conn, table, embedding=embedding, filter=given)
        clusters = analysis.find_clusters(vectors, options)
        return analysis.name_clusters(conn, vectors, clusters)


async def _topics(
    conn: Connection, source: Source, view: View, found: Clustering
) -> None:
    keys = [key for one in found.clusters for key in one.examples]
    there = await rows_by_key(conn, source, keys)
    rows = {json.dumps(row.key): row for row in there}
    largest = max((one.rows for one in found.clusters), default=1)
    view.groups = [
        Group(
            ", ".join(one.words[:_WORDS]) or "no words of its own",
            one.rows,
            [rows[name] for key in one.examples if (name := json.dumps(key)) in rows],
            one.rows / largest,
        )
        for one in found.clusters
    ]
    view.note = "The words that set a group apart, and the rows nearest to its middle."
    command = ["pgembed", "cluster", source.table.name, "-k", str(found.options.k)]
    if view.filter is not None:
        command += ["--filter", json.dumps(view.filter, ensure_ascii=False)]
    view.copies = {"Command line": shlex.join(command)}


async def _asked(
    conn: Connection,
    source: Source,
    function: str,
    options: Mapping[str, Any],
    order: LiteralString,
) -> list[dict[str, Any]]:
    arguments = checked(options)
    given = sql.SQL(", ") + named(arguments) if arguments else sql.SQL("")
    statement = _ASKED.format(
        key=escaped(source.key_sql),
        cells=cells_sql(source.columns),
        function=sql.Identifier(function),
        table=escaped(source.table.name),
        given=given,
        most=sql.Literal(MOST_ROWS),
        order=sql.SQL(order),
    )
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, arguments, prepare=False)
        return await cursor.fetchall()


def _row(found: Mapping[str, Any], source: Source) -> Row:
    cells = named_cells(found["cells"], source.columns)
    key = found["key"]
    return Row(key, title(cells, source.columns, key), cells, found.get("score"))


def _options(view: View, **kinds: type[int | float]) -> dict[str, Any]:
    """Read what was typed, the filter, and which embedding."""
    options: dict[str, Any] = {
        name: number(name, text, kind)
        for name, kind in kinds.items()
        if (text := view.fields[name].strip())
    }
    if view.kind != "topics":
        if view.filter is not None:
            options["filter"] = view.filter
        if view.fields["embedding"]:
            options["embedding"] = view.fields["embedding"]
    return options
