"""Declaration: `pgembed create | alter | drop | pause | resume | …`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import psycopg
import typer
from rich.table import Table

from pgembed.cli.common import Dsn, console
from pgembed.errors import InvalidParameter, UnknownModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgembed.encoders import Encoder

_PANEL = "Embeddings"

Name = Annotated[str, typer.Argument(help="Name of the embedding.")]
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


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (create, alter, drop, pause, resume, reembed, repair, retry):
        app.command(rich_help_panel=_PANEL)(command)
    models = typer.Typer(help="Models that embeddings may name.", no_args_is_help=True)
    models.command("add")(model_add)
    models.command("list")(model_list)
    app.add_typer(models, name="model", rich_help_panel=_PANEL)


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
) -> None:
    """Declare that an expression over a table's rows has an embedding."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        _register_if_unknown(conn, model)
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
            index_options=_json_object(index_options),
            wake=wake,
            max_attempts=max_attempts,
        )
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
) -> None:
    """Change an embedding; what is not given stays. Also repairs a broken one."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        if model is not None:
            _register_if_unknown(conn, model)
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
            index_options=_json_object(index_options),
            wake=wake,
            max_attempts=max_attempts,
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

    with psycopg.connect(dsn, autocommit=True) as conn:
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

    with psycopg.connect(dsn, autocommit=True) as conn:
        client.pause(conn, name, capture=not no_capture)
    console.print(f"Paused embedding {name}.", markup=False)


def resume(name: Name, *, dsn: Dsn = "") -> None:
    """Continue a paused embedding."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        client.resume(conn, name)
    console.print(f"Resumed embedding {name}.", markup=False)


def reembed(name: Name, *, dsn: Dsn = "") -> None:
    """Encode every row again; searches use the old vectors until then."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        client.reembed(conn, name)
    console.print(f"All rows of {name} will be encoded again.", markup=False)


def repair(name: Name, *, dsn: Dsn = "") -> None:
    """Make triggers, privileges and the rest of a declaration again."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        client.repair(conn, name)
    console.print(f"Repaired embedding {name}.", markup=False)


def retry(
    name: Annotated[
        str | None, typer.Argument(help="Name of the embedding; all by default.")
    ] = None,
    *,
    dsn: Dsn = "",
) -> None:
    """Queue failed rows again; see the view pgembed.failed for their errors."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        count = client.retry(conn, name)
    console.print(f"Queued {count} failed row{'' if count == 1 else 's'} again.")


def model_add(
    name: Annotated[str, typer.Argument(help="Hub name, or path, of the model.")],
    *,
    dsn: Dsn = "",
    provider: Annotated[
        str, typer.Option(help="sentence-transformers, hashing or litellm.")
    ] = "sentence-transformers",
    dimensions: Annotated[
        int | None,
        typer.Option(help="Length of its vectors; without it the model is loaded."),
    ] = None,
    distance: Annotated[
        str, typer.Option(help="cosine, inner_product or l2.")
    ] = "cosine",
    query_prompt: Annotated[
        str | None, typer.Option(help="Put before queries; the model's own.")
    ] = None,
    document_prompt: Annotated[
        str | None, typer.Option(help="Put before documents; the model's own.")
    ] = None,
) -> None:
    """Register a model; without --dimensions it is loaded to ask it."""
    from pgembed import client

    with psycopg.connect(dsn, autocommit=True) as conn:
        if dimensions is None:
            encoder = _load(name, provider)
            dimensions = encoder.dimensions
            normalized, max_tokens = encoder.normalized, encoder.max_tokens
        else:
            normalized, max_tokens = True, None
        client.register_model(
            conn,
            name,
            dimensions,
            provider=provider,
            distance=distance,
            normalized=normalized,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            max_tokens=max_tokens,
        )
    console.print(f"Registered {name}: {dimensions} dimensions.", markup=False)


def model_list(
    *,
    dsn: Dsn = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the registered models."""
    columns = ("name", "provider", "dimensions", "distance", "max_tokens", "used_by")
    with psycopg.connect(dsn, autocommit=True) as conn:
        rows = conn.execute(
            "select m.name, m.provider, m.dimensions, m.distance, m.max_tokens,"
            " (select count(*) from pgembed.embedding as e"
            "  where e.model_id = m.model_id)"
            " from pgembed.model as m order by m.name"
        ).fetchall()
    if as_json:
        console.print_json(
            json.dumps([dict(zip(columns, row, strict=True)) for row in rows])
        )
        return
    table = Table(*(column.replace("_", " ") for column in columns))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console.print(table, markup=False)


def _register_if_unknown(conn: psycopg.Connection, model: str) -> None:
    """Ask a model that the database does not know for its dimensions."""
    from pgembed import client

    try:
        conn.execute("select pgembed._model(%s)", [model])
    except psycopg.Error as exc:
        if exc.sqlstate != UnknownModel.sqlstate:
            raise
    else:
        return
    encoder = _load(model, "sentence-transformers")
    client.register_model(
        conn,
        model,
        encoder.dimensions,
        normalized=encoder.normalized,
        max_tokens=encoder.max_tokens,
    )
    console.print(
        f"Registered model {model}: {encoder.dimensions} dimensions.", markup=False
    )


def _load(name: str, provider: str) -> Encoder:
    from pgembed.encoders import load_encoder
    from pgembed.settings import Settings

    return load_encoder(name, provider, settings=Settings.from_env())


def _json_object(text: str | None) -> Mapping[str, int] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidParameter(
            f"not JSON: {text}", detail=str(exc), hint="For example '{\"m\": 16}'."
        ) from exc
    if not isinstance(value, dict):
        raise InvalidParameter(f"not a JSON object: {text}")
    return value
