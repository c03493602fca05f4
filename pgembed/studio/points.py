"""The points of a map, with a colour each, as the browser takes them.

A map is a table of `pgembed map --into`; where there is none, a sample of the rows is
placed at once. All is read with the rights of the role: a table of results holds keys
of any rows, and those that it may not see are in no answer.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from psycopg import sql

from pgembed.analysis.results import saved_tables
from pgembed.analysis.source import condition_sql, find_source, reading, sample_sql
from pgembed.errors import InvalidParameter
from pgembed.studio import colours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pgembed.analysis.source import Source
    from pgembed.analysis.vectors import Vectors
    from pgembed.evaluation.target import Connection
    from pgembed.studio.colours import Legend
    from pgembed.studio.sources import Column

MOST_POINTS: Final = 200_000  # on the page; of more, a sample
MOST_PLACED: Final = 5_000  # rows that are placed while somebody waits
#: The name of the map that is made at once.
SKETCH: Final = "sketch"

_COUNT: Final = sql.SQL("select count(*) from {table} as s {joined} where {where}")
_POINTS: Final = sql.SQL(
    "select m.x, m.y, ({key})::text from {table} as s {joined} where {where}"
    " limit {most}"
)
# Neither NULL nor NaN, which counts as larger than all numbers.
_FINITE: Final = " and abs(m.x) < 'infinity' and abs(m.y) < 'infinity'"

Floats: TypeAlias = "NDArray[np.float32]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a page asks.

    Attributes:
        table: Of which table.
        columns: Of that table.
        embedding: Whose vectors; None: the default.
        filter: Conditions on the rows, as JSON.
        map: A table of points as SQL, or `sketch`; None: the first that is there.
        colour: Of the points, see `colours.find`.
    """

    table: str
    columns: Sequence[Column] = ()
    embedding: str | None = None
    filter: str | None = None
    map: str | None = None
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Points:
    """Rows as points.

    Attributes:
        keys: Primary keys as JSON text.
        places: A line a row: x and y.
        legend: The colours, and each row's.
        about: What else the page says.
    """

    keys: Sequence[str]
    places: Floats
    legend: Legend
    about: dict[str, Any] = field(default_factory=dict)

    def as_bytes(self) -> bytes:
        """Write them for static/map.js.

        The length of a head and the head, JSON; all x, all y, as 32-bit numbers; a byte
        for each row's colour; the keys, a line each.
        """
        head = {
            **self.about,
            "points": len(self.keys),
            "colours": [asdict(one) for one in self.legend.colours],
            "of": self.legend.of,
        }
        text = json.dumps(head, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 4)
        return b"".join(
            [
                struct.pack("<I", len(text)),
                text,
                np.ascontiguousarray(self.places.T, "<f4").tobytes(),
                self.legend.of_rows.tobytes(),
                "\n".join(self.keys).encode(),
            ]
        )


@dataclass(frozen=True, slots=True)
class _Placed:
    """Rows with places, and of how many they are a sample: about one in so many."""

    keys: Sequence[str]
    places: Floats
    total: int
    one_in: int
    vectors: Vectors | None = None


def read_points(conn: Connection, asked: Asked) -> Points:
    """Read a map, or make one, and colour it.

    Args:
        conn: As who may see the rows.
        asked: Which.

    Raises:
        InvalidParameter: There is no such map, or no such colour.
        MissingExtra: What it takes to place or colour rows is not installed.
    """
    source = find_source(conn, asked.table, asked.embedding)
    saved = saved_tables(conn, source, "map")
    chosen = _chosen(saved, asked)
    condition = condition_sql(conn, source, asked.filter)
    if chosen is None:
        found = _sketched(conn, source, condition, asked.filter)
    else:
        found = _saved(conn, source, condition, chosen)
    rows = colours.Rows(
        conn,
        source,
        found.keys,
        found.total,
        asked.filter,
        sample_sql(source, found.one_in),
        found.vectors,
        asked.columns,
    )
    legend, note = colours.find(rows, asked.colour)
    about = {
        "map": chosen,
        "maps": saved,
        "total": found.total,
        "sample": found.one_in > 1,
        "note": note,
        "command": colours.command(source, "map"),
    }
    return Points(found.keys, found.places, legend, about)


def _chosen(saved: Sequence[str], asked: Asked) -> str | None:
    if asked.map == SKETCH:
        return None
    if not asked.map:
        return saved[0] if saved else None
    if asked.map not in saved:
        raise InvalidParameter(
            f"there is no map {asked.map} of {asked.table}",
            hint="It has been dropped, its columns are not the key, x and y, or the "
            "role may not read it.",
        )
    return asked.map


def _saved(conn: Connection, source: Source, condition: str, map: str) -> _Placed:
    """Read a map, of the rows that are still there."""
    joined = colours.joined(source, map)
    where = condition + _FINITE
    found = _read(conn, source, joined, where)
    one_in = 1
    total = len(found)
    if total > MOST_POINTS:
        total = _count(conn, source, joined, where)
        one_in = -(-total // MOST_POINTS)
        found = _read(conn, source, joined, where + sample_sql(source, one_in))
    places = np.array([row[:2] for row in found], np.float32).reshape(-1, 2)
    return _Placed([row[2] for row in found], places, total, one_in)


def _sketched(
    conn: Connection, source: Source, condition: str, filter: str | None
) -> _Placed:
    """Place rows at once, by their principal components."""
    from pgembed.analysis.maps import quick_map
    from pgembed.analysis.vectors import read_source

    total = _count(conn, source, sql.SQL(""), condition)
    one_in = max(1, -(-total // MOST_PLACED))
    vectors = read_source(conn, source, filter=filter, one_in=one_in)
    places = quick_map(vectors.matrix)
    return _Placed(vectors.json_keys, places, total, one_in, vectors)


def _count(conn: Connection, source: Source, joined: sql.Composable, where: str) -> int:
    statement = _COUNT.format(
        table=sql.SQL(source.table), joined=joined, where=sql.SQL(where)
    )
    with reading(conn) as cursor:
        cursor.execute(statement)
        (found,) = cursor.fetchone() or (0,)
    return int(found)


def _read(
    conn: Connection, source: Source, joined: sql.Composable, where: str
) -> list[tuple[float, float, str]]:
    """Read points and keys, at most one more than are shown."""
    statement = _POINTS.format(
        key=sql.SQL(source.key_json),
        table=sql.SQL(source.table),
        joined=joined,
        where=sql.SQL(where),
        most=sql.Literal(MOST_POINTS + 1),
    )
    with reading(conn) as cursor:
        return cursor.execute(statement, binary=True).fetchall()
