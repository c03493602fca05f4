"""`pgembed distil`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from pgembed.cli.common import Dsn, console
from pgembed.dsn import connect
from pgembed.errors import UnknownEmbedding
from pgembed.options import VectorType

if TYPE_CHECKING:
    import psycopg

    from pgembed.encoders import Encoder
    from pgembed.query_encoder.store import Target

_EMBEDDING_OF = (
    "select pgembed._qualified_name(e.source, e.name)"
    " from pgembed.embedding as e join pgembed.model as m using (model_id)"
    " where e.source = to_regclass(%s) and e.storage = 'table'"
    " order by m.fingerprint is distinct from %s, e.name limit 1"
)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Embeddings")(distil)


def distil(
    model: Annotated[str, typer.Argument(help="The model, by name or path.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the static model.")],
    dsn: Dsn = "",
    dimensions: Annotated[int, typer.Option(help="Of its vectors.")] = 256,
    table: Annotated[
        str | None,
        typer.Option(
            help="A table with an embedding: the vocabulary is that of its texts. "
            "Where it is of this model, what is stored of it is trained on, too.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the model to as well.")
    ] = None,
    vector_type: Annotated[
        VectorType, typer.Option(help="How token vectors are stored.")
    ] = "halfvec",
    over_row_security: Annotated[
        bool,
        typer.Option(
            "--over-row-security",
            help="Learn from a table with row security: its words can then be seen by "
            "all who search.",
        ),
    ] = False,
) -> None:
    """Make a static model out of a model, and store it in the database.

    A static model encodes documents and queries by a look-up and a mean: hundreds of
    times as fast, and not as well. Queries need no service then.
    """
    from pgembed import token_vectors
    from pgembed.distil import distil as make
    from pgembed.encoders import load_encoder
    from pgembed.encoders.static import StaticEncoder
    from pgembed.query_encoder.store import read_chunks
    from pgembed.settings import Settings

    teacher = load_encoder(model, settings=Settings.from_env())
    with (
        connect(dsn, autocommit=True) as conn,
        Progress(console=console, transient=True) as bar,
        tempfile.TemporaryDirectory() as scratch,
    ):
        task = bar.add_task("", total=1)
        texts, vectors = None, None
        if table is not None:
            bar.update(task, description="reading")
            embedding, of = _embedding_of(conn, table, teacher)
            texts, vectors = read_chunks(
                conn, embedding, of, over_row_security=over_row_security
            )
            if of.fingerprint != teacher.fingerprint:
                vectors = None
        made = make(
            teacher,
            dimensions=dimensions,
            texts=texts,
            vectors=vectors,
            progress=lambda what, done: bar.update(
                task, description=what, completed=done
            ),
        )
        folder = out or Path(scratch) / "model"
        made.save(folder)
        encoder = StaticEncoder(str(folder))
        encoder.name = name
        token_vectors.import_model(conn, encoder, vector_type=vector_type)
    learnt = ""
    if texts is not None:
        trained = "" if vectors is None else " and their vectors"
        learnt = f", learnt from {len(texts):,} chunks of {table}{trained}"
    console.print(
        f"Stored {name}: {len(made.vectors):,} pieces of words, {dimensions} "
        f"dimensions{learnt}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _embedding_of(
    conn: psycopg.Connection, table: str, teacher: Encoder
) -> tuple[str, Target]:
    from pgembed.query_encoder.store import target

    row = conn.execute(_EMBEDDING_OF, [table, teacher.fingerprint]).fetchone()
    if row is None:
        raise UnknownEmbedding(
            f"table {table} has no embedding with a side table",
            hint="Declare one: pgembed create.",
        )
    return row[0], target(conn, row[0])
