"""What a word is: joined words and their parts, accents, CJK; languages by code."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgembed import schema
from tests.fixtures.analyzer import analyze
from tests.fixtures.bm25_reference import (
    assert_same_scores,
    fetch_lexemes,
    fetch_query_lexemes,
)
from tests.fixtures.roles import acting_as, new_roles
from tests.sql.steps import value

APP = f"pgembed_test_{os.getpid()}_analyzer"

OPTIONS: list[tuple[dict[str, bool], str]] = [
    ({}, "{}"),
    ({"parts": False}, '{"parts": false}'),
    ({"fold_marks": False}, '{"fold": false}'),
    ({"cjk": False}, '{"cjk": false}'),
    (
        {"parts": False, "fold_marks": False, "cjk": False},
        '{"parts": false, "fold": false, "cjk": false}',
    ),
]
ASCII = "abcXYZ019"
JOINERS = "-./+@_~ ,;:()'!  -.-/"
BEYOND = [
    *"éÄßøłœñÿςάёйЖ日本語テスト東京ＡＢ１서울가ﬁ²½™–—’“”…，。・\u0301\u00ad",
    "ｶﾞ",
    "5\ufe0f\u20e3",
]


def made_up(count: int, *, seed: int) -> Iterator[str]:
    """Make up texts of letters, digits, joiners, and letters of other scripts."""
    rng = random.Random(seed)
    for number in range(count):
        characters = [*ASCII * 3, *JOINERS * 2, *BEYOND * (number % 3)]
        yield "".join(rng.choice(characters) for _ in range(rng.randint(1, 30)))


def texts_of(conn: psycopg.Connection, *texts: str) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_bm25('doc', 'body', options =>"
        ' \'{"config": "english"}\')'
    )
    put(conn, *texts)


def put(conn: psycopg.Connection, *texts: str) -> None:
    with conn.cursor() as cursor:
        cursor.executemany("insert into doc values (%s, %s)", list(enumerate(texts)))


def search(
    conn: psycopg.Connection, query: str, options: str = ""
) -> list[tuple[int, str]]:
    return conn.execute(
        "select (doc).id, snippet from pgembed.bm25_search(null::doc, %s,"
        f" k => 1000, snippets => true {options})",
        [query],
    ).fetchall()


def found(conn: psycopg.Connection, query: str, options: str = "") -> list[int]:
    return [key for key, _ in search(conn, query, options)]


WEB = ", syntax => 'websearch'"
PREFIX = ", prefix => true"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "icu"])
def test_the_same_is_made_of_a_text_as_by_the_reference(dsn: str, locale: str) -> None:
    name = f"pgembed_test_{os.getpid()}_analyzer"
    provider = (
        "locale_provider icu icu_locale 'und'"
        if locale == "icu"
        else f"locale '{locale}'"
    )
    with psycopg.connect(dsn, autocommit=True) as admin:
        try:
            admin.execute(
                f"create database {name} encoding 'UTF8' {provider} template template0"
            )
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this server is built without ICU")
        try:
            other = make_conninfo(dsn, dbname=name)
            schema.install(other)
            with psycopg.connect(other, autocommit=True) as conn:
                for text in made_up(400, seed=1):
                    for steps, options in OPTIONS:
                        ours = value(
                            conn, "select pgembed.analyze(%s, %s)", text, options
                        )
                        assert ours.split() == analyze(text, **steps).split(), text
        finally:
            admin.execute(f"drop database {name} with (force)")


def test_settings_change_nothing(conn: psycopg.Connection) -> None:
    text = "TCP/IP café 東京 <b>x</b> 2.5"
    plain = value(conn, "select pgembed.analyze(%s)", text)
    conn.execute("set standard_conforming_strings = off")
    conn.execute("set search_path = pg_temp")
    assert value(conn, "select pgembed.analyze(%s)", text) == plain


JOINED = [
    "A guide to TCP/IP and node.js",
    "There is no space.Another sentence",
    "Advisory CVE-2031-88123 was closed, see -2032",
    "Write to robin@example.org or /usr/local/bin",
    "A café in the Straße, ＦＵＬＬ width",
    "東京タワーと第3章",
    "tcp tcp ip ip: version 2.5 and 25",
    "cve 88123 in other words, 2031 times",
]


@pytest.mark.parametrize("packed", [False, True])
def test_every_part_of_a_joined_word_finds_its_row(
    conn: psycopg.Connection, packed: bool
) -> None:
    texts_of(conn, *JOINED)
    if packed:
        conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    for number, words in enumerate(
        (
            "tcp ip TCP/IP tcpip node js node.js nodejs",
            "space another space.Another",
            "CVE 2031 88123 CVE-2031-88123 2032 -2032 +2032",
            "robin example org robin@example.org usr local bin /usr/local/bin",
            "cafe café CAFÉ strasse Straße full ＦＵＬＬ",
            "東京 タワー 東 ー 京タワ 第 3 章 第3章",
        )
    ):
        for word in words.split():
            assert number in found(conn, word), word
    assert found(conn, "2.5")[0] == 6
    # As typed it is first.
    assert found(conn, "TCP/IP")[0] == 0
    assert found(conn, "CVE-2031-88123")[0] == 2
    assert found(conn, "tcp/ip", WEB) == [0, 6]


def test_scores_are_those_of_the_analyzed_lexemes(conn: psycopg.Connection) -> None:
    texts = [*JOINED, *made_up(300, seed=7)]
    texts_of(conn, *texts)
    for _packed in range(2):
        documents = fetch_lexemes(conn, "doc", "body", "english")
        for query in [*JOINED, *made_up(30, seed=8), "東", "abc 019"]:
            if not query.strip():
                continue
            hits = conn.execute(
                "select (doc).id, score from pgembed.bm25_search(null::doc, %s, 20)",
                [query],
            ).fetchall()
            words = fetch_query_lexemes(conn, query, "english")
            assert_same_scores(hits, documents, words, k=20)
        conn.execute("select pgembed.bm25_maintain(min_rows => 1)")


def test_a_minus_excludes_before_a_word_only(conn: psycopg.Connection) -> None:
    texts_of(conn, *JOINED)
    assert set(found(conn, "CVE-2031", WEB)) == {2}
    assert set(found(conn, "CVE 2031", WEB)) == {2, 7}
    assert set(found(conn, "CVE -2031", WEB)) == set()
    assert set(found(conn, "cve - 2031", WEB)) == {2, 7}
    assert set(found(conn, "cve -CVE-2031", WEB)) == {7}
    assert set(found(conn, 'cve -"CVE-2031-88123"', WEB)) == {7}
    assert set(found(conn, '"see -2032"', WEB)) == {2}
    assert set(found(conn, "-2031", WEB)) == set()
    assert set(found(conn, "cve -2031")) == {2, 7}


def test_phrases_go_over_parts(conn: psycopg.Connection) -> None:
    texts_of(conn, *JOINED)
    for phrase, rows in (
        ('"guide to TCP/IP and"', {0}),
        ('"ip and node"', {0}),
        ('"no space another"', {1}),
        ('"tcp ip"', {0, 6}),
        ('"ip tcp"', set()),
        ('"東京タワー"', {5}),
        ("京タワ", {5}),
        ("第3章", {5}),
        ("“ip and node”", {0}),
        ("タワ京", set()),
    ):
        assert set(found(conn, phrase, WEB)) == rows, phrase


def test_words_as_they_are_typed(conn: psycopg.Connection) -> None:
    texts_of(conn, *JOINED)
    for options in (PREFIX, PREFIX + WEB):
        for query, row in (
            ("caf", 4),
            ("café", 4),
            ("node.j", 0),
            ("CVE-2", 2),
            ("robin@exam", 3),
            ("東", 5),
            ("東京タ", 5),
            ("advisory cve-2031-881", 2),
        ):
            assert row in found(conn, query, options), (query, options)


SHOWN = [
    ("tcp", "TCP/IP by Jo", "<b>TCP</b>/IP by Jo"),
    ("TCP/IP", "TCP/IP by Jo", "<b>TCP</b>/<b>IP</b> by Jo"),
    ("cafe", "Le café, cafe\u0301", "Le <b>café</b>, <b>cafe\u0301</b>"),
    ("strasse fine", "Straße ﬁne x", "<b>Straße</b> <b>ﬁne</b> x"),
    ("東京", "在東京タワー", "在<b>東京</b>タワー"),
    ("東", "在東京タワーの東", "在<b>東</b>京タワーの<b>東</b>"),
    ("タワー", "在東京タワー", "在東京<b>タワー</b>"),
    ("2031", "see CVE-2031-88", "see CVE-<b>2031</b>-88"),
    ("b", "a<b and A&B", "a<<b>b</b> and A&<b>B</b>"),
    ("bold", "is <i class='x'>bold</i> text", "is  <b>bold</b>  text"),
    ("мир", "Привет-мир", "Привет-<b>мир</b>"),
    ("ガ", "ｶﾞ x", "<b>ｶﾞ</b> x"),
]


@pytest.mark.parametrize(("query", "text", "snippet"), SHOWN)
def test_snippets_mark_what_the_text_says(
    conn: psycopg.Connection, query: str, text: str, snippet: str
) -> None:
    texts_of(conn, text)
    assert search(conn, query) == [(0, snippet)]


def test_made_up_texts_are_found_by_every_run(conn: psycopg.Connection) -> None:
    """By itself, in a phrase with the next, and the snippet is a part of the text."""
    rng = random.Random(4)
    texts = list(made_up(150, seed=11))
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_bm25('doc', 'body', options =>"
        ' \'{"config": "simple"}\')'
    )
    put(conn, *texts)
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    for key, text in enumerate(texts):
        # Marks without a letter, and what decomposes into several words, are no runs.
        runs = re.findall(r"[^\W_]+", re.sub(r"[\u0301\u00ad\ufe0f]", "", text))
        for run in rng.sample(runs, min(3, len(runs))):
            hits = dict(search(conn, run))
            assert key in hits, (text, run)
            assert re.sub("</?b>", "", hits[key]) in text, (text, hits[key])
            assert "<b>" in hits[key], (text, run)
        plain = [w for w in analyze(text, cjk=False).split() if w.isalnum()]
        parts = re.findall(r"[a-zA-Z0-9]+", text)
        if text.isascii() and len(parts) > 1 and plain:
            place = rng.randrange(len(parts) - 1)
            phrase = f'"{parts[place]} {parts[place + 1]}"'
            assert key in found(conn, phrase, WEB), (text, phrase)


def test_steps_are_switched_off_and_on(conn: psycopg.Connection) -> None:
    texts_of(conn, *JOINED)
    assert all(found(conn, query) for query in ("cafe", "node", "東"))
    for step, query in (("fold", "cafe"), ("parts", "node"), ("cjk", "東")):
        conn.execute(
            "select pgembed.alter_bm25('doc_bm25', options => %s)",
            [f'{{"analyzer": {{"{step}": false}}}}'],
        )
        assert found(conn, query) == [], step
        others = {"cafe", "node", "東"} - {query}
        assert all(found(conn, other) for other in others), step
    conn.execute("select pgembed.alter_bm25('doc_bm25', reset => '{analyzer}')")
    assert found(conn, "東")
    assert value(conn, "select analyzer from pgembed.bm25") == {
        "parts": True,
        "fold": True,
        "cjk": True,
    }


@pytest.mark.parametrize(
    ("analyzer", "message"),
    [
        ('{"part": true}', 'unknown analyzer option "part"'),
        ('{"parts": "yes"}', 'analyzer option parts is true or false, not "yes"'),
        ("[]", "the analyzer of a BM25 index is an object, not []"),
    ],
)
def test_options_that_are_none(
    conn: psycopg.Connection, analyzer: str, message: str
) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    for statement in (
        "select pgembed.create_bm25('doc', 'body',"
        " options => jsonb_build_object('analyzer', %s::jsonb))",
        "select pgembed.analyze('x', %s::jsonb)",
    ):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(statement, [analyzer])
        assert caught.value.sqlstate == "PE007"
        assert caught.value.diag.message_primary == message
        assert caught.value.diag.message_hint


def test_languages_by_their_code(conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text, lang text)")
    conn.execute(
        "select pgembed.create_bm25('doc', 'body', options =>"
        ' \'{"config": "en-GB", "config_expression": "lang"}\')'
    )
    assert value(conn, "select config from pgembed.bm25") == "pg_catalog.english"
    conn.execute(
        "insert into doc values (1, 'Die Häuser für Kinder', 'de'),"
        " (2, 'houses', null),"
        " (3, 'casas', 'pt-BR'), (4, 'houses', 'tlh'), (5, 'Häuser', 'deu')"
    )
    assert set(found(conn, "Haus", ", config => 'de-AT'")) == {1, 5}
    # Stop words are so with their accents.
    assert found(conn, "Häuser für Kinder", ", config => 'german'" + WEB) == [1]
    assert found(conn, "casa", ", config => 'por'") == [3]
    assert found(conn, "house") == [2]
    failed = conn.execute("select key, error from pgembed.failed").fetchall()
    assert failed == [("4", 'there is no text search configuration "tlh"')]
    # Written, changed and deleted without a trace.
    conn.execute("update doc set body = 'castle' where id = 4")
    conn.execute("delete from doc where id = 4")
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    assert value(conn, "select count(*) from pgembed.failed") == 0
    assert set(found(conn, "Haus", ", config => 'de'")) == {1, 5}
    conn.execute("update doc set lang = 'xx' where id = 5")
    assert set(found(conn, "Haus", ", config => 'de'")) == {1}
    conn.execute("update doc set lang = 'de' where id = 5")
    assert set(found(conn, "Haus", ", config => 'de'")) == {1, 5}


@pytest.mark.parametrize("config", ["klingon", "xx", "xx-DE", "d", ""])
def test_languages_that_are_none(conn: psycopg.Connection, config: str) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(
            "select pgembed.create_bm25('doc', 'body',"
            " options => jsonb_build_object('config', %s::text))",
            [config],
        )
    assert caught.value.sqlstate == "PE007"
    assert caught.value.diag.message_detail
    assert "pt-BR" in (caught.value.diag.message_hint or "")


def test_a_dropped_configuration_is_noticed_before_rows_fail(
    conn: psycopg.Connection,
) -> None:
    """The words that a row had by it must go with the row."""
    conn.execute("create text search configuration mine (copy = simple)")
    conn.execute("create table doc (id int primary key, body text, lang text)")
    conn.execute(
        "select pgembed.create_bm25('doc', 'body', options =>"
        ' \'{"config": "simple", "config_expression": "lang"}\')'
    )
    conn.execute("insert into doc values (1, 'castle', 'mine'), (2, 'castle', null)")
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    conn.execute("drop text search configuration mine")
    conn.execute("delete from doc where id = 1")
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    assert found(conn, "castle") == [2]


def test_languages_of_a_table_whose_owner_has_no_other_rights(
    dsn: str, conn: psycopg.Connection
) -> None:
    """An owner who may not read pgembed's tables writes rows of no language, too."""
    with new_roles(dsn, APP):
        conn.execute(
            sql.SQL("create schema own authorization {}").format(sql.Identifier(APP))
        )
        with acting_as(dsn, APP) as app:
            app.execute("create table own.doc (id int primary key, lang text, t text)")
            conn.execute(
                "select pgembed.create_bm25('own.doc', 't',"
                ' options => \'{"config_expression": "lang"}\')'
            )
            app.execute(
                "insert into own.doc values (1, 'de', 'Katzen'), (2, 'tlh', 'a')"
            )
            app.execute("update own.doc set lang = 'tlh' where id = 1")
            app.execute("update own.doc set lang = 'de' where id = 2")
            app.execute("delete from own.doc where id = 2")
        failed = conn.execute("select key from pgembed.failed order by key").fetchall()
        assert ("1",) in failed
        conn.execute("drop schema own cascade")


def test_who_is_restricted_finds_the_same(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("create table doc (id int primary key, body text, lang text)")
    conn.execute(
        "select pgembed.create_bm25('doc', 'body', options =>"
        ' \'{"config": "english", "config_expression": "lang"}\')'
    )
    conn.execute(
        "insert into doc values (1, 'TCP/IP', 'en'), (2, 'café', null),"
        " (3, 'node.js', 'tlh')"
    )
    conn.execute("alter table doc enable row level security")
    conn.execute("create policy mine on doc using (id <> 1)")
    reader = f"pgembed_test_reader_{os.getpid()}"
    with new_roles(dsn, reader):
        conn.execute(f"grant select on doc to {reader}")
        conn.execute("select pgembed.grant_usage(%s)", [reader])
        conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
        with acting_as(dsn, reader) as restricted:
            for query, rows in (("cafe", [2]), ("tcp", []), ("node", [])):
                assert found(restricted, query) == rows, query
