"""What the points of a map are coloured by, as a legend of at most twelve colours."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np
from psycopg import sql

from pgembed.analysis.results import Kind, saved_tables
from pgembed.analysis.source import condition_sql, reading
from pgembed.errors import AnalysisError, InvalidParameter, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pgembed.analysis.source import Source
    from pgembed.analysis.vectors import Vectors
    from pgembed.evaluation.target import Connection
    from pgembed.studio.sources import Column

MOST_COMPARED: Final = 20_000  # rows that are compared while somebody waits
#: What can be asked for besides a column, and what people read.
KINDS: Final[dict[str, str]] = {
    "": "clusters, if at hand",
    "clusters": "clusters",
    "classes": "classes",
    "duplicates": "duplicates",
    "outliers": "outliers",
    "none": "nothing",
}
COLUMN: Final = "column:"  # before the name of one
#: Kinds of columns that have no colours.
SHOWN_BADLY: Final = ("bytes", "json")
_MOST: Final = 10  # values with a colour of their own
_LONGEST: Final = 60  # characters of a value
_CLUSTERS: Final = 8
_WORDS: Final = 3  # in a cluster's name
_EVENLY: Final = (0, 0.2, 0.4, 0.6, 0.8, 1)  # quantiles that bound the shades
_OUTSIDE: Final = (0, 0.5, 0.8, 0.95, 0.99, 1)
_COMMANDS: Final[dict[Kind, str]] = {
    "map": "map",
    "clusters": "cluster",
    "classes": "classify",
    "duplicates": "duplicates",
    "outliers": "outliers",
}
#: What a row of such a table says.
_SAVED: Final[dict[str, str]] = {
    "clusters": "case when m.cluster >= 0 then concat_ws(': ', m.cluster, m.label)"
    " else 'in no cluster' end",
    "classes": "m.label",
    "duplicates": "'group ' || m.group_id",
    "outliers": "m.score",
}
_FUNCTIONS: Final[dict[str, str]] = {
    "duplicates": "select f.key::text, 'group ' || f.group_id"
    " from pgembed.duplicate_groups(null::{table}, filter => %(filter)s::jsonb,"
    " embedding => %(embedding)s) as f",
    "outliers": "select f.key::text, f.score from pgembed.outliers(null::{table},"
    " 'centroid', null, filter => %(filter)s::jsonb, embedding => %(embedding)s) as f",
}
_VALUES: Final = sql.SQL(
    "select ({key})::text, {value} from {table} as s {joined} where {where}"
)
_TEXT: Final = "case when s.{0} is distinct from null then left(concat(s.{0}), {1}) end"

Value: TypeAlias = "str | float | None"


@dataclass(frozen=True, slots=True)
class Colour:
    """A line of the legend.

    Attributes:
        name: What it stands for.
        points: How many have it.
        style: `group-0` …, `shade-0` …, `others` or `missing`, as in studio.css.
    """

    name: str
    points: int
    style: str


@dataclass(frozen=True, slots=True)
class Legend:
    """The colours of a map.

    Attributes:
        colours: In their order.
        of_rows: Number of each row's.
        of: What they are of.
    """

    colours: Sequence[Colour]
    of_rows: NDArray[np.uint8]
    of: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that have points.

    Attributes:
        conn: As who may see them.
        source: Where they are from.
        keys: As JSON text.
        total: How many there are; of many, these are a sample.
        filter: Which of the table's they are, as JSON.
        sample: Likewise, as the end of a condition in SQL.
        vectors: Theirs, where they have been read already.
        columns: Of the table.
    """

    conn: Connection
    source: Source
    keys: Sequence[str]
    total: int
    filter: str | None
    sample: str
    vectors: Vectors | None
    columns: Sequence[Column]


def find(rows: Rows, colour: str) -> tuple[Legend, str]:
    """Colour the rows.

    Args:
        rows: Which.
        colour: A key of `KINDS`, or `column:` and the name of a column.

    Returns:
        The colours, and what people need to know of them.

    Raises:
        InvalidParameter: There is no such colour.
    """
    if colour.startswith(COLUMN):
        name = colour.removeprefix(COLUMN)
        return _of_column(rows, name), ""
    if colour not in KINDS:
        raise InvalidParameter(
            f"there is no colour {colour!r}",
            hint=f"Known: {', '.join(filter(None, KINDS))}, {COLUMN}NAME.",
        )
    if colour == "none" or not rows.keys:
        return _plain(rows), ""
    try:
        return _of_kind(rows, cast("Kind", colour or "clusters"))
    except (AnalysisError, InvalidParameter, MissingExtra) as exc:
        # The map is worth a look without them.
        return _plain(rows), f"{exc.message}. {exc.hint}" if exc.hint else exc.message


def joined(source: Source, table: str) -> sql.Composed:
    """Join a table of results m to the rows s of its source."""
    on = sql.SQL(" and ").join(
        sql.SQL("s.{0} = m.{0}").format(sql.Identifier(name)) for name in source.key
    )
    return sql.SQL("join {} as m on {}").format(sql.SQL(table), on)


def command(source: Source, kind: Kind) -> str:
    """Write the command that makes a table of results."""
    table = source.table
    into = f'{table[:-1]}_{kind}"' if table.endswith('"') else f"{table}_{kind}"
    return shlex.join(["pgembed", _COMMANDS[kind], table, "--into", into])


def _of_kind(rows: Rows, kind: Kind) -> tuple[Legend, str]:
    saved = saved_tables(rows.conn, rows.source, kind)
    to_keep = command(rows.source, kind)
    found: Mapping[str, Value]
    if saved:
        found = _values(rows, sql.SQL(_SAVED[kind]), saved[0])
        of, note = f"{kind} of {saved[0]}", ""
    elif (why := _not_now(rows, kind)) is not None:
        raise InvalidParameter(
            f"there are no {kind} of {rows.source.table} at hand",
            hint=f"{why}: `{to_keep}`.",
        )
    else:
        found = _clusters(rows) if kind == "clusters" else _by_function(rows, kind)
        of, note = f"{kind}, found now", f"To keep them: `{to_keep}`."
    values = [found.get(key) for key in rows.keys]
    if kind == "outliers":
        return _by_number(values, of, _OUTSIDE), note
    missing = "not a duplicate" if kind == "duplicates" else "no value"
    return _by_name(values, of, missing), note


def _not_now(rows: Rows, kind: Kind) -> str | None:
    """Say why nothing is found while somebody waits."""
    if kind == "classes":
        return "Say which there are, with --label or --labels"
    if rows.total > MOST_COMPARED and (kind != "clusters" or rows.vectors is None):
        return f"There are {rows.total:,} rows, which takes a while"
    return None


def _of_column(rows: Rows, name: str) -> Legend:
    columns = {one.name: one for one in rows.columns if one.kind not in SHOWN_BADLY}
    if name not in columns:
        raise InvalidParameter(
            f"{rows.source.table} has no column {name!r} that has colours",
            hint=f"Those that do: {', '.join(columns)}.",
        )
    text = sql.SQL(_TEXT).format(sql.Identifier(name), sql.Literal(_LONGEST))
    found = _values(rows, text)
    values = [found.get(key) for key in rows.keys]
    if columns[name].kind == "number" and len(set(values)) > _MOST:
        try:
            numbers = [None if one is None else float(one) for one in values]
        except ValueError:
            pass  # money, for example
        else:
            return _by_number(numbers, name, _EVENLY)
    return _by_name(values, name, "NULL")


def _values(
    rows: Rows, value: sql.Composable, table: str | None = None
) -> dict[str, Value]:
    source = rows.source
    where = condition_sql(rows.conn, source, rows.filter) + rows.sample
    statement = _VALUES.format(
        key=sql.SQL(source.key_json),
        value=value,
        table=sql.SQL(source.table),
        joined=sql.SQL("") if table is None else joined(source, table),
        where=sql.SQL(where),
    )
    with reading(rows.conn) as cursor:
        return dict(cursor.execute(statement).fetchall())


def _by_function(rows: Rows, kind: str) -> dict[str, Value]:
    statement = sql.SQL(_FUNCTIONS[kind]).format(
        table=sql.SQL(rows.source.table.replace("%", "%%"))
    )
    asked = {"filter": rows.filter, "embedding": rows.source.embedding}
    with reading(rows.conn) as cursor:
        return dict(cursor.execute(statement, asked).fetchall())


def _clusters(rows: Rows) -> Mapping[str, Value]:
    from pgembed.analysis import ClusterOptions, find_clusters, name_clusters
    from pgembed.analysis.vectors import read_source

    vectors = rows.vectors
    if vectors is None:
        vectors = read_source(rows.conn, rows.source, filter=rows.filter)
    options = ClusterOptions(k=min(_CLUSTERS, round((len(vectors) / 2) ** 0.5) or 1))
    found = name_clusters(rows.conn, vectors, find_clusters(vectors, options))
    names = {
        one.number: ", ".join(one.words[:_WORDS]) or f"cluster {one.number}"
        for one in found.clusters
    }
    numbers = found.numbers.tolist()
    return dict(zip(vectors.json_keys, map(names.get, numbers), strict=True))


def _plain(rows: Rows) -> Legend:
    some = [Colour("all rows", len(rows.keys), "group-0")]
    return _used(some, np.zeros(len(rows.keys), np.uint8), "")


def _by_name(values: Sequence[Value], of: str, missing: str) -> Legend:
    """Give the most frequent values a colour each."""
    counts = Counter(one for one in values if one is not None)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
    names = {name: place for place, (name, _) in enumerate(ordered[:_MOST])}
    some = [
        Colour(str(name), many, f"group-{place}")
        for place, (name, many) in enumerate(ordered[:_MOST])
    ]
    others, none = len(some), len(some) + 1
    numbers = [none if one is None else names.get(one, others) for one in values]
    some += [
        Colour(f"{len(ordered) - _MOST:,} others", numbers.count(others), "others"),
        Colour(missing, numbers.count(none), "missing"),
    ]
    return _used(some, np.array(numbers, np.uint8), of)


def _by_number(values: Sequence[Value], of: str, quantiles: Sequence[float]) -> Legend:
    """Give ranges of numbers a shade each."""
    numbers = np.array([np.nan if one is None else one for one in values], np.float64)
    known = np.isfinite(numbers)
    some_known = numbers[known] if known.any() else np.zeros(1)
    # As they are shown: no two ranges are called the same.
    bounds = np.quantile(some_known, quantiles)
    edges = np.unique([float(f"{one:.4g}") for one in bounds])
    shades = max(1, len(edges) - 1)
    of_rows = np.full(len(numbers), shades, np.uint8)
    of_rows[known] = np.searchsorted(edges[1:-1], numbers[known], side="right")
    some = [
        Colour(
            f"{edges[place]:g} to {edges[min(place + 1, len(edges) - 1)]:g}",
            int((of_rows == place).sum()),
            f"shade-{place}",
        )
        for place in range(shades)
    ]
    some.append(Colour("no value", int((~known).sum()), "missing"))
    return _used(some, of_rows, of)


def _used(some: Sequence[Colour], of_rows: NDArray[np.uint8], of: str) -> Legend:
    """Leave out colours that no row has."""
    kept = [place for place, one in enumerate(some) if one.points]
    renamed = np.zeros(len(some), np.uint8)
    renamed[kept] = np.arange(len(kept))
    return Legend([some[place] for place in kept], renamed[of_rows], of)
