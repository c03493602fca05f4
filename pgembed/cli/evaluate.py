"""`pgembed eval | recall`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pgembed.cli.common import AsJson, Dsn, console
from pgembed.cli.search import Embedding, FilterText, TableName
from pgembed.dsn import connect
from pgembed.errors import InvalidParameter

if TYPE_CHECKING:
    from pgembed.evaluation import JudgedQueries, RecallReport, Report

_PANEL = "Search"
_DEFAULT_MEASURES = ["nDCG@10", "MRR@10", "recall@100", "MAP"]

Chart = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw a chart: .png, .svg or .pdf."),
]
Encoder = Annotated[
    bool,
    typer.Option(
        "--encode-here",
        help="Encode the queries in this process with the embedding's model, instead "
        "of asking the encoder service.",
    ),
]
Key = Annotated[
    str | None, typer.Option(help="Column with the documents' ids; the primary key.")
]
Queries = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Queries: JSON lines, or id and text by a tab."),
]
Judgements = Annotated[
    bool,
    typer.Option(
        "--judgements",
        help="Judgements that are stored in the database (pgembed judge, the studio), "
        "besides those of files.",
    ),
]
Split = Annotated[str, typer.Option(help="Which judgements of the folder.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("eval", rich_help_panel=_PANEL)(evaluate)
    app.command(rich_help_panel=_PANEL)(recall)


def evaluate(
    table: TableName,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Queries and judgements in BEIR's layout: queries.jsonl, "
            "qrels/test.tsv (or qrels.tsv).",
            show_default=False,
        ),
    ] = None,
    *,
    dsn: Dsn = "",
    queries: Queries = None,
    qrels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Judgements: query, document, score by tabs; or TREC's.",
        ),
    ] = None,
    split: Split = "test",
    judgements: Judgements = False,
    key: Key = None,
    embedding: Embedding = None,
    modes: Annotated[
        list[str] | None,
        typer.Option(
            "--mode", help="bm25, vector, hybrid, rerank; repeat it. All by default."
        ),
    ] = None,
    measures: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            help=f"Repeat it; {', '.join(_DEFAULT_MEASURES)} by default.",
            show_default=False,
        ),
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="Hits of each search.")] = 100,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many queries.")
    ] = None,
    encode_here: Encoder = False,
    fusion: Annotated[
        str | None, typer.Option(help="Of hybrid: rrf, minmax or distribution.")
    ] = None,
    vector_weight: Annotated[
        float | None, typer.Option(help="Weight of the vectors in hybrid.")
    ] = None,
    bm25_weight: Annotated[
        float | None, typer.Option(help="Weight of the words in hybrid.")
    ] = None,
    rrf_k: Annotated[int | None, typer.Option(help="Of reciprocal ranks.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Rows that each arm of hybrid gives.")
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option(help="How far the vector index looks.")
    ] = None,
    rerank: Annotated[
        int | None,
        typer.Option(help="Also rank so many hits of hybrid with a cross-encoder."),
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Its name or path; litellm:PROVIDER/MODEL for a hosted one.",
        ),
    ] = None,
    chart: Chart = None,
    per_query: Annotated[
        bool, typer.Option("--per-query", help="Each query's values too, in the JSON.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare BM25, vectors and hybrid on judged queries over a table.

    Prints nDCG@10, MRR@10, recall@100 and MAP side by side, with the latency of the
    searches. The table holds the documents, and is declared as usual.
    """
    from pgembed import evaluation

    if chart is not None:
        from pgembed.evaluation.chart import check_chart_file

        check_chart_file(chart)
    options = evaluation.EvaluationOptions(
        measures=measures or _DEFAULT_MEASURES,
        key=key,
        embedding=embedding,
        encoder="here" if encode_here else None,
        depth=depth,
        limit=limit,
        hybrid=_given(
            fusion=fusion,
            vector_weight=vector_weight,
            bm25_weight=bm25_weight,
            rrf_k=rrf_k,
            candidates=candidates,
            ef_search=ef_search,
        ),
        search=_given(ef_search=ef_search),
        rerank=rerank,
    )
    if modes:
        options = replace(options, modes=modes)  # type: ignore[arg-type]
    if reranker:
        options = replace(options, reranker=reranker)
    data = None
    if folder or queries or qrels or not judgements:
        data = _data(folder, queries, qrels, split)
    with connect(dsn, autocommit=True) as conn:
        if data is None or judgements:
            data = evaluation.stored_judgements(
                conn, table, embedding=embedding, key=key, beside=data
            )
        report = evaluation.evaluate(conn, table, data, options)
    if chart is not None:
        evaluation.save_chart(report, chart)
    if as_json:
        found = report.as_dict()
        if not per_query:
            for mode in found["modes"]:
                del mode["per_query"]
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _show(report)


def recall(
    table: TableName,
    *,
    dsn: Dsn = "",
    k: Annotated[int, typer.Option("-k", help="Nearest rows that count.")] = 10,
    sample: Annotated[
        int, typer.Option(min=1, help="Stored vectors that serve as queries.")
    ] = 100,
    target: Annotated[
        float, typer.Option(help="Recall that is enough, above 0 and at most 1.")
    ] = 0.95,
    values: Annotated[
        list[int] | None,
        typer.Option(
            "--value", help="ef_search or probes to try; repeat it. Chosen by default."
        ),
    ] = None,
    embedding: Embedding = None,
    queries: Queries = None,
    encode_here: Encoder = False,
    filter_text: FilterText = None,
    seed: Annotated[int, typer.Option(help="Another takes another sample.")] = 0,
    chart: Chart = None,
    as_json: AsJson = False,
) -> None:
    """Measure what the vector index misses, and suggest ef_search or probes."""
    from pgembed import evaluation

    if chart is not None:
        from pgembed.evaluation.chart import check_chart_file

        check_chart_file(chart)
    options = evaluation.RecallOptions(
        k=k,
        sample=sample,
        values=values or None,
        target=target,
        embedding=embedding,
        queries=evaluation.read_queries(queries) if queries else None,
        encoder="here" if encode_here else None,
        filter=filter_text,
        seed=seed,
    )
    with connect(dsn, autocommit=True) as conn:
        report = evaluation.measure_recall(conn, table, options)
    if chart is not None:
        evaluation.save_chart(report, chart)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        _show_recall(report)


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _data(
    folder: Path | None, queries: Path | None, qrels: Path | None, split: str
) -> JudgedQueries:
    from pgembed import evaluation

    if queries is not None and qrels is not None:
        return evaluation.load_data(evaluation.DataFiles(queries, qrels))
    if folder is None:
        raise InvalidParameter(
            "nothing to evaluate with",
            hint="Give a folder in BEIR's layout, both --queries and --qrels, or "
            "--judgements for those that are stored.",
        )
    files = evaluation.find_data(folder, split)
    return evaluation.load_data(
        replace(
            files,
            queries=queries or files.queries,
            judgements=qrels or files.judgements,
        )
    )


def _show(report: Report) -> None:
    names = list(report.modes[0].measures)
    best = {
        name: max(round(mode.measures[name], 4) for mode in report.modes)
        for name in names
    }
    table = Table(
        title=Text(f"{report.embedding}: {report.queries} queries"),
        title_justify="left",
        caption=Text(_caption(report)),
        caption_justify="left",
    )
    table.add_column("search")
    for name in [*names, "p50 ms", "p95 ms", "p99 ms"]:
        table.add_column(name, justify="right")
    for mode in report.modes:
        table.add_row(
            mode.mode,
            *(
                Text(
                    f"{value:.4f}",
                    style="bold green" if round(value, 4) == best[name] else "",
                )
                for name, value in mode.measures.items()
            ),
            f"{mode.latency.p50:.1f}",
            f"{mode.latency.p95:.1f}",
            f"{mode.latency.p99:.1f}",
        )
    console.print(table)
    for warning in report.warnings:
        console.print(f"Note: {warning}", style="yellow", highlight=False)


def _caption(report: Report) -> str:
    parts = [f"{report.depth} hits a search"]
    if report.encode_ms is not None:
        parts.append(
            f"encoding a query: {report.encode_ms:.1f} ms more, {report.model}"
        )
    return "; ".join(parts)


def _show_recall(report: RecallReport) -> None:
    table = Table(
        title=Text(
            f"{report.embedding} ({report.index}): recall@{report.k}, "
            f"{report.queries} queries"
        ),
        title_justify="left",
    )
    for name in (report.setting, "recall", "5th percentile", "p50 ms", "p95 ms"):
        table.add_column(name, justify="right")
    for point in report.points:
        table.add_row(
            str(point.value),
            f"{point.recall:.4f}",
            f"{point.worst:.3f}",
            f"{point.latency.p50:.1f}",
            f"{point.latency.p95:.1f}",
            style="bold green" if point.value == report.suggestion else "",
        )
    table.add_row(
        "exact", "1", "1", f"{report.exact.p50:.1f}", f"{report.exact.p95:.1f}"
    )
    console.print(table)
    if report.suggestion is None:
        console.print(
            f"None of these reaches {report.target:g}: build a finer index "
            + (
                '(index_options => \'{"m": 32, "ef_construction": 128}\').'
                if report.index == "hnsw"
                else "with fewer lists, or take hnsw."
            ),
            style="yellow",
            highlight=False,
            markup=False,
        )
        return
    console.print(
        f"{report.setting} = {report.suggestion} is enough for {report.target:g}: "
        f"ef_search => {report.suggestion} in a search, or for all of a role's: "
        f"ALTER ROLE … SET {report.setting} = {report.suggestion};",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
