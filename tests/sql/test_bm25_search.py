"""What bm25_search finds: filters, syntax, prefixes, snippets, and bad input."""

from __future__ import annotations

import json
import os
import re

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgembed import schema
from tests.fixtures.bm25_reference import fetch_query_lexemes, reference_scores
from tests.fixtures.postgres import prepared_by
from tests.sql.bm25_steps import Indexed, make_doc, make_texts
from tests.sql.steps import value

# Most tests only read.
pytestmark = pytest.mark.rolled_back

ROWS = 700


def prepare(conn: psycopg.Connection) -> None:
    """Make a table part of which is packed, part new and part deleted."""
    make_doc(conn, make_texts(ROWS, seed=1))
    conn.execute("update doc set n = id; analyze doc")
    conn.execute("update doc set body = body || ' w1 w900' where id % 97 = 0")
    conn.execute("delete from doc where id % 89 = 0")


@pytest.fixture
@prepared_by(prepare)
def doc(conn: psycopg.Connection) -> Indexed:
    """Give a table part of which is packed, part new and part deleted."""
    return Indexed(conn)


def expect(doc: Indexed, query: str, k: int, where: str, hits: object) -> None:
    """Compare with the reference over all rows, restricted to some."""
    words = fetch_query_lexemes(doc.conn, query, doc.config)
    scores = reference_scores(doc.lexemes(), words)
    kept = doc.lexemes(where)
    best = sorted((s for key, s in scores.items() if key in kept), reverse=True)[:k]
    assert isinstance(hits, list)
    assert [score for _, score in hits] == pytest.approx(best, rel=1e-5)
    assert dict(hits) == pytest.approx({key: scores[key] for key, _ in hits}, rel=1e-5)


SHARES = ["n % 2 = 0", "n % 10 = 1", "n % 100 = 7", "n % 1000 = 97", "n = 97", "false"]


@pytest.mark.majors(18, 17, 16)
def test_filtered_search_is_the_search_restricted(doc: Indexed) -> None:
    for packed in (False, True):
        if packed:
            doc.settle()
        for where in SHARES:
            for query, k in (("w0 w1", 10), ("w900 w2", 200), ("w1100", 1)):
                expect(doc, query, k, where, doc.search(query, k, where_sql=where))


def test_filters_as_data(doc: Indexed) -> None:
    for condition, where in (
        ({"n": {"$lt": 300}}, "n < 300"),
        ({"n": {"$in": [3, 97, 194]}}, "n in (3, 97, 194)"),
        (
            {"$or": [{"n": 97}, {"body": {"$like": "%w900%"}}]},
            "n = 97 or body ~ 'w900'",
        ),
    ):
        hits = doc.search("w0 w1 w900", 40, filter=json.dumps(condition))
        expect(doc, "w0 w1 w900", 40, where, hits)
    hits = doc.search("w1", 10, filter='{"n": {"$gt": 50}}', where_sql="s.n < 400")
    expect(doc, "w1", 10, "n > 50 and n < 400", hits)


def test_a_condition_that_the_planner_misjudges(doc: Indexed) -> None:
    """It thinks that all rows pass, and nearly none does; or the other way around."""
    doc.conn.execute(
        "create function seldom(int) returns boolean language plpgsql as"
        " $$ begin return $1 % 500 = 97; end $$"
    )
    for where in ("seldom(n)", "not seldom(n)", "n % 7 = 3 and n % 11 = 3 and n > 0"):
        for k in (3, 100):
            expect(doc, "w0 w1", k, where, doc.search("w0 w1", k, where_sql=where))


def test_a_filter_does_not_bring_rows_without_a_word(conn: psycopg.Connection) -> None:
    doc = make_doc(conn, [f"x{i} y" for i in range(1000)])
    conn.execute("analyze doc")
    doc.settle()
    assert [k for k, _ in doc.search("x7", 5, where_sql="id in (5, 7)")] == [7]
    assert doc.search("x7", 5, where_sql="id in (5, 6)") == []


WEB = [
    ("w0 w1", "'w0' & 'w1'"),
    ("w40 or w90", "'w40' | 'w90'"),
    ("w1 -w0 -w2", "'w1' & !'w0' & !'w2'"),
    ('"w0 w1"', "'w0' <-> 'w1'"),
    ('"w1 w0" w2', "('w1' <-> 'w0') & 'w2'"),
    ('w3 -"w0 w1"', "'w3' & !('w0' <-> 'w1')"),
    ("w900 or w1100 w0", "'w900' | ('w1100' & 'w0')"),
    ("w900", "'w900'"),
    ("absent w0", "'absent' & 'w0'"),
    ('"w700 w1400 w1"', "'w700' <-> 'w1400' <-> 'w1'"),
]


def test_websearch(doc: Indexed) -> None:
    """The rows that match, in the order of the words that they shall have."""
    for query, tsquery in WEB:
        kept = re.sub(r"!\([^)]*\)|!'[^']*'", "", tsquery)
        words = " ".join(set(re.findall(r"\w+", kept)))
        matching = f"to_tsvector('simple', body) @@ $${tsquery}$$::tsquery"
        for k in (5, 1000):
            hits = doc.search(query, k, syntax="websearch")
            expect(doc, words, k, matching, hits)
        hits = doc.search(query, 10, syntax="websearch", where_sql="n % 50 = 1")
        expect(doc, words, 10, f"{matching} and n % 50 = 1", hits)


def test_websearch_without_a_word_to_find(doc: Indexed) -> None:
    for query in ("-w0", "-w0 -w1", '-"w0 w1"', "!", '""'):
        assert doc.search(query, syntax="websearch") == []


def test_websearch_for_a_word_or_without_another(conn: psycopg.Connection) -> None:
    doc = make_doc(conn, ["aa bb", "bb", "cc"])
    for query in ("bb or -aa", "-aa or bb"):
        hits = doc.search(query, syntax="websearch")
        assert {key for key, _ in hits} == {0, 1}


def test_websearch_of_very_many_words(doc: Indexed) -> None:
    for words in (2_000, 20_000):
        query = " ".join(f"w{n}" for n in range(words))
        with pytest.raises(psycopg.Error) as caught:
            doc.search(query, syntax="websearch")
        assert caught.value.sqlstate == "PE009"


def test_prefix_of_the_last_word(conn: psycopg.Connection) -> None:
    texts = ["cat category", "category", "dog cat", "catalogue", "concat", "dog", "ca"]
    doc = make_doc(conn)
    doc.put([*texts, "über übel", "a\\b 'quoted'"])
    for packed in (False, True):
        if packed:
            doc.settle()
        documents = doc.lexemes()
        for query, words in (
            ("ca", {"cat", "category", "catalogue", "ca"}),
            ("dog cat", {"dog", "cat", "category", "catalogue"}),
            ("category cat", {"cat", "category", "catalogue"}),
            ("cat cat", {"cat", "category", "catalogue"}),
            ("ü", {"uber", "ubel"}),
            ("zebra", set()),
            ("dog ", {"dog"}),
            ("cat?", {"cat"}),
        ):
            expected = reference_scores(documents, sorted(words))
            found = doc.search(query, 100, prefix=True)
            assert dict(found) == pytest.approx(expected, rel=1e-5), query
    conn.execute("insert into doc values (100, 'catnip')")
    assert 100 in dict(doc.search("cat", prefix=True))


BEGUN = [
    ("dog ca", {2}),
    ("dog or ca", {0, 1, 2, 3, 5, 6}),
    ("dog -ca", {2, 5}),  # a word that must not occur is taken as it is
    ('"dog ca', set()),
    ("ca", {0, 1, 2, 3, 6}),
    ('"dog cat" ca', {2}),
    ("-dog ca", {0, 1, 3, 6}),
]


def test_prefix_of_a_websearch(conn: psycopg.Connection) -> None:
    texts = ["cat category", "category", "dog cat", "catalogue", "concat", "dog", "ca"]
    doc = make_doc(conn, texts)
    for query, rows in BEGUN:
        hits = doc.search(query, 100, prefix=True, syntax="websearch")
        assert {key for key, _ in hits} == rows, query


def test_prefix_of_a_websearch_while_it_is_typed(conn: psycopg.Connection) -> None:
    doc = make_doc(conn, ["e-mail server", "low-cost air travel", "custard tart"])
    notices: list[str] = []
    conn.add_notice_handler(lambda note: notices.append(note.message_primary or ""))
    for query, rows in (
        ("e-ma", {0}),
        ("low-cos", {1}),
        ("cust", {2}),
        ("custard or", {2}),  # an operator, as far as one can see
        ("custard or trav", {1, 2}),
    ):
        hits = doc.search(query, prefix=True, syntax="websearch")
        assert {key for key, _ in hits} == rows, query
    assert notices == []


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_prefix_where_the_encoding_is_another(dsn: str, encoding: str) -> None:
    name = f"pgembed_test_{os.getpid()}_{encoding.lower()}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            f"create database {name} encoding '{encoding}' locale 'C'"
            " template template0"
        )
        try:
            other = make_conninfo(dsn, dbname=name, client_encoding="UTF8")
            schema.install(other)
            with psycopg.connect(other, autocommit=True) as conn:
                doc = make_doc(conn, ["cat", "category dog", "dog"])
                for number in (10, 11):
                    hits = doc.search("ca", prefix=True)
                    assert {key for key, _ in hits} == {0, 1}
                    doc.put(["zebra"], first=number)
                    doc.settle()
        finally:
            admin.execute(f"drop database {name} with (force)")


def test_a_prefix_of_very_many_words(doc: Indexed) -> None:
    """The fifty that most documents have count."""
    hits = doc.search("w", 20, prefix=True)
    assert len(hits) == 20
    documents = doc.lexemes()
    frequency: dict[str, int] = {}
    for words in documents.values():
        for word in words:
            frequency[word] = frequency.get(word, 0) + 1
    doc.settle()
    kept = sorted(frequency, key=lambda word: -frequency[word])[:45]
    assert hits[0][1] >= max(reference_scores(documents, kept).values()) * 0.9


def test_snippets(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, language text, body text)")
    conn.execute(
        "insert into doc values (1, 'english', 'The runner was running a long way'),"
        " (2, 'german', 'Die Läufer liefen'), (3, 'english', repeat('word ', 500))"
    )
    Indexed(conn).create(config="english", config_expression="language")
    search = (
        "select (doc).id, snippet from pgembed.bm25_search(null::doc, %s,"
        " snippets => true, config => %s, prefix => %s, syntax => %s)"
    )

    def found(*arguments: object) -> list[tuple[int, str]]:
        return conn.execute(search, arguments).fetchall()

    assert found("runs", "english", False, "words") == [
        (1, "runner was <b>running</b> a long way")
    ] or found("runs", "english", False, "words") == [
        (1, "The runner was <b>running</b> a long way")
    ]
    assert "<b>Läufer</b>" in found("läufer", "german", False, "words")[0][1]
    assert "<b>runner</b>" in found("runne", "english", True, "words")[0][1]
    assert "<b>long</b>" in found('"long way"', "english", False, "websearch")[0][1]
    ((_, long),) = found("word", "english", False, "words")
    assert len(long) < 400
    assert value(
        conn, "select snippet is null from pgembed.bm25_search(null::doc, 'word')"
    )


BAD = [
    ("null::doc, ''", "PE009", []),
    ("null::doc, '   '", "PE009", []),
    ("null::doc, null", "PE009", []),
    ("null::doc, 'w', 0", "PE007", ["0"]),
    ("null::doc, 'w', -1", "PE007", ["-1"]),
    ("null::doc, 'w', 10001", "PE007", ["10001"]),
    ("null::doc, 'w', null", "PE007", ["NULL"]),
    ("null::doc, 'w', config => 'klingon'", "PE007", ["klingon"]),
    ("null::doc, 'w', config => ''", "PE007", [""]),
    ("null::doc, 'w', config => '3'", "PE007", ["3"]),
    ("null::doc, 'w', config => '-'", "PE007", ["-"]),
    ("null::doc, 'w', config => 'a b c'", "PE007", ["a b c"]),
    ("null::doc, 'w', config => 'no_schema.english'", "PE007", ["no_schema.english"]),
    ("null::doc, 'w', syntax => 'sql'", "PE007", ["sql"]),
    ("null::doc, 'w', syntax => null", "PE007", ["NULL"]),
    ("null::doc, 'w', embedding => 'nothing'", "PE001", ["nothing"]),
    ("null::doc, 'w', embedding => 'other_bm25'", "PE001", ["other"]),
    ("null::other, 'w', embedding => 'doc_bm25'", "PE001", ["doc"]),
    ("null::keyless, 'w'", "PE001", ["keyless"]),
    ("null::int, 'w'", "PE003", ["integer"]),
    ("null::text, 'w'", "PE003", ["text"]),
    ("null::doc, 'w', filter => '{\"views\": 1}'", "PE008", ["views", "doc"]),
    ("null::doc, 'w', filter => '[1]'", "PE008", ["[1]"]),
    ("null::doc, 'w', filter => '{\"n\": \"x\"}'", "PE008", ["x"]),
    ("null::doc, 'w', where_sql => 'views > 1'", "PE008", ["views"]),
    ("null::doc, 'w', where_sql => 'other.views > 1'", "PE008", ["other"]),
    ("null::doc, 'w', where_sql => 'true); delete from doc; --'", "PE008", ["delete"]),
]


@pytest.fixture
def small(conn: psycopg.Connection) -> Indexed:
    """Give two small tables with an index each, and one without."""
    doc = make_doc(conn, ["w w1", "w2"])
    conn.execute("create table other (id int primary key, views int, body text)")
    Indexed(conn, table="other", name="other_bm25").create()
    conn.execute("create table keyless (body text)")
    return doc


def test_bad_input(small: Indexed) -> None:
    for arguments, sqlstate, words in BAD:
        with pytest.raises(psycopg.Error) as caught:
            small.conn.execute(f"select * from pgembed.bm25_search({arguments})")
        error = caught.value
        assert error.sqlstate == sqlstate, (arguments, error)
        assert error.diag.message_hint, arguments
        text = f"{error.diag.message_primary} {error.diag.message_detail}"
        assert all(word in text for word in words), (arguments, text)
    small.check(queries=["w", "w2"])


def test_queries_of_any_kind(small: Indexed) -> None:
    """Strange, but nothing is wrong with them."""
    for query in (
        "!?",
        "'",
        "\\",
        "a'b\\c",
        "w & | !",
        "%s {} $1",
        "<-> :*",
        "\U0001f600",
    ):
        for syntax in ("words", "websearch"):
            for prefix in (False, True):
                small.search(query, syntax=syntax, prefix=prefix)
    small.conn.execute("update doc set body = 'the and of' where id = 1")
    Indexed(small.conn, name="stops").create(config="english")
    for syntax in ("words", "websearch"):
        assert small.search("the and of", embedding="stops", syntax=syntax) == []
    assert small.search(" ".join(f"w{i % 900}" for i in range(10000)), 5)
    with pytest.raises(psycopg.Error) as caught:
        small.search(" ".join(f"w{i}" for i in range(10000)))
    assert caught.value.sqlstate == "PE009"
    assert "10000" in str(caught.value)
    assert caught.value.diag.message_hint


def test_lexemes_that_need_quotes(conn: psycopg.Connection) -> None:
    odd = "http://x.org/a'b\\c?d=1 it's o'clock 3.14 -7 a/b/c me@x.org"
    doc = make_doc(conn)
    doc.put([odd, "plain clock", odd + " again"])
    for packed in (False, True):
        if packed:
            doc.settle()
        for word in odd.split():
            words = fetch_query_lexemes(conn, word, "simple")
            expected = reference_scores(doc.lexemes(), words)
            assert dict(doc.search(word)) == pytest.approx(expected, rel=1e-5), word
            doc.search(word, syntax="websearch")
            doc.search(word, prefix=True)


def test_two_indexes_of_one_table(small: Indexed) -> None:
    conn = small.conn
    Indexed(conn, name="second").create(k1=0.5)
    # The first is the default.
    first = value(conn, "select max(score) from pgembed.bm25_search(null::doc, 'w')")
    assert first == max(score for _, score in small.search("w"))
    assert small.search("w", embedding="second") != small.search("w")
