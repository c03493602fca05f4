"""What a search returns, against hand-written exact queries; and its errors."""

from __future__ import annotations

from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.fixtures.postgres import prepared_by
from tests.fixtures.vectors import (
    Vectors,
    as_text,
    build_indexes,
    declare,
    finish,
    make_vectors,
    put_chunks,
)

Connection = psycopg.Connection[Any]
OPERATORS: dict[str, LiteralString] = {
    "cosine": "<=>",
    "inner_product": "<#>",
    "l2": "<->",
}
SIMILARITY: dict[str, LiteralString] = {
    "cosine": "1 - distance",
    "inner_product": "-distance",
    "l2": "1 / (1 + distance)",
}


def make_documents(
    conn: Connection, dimensions: int = 8, rows: int = 60, **options: Any
) -> Vectors:
    """Make a table `doc` of that many rows with three chunks each, and its index."""
    conn.execute("create table doc (id bigint primary key, body text, price int)")
    conn.execute(
        "insert into doc select i, 'body ' || i, i from generate_series(1, %s) as i",
        [rows],
    )
    declare(conn, "doc", "body", dimensions=dimensions, **options)
    vectors = make_vectors(rows * 3, dimensions)
    put_chunks(
        conn,
        "doc_embedding",
        (
            ((1 + i // 3,), i % 3, f"chunk {i % 3} of {1 + i // 3}", vector)
            for i, vector in enumerate(vectors)
        ),
    )
    build_indexes(conn)
    return vectors


def refused(conn: Connection, sqlstate: str, query: str, *values: Any) -> str:
    """Run a statement that must fail with that SQLSTATE; return all it says."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(query, values)
    diag = caught.value.diag
    assert (caught.value.sqlstate, bool(diag.message_hint)) == (sqlstate, True)
    return f"{diag.message_primary}\n{diag.message_detail}\n{diag.message_hint}"


@pytest.mark.parametrize("distance", OPERATORS)
@pytest.mark.parametrize("vector_type", ["vector", "halfvec"])
@pytest.mark.parametrize("index", ["hnsw", "ivfflat", "none"])
def test_a_search_equals_the_query_written_by_hand(
    conn: Connection, distance: str, vector_type: str, index: str
) -> None:
    make_documents(conn, distance=distance, vector_type=vector_type, index=index)
    query = as_text(make_vectors(1, 8, seed=1)[0])
    by_hand = conn.execute(
        sql.SQL(
            "select d, {similarity}, distance, chunk, content from ("
            "  select distinct on (id) id, chunk, content,"
            "         embedding {operator} %s::{type}(8) as distance"
            "  from doc_embedding order by id, distance, chunk) as c"
            " join doc as d using (id) order by distance limit 10"
        ).format(
            similarity=sql.SQL(SIMILARITY[distance]),
            operator=sql.SQL(OPERATORS[distance]),
            type=sql.SQL("halfvec" if vector_type == "halfvec" else "vector"),
        ),
        [query],
    ).fetchall()

    for exact in (True, False):
        found = conn.execute(
            "select doc, similarity, distance, chunk, content from"
            " pgembed.vector_search(null::doc, query_embedding => %s, exact => %s)",
            [query, exact],
        ).fetchall()
        assert found == by_hand, exact
        assert len({row[0] for row in found}) == 10


def test_the_row_comes_whole_and_typed(conn: Connection) -> None:
    vectors = make_documents(conn)
    row = conn.execute(
        "select (doc).id, (doc).body, (doc).price, round(similarity::numeric, 4),"
        " chunk, content"
        " from pgembed.vector_search(null::doc, query_embedding => %s, k => 1)",
        [as_text(vectors[7])],
    ).fetchone()
    assert row == (3, "body 3", 3, 1, 1, "chunk 1 of 3")


def test_rows_at_one_distance_come_in_key_order(conn: Connection) -> None:
    make_documents(conn, rows=12)
    conn.execute("update doc_embedding set embedding = '[1,1,1,1,1,1,1,1]'")
    found = conn.execute(
        "select (doc).id, chunk from pgembed.vector_search(null::doc,"
        " query_embedding => '[1,2,1,1,1,1,1,1]', k => 12, exact => true)"
    ).fetchall()
    assert found == [(i, 0) for i in range(1, 13)]


@pytest.mark.parametrize("options", ['{"m": 8}', '{"m": 8, "binary": true}'])
def test_signs_find_the_candidates_and_vectors_rank_them(
    conn: Connection, options: str
) -> None:
    """Of more than 4,000 dimensions, and of fewer where that is asked for."""
    dimensions = 256 if "binary" in options else 4100
    vectors = make_documents(conn, dimensions, rows=100, index_options=options)
    index = conn.execute(
        "select indexdef from pg_indexes where indexname = 'doc_embedding_hnsw'"
    ).fetchone()
    assert index is not None
    assert "binary_quantize" in index[0]
    assert "bit_hamming_ops" in index[0]
    assert "WITH (m='8')" in index[0]
    conn.execute("set enable_seqscan = off")  # so few rows are read faster whole
    hits = 0
    for query in make_vectors(5, dimensions, seed=5):
        scores = vectors @ query / np.linalg.norm(vectors, axis=1)
        rows = {int(i) // 3 + 1: None for i in np.argsort(-scores)}
        found = conn.execute(
            "select (doc).id from pgembed.vector_search(null::doc, query_embedding =>"
            " %s)",
            [as_text(query)],
        ).fetchall()
        assert len(found) == 10
        hits += len({row[0] for row in found} & set(list(rows)[:10]))
    assert hits >= 45
    conn.execute("select pg_stat_force_next_flush()")
    scans = conn.execute(
        "select idx_scan from pg_stat_user_indexes"
        " where indexrelname = 'doc_embedding_hnsw'"
    ).fetchone()
    assert scans == (5,)


def test_a_matryoshka_embedding_cuts_the_query(conn: Connection) -> None:
    vectors = make_documents(conn, dimensions=6, model_dimensions=12)
    query = np.concatenate([vectors[30] * 5, np.full(6, 99)])
    rows = conn.execute(
        "select (doc).id, round(similarity::numeric, 3) from pgembed.vector_search("
        " null::doc, query_embedding => %s, k => 1) union all"
        " select (doc).id, round(similarity::numeric, 3) from pgembed.vector_search("
        " null::doc, query_embedding => %s, k => 1)",
        [as_text(query), as_text(vectors[30])],
    ).fetchall()
    assert rows == [(11, 1), (11, 1)]


def test_column_storage(conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, title text, chunk int)")
    conn.execute(
        "insert into doc select i, 'Title ' || i, -i from generate_series(1, 300) as i"
    )
    declare(
        conn,
        "doc",
        "upper(doc.title) || chunk",
        dimensions=8,
        storage="column",
        column_name="content",
    )
    vectors = make_vectors(300, 8)
    with conn.cursor() as cursor:
        cursor.executemany(
            "update doc set content = %s where id = %s",
            [(as_text(v), i + 1) for i, v in enumerate(vectors) if i >= 5],
        )
    finish(conn)
    build_indexes(conn)
    for arguments in ("", ", exact => true", """, filter => '{"chunk": {"$lt": 0}}'"""):
        row = conn.execute(
            "select (doc).id, (doc).chunk, chunk, content, similarity > 0.99"
            " from pgembed.vector_search(null::doc, query_embedding => %s, k => 1"
            + arguments
            + ")",
            [as_text(vectors[41])],
        ).fetchone()
        assert row == (42, -42, 0, "TITLE 42-42", True)
    count = conn.execute(
        "select count(*) from pgembed.vector_search(null::doc, query_embedding => %s,"
        " k => 1000)",
        [as_text(vectors[0])],
    ).fetchone()
    assert count == (295,)


def test_a_partitioned_table_with_a_composite_key(conn: Connection) -> None:
    conn.execute(
        "create table event (day date, id int, kind text, primary key (day, id))"
        " partition by range (day);"
        "create table event_1 partition of event for values from ('2024-01-01') to"
        " ('2025-01-01');"
        "create table event_2 partition of event for values from ('2025-01-01') to"
        " ('2026-01-01');"
        "insert into event select date '2024-12-01' + i, i % 7, 'k' || i % 2 from"
        " generate_series(0, 99) as i"
    )
    declare(conn, "event", "kind", dimensions=8)
    keys = conn.execute("select day, id from event order by day, id").fetchall()
    vectors = make_vectors(100, 8)
    put_chunks(
        conn,
        "event_embedding",
        ((key, 0, "text", v) for key, v in zip(keys, vectors, strict=True)),
    )
    build_indexes(conn)
    found = conn.execute(
        "select (doc).day, (doc).id, (doc).kind from pgembed.vector_search(null::event,"
        ' query_embedding => %s, k => 30, filter => \'{"kind": "k1"}\')',
        [as_text(vectors[60])],
    ).fetchall()
    assert len(set(found)) == 30
    assert {row[2] for row in found} == {"k1"}
    best = conn.execute(
        "select (doc).day, (doc).id from pgembed.similar(null::event, %s::text[], k =>"
        " 99)",
        [[str(value) for value in keys[60]]],
    ).fetchall()
    assert sorted(best) == sorted(key for key in keys if key != keys[60])


def test_names_that_need_care(conn: Connection) -> None:
    """Columns called as pgembed's own, as its aliases, and as nobody would."""
    names = ["chunk", "distance", "k1", "content", "s", "c", "n", "doc", "row_key"]
    names += ["embedding", "query", "k", "filter", "source", "e", "r", 'q"u', "Ünï cö"]
    columns = sql.SQL(", ").join(
        sql.SQL("{} text").format(sql.Identifier(name)) for name in names
    )
    table = sql.Identifier('My "shop"', "c")
    conn.execute(
        sql.SQL(
            'create schema "My ""shop"""; create table {table}'
            ' (id int, {columns}, primary key (chunk, "distance", k1));'
            " insert into {table} (id, chunk, distance, k1, s, filter, {quoted})"
            "  select i, 'a' || i, 'b', 'c', 's' || i % 2, 'f', 'x' from"
            " generate_series(1, 200) as i"
        ).format(table=table, columns=columns, quoted=sql.Identifier('q"u'))
    )
    name = declare(
        conn,
        '"My ""shop""".c',
        "chunk || content",
        name='My "own" é',
        dimensions=8,
    )
    vectors = make_vectors(200, 8)
    put_chunks(
        conn,
        name,
        (((f"a{i + 1}", "b", "c"), 0, f"t{i}", v) for i, v in enumerate(vectors)),
    )
    build_indexes(conn)
    rests: list[LiteralString] = [
        "",
        ", exact => true",
        """, filter => '{"q\\"u": "x", "s": {"$in": ["s1", "s0"]}, "filter": "f"}'""",
        ", where_sql => 'chunk like ''a%%'' and s in (''s0'', ''s1'') -- all of them'",
    ]
    for rest in rests:
        for vector, i in ((vectors[9], 10), (vectors[150], 151)):
            row = conn.execute(
                sql.SQL(
                    "select (doc).id, (doc).s, content, similarity > 0.999"
                    " from pgembed.vector_search(null::{}, query_embedding => %s, k =>"
                    " 1{})"
                ).format(table, sql.SQL(rest)),
                [as_text(vector)],
            ).fetchone()
            assert row == (i, f"s{i % 2}", f"t{i - 1}", True)
    near = conn.execute(
        sql.SQL(
            "select count(*), bool_or((doc).id = 10) from pgembed.similar(null::{}, "
            "array['a10', 'b', 'c'], k => 500)"
        ).format(table)
    ).fetchone()
    assert near == (199, False)


def test_pgvector_in_a_schema_off_the_search_path(server: Any, empty_dsn: str) -> None:
    from pgembed import schema

    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create schema ext; create extension vector schema ext")
    schema.install(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        vectors = make_documents(conn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        for rest in ("", ", exact => true", """, filter => '{"price": {"$gt": 5}}'"""):
            row = conn.execute(
                "select (doc).id from pgembed.vector_search(null::doc,"
                " query_embedding => %s::ext.vector, k => 1" + rest + ")",
                [as_text(vectors[50])],
            ).fetchone()
            assert row == (17,)
        assert conn.execute(
            "select count(*) from pgembed.similar(null::doc, 5)"
        ).fetchone() == (10,)
        assert "PE010" in refused_state(conn, "select pgembed.embed('words', 'test-8')")
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(
            "insert into pgembed.query_embedding (model_id, query_hash, embedding,"
            " answered_at, wanted_until)"
            " select model_id, pgembed._hash('words'), %s::ext.vector, now(), now()"
            " from pgembed.model where name = 'test-8'",
            [as_text(vectors[50])],
        )
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        row = conn.execute(
            "select (doc).id from pgembed.vector_search(null::doc, 'words', k => 1)"
        ).fetchone()
        assert row == (17,)


def refused_state(conn: Connection, query: str) -> str:
    """Run a statement that must fail; return its SQLSTATE."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(query)
    return str(caught.value.sqlstate)


def test_where_sql_sees_the_row_only(conn: Connection) -> None:
    vectors = make_documents(conn)
    query = as_text(vectors[0])
    for where, matching in (
        ("price <= 3 or id = 9", 4),
        ("s.price <= 3 -- or everything", 3),
        ("price in (select 7) /* one", None),
        ("body ~ '^body 1'", 11),
        ("chunk = 0", None),
        ("distance < 0.5", None),
        ("c.k1 = 1", None),
        ("price", None),
        ("price <", None),
        ("price < 3; drop table doc", None),
    ):
        call = (
            "select (doc).id from pgembed.vector_search(null::doc, k => 50,"
            " query_embedding => %s, where_sql => %s)"
        )
        if matching is None:
            assert where in refused(conn, "PE008", call, query, where)
        else:
            assert len(conn.execute(call, [query, where]).fetchall()) == matching


def test_several_embeddings_on_a_table(conn: Connection) -> None:
    vectors = make_documents(conn)
    declare(conn, "doc", "body", dimensions=4, name="second", distance="l2")
    put_chunks(conn, "second", [((5,), 0, "five", [1, 2, 3, 4])])
    call = (
        "select (doc).id from pgembed.vector_search(null::doc, k => 1,"
        " query_embedding => %s"
    )
    # The first is the default.
    first = conn.execute(call + ")", [as_text(vectors[0])]).fetchone()
    named = call + ", embedding => 'doc_embedding')"
    assert first is not None
    assert first == conn.execute(named, [as_text(vectors[0])]).fetchone()
    row = conn.execute(call + ", embedding => 'second')", ["[1,2,3,4]"]).fetchone()
    assert row == (5,)
    assert "third" in refused(
        conn, "PE001", call + ", embedding => 'third')", "[1,2,3,4]"
    )
    conn.execute("create table other (id int primary key)")
    said = refused(
        conn,
        "PE001",
        "select pgembed.vector_search(null::other, 'x', embedding => 'second')",
    )
    assert "is declared on public.doc, not on public.other" in said
    assert "create_embedding" in refused(
        conn, "PE001", "select pgembed.vector_search(null::other, 'x')"
    )


def test_an_empty_table_has_no_hits(conn: Connection) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    declare(conn, "doc", "body", dimensions=3)
    for exact in (True, False):
        rows = conn.execute(
            "select * from pgembed.vector_search(null::doc, query_embedding =>"
            " '[1,2,3]', exact => %s)",
            [exact],
        ).fetchall()
        assert rows == []


def make_few(conn: Connection) -> None:
    """Make three documents, and the weights of their model known."""
    make_documents(conn, dimensions=2, rows=3)
    conn.execute("update pgembed.model set fingerprint = 'a0' where name = 'test-2'")


@pytest.fixture
@prepared_by(make_few)
def few(conn: Connection) -> Connection:
    """Give three documents."""
    return conn


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("sqlstate", "arguments", "says"),
    [
        ("PE007", "query_embedding => '[1,1]', k => 0", "not 0"),
        ("PE007", "query_embedding => '[1,1]', k => -1", "not -1"),
        ("PE007", "query_embedding => '[1,1]', k => null", "not NULL"),
        ("PE007", "query_embedding => '[1,1]', k => 10001", "10000"),
        ("PE007", "query_embedding => '[1,1]', ef_search => 0", "ef_search"),
        ("PE007", "query_embedding => '[1,1]', ef_search => 1001", "1 to 1000"),
        ("PE006", "query_embedding => '[1,1,1]'", "has 3 dimensions"),
        ("PE009", "query_embedding => '[0,0]'", "zero"),
        ("PE009", "query => ' '", "empty"),
        ("PE009", "query => null", "empty"),
        ("PE011", "query_embedding => '[1,1]', query_model => 'other'", '"other"'),
        ("PE011", "'words', query_model => 'other'", '"other"'),
        ("PE011", "query_embedding => '[1,1]', query_model => 'test-2@b0'", "a0"),
        ("PE010", "query => 'words'", "CALL pgembed.encode('words', 'test-2')"),
    ],
)
def test_what_is_refused(
    few: Connection, sqlstate: str, arguments: str, says: str
) -> None:
    call = f"select * from pgembed.vector_search(null::doc, {arguments})"
    assert says in refused(few, sqlstate, call)


@pytest.mark.parametrize(
    "model", ["test-2", "test-2@a0", "sentence-transformers/test-2"]
)
def test_the_right_model_is_accepted(conn: Connection, model: str) -> None:
    make_documents(conn, dimensions=2, rows=3)
    conn.execute("update pgembed.model set fingerprint = 'a0' where name = 'test-2'")
    rows = conn.execute(
        "select from pgembed.vector_search(null::doc, query_embedding => '[1,1]',"
        " query_model => %s)",
        [model],
    ).fetchall()
    assert len(rows) == 3


def test_the_server_itself_refuses_other_bad_input(conn: Connection) -> None:
    make_documents(conn, dimensions=2, rows=3)
    for query in ("'[NaN,1]'", "'[Infinity,1]'", "'[]'", "'nonsense'"):
        state = refused_state(
            conn,
            f"select pgembed.vector_search(null::doc, query_embedding => {query})",
        )
        assert state.startswith("22")
    assert (
        refused_state(conn, "select pgembed.vector_search(null::no_table, 'x')")
        == "42704"
    )
    said = refused(conn, "PE003", "select pgembed.vector_search(7, 'x')")
    assert "NULL::article" in said


def test_zero_vectors_that_are_stored_come_last(conn: Connection) -> None:
    """They have no direction: cosine distance is NaN, and so is the similarity."""
    make_documents(conn, dimensions=2, rows=4)
    conn.execute("update doc_embedding set embedding = '[0,0]' where id in (1, 3)")
    for exact in (True, False):
        rows = conn.execute(
            "select (doc).id, similarity from pgembed.vector_search(null::doc,"
            " query_embedding => '[1,1]', exact => %s)",
            [exact],
        ).fetchall()
        assert [row[0] for row in rows[2:]] == [1, 3]
        assert [np.isnan(row[1]) for row in rows] == [False, False, True, True]


def test_a_zero_vector_may_be_searched_by_length(conn: Connection) -> None:
    make_documents(conn, dimensions=2, rows=4, distance="l2")
    rows = conn.execute(
        "select from pgembed.vector_search(null::doc, query_embedding => '[0,0]')"
    ).fetchall()
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("key_type", "values"),
    [
        ("bigint", [1, 2, 3]),
        ("text", ["a", "it's", 'x"{,}\\']),
        ("uuid", ["00000000-0000-0000-0000-00000000000" + c for c in "123"]),
        (
            "timestamptz",
            ["2024-01-01 00:00Z", "2024-06-01 00:00Z", "2025-01-01 00:00Z"],
        ),
    ],
)
def test_similar_rows(
    conn: Connection, key_type: LiteralString, values: list[Any]
) -> None:
    conn.execute(
        sql.SQL("create table doc (id {} primary key, body text)").format(
            sql.SQL(key_type)
        )
    )
    with conn.cursor() as cursor:
        cursor.executemany("insert into doc values (%s, 'x')", [(v,) for v in values])
    declare(conn, "doc", "body", dimensions=2)
    vectors: list[list[float]] = [[1, 0], [1, 0.1], [0, 1]]
    put_chunks(
        conn,
        "doc_embedding",
        (((key,), 0, "t", v) for key, v in zip(values, vectors, strict=True)),
    )
    call = sql.SQL(
        "select (doc).id = %s, (doc).id = %s from pgembed.similar(null::doc, %s::{})"
    ).format(sql.SQL(key_type))
    rows = conn.execute(call, [values[1], values[2], values[0]]).fetchall()
    assert rows == [(True, False), (False, True)]


def test_similar_leaves_out_the_row_however_its_key_is_written(
    conn: Connection,
) -> None:
    make_documents(conn, rows=5)
    for key in ("3", "'3'", "'003'", "3::smallint", "3.0::numeric(3,0)"):
        rows = conn.execute(
            f"select (doc).id from pgembed.similar(null::doc, {key})"
        ).fetchall()
        assert sorted(row[0] for row in rows) == [1, 2, 4, 5]


def test_similar_goes_by_all_chunks_and_takes_filters(conn: Connection) -> None:
    make_documents(conn, rows=3, dimensions=2)
    put_chunks(
        conn,
        "doc_embedding",
        [((i,), 7, "x", v) for i, v in ((1, [1, 1]), (2, [0, 5]), (3, [5, 0]))],
    )
    conn.execute("delete from doc_embedding where chunk < 3")
    conn.execute(
        "insert into doc_embedding select 1, 8, 'y', '[1,0.5]', text_hash, model_id,"
        " now() from doc_embedding limit 1"
    )
    rows = conn.execute(
        "select (doc).id, similarity from pgembed.similar(null::doc, 1)"
    ).fetchall()
    assert rows == [(3, pytest.approx(0.8)), (2, pytest.approx(0.6))]
    rows = conn.execute(
        "select (doc).id from pgembed.similar(null::doc, 1, filter => %s, where_sql =>"
        " 'true or id = 1')",
        [Jsonb({"price": {"$lt": 3}})],
    ).fetchall()
    assert rows == [(2,)]


@pytest.mark.parametrize(
    "key", ["'abc'", "99", "null::int", "array[1, 2]", "99999999999999999999"]
)
def test_similar_to_no_row(conn: Connection, key: str) -> None:
    make_documents(conn, rows=3)
    said = refused(conn, "PE009", f"select pgembed.similar(null::doc, {key})")
    assert "doc" in said


def test_similar_with_a_wrong_composite_key(conn: Connection) -> None:
    conn.execute("create table doc (a int, b text, primary key (a, b))")
    declare(conn, "doc", "b", dimensions=2)
    for key in ("'5'", "5", "array['x', 'y']"):
        said = refused(conn, "PE009", f"select pgembed.similar(null::doc, {key})")
        assert "array['1', 'a']" in said


@pytest.mark.parametrize("name", ["c", "best", "s"])
def test_table_may_be_called_as_a_part_of_the_statement(
    conn: Connection, name: str
) -> None:
    vectors = make_documents(conn)
    conn.execute(sql.SQL("alter table doc rename to {}").format(sql.Identifier(name)))
    found = conn.execute(
        sql.SQL(
            "select (doc).id from pgembed.vector_search(null::{}, k => 1,"
            " query_embedding => %s::vector, exact => %s)"
        ).format(sql.Identifier(name)),
        [as_text(vectors[3]), True],
    ).fetchall()
    assert found == [(2,)]
