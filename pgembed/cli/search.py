"""`pgembed search | similar`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer
from rich.table import Table
from rich.text import Text

from pgembed.cli.common import Dsn, console
from pgembed.dsn import connect
from pgembed.errors import InvalidFilter, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgembed.client import Bm25Hit, Hit, HybridHit

_PANEL = "Search"
_SHOWN_CHARACTERS = 200

TableName = Annotated[str, typer.Argument(metavar="TABLE", help="Table, as in SQL.")]
Count = Annotated[int, typer.Option("-k", help="Number of hits, 1 to 10,000.")]
Offset = Annotated[
    int, typer.Option(help="Leave out so many of the first hits: the next page.")
]
MinSimilarity = Annotated[
    float | None, typer.Option(help="Leave out what vectors find less similar.")
]
FilterText = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="JSON",
        help='Conditions: {"category": "books", "price": {"$lt": 20}}.',
    ),
]
Embedding = Annotated[
    str | None, typer.Option(help="Which embedding, where the table has several.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one hit a line.")]


class Mode(StrEnum):
    """Ways to search."""

    VECTOR = "vector"
    BM25 = "bm25"
    HYBRID = "hybrid"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (search, similar):
        app.command(rich_help_panel=_PANEL)(command)


def search(
    table: TableName,
    query: Annotated[str, typer.Argument(help="Words to search for.")],
    *,
    dsn: Dsn = "",
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="By vectors, by words, or both; both where the table has both.",
            show_default=False,
        ),
    ] = None,
    k: Count = 10,
    offset: Offset = 0,
    filter_text: FilterText = None,
    embedding: Embedding = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Encode the query in this process with this registered model, "
            "instead of asking the encoder service.",
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Compare with every row, without index; by vectors only."
        ),
    ] = False,
    syntax: Annotated[
        str, typer.Option(help="words, or websearch: quotes, OR, -.")
    ] = "words",
    prefix: Annotated[
        bool, typer.Option("--prefix", help="The last word is the beginning of one.")
    ] = False,
    fuzzy: Annotated[
        bool,
        typer.Option(
            "--fuzzy", help="Read words that no row has as the likeliest ones."
        ),
    ] = False,
    fusion: Annotated[str, typer.Option(help="rrf, minmax or distribution.")] = "rrf",
    vector_weight: Annotated[float, typer.Option(help="Weight of the vectors.")] = 1.0,
    bm25_weight: Annotated[float, typer.Option(help="Weight of the words.")] = 1.0,
    min_score: Annotated[
        float | None,
        typer.Option(help="Leave out hits with a lower score; not by vectors alone."),
    ] = None,
    min_similarity: MinSimilarity = None,
    without_service: Annotated[
        bool,
        typer.Option(
            "--without-service",
            help="Search by words alone where no encoder service answers.",
        ),
    ] = False,
    rerank: Annotated[
        int | None,
        typer.Option(help="Rank so many of the best again with a cross-encoder."),
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Its name or path.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows of a table that answer a query best."""
    from pgembed import client
    from pgembed.rerankers import DEFAULT_RERANKER

    if exact and mode is None:
        mode = Mode.VECTOR
    if exact and mode is not Mode.VECTOR:
        raise InvalidParameter("--exact goes with --mode vector only")
    conditions = _filter(filter_text)
    model = reranker or DEFAULT_RERANKER
    with connect(dsn, autocommit=True) as conn:
        mode = mode or _default_mode(conn, table, embedding)
        _check_thresholds(mode, min_score, min_similarity)
        if mode is Mode.BM25:
            _show_bm25(
                client.bm25_search(
                    conn,
                    table,
                    query,
                    k=k,
                    offset=offset,
                    min_score=min_score,
                    filter=conditions,
                    embedding=embedding,
                    syntax=syntax,
                    prefix=prefix,
                    fuzzy=fuzzy,
                    snippets=True,
                    rerank=rerank,
                    reranker=model,
                ),
                as_json=as_json,
            )
        elif mode is Mode.HYBRID:
            _show_hybrid(
                client.hybrid_search(
                    conn,
                    table,
                    query,
                    k=k,
                    offset=offset,
                    min_score=min_score,
                    min_similarity=min_similarity,
                    filter=conditions,
                    embedding=embedding,
                    encoder=encoder,
                    fusion=fusion,
                    vector_weight=vector_weight,
                    bm25_weight=bm25_weight,
                    syntax=syntax,
                    prefix=prefix,
                    fuzzy=fuzzy,
                    snippets=True,
                    on_missing_query_embedding="bm25" if without_service else "error",
                    rerank=rerank,
                    reranker=model,
                ),
                as_json=as_json,
            )
        else:
            _show(
                client.search(
                    conn,
                    table,
                    query,
                    k=k,
                    offset=offset,
                    min_similarity=min_similarity,
                    filter=conditions,
                    embedding=embedding,
                    encoder=encoder,
                    exact=exact,
                    rerank=rerank,
                    reranker=model,
                ),
                as_json=as_json,
            )


def similar(
    table: TableName,
    key: Annotated[
        list[str],
        typer.Argument(help="Primary key of a row; its parts where it is composite."),
    ],
    *,
    dsn: Dsn = "",
    k: Count = 10,
    offset: Offset = 0,
    min_similarity: MinSimilarity = None,
    filter_text: FilterText = None,
    embedding: Embedding = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows most like a row."""
    from pgembed import client

    with connect(dsn, autocommit=True) as conn:
        hits = client.similar(
            conn,
            table,
            key[0] if len(key) == 1 else tuple(key),
            k=k,
            offset=offset,
            min_similarity=min_similarity,
            filter=_filter(filter_text),
            embedding=embedding,
        )
    _show(hits, as_json=as_json)


def _default_mode(
    conn: psycopg.Connection[Any], table: str, embedding: str | None
) -> Mode:
    """Both where the embedding has both; else what there is."""
    from pgembed._client.names import table_text

    row = conn.execute(
        "select exists (select from pgembed.embedding where source = t.t"
        "  and (%(name)s::text is null or %(name)s in"
        "  (name, pgembed._qualified_name(source, name)))),"
        " exists (select from pgembed.bm25 where source = t.t and state = 'ready')"
        " from to_regclass(%(table)s) as t",
        {"table": table_text(table), "name": embedding},
    ).fetchone()
    if row == (False, True):
        return Mode.BM25
    return Mode.HYBRID if row == (True, True) else Mode.VECTOR


def _check_thresholds(
    mode: Mode, min_score: float | None, min_similarity: float | None
) -> None:
    if mode is Mode.VECTOR and min_score is not None:
        raise InvalidParameter(
            "--min-score goes with words", hint="By vectors alone: --min-similarity."
        )
    if mode is Mode.BM25 and min_similarity is not None:
        raise InvalidParameter(
            "--min-similarity goes with vectors", hint="By words alone: --min-score."
        )


def _filter(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidFilter(f"the filter is not JSON: {text}", detail=str(exc)) from exc
    if not isinstance(value, dict):
        raise InvalidFilter(
            f"the filter is not a JSON object: {text}",
            hint='For example \'{"price": {"$lt": 20}}\'.',
        )
    return value


def _show(hits: Sequence[Hit[dict[str, Any]]], *, as_json: bool) -> None:
    if _shown(hits, as_json=as_json):
        return
    table = _table(hits, "similarity", "row", "best chunk")
    for hit in hits:
        _add(table, hit, f"{hit.similarity:.3f}", _row(hit.doc), _short(hit.content))
    console.print(table, markup=False)


def _show_bm25(hits: Sequence[Bm25Hit[dict[str, Any]]], *, as_json: bool) -> None:
    if _shown(hits, as_json=as_json):
        return
    _show_read_as(hits)
    table = _table(hits, "BM25", "row", "words")
    for hit in hits:
        _add(table, hit, f"{hit.score:.2f}", _row(hit.doc), highlighted(hit.snippet))
    console.print(table, markup=False)


def _show_hybrid(hits: Sequence[HybridHit[dict[str, Any]]], *, as_json: bool) -> None:
    if _shown(hits, as_json=as_json):
        return
    _show_read_as(hits)
    table = _table(hits, "score", "vectors", "words", "row", "best chunk")
    for hit in hits:
        _add(
            table,
            hit,
            f"{hit.score:.4f}",
            ranked(hit.vector_rank, hit.similarity, "{:.3f}"),
            ranked(hit.bm25_rank, hit.bm25, "{:.2f}"),
            _row(hit.doc),
            highlighted(hit.snippet)
            if hit.content is None or hit.bm25_rank is not None
            else Text(_short(hit.content)),
        )
    console.print(table, markup=False)


def _show_read_as(
    hits: Sequence[Bm25Hit[dict[str, Any]] | HybridHit[dict[str, Any]]],
) -> None:
    for word, meant in (hits[0].read_as or {}).items():
        console.print(f"{word}: read as {meant}", markup=False)


def ranked(rank: int | None, score: float | None, form: str) -> str:
    """Show a rank with its score; nothing where an arm has not found the row."""
    if rank is None:
        return "–"
    return f"{rank}." + ("" if score is None else f" ({form.format(score)})")


def highlighted(snippet: str | None) -> Text:
    """Show an excerpt with its words, which are between <b> and </b>, in bold."""
    text = Text()
    bold = False
    for part in re.split(r"(</?b>)", " ".join((snippet or "").split())):
        if part in ("<b>", "</b>"):
            bold = part == "<b>"
        else:
            text.append(part, style="bold" if bold else "")
    return text


def _shown(
    hits: Sequence[Hit[Any] | Bm25Hit[Any] | HybridHit[Any]], *, as_json: bool
) -> bool:
    """Print JSON, or that there is nothing; whether that was all."""
    if as_json:
        for hit in hits:
            # The row last: it may be long.
            line = asdict(replace(hit, doc=None)) | {"doc": hit.doc}
            typer.echo(json.dumps(line, default=str, ensure_ascii=False))
        return True
    if not hits:
        console.print("No row matches.")
    return not hits


def _table(
    hits: Sequence[Hit[Any] | Bm25Hit[Any] | HybridHit[Any]], *columns: str
) -> Table:
    again = any(hit.rerank_score is not None for hit in hits)
    return Table(*(("re-ranked", *columns) if again else columns))


def _add(
    table: Table, hit: Hit[Any] | Bm25Hit[Any] | HybridHit[Any], *cells: str | Text
) -> None:
    if table.columns[0].header == "re-ranked":
        score = hit.rerank_score
        cells = ("" if score is None else f"{score:.3f}", *cells)
    table.add_row(*cells)


def _row(doc: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {_short(value)}" for name, value in doc.items())


def _short(value: object) -> str:
    text = " ".join(str("" if value is None else value).split())
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return text[: _SHOWN_CHARACTERS - 1] + "…"
