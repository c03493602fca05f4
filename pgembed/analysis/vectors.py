"""Stored vectors with the keys of their rows, as a matrix."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from psycopg import sql

from pgembed.analysis.source import (
    Source,
    column_types,
    condition_sql,
    find_source,
    reading,
    sample_sql,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pgembed.evaluation.target import Connection
    from pgembed.options import Table

_BLOCK: Final = 4096  # vectors that are turned into numbers at once
# As pgvector sends them: two 16-bit numbers in front, which are as long as so many
# elements; big-endian.
_SENT: Final = {"vector": (">f4", 1), "halfvec": (">f2", 2)}

Progress: TypeAlias = "Callable[[str, float], None]"
"""Told what is being done, and the share of it that is done, 0 to 1."""


def silent(_what: str, _done: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Rows of a table, and a vector of each.

    Attributes:
        source: Where they are from.
        keys: Values of the key's columns as PostgreSQL writes them, row by row; rows
            are in the order of these.
        matrix: A line a row; of unit length where the distance is cosine.
        left_out: How many more rows there are, that have no vector yet or one that is
            zero.
        columns: What else was asked for, as PostgreSQL writes it, by column.
        column_types: Types of these columns, as SQL.
        json_keys: Keys as JSON, row by row.
    """

    source: Source
    keys: list[tuple[str, ...]]
    matrix: NDArray[np.float32]
    left_out: int
    columns: dict[str, list[str | None]]
    column_types: dict[str, str]
    json_keys: list[str]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.keys)

    def json_key(self, row: int) -> Any:
        """Give a row's key as searches do: its value, or a list of its values."""
        return json.loads(self.json_keys[row])

    def rows(self, wanted: Sequence[int]) -> Vectors:
        """Give some of the rows."""
        return replace(
            self,
            keys=[self.keys[row] for row in wanted],
            matrix=self.matrix[list(wanted)],
            columns={
                name: [values[row] for row in wanted]
                for name, values in self.columns.items()
            },
            json_keys=[self.json_keys[row] for row in wanted],
        )


def read_vectors(
    conn: Connection,
    table: Table,
    *,
    embedding: str | None = None,
    filter: str | None = None,
    columns: Sequence[str] = (),
    progress: Progress = silent,
) -> Vectors:
    """Read the vectors of a table's rows that the caller may see.

    A row of several chunks has their mean. Where vectors are compared by cosine, it is
    scaled to unit length, so that Euclidean distances rank as the cosine does.

    Args:
        conn: As who may search the table.
        table: The table, or an embedding's name.
        embedding: Which, where the table has several.
        filter: Conditions on columns, as JSON text.
        columns: What else to read of each row.
        progress: Told how far it is.

    Raises:
        InvalidSource: There is no such table.
        UnknownEmbedding: It has no such embedding.
        InvalidFilter: The filter is none.
        InvalidParameter: There is no such column.
    """
    return read_source(
        conn,
        find_source(conn, table, embedding),
        filter=filter,
        columns=columns,
        progress=progress,
    )


def read_source(
    conn: Connection,
    source: Source,
    *,
    filter: str | None = None,
    columns: Sequence[str] = (),
    one_in: int = 1,
    progress: Progress = silent,
) -> Vectors:
    """Read as `read_vectors` does, of an embedding that is found already.

    Of many rows a sample, the same each time: about one in so many.
    """
    condition = condition_sql(conn, source, filter) + sample_sql(source, one_in)
    types = column_types(conn, source, columns)
    rows = _Reader(source, types, conn.info.encoding)
    with reading(conn) as cursor:
        found = cursor.execute(_EXPECTED, [source.vectors]).fetchone()
        expected = found[0] if found else 1
        with cursor.copy(_statement(source, condition, columns)) as copy:
            for number, row in enumerate(copy.rows()):
                rows.add(row)
                if number % _BLOCK == 0:
                    progress("reading", min(1.0, number / expected))
    progress("reading", 1.0)
    return rows.done()


_COLUMN: Final = (
    "select s.{vector}, ({key})::pg_catalog.text, {values} from {table} as s"
)
_TABLE: Final = (
    "select c.v, ({key})::pg_catalog.text, {values} from {table} as s left join"
    " (select {keys}, c.{vector} as v from {vectors} as c) as c on {of_row}"
)
_EXPECTED: Final = (
    "select greatest(reltuples, 1) from pg_class where oid = to_regclass(%s)"
)


def _statement(source: Source, condition: str, columns: Sequence[str]) -> sql.Composed:
    """Write the statement: a row a chunk, or one without a vector."""
    # Types of users have casts that may be anybody's; concat() takes what the type's
    # own function writes.
    values = [
        sql.SQL("pg_catalog.concat(s.{})").format(sql.Identifier(name))
        for name in source.key
    ]
    values += [
        sql.SQL(
            "case when s.{0} is distinct from null then pg_catalog.concat(s.{0}) end"
        ).format(sql.Identifier(name))
        for name in columns
    ]
    query = _COLUMN if source.storage == "column" else _TABLE
    return sql.SQL("copy ({} where {}) to stdout (format binary)").format(
        sql.SQL(query).format(
            values=sql.SQL(", ").join(values),
            key=sql.SQL(source.key_json),
            table=sql.SQL(source.table),
            vector=sql.SQL(source.vector),
            keys=sql.SQL(source.chunk_keys),
            vectors=sql.SQL(source.vectors),
            of_row=sql.SQL(source.chunk_of_row),
        ),
        sql.SQL(condition),
    )


class _Reader:
    """Collects what is sent, chunk by chunk."""

    def __init__(self, source: Source, types: dict[str, str], encoding: str) -> None:
        self._source = source
        self._encoding = encoding
        self._types = types
        self._type, self._header = _SENT[source.vector_type]
        self._waiting: list[bytes] = []
        self._blocks: list[NDArray[np.float32]] = []
        self._numbers: dict[tuple[bytes, ...], int] = {}
        self._rows: list[int] = []  # of each vector
        self._json: list[str] = []
        self._values: list[tuple[bytes | None, ...]] = []
        self._left_out = 0

    def add(self, row: Sequence[Any]) -> None:
        """Take a row of the statement."""
        vector, in_json, *values = row
        if vector is None:
            self._left_out += 1
            return
        length = len(self._source.key)
        key = tuple(values[:length])
        number = self._numbers.setdefault(key, len(self._numbers))
        if number == len(self._json):
            self._json.append(in_json.decode(self._encoding))
            self._values.append(tuple(values[length:]))
        self._rows.append(number)
        self._waiting.append(vector)
        if len(self._waiting) == _BLOCK:
            self._convert()

    def done(self) -> Vectors:
        """Give what was collected, a vector a row, in the order of the keys."""
        self._convert()
        keys = [
            tuple(part.decode(self._encoding) for part in key) for key in self._numbers
        ]
        matrix = self._matrix()
        usable = np.arange(len(keys))
        if self._source.distance == "cosine":
            lengths = np.linalg.norm(matrix, axis=1)
            usable = np.flatnonzero(lengths)
            lengths[lengths == 0] = 1
            matrix /= lengths[:, None]
        # The server gives them in any order, on which no result shall depend.
        order = sorted(usable, key=keys.__getitem__)
        if order != list(range(len(keys))):
            matrix = matrix[order]
        return Vectors(
            source=self._source,
            keys=[keys[row] for row in order],
            matrix=matrix,
            left_out=self._left_out + len(keys) - len(order),
            columns={
                name: [self._text(self._values[row][place]) for row in order]
                for place, name in enumerate(self._types)
            },
            column_types=self._types,
            json_keys=[self._json[row] for row in order],
        )

    def _convert(self) -> None:
        if self._waiting:
            found = np.frombuffer(b"".join(self._waiting), dtype=self._type)
            lines = found.reshape(len(self._waiting), -1)[:, self._header :]
            self._blocks.append(lines.astype(np.float32))
            self._waiting = []

    def _matrix(self) -> NDArray[np.float32]:
        """Put the vectors together, and take the mean where a row has several."""
        if not self._blocks:
            return np.empty((0, self._source.dimensions), np.float32)
        chunks = np.concatenate(self._blocks)
        self._blocks = []
        if len(chunks) == len(self._numbers):
            return chunks
        rows = np.asarray(self._rows)
        order = np.argsort(rows, kind="stable")
        counts = np.bincount(rows)
        starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        sums = np.add.reduceat(chunks[order], starts, axis=0)
        return np.asarray(sums / counts[:, None], np.float32)

    def _text(self, value: bytes | None) -> str | None:
        return None if value is None else value.decode(self._encoding)
