"""Fields that weigh more than others, against the formula over texts repeated."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.bm25_reference import fetch_lexemes
from tests.fixtures.roles import acting_as, new_roles
from tests.sql.bm25_steps import Indexed, make_texts
from tests.sql.steps import value

APP = f'pgembed_test_{os.getpid()} "fields"'
WEIGHTS = {"title": 3, "body": 1}


@dataclass
class Fielded(Indexed):
    """A table with fields; a word of a field counts as many times as it weighs."""

    expression: str = "coalesce(title, '') || ' ' || coalesce(body, '')"
    weights: dict[str, int] = field(default_factory=lambda: dict(WEIGHTS))

    def lexemes(self, where: str = "true") -> dict[Any, dict[str, int]]:
        """Read each field for itself, and add up."""
        sums: dict[Any, Counter[str]] = {}
        for column, weight in self.weights.items():
            of_field = fetch_lexemes(
                self.conn, self.table, column, self.config, key=self.key, where=where
            )
            for key, found in of_field.items():
                total = sums.setdefault(key, Counter())
                for lexeme, count in found.items():
                    total[lexeme] += weight * count
        return {key: dict(found) for key, found in sums.items()}


@pytest.fixture
def doc(conn: psycopg.Connection) -> Fielded:
    """Texts whose titles are short and share words with the bodies."""
    conn.execute("create table doc (id int primary key, title text, body text)")
    rng = random.Random(8)
    texts = make_texts(600, seed=5)
    titles = make_texts(600, seed=6, length=3)
    with (
        conn.cursor() as cursor,
        cursor.copy("copy doc (id, title, body) from stdin") as copy,
    ):
        for number, (title, text) in enumerate(zip(titles, texts, strict=True)):
            copy.write_row(
                (number, None if rng.random() < 0.1 else title, text),
            )
    return Fielded(conn)


def declare(doc: Fielded, **options: object) -> None:
    """Declare the index by its fields alone."""
    doc.conn.execute(
        "select pgembed.create_bm25('doc', name => 'doc_bm25', options => %s)",
        [json.dumps({"config": "simple", "fields": doc.weights, **options})],
    )


def test_scores_are_those_of_the_formula(doc: Fielded) -> None:
    declare(doc)
    doc.check()
    conn = doc.conn
    conn.execute("insert into doc values (9000, 'w3 w3', 'w0 w1')")
    conn.execute("update doc set title = 'w3 w700 new' where id % 50 = 0")
    conn.execute("delete from doc where id % 40 = 3")
    doc.check()  # partly in recent, with tombstones
    doc.settle()
    doc.check()
    doc.assert_intact()


def test_a_word_in_the_title_counts_more(doc: Fielded) -> None:
    declare(doc)
    doc.conn.execute(
        "insert into doc values (9001, 'zebra', 'w0 w1 w2'),"
        " (9002, 'w0', 'zebra w1 w2')"
    )
    found = doc.search("zebra")
    assert [key for key, _ in found] == [9001, 9002]
    assert found[0][1] > found[1][1]
    # The formula for one document: tf 3 and 1, by the weighted lengths 6.
    doc.check(queries=["zebra"])


def test_weights_change_and_go(doc: Fielded) -> None:
    declare(doc)
    for weights in ({"title": 1, "body": 2}, {"title": 7}, {"body": 100, "title": 9}):
        doc.conn.execute(
            "select pgembed.alter_bm25('doc_bm25', options => %s)",
            [json.dumps({"fields": weights})],
        )
        doc.weights = weights
        doc.check()
    doc.conn.execute("select pgembed.alter_bm25('doc_bm25', reset => '{fields}')")
    Indexed(doc.conn, expression="coalesce(title, '') || ' ' || body").check()


def test_under_row_security(doc: Fielded, dsn: str) -> None:
    """Who is restricted gets the formula over the rows that are visible."""
    declare(doc)
    with new_roles(dsn, APP), acting_as(dsn, APP) as app:
        doc.conn.execute(
            sql.SQL("grant select on doc to {}").format(sql.Identifier(APP))
        )
        doc.conn.execute("select pgembed.grant_usage(%s)", [APP])
        doc.conn.execute(
            "alter table doc enable row level security;"
            "create policy third on doc using (id % 3 = 0)"
        )
        for step in ("before", "after"):
            if step == "after":  # words are stored with the documents
                doc.conn.execute("select pgembed._reconcile_v1()")
                doc.maintain()
            mine = replace(doc, conn=app)
            assert 0 < len(mine.lexemes()) < 250
            mine.check()


def test_phrases_and_snippets(doc: Fielded) -> None:
    declare(doc)
    doc.conn.execute("insert into doc values (9003, 'silver spoon', 'w0 silver w1')")
    assert [k for k, _ in doc.search('"silver spoon"', syntax="websearch")] == [9003]
    snippet = value(
        doc.conn,
        "select snippet from pgembed.bm25_search(null::doc, 'spoon', snippets => true)",
    )
    assert "<b>spoon</b>" in snippet


def test_a_renamed_column_stays_a_field(doc: Fielded) -> None:
    declare(doc)
    doc.conn.execute('alter table doc rename column title to "begin"')
    doc.conn.execute(
        "select pgembed.alter_bm25('doc_bm25', 'concat(\"begin\", '' '', body)')"
    )
    doc.conn.execute("insert into doc values (9004, 'w3', 'w1')")
    doc.weights = {'"begin"': 3, "body": 1}
    doc.check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('{"missing": 2}', "missing"),
        ('{"id": 2}', '"id"'),
        ("{}", "no fields"),
        ("[1]", "no fields"),
        ('{"title": 0}', "no fields"),
        ('{"title": 101}', "no fields"),
        ('{"title": 1.5}', "no fields"),
        ('{"title": "3"}', "no fields"),
        ('{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}', "no fields"),
    ],
)
def test_what_is_no_field_is_said(doc: Fielded, fields: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message) as caught:
        doc.conn.execute(
            "select pgembed.create_bm25('doc', 'title', options => %s)",
            [f'{{"fields": {fields}}}'],
        )
    assert caught.value.sqlstate == "PE007"
    assert caught.value.diag.message_hint


def test_a_field_is_part_of_the_text(doc: Fielded) -> None:
    with pytest.raises(psycopg.Error, match="does not read its field body") as caught:
        doc.conn.execute(
            "select pgembed.create_bm25('doc', 'title',"
            ' options => \'{"fields": {"title": 2, "body": 1}}\')'
        )
    assert caught.value.sqlstate == "PE004"
    with pytest.raises(psycopg.Error) as caught:
        doc.conn.execute("select pgembed.create_bm25('doc')")
    assert caught.value.sqlstate in {"PE004", "PE007"}
    assert caught.value.diag.message_hint
