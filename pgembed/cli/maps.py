"""`pgembed map`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from pgembed.cli.common import Dsn
from pgembed.cli.evaluate import Chart
from pgembed.cli.search import Embedding, FilterText
from pgembed.dsn import connect
from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from pgembed.analysis import ResultTable, Vectors
    from pgembed.analysis.maps import MapOptions
    from pgembed.analysis.vectors import Progress
    from pgembed.evaluation.target import Connection


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("map", rich_help_panel=PANEL)(draw_map)


def draw_map(
    source: Source,
    *,
    dsn: Dsn = "",
    embedding: Embedding = None,
    filter: FilterText = None,
    perplexity: Annotated[
        float, typer.Option(help="About how many neighbours a row is drawn near to.")
    ] = 30,
    seed: Seed = 0,
    into: Into = None,
    replace: Replace = False,
    add: Annotated[
        bool,
        typer.Option(
            "--add", help="Place rows that are new into the map of that table."
        ),
    ] = False,
    out: Out = None,
    chart: Chart = None,
    colour: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of the chart's points.")
    ] = None,
) -> None:
    """Place the rows of a table on a plane: what is similar is near (t-SNE).

    Needs the extra `analysis`. Give --into, --out or --chart, or several of them.
    """
    from pgembed import analysis
    from pgembed.analysis.charts import save_map_chart
    from pgembed.analysis.files import check_file, key_columns, write_file
    from pgembed.analysis.results import COLUMNS, comment
    from pgembed.analysis.source import find_source
    from pgembed.analysis.vectors import read_source
    from pgembed.evaluation.chart import check_chart_file

    _check(into, out, chart, colour, add=add, replace=replace)
    if chart is not None:
        check_chart_file(chart)
    if out is not None:
        check_file(out)
    options = analysis.MapOptions(perplexity=perplexity, seed=seed)
    with connect(dsn, autocommit=True) as conn, progress_bar() as progress:
        found = find_source(conn, source, embedding)
        table = None
        if into is not None:
            table = analysis.result_table(
                conn, into, found, COLUMNS["map"], replace=replace or add
            )
        columns = [] if colour is None else [colour]
        vectors = read_source(
            conn, found, filter=filter, columns=columns, progress=progress
        )
        if add and table is not None and table.is_there:
            added = _add(conn, table, vectors, options, progress)
        else:
            points = analysis.make_map(vectors, options, progress=progress)
            if table is not None:
                rows = zip(vectors.keys, points.tolist(), strict=True)
                table.write(
                    conn,
                    ((*key, *point) for key, point in rows),
                    comment=comment("map", found),
                )
            added = len(vectors)
    if not add and out is not None:
        keys = key_columns(vectors)
        write_file(out, keys | {"x": points[:, 0].tolist(), "y": points[:, 1].tolist()})
        say(f"Written to {out}.")
    if not add and chart is not None:
        save_map_chart(
            points,
            chart,
            title=f"{found.embedding}: {len(vectors):,} rows",
            values=None if colour is None else vectors.columns[colour],
        )
        say(f"Drawn to {chart}.")
    if table is not None:
        say(f"Written to {'.'.join(table.name)}: {added:,} rows.")
    say_left_out(vectors.left_out)


def _check(*given: Any, add: bool, replace: bool) -> None:
    into, out, chart, colour = given
    if into is None and out is None and chart is None:
        raise InvalidParameter(
            "the map would go nowhere", hint="Give --into, --out or --chart."
        )
    if add and (into is None or replace or out is not None or chart is not None):
        raise InvalidParameter("--add goes with --into alone")
    if colour is not None and chart is None:
        raise InvalidParameter("--colour is of a chart", hint="Give --chart FILE.")


def _add(
    conn: Connection,
    table: ResultTable,
    vectors: Vectors,
    options: MapOptions,
    progress: Progress,
) -> int:
    """Place what is new; gives how many rows that is."""
    import numpy as np

    from pgembed.analysis.maps import place, read_points

    there = read_points(conn, table)
    known = [row for row, key in enumerate(vectors.keys) if key in there]
    new = [row for row, key in enumerate(vectors.keys) if key not in there]
    if not new:
        return 0
    points = np.array([there[vectors.keys[row]] for row in known], np.float32)
    placed = place(
        vectors.rows(known), points, vectors.rows(new), options, progress=progress
    )
    pairs = zip(new, placed.tolist(), strict=True)
    table.write(conn, ((*vectors.keys[row], *point) for row, point in pairs), keep=True)
    return len(new)
