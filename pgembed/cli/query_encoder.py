"""`pgembed train-query-encoder`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from pgembed.cli.common import Dsn, console
from pgembed.dsn import connect
from pgembed.options import VectorType

if TYPE_CHECKING:
    import psycopg

    from pgembed.encoders import Encoder


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Embeddings")(train_query_encoder)


def train_query_encoder(
    name: Annotated[str, typer.Argument(help="The embedding.")],
    *,
    dsn: Dsn = "",
    without_model: Annotated[
        bool,
        typer.Option(
            "--without-model",
            help="Do not load the model: a little less exact, and needs no model here.",
        ),
    ] = False,
    vector_type: Annotated[
        VectorType, typer.Option(help="How token vectors are stored.")
    ] = "halfvec",
    most_texts: Annotated[
        int, typer.Option(help="Train on so many chunks at most.")
    ] = 100_000,
    over_row_security: Annotated[
        bool,
        typer.Option(
            "--over-row-security",
            help="Train although the table has row security: what is near what can "
            "then be told by all who search.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
) -> None:
    """Let PostgreSQL encode queries by itself, in the space of an embedding's model."""
    from pgembed.query_encoder.store import train_query_encoder as train
    from pgembed.query_encoder.training import OVERLAP_OF

    with (
        connect(dsn, autocommit=True) as conn,
        Progress(console=console, transient=True) as bar,
    ):
        encoder = None if without_model else _model_of(conn, name)
        task = bar.add_task("", total=1)
        trained = train(
            conn,
            name,
            encoder=encoder,
            vector_type=vector_type,
            most_texts=most_texts,
            over_row_security=over_row_security,
            seed=seed,
            progress=lambda what, done: bar.update(
                task, description=what, completed=done
            ),
        )
    agreement = trained.agreement
    said = (
        f"Trained a query encoder of {name}: {trained.vectors.any(axis=1).sum():,} "
        "pieces of words."
    )
    if agreement.texts > OVERLAP_OF:
        said += (
            f" On {agreement.texts} chunks that it has not seen, the cosine to the "
            f"model's vectors is {agreement.cosine:.2f}, and of the 10 nearest both "
            f"find {agreement.overlap:.0%}."
        )
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def _model_of(conn: psycopg.Connection, name: str) -> Encoder:
    from pgembed._client.encoders import MODEL_ROW, ModelRow, load
    from pgembed.query_encoder.store import target

    model = {"model": target(conn, name).model}
    row = conn.execute(MODEL_ROW, model).fetchone()
    assert row is not None
    return load(ModelRow(*row))
