"""Scores equal the reference after every kind of write, before and after packing."""

from __future__ import annotations

import psycopg
import pytest

from tests.fixtures.bm25_reference import assert_same_scores, fetch_query_lexemes
from tests.fixtures.postgres import prepared_by
from tests.sql.bm25_steps import Indexed, make_doc, make_texts
from tests.sql.steps import value

WRITES = {
    "one by one": [
        "insert into doc values (9001, 'w0 w1 w700 w700')",
        "insert into doc values (9002, 'w0'), (9003, 'w900 w2')",
    ],
    "bulk": ["insert into doc select id + 5000, body from doc where id < 200"],
    "update": [
        "update doc set body = body || ' w1 w700 w3' where id % 7 = 0",
        "update doc set body = reverse(body) where id % 101 = 5",
        "update doc set body = 'w0 w1' where id = 3",
        "update doc set body = 'w0 w2' where id = 3",
    ],
    "key": [
        "update doc set id = id + 20000 where id % 13 = 1",
        "update doc set id = -id, body = body || ' w2' where id between 30 and 60",
    ],
    "delete": ["delete from doc where id % 5 = 2", "delete from doc where id = 9001"],
    "again": [
        "insert into doc select id, 'w0 w1 w40' from generate_series(2, 200, 5) as id",
        "delete from doc where id in (2, 7)",
        "insert into doc values (2, 'w3 w3 w3')",
    ],
    "upsert": [
        "insert into doc select id, 'w5 w90' from generate_series(0, 900, 3) as id"
        " on conflict (id) do update set body = doc.body || ' w5 w300'",
        "insert into doc values (0, 'w0') on conflict do nothing",
    ],
    "merge": [
        "merge into doc using (select id, 'w1 w2 w1250' as body"
        "  from generate_series(100, 900, 9) as id) as new on new.id = doc.id"
        " when matched and doc.id % 2 = 0 then delete"
        " when matched then update set body = new.body"
        " when not matched then insert (id, body) values (new.id, new.body)"
    ],
    "texts that are none": [
        "insert into doc values (9101, null), (9102, ''), (9103, ' ,;'), (9104, 'w0')",
        "update doc set body = null where id % 17 = 0",
        "update doc set body = 'w3 w5' where id % 34 = 0",
        "update doc set body = '' where id = 9104",
    ],
    "no news": [
        "update doc set n = n + 1",
        "update doc set body = body",
        "update doc set body = body || ' '",
    ],
}


def prepare(conn: psycopg.Connection) -> None:
    """Make a table of 600 packed texts."""
    make_doc(conn, make_texts(600, seed=1))


@pytest.fixture
@prepared_by(prepare)
def doc(conn: psycopg.Connection) -> Indexed:
    """Give a table of 600 packed texts."""
    return Indexed(conn)


@pytest.mark.majors(18, 17, 16)
def test_after_every_kind_of_write(doc: Indexed) -> None:
    assert doc.column("packed_rows") == 600
    doc.check(ks=(10, 1000))
    for place, (kind, statements) in enumerate(WRITES.items()):
        for statement in statements:
            doc.conn.execute(statement)
        doc.check(ks=(1, 10, 1000), queries=doc.queries[place % 3 :: 2])
        if kind in {"update", "merge"}:
            before = doc.snapshot()
            assert doc.maintain(1)
            assert doc.scores() == before
            doc.check()
    doc.settle()
    doc.check(ks=(10, 100))
    doc.assert_intact()


def test_a_write_that_changes_no_text_leaves_no_trace(doc: Indexed) -> None:
    for statement in WRITES["no news"]:
        doc.conn.execute(statement)
    assert (doc.count("recent"), doc.count("dead")) == (0, 0)


def test_copied_rows(doc: Indexed) -> None:
    doc.put(make_texts(200, seed=2), first=3000)
    doc.check()
    assert doc.maintain(200) == "packed 200 rows"
    doc.check()
    doc.assert_intact()


def test_a_trigger_of_the_user_changes_the_row_again(doc: Indexed) -> None:
    """The version that was written first must be recorded first."""
    conn = doc.conn
    conn.execute(
        "create function more() returns trigger language plpgsql as $$ begin"
        " if new.body !~ 'more' then"
        "  update doc set body = body || ' more w3' where id = new.id; end if;"
        " return null; end $$;"
        "create trigger aa_more after insert or update on doc"
        " for each row execute function more()"
    )
    conn.execute("insert into doc values (9001, 'w0 w1'), (9002, 'w2')")
    conn.execute("update doc set body = 'w5' where id = 7")
    doc.check(queries=["w0 w1 more", "w3 w2"], ks=(10, 1000))
    doc.settle()
    doc.check(queries=["w0 w1 more", "w3 w2"], ks=(10, 1000))
    doc.assert_intact()


def test_own_changes_are_found_and_gone_on_rollback(doc: Indexed, dsn: str) -> None:
    conn = doc.conn
    before = doc.snapshot()
    with psycopg.connect(dsn, autocommit=True) as other_conn:
        other = doc.on(other_conn)
        with conn.transaction(force_rollback=True):
            conn.execute("insert into doc values (9001, 'own w0 w1')")
            assert [key for key, _ in doc.search("own")] == [9001]
            assert other.search("own") == []
            conn.execute("delete from doc where id < 200")
            conn.execute("update doc set body = body || ' w3 own' where id < 300")
            doc.check()
            assert other.scores() == before
        assert doc.search("own") == []
        assert doc.scores() == before


def test_savepoints(doc: Indexed) -> None:
    conn = doc.conn
    with conn.transaction():
        conn.execute("insert into doc values (9001, 'kept w0')")
        with conn.transaction(force_rollback=True):
            conn.execute("delete from doc where id < 500 or id = 9001")
            conn.execute("insert into doc values (9002, 'lost w0')")
            conn.execute("update doc set body = 'w1 lost' where id = 501")
            doc.check(queries=["w0 w1", "kept", "lost"])
        with conn.transaction():
            conn.execute("update doc set body = 'w1 w2 kept' where id = 502")
        doc.check(queries=["w0 w1", "kept", "lost"])
    assert {key for key, _ in doc.search("kept lost")} == {9001, 502}
    doc.settle()
    doc.check()
    doc.assert_intact()


@pytest.mark.parametrize("length", [4, 160])
def test_average_length_drifts_away(doc: Indexed, length: float) -> None:
    """Stored impacts are far off then; what is found and its score are not."""
    doc.put(make_texts(300, seed=3, length=length), first=3000)
    doc.check(ks=(1, 10, 1000))
    terms = doc.count("term")
    assert doc.maintain(1) == f"weighed {terms} terms, packed 300 rows"
    doc.check(ks=(10, 1, 1000))
    doc.assert_intact()
    doc.conn.execute("delete from doc where id < 3000 and id % 10 > 0")
    doc.check(ks=(1000, 10, 1))
    assert doc.maintain(1) == "purged 540 rows"
    frozen, packed, rows = doc.column("array[frozen_avgdl, packed_length, packed_rows]")
    assert not 0.8 < packed / rows / frozen < 1.25
    doc.check(ks=(10, 1, 1000))
    terms = doc.count("term")
    assert doc.maintain(1) == f"weighed {terms} terms"
    assert doc.column("frozen_avgdl") == packed / rows
    doc.check(ks=(10, 1000, 1))
    doc.assert_intact()


def test_weighing_in_steps(doc: Indexed) -> None:
    """A part of the terms is weighed by the new average, while rows come and go."""
    conn = doc.conn
    # Before and after the others by bytes, and not so by the rules of a language.
    conn.execute("update doc set body = body || ' ünder _w1 w1_ w5é' where id % 3 = 0")
    doc.settle()
    doc.queries = [*doc.queries, "ünder w0", "w5é w5", "ünder w1"]
    conn.execute(
        "create or replace function pgembed._bm25_weigh_size() returns bigint"
        " language sql immutable parallel safe return 3000"
    )
    doc.put(make_texts(200, seed=20, length=60), first=3000)
    steps = 0
    while steps == 0 or doc.column("weighed_to is not null"):
        steps += 1
        doc.check(ks=(10, 1, 1000))
        assert value(conn, "select count(*) from pgembed._bm25_due_v1()") == (steps > 1)
        doc.put(make_texts(20, seed=20 + steps, length=30), first=4000 + 100 * steps)
        conn.execute("delete from doc where id %% 23 = %s", [steps])
        doc.check(ks=(1000, 10, 1))
        assert str(doc.maintain(1)).startswith("weighed ")
    assert steps > 3
    doc.check(ks=(1, 10, 1000))
    doc.settle()
    doc.assert_intact()


def test_a_long_document_gains_most_when_the_average_grows(
    conn: psycopg.Connection,
) -> None:
    """The stored score of the best is near the bound: a third of the second's."""
    words = [f"c{i}" for i in range(5)]
    fill = [f"f{i}" for i in range(35)]
    texts = ["rare"] * 30 + words * 50 + [" ".join(fill[:30])] * 700
    doc = make_doc(conn, [*texts, " ".join((words + fill) * 100)], k1=10, b=1)
    doc.k1, doc.b = 10, 1
    query = " ".join(["rare", *words])
    longest = len(texts)
    assert [key for key, _ in doc.search(query, 1)] != [longest]
    later = " ".join([f"y{i}" for i in range(40)] * 10)
    doc.put([later] * 300, first=2000)
    assert [key for key, _ in doc.search(query, 1)] == [longest]
    doc.check(queries=[query], ks=(1,))


def test_frequencies_drift_away(doc: Indexed) -> None:
    """Weights folded into the blocks are far off then."""
    doc.conn.execute("update doc set body = body || ' w90 w40' where id < 450")
    doc.conn.execute("update doc set body = replace(body, 'w1 ', '') where id >= 450")
    for _ in range(2):
        doc.check(queries=["w1", "w90", "w40 w90 w1", "w1 w900"], ks=(10, 1, 300))
        doc.maintain(1)


def test_common_words_of_many_blocks(conn: psycopg.Connection) -> None:
    """A threshold is guessed from two blocks when no rare word gives one."""
    doc = make_doc(conn, make_texts(6300, seed=4, length=6))
    assert doc.column("slots") > 6000
    queries = ["w0", "w1 w2 w4", "w0 w6 w11 w3 w2", "w8 w1400", "w1 w1 w0"]
    doc.check(queries=queries, ks=(10, 1, 300, 1000))
    # The best documents are all in one place, so that a guess is far off.
    conn.execute(
        "update doc set body = 'w0 w1 ' || body where id between 6200 and 6250"
    )
    doc.settle()
    doc.check(queries=queries, ks=(60, 10, 1))
    conn.execute("delete from doc where id % 2 = 0")
    doc.check(queries=queries, ks=(10, 100))
    doc.settle()
    doc.assert_intact()


@pytest.mark.parametrize(("k1", "b"), [(0.01, 0.0), (2, 1.0), (10, 0.3), (1.2, 0.0)])
def test_parameters(conn: psycopg.Connection, k1: float, b: float) -> None:
    doc = make_doc(conn, make_texts(250, seed=5), k1=k1, b=b)
    doc.k1, doc.b = k1, b
    conn.execute("update doc set body = body || ' w0 w0 w0 w0 w0 w7' where id % 9 = 0")
    doc.check()
    doc.settle()
    doc.check()
    doc.put(make_texts(100, seed=6, length=90), first=2000)
    doc.settle()
    doc.check()


def test_words_by_the_hundred_in_one_text(conn: psycopg.Connection) -> None:
    """Frequencies up to PostgreSQL's limit of 255 come back from what is stored."""
    doc = make_doc(conn, ["w0 " * n + "w1" for n in (1, 5, 60, 250, 255, 256, 4000)])
    doc.put(make_texts(50, seed=7), first=100)
    doc.check()
    doc.settle()
    doc.put(make_texts(100, seed=8, length=60), first=200)
    doc.check(queries=["w0", "w0 w1"])
    doc.settle()
    doc.check(queries=["w0", "w0 w1"])


LANGUAGES = """
    create table page (id int primary key, language text, title text, body text);
    insert into page values
        (1, 'english', 'The running dogs', 'A dog runs, dogs ran'),
        (2, 'german', 'Die laufenden Hunde', 'Ein Hund läuft, Hunde liefen'),
        (3, 'pg_catalog.french', 'Les chiens', 'Un chien court'),
        (4, 'en-GB', 'targ', 'the targ runs'),
        (5, null, 'the dogs', 'dogs run'),
        (6, 'simple', 'dogs the', 'running the')
"""


def test_every_row_in_its_language(conn: psycopg.Connection) -> None:
    conn.execute(LANGUAGES)
    page = Indexed(
        conn,
        table="page",
        expression="title || ' ' || body",
        config="english",
        name="page_bm25",
        config_expression="case when language in ('german', 'simple') then language"
        " when language ~ 'french' then 'french' else 'english' end",
    ).create(config="english", config_expression="language")
    documents = page.lexemes()
    for query, config in [
        ("dogs running", "english"),
        ("Hunden", "german"),
        ("chiens", "french"),
        ("the running", "simple"),
        ("dogs", "simple"),
    ]:
        words = fetch_query_lexemes(conn, query, config)
        hits = page.search(query, config=config)
        assert_same_scores(hits, documents, words, k=10)
        assert hits
    conn.execute("update page set language = 'simple' where id = 1")
    assert page.search("dogs", config="simple") != []
    assert_same_scores(
        page.search("the", config="simple"), page.lexemes(), ["the"], k=10
    )


@pytest.mark.majors(18, 17, 16)
def test_scores_do_not_depend_on_the_plan(doc: Indexed) -> None:
    doc.conn.execute("update doc set body = body || ' w9' where id % 4 = 0")
    expected = doc.snapshot()
    for setting in (
        "plan_cache_mode = force_generic_plan",
        "plan_cache_mode = force_custom_plan",
        "enable_indexscan = off; set enable_bitmapscan = off",
        "enable_hashjoin = off; set enable_mergejoin = off",
        "work_mem = '64kB'",
        "max_parallel_workers_per_gather = 0",
        "search_path = pg_catalog",
    ):
        with doc.conn.transaction(force_rollback=True):
            doc.conn.execute(f"set local {setting.replace('set ', 'set local ')}")
            if setting.startswith("search_path"):
                found = Indexed(**{**vars(doc), "table": "public.doc"}).scores()
            else:
                found = doc.scores()
            assert found == expected, setting


def test_the_snapshot_of_a_transaction(doc: Indexed, dsn: str) -> None:
    """What others write, pack and purge meanwhile is not seen by half."""
    with psycopg.connect(dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        before = doc.on(reader).snapshot()
        doc.conn.execute("delete from doc where id % 2 = 0")
        doc.conn.execute("update doc set body = body || ' w0' where id % 3 = 0")
        doc.settle()
        doc.conn.execute("select pgembed.bm25_rebuild('doc_bm25')")
        assert doc.on(reader).scores() == before
        doc.on(reader).check(queries=["w0 w1 w2"])
    doc.check()


def test_an_empty_index(conn: psycopg.Connection) -> None:
    doc = make_doc(conn)
    assert doc.search("w0") == []
    conn.execute("insert into doc values (1, 'w0')")
    doc.check(queries=["w0"])
    conn.execute("delete from doc")
    assert doc.search("w0") == []
    conn.execute("insert into doc values (1, 'w0'), (2, 'w0'), (3, 'w1 w0 w2')")
    doc.settle()
    doc.check(queries=["w0", "w2"])
    conn.execute("delete from doc")
    assert doc.search("w0") == []
    doc.settle()
    assert doc.search("w0") == []
    assert value(conn, f"select count(*) from pgembed._bm25_{doc.number}_term") == 0
    conn.execute("insert into doc values (1, 'w0 w1')")
    doc.check(queries=["w0"])
