"""`pgembed search | similar`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer
from rich.table import Table

from pgembed.cli.common import Dsn, console
from pgembed.errors import InvalidFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.client import Hit

_PANEL = "Search"
_SHOWN_CHARACTERS = 200

TableName = Annotated[str, typer.Argument(metavar="TABLE", help="Table, as in SQL.")]
Count = Annotated[int, typer.Option("-k", help="Number of hits, 1 to 10,000.")]
FilterText = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="JSON",
        help='Conditions: {"category": "books", "price": {"$lt": 20}}.',
    ),
]
Embedding = Annotated[
    str | None, typer.Option(help="Which embedding, where the table has several.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one hit a line.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (search, similar):
        app.command(rich_help_panel=_PANEL)(command)


def search(
    table: TableName,
    query: Annotated[str, typer.Argument(help="Words to search for.")],
    *,
    dsn: Dsn = "",
    k: Count = 10,
    filter_text: FilterText = None,
    embedding: Embedding = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Encode the query in this process with this registered model, "
            "instead of asking the encoder service.",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every row, without index.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find the rows of a table that are nearest to a query."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        hits = client.search(
            conn,
            table,
            query,
            k=k,
            filter=_filter(filter_text),
            embedding=embedding,
            encoder=encoder,
            exact=exact,
        )
    _show(hits, as_json=as_json)


def similar(
    table: TableName,
    key: Annotated[
        list[str],
        typer.Argument(help="Primary key of a row; its parts where it is composite."),
    ],
    *,
    dsn: Dsn = "",
    k: Count = 10,
    filter_text: FilterText = None,
    embedding: Embedding = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows most like a row."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        hits = client.similar(
            conn,
            table,
            key[0] if len(key) == 1 else tuple(key),
            k=k,
            filter=_filter(filter_text),
            embedding=embedding,
        )
    _show(hits, as_json=as_json)


def _filter(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidFilter(f"the filter is not JSON: {text}", detail=str(exc)) from exc
    if not isinstance(value, dict):
        raise InvalidFilter(
            f"the filter is not a JSON object: {text}",
            hint='For example \'{"price": {"$lt": 20}}\'.',
        )
    return value


def _show(hits: Sequence[Hit[dict[str, Any]]], *, as_json: bool) -> None:
    if as_json:
        for hit in hits:
            line = {
                "similarity": hit.similarity,
                "distance": hit.distance,
                "chunk": hit.chunk,
                "content": hit.content,
                "doc": hit.doc,
            }
            typer.echo(json.dumps(line, default=str, ensure_ascii=False))
        return
    if not hits:
        console.print("No row matches.")
        return
    table = Table("similarity", "row", "best chunk")
    for hit in hits:
        row = "\n".join(f"{name}: {_short(value)}" for name, value in hit.doc.items())
        table.add_row(f"{hit.similarity:.3f}", row, _short(hit.content or ""))
    console.print(table, markup=False)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return text[: _SHOWN_CHARACTERS - 1] + "…"
