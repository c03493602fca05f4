"""`pgembed bm25 …`: BM25 indexes of their own, and their upkeep."""

from __future__ import annotations

from typing import Annotated

import typer

from pgembed.cli.common import Dsn, console
from pgembed.cli.declare import IfNotExists, Reset, bm25_options, told
from pgembed.cli.options import json_object
from pgembed.dsn import connect

Name = Annotated[str, typer.Argument(help="Name of the BM25 index, or SCHEMA.NAME.")]
Config = Annotated[
    str | None,
    typer.Option(help="Text-search configuration, such as english; the database's."),
]
ConfigExpression = Annotated[
    str | None,
    typer.Option(metavar="SQL", help="The configuration of a row, in its own words."),
]
Fields = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='Columns of the text, times each counts: {"title": 3, "body": 1}.',
    ),
]
Analyzer = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='Steps before words are made, each on unless false: {"fold": false}.',
    ),
]
K1 = Annotated[
    float | None, typer.Option("--k1", help="How late a word's count saturates; 1.2.")
]
B = Annotated[
    float | None, typer.Option("--b", help="How much length counts, 0 to 1; 0.75.")
]

IsDefault = Annotated[
    bool,
    typer.Option(
        "--is-default", help="Searches by words that name only the table use it."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        help="BM25 without vectors; an embedding has BM25 by itself.",
        no_args_is_help=True,
    )
    for command in (create, alter, drop, maintain, rebuild):
        group.command()(command)
    app.add_typer(group, name="bm25", rich_help_panel="Embeddings")


def create(
    table: Annotated[
        str, typer.Argument(help="Table, as in SQL: article, shop.article.")
    ],
    text_expression: Annotated[
        str | None,
        typer.Argument(
            help="SQL for a row's text: \"title || ' ' || body\"; else --fields."
        ),
    ] = None,
    *,
    dsn: Dsn = "",
    name: Annotated[
        str | None, typer.Option(help="Name of the index; TABLE_bm25.")
    ] = None,
    config: Config = None,
    config_expression: ConfigExpression = None,
    analyzer: Analyzer = None,
    fields: Fields = None,
    k1: K1 = None,
    b: B = None,
    is_default: IsDefault = False,
    if_not_exists: IfNotExists = False,
) -> None:
    """Declare that a table's rows are found by the words of an expression."""
    from pgembed import client

    options = bm25_options(
        config=config,
        config_expression=config_expression,
        analyzer=analyzer and json_object(analyzer, '{"fold": false}'),
        fields=fields and json_object(fields, '{"title": 3, "body": 1}'),
        k1=k1,
        b=b,
    )
    with connect(dsn, autocommit=True) as conn, told(conn) as notices:
        created = client.create_bm25(
            conn,
            table,
            text_expression,
            name=name,
            options=options,
            is_default=is_default,
            if_not_exists=if_not_exists,
        )
    if any("already, skipping" in notice for notice in notices):
        return
    console.print(f"Created BM25 index {created}.", markup=False)


def alter(
    name: Name,
    *,
    dsn: Dsn = "",
    text_expression: Annotated[
        str | None, typer.Option("--text", help="SQL for a row's text.")
    ] = None,
    config: Config = None,
    config_expression: ConfigExpression = None,
    analyzer: Analyzer = None,
    fields: Fields = None,
    k1: K1 = None,
    b: B = None,
    reset: Reset = None,
    is_default: IsDefault = False,
) -> None:
    """Change a BM25 index; what is not given stays."""
    from pgembed import client

    options = bm25_options(
        config=config,
        config_expression=config_expression,
        analyzer=analyzer and json_object(analyzer, '{"fold": false}'),
        fields=fields and json_object(fields, '{"title": 3, "body": 1}'),
        k1=k1,
        b=b,
    )
    with connect(dsn, autocommit=True) as conn:
        client.alter_bm25(
            conn,
            name,
            text_expression=text_expression,
            options=options,
            reset=reset,
            is_default=is_default or None,
        )
    console.print(f"Changed BM25 index {name}.", markup=False)


def drop(
    name: Name,
    *,
    dsn: Dsn = "",
    if_exists: Annotated[
        bool, typer.Option("--if-exists", help="No error when there is none.")
    ] = False,
) -> None:
    """Remove a BM25 index; the table stays as it is."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.drop_bm25(conn, name, if_exists=if_exists)
    console.print(f"Dropped BM25 index {name}.", markup=False)


def maintain(
    name: Annotated[
        str | None, typer.Argument(help="Name of the BM25 index; all by default.")
    ] = None,
    *,
    dsn: Dsn = "",
    min_rows: Annotated[
        int | None,
        typer.Option(help="Pack once so many changed rows have gathered; 2,000."),
    ] = None,
) -> None:
    """Build, pack, merge and purge now; a running encoder service does it by itself."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        done = client.bm25_maintain(conn, name, min_rows=min_rows)
    if not done:
        console.print("Nothing was due.")
    for index, what in done.items():
        console.print(f"{index}: {what}", markup=False)
    if any(what.startswith("broken") for what in done.values()):
        raise typer.Exit(1)


def rebuild(name: Name, *, dsn: Dsn = "") -> None:
    """Build a BM25 index anew from the rows as they are."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.bm25_rebuild(conn, name)
    console.print(f"BM25 index {name} will be built anew.", markup=False)
