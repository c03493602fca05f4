"""How much of the true nearest an approximate index finds, and at what effort."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from psycopg import sql

from pgembed._client.names import table_text
from pgembed.errors import EvaluationError, InvalidParameter, UnknownEmbedding
from pgembed.evaluation.latency import Latency, percentiles
from pgembed.evaluation.target import (
    Connection,
    Target,
    encode_queries,
    fetch,
    find_target,
    quoted,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgembed.encoders.base import Encoder
    from pgembed.options import Table

_EF_SEARCH: Final = (20, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)
_PROBES: Final = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 1000)
_MOST_EF_SEARCH: Final = 1000  # pgvector's own limit
_SAME: Final = 1e-6  # distances that differ by less are the same

_INDEX = sql.SQL(
    "select e.index_kind, n.index_valid, n.lists, n.vectors, n.vector, n.chunk_keys,"
    " n.keys, e.dimensions,"
    " pgembed._estimated_size(pg_catalog.to_regclass(n.vectors)::pg_catalog.oid)"
    " from pgembed.embedding as e cross join lateral pgembed._search_names(e) as n"
    " where e.source::pg_catalog.oid"
    " = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid"
    " and e.name = %(name)s"
)
_KEYS = sql.SQL(
    "select a.attname::text"
    " from pg_catalog.pg_index as i"
    " cross join pg_catalog.generate_series(1, i.indnkeyatts) as k(position)"
    " join pg_catalog.pg_attribute as a"
    "  on a.attrelid = i.indrelid and a.attnum = i.indkey[k.position - 1]"
    " join pgembed.embedding as e on e.source::pg_catalog.oid = i.indrelid"
    " where e.source::pg_catalog.oid"
    " = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid"
    " and e.name = %(name)s and i.indisprimary"
    " order by k.position"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallOptions:
    """What is measured.

    Attributes:
        k: Nearest rows that count.
        sample: How many stored vectors serve as queries.
        values: Efforts to try (`ef_search`, or `probes` of IVFFlat); None chooses.
        target: Recall that is enough, 0 to 1.
        embedding: Which, where the table has several.
        queries: Texts by id to search for instead of stored vectors.
        encoder: As in `EvaluationOptions`, for `queries`.
        filter: Conditions on columns, as JSON text.
        seed: Another one takes another sample.
        timeout: Longest wait for the encoder service, in seconds.
    """

    k: int = 10
    sample: int = 100
    values: Sequence[int] | None = None
    target: float = 0.95
    embedding: str | None = None
    queries: Mapping[str, str] | None = None
    encoder: Encoder | str | None = None
    filter: str | None = None
    seed: int = 0
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class RecallPoint:
    """What one effort gives.

    Attributes:
        value: `ef_search` or `probes`.
        recall: Mean share of the true nearest that was found.
        worst: The lowest of the lowest twentieth of queries.
        latency: Of the searches; client's clock.
    """

    value: int
    recall: float
    worst: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class RecallReport:
    """The recall of an embedding's index at several efforts.

    Attributes:
        embedding: Which.
        index: `hnsw` or `ivfflat`.
        setting: pgvector's parameter that the effort is.
        k: Nearest rows that count.
        queries: How many were searched.
        exact: Latency of the exact search.
        points: By effort, least first.
        target: Recall that was asked for.
        suggestion: Least effort that reached it; None: none did.
    """

    embedding: str
    index: Literal["hnsw", "ivfflat"]
    setting: str
    k: int
    queries: int
    exact: Latency
    points: list[RecallPoint]
    target: float
    suggestion: int | None

    def as_dict(self) -> dict[str, Any]:
        """Turn into what JSON can hold."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Query:
    vector: str
    own: tuple[str, ...] | None  # the key of the row whose vector it is


@dataclass(frozen=True, slots=True)
class _Index:
    kind: Literal["hnsw", "ivfflat"]
    lists: int | None
    vectors: str
    vector: str
    chunk_keys: str
    keys: str
    rows: float


def measure_recall(
    conn: Connection, table: Table, options: RecallOptions | None = None
) -> RecallReport:
    """Compare the index's answers with the exact order, at rising effort.

    Queries are stored vectors of the rows themselves, of which the row's own is not
    counted, or texts. A hit counts when it is not farther than the k-th true one, so
    that rows at the same distance do not matter.

    Raises:
        EvaluationError: There is no index to measure, or no vector.
        UnknownEmbedding: The table has no embedding, or several.
        InvalidParameter: An option is out of range.
    """
    wanted = options or RecallOptions()
    _check(wanted)
    target = find_embedding(conn, table, wanted.embedding)
    index = _index(conn, target)
    keys = [str(row[0]) for row in _fetch(conn, _KEYS, target)]
    queries = _queries(conn, target, index, wanted)
    exact, exact_ms = _search_all(conn, target, keys, queries, wanted, exact=True)
    points = []
    for value in _values(index, wanted):
        found, times = _search_all(conn, target, keys, queries, wanted, ef_search=value)
        shares = sorted(_recall(f, e) for f, e in zip(found, exact, strict=True) if e)
        if not shares:
            raise EvaluationError(
                "the exact search finds nothing for any of the queries",
                hint="Does a row match the filter?",
            )
        points.append(
            RecallPoint(
                value,
                sum(shares) / len(shares),
                shares[len(shares) // 20],
                percentiles(times),
            )
        )
    return RecallReport(
        embedding=str(target.embedding),
        index=index.kind,
        setting="ivfflat.probes" if index.kind == "ivfflat" else "hnsw.ef_search",
        k=wanted.k,
        queries=len(queries),
        exact=percentiles(exact_ms),
        points=points,
        target=wanted.target,
        suggestion=next((p.value for p in points if p.recall >= wanted.target), None),
    )


def find_embedding(conn: Connection, table: Table, name: str | None) -> Target:
    """Find the embedding of a table.

    Raises:
        UnknownEmbedding: It has none, or several and none is named.
    """
    target = find_target(conn, table, name=name, composite_key=True)
    if target.embedding is None:
        raise UnknownEmbedding(
            f"{target.bm25!r} has no vectors, so there is no recall to measure"
        )
    return target


def _check(options: RecallOptions) -> None:
    if not 1 <= options.k <= 1000:
        raise InvalidParameter(f"k must be between 1 and 1000, not {options.k}")
    if options.sample < 1:
        raise InvalidParameter(f"sample must be at least 1, not {options.sample}")
    if not 0 < options.target <= 1:
        raise InvalidParameter(
            f"target must be above 0 and at most 1, not {options.target}",
            hint="0.95 is nineteen of twenty.",
        )
    for value in options.values or ():
        if not 1 <= value <= 32768:
            raise InvalidParameter(f"{value} is no effort: 1 to 1000 are usual")


def _fetch(
    conn: Connection, statement: sql.SQL, target: Target
) -> list[tuple[Any, ...]]:
    table = table_text(target.table)
    return fetch(conn, statement, table=table, name=target.embedding).rows


def _index(conn: Connection, target: Target) -> _Index:
    row = _fetch(conn, _INDEX, target)[0]
    kind, valid, lists, vectors, vector, chunk_keys, keys, _, rows = row
    if kind == "none" or not valid:
        raise EvaluationError(
            f"embedding {target.embedding!r} has no index, so every search is exact",
            hint="Declare one: alter_embedding(..., index='hnsw')."
            if kind == "none"
            else "The encoder service builds it after the first fill; see "
            "`pgembed status`.",
        )
    return _Index(kind, lists, vectors, vector, chunk_keys, keys, float(rows))


def _values(index: _Index, options: RecallOptions) -> list[int]:
    if options.values:
        return sorted(set(options.values))
    if index.kind == "ivfflat":
        lists = index.lists or max(_PROBES)
        return [value for value in _PROBES if value < lists] + [lists]
    # An index scan gives at most ef_search rows before it starts over.
    return [value for value in _EF_SEARCH if value > options.k] or [_MOST_EF_SEARCH]


def _queries(
    conn: Connection, target: Target, index: _Index, options: RecallOptions
) -> list[_Query]:
    if options.queries is not None:
        encoded = encode_queries(
            conn,
            target,
            options.queries,
            encoder=options.encoder,
            timeout=options.timeout,
        )
        return [_Query(vector, None) for vector in encoded.vectors.values()]
    # A part of the pages where the table is big: reading it all would take longer
    # than the searches.
    percent = min(100.0, 100 * 20 * options.sample / max(index.rows, 1))
    statement = sql.SQL(
        "select vector, {keys} from (select c.{vector}::text as vector, {chunk_keys}"
        " from {vectors} as c tablesample bernoulli ({percent}) repeatable ({seed})"
        " where c.{vector} is not null) as s"
        " order by md5(s.vector || {seed}::text) limit {sample}"
    ).format(
        keys=sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name))
            for name in index.keys.split(", ")
        ),
        vector=sql.SQL(index.vector),
        chunk_keys=sql.SQL(index.chunk_keys),
        vectors=sql.SQL(index.vectors),
        percent=sql.Literal(percent),
        seed=sql.Literal(options.seed),
        sample=sql.Literal(options.sample),
    )
    rows = fetch(conn, statement).rows
    if not rows:
        raise EvaluationError(
            f"embedding {target.embedding!r} has no vectors to take a sample of"
        )
    return [_Query(row[0], tuple(map(str, row[1:]))) for row in rows]


def _search_all(
    conn: Connection,
    target: Target,
    keys: Sequence[str],
    queries: Sequence[_Query],
    options: RecallOptions,
    **more: object,
) -> tuple[list[list[float]], list[float]]:
    """Give each query's distances, nearest first, and the times."""
    own = any(query.own is not None for query in queries)
    arguments: dict[str, object] = {
        "embedding": target.embedding,
        "k": options.k + own,
        **more,
    }
    if options.filter is not None:
        arguments["filter"] = options.filter
    statement = sql.SQL(
        "select v.distance, {keys} from pgembed.vector_search(NULL::{table}, {named})"
        " as v order by v.distance"
    ).format(
        keys=sql.SQL(", ").join(
            sql.SQL("(v.doc).{}::text").format(sql.Identifier(key)) for key in keys
        ),
        table=quoted(target.table),
        named=sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
            for name in [*arguments, "query_embedding"]
        ),
    )
    found, times = [], []
    for position, query in enumerate([queries[0], *queries]):
        started = time.perf_counter()
        rows = fetch(conn, statement, **arguments, query_embedding=query.vector).rows
        elapsed = 1000 * (time.perf_counter() - started)
        if position == 0:  # a warm-up
            continue
        times.append(elapsed)
        found.append(
            [
                float(row[0])
                for row in rows
                if query.own is None or tuple(map(str, row[1:])) != query.own
            ][: options.k]
        )
    return found, times


def _recall(found: Sequence[float], exact: Sequence[float]) -> float:
    farthest = exact[-1] + _SAME * max(1.0, abs(exact[-1]))
    return min(1.0, sum(distance <= farthest for distance in found) / len(exact))
