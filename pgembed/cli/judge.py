"""`pgembed judge | judgements`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pgembed.cli.common import AsJson, Dsn, console
from pgembed.cli.search import TableName, shortened
from pgembed.dsn import connect


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Search")(judge)
    app.command(rich_help_panel="Search")(judgements)


def judge(
    table: TableName,
    query: Annotated[str, typer.Argument(help="Words, as they are searched for.")],
    key: Annotated[
        list[str],
        typer.Argument(help="Primary key of a row; its parts where it is composite."),
    ],
    *,
    dsn: Dsn = "",
    grade: Annotated[
        int, typer.Option(help="0: not relevant; 1, 2, 3: more and more so.")
    ] = 1,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="Remove what your role said before.")
    ] = False,
) -> None:
    """Say how relevant a row is to a query; eval, tune and tune-index measure by it."""
    from pgembed import client

    found = key[0] if len(key) == 1 else tuple(key)
    with connect(dsn, autocommit=True) as conn:
        client.judge(conn, table, query, found, None if take_back else grade)


def judgements(
    table: TableName,
    *,
    dsn: Dsn = "",
    only_query: Annotated[
        str | None, typer.Option("--query", help="Only what is said of this query.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was judged: by your role, its groups, or all if you own the table."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        found = client.judgements(conn, table, only_query)
    if as_json:
        for one in found:
            typer.echo(json.dumps(asdict(one), default=str, ensure_ascii=False))
        return
    if not found:
        console.print("No judgements.")
        return
    shown = Table(title=f"{len(found):,} judgements", title_justify="left")
    shown.add_column("query")
    shown.add_column("key")
    shown.add_column("grade", justify="right")
    shown.add_column("by")
    shown.add_column("at")
    before = None
    for one in found:
        query = "" if one.query == before else shortened(one.query)
        shown.add_row(
            Text(query),
            Text(shortened(one.key)),
            str(one.grade),
            Text(one.judged_by),
            f"{one.judged_at:%Y-%m-%d %H:%M}",
        )
        before = one.query
    console.print(shown)
