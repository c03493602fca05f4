"""Declaration: `pgembed create | alter | drop | pause | resume | …`."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer

from pgembed.cli.common import Dsn, console, errors
from pgembed.cli.models import register_if_unknown
from pgembed.dsn import connect
from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PANEL = "Embeddings"

Name = Annotated[str, typer.Argument(help="Name of the embedding, or SCHEMA.NAME.")]
NameOfAny = Annotated[
    str, typer.Argument(help="Name of an embedding or BM25 index, or SCHEMA.NAME.")
]
IfNotExists = Annotated[
    bool,
    typer.Option("--if-not-exists", help="Where there is one, change nothing."),
]
Role = Annotated[str, typer.Argument(help="Role that the application connects as.")]
Dimensions = Annotated[
    int | None,
    typer.Option(help="Keep the model's first so many (Matryoshka models)."),
]
Distance = Annotated[
    str | None,
    typer.Option(help="cosine, inner_product or l2; the model's by default."),
]
Chunking = Annotated[str | None, typer.Option(help="sentences or none.")]
ChunkSize = Annotated[
    int | None, typer.Option(help="Longest chunk in tokens; the model's by default.")
]
ChunkOverlap = Annotated[
    int | None, typer.Option(help="Tokens repeated of the chunk before.")
]
VectorType = Annotated[
    str | None, typer.Option(help="vector or halfvec; by the dimensions.")
]
IndexOptions = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='{"m": 16, "ef_construction": 64} or {"lists": 100}.',
    ),
]
Bm25 = Annotated[
    bool | None,
    typer.Option(
        "--bm25/--no-bm25",
        help="Search by words too; by default wherever the text allows it.",
        show_default=False,
    ),
]
Bm25Config = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Text-search configuration, such as english; the database's by default.",
    ),
]
Bm25OptionsText = Annotated[
    str | None,
    typer.Option(
        "--bm25-options",
        metavar="JSON",
        help='{"k1": 1.2, "b": 0.75, "analyzer": {"fold": false}}.',
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (create, alter, drop, pause, resume, reembed, repair, retry, erase):
        app.command(rich_help_panel=_PANEL)(command)
    for privilege in (grant, revoke):
        app.command(rich_help_panel="Schema")(privilege)


def create(
    table: Annotated[
        str, typer.Argument(help="Table, as in SQL: article, shop.article.")
    ],
    text_expression: Annotated[
        str, typer.Argument(help="SQL for a row's text: \"title || ' ' || body\".")
    ],
    *,
    dsn: Dsn = "",
    name: Annotated[
        str | None, typer.Option(help="Name of the embedding; TABLE_embedding.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model; an unknown one is loaded and registered.")
    ] = "all-MiniLM-L6-v2",
    dimensions: Dimensions = None,
    distance: Distance = None,
    storage: Annotated[
        str, typer.Option(help="table, or column for one vector a row.")
    ] = "table",
    column_name: Annotated[
        str | None, typer.Option(help="The column with column storage; embedding.")
    ] = None,
    chunking: Chunking = None,
    chunk_size: ChunkSize = None,
    chunk_overlap: ChunkOverlap = None,
    vector_type: VectorType = None,
    index: Annotated[str, typer.Option(help="hnsw, ivfflat or none.")] = "hnsw",
    index_options: IndexOptions = None,
    wake: Annotated[
        str, typer.Option(help="notify, or poll with two-phase commit.")
    ] = "notify",
    max_attempts: Annotated[
        int, typer.Option(help="Attempts before a row counts as failed.")
    ] = 5,
    bm25: Bm25 = None,
    bm25_config: Bm25Config = None,
    bm25_options_text: Bm25OptionsText = None,
    if_not_exists: IfNotExists = False,
) -> None:
    """Declare that an expression over a table's rows has an embedding."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn, told(conn) as notices:
        register_if_unknown(conn, model)
        created = client.create_embedding(
            conn,
            table,
            text_expression,
            name=name,
            model=model,
            dimensions=dimensions,
            distance=distance,
            storage=storage,
            column_name=column_name,
            chunking=chunking,
            chunk_size=chunk_size,
            chunk_overlap=chunk_overlap,
            vector_type=vector_type,
            index=index,
            index_options=_index_options(index_options),
            wake=wake,
            max_attempts=max_attempts,
            bm25=bm25,
            bm25_options=bm25_options(bm25_options_text, config=bm25_config),
            if_not_exists=if_not_exists,
        )
    if not any("already, skipping" in notice for notice in notices):
        console.print(f"Created embedding {created}.", markup=False)


def alter(
    name: Name,
    *,
    dsn: Dsn = "",
    text_expression: Annotated[
        str | None, typer.Option("--text", help="SQL for a row's text.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model; removes all vectors.")
    ] = None,
    dimensions: Dimensions = None,
    distance: Distance = None,
    chunking: Chunking = None,
    chunk_size: ChunkSize = None,
    chunk_overlap: ChunkOverlap = None,
    vector_type: VectorType = None,
    index: Annotated[str | None, typer.Option(help="hnsw, ivfflat or none.")] = None,
    index_options: IndexOptions = None,
    wake: Annotated[str | None, typer.Option(help="notify or poll.")] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Attempts before a row counts as failed.")
    ] = None,
    bm25: Bm25 = None,
    bm25_config: Bm25Config = None,
    bm25_options_text: Bm25OptionsText = None,
) -> None:
    """Change an embedding; what is not given stays. Also repairs a broken one."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn, told(conn):
        if model is not None:
            register_if_unknown(conn, model)
        client.alter_embedding(
            conn,
            name,
            text_expression=text_expression,
            model=model,
            dimensions=dimensions,
            distance=distance,
            chunking=chunking,
            chunk_size=chunk_size,
            chunk_overlap=chunk_overlap,
            vector_type=vector_type,
            index=index,
            index_options=_index_options(index_options),
            wake=wake,
            max_attempts=max_attempts,
            bm25=bm25,
            bm25_options=bm25_options(bm25_options_text, config=bm25_config),
        )
    console.print(f"Changed embedding {name}.", markup=False)


def drop(
    name: Name,
    *,
    dsn: Dsn = "",
    if_exists: Annotated[
        bool, typer.Option("--if-exists", help="No error when there is none.")
    ] = False,
) -> None:
    """Remove an embedding with its vectors; the table stays as it is."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.drop_embedding(conn, name, if_exists=if_exists)
    console.print(f"Dropped embedding {name}.", markup=False)


def pause(
    name: Name,
    *,
    dsn: Dsn = "",
    no_capture: Annotated[
        bool,
        typer.Option(
            "--no-capture",
            help="Remove the triggers too, so that columns can change their type.",
        ),
    ] = False,
) -> None:
    """Stop encoding for an embedding; changes are still queued."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.pause(conn, name, capture=not no_capture)
    console.print(f"Paused embedding {name}.", markup=False)


def resume(name: Name, *, dsn: Dsn = "") -> None:
    """Continue a paused embedding."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.resume(conn, name)
    console.print(f"Resumed embedding {name}.", markup=False)


def reembed(name: Name, *, dsn: Dsn = "") -> None:
    """Encode every row again; searches use the old vectors until then."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.reembed(conn, name)
    console.print(f"All rows of {name} will be encoded again.", markup=False)


def repair(name: NameOfAny, *, dsn: Dsn = "") -> None:
    """Make again whatever was dropped of an embedding or BM25 index."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.repair(conn, name)
    console.print(f"Repaired {name}.", markup=False)


def retry(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of an embedding or BM25 index; all by default."),
    ] = None,
    *,
    dsn: Dsn = "",
) -> None:
    """Have failed rows tried again; see the view pgembed.failed for their errors."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        count = client.retry(conn, name)
    console.print(f"Queued {count} failed row{'' if count == 1 else 's'} again.")


def erase(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of an embedding or BM25 index; all by default."),
    ] = None,
    *,
    dsn: Dsn = "",
) -> None:
    """Remove at once what is still held of deleted rows and earlier texts."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.erase(conn, name)
    console.print("Erased what was held of deleted rows; VACUUM frees the space.")


def grant(role: Role, *, dsn: Dsn = "") -> None:
    """Let a role search; it still needs SELECT on the tables."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.grant_usage(conn, role)
    console.print(f"Role {role} may search the tables that it may read.", markup=False)


def revoke(role: Role, *, dsn: Dsn = "") -> None:
    """Take from a role what `grant` gave it."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn, told(conn):
        client.revoke_usage(conn, role)
    console.print(f"Role {role} may not search any more.", markup=False)


@contextmanager
def told(conn: psycopg.Connection[Any]) -> Iterator[list[str]]:
    """Show what the server remarks about a command; gives the remarks."""
    heard: list[str] = []

    def hear(remark: psycopg.errors.Diagnostic) -> None:
        heard.append(remark.message_primary or "")
        text = "\n".join(filter(None, [remark.message_primary, remark.message_hint]))
        errors.print("NOTE:", style="yellow", end=" ", highlight=False)
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    conn.add_notice_handler(hear)
    try:
        yield heard
    finally:
        conn.remove_notice_handler(hear)


def bm25_options(text: str | None, **given: object) -> dict[str, object] | None:
    """Put BM25's options together; None when there are none."""
    options = {name: value for name, value in given.items() if value is not None}
    return {**json_object(text, '{"k1": 1.2}'), **options} or None


def json_object(text: str | None, example: str) -> dict[str, Any]:
    """Read an option that is a JSON object; empty without one.

    Raises:
        InvalidParameter: It is none.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidParameter(
            f"not JSON: {text}", detail=str(exc), hint=f"For example '{example}'."
        ) from exc
    if not isinstance(value, dict):
        raise InvalidParameter(
            f"not a JSON object: {text}", hint=f"For example '{example}'."
        )
    return value


def _index_options(text: str | None) -> Mapping[str, int] | None:
    return None if text is None else json_object(text, '{"m": 16}')
