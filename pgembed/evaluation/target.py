"""What of a table can be searched, and queries as vectors for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import sql

from pgembed._client import encoders
from pgembed._client.names import table_identifier, table_text
from pgembed._client.run import run
from pgembed._client.search import model_identity
from pgembed._client.steps import Flow, Rows, Statement
from pgembed._client.values import vector_text
from pgembed.client import embed
from pgembed.errors import EvaluationError, InvalidSource, UnknownEmbedding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from pgembed.encoders.base import Encoder
    from pgembed.options import Table

Connection: TypeAlias = "psycopg.Connection[Any]"

_ENCODED_AT_ONCE = 256

_COLUMNS = sql.SQL(
    "select a.attname::text,"
    " coalesce((select k from pg_catalog.generate_series(0, i.indnkeyatts - 1) as k"
    " where i.indkey[k] = a.attnum), -1)"
    " from pg_catalog.pg_attribute as a"
    " left join pg_catalog.pg_index as i on i.indrelid = a.attrelid and i.indisprimary"
    " where a.attrelid = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid"
    " and a.attnum > 0 and not a.attisdropped"
    " order by 2, a.attnum"
)
_EMBEDDINGS = sql.SQL(
    "select e.name, pgembed._qualified_name(e.source, e.name), m.name, m.provider,"
    " m.dimensions, m.query_prompt, m.document_prompt, m.revision,"
    " e.is_default"
    " from pgembed.embedding as e join pgembed.model as m using (model_id)"
    " where e.source::pg_catalog.oid"
    " = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid"
    " order by e.name"
)
_BM25 = sql.SQL(
    "select b.name, pgembed._qualified_name(b.source, b.name), b.is_default"
    " from pgembed.bm25 as b"
    " where b.source::pg_catalog.oid"
    " = pg_catalog.to_regclass(%(table)s)::pg_catalog.oid"
    " order by b.name"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A table and how it can be searched.

    Attributes:
        table: As the user named it.
        key: Column that holds the documents' ids.
        embedding: Embedding to search; None: there is none.
        bm25: BM25 index to search, by name; None: there is none.
        model: The embedding's model.
    """

    table: Table
    key: str
    embedding: str | None
    bm25: str | None
    model: encoders.ModelRow | None


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """Queries as vectors.

    Attributes:
        vectors: As pgvector reads them, by query id.
        model: What they were made with, as `query_model` expects it.
        milliseconds_each: What encoding took, on average.
    """

    vectors: Mapping[str, str]
    model: str
    milliseconds_each: float


def fetch(
    conn: Connection, statement: sql.SQL | sql.Composed, /, **parameters: object
) -> Rows:
    """Run a statement as the client does, with its errors."""

    def flow() -> Flow[Rows]:
        rows: Rows = yield Statement(statement, parameters)
        return rows

    return run(conn, flow())


def find_target(
    conn: Connection,
    table: Table,
    *,
    name: str | None = None,
    key: str | None = None,
    composite_key: bool = False,
) -> Target:
    """Find a table's embedding, BM25 index and key.

    Args:
        conn: Connection whose role may search the table.
        table: As in `pgembed.client.vector_search`.
        name: Embedding or BM25 index; the table's default. The schema of the table may
            stand before it.
        key: Column with the documents' ids; the primary key, if that is one column.
        composite_key: A primary key of several columns is fine; the first is given.

    Raises:
        InvalidSource: There is no such table.
        UnknownEmbedding: It has nothing to search, or several, none is named and none
            is its default.
        EvaluationError: There is no such key column, or none is given and the primary
            key has several.
    """
    text = table_text(table)
    columns = fetch(conn, _COLUMNS, table=text).rows
    if not columns:
        raise InvalidSource(f"there is no table {table!r}")
    found = fetch(conn, _EMBEDDINGS, table=text).rows
    found_bm25 = fetch(conn, _BM25, table=text).rows
    embedding = _chosen(found, name)
    # An embedding's own index has its name; else it goes with the table's default one.
    own = _chosen(found_bm25, embedding[0] if embedding else name)
    bm25 = own or (_chosen(found_bm25, None) if embedding or name is None else None)
    if embedding is None and (bm25 is None or (found and name is None)):
        choice = sorted({str(row[0]) for row in [*found, *found_bm25]})
        raise UnknownEmbedding(
            f"table {table!r} has "
            + (
                f"several: {', '.join(choice)}, and none is its default"
                if choice and name is None
                else "nothing to search" + (f" called {name!r}" if name else "")
            ),
            hint="Say which with embedding=... (--embedding)."
            if choice
            else "Declare an embedding or a BM25 index on it first.",
        )
    return Target(
        table=table,
        key=_key(columns, key, table, composite=composite_key),
        embedding=embedding[0] if embedding else None,
        bm25=bm25[0] if bm25 else None,
        model=encoders.ModelRow(*embedding[2:-1]) if embedding else None,
    )


def _chosen(
    rows: Sequence[tuple[Any, ...]], name: str | None
) -> tuple[Any, ...] | None:
    """Find what has a name, plain or with its schema; None: what is the default."""
    for row in rows:
        if row[-1] if name is None else name in row[:2]:
            return row
    return None


def _key(
    columns: Sequence[tuple[Any, ...]],
    key: str | None,
    table: Table,
    *,
    composite: bool,
) -> str:
    names = [name for name, _ in columns]
    if key is not None:
        if key not in names:
            raise EvaluationError(
                f"table {table!r} has no column {key!r}",
                hint=f"Its columns: {', '.join(names)}.",
            )
        return key
    primary = [name for name, position in columns if position >= 0]
    if len(primary) != 1 and not (composite and primary):
        raise EvaluationError(
            f"the primary key of {table!r} has {len(primary)} columns: which one holds "
            "the documents' ids is not clear",
            hint="Name it: key=... (--key).",
        )
    return str(primary[0])


def encode_queries(
    conn: Connection,
    target: Target,
    queries: Mapping[str, str],
    *,
    encoder: Encoder | str | None,
    timeout: float,
) -> QueryVectors:
    """Turn queries into vectors: in this process, or through the encoder service.

    Args:
        conn: Any connection.
        target: What will be searched; must have an embedding.
        queries: Texts by id.
        encoder: An encoder, or `'here'` or a registered model's name to load it in
            this process; None asks the service.
        timeout: Longest wait for the service's answer to one query, in seconds.

    Raises:
        NoEncoderService: None answers.
        EncoderError: The model is not here or out of order.
    """
    assert target.model is not None
    started = time.perf_counter()
    vectors: dict[str, str] = {}
    if encoder is None:
        model = target.model.name
        for key, text in queries.items():
            vectors[key] = vector_text(embed(conn, text, model, timeout=timeout))
    else:
        loaded = encoders.load(target.model) if isinstance(encoder, str) else encoder
        model = model_identity(loaded)
        keys = list(queries)
        started = time.perf_counter()  # loading a model is not encoding
        for start in range(0, len(keys), _ENCODED_AT_ONCE):
            batch = keys[start : start + _ENCODED_AT_ONCE]
            found = loaded.encode_queries([queries[key] for key in batch])
            vectors.update(
                (key, vector_text(vector))
                for key, vector in zip(batch, found, strict=True)
            )
    seconds = time.perf_counter() - started
    return QueryVectors(vectors, model, 1000 * seconds / max(1, len(queries)))


def quoted(table: Table) -> sql.Identifier:
    """Compose the table's name."""
    return table_identifier(table)
