"""`pgembed model …`: models that embeddings may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer

from pgembed.cli.common import Dsn, console
from pgembed.cli.options import takes_options
from pgembed.dsn import connect
from pgembed.errors import UnknownModel
from pgembed.options import ModelOptions, VectorType

if TYPE_CHECKING:
    from pgembed.encoders import Encoder


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Models that embeddings may name.", no_args_is_help=True)
    group.command("add")(add)
    group.command("list")(list_models)
    group.command("import")(import_model)
    group.command("accept")(accept)
    group.command("export")(export)
    app.add_typer(group, name="model", rich_help_panel="Embeddings")


@takes_options(ModelOptions)
def add(
    name: Annotated[str, typer.Argument(help="Hub name, or path, of the model.")],
    *,
    dsn: Dsn = "",
    dimensions: Annotated[
        int | None,
        typer.Option(help="Length of its vectors; without it the model is loaded."),
    ] = None,
    **options: Any,
) -> None:
    """Register a model; without --dimensions it is loaded to ask it."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        if dimensions is None:
            provider = options.get("provider", "sentence-transformers")
            encoder = _load(name, provider, options.get("revision"))
            dimensions = encoder.dimensions
            found = {"normalized": encoder.normalized, "max_tokens": encoder.max_tokens}
            options = {**found, **options}
        client.register_model(conn, name, dimensions, **options)
    console.print(f"Registered {name}: {dimensions} dimensions.", markup=False)


def import_model(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder of a StaticEmbedding or model2vec model, or a file of word "
            "vectors; or its name on the hub."
        ),
    ],
    *,
    dsn: Dsn = "",
    name: Annotated[
        str, typer.Option(help="Name of the model.", show_default="that of the folder")
    ] = "",
    vector_type: Annotated[
        VectorType, typer.Option(help="How token vectors are stored.")
    ] = "halfvec",
    dimensions: Annotated[
        int | None,
        typer.Option(help="Keep so many of its dimensions.", show_default="all"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit on the hub.", metavar="COMMIT")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be stored.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Store a static model in the database: its queries need no service then."""
    from pgembed import token_vectors
    from pgembed.encoders.static import StaticEncoder

    encoder = StaticEncoder(folder, revision=revision, dimensions=dimensions)
    encoder.name = name or folder
    stored = token_vectors.of_static(encoder)
    size = stored.stored_bytes(vector_type) / 1_000_000
    console.print(
        f"{encoder.name}: {len(stored.vectors):,} tokens of {stored.dimensions} "
        f"dimensions as {vector_type}, about {size:,.0f} MB in the database.",
        markup=False,
        soft_wrap=True,
    )
    if dry_run or not (yes or typer.confirm("Store it?")):
        return
    with connect(dsn, autocommit=True) as conn:
        token_vectors.import_model(
            conn, encoder, vector_type=vector_type, revision=revision
        )
    console.print(f"Stored {encoder.name}.", markup=False, soft_wrap=True)


def list_models(
    *,
    dsn: Dsn = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the registered models."""
    columns = (
        *("name", "provider", "revision", "dimensions", "distance", "max_tokens"),
        *("used_by", "stored"),
    )
    with connect(dsn, autocommit=True) as conn:
        rows = conn.execute(
            "select m.name, m.provider, m.revision, m.dimensions,"
            " m.distance, m.max_tokens,"
            " (select count(*) from pgembed.embedding as e"
            "  where e.model_id = m.model_id),"
            " (pgembed._stored_model(m.model_id)).encoder_id is not null"
            " from pgembed.model as m order by m.name"
        ).fetchall()
    if as_json:
        console.print_json(
            json.dumps([dict(zip(columns, row, strict=True)) for row in rows])
        )
        return
    for row in rows:
        name, provider, revision, dimensions, distance, max_tokens, used_by, stored = (
            row
        )
        # A name is there to be typed again: it has a line of its own, and is not cut.
        console.print(name, style="bold", markup=False, highlight=False, soft_wrap=True)
        about = [provider, f"{dimensions} dimensions", distance]
        about += [] if max_tokens is None else [f"{max_tokens} tokens"]
        about += [] if revision is None else [f"revision {revision}"]
        about += [f"used by {used_by}"] if used_by else []
        about += ["stored in the database"] if stored else []
        console.print(f"  {', '.join(about)}", markup=False, soft_wrap=True)


def accept(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    fingerprint: Annotated[
        str, typer.Argument(help="Of the new weights, as the service's message has it.")
    ],
    *,
    dsn: Dsn = "",
) -> None:
    """Say that a model's weights changed on purpose: its vectors are made again."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        client.accept_weights(conn, name, fingerprint)
    console.print(f"All vectors of {name} will be made again.", markup=False)


def export(
    name: Annotated[
        str, typer.Argument(help="Hub name, or path, of the model to export.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write.",
            show_default="the model's own folder, or the folder of exports",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit of its repository on the hub.")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Quantise the weights to 8 bits: another model, named NAME-int8.",
        ),
    ] = False,
) -> None:
    """Write a model for onnxruntime, and compare it with its weights.

    Needs torch and the extra `export`, once; what loads the model afterwards needs
    the extra `onnx` alone. The model keeps its name, fingerprint and vectors.
    """
    from pgembed.encoders.onnx_export import export as write
    from pgembed.settings import Settings

    done = write(name, out, revision=revision, int8=int8, settings=Settings.from_env())
    for line in (
        f"Exported {name} to {done.folder}",
        f"  {done.megabytes:.0f} MiB; over {done.texts} texts the cosine to the "
        f"vectors of its weights is {done.cosine:.6f} or more",
        f"  name: {done.name}",
        f"  fingerprint: {done.fingerprint}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def register_if_unknown(conn: psycopg.Connection, model: str) -> None:
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


def _load(name: str, provider: str, revision: str | None = None) -> Encoder:
    from pgembed.encoders import load_encoder
    from pgembed.settings import Settings

    return load_encoder(name, provider, revision=revision, settings=Settings.from_env())
