"""`pgembed cluster`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pgembed.cli.analysis import (
    PANEL,
    Into,
    Out,
    Replace,
    Seed,
    Source,
    progress_bar,
    say,
    say_left_out,
)
from pgembed.cli.common import AsJson, Dsn, console
from pgembed.cli.search import Embedding, FilterText
from pgembed.dsn import connect

if TYPE_CHECKING:
    from pgembed.analysis import Clustering


class Method(StrEnum):
    """Ways to cluster."""

    KMEANS = "kmeans"
    HDBSCAN = "hdbscan"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel=PANEL)(cluster)


def cluster(
    source: Source,
    *,
    dsn: Dsn = "",
    embedding: Embedding = None,
    method: Annotated[
        Method,
        typer.Option(
            help="kmeans: -k clusters; hdbscan: where rows are dense, and rows "
            "elsewhere are in none."
        ),
    ] = Method.KMEANS,
    k: Annotated[int, typer.Option("-k", help="Clusters of kmeans.")] = 10,
    min_size: Annotated[
        int, typer.Option(help="Rows of the smallest cluster of hdbscan.")
    ] = 10,
    seed: Seed = 0,
    filter: FilterText = None,
    into: Into = None,
    replace: Replace = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Group the rows of a table by their vectors, and name the groups by their words.

    Needs the extra `analysis`. Reads the rows that you may see; --into writes key,
    cluster and label of each to a table, --out to a file.
    """
    from pgembed import analysis
    from pgembed.analysis.files import check_file, key_columns, write_file
    from pgembed.analysis.results import COLUMNS, comment
    from pgembed.analysis.source import find_source
    from pgembed.analysis.vectors import read_source

    options = analysis.ClusterOptions(
        method=method.value, k=k, min_size=min_size, seed=seed
    )
    if out is not None:
        check_file(out)
    with connect(dsn, autocommit=True) as conn, progress_bar() as progress:
        found = find_source(conn, source, embedding)
        table = None
        if into is not None:
            columns = COLUMNS["clusters"]
            table = analysis.result_table(conn, into, found, columns, replace=replace)
        vectors = read_source(conn, found, filter=filter, progress=progress)
        clustering = analysis.find_clusters(vectors, options, progress=progress)
        progress("naming", 0)
        clustering = analysis.name_clusters(conn, vectors, clustering)
        labels = {one.number: one.label or None for one in clustering.clusters}
        if table is not None:
            progress("writing", 0)
            rows = (
                (*key, number, labels[number])
                for key, number in zip(
                    vectors.keys, clustering.numbers.tolist(), strict=True
                )
            )
            table.write(conn, rows, comment=comment("clusters", found))
    if out is not None:
        numbers = clustering.numbers.tolist()
        results = {"cluster": numbers, "label": [labels[one] for one in numbers]}
        write_file(out, key_columns(vectors) | results)
    if as_json:
        typer.echo(json.dumps(clustering.as_dict(), indent=2, ensure_ascii=False))
        return
    _show(clustering)
    if out is not None:
        say(f"Written to {out}: {len(vectors):,} rows.")
    if table is not None:
        say(f"Written to {'.'.join(table.name)}: {len(vectors):,} rows.")


def _show(clustering: Clustering) -> None:
    table = Table(
        title=Text(f"{clustering.embedding}: {clustering.rows:,} rows"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", justify="right")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("words", ratio=1)
    table.add_column("nearest keys")
    for one in clustering.clusters:
        keys = ", ".join(json.dumps(key, ensure_ascii=False) for key in one.examples)
        table.add_row(
            "none" if one.number < 0 else str(one.number),
            f"{one.rows:,}",
            f"{one.share:.0%}",
            f"{one.similarity:.2f}",
            Text(", ".join(one.words)),
            Text(keys),
        )
    console.print(table)
    if clustering.silhouette is not None:
        say(
            f"silhouette {clustering.silhouette:.2f}: of -1 to 1, how much nearer rows "
            "are to their own cluster than to the next",
            "dim",
        )
    say_left_out(clustering.left_out)
