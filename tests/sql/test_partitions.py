"""Vectors in partitions: found as in one table, built apart, and nobody's business."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors, sql

from tests.fixtures.answering import beat
from tests.fixtures.postgres import Server
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.vectors import (
    as_text,
    build_indexes,
    make_vectors,
    put_chunks,
)
from tests.fixtures.vectors import declare as declare_drawn
from tests.sql.steps import ARTICLE, Service, declare, value

Connection = psycopg.Connection[Any]
ROWS = 3000
PARTS = 4
VECTORS = make_vectors(ROWS, 32)
QUERY = as_text(make_vectors(1, 32, seed=1)[0])
KINDS: dict[str, dict[str, Any]] = {
    "hnsw": {},
    "ivfflat": {"index": "ivfflat", "index_options": '{"lists": 8}'},
    "short": {"vector_type": "halfvec", "distance": "l2"},
    "signs": {"index_options": '{"binary": true}'},
}
NEXT = "select ddl from pgembed._index_next_v1(%s, %s)"
FOUND = (
    "select count(*) from pgembed.vector_search("
    "null::article, query_embedding => '[1,2,3]', k => 100)"
)
READER = f"pgembed_test_{os.getpid()}_partitions"


def partitions(conn: Connection, side: str = "article_embedding") -> list[str]:
    """Name the partitions of a side table."""
    rows = conn.execute(
        "select relid::regclass::text from pg_partition_tree(%s::text::regclass)"
        " where isleaf order by relid",
        [side],
    )
    return [name for (name,) in rows]


def sizes(conn: Connection, side: str = "article_embedding") -> list[int]:
    """Count the rows of each."""
    return [
        value(conn, f"select count(*) from {one}") for one in partitions(conn, side)
    ]


def build(conn: Connection) -> None:
    """Build the missing indexes as a service does, but in this transaction."""
    while statements := value(conn, NEXT, uuid4(), None):
        for statement in statements:
            conn.execute(statement.replace(" concurrently", "").encode())


# --- Searches


@pytest.fixture(scope="module")
def corpus_dsn(server: Server) -> Iterator[str]:
    """Give a database with an embedding of each kind, in partitions, over one table."""
    name = server.create_database(server.template())
    with psycopg.connect(server.dsn(name), autocommit=True) as conn:
        conn.execute(
            "create table item (tenant int, id int, title text, half boolean,"
            " hundredth boolean, primary key (tenant, id))"
        )
        conn.execute(
            "insert into item select i %% 3, i, 't' || i, i %% 2 = 0, i %% 100 = 0"
            " from generate_series(1, %s) as i",
            [ROWS],
        )
        for kind, options in KINDS.items():
            declare_drawn(
                *(conn, "item", "title"),
                **{"name": kind, "dimensions": 32, "partitions": PARTS, **options},
            )
            put_chunks(
                conn,
                kind,
                (
                    ((i % 3, i), 0, f"t{i}", vector)
                    for i, vector in enumerate(VECTORS, 1)
                ),
            )
        build_indexes(conn)
    yield server.dsn(name)
    server.drop_database(name)


@pytest.fixture
def corpus(corpus_dsn: str) -> Iterator[Connection]:
    """Give a transaction on the corpus, rolled back at the end."""
    with psycopg.connect(corpus_dsn) as conn:
        yield conn
        conn.rollback()


def search(conn: Connection, kind: str, k: int = 10, **arguments: Any) -> list[int]:
    """Search the corpus; return ids, nearest first."""
    named = sql.SQL("").join(
        sql.SQL(", {} => {}").format(sql.Identifier(name), given)
        for name, given in arguments.items()
    )
    rows = conn.execute(
        sql.SQL(
            "select (doc).id from pgembed.vector_search(null::item, k => {},"
            " embedding => {}, query_embedding => {}{})"
        ).format(k, kind, QUERY, named)
    )
    return [key for (key,) in rows]


def scans(conn: Connection, kind: str) -> tuple[list[int], int]:
    """Count scans in this transaction: of each vector index, and of all else."""
    of_index = conn.execute(
        "select pg_stat_get_xact_numscans(x.index) from pgembed.embedding as e,"
        " pgembed._vector_indexes(e) as x where e.name = %s order by x.relation",
        [kind],
    ).fetchall()
    others = value(
        conn,
        "select sum(pg_stat_get_xact_numscans(x.relation)"
        " + coalesce(pg_stat_get_xact_numscans(p.indexrelid), 0))::int"
        " from pgembed.embedding as e, pgembed._vector_indexes(e) as x"
        " join pg_index as p on p.indrelid = x.relation and p.indisprimary"
        " where e.name = %s",
        kind,
    )
    return [many for (many,) in of_index], others


@pytest.mark.parametrize("kind", KINDS)
def test_one_search_merges_the_index_scans_of_all(
    corpus: Connection, kind: str
) -> None:
    exact = search(corpus, kind, 50, exact=True)
    before, others = scans(corpus, kind)
    found = search(corpus, kind, 50)
    after, others_after = scans(corpus, kind)
    assert all(now > was for now, was in zip(after, before, strict=True))
    assert others_after == others
    assert len(set(found) & set(exact)) >= 45
    if kind != "signs":
        assert found[:1] == exact[:1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("column", "matching"), [("half", 1500), ("hundredth", 30)])
@pytest.mark.parametrize("k", [10, 200])
def test_k_rows_come_where_k_match(
    corpus: Connection, kind: str, column: str, matching: int, k: int
) -> None:
    condition = f'{{"{column}": true}}'
    found = search(corpus, kind, k, filter=condition)
    wanted = search(corpus, kind, k, filter=condition, exact=True)
    assert len(found) == len(set(found)) == min(k, matching)
    # So few lists are far from each other.
    share = 0.5 if kind == "ivfflat" else 0.85
    assert len(set(found) & set(wanted)) >= share * len(wanted)


@pytest.mark.parametrize("kind", ["hnsw", "short"])
def test_pages_are_slices_of_one_ranking(corpus: Connection, kind: str) -> None:
    whole = search(corpus, kind, 60)
    pages = [search(corpus, kind, 20, offset=start) for start in (0, 20, 40)]
    assert [key for page in pages for key in page] == whole


def test_a_filter_on_the_whole_key_looks_into_one_partition(
    corpus: Connection,
) -> None:
    row = corpus.execute(
        "select tenant, id, tableoid::regclass::text from hnsw where id = 1234"
    ).fetchone()
    assert row is not None
    tenant, key, home = row

    def fetched() -> dict[str, int]:
        return dict(
            corpus.execute(
                "select x.relation::text, pg_stat_get_xact_numscans(x.relation)"
                " + pg_stat_get_xact_numscans(p.indexrelid)"
                " from pgembed.embedding as e, pgembed._vector_indexes(e) as x"
                " join pg_index as p on p.indrelid = x.relation and p.indisprimary"
                " where e.name = 'hnsw'"
            ).fetchall()
        )

    before = fetched()
    condition = f'{{"tenant": {tenant}, "id": {key}}}'
    assert search(corpus, "hnsw", filter=condition) == [key]
    assert {one for one, scans in fetched().items() if scans > before[one]} == {home}


@pytest.mark.parametrize(
    "call",
    [
        "hybrid_search(null::item, 't77', query_embedding => {q}, embedding => 'hnsw')",
        "vector_search(null::item, query_embedding => {q}, diversity => 0.5)",
        "similar(null::item, array['1', '1234'])",
        "recommend(null::item, '[[1, 1234]]')",
    ],
)
def test_other_searches(corpus: Connection, call: str) -> None:
    """As over one table with the same vectors, but for what indexes miss."""
    statement = f"select (doc).id from pgembed.{call.format(q=repr(QUERY))}"
    found = {key for (key,) in corpus.execute(statement.encode())}
    # An index that is not valid is not used.
    corpus.execute(
        "update pg_index set indisvalid = false where indexrelid in (select x.index"
        " from pgembed.embedding as e, pgembed._vector_indexes(e) as x)"
    )
    exact = {key for (key,) in corpus.execute(statement.encode())}
    assert len(found) == len(exact) == 10
    assert len(found & exact) >= 9


def test_duplicates_are_found_across_partitions(corpus: Connection) -> None:
    corpus.execute(
        "insert into item select 9, 9000 + id, title from item where id <= 40;"
        "insert into hnsw select 9, 9000 + id, chunk, content, embedding, text_hash,"
        " model_id, embedded_at from hnsw where id <= 40"
    )
    found = corpus.execute(
        "select (key_a ->> 1)::int, (key_b ->> 1)::int"
        " from pgembed.duplicates(null::item, 0.9999)"
    ).fetchall()
    pairs = {tuple(sorted(pair)) for pair in found}
    assert len(pairs & {(n, 9000 + n) for n in range(1, 41)}) >= 39


def test_an_index_that_is_missing_of_one_makes_searches_exact(
    corpus: Connection,
) -> None:
    one = value(
        corpus,
        "select min(x.index::text) from pgembed.embedding as e,"
        " pgembed._vector_indexes(e) as x where e.name = 'hnsw'",
    )
    exact = search(corpus, "hnsw", exact=True)
    corpus.execute(f"drop index {one}".encode())
    assert search(corpus, "hnsw") == exact
    state = "select index_state from pgembed.status where name = 'hnsw'"
    assert value(corpus, state) == "pending"


# --- Declaration


@pytest.fixture
def service(conn: Connection) -> Service:
    """Give six articles in partitions, encoded."""
    conn.execute(ARTICLE)
    made = declare(conn, "article", text_expression="title", partitions=3)
    conn.execute(
        "insert into article (id, title, body)"
        " select i, 'title ' || i, 'body' from generate_series(1, 20) as i"
    )
    made.drain()
    return made


@pytest.mark.rolled_back
def test_writes_go_to_their_partitions(service: Service) -> None:
    conn = service.conn
    assert len(partitions(conn)) == 3
    assert sum(sizes(conn)) == 20
    assert min(sizes(conn)) > 0
    conn.execute("update article set title = 'new' where id = 1")
    conn.execute("update article set id = 100 where id = 2")
    conn.execute("delete from article where id = 3")
    service.drain()
    assert sorted(service.embedded()) == sorted(
        str(key) for key in [100, 1, *range(4, 21)]
    )
    assert value(conn, "select partitions from pgembed.status") == 3
    conn.execute("truncate article")
    service.drain()
    assert sum(sizes(conn)) == 0


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("options", "said", "detail"),
    [
        ({"partitions": 0}, "partitions is out of range: 0", "looks into each"),
        ({"partitions": -4}, "partitions is out of range: -4", "looks into each"),
        ({"partitions": 10_000}, "out of range: 10000", "looks into each"),
        ({"partitions": 1 << 40}, "partitions is out of range", None),
        (
            {"partitions": 4, "storage": "column"},
            "vectors in a column are not partitioned",
            "They are in table public.article itself.",
        ),
    ],
)
def test_what_cannot_be(
    conn: Connection, options: dict[str, Any], said: str, detail: str | None
) -> None:
    conn.execute(ARTICLE)
    with pytest.raises(psycopg.Error, match=said) as caught:
        declare(conn, "article", **options)
    assert caught.value.sqlstate == "PE007"
    assert caught.value.diag.message_hint
    assert detail is None or detail in (caught.value.diag.message_detail or "")
    assert value(conn, "select count(*) from pgembed.embedding") == 0


@pytest.mark.rolled_back
def test_a_key_that_cannot_be_hashed(conn: Connection) -> None:
    conn.execute("create table odd (id bit(8) primary key, body text)")
    with pytest.raises(psycopg.Error, match="cannot be partitioned by hash") as caught:
        declare(conn, "odd", text_expression="body", partitions=4)
    assert caught.value.sqlstate == "PE007"
    assert "bit" in (caught.value.diag.message_detail or "")
    assert value(conn, "select to_regclass('odd_embedding')") is None


@pytest.mark.rolled_back
def test_one_is_an_ordinary_table(conn: Connection) -> None:
    conn.execute(ARTICLE)
    declare(conn, "article", partitions=1)
    assert (
        value(conn, "select relkind from pg_class where relname = 'article_embedding'")
        == "r"
    )


@pytest.mark.rolled_back
def test_names_of_63_bytes(conn: Connection) -> None:
    """Two that begin alike; the partitions are called by number."""
    conn.execute(ARTICLE)
    for last in "ab":
        made = declare(conn, "article", name="ü" * 31 + last, partitions=2)
        assert len(partitions(conn, f'"{made.name}"')) == 2
    assert value(conn, "select count(*) from pg_indexes where indexname ~ 'hnsw'") == 4
    conn.execute("select pgembed.drop_embedding(%s)", ["ü" * 31 + "a"])
    assert (
        value(
            conn,
            "select count(*) from pg_class where relname ~ '_vectors_'"
            " and relkind = 'r'",
        )
        == 2
    )


@pytest.mark.rolled_back
def test_dropping_leaves_nothing(service: Service) -> None:
    service.conn.execute("select pgembed.drop_embedding('article_embedding')")
    left = "select count(*) from pg_class where relname ~ '_vectors_|article_emb'"
    assert value(service.conn, left) == 0


@pytest.mark.rolled_back
def test_partitions_in_place_keep_the_vectors(service: Service) -> None:
    conn = service.conn
    kept = service.embedded()
    for wanted in (5, 1, 2):
        conn.execute(
            "select pgembed.alter_embedding('article_embedding', partitions => %s,"
            " switch => 'in_place')",
            [wanted],
        )
        assert len(sizes(conn)) == (0 if wanted == 1 else wanted)
        assert service.embedded() == kept
        assert service.drain() == 0
        build(conn)
        assert value(conn, "select index_state from pgembed.status") == "valid"
    conn.execute(
        "select pgembed.alter_embedding('article_embedding', reset => '{partitions}',"
        " chunk_size => 7, switch => 'in_place')"
    )
    assert value(conn, "select partitions from pgembed.status") == 1
    names = (
        "select conname from pg_constraint"
        " where conrelid = 'article_embedding'::regclass and contype = 'p'"
    )
    assert value(conn, names) == "article_embedding_pkey"


@pytest.mark.rolled_back
def test_other_partitions_and_another_model_in_place(service: Service) -> None:
    conn = service.conn
    conn.execute("select pgembed.register_model('wide', 5, 'hashing')")
    conn.execute(
        "select pgembed.alter_embedding('article_embedding', partitions => 2,"
        " model => 'wide', switch => 'in_place')"
    )
    assert sizes(conn) == [0, 0]
    assert (
        value(
            conn,
            "select format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = 'article_embedding'::regclass"
            " and attname = 'embedding'",
        )
        == "vector(5)"
    )


@pytest.mark.rolled_back
def test_other_partitions_are_made_beside(service: Service) -> None:
    conn = service.conn
    conn.execute("select pgembed.alter_embedding('article_embedding', partitions => 2)")
    assert len(partitions(conn, "article_embedding")) == 3
    assert len(partitions(conn, "article_embedding_next")) == 2
    beside = Service(
        conn,
        value(
            conn, "select embedding_id from pgembed.embedding where generation = 'next'"
        ),
        "article_embedding_next",
    )
    beside.drain()
    build(conn)
    conn.execute("select pgembed.switch_embedding('article_embedding')")
    assert len(partitions(conn, "article_embedding")) == 2
    assert len(partitions(conn, "article_embedding_previous")) == 3
    conn.execute("select pgembed.switch_embedding('article_embedding', 'previous')")
    assert len(partitions(conn, "article_embedding")) == 3
    assert sum(sizes(conn)) == 20


@pytest.mark.rolled_back
def test_a_key_of_another_type(service: Service) -> None:
    conn = service.conn
    kept = service.embedded()
    conn.execute(
        "select pgembed.pause_embedding('article_embedding', capture => false)"
    )
    conn.execute(
        "alter table article alter column id type bigint;"
        "alter table article rename column id to number"
    )
    conn.execute("select pgembed.resume_embedding('article_embedding')")
    service.drain()
    assert service.embedded() == kept
    assert len(partitions(conn)) == 3
    conn.execute("insert into article (number, title) values (1::bigint << 40, 'far')")
    service.drain()
    assert sum(sizes(conn)) == 21


WITHOUT_TRIGGERS = (
    "do $$ declare t name; begin"
    " for t in select tgname from pg_trigger where tgrelid = '{0}'::regclass"
    " loop execute format('drop trigger %I on {0}', t); end loop; end $$;"
)


@pytest.mark.rolled_back
def test_a_key_that_cannot_be_hashed_any_more(service: Service) -> None:
    conn = service.conn
    conn.execute("create table note (id int primary key, body text)")
    declare(conn, "note")
    conn.execute(
        WITHOUT_TRIGGERS.format("article")
        + "alter table note enable row level security;"
        "alter table article alter column id type money using id::money"
    )
    conn.execute("select pgembed._reconcile_v1()")
    assert service.column("state") == "broken"
    reason = service.column("state_reason")
    assert "cannot be partitioned by hash" in reason
    # The next one is followed all the same.
    followed = "select relrowsecurity from pg_class where relname = 'note_embedding'"
    assert value(conn, followed)
    conn.execute("insert into article (id, title) values ('77', 'new')")
    with (
        pytest.raises(psycopg.Error, match="cannot be partitioned") as caught,
        conn.transaction(),
    ):
        conn.execute("select pgembed.repair('article_embedding')")
    assert caught.value.sqlstate == "PE007"
    advice = (caught.value.diag.message_hint or "").partition("SELECT ")[2]
    assert advice in reason
    conn.execute(f"SELECT {advice.rstrip('.')}".encode())
    service.drain()
    assert len(service.embedded()) == 21
    assert service.column("state") == "active"
    conn.execute("insert into article (id, title) values ('78', 'newer')")
    service.drain()
    assert len(service.embedded()) == 22


@pytest.mark.rolled_back
def test_no_error_of_one_text_keeps_others_from_being_followed(
    conn: Connection,
) -> None:
    for name in ("first", "second"):
        conn.execute(f"create table {name} (id int primary key, body text)".encode())
        declare(conn, name)
    text = value(conn, "select min(text_id) from pgembed.captured_text")
    conn.execute(
        WITHOUT_TRIGGERS.format("first")
        + f"drop function pgembed._text_{text}_queue cascade;"
        "alter table first alter column id type uuid using gen_random_uuid();"
        "alter table second enable row level security"
    )
    conn.execute("select pgembed._reconcile_v1()")
    followed = "select relrowsecurity from pg_class where relname = 'second_embedding'"
    assert value(conn, followed)
    said = "select state_reason from pgembed.captured_text order by text_id"
    assert value(conn, said) == "cannot cast type integer to uuid"


@pytest.mark.parametrize(
    "what", ["drop table {0}", "alter table article_embedding detach partition {0}"]
)
@pytest.mark.rolled_back
def test_a_partition_that_is_gone_is_made_again(service: Service, what: str) -> None:
    conn = service.conn
    conn.execute(what.format(partitions(conn)[0]).encode())
    conn.execute("select pgembed._reconcile_v1()")
    state, reason = conn.execute(
        "select state, state_reason from pgembed.status"
    ).fetchone() or (None, None)
    assert state == "broken"
    assert "dropped or detached a partition" in (reason or "")
    conn.execute("select pgembed.repair('article_embedding')")
    service.drain()
    assert sorted(map(int, service.embedded())) == list(range(1, 21))
    assert len(partitions(conn)) == 3
    build(conn)
    assert value(conn, "select index_state from pgembed.status") == "valid"


@pytest.mark.rolled_back
@pytest.mark.parametrize("moved", ["rename to myown", "set schema other"])
def test_a_partition_may_be_called_otherwise(service: Service, moved: str) -> None:
    conn = service.conn
    conn.execute("create schema other")
    conn.execute(f"alter table {partitions(conn)[1]} {moved}".encode())
    kept = service.embedded()
    assert value(conn, "select index_state from pgembed.status") == "valid"
    conn.execute("select pgembed.repair('article_embedding')")
    service.drain()
    assert service.embedded() == kept
    conn.execute(
        "select pgembed._drop_index(e) from pgembed.embedding as e;"
        f"drop function pgembed._text_{service.column('text_id')}_queue cascade"
    )
    conn.execute("select pgembed._reconcile_v1()")
    assert service.column("state") == "active"
    service.drain()
    build(conn)
    assert value(conn, "select index_state from pgembed.status") == "valid"
    conn.execute(
        "select pgembed.alter_embedding('article_embedding', partitions => 2,"
        " switch => 'in_place')"
    )
    assert service.embedded() == kept
    conn.execute("select pgembed.drop_embedding('article_embedding')")
    left = "select count(*) from pg_class where relname ~ '_vectors_|myown'"
    assert value(conn, left) == 0


IN_THE_WAY = {
    "other columns": "create table {} (x int)",
    "the same columns": "create table {} (like article_embedding)",
    "a view": "create view {} as select 1 as id",
}


@pytest.mark.rolled_back
@pytest.mark.parametrize("made", IN_THE_WAY.values(), ids=list(IN_THE_WAY))
def test_a_relation_in_the_way_of_a_partition(service: Service, made: str) -> None:
    conn = service.conn
    for number, call in [
        (
            service.embedding_id + 1,
            "create_embedding('article', 'body', name => 'second', partitions => 2,"
            " model => 'toy')",
        ),
        (service.embedding_id, "repair('article_embedding')"),
    ]:
        name = value(conn, "select pgembed._partition_name(%s, 1)", number)
        conn.execute(f"drop table if exists {name}".encode())
        conn.execute(made.format(name).encode())
        with (
            pytest.raises(psycopg.Error, match=f"a relation {name} already") as caught,
            conn.transaction(),
        ):
            conn.execute(f"select pgembed.{call}".encode())
        assert caught.value.sqlstate == "PE002"
        assert "give it another name" in (caught.value.diag.message_hint or "")


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    "change",
    [
        "insert into {0} select * from {1} limit 1",
        "alter table {0} add column other int",
    ],
)
def test_a_detached_partition_that_was_changed(service: Service, change: str) -> None:
    conn = service.conn
    one, other, _ = partitions(conn)
    conn.execute(f"alter table article_embedding detach partition {one}".encode())
    conn.execute(change.format(one, other).encode())
    with (
        pytest.raises(psycopg.Error, match=f"{one} cannot be attached") as caught,
        conn.transaction(),
    ):
        conn.execute("select pgembed.repair('article_embedding')")
    assert caught.value.sqlstate == "PE016"
    advice = caught.value.diag.message_hint or ""
    conn.execute(advice.split(";")[0].encode())
    conn.execute("select pgembed.repair('article_embedding')")
    service.drain()
    assert sorted(map(int, service.embedded())) == list(range(1, 21))


@pytest.mark.rolled_back
def test_dropping_takes_what_is_detached_too(service: Service) -> None:
    conn = service.conn
    one, other, third = partitions(conn)
    conn.execute(
        f"alter table article_embedding detach partition {one};"
        f"alter table article_embedding detach partition {other};"
        f"alter table article_embedding detach partition {third};"
        f"alter table {third} rename to kept; create table {third} (id int)".encode()
    )
    conn.execute("select pgembed.drop_embedding('article_embedding')")
    left = conn.execute(
        "select oid::regclass::text from pg_class where relname ~ '_vectors_|kept'"
        " and relkind = 'r' order by 1"
    ).fetchall()
    # What is somebody's own is left.
    assert left == [(third,), ("pgembed.kept",)]


@pytest.mark.rolled_back
def test_the_source_may_be_called_otherwise(service: Service) -> None:
    conn = service.conn
    conn.execute(
        "create schema other; alter table article rename to paper;"
        "alter table paper set schema other"
    )
    conn.execute("insert into other.paper (id, title) values (99, 'new')")
    service.drain()
    assert sum(sizes(conn)) == 21


@pytest.mark.majors(18, 17, 16)
def test_dump_and_restore(service: Service, server: Server, dsn: str) -> None:
    kept = service.embedded()
    with (
        server.restored(dsn) as copy,
        psycopg.connect(copy, autocommit=True) as restored,
    ):
        again = service.on(restored)
        assert again.embedded() == kept
        assert value(restored, "select index_state from pgembed.status") == "valid"
        restored.execute("insert into article (id, title) values (99, 'new')")
        again.drain()
        assert sum(sizes(restored)) == 21
        restored.execute(
            "select pgembed.alter_embedding('article_embedding', partitions => 2,"
            " switch => 'in_place')"
        )
        assert len(partitions(restored)) == 2


# --- Builds


@pytest.fixture
def unbuilt(service: Service) -> Connection:
    """Give a connection to a database whose partitions have no index."""
    conn = service.conn
    conn.execute("select pgembed._drop_index(e) from pgembed.embedding as e")
    return conn


def done(conn: Connection, worker: str, error: str | None = None) -> None:
    """End the build of a service."""
    conn.execute(
        "select pgembed._index_done_v1(embedding_id, %s, %s) from pgembed.embedding",
        [error, worker],
    )


@pytest.mark.rolled_back
def test_services_build_different_partitions_at_once(unbuilt: Connection) -> None:
    workers = [beat(unbuilt) for _ in range(4)]
    due = [value(unbuilt, NEXT, worker, 1 << 30) for worker in workers]
    built = {statements[-1] for statements in due[:3]}
    assert len(built) == 3
    assert due[3] is None
    # One that is asked again has given up what it had.
    assert value(unbuilt, NEXT, workers[0], 1 << 30)[-1] in built
    # One that is dead builds nothing.
    unbuilt.execute(
        "update pgembed.worker set heartbeat_at = now() - interval '1 hour'"
        " where worker_id = %s",
        [workers[1]],
    )
    assert value(unbuilt, NEXT, workers[3], 1 << 30)[-1] == due[1][-1]
    for worker in (workers[0], workers[2], workers[3]):
        done(unbuilt, worker)
    assert value(unbuilt, "select count(*) from pgembed.index_build") == 0


@pytest.mark.rolled_back
def test_builds_together_stay_within_the_memory(unbuilt: Connection) -> None:
    needed = value(
        unbuilt,
        "select max(pgembed._index_memory(e, x.relation)) from pgembed.embedding as e,"
        " pgembed._vector_indexes(e) as x",
    )
    unbuilt.execute("set local maintenance_work_mem = '1MB'")
    workers = [beat(unbuilt) for _ in range(3)]
    due = [value(unbuilt, NEXT, worker, 2 * needed + 10) for worker in workers]
    assert [one is None for one in due] == [False, False, True]
    notice = value(unbuilt, "select max(notice) from pgembed.index_build")
    assert (
        "2 at once, though 3 services could build. Set maintenance_work_mem" in notice
    )
    done(unbuilt, workers[0])
    assert value(unbuilt, NEXT, workers[2], 2 * needed + 10) is not None


@pytest.mark.rolled_back
def test_an_error_of_one_is_kept_whatever_others_do(unbuilt: Connection) -> None:
    workers = [beat(unbuilt) for _ in range(2)]
    for worker in workers:
        assert value(unbuilt, NEXT, worker, None)
    done(unbuilt, workers[0], "disk full")
    done(unbuilt, workers[1])
    assert value(unbuilt, "select index_error from pgembed.status") == "disk full"
    assert value(unbuilt, NEXT, workers[0], None) is None


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    "change",
    [
        "pgembed.alter_embedding('article_embedding', partitions => 2,"
        " switch => 'in_place')",
        "pgembed._remake_side_table(e) from pgembed.embedding as e",
        "pgembed.alter_embedding('article_embedding', index_options => '{\"m\": 8}')",
    ],
)
def test_an_error_of_what_has_been_changed_meanwhile_does_not_count(
    unbuilt: Connection, change: str
) -> None:
    worker = beat(unbuilt)
    assert value(unbuilt, NEXT, worker, None)
    unbuilt.execute(f"select {change}".encode())
    done(unbuilt, worker, 'relation "pgembed._vectors_1_0" does not exist')
    assert value(unbuilt, "select index_error from pgembed.status") is None
    build(unbuilt)
    assert value(unbuilt, "select index_state from pgembed.status") == "valid"


@pytest.mark.rolled_back
def test_one_that_is_invalid_is_built_again(service: Service) -> None:
    conn = service.conn
    one = value(conn, "select pgembed._partition_name(%s, 1)", service.embedding_id)
    conn.execute(
        "update pg_index set indisvalid = false where indexrelid ="
        f" '{one}_hnsw'::regclass".encode()
    )
    assert value(conn, "select index_state from pgembed.status") == "invalid"
    statements = value(conn, NEXT, uuid4(), None)
    assert statements[1] == f"drop index concurrently {one}_hnsw"
    assert f" on {one} using hnsw" in statements[2]
    build(conn)
    assert value(conn, "select index_state from pgembed.status") == "valid"


@pytest.mark.rolled_back
def test_how_far_all_of_them_are(unbuilt: Connection) -> None:
    worker = beat(unbuilt)
    said = "select index_state, index_percent from pgembed.status"
    assert unbuilt.execute(said).fetchone() == ("pending", None)
    (_, first) = value(unbuilt, NEXT, worker, None)
    unbuilt.execute(first.replace("concurrently", "").encode())
    done(unbuilt, worker)
    assert unbuilt.execute(said).fetchone() == ("pending", None)
    assert value(unbuilt, NEXT, worker, None)
    unbuilt.execute(
        "update pgembed.worker set builds = jsonb_build_object((select embedding_id"
        " from pgembed.embedding), jsonb_build_object('phase', 'building index',"
        " 'percent', 50))"
    )
    assert unbuilt.execute(said).fetchone() == ("building", 50)


def test_a_claim_waits_for_nobody_who_changes_the_embedding(
    unbuilt: Connection, dsn: str
) -> None:
    """Who drops it would wait for the claim, and one of them fail."""
    with psycopg.connect(dsn, autocommit=True) as service, unbuilt.transaction():
        unbuilt.execute("select from pgembed.embedding for update")
        service.execute("set lock_timeout = '1s'")
        assert value(service, NEXT, beat(service), None)
        unbuilt.execute("select pgembed.drop_embedding('article_embedding')")
    assert value(unbuilt, NEXT, uuid4(), None) is None
    assert value(unbuilt, "select count(*) from pgembed.index_build") == 0


IN_USE = "lock table {} in share update exclusive mode"  # as a concurrent build


@pytest.mark.parametrize(
    ("was", "change"),
    [
        (1, "index => 'none'"),
        (3, "index => 'none'"),
        (3, "partitions => 2, switch => 'in_place'"),
    ],
)
def test_searches_do_not_wait_behind_who_waits_for_a_build(
    conn: Connection, dsn: str, was: int, change: str
) -> None:
    conn.execute(ARTICLE)
    made = declare(conn, "article", text_expression="title", partitions=was)
    conn.execute("insert into article select i, 'title' from generate_series(1, 9) i")
    made.drain()
    table = (partitions(conn) or ["article_embedding"])[0]
    alter = f"select pgembed.alter_embedding('article_embedding', {change})".encode()
    with (
        psycopg.connect(dsn) as builder,
        psycopg.connect(dsn, autocommit=True) as other,
        ThreadPoolExecutor() as pool,
    ):
        builder.execute(IN_USE.format(table).encode())
        other.execute("set lock_timeout = '100ms'")
        with pytest.raises(errors.LockNotAvailable, match="are in use") as caught:
            other.execute(alter)
        assert "Try again" in (caught.value.diag.message_hint or "")
        other.execute("set lock_timeout = 0")
        altered = pool.submit(other.execute, alter)
        conn.execute("set statement_timeout = '1.9s'")
        for _ in range(8):
            assert value(conn, FOUND) == 9
            sleep(0.1)
        assert not altered.done()
        builder.rollback()
        altered.result(timeout=10)
    assert value(conn, FOUND) == 9


@pytest.mark.rolled_back
def test_an_index_of_somebody_s_own_over_all_partitions(service: Service) -> None:
    conn = service.conn
    conn.execute(
        "create index own on article_embedding using hnsw (embedding vector_cosine_ops)"
    )
    change = "select pgembed.alter_embedding('article_embedding', index => 'none')"
    with (
        pytest.raises(psycopg.Error, match="own, which index") as caught,
        conn.transaction(),
    ):
        conn.execute(change)
    assert caught.value.sqlstate == "PE016"
    advice = (caught.value.diag.message_hint or "").split(";")[0]
    conn.execute(advice.encode())
    conn.execute(change)
    assert value(conn, "select index_state from pgembed.status") == "none"


# --- Rights


@pytest.fixture
def reader(dsn: str, service: Service) -> Iterator[Connection]:
    """Give a session of a role that may search, and read the articles."""
    with new_roles(dsn, READER):
        service.conn.execute("select pgembed.grant_usage(%s)", [READER])
        service.conn.execute(f'grant select on article to "{READER}"')
        service.conn.execute("select pgembed._reconcile_v1()")
        with acting_as(dsn, READER) as session:
            yield session


def test_who_may_search_may_not_read_a_partition(
    reader: Connection, service: Service
) -> None:
    assert value(reader, FOUND) == 20
    assert value(reader, "select count(*) from article_embedding") == 20
    for one in partitions(service.conn):
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute(f"select from {one}".encode())


def test_row_security_holds_in_all_of_them(
    reader: Connection, service: Service
) -> None:
    service.conn.execute(
        "alter table article enable row level security;"
        "create policy few on article using (id < 6)"
    )
    service.conn.execute("select pgembed._reconcile_v1()")
    assert value(reader, FOUND) == 5
    assert value(reader, "select count(*) from article_embedding") == 5
    service.conn.execute(
        "select pgembed.alter_embedding('article_embedding', partitions => 2,"
        " switch => 'in_place')"
    )
    assert value(reader, FOUND) == 5
    with pytest.raises(errors.InsufficientPrivilege):
        reader.execute(f"select from {partitions(service.conn)[0]}".encode())


@pytest.mark.parametrize("mended", ["_reconcile_v1()", "repair('article_embedding')"])
def test_what_all_tables_were_granted_to_is_closed_again(
    reader: Connection, service: Service, mended: str
) -> None:
    conn = service.conn
    words = "select pgembed._bm25_part(bm25_id, 'term') from pgembed.bm25"
    closed = [*partitions(conn), *(value(conn, words),)]
    found = "select string_agg(problem, '') from pgembed.doctor() where code = %s"
    assert value(conn, found, "privileges") is None
    conn.execute(f'grant select on all tables in schema pgembed to "{READER}"')
    said = value(conn, found, "privileges")
    assert f"role {READER} has rights on" in said
    assert all(one in said for one in closed)
    conn.execute(f"select pgembed.{mended}".encode())
    for one in closed:
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute(f"select from {one}".encode())
    assert value(conn, found, "privileges") is None
    assert value(reader, FOUND) == 20
    hits = "select count(*) from pgembed.bm25_search(null::article, 'title', k => 99)"
    assert value(reader, hits) == 20


def test_default_privileges_open_no_partition(conn: Connection, dsn: str) -> None:
    with new_roles(dsn, READER):
        conn.execute(f'alter default privileges grant all on tables to "{READER}"')
        conn.execute(ARTICLE)
        declare(conn, "article", partitions=2)
        opened = (
            "select count(*) from pg_class as c, aclexplode(c.relacl) as a"
            " where c.relname ~ '_vectors_' and a.grantee <> c.relowner"
        )
        assert value(conn, opened) == 0
        # By itself, too, whatever closes what all tables were granted to.
        conn.execute(f"drop table {partitions(conn)[0]}".encode())
        conn.execute(
            "select pgembed._create_partitions(e, 'public.article_embedding')"
            " from pgembed.embedding as e"
        )
        assert len(partitions(conn)) == 2
        assert value(conn, opened) == 0
        conn.execute(f'alter default privileges revoke all on tables from "{READER}"')
