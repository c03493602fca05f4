"""`pgembed export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pgembed.cli.analysis import PANEL, Source, progress_bar, say, say_left_out
from pgembed.cli.common import Dsn
from pgembed.cli.search import Embedding, FilterText
from pgembed.dsn import connect


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel=PANEL)(export)


def export(
    source: Source,
    file: Annotated[
        Path, typer.Argument(help="File to write: .parquet, .csv or .jsonl.")
    ],
    *,
    dsn: Dsn = "",
    embedding: Embedding = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Columns to write, besides the key."),
    ] = None,
    filter: FilterText = None,
) -> None:
    """Write keys, columns and vectors of a table's rows to a file.

    Needs the extra `analysis`. Writes the rows that you may see; a row of several
    chunks has their mean.
    """
    from pgembed.analysis.files import check_file, export_vectors
    from pgembed.analysis.source import find_source
    from pgembed.analysis.vectors import read_source

    check_file(file)
    wanted = [] if columns is None else [name.strip() for name in columns.split(",")]
    with connect(dsn, autocommit=True) as conn, progress_bar() as progress:
        found = find_source(conn, source, embedding)
        others = [name for name in dict.fromkeys(wanted) if name not in found.key]
        vectors = read_source(
            conn, found, filter=filter, columns=others, progress=progress
        )
        progress("writing", 0)
        export_vectors(vectors, file)
    say(f"Written to {file}: {len(vectors):,} rows.")
    say_left_out(vectors.left_out)
