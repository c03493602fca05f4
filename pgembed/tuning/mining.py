"""Texts of judged rows, and hard negatives: rows that a search finds, and nobody wants.

All of it is read by searches, as the caller: a row that policies hide is neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql
from psycopg.types.json import Jsonb

from pgembed.errors import EvaluationError
from pgembed.evaluation.target import encode_queries, fetch, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pgembed.encoders.base import Encoder
    from pgembed.evaluation import JudgedQueries
    from pgembed.evaluation.target import Connection, Target
    from pgembed.tuning.examples import Examples

#: Hits of the search that negatives are taken of.
DEPTH: Final = 20
#: What is nearly as similar to the query as its best judged document may well answer it
#: too, and is no negative (Moreira et al., NV-Retriever, 2024: 95 % of the positive's).
MOST_SIMILAR: Final = 0.95


@dataclass(slots=True)
class Found:
    """What searches found.

    Attributes:
        texts: Of rows by key: the chunk nearest to the query that asked for it first.
        near: By query, texts of rows by key: the chunk nearest to this query.
        hits: By query, keys of rows that it finds.
        negatives: Of these, what is not judged for it, and not nearly as similar as
            what is.
        missing: Judged ids that no visible row has.
        without_text: Judged rows that no search gives a text of.
    """

    texts: dict[str, str] = field(default_factory=dict)
    near: dict[str, dict[str, str]] = field(default_factory=dict)
    hits: dict[str, list[str]] = field(default_factory=dict)
    negatives: dict[str, list[str]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    without_text: set[str] = field(default_factory=set)


def mine(
    conn: Connection,
    target: Target,
    examples: Examples,
    *,
    encoder: Encoder | str | None = "here",
    progress: Callable[[str, float], None] = lambda _what, _done: None,
) -> Found:
    """Search for each query, and read what is judged and what is found.

    Args:
        conn: As who may search the table.
        target: The embedding; hybrid where it has a BM25 index, else by vectors.
        examples: Queries, and judgements of rows by key, or of texts.
        encoder: As in `encode_queries`.
        progress: Told what is being done, and the share of it that is done, 0 to 1.

    Raises:
        EvaluationError: None of the judged ids is that of a row.
    """
    assert target.model is not None
    data = examples.data
    ids = _judged(data) if examples.are_rows else set()
    keys = _keys(conn, target, ids) if ids else {}
    found = Found(missing=ids - keys.keys())
    vectors = encode_queries(conn, target, data.queries, encoder=encoder, timeout=10)
    for number, (query, text) in enumerate(data.queries.items()):
        given = {
            "k": DEPTH,
            "embedding": target.embedding,
            "query_embedding": vectors.vectors[query],
            "query_model": vectors.model,
        }
        if target.bm25 is None:
            hits = _search(conn, target, "vector_search", given)
        else:
            hits = _search(conn, target, "hybrid_search", {**given, "query": text})
        keys |= {hit.key: hit.value for hit in hits}
        judged = data.judgements[query]
        found.hits[query] = [hit.key for hit in hits]
        wanted = [key for key in {*judged, *(hit.key for hit in hits)} if key in keys]
        # By vectors, each with its text, and how similar it is.
        near = {
            hit.key: hit
            for hit in _search(
                conn,
                target,
                "vector_search",
                {
                    **given,
                    "k": max(1, len(wanted)),
                    "filter": Jsonb({target.key: {"$in": [keys[k] for k in wanted]}}),
                },
            )
        }
        found.near[query] = {key: hit.content for key, hit in near.items()}
        found.texts = found.near[query] | found.texts
        best = [near[k].similarity for k in judged if judged[k] > 0 and k in near]
        most = max(best) - abs((1 - MOST_SIMILAR) * max(best)) if best else math.inf
        found.negatives[query] = [
            hit.key
            for hit in hits
            if hit.key not in judged
            and hit.key in near
            and near[hit.key].content not in judged
            and near[hit.key].similarity < most
        ]
        progress("searching", (number + 1) / len(data.queries))
    found.without_text = (ids & keys.keys()) - found.texts.keys()
    return found


@dataclass(frozen=True, slots=True)
class _Hit:
    key: str
    value: Any
    content: str
    similarity: float


def _judged(data: JudgedQueries) -> set[str]:
    return {key for found in data.judgements.values() for key in found}


def _keys(conn: Connection, target: Target, ids: set[str]) -> dict[str, Any]:
    """Give the judged keys as values of their own type, which filters want."""
    wanted = sorted(ids)
    key, table = sql.Identifier(target.key), quoted(target.table)
    statement = sql.SQL(
        "select t.{key}::text, pg_catalog.to_jsonb(t.{key}) from {table} as t"
        " where t.{key}::text operator(pg_catalog.=) any(%(ids)s::text[])"
    ).format(key=key, table=table)
    found = dict(fetch(conn, statement, ids=wanted).rows)
    if found:
        return found
    some = sql.SQL("select left(t.{}::text, 40) from {} as t limit 3").format(
        key, table
    )
    there = ", ".join(str(row[0]) for row in fetch(conn, some).rows)
    raise EvaluationError(
        f"none of the {len(wanted)} judged documents is in {target.table!r}",
        detail=f"Judged: {', '.join(wanted[:3])}; column {target.key!r} has: "
        f"{there or 'nothing'}.",
        hint="Name the column that holds the documents' ids: key=... (--key).",
    )


def _search(
    conn: Connection, target: Target, function: str, arguments: dict[str, Any]
) -> Iterable[_Hit]:
    statement = sql.SQL(
        "select (v.doc).{key}::text, pg_catalog.to_jsonb((v.doc).{key}), v.content,"
        " v.similarity from pgembed.{function}(NULL::{table}, {named}) as v"
    ).format(
        key=sql.Identifier(target.key),
        function=sql.Identifier(function),
        table=quoted(target.table),
        named=sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
            for name in arguments
        ),
    )
    found: dict[str, _Hit] = {}
    for row in fetch(conn, statement, **arguments).rows:
        found.setdefault(row[0], _Hit(*row))  # ids need not be unique: the best counts
    return list(found.values())
