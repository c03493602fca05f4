"""Tables with a BM25 index: made-up texts, searches, and the reference beside them."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.bm25_reference import (
    assert_same_scores,
    fetch_lexemes,
    fetch_query_lexemes,
)
from tests.sql.steps import value

VOCABULARY = [f"w{i}" for i in range(1500)]
_WEIGHTS = [1 / (i + 3) for i in range(len(VOCABULARY))]
"""As in language: a few words are in most texts, most words in few."""

QUERIES = [
    "w0 w1 w2",  # in blocks, all of them
    "w3",
    "w1 w700",  # in a block and outside
    "w40 w90 w300 w5",
    "w900 w1100 w1250",  # outside
    "absent",
    "w2 absent w30",
]

Hits = list[tuple[Any, float]]


def make_texts(count: int, *, seed: int, length: float = 14) -> list[str]:
    """Make up texts of words of very different frequency; about `length` words."""
    rng = random.Random(seed)
    return [
        " ".join(
            rng.choices(
                VOCABULARY,
                _WEIGHTS,
                k=max(2, int(rng.lognormvariate(math.log(length), 0.6))),
            )
        )
        for _ in range(count)
    ]


@dataclass
class Indexed:
    """A table, its BM25 index, and how both are searched."""

    conn: psycopg.Connection
    table: str = "doc"
    expression: str = "body"
    key: str = "id"
    config: str | None = "simple"
    config_expression: str | None = None
    k1: float = 1.2
    b: float = 0.75
    name: str = "doc_bm25"
    queries: Sequence[str] = field(default_factory=lambda: QUERIES)

    def on(self, conn: psycopg.Connection) -> Indexed:
        """Give the same over another connection."""
        return Indexed(**{**vars(self), "conn": conn})

    def create(self, **options: object) -> Indexed:
        """Declare the index."""
        options.setdefault("config", self.config)
        self.conn.execute(
            "select pgembed.create_bm25(%s, %s, name => %s, options => %s)",
            [self.table, self.expression, self.name, json.dumps(options)],
        )
        return self

    @property
    def number(self) -> int:
        """The index's id, which its tables are named by."""
        return int(self.column("bm25_id"))

    def column(self, expression: str) -> Any:
        """Read a value from the catalog."""
        return value(
            self.conn,
            f"select {expression} from pgembed.bm25"
            " join pgembed.bm25_pack using (bm25_id) join (select text_id,"
            " text_expression from pgembed.captured_text) as t using (text_id)"
            " where name = %s",
            self.name,
        )

    def count(self, part: str) -> int:
        """Count the rows of one table of the index."""
        return int(
            value(self.conn, f"select count(*) from pgembed._bm25_{self.number}_{part}")
        )

    def search(self, query: str, k: int = 10, **options: object) -> Hits:
        """Search; give keys and scores, best first."""
        options.setdefault("embedding", self.name)
        named = sql.SQL("").join(
            sql.SQL(", {} => {}").format(sql.Identifier(n), sql.Literal(v))
            for n, v in options.items()
        )
        statement = sql.SQL(
            "select {key}, score from (select (h.doc).*, h.score from"
            " pgembed.bm25_search(null::{table}, {query}, {k}{named}) as h) as found"
        ).format(
            key=sql.SQL(self.key),
            table=sql.SQL(self.table),
            query=query,
            k=k,
            named=named,
        )
        return self.conn.execute(statement).fetchall()

    def lexemes(self, where: str = "true") -> dict[Any, dict[str, int]]:
        """Read what the reference ranks."""
        return fetch_lexemes(
            self.conn,
            self.table,
            self.expression,
            self.config,
            config_expression=self.config_expression,
            key=self.key,
            where=where,
        )

    def check(
        self, *, queries: Iterable[str] | None = None, ks: Sequence[int] = (1, 10, 100)
    ) -> None:
        """Compare searches with the reference."""
        documents = self.lexemes()
        for place, query in enumerate(self.queries if queries is None else queries):
            words = fetch_query_lexemes(self.conn, query, self.config)
            k = ks[place % len(ks)]
            assert_same_scores(
                self.search(query, k), documents, words, k=k, k1=self.k1, b=self.b
            )

    def snapshot(self) -> object:
        """Give the scores of all queries: no step of maintenance may change them.

        Compared with those of another time, scores are equal to six digits.
        """
        return pytest.approx(self.scores(), rel=1e-6)

    def scores(self) -> dict[str, float]:
        """Give the scores of all queries by query and rank."""
        return {
            f"{query} {rank}": score
            for query in self.queries
            for rank, (_, score) in enumerate(self.search(query, 50), 1)
        }

    def maintain(self, min_rows: int = 1) -> str | None:
        """Do what is due; say what that was."""
        row = self.conn.execute(
            "select done from pgembed.bm25_maintain(%s, %s)", [self.name, min_rows]
        ).fetchone()
        return None if row is None else str(row[0])

    def settle(self) -> None:
        """Maintain until nothing is left outside of the postings."""
        for _ in range(4):
            self.maintain(1)
        assert self.count("recent") == 0
        assert self.count("dead") == 0

    def put(self, texts: Sequence[str], first: int = 0) -> None:
        """Copy texts into a table of id and body."""
        statement = f"copy {self.table} (id, body) from stdin"
        with self.conn.cursor() as cursor, cursor.copy(statement) as copy:
            for number, text in enumerate(texts, first):
                copy.write_row((number, text))

    def assert_intact(self) -> None:
        """Compare the tables of a packed index with the source, row by row."""
        number = self.number
        source = {str(k): f for k, f in self.lexemes().items() if f}
        documents = self.conn.execute(
            f"select key, slot, length from pgembed._bm25_{number}_doc"
        ).fetchall()
        slots = {key: slot for key, slot, _ in documents}
        assert len(slots) == len(documents), "a document is there twice"
        assert slots.keys() == source.keys()
        assert {key: length for key, _, length in documents} == {
            key: sum(found.values()) for key, found in source.items()
        }
        self._assert_postings({slots[key]: found for key, found in source.items()})
        lengths = sum(length for _, _, length in documents)
        assert self.column("array[packed_rows, packed_length]") == [
            len(documents),
            lengths,
        ]

    def assert_intact_keys(self) -> None:
        """Compare the number of packed documents with the source."""
        packed = self.count("doc")
        assert packed == sum(1 for found in self.lexemes().values() if found)

    def _assert_postings(self, expected: dict[int, dict[str, int]]) -> None:
        number = self.number
        in_blocks: dict[str, set[int]] = defaultdict(set)
        for term, block, impacts in self.conn.execute(
            f"select term, block, impacts::text from pgembed._bm25_{number}_block"
        ):
            for entry in filter(None, impacts[1 : impacts.index("}")].split(",")):
                in_blocks[term].add(block * 2000 + int(entry.split(":")[0]) - 1)
        elsewhere: dict[str, list[int]] = defaultdict(list)
        for term, slots in self.conn.execute(
            f"select term, slots from pgembed._bm25_{number}_posting"
        ):
            assert slots == sorted(slots), f"{term}: searches look slots up by halves"
            elsewhere[term] += slots
        found = Counter(
            (term, slot) for term, slots in in_blocks.items() for slot in slots
        ) + Counter((term, slot) for term, slots in elsewhere.items() for slot in slots)
        assert found == Counter(
            (term, slot) for slot, words in expected.items() for term in words
        )
        frequency = Counter(term for words in expected.values() for term in words)
        statistics = self.conn.execute(
            f"select term, df, dense_df from pgembed._bm25_{number}_term"
        ).fetchall()
        assert {term: df for term, df, _ in statistics} == frequency
        assert {term: dense for term, _, dense in statistics if dense} == {
            term: len(slots) for term, slots in in_blocks.items() if slots
        }


def make_doc(
    conn: psycopg.Connection, texts: Sequence[str] = (), **options: object
) -> Indexed:
    """Make the table `doc` of id and body, with texts and a BM25 index."""
    conn.execute("create table doc (id int primary key, body text, n int default 0)")
    indexed = Indexed(conn)
    indexed.put(texts)
    return indexed.create(**options)
