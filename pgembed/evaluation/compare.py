"""Ways to search over one table, compared on judged queries."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from psycopg import sql

from pgembed.client import hybrid_search
from pgembed.errors import EvaluationError, InvalidParameter
from pgembed.evaluation.latency import Latency, percentiles
from pgembed.evaluation.measures import DEFAULT_MEASURES, parse_measures, score_run
from pgembed.evaluation.target import (
    Connection,
    QueryVectors,
    Target,
    encode_queries,
    fetch,
    find_target,
    quoted,
)
from pgembed.rerankers import DEFAULT_RERANKER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pgembed.encoders.base import Encoder
    from pgembed.evaluation.files import JudgedQueries
    from pgembed.options import RerankerLike, Table

Mode: TypeAlias = Literal["bm25", "vector", "hybrid", "rerank"]
MODES: Final[tuple[Mode, ...]] = ("bm25", "vector", "hybrid", "rerank")

_WARM_UP = 5  # queries of each way before the clock runs


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """What is compared, and how.

    Attributes:
        modes: Ways to search; None: all that the table has. `rerank` is hybrid with a
            cross-encoder after it.
        measures: As `score_run` takes them.
        key: Column with the documents' ids; the primary key.
        embedding: Which embedding or BM25 index, where the table has several.
        encoder: Encodes the queries in this process: an encoder, or any name for the
            embedding's own model; None asks the encoder service.
        depth: Hits that each search returns.
        limit: Only so many queries.
        hybrid: More arguments of `pgembed.hybrid_search`: fusion, weights, ...
        search: More arguments of `pgembed.vector_search`: ef_search, exact.
        bm25: More arguments of `pgembed.bm25_search`: syntax, config.
        rerank: Hits that the cross-encoder reads; None: no re-ranking.
        reranker: As in `pgembed.client.vector_search`.
        timeout: Longest wait for the encoder service, in seconds.
    """

    modes: Sequence[Mode] | None = None
    measures: Sequence[str] = DEFAULT_MEASURES
    key: str | None = None
    embedding: str | None = None
    encoder: Encoder | str | None = None
    depth: int = 100
    limit: int | None = None
    hybrid: Mapping[str, object] = field(default_factory=dict)
    search: Mapping[str, object] = field(default_factory=dict)
    bm25: Mapping[str, object] = field(default_factory=dict)
    rerank: int | None = None
    reranker: RerankerLike = DEFAULT_RERANKER
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class ModeReport:
    """How one way to search did.

    Attributes:
        mode: Which.
        measures: Means over the queries.
        latency: Of the searches, without encoding the query; client's clock.
        per_query: By measure and query.
        empty: Queries that found nothing.
    """

    mode: Mode
    measures: dict[str, float]
    latency: Latency
    per_query: dict[str, dict[str, float]]
    empty: int


@dataclass(frozen=True, slots=True)
class Report:
    """Ways to search side by side.

    Attributes:
        table: What was searched.
        embedding: The embedding or BM25 index.
        model: The embedding's model; None without vectors.
        queries: How many.
        judged_documents: Documents that are judged for them.
        missing_documents: Of these, how many the table does not have.
        depth: Hits that each search returned.
        encode_ms: What encoding one query took on average; None without vectors.
        modes: In the order they were asked for.
        warnings: What the reader should know.
    """

    table: str
    embedding: str
    model: str | None
    queries: int
    judged_documents: int
    missing_documents: int
    depth: int
    encode_ms: float | None
    modes: list[ModeReport]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Turn into what JSON can hold."""
        return asdict(self)


def evaluate(
    conn: Connection,
    table: Table,
    data: JudgedQueries,
    options: EvaluationOptions | None = None,
) -> Report:
    """Search a table for judged queries in several ways, and measure the rankings.

    Queries are encoded before; then each query is searched in all ways, one after the
    other, so that noise of the machine falls on all of them.

    Raises:
        EvaluationError: The judged documents are not in the table, or a measure or the
            key column is unknown.
        UnknownEmbedding: The table has nothing to search.
        InvalidParameter: An option is out of range, or a way to search is not there.
        PgembedError: What the searches raise.
    """
    wanted = options or EvaluationOptions()
    parse_measures(wanted.measures)
    if wanted.depth < 1 or (wanted.limit is not None and wanted.limit < 1):
        raise InvalidParameter("depth and limit must be at least 1")
    target = find_target(conn, table, name=wanted.embedding, key=wanted.key)
    modes = _modes(target, wanted)
    queries = dict(list(data.queries.items())[: wanted.limit])
    judgements = {query: data.judgements[query] for query in queries}
    documents, missing = _missing(conn, target, judgements)
    vectors = None
    if any(mode != "bm25" for mode in modes):
        vectors = encode_queries(
            conn,
            target,
            queries,
            encoder=wanted.encoder,
            timeout=wanted.timeout,
        )
    searches = {mode: _search(conn, target, mode, wanted, vectors) for mode in modes}
    rankings, times = _run(searches, queries)
    name = target.embedding or target.bm25
    assert name is not None
    return Report(
        table=table if isinstance(table, str) else ".".join(table),
        embedding=name,
        model=target.model.name if target.model else None,
        queries=len(queries),
        judged_documents=documents,
        missing_documents=missing,
        depth=wanted.depth,
        encode_ms=vectors.milliseconds_each if vectors else None,
        modes=[
            _report(mode, rankings[mode], times[mode], judgements, wanted.measures)
            for mode in modes
        ],
        warnings=_warnings(data, documents, missing, wanted),
    )


def _modes(target: Target, options: EvaluationOptions) -> list[Mode]:
    words, vectors = target.bm25 is not None, target.embedding is not None
    there: dict[Mode, bool] = {
        "bm25": words,
        "vector": vectors,
        "hybrid": words and vectors,
        "rerank": words and vectors,
    }
    if options.modes is None:
        return [
            mode
            for mode in MODES
            if there[mode] and (mode != "rerank" or options.rerank is not None)
        ]
    for mode in options.modes:
        if mode not in MODES:
            raise InvalidParameter(
                f"there is no way to search called {mode!r}",
                hint=f"Take of: {', '.join(MODES)}.",
            )
        if not there[mode]:
            raise InvalidParameter(
                f"{target.embedding or target.bm25!r} cannot be searched by {mode}",
                hint="It has "
                + (", ".join(m for m in MODES if there[m]) or "nothing to search")
                + ".",
            )
    return list(dict.fromkeys(options.modes))


def _missing(
    conn: Connection, target: Target, judgements: Mapping[str, Mapping[str, int]]
) -> tuple[int, int]:
    """Count the judged documents, and those that the table does not have."""
    judged = sorted({document for found in judgements.values() for document in found})
    query = sql.SQL(
        "select count(*) from unnest(%(ids)s::text[]) as j(id)"
        " where exists (select from {} as t where t.{}::text = j.id)"
    ).format(quoted(target.table), sql.Identifier(target.key))
    there = int(fetch(conn, query, ids=judged).rows[0][0])
    if there == 0:
        example = fetch(
            conn,
            sql.SQL("select left(t.{}::text, 40) from {} as t limit 3").format(
                sql.Identifier(target.key), quoted(target.table)
            ),
        ).rows
        raise EvaluationError(
            f"none of the {len(judged)} judged documents is in {target.table!r}",
            detail=f"Judged: {', '.join(judged[:3])}; column {target.key!r} has: "
            f"{', '.join(str(row[0]) for row in example) or 'nothing'}.",
            hint="Name the column that holds the documents' ids: key=... (--key).",
        )
    return len(judged), len(judged) - there


def _search(
    conn: Connection,
    target: Target,
    mode: Mode,
    options: EvaluationOptions,
    vectors: QueryVectors | None,
) -> Callable[[str, str], list[str]]:
    """Make the function that searches for one query in one way."""
    if mode == "rerank":
        return _rerank(conn, target, options, vectors)
    arguments: dict[str, object] = {"k": options.depth}
    if mode == "bm25":
        arguments |= {"embedding": target.bm25, **options.bm25}
    else:
        assert vectors is not None
        arguments |= {"embedding": target.embedding, "query_model": vectors.model}
        arguments |= options.search if mode == "vector" else options.hybrid
    names = [*arguments]
    if mode != "vector":
        names.append("query")
    if mode != "bm25":
        names.append("query_embedding")
    statement = sql.SQL(
        "select (v.doc).{key}::text"
        " from pgembed.{function}(NULL::{table}, {named}) as v"
    ).format(
        key=sql.Identifier(target.key),
        function=sql.Identifier(f"{mode}_search"),
        table=quoted(target.table),
        named=sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
            for name in names
        ),
    )

    def search(key: str, text: str) -> list[str]:
        values = dict(arguments)
        if "query" in names:
            values["query"] = text
        if vectors is not None and "query_embedding" in names:
            values["query_embedding"] = vectors.vectors[key]
        return [str(row[0]) for row in fetch(conn, statement, **values).rows]

    return search


def _rerank(
    conn: Connection,
    target: Target,
    options: EvaluationOptions,
    vectors: QueryVectors | None,
) -> Callable[[str, str], list[str]]:
    assert vectors is not None
    more: dict[str, Any] = dict(options.hybrid)

    def search(key: str, text: str) -> list[str]:
        vector = [float(x) for x in vectors.vectors[key][1:-1].split(",")]
        hits = hybrid_search(
            conn,
            target.table,
            text,
            k=options.depth,
            embedding=target.embedding,
            query_embedding=vector,
            rerank=options.rerank or options.depth,
            reranker=options.reranker,
            **more,
        )
        return [str(hit.doc[target.key]) for hit in hits]

    return search


def _run(
    searches: Mapping[Mode, Callable[[str, str], list[str]]],
    queries: Mapping[str, str],
) -> tuple[dict[Mode, dict[str, list[str]]], dict[Mode, list[float]]]:
    """Search for all queries in all ways, in turn, after a warm-up."""
    rankings: dict[Mode, dict[str, list[str]]] = {mode: {} for mode in searches}
    times: dict[Mode, list[float]] = {mode: [] for mode in searches}
    for key, text in list(queries.items())[:_WARM_UP]:
        for search in searches.values():
            search(key, text)
    for key, text in queries.items():
        for mode, search in searches.items():
            started = time.perf_counter()
            found = search(key, text)
            times[mode].append(1000 * (time.perf_counter() - started))
            # A document twice would count twice; ids need not be unique.
            rankings[mode][key] = list(dict.fromkeys(found))
    return rankings, times


def _report(
    mode: Mode,
    rankings: Mapping[str, Sequence[str]],
    milliseconds: Sequence[float],
    judgements: Mapping[str, Mapping[str, int]],
    measures: Sequence[str],
) -> ModeReport:
    per_query = score_run(rankings, judgements, measures)
    return ModeReport(
        mode=mode,
        measures={
            name: sum(values.values()) / len(values)
            for name, values in per_query.items()
        },
        latency=percentiles(milliseconds),
        per_query=per_query,
        empty=sum(not ranking for ranking in rankings.values()),
    )


def _warnings(
    data: JudgedQueries, documents: int, missing: int, options: EvaluationOptions
) -> list[str]:
    warnings = []
    if missing:
        warnings.append(
            f"{missing} of {documents} judged documents are not in the table: "
            "nothing can find them."
        )
    if data.unjudged:
        warnings.append(
            f"{data.unjudged} queries without a relevant document left out."
        )
    if data.unknown:
        warnings.append(
            f"{data.unknown} judged queries have no text, and are left out."
        )
    deepest = max(
        (int(name.rpartition("@")[2]) for name in options.measures if "@" in name),
        default=0,
    )
    if deepest > options.depth:
        warnings.append(
            f"A measure looks at {deepest} hits, and searches return {options.depth}."
        )
    return warnings
