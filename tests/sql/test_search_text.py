"""pgembed.search: the table as text, rows as JSON, for any driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int8

from tests.fixtures.answering import answering
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import Connection, acting_as, new_roles
from tests.sql.steps import Service, declare, run, service_for, value, vector

READER = f"pgembed_test_{os.getpid()}_reader"
OWNER = f"pgembed_test_{os.getpid()}_owner"

COLUMNS = "key, doc, score, vector_rank, bm25_rank, content, snippet"
TEXTS = {1: "red fox", 2: "red dog", 3: "blue fox", 4: "green bird"}


def make_article(conn: Connection) -> None:
    """Make a table with both arms: four rows, all encoded."""
    conn.execute("create table article (id int primary key, body text, price numeric)")
    for key, text in TEXTS.items():
        conn.execute("insert into article values (%s, %s, %s)", [key, text, key * 100])
    declare(conn, "article", "body").drain()
    conn.execute("select pgembed.bm25_maintain()")


@pytest.fixture
@prepared_by(make_article)
def article(conn: Connection) -> Service:
    """Give a table with both arms: four rows, all encoded."""
    return service_for(conn, "article_embedding")


def hits(conn: Connection, arguments: str, *values: object) -> list[tuple[Any, ...]]:
    """Search; give all columns."""
    call = f"select {COLUMNS} from pgembed.search({arguments})"
    return conn.execute(call.encode(), values or None).fetchall()


def keys(conn: Connection, arguments: str, *values: object) -> list[Any]:
    """Search; give the keys."""
    return [hit[0] for hit in hits(conn, arguments, *values)]


def fails(conn: Connection, sqlstate: str, arguments: str, *values: object) -> str:
    """Search in vain; give what the error says."""
    with pytest.raises(psycopg.Error) as caught:
        hits(conn, arguments, *values)
    diag = caught.value.diag
    said = f"{diag.message_primary}\n{diag.message_detail}\n{diag.message_hint}"
    assert caught.value.sqlstate == sqlstate, said
    return said


def test_both_arms_are_hybrid_search(conn: Connection, article: Service) -> None:
    given = "'red fox', k => 3, query_embedding => %s, snippets => true"
    wanted = conn.execute(
        "select to_jsonb((doc).id), to_jsonb(doc), score, vector_rank, bm25_rank,"
        f" content, snippet from pgembed.hybrid_search(null::article, {given})",
        [vector("blue fox")],
    ).fetchall()
    found = hits(conn, f"'article', {given}", vector("blue fox"))
    assert found == wanted
    assert len(found) == 3
    assert all(hit[3] is not None and hit[5] for hit in found)
    assert "<b>red</b> <b>fox</b>" in {hit[6] for hit in found}
    assert (
        hits(conn, f"'article', {given}, \"offset\" => 1", vector("blue fox"))
        == conn.execute(
            "select to_jsonb((doc).id), to_jsonb(doc), score, vector_rank, bm25_rank,"
            " content, snippet from pgembed.hybrid_search(null::article,"
            f' {given}, "offset" => 1)',
            [vector("blue fox")],
        ).fetchall()
    )


def test_vectors_alone(conn: Connection) -> None:
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("insert into article values (1, 'red fox'), (2, 'red dog')")
    declare(conn, bm25=False).drain()
    given = "'article', query_embedding => %s"
    first, second = hits(conn, given, vector("red dog"))
    assert first[:2] == (2, {"id": 2, "body": "red dog"})
    assert first[2] == pytest.approx(1)
    assert [first[3:], second[3]] == [(1, None, "red dog", None), 2]
    assert keys(conn, f"{given}, min_score => 0.99999", vector("red dog")) == [2]
    assert keys(conn, f"{given}, min_similarity => 0.99999", vector("red dog")) == [2]
    (last,) = hits(conn, f'{given}, "offset" => 1', vector("red dog"))
    assert last == second


def test_words_alone(conn: Connection) -> None:
    conn.execute("create table article (id int primary key, body text)")
    conn.execute("insert into article values (1, 'red fox'), (2, 'red dog')")
    conn.execute("select pgembed.create_bm25('article', 'body')")
    (hit,) = hits(conn, "'article', 'dog', snippets => true")
    assert hit[:2] == (2, {"id": 2, "body": "red dog"})
    assert hit[2] > 0
    assert hit[3:] == (None, 1, None, "red <b>dog</b>")
    assert len(keys(conn, "'article', 'red'")) == 2
    (second,) = hits(conn, "'article', 'red', \"offset\" => 1")
    assert second[4] == 2
    assert keys(conn, "'article', 'red', min_score => 1000") == []
    said = fails(conn, "PE001", "'article', 'red', query_embedding => '[1,2,3]'")
    assert "0 embeddings" in said
    fails(conn, "PE009", "'article'")


def test_a_vector_alone_searches_by_it(conn: Connection, article: Service) -> None:
    found = hits(conn, "'article', query_embedding => %s", vector("red dog"))
    assert found[0][0] == 2
    assert all(hit[4] is None for hit in found)
    assert len(found) == 4


def test_words_need_no_service(conn: Connection, article: Service) -> None:
    assert keys(conn, "'article', 'bird', vector_weight => 0") == [4]
    given = "'article', 'bird', on_missing_query_embedding => 'bm25'"
    assert keys(conn, given) == [4]


def test_without_a_service_it_is_as_hybrid_search(
    dsn: str, conn: Connection, article: Service
) -> None:
    said = fails(conn, "PE010", "'article', 'red fox'")
    assert "CALL pgembed.encode('red fox', 'toy')" in said
    with answering(dsn, lambda query: (vector(query), None)):
        conn.execute("call pgembed.encode('red fox', 'toy')")
    assert keys(conn, "'article', 'red fox'")[0] == 1


def test_the_embedding_is_named(conn: Connection, article: Service) -> None:
    declare(conn, "article", "body || '!'", name="loud", bm25=False).drain()
    conn.execute("select pgembed.create_bm25('article', 'price::text', 'prices')")
    given = ", 'red', query_embedding => %s"
    assert hits(conn, f"'article'{given}, k => 1", vector("red fox"))[0][5] == "red fox"
    loud = f"'article'{given}, embedding => 'loud', k => 1, vector_weight => 9"
    assert hits(conn, loud, vector("red fox!"))[0][5] == "red fox!"
    named = f"'article'{given}, embedding => 'article_embedding', k => 1"
    assert hits(conn, named, vector("red fox"))[0][5] == "red fox"
    assert keys(conn, "'article', '300', embedding => 'prices'") == [3]
    assert "nope" in fails(conn, "PE001", "'article', 'x', embedding => 'nope'")


# -- what drivers send


ARTICLE = "'article', 'red'"
NEAR = "query_embedding => "


@pytest.mark.parametrize(
    "given",
    [
        "'[1,2,3]'",
        "'{1,2,3}'",
        "' {1,2,3}'",
        "'[1,2,3]'::text",
        "'[1,2,3]'::varchar",
        "'[1,2,3]'::vector",
        "'[1,2,3]'::halfvec",
        "'{1:1,2:2,3:3}/3'::sparsevec",
        "'{1,2,3}'::real[]",
        "'{1,2,3}'::float8[]",
        "array[1, 2, 3]",
        "array[1, 2.0, 3]",
        "array[1, 2, 3]::bigint[]",
        "'[1,2,3]'::jsonb",
    ],
)
def test_vectors_of_any_kind(conn: Connection, article: Service, given: str) -> None:
    expected = keys(conn, f"{ARTICLE}, {NEAR}'[1,2,3]'::vector")
    assert keys(conn, f"{ARTICLE}, {NEAR}{given}") == expected
    count = f"pgembed.search_count(null::article, min_similarity => -1, {NEAR}{given})"
    assert value(conn, f"select {count}") == 4


@pytest.mark.parametrize(
    "sent",
    ["[1,2,3]", "{1,2,3}", [1.0, 2.0, 3.0], [1, 2, 3], Jsonb([1, 2, 3])],
    ids=str,
)
def test_vectors_as_parameters(conn: Connection, article: Service, sent: Any) -> None:
    expected = keys(conn, f"{ARTICLE}, {NEAR}'[1,2,3]'::vector")
    assert keys(conn, f"{ARTICLE}, {NEAR}%s", sent) == expected
    assert len(keys(conn, f"{ARTICLE}, {NEAR}%s::real[]", [1.0, 2.0, 3.0])) == 4


@pytest.mark.parametrize(
    "given",
    ["'nothing'", "'{a}'", "5", "true", "'[1,nan,3]'", "array[1, null, 3]", "'{{1}}'"],
)
def test_what_is_no_vector(conn: Connection, article: Service, given: str) -> None:
    for call in (
        f"search('article', {NEAR}{given})",
        f"search_count(null::article, min_similarity => 0, {NEAR}{given})",
    ):
        with pytest.raises(psycopg.Error, match="query_embedding is not a vector") as e:
            conn.execute(f"select * from pgembed.{call}".encode())
        assert e.value.sqlstate == "PE009"
        assert e.value.diag.message_hint


def test_no_vector_may_be_given_as_null(conn: Connection, article: Service) -> None:
    for given in ("null", "null::vector", "null::real[]", "null::text"):
        rest = f"vector_weight => 0, {NEAR}{given}"
        assert keys(conn, f"'article', 'bird', {rest}") == [4]
        assert keys(conn, f"'article', 'bird', vector_weight => 0, {NEAR}%s", None)


NUMBERS = 'k => %s, "offset" => %s'


@pytest.mark.parametrize("cast", ["", "::smallint", "::int", "::bigint"])
def test_numbers_are_of_any_size(conn: Connection, article: Service, cast: str) -> None:
    near = f"{NEAR}'[1,2,3]'"
    numbers = NUMBERS.replace("%s", f"%s{cast}")
    for call, more in (
        ("search('article', 'red'", near),
        ("vector_search(null::article", f"{near}, ef_search => 20{cast}"),
        (
            "hybrid_search(null::article, 'red'",
            f"{near}, ef_search => 20{cast}, rrf_k => 20{cast}, candidates => 9{cast}",
        ),
        ("bm25_search(null::article, 'red'", "explain => true"),
        ("similar(null::article, 1", "min_similarity => -1"),
    ):
        query = f"select * from pgembed.{call}, {more}, {numbers})"
        rows = conn.execute(query.encode(), [1, 1]).fetchall()
        assert len(rows) == 1, query
    facets = "select * from pgembed.search_facets(null::article, 'red', '{price}'"
    assert len(conn.execute(f"{facets}, max_values => 1{cast})".encode()).fetchall())


@pytest.mark.parametrize("number", [0, -1, 10**4 + 1, 10**10, -(10**10)])
def test_numbers_out_of_range(conn: Connection, article: Service, number: int) -> None:
    near = f"{NEAR}'[1,2,3]'"
    wrong = [
        ("k", "search('article', 'red'"),
        ("k", "vector_search(null::article"),
        ("k", "similar(null::article, 1"),
        ("ef_search", "vector_search(null::article"),
        ("ef_search", "hybrid_search(null::article, 'red'"),
        ("rrf_k", "hybrid_search(null::article, 'red'"),
        ("k", "bm25_search(null::article, 'red'"),
        ("max_values", "search_facets(null::article, 'red', '{price}'"),
    ]
    if number != 0:
        wrong.append(("offset", "search('article', 'red'"))
    if number != 10**4 + 1:
        wrong.append(("candidates", "hybrid_search(null::article, 'red'"))
    for name, call in wrong:
        more = "" if "bm25" in call or "fac" in call or "similar" in call else near
        rest = ", ".join(filter(None, [more, f'"{name}" => %s']))
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(f"select * from pgembed.{call}, {rest})".encode(), [number])
        assert caught.value.sqlstate == "PE007", (call, str(caught.value))
        assert name in str(caught.value)
        assert str(number) in str(caught.value)


def test_numbers_of_declarations(conn: Connection) -> None:
    conn.execute("create table article (id int primary key, body text)")
    conn.execute(
        "select pgembed.register_model('toy', 3::bigint, 'hashing',"
        " max_tokens => 100::bigint)"
    )
    conn.execute(
        "select pgembed.create_embedding('article', 'body', model => 'toy',"
        " dimensions => 3::bigint, chunk_size => 50::bigint,"
        " chunk_overlap => 5::bigint, max_attempts => 3::bigint)"
    )
    conn.execute("select pgembed.bm25_maintain(min_rows => %s)", [Int8(2 * 10**10)])
    numbers = {"dimensions": 3, "chunk_overlap": 6, "chunk_size": 60, "max_attempts": 2}
    for name, number in numbers.items():
        call = f"select pgembed.alter_embedding('article_embedding', {name} => %s)"
        conn.execute(call.encode(), [Int8(number)])
        with pytest.raises(psycopg.Error, match=f"{name} .*{10**10}") as caught:
            conn.execute(call.encode(), [10**10])
        assert caught.value.sqlstate == "PE007"
        assert caught.value.diag.message_hint


FILTER = '{"price": {"$lt": 250}}'
FILTERS = [
    f"'{FILTER}'",
    f"'{FILTER}'::jsonb",
    f"to_jsonb('{FILTER}'::text)",
    "jsonb_build_object('price', jsonb_build_object('$lt', '250'))",
]
NO_FILTERS = ["null", "null::jsonb", "'null'", "'\"null\"'", "'{}'", "'\"{}\"'"]
FILTERED = (
    "search('article', 'red', query_embedding => '[1,2,3]', filter => {})",
    "vector_search(null::article, query_embedding => '[1,2,3]', filter => {})",
    "hybrid_search(null::article, 'red', query_embedding => '[1,2,3]', filter => {})",
    "bm25_search(null::article, 'red bird', filter => {})",
    "similar(null::article, 1, filter => {})",
    "search_facets(null::article, 'red bird', '{{price}}', filter => {})",
)


@pytest.mark.parametrize("call", FILTERED)
def test_a_filter_is_read_as_it_is_meant(
    conn: Connection, article: Service, call: str
) -> None:
    def count(given: str) -> int:
        found = conn.execute(f"select * from pgembed.{call.format(given)}".encode())
        return len(found.fetchall())

    some = count(FILTERS[0])
    assert {count(given) for given in FILTERS} == {some}
    every = count("null")
    assert every > some
    assert {count(given) for given in NO_FILTERS} == {every}
    for given in ("'\"nothing\"'", "'\"\"'", "'[]'", "'\"[1]\"'", "'1'"):
        with pytest.raises(psycopg.Error, match="a filter is a JSON object") as caught:
            count(given)
        assert caught.value.sqlstate == "PE008"
        assert caught.value.diag.message_hint


def test_facets_leave_out_their_own_filter_in_a_string(
    conn: Connection, article: Service
) -> None:
    call = (
        "select count(*) from pgembed.search_facets(null::article, 'red bird',"
        " '{price}', filter => %s, exclude_own_filter => true)"
    )
    assert value(conn, call, Jsonb(FILTER)) == 3


def test_a_count_takes_a_filter_in_a_string(conn: Connection, article: Service) -> None:
    call = "select pgembed.search_count(null::article, 'red bird', filter => %s)"
    assert value(conn, call, Jsonb(FILTER)) == 2
    assert value(conn, call, "null") == 3


def test_all_arguments_as_untyped_parameters(
    conn: Connection, article: Service
) -> None:
    """As drivers send them that leave types to the server."""
    given = {
        "source": "article",
        "query": "red",
        "k": "3",
        "filter": FILTER,
        "offset": "0",
        "min_score": "0",
        "min_similarity": "-1",
        "embedding": "article_embedding",
        "query_embedding": "[1,2,3]",
        "query_model": "toy",
        "syntax": "words",
        "prefix": "f",
        "fuzzy": "t",
        "config": "english",
        "snippets": "true",
        "vector_weight": "1",
        "bm25_weight": "0.5",
        "on_missing_query_embedding": "error",
        "query_encoder": "auto",
        "query_image": None,  # another query
        "diversity": "0.5",
    }
    names = value(
        conn,
        "select proargnames[1:pronargs] from pg_proc where oid::regproc::text ="
        " 'pgembed.search'",
    )
    assert names == list(given)
    arguments = ", ".join(f'"{name}" => %s' for name in given)
    assert set(keys(conn, arguments, *given.values())) == {1, 2}
    assert set(keys(conn, ", ".join(["%s"] * len(given)), *given.values())) == {1, 2}
    nothing: list[object] = [None] * len(given)
    assert "there is no table NULL" in fails(
        conn, "PE003", ", ".join(["%s"] * len(given)), *nothing
    )


# -- keys and rows


def test_keys_are_json_and_similar_takes_them(conn: Connection) -> None:
    big = 1234567890123456789
    uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    for kind, first, as_json in (
        ("int", "1", 1),
        ("bigint", "1", 1),
        ("bigint", str(big), str(big)),
        ("numeric", "1.50", 1.5),
        ("numeric", "12345678901234567890.5", "12345678901234567890.5"),
        ("uuid", uuid, uuid),
        ("text", 'a "b" \\ {c}', 'a "b" \\ {c}'),
        ("text", "[1]", "[1]"),
        ("varchar(9)", "null", "null"),
        ("char(4)", "ab", "ab"),
        ("date", "2026-11-27", "2026-11-27"),
        ("timestamptz", "2026-11-27 10:00+00", "2026-11-27T10:00:00+00:00"),
        ("float8", "0.1", 0.1),
        ("boolean", "true", True),
        ("int[]", "{1,2}", [1, 2]),
        ("citext", "Ab", "Ab"),
    ):
        with conn.transaction(force_rollback=True):
            conn.execute("set local timezone = 'UTC'")
            if kind == "citext":
                if not value(
                    conn,
                    "select count(*) from pg_available_extensions"
                    " where name = 'citext'",
                ):
                    continue
                conn.execute("create extension citext")
            conn.execute(
                f"create table article (id {kind} primary key, body text)".encode()
            )
            conn.execute("insert into article values (%s, 'red fox')", [first])
            declare(conn).drain()
            (key,) = keys(conn, "'article', query_embedding => '[1,2,3]'")
            assert key == as_json, kind
            call = "select count(*) from pgembed.similar(null::article, {})"
            assert value(conn, call.format("%s"), Jsonb(key)) == 0
            assert value(conn, call.format("%s"), first) == 0
            assert value(conn, call.format("%s::text"), first) == 0
            assert value(conn, call.format(f"%s::{kind}"), first) == 0
            with pytest.raises(psycopg.Error) as caught:
                conn.execute(call.format("'\"nope\"'::jsonb").encode())
            assert caught.value.sqlstate == "PE009", kind


def test_composite_keys(conn: Connection) -> None:
    conn.execute(
        "create table article (body text, lang text, n bigint, primary key (lang, n))"
    )
    conn.execute(
        "insert into article values ('red fox', 'e,\"n', 1), ('red dog', 'de', 2)"
    )
    declare(conn).drain()
    found = keys(conn, "'article', query_embedding => %s", vector("red fox"))
    assert found == [['e,"n', 1], ["de", 2]]
    call = "select (doc).n from pgembed.similar(null::article, {})"
    assert value(conn, call.format("%s"), Jsonb(found[0])) == 2
    assert value(conn, call.format("%s"), ['e,"n', "1"]) == 2
    assert value(conn, call.format("%s::json"), '["de", "2"]') == 1
    assert value(conn, call.format("array['de', '2']")) == 1
    assert value(conn, call.format("'{de,2}'")) == 1


@pytest.mark.parametrize(
    "given",
    ["1", "1::bigint", "1::smallint", "1::numeric", "'1'", "'1'::text", "'1'::jsonb"],
)
def test_a_key_of_any_type(conn: Connection, article: Service, given: str) -> None:
    call = f"select (doc).id from pgembed.similar(null::article, {given}) limit 1"
    assert value(conn, call) in (2, 3, 4)


@pytest.mark.parametrize("sent", [1, Int8(1), "1", Jsonb(1), Jsonb("1")], ids=repr)
def test_a_key_as_a_parameter(conn: Connection, article: Service, sent: Any) -> None:
    call = "select count(*) from pgembed.similar(null::article, %s)"
    assert value(conn, call, sent) == 3


def test_a_uuid_as_a_parameter(conn: Connection) -> None:
    conn.execute("create table article (id uuid primary key, body text)")
    ids = [UUID(int=number) for number in (1, 2)]
    for number in ids:
        conn.execute("insert into article values (%s, 'red')", [number])
    declare(conn).drain()
    call = "select (doc).id from pgembed.similar(null::article, %s)"
    assert value(conn, call, ids[0]) == ids[1]


def test_rows_are_json_without_the_vector_of_the_embedding(conn: Connection) -> None:
    conn.execute(
        "create type mood as enum ('glad', 'so so');"
        "create type pair as (a int, b text);"
        "create domain price as numeric check (value > 0);"
        'create table article (id int primary key, body text, "a b" int,'
        " moods mood[], mood mood, nothing mood, pair pair, price price, at date,"
        " attrs jsonb, tags text[], gone int, r int, s text, h text);"
        "alter table article drop gone"
    )
    conn.execute(
        "insert into article values (1, 'red fox', 2, '{glad,so so}', 'so so', null,"
        " row(null, 'x'), 1.5, '2026-11-27', '{\"a\": [1]}', '{x,null}', 3, 's', 'h')"
    )
    declare(conn, storage="column").drain()
    ((key, doc, *_),) = hits(conn, "'article', 'fox', query_embedding => '[1,2,3]'")
    assert (key, doc) == (
        1,
        {
            "id": 1,
            "body": "red fox",
            "a b": 2,
            "moods": ["glad", "so so"],
            "mood": "so so",
            "nothing": None,
            "pair": "(,x)",
            "price": 1.5,
            "at": "2026-11-27",
            "attrs": {"a": [1]},
            "tags": ["x", None],
            "r": 3,
            "s": "s",
            "h": "h",
        },
    )


# -- names, rights, row security


@pytest.mark.parametrize(
    ("source", "sqlstate"),
    [
        ("nothing", "PE003"),
        ("", "PE003"),
        (None, "PE003"),
        ("a.b.c.d", "PE003"),
        ('"unclosed', "PE003"),
        ("article; drop table article", "PE003"),
        ("article, pg_sleep(9)", "PE003"),
        ("plain", "PE001"),
        ("pg_class", "PE001"),
        ("article_embedding", "PE001"),
    ],
)
def test_what_is_no_table_of_an_embedding(
    conn: Connection, article: Service, source: str | None, sqlstate: str
) -> None:
    conn.execute("create table plain (id int primary key)")
    said = fails(conn, sqlstate, "%s, 'red'", source)
    assert source is None or source in said
    assert "HINT" not in said
    assert value(conn, "select count(*) from article") == 4


def test_the_table_is_the_one_in_the_callers_path(conn: Connection) -> None:
    for schema, text in (("one", "red fox"), ("My Two", "red dog")):
        run(conn, "create schema {}", schema)
        run(conn, "create table {}.article (id int primary key, body text)", schema)
        conn.execute(
            sql.SQL("insert into {}.article values (1, {})").format(
                sql.Identifier(schema), text
            )
        )
        run(conn, "set search_path = {}, public", schema)
        declare(conn, "article", "body", name="words").drain()
    call = "'article', 'red', vector_weight => 0"
    assert hits(conn, call)[0][1]["body"] == "red dog"
    conn.execute("set search_path = one, public")
    assert hits(conn, call)[0][1]["body"] == "red fox"
    assert conn.execute("show search_path").fetchone() == ("one, public",)
    conn.execute("set search_path = pg_catalog")
    other = "'\"My Two\".article', 'red', vector_weight => 0"
    assert hits(conn, other)[0][1]["body"] == "red dog"
    assert "search_path is pg_catalog" in fails(conn, "PE003", call)


@pytest.fixture
def roles(dsn: str, conn: Connection) -> Iterator[str]:
    """Give a database with a schema of an owner's, and a reader who may search."""
    with new_roles(dsn, OWNER, READER):
        run(conn, "create schema app authorization {}", OWNER)
        run(conn, "grant usage on schema app to {}", READER)
        conn.execute("create schema plugin; grant all on schema plugin to public")
        conn.execute("select pgembed.grant_usage(%s)", [READER])
        yield dsn
        conn.execute("drop schema app, plugin cascade")


def make_doc(conn: Connection, columns: str = "") -> None:
    """Make a table of the owner's, with both arms."""
    declaration = f"id int primary key, body text, who text{columns}"
    conn.execute(f"create table app.doc ({declaration})".encode())
    conn.execute(
        "insert into app.doc values (1, 'red fox', 'p'), (2, 'red dog', 'h'),"
        " (3, 'blue fox', 'p')"
    )
    run(conn, "alter table app.doc owner to {}", OWNER)
    declare(conn, "app.doc", "body").drain()
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")


BOTH = "'app.doc', 'red', query_embedding => '[1,2,3]', snippets => true"


def test_a_reader_needs_select_and_usage(roles: str, conn: Connection) -> None:
    make_doc(conn)
    with acting_as(roles, READER) as reader:
        fails(reader, "42501", BOTH)
        run(conn, "grant select on app.doc to {}", READER)
        conn.execute("select pgembed._reconcile_v1()")
        assert set(keys(reader, BOTH)) == {1, 2, 3}
        conn.execute("select pgembed.revoke_usage(%s)", [READER])
        fails(reader, "42501", BOTH)


def test_row_security_holds(roles: str, conn: Connection) -> None:
    make_doc(conn)
    conn.execute(
        "alter table app.doc enable row level security;"
        "create policy visible on app.doc using (who = 'p')"
    )
    run(conn, "grant select on app.doc to {}", READER)
    conn.execute("select pgembed._reconcile_v1()")
    with acting_as(roles, READER) as reader:
        assert set(keys(reader, BOTH)) == {1, 3}
        assert keys(reader, "'app.doc', 'dog', vector_weight => 0") == []
        near = "'app.doc', query_embedding => '[1,2,3]'"
        assert set(keys(reader, near)) == {1, 3}
    assert set(keys(conn, BOTH)) == {1, 2, 3}


CAPTURES = """
create function plugin.note() returns void language plpgsql as
    $$ begin raise 'captured'; end $$;
create function plugin.to_jsonb(anyelement) returns jsonb language plpgsql as
    $$ begin perform plugin.note(); end $$;
create function plugin.eq(int, int) returns boolean language plpgsql as
    $$ begin perform plugin.note(); end $$;
create function plugin.plus(bigint, bigint) returns bigint language plpgsql as
    $$ begin perform plugin.note(); end $$;
create function plugin.ge(float8, float8) returns boolean language plpgsql as
    $$ begin perform plugin.note(); end $$;
create operator plugin.= (leftarg = int, rightarg = int, function = plugin.eq);
create operator plugin.+ (leftarg = bigint, rightarg = bigint,
                          function = plugin.plus);
create operator plugin.>= (leftarg = float8, rightarg = float8, function = plugin.ge);
create function plugin.hybrid_search(anyelement, text) returns int language plpgsql as
    $$ begin perform plugin.note(); end $$;
"""


def test_names_on_the_callers_path_are_not_taken(roles: str, conn: Connection) -> None:
    make_doc(conn)
    conn.execute(CAPTURES)
    conn.execute("set search_path = plugin, app, pg_catalog, public")
    assert set(keys(conn, BOTH)) == {1, 2, 3}
    for given in (
        "'doc', 'red', vector_weight => 0, min_score => 0",
        "'doc', query_embedding => '{1,2,3}'::real[], min_score => -1",
        "'doc', 'red', query_embedding => '[1,2,3]', filter => '{\"id\": 1}'",
    ):
        assert keys(conn, given)
    assert value(conn, "select pgembed.is_fresh('doc')") is True
    conn.execute("call pgembed.wait('doc')")


def test_casts_of_the_owners_do_not_run_as_who_searches(
    roles: str, conn: Connection
) -> None:
    """to_jsonb() uses a cast to json, which a plain SELECT would not call."""
    with acting_as(roles, OWNER) as owner:
        owner.execute(
            """
            create table app.calls (who text);
            grant insert on app.calls to public;
            create type app.mood as enum ('glad');
            create type app.pair as (a int, m app.mood);
            create function app.as_json(app.mood) returns json language plpgsql as
                $$ begin insert into app.calls values (current_user);
                   return '"x"'; end $$;
            create function app.as_text(app.mood) returns text language plpgsql as
                $$ begin insert into app.calls values (current_user);
                   return 'x'; end $$;
            create cast (app.mood as json) with function app.as_json(app.mood);
            create cast (app.mood as text) with function app.as_text(app.mood)
                as implicit;
            """
        )
    make_doc(
        conn,
        ", mood app.mood default 'glad', moods app.mood[] default '{glad}',"
        " pair app.pair default '(1,glad)', pairs app.pair[] default '{\"(1,glad)\"}'",
    )
    run(conn, "grant select on app.doc to {}", READER)
    conn.execute("select pgembed._reconcile_v1()")
    assert value(conn, "select to_jsonb(d) ->> 'mood' from app.doc as d limit 1") == "x"
    conn.execute("truncate app.calls")
    with acting_as(roles, READER) as reader:
        for session in (reader, conn):
            doc = hits(session, BOTH)[0][1]
            assert doc["mood"] == "glad"
            assert doc["moods"] == ["glad"]
            assert doc["pair"] == "(1,glad)"
            assert doc["pairs"] == ["(1,glad)"]
    assert value(conn, "select count(*) from app.calls") == 0
