"""`pgembed tune-index`: which vector index suits an embedding."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.bar import Bar
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pgembed.cli.common import AsJson, Dsn, console, errors
from pgembed.cli.declare import Name
from pgembed.cli.evaluate import Chart, Encoder, Judgements, Key, Queries, Split
from pgembed.dsn import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgembed.evaluation import TuningPlan, TuningReport
    from pgembed.evaluation.scratch import Setup

_STEP = 1024
_BAR_WIDTH = 24


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("tune-index", rich_help_panel="Search")(tune_index)


def tune_index(
    embedding: Name,
    *,
    dsn: Dsn = "",
    rows: Annotated[
        int, typer.Option(help="Vectors to try it on, at most: a sample of them.")
    ] = 10_000,
    target: Annotated[
        float,
        typer.Option("--recall", help="Recall that is enough, above 0, at most 1."),
    ] = 0.95,
    k: Annotated[int, typer.Option("-k", help="Nearest rows that count.")] = 10,
    sample: Annotated[
        int, typer.Option(min=1, help="Stored vectors that serve as queries.")
    ] = 100,
    dimensions: Annotated[
        list[int] | None,
        typer.Option(
            help="Try shorter vectors, of so many dimensions; repeat it. By default "
            "those that the model is published for (Matryoshka), else half of them.",
            show_default=False,
        ),
    ] = None,
    reductions: Annotated[
        list[str] | None,
        typer.Option(
            "--reduction",
            help="What makes them shorter: truncate, pca; repeat it. Both by default.",
            show_default=False,
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--type", help="vector, halfvec, binary; repeat it. All by default."
        ),
    ] = None,
    indexes: Annotated[
        list[str] | None,
        typer.Option("--index", help="hnsw, ivfflat, none; repeat it. All by default."),
    ] = None,
    m: Annotated[
        list[int] | None,
        typer.Option(
            "--m",
            help="Of HNSW, with four times as much ef_construction; repeat it. "
            "16 by default, and 32 where that needs a large ef_search.",
            show_default=False,
        ),
    ] = None,
    queries: Queries = None,
    cached: Annotated[
        bool,
        typer.Option(
            "--cached",
            help="Search for what was searched before: your role's queries that are "
            "still in the cache.",
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Queries and judgements in BEIR's layout, as for eval: nDCG too.",
        ),
    ] = None,
    judgements: Judgements = False,
    split: Split = "test",
    key: Key = None,
    encode_here: Encoder = False,
    seed: Annotated[int, typer.Option(help="Another takes another sample.")] = 0,
    chart: Chart = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be tried.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try which vector index suits an embedding, on a sample of its own vectors.

    Measures recall against exact search, size, build and latency for types, lengths
    and indexes, and says which is fastest with enough recall, with the call of
    alter_embedding to paste. Everything happens in temporary tables of one session;
    the embedding and its table stay as they are.
    """
    from pgembed import evaluation

    if chart is not None:
        from pgembed.evaluation.chart import check_chart_file

        check_chart_file(chart)
    given = {
        name: value
        for name, value in (
            ("kinds", kinds),
            ("indexes", indexes),
            ("m", m),
            ("reductions", reductions),
        )
        if value
    }
    options = evaluation.TuningOptions(
        rows=rows,
        recall=target,
        k=k,
        sample=sample,
        dimensions=dimensions or None,
        queries=evaluation.read_queries(queries) if queries else None,
        cached=cached,
        judged=evaluation.load_data(evaluation.find_data(data, split))
        if data
        else None,
        stored=judgements,
        key=key,
        encoder="here" if encode_here else None,
        seed=seed,
        **given,  # type: ignore[arg-type]
    )
    with connect(dsn, autocommit=True) as conn:
        plan = evaluation.plan_tuning(conn, embedding, options)
        errors.print(_plan(plan), highlight=False, markup=False)
        if dry_run:
            return
        with _progress() as progress:
            report = evaluation.tune_index(conn, embedding, options, progress=progress)
    if chart is not None:
        evaluation.save_chart(report, chart)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        _show(report)


def _plan(plan: TuningPlan) -> str:
    return (
        f"{plan.embedding}: up to {len(plan.setups)} ways to keep and find "
        f"{plan.rows:,} of {plan.chunks:,} vectors, with up to "
        f"{_size(plan.disk_bytes)} of disk for temporary tables."
    )


@contextmanager
def _progress() -> Iterator[Callable[[Setup, int, int], None]]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("a sample is drawn", total=None)

        def show(setup: Setup, done: int, total: int) -> None:
            name = f"{done + 1} of {total}: {setup.label}"
            progress.update(task, description=name)

        yield show


def _show(report: TuningReport) -> None:
    console.print(_table(report))
    console.print(_bars(report))
    for warning in report.warnings:
        console.print(f"Note: {warning}", style="yellow", highlight=False, markup=False)
    if report.recommended is None:
        console.print(
            f"None of these has a recall of {report.recall:g}: try a finer graph "
            "(--m 64), or less recall.",
            style="yellow",
            highlight=False,
            markup=False,
        )
        return
    chosen = report.tried[report.recommended]
    said = f"{chosen.setup.label} is the fastest with a recall of {report.recall:g}"
    said += ", and what the embedding has." if report.change is None else ":"
    console.print(f"\n{said}", highlight=False, markup=False)
    if report.change is not None:
        console.print(report.change, highlight=False, markup=False, soft_wrap=True)
    if (ndcg := chosen.best(report.recall).ndcg) is not None:
        exact = report.tried[0].points[0].ndcg or 0
        console.print(
            f"Its nDCG@{report.k} is {ndcg:.3f}, that of an exact search of the "
            f"vectors as they are {exact:.3f}.",
            highlight=False,
            markup=False,
        )
    if report.effort is not None:
        console.print(
            f"with ef_search => {report.effort} in searches, or for all of a role's: "
            f"ALTER ROLE … SET {chosen.setup.effort} = {report.effort};",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _table(report: TuningReport) -> Table:
    judged = any(point.ndcg is not None for one in report.tried for point in one.points)
    table = Table(
        title=Text(
            f"{report.embedding}: {report.rows:,} vectors, {report.queries} queries"
        ),
        title_justify="left",
        caption=Text(
            "* as it is now; look: ef_search or probes; recall and nDCG at "
            f"{report.k}; ms a search; size: vectors and index"
        ),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("")
    table.add_column("dims", justify="right")
    table.add_column("type", no_wrap=True)
    table.add_column("index", no_wrap=True)
    measure = ["nDCG"] if judged else []
    for name in ("look", "recall", *measure, "p50", "p95", "build", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for position, one in enumerate(report.tried):
        point = one.best(report.recall)
        table.add_row(
            "*" if one.is_current else "",
            one.setup.length_label,
            one.setup.kind,
            one.setup.index_label,
            "" if point.effort is None else str(point.effort),
            f"{point.recall:.3f}",
            *([f"{point.ndcg or 0:.3f}"] if judged else []),
            f"{point.latency.p50:.1f}",
            f"{point.latency.p95:.1f}",
            f"{one.build_seconds:.1f} s" if one.setup.index else "",
            _size(one.vector_bytes + one.index_bytes),
            style="bold green" if position == report.recommended else "",
        )
    return table


def _bars(report: TuningReport) -> Table:
    """Draw the times of what finds enough; the others come without a bar."""
    points = [one.best(report.recall) for one in report.tried]
    most = max(point.latency.p50 for point in points)
    chart = Table.grid(padding=(0, 1))
    for position, (one, point) in enumerate(zip(report.tried, points, strict=True)):
        if point.recall < report.recall:
            continue
        style = "green" if position == report.recommended else "blue"
        bar = Bar(most, 0, point.latency.p50, width=_BAR_WIDTH, color=style)
        chart.add_row(Text(one.setup.label), bar, Text(f"{point.latency.p50:.1f} ms"))
    return chart


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < _STEP:
            return f"{count:.0f} {unit}"
        count /= _STEP
    return f"{count:.1f} TB"
