"""The three searches of the page, in one snapshot, with the time of each."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pgembed._client.arguments import checked, named
from pgembed._client.values import check_query
from pgembed.errors import InvalidParameter, PgembedError
from pgembed.options import (
    BM25SearchOptions,
    HybridSearchOptions,
    VectorSearchOptions,
)
from pgembed.studio import judgements
from pgembed.studio.cells import cells_sql, escaped, named_cells, title
from pgembed.studio.problems import Problem, problem_of
from pgembed.studio.vectors import have_vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgembed.studio.database import Connection, Database
    from pgembed.studio.sources import Column, Source

Arm = Literal["words", "meaning", "both"]

#: The function of each column of the page, and its options.
FUNCTIONS: dict[Arm, tuple[str, type]] = {
    "words": ("bm25_search", BM25SearchOptions),
    "meaning": ("vector_search", VectorSearchOptions),
    "both": ("hybrid_search", HybridSearchOptions),
}
MOST_HITS = 50
CONTENT = 600  # characters of a chunk
_ABOUT = {
    "bm25_search": "h.score, h.snippet, h.read_as, h.explanation",
    "vector_search": "h.similarity as score, h.similarity, h.chunk, h.encoded_by,"
    " pg_catalog.left(h.content, {content}) as content",
    "hybrid_search": "h.score, h.snippet, h.read_as, h.explanation, h.vector_rank,"
    " h.similarity, h.bm25_rank, h.bm25, h.chunk, h.encoded_by,"
    " pg_catalog.left(h.content, {content}) as content",
}
_SEARCH = sql.SQL(
    "select {key} as key, {cells} as cells, {about}"
    " from pgembed.{function}(null::{table}, {given}) with ordinality as h"
    " cross join lateral (select (h.doc).*) as s order by h.ordinality"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search page asks.

    Attributes:
        query: Words.
        options: Options of the searches, by their names; each takes what it knows.
        is_other: Whether it is what the search is compared with.
    """

    query: str
    options: Mapping[str, Any]
    is_other: bool = False

    @property
    def embedding(self) -> str | None:
        """Which embedding or BM25 index; None: the table's default."""
        name: str | None = self.options.get("embedding")
        return name

    @property
    def encoded_by(self) -> tuple[str | None, str | None]:
        """What its query's vector depends on."""
        return self.embedding, self.options.get("query_encoder")

    def given(self, known: type) -> dict[str, Any]:
        """Give the options that a search knows."""
        names = known.__annotations__
        return {name: one for name, one in self.options.items() if name in names}


@dataclass(frozen=True, slots=True)
class Hit:
    """A row, and why it was found.

    Attributes:
        rank: From 1.
        key: Primary key, as JSON.
        title: What stands for it: its first text.
        cells: Its columns, as text; long ones cut.
        share: Its score as a share of the best, 0 to 1.
        about: What the search says of it.
    """

    rank: int
    key: Any
    title: str
    cells: dict[str, str | None]
    share: float
    about: dict[str, Any]

    @property
    def key_text(self) -> str:
        """The key, to compare it with others."""
        return json.dumps(self.key)

    @property
    def words(self) -> list[dict[str, Any]]:
        """The words that were found, with what each adds to the score."""
        explanation = self.about.get("explanation") or {}
        of_words = explanation.get("bm25", explanation) or {}
        found: list[dict[str, Any]] = of_words.get("words") or []
        return found


@dataclass(frozen=True, slots=True)
class Ranking:
    """A column of the page.

    Attributes:
        arm: Which.
        asked: What it answers.
        function: The SQL function behind it.
        hits: Best first.
        milliseconds: What the statement took, the way there and back included.
        problem: Why there are none.
    """

    arm: Arm
    asked: Asked
    function: str
    hits: Sequence[Hit] = ()
    milliseconds: float = 0.0
    problem: Problem | None = None

    @property
    def keys(self) -> set[str]:
        """The keys of its hits, to compare it with another."""
        return {hit.key_text for hit in self.hits}

    def common(self, other: Ranking) -> int:
        """Count the hits that another has too."""
        return len(self.keys & other.keys)

    @property
    def read_as(self) -> dict[str, str]:
        """Words that were read as others."""
        if not self.hits:
            return {}
        found: dict[str, str] = self.hits[0].about.get("read_as") or {}
        return found


@dataclass(slots=True)
class Found:
    """What a search page shows.

    Attributes:
        rankings: Its columns.
        encode_milliseconds: What the query's vectors took.
        grades: What the role has judged of the query, by the JSON of keys; None: it may
            not judge.
    """

    rankings: list[Ranking] = field(default_factory=list)
    encode_milliseconds: float = 0.0
    grades: Mapping[str, int] | None = None


def arms(source: Source) -> list[Arm]:
    """Say which columns a table can have."""
    if source.function == "hybrid_search":
        return ["words", "meaning", "both"]
    return ["words"] if source.function == "bm25_search" else ["meaning"]


async def search(
    database: Database,
    conn: Connection,
    source: Source,
    asked: Sequence[Asked],
    encode_seconds: float,
) -> Found:
    """Search in each way that the table has; twice, where two searches are compared.

    Raises:
        InvalidQuery: The query is empty.
        InvalidParameter: An option is out of range.
    """
    check_query(asked[0].query)
    kinds = arms(source)
    if len({one.embedding for one in asked}) > 1:
        # Another embedding has the same words.
        kinds = [arm for arm in kinds if arm != "words"]
        if not kinds:
            raise InvalidParameter(
                f"{source.table.name} has no embedding to compare with"
            )
    wanted = [(arm, one) for arm in kinds for one in asked]
    found = Found()
    missing: dict[tuple[str | None, ...], Problem] = {}
    for by in dict.fromkeys(one.encoded_by for arm, one in wanted if arm != "words"):
        started = time.perf_counter()
        try:
            options = {
                "embedding": by[0],
                "query_encoder": by[1],
                "timeout": encode_seconds,
            }
            query = asked[0].query
            await have_vector(database, conn, source.table.name, query, options)
        except (PgembedError, psycopg.Error) as exc:
            missing[by] = problem_of(exc)
        found.encode_milliseconds += _since(started)
    async with database.reading(conn):
        for arm, one in wanted:
            if arm != "words" and (problem := missing.get(one.encoded_by)):
                ranking = Ranking(arm, one, FUNCTIONS[arm][0], problem=problem)
            else:
                ranking = await _ranking(conn, source, arm, one)
            found.rankings.append(ranking)
        found.grades = await judgements.given(
            database, conn, source.table.name, asked[0].query
        )
    return found


async def _ranking(conn: Connection, source: Source, arm: Arm, asked: Asked) -> Ranking:
    function, known = FUNCTIONS[arm]
    options = asked.given(known)
    if arm != "meaning":
        options |= {"snippets": True, "explain": True}
    statement = _statement(source, function, arguments := checked(options))
    started = time.perf_counter()
    try:
        # A savepoint: what one column cannot show, the others still do.
        async with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                statement, {**arguments, "query": asked.query}, prepare=False
            )
            rows = await cursor.fetchall()
    except psycopg.Error as exc:
        return Ranking(arm, asked, function, (), _since(started), problem_of(exc))
    took = _since(started)
    return Ranking(arm, asked, function, _hits(rows, arm, source.columns), took)


def _statement(
    source: Source, function: str, arguments: Mapping[str, object]
) -> sql.Composed:
    return _SEARCH.format(
        key=escaped(source.key_sql),
        cells=cells_sql(source.columns),
        about=sql.SQL(_ABOUT[function]).format(content=sql.Literal(CONTENT)),
        function=sql.Identifier(function),
        table=escaped(source.table.name),
        given=named({"query": None, **arguments}),
    )


def _hits(
    rows: Sequence[dict[str, Any]], arm: Arm, columns: Sequence[Column]
) -> list[Hit]:
    best = max((row["score"] for row in rows), default=0.0)
    if arm == "meaning":
        best = max(best, 1.0)
    hits: list[Hit] = []
    for rank, row in enumerate(rows, 1):
        key = row.pop("key")
        cells = named_cells(row.pop("cells"), columns)
        share = max(0.0, row["score"] / best) if best > 0 else 0.0
        hits.append(Hit(rank, key, title(cells, columns, key), cells, share, row))
    return hits


def _since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)
