"""Words that set clusters apart: class-based TF-IDF over the texts of their rows.

A word counts in a cluster as often as it stands there, relative to the cluster's
words, times log(1 + words of a cluster on average / how often it stands in all)
(Grootendorst, BERTopic, 2022); what is not at least twice as frequent there as
elsewhere sets nothing apart, and is left out. Words are those of the table's BM25
index where it has one, else of the text that the embedding is of, by the database's
text search configuration.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from psycopg import sql

from pgembed.analysis.clusters import NONE
from pgembed.analysis.source import reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg
    from numpy.typing import NDArray

    from pgembed.analysis.clusters import Clustering
    from pgembed.analysis.source import Source
    from pgembed.analysis.vectors import Vectors
    from pgembed.evaluation.target import Connection

#: Rows of a cluster whose texts are read: those nearest to its centre.
ROWS: Final = 100
#: Words that a cluster is given.
WORDS: Final = 8
_SHORTEST: Final = 2  # characters; single letters name nothing
_MORE_FREQUENT: Final = 2  # times as frequent as in the other clusters

_TEXTS: Final = (
    "select case when idx.bm25_id is null then format('to_tsvector(%%s)', t.content)"
    "  else pgembed._row_lexemes_sql(idx, pgembed._row_config_sql(idx, 's.*'),"
    "   t.content, 's') end,"
    " t.content,"
    " case when idx.bm25_id is null then 'get_current_ts_config()'"
    "  else pgembed._row_config_sql(idx, 's.*') end,"
    " case when idx.bm25_id is null then 'to_tsvector(w.config, w.token)'"
    "  else format('pgembed._bm25_lexemes(w.config, w.token, %%L)', idx.analyzer) end"
    " from pgembed.embedding as e left join pgembed.bm25 as idx on idx.bm25_id ="
    "  (select x.bm25_id from pgembed.bm25 as x where x.source = e.source"
    "   order by x.embedding_id is not distinct from e.embedding_id desc,"
    "    x.is_default desc, x.name limit 1)"
    " cross join lateral (select c.kind, pgembed._compose_sql(c.text_id, 's.*')"
    "  as content from pgembed.captured_text as c"
    "  where c.text_id = coalesce(idx.text_id, e.text_id)) as t"
    " where e.name = %(name)s and e.source = to_regclass(%(table)s)"
    " and t.kind = 'text'"
)
_COUNTS: Final = (
    "select c.cluster, t.lexeme, sum(coalesce(cardinality(t.positions), 1))::int8"
    " from {rows} cross join lateral"
    " (select {words} as words from {table} as s where {of_row}) as s"
    " cross join lateral unnest(s.words) as t"
    " group by c.cluster, t.lexeme order by c.cluster, t.lexeme"
)
_SPELLED: Final = (
    "select distinct on (t.lexeme) t.lexeme, w.token from (select s.config,"
    " lower(p.token) as token, count(*) as times from {rows} cross join lateral"
    " (select {content} as content, {config}::regconfig as config"
    "  from {table} as s where {of_row}) as s"
    " cross join lateral ts_parse('default', s.content) as p"
    " where p.token ~ '\\w' group by s.config, lower(p.token)) as w"
    " cross join lateral unnest({lexemes}) as t where t.lexeme = any (%(found)s)"
    " order by t.lexeme, w.times desc, w.token"
)


def name_clusters(
    conn: Connection, vectors: Vectors, clustering: Clustering
) -> Clustering:
    """Give each cluster the words that set it apart.

    Args:
        conn: As who reads the texts: the rows that this role sees count.
        vectors: What was clustered.
        clustering: The clusters; those of images have no words.

    Returns:
        The same with words.
    """
    words = telling_words(conn, [(vectors, clustering.numbers)])
    return replace(
        clustering,
        clusters=[
            replace(one, words=words.get(one.number, [])) for one in clustering.clusters
        ],
    )


def telling_words(
    conn: Connection, parts: Sequence[tuple[Vectors, NDArray[np.int64]]]
) -> dict[int, list[str]]:
    """Find the words that set clusters apart.

    Args:
        conn: As who reads the texts.
        parts: Rows with the number of each one's cluster, of one table or several.

    Returns:
        By cluster, the most telling first.
    """
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    spelled: dict[str, str] = {}
    with reading(conn) as cursor:
        asked = [one for part in parts if (one := _Asked.of(cursor, *part)) is not None]
        for one in asked:
            for number, words in one.counts().items():
                counts[number].update(words)
        best = most_telling(counts)
        wanted = {word for words in best.values() for word in words}
        for one in asked:
            spelled = one.spelled(wanted) | spelled
    return {
        number: list(dict.fromkeys(spelled.get(word, word) for word in words))
        for number, words in best.items()
    }


def most_telling(counts: Mapping[int, Mapping[str, int]]) -> dict[int, list[str]]:
    """Rank the words of each class by c-TF-IDF.

    Args:
        counts: By class, how often each word stands there.
    """
    totals: Counter[str] = Counter()
    for words in counts.values():
        totals.update(words)
    everything = sum(totals.values())
    average = everything / max(1, len(counts))
    best = {}
    for number, words in counts.items():
        own = sum(words.values())
        others = max(1, everything - own)
        scores = {
            word: times / own * np.log(1 + average / totals[word])
            for word, times in words.items()
            if len(word) >= _SHORTEST
            and not word.isdecimal()
            and times / own >= _MORE_FREQUENT * (totals[word] - times) / others
        }
        best[number] = sorted(scores, key=lambda w: (-scores[w], w))[:WORDS]
    return best


def _typical(vectors: Vectors, numbers: NDArray[np.int64]) -> list[int]:
    """Give the rows that are nearest to the centre of their cluster."""
    found: list[int] = []
    for number in np.unique(numbers[numbers != NONE]):
        rows = np.flatnonzero(numbers == number)
        lines = vectors.matrix[rows]
        distances = np.linalg.norm(lines - lines.mean(axis=0), axis=1)
        nearest = rows[np.argsort(distances, kind="stable")[:ROWS]]
        found += [int(row) for row in nearest]
    return found


class _Asked:
    """Statements over the texts of some rows."""

    def __init__(
        self,
        cursor: psycopg.Cursor[Any],
        source: Source,
        given: dict[str, object],
        texts: tuple[Any, ...],
    ) -> None:
        places = range(1, len(source.key) + 1)
        self._cursor = cursor
        self._given = given
        arrays = [
            sql.SQL("{}::text[]::{}[]").format(sql.Placeholder(f"k{place}"), kind)
            for place, kind in zip(places, map(_quoted, source.key_types), strict=True)
        ]
        names = [sql.Identifier(f"k{place}") for place in places]
        self._parts = {
            "rows": sql.SQL("unnest({}, %(clusters)s::int[]) as c({}, cluster)").format(
                sql.SQL(", ").join(arrays), sql.SQL(", ").join(names)
            ),
            "table": _quoted(source.table),
            "of_row": _quoted(source.chunk_of_row),
        }
        self._words, self._content, self._config, self._lexemes = map(_quoted, texts)

    @classmethod
    def of(
        cls,
        cursor: psycopg.Cursor[Any],
        vectors: Vectors,
        numbers: NDArray[np.int64],
    ) -> _Asked | None:
        """Choose rows, and find how their texts are read; None: they have none."""
        source = vectors.source
        names = {"name": source.embedding, "table": source.table}
        texts = cursor.execute(_TEXTS, names).fetchone()
        rows = _typical(vectors, numbers)
        if texts is None or not rows:
            return None
        given: dict[str, object] = {
            f"k{place}": [vectors.keys[row][place - 1] for row in rows]
            for place in range(1, len(source.key) + 1)
        } | {"clusters": [int(numbers[row]) for row in rows]}
        return cls(cursor, source, given, texts)

    def counts(self) -> dict[int, dict[str, int]]:
        """Count the words by cluster."""
        statement = sql.SQL(_COUNTS).format(words=self._words, **self._parts)
        counts: dict[int, dict[str, int]] = defaultdict(dict)
        for number, word, times in self._cursor.execute(statement, self._given):
            counts[number][word] = times
        return counts

    def spelled(self, found: set[str]) -> dict[str, str]:
        """Give the most frequent word of each lexeme."""
        statement = sql.SQL(_SPELLED).format(
            content=self._content,
            config=self._config,
            lexemes=self._lexemes,
            **self._parts,
        )
        given = self._given | {"found": sorted(found)}
        return dict(self._cursor.execute(statement, given).fetchall())


def _quoted(text: str) -> sql.SQL:
    """Take SQL of the server's into a statement that has parameters."""
    return sql.SQL(text.replace("%", "%%"))
