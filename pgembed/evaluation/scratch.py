"""Stored vectors, copied into temporary tables of the session to try indexes on.

They are of the session and not of the database: whatever ends it, they go with it, no
other session waits for them, and what searches have in shared memory stays there.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from pgembed.encoders.base import LEARNT_FROM, main_axes
from pgembed.errors import EvaluationError, InvalidParameter, from_psycopg
from pgembed.options import HNSW, IVFFlat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pgembed.evaluation.target import Connection
    from pgembed.options import Reduction, VectorIndex, VectorType

POOL: Final = 400  # nearest by signs that the vectors rank again, as in a search
LONGEST: Final[dict[VectorType, int]] = {"vector": 2000, "halfvec": 4000}

_BYTES: Final = {"vector": 4, "halfvec": 2}
_OPERATORS: Final = {"cosine": "<=>", "inner_product": "<#>", "l2": "<->"}
_CLASSES: Final = {"cosine": "cosine_ops", "inner_product": "ip_ops", "l2": "l2_ops"}
_TABLES: Final = (
    *("pgembed_tune_all", "pgembed_tune_query", "pgembed_tune_axes"),
    "pgembed_tune_one",
)
_ROW: Final = 60  # bytes of a row besides the vector, and of its key's index
_SETTINGS: Final = (
    *("search_path", "statement_timeout", "temp_buffers", "maintenance_work_mem"),
    *("enable_seqscan", "enable_sort", "hnsw.ef_search", "hnsw.iterative_scan"),
    *("ivfflat.probes", "ivfflat.iterative_scan"),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """How vectors can be kept and found.

    Attributes:
        dimensions: How many of each.
        vector_type: `vector` or `halfvec`.
        index: What finds them; None: an exact search.
        reduction: What makes fewer dimensions than the model has.
    """

    dimensions: int
    vector_type: VectorType
    index: VectorIndex
    reduction: Reduction = "truncate"

    @property
    def binary(self) -> bool:
        """Whether the index has the signs alone."""
        return self.index is not None and (
            bool(self.index.binary) or self.dimensions > LONGEST[self.vector_type]
        )

    @property
    def kind(self) -> str:
        """Give `vector`, `halfvec` or `binary`."""
        return "binary" if self.binary else self.vector_type

    @property
    def index_label(self) -> str:
        """Name the index: `hnsw 16/64`, `ivfflat 10`, `exact`."""
        if isinstance(self.index, HNSW):
            return f"hnsw {self.index.m or 16}/{self.index.ef_construction or 64}"
        return "exact" if self.index is None else f"ivfflat {self.index.lists}"

    @property
    def label(self) -> str:
        """Name it: `384 halfvec hnsw 16/64`."""
        return f"{self.length_label} {self.kind} {self.index_label}"

    @property
    def length_label(self) -> str:
        """Name the length: `128`, or `128 pca`."""
        reduction = "" if self.reduction == "truncate" else f" {self.reduction}"
        return f"{self.dimensions}{reduction}"

    @property
    def effort(self) -> str | None:
        """Name of pgvector's setting for how far a search looks."""
        if self.index is None:
            return None
        return "hnsw.ef_search" if isinstance(self.index, HNSW) else "ivfflat.probes"


@dataclass(frozen=True, slots=True)
class Stored:
    """The vectors of an embedding, as the server names them.

    Attributes:
        table: Table that holds them.
        column: Column of the vectors.
        keys: Expressions for the key of their row, of a row c, as k1, k2, ...
        chunks: How many there are, or are expected to be.
        dimensions: Length.
        vector_type: Type.
        distance: What is least for the nearest.
        normalized: Whether they have unit length.
        schema: Where pgvector is.
        reduction: What made them of the model's.
        projectable: Whether the embedding can have them projected.
    """

    table: str
    column: str
    keys: str
    chunks: int
    dimensions: int
    vector_type: VectorType
    distance: str
    normalized: bool
    schema: str
    reduction: Reduction = "truncate"
    projectable: bool = False


def disk_bytes(rows: int, setups: Sequence[Setup], stored: Stored) -> int:
    """Say how much disk trying these takes at once, at most."""

    def vectors(dimensions: int, kind: str) -> int:
        length = _BYTES[kind] * dimensions + _ROW
        # What is not in the row is cut into pieces of 2 kB, with a row each.
        return rows * (length if length <= 2000 else int(1.3 * length) + 100)

    def with_index(one: Setup) -> int:
        table = vectors(one.dimensions, one.vector_type)
        if one.index is None:
            return table
        bits = rows * (one.dimensions // 8 + _ROW)
        entries = bits if one.binary else vectors(one.dimensions, one.vector_type)
        if isinstance(one.index, HNSW):
            entries += rows * (100 + 20 * (one.index.m or 16))
        # A page that cannot hold one more entry stays partly empty.
        return table + int(1.5 * entries)

    largest = max(with_index(one) for one in setups)
    return vectors(stored.dimensions, stored.vector_type) + largest + 2**20


class Scratch:
    """A sample of an embedding's vectors, and one way at a time to keep them.

    Attributes:
        rows: How many there are to be found.
        queries: Vectors to search for, as pgvector reads them.
        most_bytes: Most that the tables have taken until now.
    """

    def __init__(self, conn: Connection, stored: Stored) -> None:
        self._conn = conn
        self._stored = stored
        self.rows = 0
        self._longest = 0  # dimensions that a projection has been learnt for
        self.queries: list[str] = []
        self.documents: dict[int, str] = {}
        self.most_bytes = 0

    @contextmanager
    def opened(self, memory: int) -> Iterator[Scratch]:
        """Have the session ready for it, and as it was afterwards, without the tables.

        Args:
            memory: Bytes that the session may take for what it tries, if that is not
                more than the server's shared_buffers.

        Raises:
            InvalidParameter: The connection is in a transaction.
        """
        self.require_idle()
        before = {name: self._value(_CURRENT, name) for name in _SETTINGS}
        try:
            self._set("search_path", "pg_catalog, pg_temp")
            self._set("statement_timeout", "0")  # a build takes what it takes
            shared = int(self._value(_SHARED_BYTES))
            kilobytes = max(min(memory, shared) // 1024, 8 * 1024)
            buffers = int(self._value(_BYTES_OF, "temp_buffers")) // 1024
            if kilobytes > buffers and not self._value(_HAS_TEMPORARY):
                self._set("temp_buffers", f"{kilobytes}kB")
            work = int(self._value(_BYTES_OF, "maintenance_work_mem")) // 1024
            self._set("maintenance_work_mem", f"{max(kilobytes, work)}kB")
            self._drop(*_TABLES)
            yield self
        except psycopg.Error as exc:
            known = from_psycopg(exc)
            if known is None:
                raise
            raise known from exc
        finally:
            self._drop(*_TABLES)
            for name, value in before.items():
                if name != "temp_buffers":  # fixed once they are used
                    self._set(name, value or _UNSET.get(name, ""))

    def require_idle(self) -> None:
        """Refuse a connection whose transaction would hold back vacuum for long."""
        idle = self._conn.info.transaction_status == TransactionStatus.IDLE
        if not (self._conn.autocommit and idle):
            raise InvalidParameter(
                "the connection is in a transaction, or begins one",
                hint="Give one with autocommit=True: trying indexes takes minutes.",
            )

    def draw(self, rows: int, queries: int, wanted: Sequence[str], seed: int) -> None:
        """Copy a sample: rows to be found, and besides as many to search for.

        Args:
            rows: How many at most.
            queries: How many of the sample serve as queries, and are not to be found.
            wanted: Keys of rows whose vectors are among it, come what may.
            seed: Another one draws another sample.

        Raises:
            EvaluationError: There are too few.
        """
        stored, many = self._stored, rows + queries
        share = min(100.0, 100 * 1.5 * many / max(stored.chunks, 1))
        part: sql.Composable = sql.SQL("")
        if share < 100:  # reading it all would take longer than the searches
            part = sql.SQL("tablesample bernoulli ({}) repeatable ({})").format(
                share, seed
            )
        names = {
            "keys": sql.SQL(stored.keys),
            "column": sql.SQL(stored.column),
            "table": sql.SQL(stored.table),
            "wanted": sql.SQL("{}::text[]").format(list(wanted)),
            "seed": sql.Literal(seed),
            "many": sql.Literal(many),
        }
        vectors = sql.SQL(
            "(select {keys}, c.{column} as v from {table} as c {part}"
            " where c.{column} is not null) as s"
        )
        self._run(
            sql.SQL(
                "create temporary table pgembed_tune_all as"
                " select row_number() over (order by d.wanted desc, d.drawn,"
                " d.doc)::int as id, d.doc, d.v from (select u.*,"
                " hashtextextended(u.doc, {seed}) as drawn from ("
                "select s.k1::text as doc, s.v, false as wanted from {some}"
                " where s.k1::text <> all ({wanted}) union all"
                " select s.k1::text, s.v, true from {every}"
                " where s.k1::text = any ({wanted})) as u"
                " order by u.wanted desc, drawn, u.doc limit {many}) as d"
            ).format(
                some=vectors.format(**names, part=part),
                every=vectors.format(**names, part=sql.SQL("")),
                **names,
            )
        )
        found = int(self._value("select count(*) from pg_temp.pgembed_tune_all"))
        self.rows = found - queries
        if self.rows < max(2 * queries, _FEWEST):
            raise EvaluationError(
                f"there are {found} vectors, too few to tell indexes apart",
                hint="Tables of up to about 1,000 chunks are searched exactly anyway.",
            )
        if queries:
            self._run(
                sql.SQL(
                    "create temporary table pgembed_tune_query as"
                    " select id, v::{}.vector as v from pg_temp.pgembed_tune_all"
                    " where id > {}"
                ).format(self._schema, self.rows)
            )
        if wanted:
            documents = "select id, doc from pg_temp.pgembed_tune_all"
            self.documents = dict(self._conn.execute(documents).fetchall())

    def ask(self, vectors: Sequence[str]) -> None:
        """Search for these vectors, instead of some of the sample."""
        self._run(
            sql.SQL(
                "create temporary table pgembed_tune_query as select id::int as id,"
                " v::{}.vector as v from unnest({}::text[]) with ordinality as q(v, id)"
            ).format(self._schema, list(vectors))
        )

    def keep(self, setup: Setup) -> int:
        """Keep the sample's vectors in a way, without an index; gives their bytes."""
        self._drop("pgembed_tune_one")
        if self._is_projected(setup) and setup.dimensions > self._longest:
            self._learn(setup.dimensions)
        parts = {
            "type": self._type(setup),
            "rows": sql.Literal(self.rows),
            "v": self._cut(setup),
        }
        for statement in (
            "create temporary table pgembed_tune_one (id int, v {type})",
            # As in a side table: vectors are never compressed.
            "alter table pg_temp.pgembed_tune_one alter column v set storage external",
            "insert into pg_temp.pgembed_tune_one select id, {v}::{type}"
            " from pg_temp.pgembed_tune_all where id <= {rows} order by id",
            "analyze pg_temp.pgembed_tune_one",
        ):
            self._run(sql.SQL(statement).format(**parts))
        self.queries = [
            row[0]
            for row in self._conn.execute(
                sql.SQL(
                    "select ({v})::text from pg_temp.pgembed_tune_query order by id"
                ).format(**parts)
            )
        ]
        return self._measure_disk()

    def build(self, setup: Setup) -> tuple[float, int]:
        """Build an index in the place of the one before; gives seconds and bytes."""
        self._run(sql.SQL("drop index if exists pg_temp.pgembed_tune_index"))
        if setup.index is None:
            return 0.0, 0
        options = {
            name: value
            for name in ("m", "ef_construction", "lists")
            if (value := getattr(setup.index, name, None)) is not None
        }
        if setup.binary:
            expression: sql.Composable = sql.SQL(
                "(({}.binary_quantize(v))::bit({}))"
            ).format(self._schema, setup.dimensions)
            operators = "bit_hamming_ops"
        else:
            expression = sql.SQL("v")
            operators = f"{setup.vector_type}_{_CLASSES[self._stored.distance]}"
        statement = sql.SQL(
            "create index pgembed_tune_index on pg_temp.pgembed_tune_one"
            " using {method} ({expression} {schema}.{operators}){options}"
        ).format(
            method=sql.SQL("ivfflat" if isinstance(setup.index, IVFFlat) else "hnsw"),
            expression=expression,
            schema=self._schema,
            operators=sql.Identifier(operators),
            options=sql.SQL(" with ({})").format(
                sql.SQL(", ").join(
                    sql.SQL("{} = {}").format(sql.Identifier(name), value)
                    for name, value in options.items()
                )
            )
            if options
            else sql.SQL(""),
        )
        began = time.perf_counter()
        self._run(statement)
        seconds = time.perf_counter() - began
        self._measure_disk()
        size = "pg_catalog.pg_relation_size('pg_temp.pgembed_tune_index')"
        return seconds, int(self._value(f"select {size}"))

    def search(
        self, setup: Setup, effort: int | None, k: int
    ) -> tuple[list[list[tuple[int, float]]], list[float]]:
        """Search for each query as pgembed's searches do.

        Args:
            setup: What was kept and built.
            effort: `ef_search` or `probes`; None: exactly.
            k: How many are wanted.

        Returns:
            Rows and their distances, nearest first, and the milliseconds; by query.
        """
        indexed = setup.index is not None
        # The planner could sort few rows, and many are not.
        self._set("enable_seqscan", "off" if indexed else "on")
        self._set("enable_sort", "off" if indexed and not setup.binary else "on")
        if indexed and setup.effort is not None:
            self._set(setup.effort, str(effort))
        wanted = POOL if setup.binary else k
        deep = isinstance(setup.index, IVFFlat) or wanted > (effort or 0)
        self._set("hnsw.iterative_scan", "strict_order" if deep else "off")
        self._set("ivfflat.iterative_scan", "relaxed_order" if deep else "off")
        statement = self._search_sql(setup, k)
        found, times = [], []
        for position, query in enumerate([self.queries[0], *self.queries]):
            began = time.perf_counter()
            rows = self._conn.execute(statement, {"q": query}, prepare=True).fetchall()
            elapsed = 1000 * (time.perf_counter() - began)
            if position > 0:  # the first is a warm-up
                found.append([(int(row[0]), float(row[1])) for row in rows])
                times.append(elapsed)
        return found, times

    def _search_sql(self, setup: Setup, k: int) -> sql.Composed:
        parts = {
            "schema": self._schema,
            "operator": sql.SQL(_OPERATORS[self._stored.distance]),
            "type": self._type(setup),
            "bits": sql.Literal(setup.dimensions),
            "k": sql.Literal(k),
            "pool": sql.Literal(max(POOL, k)),
        }
        table: sql.Composable = sql.SQL("pg_temp.pgembed_tune_one")
        if setup.binary:
            table = sql.SQL(
                "(select * from pg_temp.pgembed_tune_one order by"
                " ({schema}.binary_quantize(v))::bit({bits})"
                " operator({schema}.<~>)"
                " ({schema}.binary_quantize(%(q)s::{type}))::bit({bits})"
                " limit {pool})"
            ).format(**parts)
        return sql.SQL(
            "select t.id, t.v operator({schema}.{operator}) %(q)s::{type} as distance"
            " from {table} as t order by distance limit {k}"
        ).format(table=table, **parts)

    @property
    def _schema(self) -> sql.SQL:
        return sql.SQL(self._stored.schema)

    def _type(self, setup: Setup) -> sql.Composed:
        return sql.SQL("{}.{}({})").format(
            self._schema, sql.Identifier(setup.vector_type), setup.dimensions
        )

    def _cut(self, setup: Setup) -> sql.Composable:
        if setup.dimensions == self._stored.dimensions:
            return sql.SQL("v")
        cut = sql.SQL(
            "(select array_agg({schema}.inner_product(a.axis, v::{schema}.vector)::real"
            " order by a.place)::{schema}.vector from pg_temp.pgembed_tune_axes as a"
            " where a.place <= {dimensions})"
            if self._is_projected(setup)
            else "{schema}.subvector(v::{schema}.vector, 1, {dimensions})"
        ).format(schema=self._schema, dimensions=setup.dimensions)
        if self._stored.normalized:
            return sql.SQL("{}.l2_normalize({})").format(self._schema, cut)
        return cut

    def _is_projected(self, setup: Setup) -> bool:
        # The first of what is projected already are a projection too.
        return setup.reduction != self._stored.reduction

    def _learn(self, dimensions: int) -> None:
        """Learn a projection from the sample."""
        rows = min(self.rows, LEARNT_FROM)
        read = sql.SQL(
            "select {schema}.vector_send(v::{schema}.vector)"
            " from pg_temp.pgembed_tune_all where id <= {rows}"
        ).format(schema=self._schema, rows=rows)
        vectors = np.empty((rows, self._stored.dimensions), dtype=np.float32)
        with self._conn.cursor(binary=True) as cursor:
            for place, row in enumerate(cursor.execute(read)):
                vectors[place] = np.frombuffer(row[0], ">f4", offset=_HEADER_BYTES)
        self._drop("pgembed_tune_axes")
        self._run(
            sql.SQL(
                "create temporary table pgembed_tune_axes (place int, axis {}.vector)"
            ).format(self._schema)
        )
        with self._conn.cursor() as cursor:
            cursor.executemany(
                "insert into pg_temp.pgembed_tune_axes values (%s, %s)",
                [
                    (place, str(axis.tolist()))
                    for place, axis in enumerate(main_axes(vectors, dimensions), 1)
                ],
            )
        self._longest = dimensions

    def _measure_disk(self) -> int:
        sizes = [
            int(
                self._value(
                    "select coalesce(pg_catalog.pg_total_relation_size("
                    "pg_catalog.to_regclass(%s)), 0)",
                    f"pg_temp.{table}",
                )
            )
            for table in _TABLES
        ]
        self.most_bytes = max(self.most_bytes, sum(sizes))
        return sizes[-1]

    def _drop(self, *tables: str) -> None:
        for table in tables:
            self._run(
                sql.SQL("drop table if exists pg_temp.{}").format(sql.Identifier(table))
            )

    def _run(self, statement: sql.SQL | sql.Composed) -> None:
        self._conn.execute(statement)

    def _set(self, name: str, value: str) -> None:
        self._conn.execute("select pg_catalog.set_config(%s, %s, false)", [name, value])

    def _value(self, statement: Any, *values: object) -> Any:
        row = self._conn.execute(statement, values or None).fetchone()
        assert row is not None
        return row[0]


_FEWEST: Final = 500
_HEADER_BYTES: Final = 4  # as pgvector sends: the dimensions, and an unused number
_CURRENT: Final = "select pg_catalog.current_setting(%s, true)"
_BYTES_OF: Final = "select pg_catalog.pg_size_bytes(pg_catalog.current_setting(%s))"
_SHARED_BYTES: Final = (
    "select pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers'))"
)
# Then the size of their memory is fixed for the session.
_HAS_TEMPORARY: Final = "select pg_catalog.pg_my_temp_schema() <> 0"
#: What pgvector's settings are where it is not loaded yet.
_UNSET: Final = {
    "hnsw.ef_search": "40",
    "hnsw.iterative_scan": "off",
    "ivfflat.probes": "1",
    "ivfflat.iterative_scan": "off",
}
