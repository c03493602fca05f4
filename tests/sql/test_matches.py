"""search_count and search_facets: as one counts by hand."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.vectors import (
    as_text,
    build_indexes,
    declare,
    make_vectors,
    put_chunks,
)
from tests.sql.bm25_steps import make_texts
from tests.sql.steps import value

Connection = psycopg.Connection[Any]
READER = f"pgembed_test_{os.getpid()}_reader"
STRANGER = f"pgembed_test_{os.getpid()}_stranger"

WORDS = ["w0", "w0 w3 w1", "w700 w900", "w1 w1100", "absent", "w40 w90 absent w300"]
CONDITIONS = [
    ("", "true"),
    (', filter => \'{"category": "a"}\'', "category = 'a'"),
    (", where_sql => 's.year > 2001'", "year > 2001"),
]


def fill(conn: Connection) -> None:
    """Make `doc`, most of it packed; some rows changed, some deleted."""
    conn.execute(
        "create table doc (id int primary key, body text, category text, year int,"
        " tags text[], attrs json, kind point)"
    )
    rows = list(enumerate(make_texts(5000, seed=7)))
    insert(conn, rows[:4500])
    conn.execute(
        "select pgembed.create_bm25('doc', 'body',"
        ' options => \'{"config": "simple"}\')'
    )
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    insert(conn, rows[4500:])
    conn.execute("update doc set body = body || ' w3 added' where id % 31 = 0")
    conn.execute("delete from doc where id % 17 = 4")


def insert(conn: Connection, rows: list[tuple[int, str]]) -> None:
    """Insert rows with values in all columns."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into doc select %(i)s, %(t)s, nullif(chr(97 + %(i)s %% 4), 'd'),"
            " 2000 + %(i)s %% 5,"
            " array['t' || %(i)s %% 2, 'u' || %(i)s %% 3, 't0'], '{}'",
            [{"i": number, "t": text} for number, text in rows],
        )


def matching(words: str, where: str = "true") -> str:
    """Write by hand what matches."""
    return (
        f"from doc where {where} and to_tsvector('simple', body) @@"
        f" '{' | '.join(words.split())}'::tsquery"
    )


def check(conn: Connection) -> None:
    """Compare counts and facets with what GROUP BY gives."""
    for words in WORDS:
        for options, where in CONDITIONS:
            count = value(
                conn, f"select pgembed.search_count(null::doc, '{words}'{options})"
            )
            assert count == value(conn, f"select count(*) {matching(words, where)}")
            assert count == value(
                conn,
                f"select count(*) from pgembed.bm25_search(null::doc, '{words}',"
                f" k => 10000{options})",
            )
            found = conn.execute(
                f"select * from pgembed.search_facets(null::doc, '{words}',"
                f" '{{category,year,tags}}', max_values => 2{options})"
            ).fetchall()
            assert found == [
                (column, got, rows)
                for column, expression, source in (
                    ("category", "category", ""),
                    ("year", "year", ""),
                    (
                        "tags",
                        "v",
                        "cross join lateral (select distinct unnest(tags) as v)",
                    ),
                )
                for got, rows in conn.execute(
                    f"select {expression}, count(*) from (select * "
                    f"{matching(words, where)}) as d {source} "
                    "as t group by 1 order by 2 desc, 1 limit 2"
                    if source
                    else f"select {expression}, count(*) {matching(words, where)}"
                    " group by 1 order by 2 desc, 1 limit 2"
                )
            ]


def test_what_matches_is_counted(conn: Connection) -> None:
    fill(conn)
    check(conn)
    conn.execute("select pgembed.bm25_maintain(min_rows => 1)")
    check(conn)
    with conn.transaction(force_rollback=True):
        conn.execute("truncate doc")
        insert(conn, [(1, "w0 w3"), (2, "w1")])
        check(conn)


def test_other_ways_to_ask(conn: Connection) -> None:
    fill(conn)
    for call, hand in (
        ("'w0 w3', syntax => 'websearch'", "'w0 & w3'::tsquery"),
        ("'w0 -w3', syntax => 'websearch'", "'w0 & !w3'::tsquery"),
        ("'\"w0 w3\"', syntax => 'websearch'", "'w0 <-> w3'::tsquery"),
        ("'w0 add', prefix => true", "'w0 | add:*'::tsquery"),
        ("'W0', config => 'english'", "'w0'::tsquery"),
    ):
        count = value(conn, f"select pgembed.search_count(null::doc, {call})")
        assert count == value(
            conn,
            f"select count(*) from doc where to_tsvector('simple', body) @@ {hand}",
        )
        facets = conn.execute(
            "select count from pgembed.search_facets(null::doc, "
            + call.replace(",", ", '{year}',", 1)
            + ")"
        ).fetchall()
        assert sum(row[0] for row in facets) == count


def test_a_columns_own_filter_is_left_out(conn: Connection) -> None:
    fill(conn)
    call = (
        "select facet, value, count from pgembed.search_facets(null::doc, 'w0',"
        ' \'{category,year}\', filter => \'{"category": "a", "year": {"$gt": 2002}}\''
    )
    own = conn.execute(f"{call})").fetchall()
    assert {row[1] for row in own if row[0] == "category"} == {"a"}
    assert own == conn.execute(f"{call}, exclude_own_filter => false)").fetchall()
    found = conn.execute(f"{call}, exclude_own_filter => true)").fetchall()
    of_a = matching("w0", "category = 'a'")
    by_hand = [
        ("category", *row)
        for row in conn.execute(
            f"select category, count(*) {matching('w0', 'year > 2002')}"
            " group by 1 order by 2 desc, 1"
        )
    ] + [
        ("year", *row)
        for row in conn.execute(
            f"select year, count(*) {of_a} group by 1 order by 2 desc, 1"
        )
    ]
    assert found == by_hand


PRODUCTS = """
create table product (id int primary key, body text, attrs jsonb, "attrs.kind" text);
insert into product select i, 'shoe number ' || i, case i % 5 when 0 then null else
    jsonb_build_object('brand', 'b' || i % 3, 'size', i % 4, 'in', jsonb_build_object(
        'tags', to_jsonb(array['t' || i % 2, 't' || i % 3]))) end, 'k' || i % 2
from generate_series(1, 60) as i;
update product set attrs = attrs || '{"brand": null, "in": {"tags": "alone"}}'
where id % 7 = 0;
update product set attrs = attrs || '{"size": "3"}' where id % 11 = 0;
select pgembed.create_bm25('product', 'body');
"""


def test_facets_of_what_is_in_jsonb(conn: Connection) -> None:
    conn.execute(PRODUCTS.encode())
    facets = (
        "select value, count from pgembed.search_facets(null::product, 'shoe',"
        " array[%s], max_values => 100, exclude_own_filter => %s, filter => %s)"
    )
    sizes = "nullif(attrs -> 'size', 'null')"
    brands = "nullif(attrs -> 'brand', 'null')"
    tags = (
        "cross join lateral (select distinct t from jsonb_array_elements(case"
        " jsonb_typeof(attrs #> '{in,tags}') when 'array' then attrs #> '{in,tags}'"
        " else jsonb_build_array(attrs #> '{in,tags}') end) as t) as u"
    )
    condition = {"attrs.size": {"$gte": 2}, 'attrs."brand"': "b1", "attrs.kind": "k1"}
    size_is = "jsonb_typeof(attrs -> 'size') = 'number' and attrs -> 'size' >= '2'"
    brand_is = "attrs ->> 'brand' = 'b1'"
    kind_is = "\"attrs.kind\" = 'k1'"
    for facet, counted, own in (
        ("attrs.size", sizes, f"{brand_is} and {kind_is}"),
        ("attrs.brand", brands, f"{size_is} and {kind_is}"),
        ("attrs.in.tags", "nullif(u.t, 'null')", None),
        ("attrs.kind", 'to_jsonb("attrs.kind")', f"{size_is} and {brand_is}"),
        ("attrs", "attrs", kind_is),
    ):
        for excluded in (False, True):
            for given in (None, condition):
                everything = f"{size_is} and {brand_is} and {kind_is}"
                where = own if excluded and own else everything
                by_hand = (
                    f"select {counted}, count(*) from product"
                    f" {tags if 'tags' in facet else ''}"
                    f" where {where if given else 'true'}"
                    f" group by 1 order by 2 desc, 1"
                )
                found = conn.execute(
                    facets.encode(), [facet, excluded, given and json.dumps(given)]
                ).fetchall()
                wanted = conn.execute(by_hand.encode()).fetchall()
                assert len(found) == len(wanted)
                assert all(row in wanted for row in found), (facet, excluded, given)
                assert found or given


def test_within_a_similarity(conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, body text, n int)")
    conn.execute("insert into doc select i, 'x', i from generate_series(0, 1999) as i")
    declare(conn, "doc", "body", dimensions=8)
    vectors, query = make_vectors(4000, 8, seed=8), make_vectors(1, 8, seed=9)[0]
    put_chunks(
        conn,
        "doc_embedding",
        (((i // 2,), i % 2, "x", v) for i, v in enumerate(vectors)),
    )
    build_indexes(conn)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    best = (vectors @ query / lengths).reshape(-1, 2).max(axis=1)
    for least in (-1.0, 0.2, 0.6, 1.0):
        call = (
            f"pgembed.search_count(null::doc, query_embedding => '{as_text(query)}',"
            f" min_similarity => {least}"
        )
        assert value(conn, f"select {call})") == int((best >= least).sum())
        assert value(
            conn, f'select {call}, filter => \'{{"n": {{"$lt": 500}}}}\')'
        ) == (int((best[:500] >= least).sum()))


def test_who_may_not_read_may_not_count(dsn: str, conn: Connection) -> None:
    fill(conn)
    calls = (
        "select pgembed.search_count(null::doc, 'w0')",
        "select count(*) from pgembed.search_facets(null::doc, 'w0', '{year}')",
    )
    with new_roles(dsn, READER, STRANGER):
        for role in (READER, STRANGER):
            conn.execute("select pgembed.grant_usage(%s)", [role])
        conn.execute(f"grant select on doc to {READER}")
        conn.execute("select pgembed.repair('doc_bm25')")
        conn.execute(f"grant select on pgembed.bm25 to {STRANGER}")
        with acting_as(dsn, READER) as reader:
            for call in calls:
                assert value(reader, call) == value(conn, call)
        with acting_as(dsn, STRANGER) as stranger:
            for call in calls:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    stranger.execute(call)
        conn.execute(
            "alter table doc enable row level security;"
            f"create policy mine on doc to {READER} using (category = 'a')"
        )
        for _ in range(2):  # before and after it has been taken over
            with acting_as(dsn, READER) as reader:
                for words in WORDS:
                    by_hand = value(reader, f"select count(*) {matching(words)}")
                    assert by_hand == value(
                        reader, f"select pgembed.search_count(null::doc, '{words}')"
                    )
                    facets = reader.execute(
                        f"select value, count from pgembed.search_facets(null::doc,"
                        f" '{words}', '{{category}}')"
                    ).fetchall()
                    assert facets == ([("a", by_hand)] if by_hand else [])
            conn.execute("select pgembed.repair('doc_bm25')")


BAD = [
    ("search_count(null::doc, null)", "PE009"),
    ("search_count(null::doc, ' ')", "PE009"),
    ("search_count(null::doc, 'x', query_embedding => '[1,2]')", "PE007"),
    ("search_count(null::doc, 'x', syntax => 'none')", "PE007"),
    ("search_count(null::doc, 'x', filter => '{\"none\": 1}')", "PE008"),
    ("search_count(null::doc, 'x', min_similarity => 0.5)", "PE001"),
    ("search_facets(null::doc, 'x', null)", "PE007"),
    ("search_facets(null::doc, 'x', '{}')", "PE007"),
    ("search_facets(null::doc, 'x', '{attrs.}')", "PE007"),
    ("search_facets(null::doc, 'x', '{year.a}')", "PE007"),
    ("search_facets(null::doc, 'x', '{kind}')", "PE007"),
    ("search_facets(null::doc, 'x', '{none}')", "PE007"),
    ("search_facets(null::doc, 'x', array[null])", "PE007"),
    ("search_facets(null::doc, 'x', '{year}', max_values => 0)", "PE007"),
    ("search_facets(null::doc, 'x', '{year}', max_values => null)", "PE007"),
    ("search_facets(null::doc, '', '{year}')", "PE009"),
]


def test_bad_input(conn: Connection) -> None:
    fill(conn)
    for call, sqlstate in BAD:
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(f"select pgembed.{call}")
        assert caught.value.sqlstate == sqlstate, (call, caught.value)
        assert caught.value.diag.message_hint, call
