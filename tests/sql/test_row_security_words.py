"""Under row security a caller is ranked over what it sees, and learns no more."""

from __future__ import annotations

import os
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.bm25_reference import (
    assert_same_scores,
    fetch_lexemes,
    fetch_query_lexemes,
    reference_scores,
)
from tests.fixtures.roles import acting_as, new_roles
from tests.sql.bm25_steps import Indexed
from tests.sql.steps import Service, declare, value

Connection = psycopg.Connection[Any]
PREFIX = f"pgembed_test_{os.getpid()}_"
ANN = PREFIX + "ann"
BOB = PREFIX + "bob"
OWNER = PREFIX + "owner"

MARK = "zqx"
"""Begins every word, and stands in every key, of what is hidden from Ann."""

QUERIES = ["red", "red green", "apple pear red", "blue absent", "lots red red"]


@dataclass
class Tenants:
    """A table of two tenants, its index, and a session of each."""

    admin: Connection
    ann: Connection
    bob: Connection
    indexed: Indexed
    service: Service

    def check(self, app: Connection, queries: list[str] = QUERIES) -> None:
        """Compare searches of a tenant with the reference over what the tenant sees."""
        mine = self.indexed.on(app)
        documents = mine.lexemes()
        for place, query in enumerate(queries):
            k = (1, 10, 100)[place % 3]
            assert_same_scores(
                mine.search(query, k),
                documents,
                fetch_query_lexemes(app, query, "simple"),
                k=k,
            )

    def both(self) -> None:
        """Check both tenants."""
        self.check(self.ann)
        self.check(self.bob)


@pytest.fixture
def tenants(dsn: str, conn: Connection) -> Iterator[Tenants]:
    """Give 60 documents of Ann's and 90 of Bob's, packed, encoded."""
    with new_roles(dsn, ANN, BOB, OWNER):
        conn.execute(
            "create table doc (id text primary key, tenant text, n int, body text)"
        )
        conn.execute(
            "alter table doc enable row level security;"
            "create policy mine on doc using (tenant = current_user)"
            " with check (tenant = current_user)"
        )
        colours = ["red", "green", "blue", "lots lots lots", "apple", "pear"]
        for number in range(150):
            mine = number % 5 in (0, 2)
            said = " ".join(
                colours[(number * 7 + i) % 6] for i in range(number % 4 + 1)
            )
            if not mine:
                said += f" {MARK}{'abcdefgh'[number % 8]} {MARK}number{number}"
            conn.execute(
                "insert into doc values (%s, %s, %s, %s)",
                [
                    f"{number:03}" if mine else f"{MARK}-{number:03}",
                    ANN if mine else BOB,
                    number,
                    said,
                ],
            )
        for role in (ANN, BOB):
            conn.execute(
                sql.SQL("grant select, insert, update, delete on doc to {}").format(
                    sql.Identifier(role)
                )
            )
            conn.execute("select pgembed.grant_usage(%s)", [role])
        conn.execute(
            sql.SQL("alter table doc owner to {}").format(sql.Identifier(OWNER))
        )
        service = declare(
            conn,
            "doc",
            "body",
            name="doc_bm25",
            bm25=True,
            bm25_options='{"config": "simple"}',
            index="none",
        )
        service.drain()
        indexed = Indexed(conn)
        indexed.settle()
        with acting_as(dsn, ANN) as ann, acting_as(dsn, BOB) as bob:
            yield Tenants(conn, ann, bob, indexed, service)


def test_exact_scores(tenants: Tenants) -> None:
    tenants.both()
    # The owner has all, and the fast way.
    tenants.indexed.check(queries=QUERIES)


def test_recent_rows_and_tombstones(tenants: Tenants) -> None:
    for app, name, word in ((tenants.ann, ANN, "plum"), (tenants.bob, BOB, MARK)):
        app.execute(
            "insert into doc select %s || i, %s, i, %s || ' red new'"
            " from generate_series(1, 5) as i",
            [word, name, word],
        )
        app.execute("update doc set body = body || ' green more' where n % 3 = 0")
        app.execute("update doc set body = 'all else' where n % 10 = 5")
        app.execute("delete from doc where n % 7 = 0")
    queries = [*QUERIES, "more", "plum new", "else", f"{MARK} red"]
    for _ in range(3):
        tenants.check(tenants.ann, queries)
        tenants.check(tenants.bob, queries)
        tenants.indexed.maintain()
    tenants.indexed.check(queries=queries)


def test_uncommitted_rows_of_ones_own(tenants: Tenants) -> None:
    ann, bob = tenants.ann, tenants.bob
    ann.execute("begin")
    ann.execute("insert into doc values ('u1', current_user, 1, 'red uncommitted')")
    ann.execute("update doc set body = 'green only' where id = '000'")
    ann.execute("delete from doc where id = '002'")
    queries = [*QUERIES, "uncommitted"]
    tenants.check(ann, queries)
    tenants.check(bob, queries)
    bob.execute("insert into doc values ('zqxu', current_user, 1, 'red uncommitted')")
    tenants.check(ann, queries)
    ann.execute("rollback")
    tenants.check(ann, queries)
    tenants.check(bob, queries)


@pytest.mark.parametrize(
    ("condition", "options"),
    [
        ("n < 50", {"filter": '{"n": {"$lt": 50}}'}),
        ("n < 50", {"where_sql": "n < 50"}),
        ("n between 20 and 22", {"where_sql": "s.n between 20 and 22"}),
        ("false", {"where_sql": "n < 0"}),
        ("body ~ 'pear'", {"where_sql": "body ~ 'pear'"}),
    ],
)
def test_conditions(
    tenants: Tenants, condition: str, options: dict[str, object]
) -> None:
    """Statistics are those of all that the tenant sees; the condition picks."""
    for app in (tenants.ann, tenants.bob):
        mine = tenants.indexed.on(app)
        documents = mine.lexemes()
        wanted = set(mine.lexemes(condition))
        for query in QUERIES:
            words = fetch_query_lexemes(app, query, "simple")
            scores = reference_scores(documents, words)
            expected = sorted(
                (s for key, s in scores.items() if key in wanted), reverse=True
            )[:10]
            hits = mine.search(query, 10, **options)
            assert [score for _, score in hits] == pytest.approx(expected)
            assert {key for key, _ in hits} <= wanted


def test_websearch(tenants: Tenants) -> None:
    for app in (tenants.ann, tenants.bob):
        mine = tenants.indexed.on(app)
        documents = mine.lexemes()
        for query, words, condition in (
            ("red green", ["red", "green"], "'red & green'"),
            ('"green blue"', ["green", "blue"], "'green <-> blue'"),
            ("red -green", ["red"], "'red & !green'"),
            ("red or pear", ["red", "pear"], "'red | pear'"),
        ):
            wanted = set(
                mine.lexemes(f"to_tsvector('simple', body) @@ {condition}::tsquery")
            )
            scores = reference_scores(documents, words)
            expected = sorted(
                (s for key, s in scores.items() if key in wanted), reverse=True
            )
            hits = mine.search(query, 1000, syntax="websearch")
            assert {key for key, _ in hits} == wanted
            assert [score for _, score in hits] == pytest.approx(expected)


def test_prefix(tenants: Tenants) -> None:
    for app in (tenants.ann, tenants.bob):
        mine = tenants.indexed.on(app)
        documents = mine.lexemes()
        for typed, words in (
            ("gre", ["green"]),
            ("red ap", ["red", "apple"]),
            ("l", ["lots"]),
            ("pe", ["pear"]),
        ):
            assert_same_scores(
                mine.search(typed, 100, prefix=True), documents, words, k=100
            )
    # What begins like hidden words begins nothing.
    for typed in (MARK, MARK[:1], f"{MARK}num", f"{MARK}a"):
        assert tenants.indexed.on(tenants.ann).search(typed, 100, prefix=True) == []
        assert tenants.indexed.on(tenants.bob).search(typed, 100, prefix=True) != []


def test_snippets(tenants: Tenants) -> None:
    found = tenants.ann.execute(
        "select (doc).tenant, snippet from pgembed.bm25_search("
        "null::doc, %s, 100, snippets => true)",
        [f"red {MARK}a"],
    ).fetchall()
    assert {tenant for tenant, _ in found} == {ANN}
    assert all("<b>red</b>" in snippet and MARK not in snippet for _, snippet in found)


def test_hybrid(tenants: Tenants) -> None:
    found = tenants.ann.execute(
        "select (doc).id, (doc).tenant, content from pgembed.hybrid_search("
        "null::doc, %s, query_embedding => '[1,2,3]', k => 100)",
        [f"red {MARK}a {MARK}number1"],
    ).fetchall()
    assert len(found) == 60
    assert MARK not in str(found)


def test_other_documents_change_no_score(tenants: Tenants) -> None:
    before = tenants.indexed.on(tenants.ann).scores()
    tenants.bob.execute("update doc set body = body || ' red red apple ' || n")
    tenants.bob.execute("delete from doc where n % 2 = 0")
    tenants.bob.execute(
        "insert into doc select 'zqx' || i, current_user, i, 'red apple pear'"
        " from generate_series(1, 300) as i"
    )
    for _ in range(3):
        assert tenants.indexed.on(tenants.ann).scores() == before
        tenants.indexed.maintain()


HANDED_OVER = f"update doc set tenant = '{ANN}', body = 'red now hers' where n < 10"
MADE_AGAIN = (
    "with gone as (delete from doc where n < 10 returning id, n)"
    f" insert into doc select id || 'x', '{ANN}', n, 'red now hers' from gone;"
    "update doc set id = left(id, -1) where n < 10"
)


@pytest.mark.parametrize(
    "change", [HANDED_OVER, MADE_AGAIN], ids=["handed over", "made again"]
)
def test_words_of_rows_that_change_hands(tenants: Tenants, change: str) -> None:
    """What a row said while it was hidden is not had from it later."""
    queries = [*QUERIES, "now hers"]
    tenants.admin.execute("update doc set body = body || ' recent' where n < 5")
    tenants.admin.execute(change.encode())
    tenants.check(tenants.ann, queries)
    tenants.check(tenants.bob, queries)
    assert_no_earlier_words(tenants, *BM25_TABLES)
    for _ in range(2):
        tenants.indexed.maintain()
        tenants.check(tenants.ann, queries)
        assert_no_earlier_words(tenants, *BM25_TABLES)


@pytest.mark.parametrize(
    "change", [HANDED_OVER, MADE_AGAIN], ids=["handed over", "made again"]
)
def test_texts_of_rows_that_change_hands(tenants: Tenants, change: str) -> None:
    """The same of chunks, before a service has been there."""
    tenants.admin.execute(change.encode())
    assert_no_earlier_words(tenants, "doc_bm25")
    tenants.service.drain()
    assert_no_earlier_words(tenants, "doc_bm25")


# Nothing about hidden rows


def readable(app: Connection) -> dict[str, list[str]]:
    """List what a role may read of pgembed's and the side tables: columns."""
    found: dict[str, list[str]] = {}
    for relation, column in app.execute(
        "select c.oid::regclass::text, quote_ident(a.attname)"
        " from pg_class as c join pg_attribute as a on a.attrelid = c.oid"
        " where c.relkind in ('r', 'v', 'p', 'm') and a.attnum > 0"
        " and not a.attisdropped"
        " and (c.relnamespace = 'pgembed'::regnamespace or c.relname = 'doc_bm25')"
        " and has_column_privilege(c.oid, a.attnum, 'select')"
    ):
        found.setdefault(relation, []).append(column)
    return found


def everything(app: Connection) -> dict[str, str]:
    """Read all that a role may read of pgembed's tables and views, as text."""
    read = {}
    for relation, columns in readable(app).items():
        try:
            rows = app.execute(
                "select concat_ws(' ', {}) from {}".format(
                    ", ".join(f"{column}::text" for column in columns), relation
                ).encode()
            )
        except psycopg.errors.InsufficientPrivilege:
            continue  # a view that asks for more
        read[relation] = "\n".join(map(str, rows))
    return read


def assert_knows_nothing(tenants: Tenants) -> None:
    """Check that Ann reads no hidden word or key anywhere."""
    told = [name for name, text in everything(tenants.ann).items() if MARK in text]
    assert told == []


def assert_no_earlier_words(tenants: Tenants, *relations: str) -> None:
    """Check that Ann reads no word of what rows said before they were Ann's."""
    told = [
        name
        for name, text in everything(tenants.ann).items()
        if name in relations and f"{MARK}number" in text
    ]
    assert told == []


BM25_TABLES = (
    "pgembed._bm25_1_doc",
    "pgembed._bm25_1_recent",
    "pgembed._bm25_1_dead",
    "pgembed._bm25_1_term",
)


def test_no_table_tells_anything(tenants: Tenants) -> None:
    assert "pgembed._bm25_1_doc" in readable(tenants.ann)
    assert_knows_nothing(tenants)
    tenants.bob.execute("update doc set body = body || ' more'")
    tenants.bob.execute("delete from doc where n % 3 = 0")
    assert_knows_nothing(tenants)
    tenants.indexed.maintain(1000)
    assert_knows_nothing(tenants)


def test_no_count_tells_anything(tenants: Tenants) -> None:
    """All that Ann may read is the same, whatever Bob has."""
    before = everything(tenants.ann)
    tenants.bob.execute(
        "insert into doc select 'zqx' || i, current_user, i, 'red apple pear'"
        " from generate_series(1, 300) as i"
    )
    tenants.bob.execute("delete from doc where n % 3 = 0 and id like 'zqx-%'")
    tenants.service.drain()
    tenants.indexed.settle()
    after = everything(tenants.ann)
    assert before.keys() == after.keys()
    for relation in before:
        assert sorted(before[relation].split("\n")) == sorted(
            after[relation].split("\n")
        ), relation


ARGUMENTS: dict[str, list[Any]] = {
    "text": ["red", f"{MARK}a", "doc_bm25", "000", "zq"],
    "text[]": [["red"], [f"{MARK}a"], ["000"], []],
    "integer": [1, 100000],
    "bigint": [1, 100000],
    "bigint[]": [list(range(-300, 300))],
    "integer[]": [list(range(300)), None],
    "boolean": [True],
    "double precision": [1.0],
    "regclass": ["doc", "pgembed._bm25_1_doc", "pgembed._bm25_1_recent"],
    "oid": ["doc", "pgembed._bm25_1_doc", "pgembed._bm25_1_recent"],
    '"char"': ["D"],
    "jsonb": ["{}"],
    "interval": ["0"],
    "smallint": [1],
}


def test_no_function_tells_anything(tenants: Tenants) -> None:
    """Call all that Ann may call, with all that a spy might give."""
    ann = tenants.ann
    tenants.bob.execute("update doc set body = body || ' more' where n % 2 = 0")
    functions = ann.execute(
        "select p.oid::regprocedure::text, p.proname,"
        " array(select format_type(t, null) from unnest(p.proargtypes) as t)"
        " from pg_proc as p"
        " where p.pronamespace = 'pgembed'::regnamespace and p.prokind = 'f'"
        " and has_function_privilege(p.oid, 'execute')"
        " and p.prorettype <> 'trigger'::regtype"
    ).fetchall()
    called = 0
    for signature, name, types in functions:
        if name == "_typing_edits":  # gives what was asked, in other words
            continue
        choices = [ARGUMENTS.get(kind, [None]) for kind in types]
        width = max([len(choice) for choice in choices], default=1)
        for turn in range(width):
            given = [choice[turn % len(choice)] for choice in choices]
            call = sql.SQL("select * from pgembed.{}({})").format(
                sql.Identifier(name),
                sql.SQL(", ").join(
                    sql.SQL("{}::{}").format(sql.Literal(g), sql.SQL(kind))
                    if not kind.startswith("any")
                    else sql.SQL("null::doc")
                    for g, kind in zip(given, types, strict=True)
                ),
            )
            try:
                answer = str(ann.execute(call).fetchall())
            except psycopg.Error as error:
                answer = str(error)
            called += 1
            # What was asked may be repeated.
            assert MARK not in answer.replace(f"{MARK}a", ""), (signature, answer)
    assert called > 100


def test_the_ranking_function_is_closed(tenants: Tenants) -> None:
    """The handles and scores of hidden documents: neither by word nor by prefix."""
    ann = tenants.ann
    seen: set[str] = set()
    for letter in string.ascii_lowercase + string.digits:
        for name in ("top", "rank"):
            for terms, prefix in (([], letter), ([f"{MARK}{letter}"], None)):
                try:
                    row = ann.execute(
                        f"select handles, scores from pgembed._bm25_1_{name}"
                        "(%s::text[], 100000, %s, null, null)",
                        [terms, prefix],
                    ).fetchone()
                except psycopg.Error:
                    continue  # closed
                assert row is not None
                if row[0]:
                    seen |= {
                        str(key[0])
                        for key in ann.execute(
                            "select unnest(pgembed._bm25_1_keys(%s))", [row[0]]
                        )
                    }
    assert not any(MARK in key for key in seen)
    visible = {row[0] for row in ann.execute("select id from doc")}
    assert seen <= visible


def test_the_stage_that_counts_is_closed(tenants: Tenants) -> None:
    """It looks at no document by itself: nobody calls it who is under a policy."""
    for prefix in (None, MARK):
        for counted in (True, False):
            with pytest.raises(psycopg.Error) as refused:
                tenants.ann.execute(
                    "select pgembed._bm25_1_matches(%s, %s, %s)",
                    [["red"], prefix, counted],
                )
            assert refused.value.sqlstate == "PE013"


def test_handles_of_hidden_documents_have_no_key(tenants: Tenants) -> None:
    tenants.bob.execute("update doc set body = body || ' more' where n % 2 = 0")
    try:
        keys = str(
            tenants.ann.execute(
                "select pgembed._bm25_1_keys("
                "array(select generate_series(-1000, 1000)))"
            ).fetchall()
        )
    except psycopg.errors.InsufficientPrivilege:
        return
    assert MARK not in keys


def test_queries_of_others(tenants: Tenants) -> None:
    tenants.admin.execute(
        "insert into pgembed.worker (worker_id, hostname, pid, version)"
        " values (gen_random_uuid(), 'h', 1, '1')"
    )
    tenants.bob.execute("select pgembed._request_query(%s, 'toy')", [f"{MARK} query"])
    assert value(tenants.admin, "select count(*) from pgembed.query_embedding") == 1
    assert tenants.ann.execute("select * from pgembed.query_embedding").fetchall() == []
    for change in (
        "insert into pgembed.query_embedding (model_id, role, query_hash, query)"
        f" select 1, '{BOB}', 'x', 'forged'",
        "update pgembed.query_embedding set query = 'forged'",
    ):
        try:
            tenants.ann.execute(change)
        except psycopg.errors.InsufficientPrivilege:
            continue
    assert (
        value(
            tenants.admin,
            "select count(*) from pgembed.query_embedding where query = 'forged'",
        )
        == 0
    )


def test_conditions_do_not_see_hidden_rows(tenants: Tenants) -> None:
    """A cheap function of the caller's, that looks at whatever it is given."""
    tenants.admin.execute(
        sql.SQL("grant create on schema public to {}").format(sql.Identifier(ANN))
    )
    tenants.ann.execute("create table spied (said text)")
    tenants.ann.execute(
        "create function spy(text) returns boolean cost 0.0001 language plpgsql as"
        " $$begin insert into spied values ($1); return true; end$$"
    )
    for call in (
        "bm25_search(null::doc, 'red', where_sql => 'spy(body) and spy(id)')",
        "bm25_search(null::doc, 'r', prefix => true, where_sql => 'spy(body)')",
        "vector_search(null::doc, query_embedding => '[1,2,3]',"
        " where_sql => 'spy(body)')",
        "hybrid_search(null::doc, 'red', query_embedding => '[1,2,3]',"
        " where_sql => 'spy(body)')",
    ):
        said = ""
        try:
            tenants.ann.execute(f"select * from pgembed.{call}")
        except psycopg.Error as error:
            said = str(error)
        assert MARK not in said
    spied = tenants.ann.execute("select said from spied").fetchall()
    assert MARK not in str(spied)


def test_embeddings_of_ones_own_table_read_no_hidden_rows(tenants: Tenants) -> None:
    """Ann may not declare over a table that she does not own."""
    for call in (
        "create_bm25('doc', 'body', name => 'mine')",
        "create_embedding('doc', 'body', name => 'mine', model => 'toy')",
        "repair('doc_bm25')",
        "erase()",
        "bm25_maintain()",
        "reembed('doc_bm25')",
    ):
        with pytest.raises(psycopg.Error) as caught:
            tenants.ann.execute(f"select pgembed.{call}")
        assert caught.value.sqlstate in ("PE013", "42501"), call


def test_tenants_by_setting(tenants: Tenants) -> None:
    """The usual other way: one role, and a setting that says who it is for."""
    admin = tenants.admin
    admin.execute("drop policy mine on doc")
    admin.execute(
        "create policy mine on doc using (tenant = current_setting('app.tenant', true))"
    )
    for who in (ANN, BOB, "nobody", ANN):
        tenants.ann.execute("select set_config('app.tenant', %s, false)", [who])
        tenants.check(tenants.ann)


def test_lexemes_reads_as_the_tenant(tenants: Tenants) -> None:
    """The reference itself sees what the tenant sees."""
    assert len(fetch_lexemes(tenants.ann, "doc", "body", "simple")) == 60
    assert len(fetch_lexemes(tenants.bob, "doc", "body", "simple")) == 90
