"""The page of the map: rows as points, those in an outline, and what is found."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from pgembed.errors import InvalidParameter
from pgembed.studio import colours, points, searches, sources
from pgembed.studio.copies import copies_of_keys, copy_of_outline
from pgembed.studio.forms import Form, fields_of, lines_of, number
from pgembed.studio.pages import vocabulary
from pgembed.studio.problems import Problem, problem_of
from pgembed.studio.render import page
from pgembed.studio.rows import (
    MOST_ROWS,
    Row,
    condition_of,
    filter_of_keys,
    rows_by_key,
)
from pgembed.studio.shared import form_of, studio_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from pgembed.studio.database import Connection
    from pgembed.studio.shared import Studio
    from pgembed.studio.sources import Source

MOST_KEYS = 1_000  # in a condition to copy
MOST_CORNERS = 500  # of an outline
_HITS = 50


@dataclass(slots=True)
class Picked:
    """Rows beside the map.

    Attributes:
        title: What they are.
        total: How many there are.
        rows: Those that are shown.
        copies: Conditions that they meet, to copy.
        notes: What is to be known of them.
        problem: Why there are none.
    """

    title: str
    total: int
    rows: Sequence[Row] = ()
    copies: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    problem: Problem | None = None


async def map_page(request: Request) -> Response:
    """Show the page, which then asks for its points."""
    view = Form(fields_of(request), lines=lines_of(request))
    database = studio_of(request).database
    try:
        async with database.connection() as conn, database.reading(conn):
            await view.look_up(conn, with_vectors=True)
    except Exception as exc:
        view.problem = problem_of(exc)
    status = 200 if view.problem is None else view.problem.status
    answer = page("map.html", status=status, view=view, **_vocabulary())
    if view.problem is not None:
        answer.headers.update(view.problem.headers)
    return answer


async def source_part(request: Request) -> Response:
    """Show what depends on the table: its columns, as conditions and as colours."""
    view = Form(fields_of(request))
    database = studio_of(request).database
    async with database.connection() as conn, database.reading(conn):
        await view.look_up(conn, with_vectors=True)
    return page("_map_source.html", view=view, **_vocabulary())


async def points_part(request: Request) -> Response:
    """Give the points, as `Points.as_bytes` writes them."""
    studio = studio_of(request)
    database = studio.database
    async with database.connection() as conn, database.reading(conn):
        view, source = await _asked(conn, request)
    asked = points.Asked(
        table=source.table.name,
        columns=source.columns,
        embedding=view.fields["embedding"] or None,
        filter=None if view.filter is None else json.dumps(view.filter),
        map=view.fields["map"] or None,
        colour=view.fields["colour"],
    )
    # Whoever waits for their turn holds no connection.
    async with studio.looks.rows:
        found = await asyncio.to_thread(_points, studio, asked)
    return Response(found, media_type="application/octet-stream")


async def row_part(request: Request) -> Response:
    """Show the row of a point."""
    key = _read("key", request.query_params.get("key", ""))
    database = studio_of(request).database
    async with database.connection() as conn, database.reading(conn):
        _, source = await _asked(conn, request)
        rows = await rows_by_key(conn, source, [key])
    return page("_map_row.html", rows=rows)


async def rows_part(request: Request) -> Response:
    """Show rows by their keys, and conditions that they meet."""
    given = await form_of(request)
    keys = _read("keys", given.get("keys", ""))
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise InvalidParameter(f"keys must be a list, of {MOST_KEYS:,} at most")
    outline = _outline(given.get("outline", "[]"))
    total = number("total", given.get("total", "0"), int)
    picked = Picked("In the outline", max(len(keys), int(total)))
    database = studio_of(request).database
    async with database.connection() as conn, database.reading(conn):
        view, source = await _asked(conn, request)
        rows = await rows_by_key(conn, source, keys)
        if picked.total > MOST_KEYS:
            picked.notes = [
                f"They are too many for a condition of keys: {MOST_KEYS:,} at most."
            ]
        elif rows:
            there = filter_of_keys(source.key, [row.key for row in rows])
            picked.copies = copies_of_keys(conn, source, there)
        table = await sources.qualified(conn, given.get("map", ""))
        if table is not None and outline:
            condition = ""
            if view.filter is not None:
                condition = await condition_of(conn, source, view.filter)
            picked.copies |= copy_of_outline(conn, source, table, outline, condition)
    picked.rows = rows[:MOST_ROWS]
    if picked.total > len(picked.rows):
        picked.notes = [f"The first {len(picked.rows)} are shown.", *picked.notes]
    return page("_picked.html", picked=picked)


async def hits_part(request: Request) -> Response:
    """Search, and show what is found; the page marks it on the map."""
    studio = studio_of(request)
    database = studio.database
    async with database.connection() as conn:
        async with database.reading(conn):
            view, source = await _asked(conn, request)
        options: dict[str, Any] = {"k": _HITS}
        if view.filter is not None:
            options["filter"] = view.filter
        if view.fields["embedding"]:
            options["embedding"] = view.fields["embedding"]
        found = await searches.search(
            database,
            conn,
            source,
            [searches.Asked(view.fields["q"], options)],
            studio.settings.encode_seconds,
        )
    # By both, or by words where nothing encodes the query.
    usable = [one for one in found.rankings if one.problem is None]
    best = usable[-1] if usable else found.rankings[-1]
    rows = [Row(hit.key, hit.title, hit.cells, hit.about["score"]) for hit in best.hits]
    picked = Picked(f"Found by {best.arm}", len(rows), rows, problem=best.problem)
    return page("_picked.html", picked=picked)


async def _asked(conn: Connection, request: Request) -> tuple[Form, Source]:
    """Look up what the form is about.

    Raises:
        InvalidParameter: The role may search no such table.
        InvalidFilter: The filter is none.
        UnknownEmbedding: The table has none of this name.
    """
    view = Form(fields_of(request), lines=lines_of(request))
    await view.look_up(conn, with_vectors=True)
    if view.table is None:
        raise InvalidParameter("no table that this role may read has an embedding")
    view.read_filter()
    embedding = view.fields["embedding"] or None
    return view, await sources.source(conn, view.table, view.columns, embedding)


def _points(studio: Studio, asked: points.Asked) -> bytes:
    with studio.database.beside(studio.settings.analysis_seconds) as conn:
        return points.read_points(conn, asked).as_bytes()


def _read(name: str, text: str) -> Any:
    """Read what the page's script sends.

    Raises:
        InvalidParameter: It is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidParameter(f"{name} must be JSON, not {text[:40]!r}") from exc


def _outline(text: str) -> list[tuple[float, float]]:
    """Read the corners of an outline.

    Raises:
        InvalidParameter: It is none.
    """
    given = _read("outline", text)
    try:
        corners = [(float(x), float(y)) for x, y in given]
    except (TypeError, ValueError) as exc:
        raise InvalidParameter("outline must be a list of [x, y]") from exc
    if len(corners) > MOST_CORNERS:
        raise InvalidParameter(f"outline has more than {MOST_CORNERS} corners")
    return corners


def _vocabulary() -> dict[str, Any]:
    known = {"kinds": colours.KINDS, "of_column": colours.COLUMN}
    return {**vocabulary(), **known, "badly": colours.SHOWN_BADLY}
