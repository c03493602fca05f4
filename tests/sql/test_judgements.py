"""Judgements: who gives and sees them, and when they go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgembed import schema
from tests.fixtures.postgres import Server, prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.sql.steps import run, value

Connection = psycopg.Connection[Any]
PREFIX = f"pgembed_test_{os.getpid()}_"
OWNER, READER, OTHER, TEAM = (
    PREFIX + name for name in ("judged", "reader", "other", "team")
)
SEEN = "select query, key, grade, judged_by from pgembed.judgements(null::app.doc)"


def make_doc(conn: Connection) -> None:
    """Make five rows, found by words."""
    conn.execute(
        """
        create schema app;
        create table app.doc (id int primary key, body text, who text, n int unique);
        insert into app.doc
            select i, 'word ' || i, case when i < 4 then 'all' else 'few' end, 10 - i
            from generate_series(1, 5) as i;
        """
    )
    conn.execute("select pgembed.create_bm25('app.doc', 'body')")


@pytest.fixture
@prepared_by(make_doc)
def doc(conn: Connection) -> Connection:
    """Give a connection to the rows, as their owner."""
    return conn


@pytest.fixture
def roles(dsn: str, doc: Connection) -> Iterator[str]:
    """Give a database where two roles may search, who see a part of the rows each."""
    with new_roles(dsn, OWNER, READER, OTHER, TEAM):
        run(doc, "grant usage on schema app to {}, {}, {}", READER, OTHER, TEAM)
        run(doc, "grant select on app.doc to {}, {}, {}", READER, OTHER, TEAM)
        doc.execute(
            "alter table app.doc enable row level security;"
            "create policy shown on app.doc using (who = 'all' or"
            " who = current_setting('app.who', true))"
        )
        for role in (READER, OTHER, TEAM):
            doc.execute("select pgembed.grant_usage(%s)", [role])
        doc.execute("select pgembed._reconcile_v1()")
        yield dsn


def judge(conn: Connection, query: str, key: object, grade: int | None = 1) -> None:
    """Judge a row."""
    conn.execute(
        "select pgembed.judge(null::app.doc, %s, %s::text, %s)",
        [query, str(key), grade],
    )


def seen(conn: Connection) -> list[tuple[str, Any, int]]:
    """List query, key and grade of what the role sees."""
    return [row[:3] for row in conn.execute(SEEN.encode())]


def kept(conn: Connection) -> int:
    """Count what the table has, as pgembed's owner."""
    found: int = value(conn, "select count(*) from pgembed.judgement")
    return found


def fails(conn: Connection, sqlstate: str, statement: str) -> psycopg.Error:
    """Run a statement that must fail."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode())
    assert caught.value.sqlstate == sqlstate, caught.value
    return caught.value


def test_a_judgement_is_kept_changed_and_taken_back(doc: Connection) -> None:
    judge(doc, "word", 1, 2)
    judge(doc, "word", 2, 0)
    judge(doc, "other", 1)
    me = value(doc, "select current_user::text")
    assert doc.execute(SEEN.encode()).fetchall() == [
        ("other", 1, 1, me),
        ("word", 1, 2, me),
        ("word", 2, 0, me),
    ]
    judge(doc, "word", 1, 3)
    judge(doc, "word", 2, None)
    judge(doc, "nothing was said of it", 3, None)
    of_word = SEEN.replace("app.doc)", "app.doc, 'word')")
    assert doc.execute(of_word.encode()).fetchall() == [("word", 1, 3, me)]


def test_what_cannot_be_judged(doc: Connection) -> None:
    call = "select pgembed.judge(null::app.doc, {})"
    for grade in (-1, 4, 5_000_000_000):
        error = fails(doc, "PE007", call.format(f"'word', 1, {grade}"))
        assert str(grade) in str(error)
        assert error.diag.message_hint
    for given in ("'word', 6, 1", "'word', null::int, 1", "'word', 6, null"):
        assert "no row with key" in str(fails(doc, "PE009", call.format(given)))
    for given in ("'word', 'x', 1", "'word', '[1, 2]'::jsonb, 1"):
        assert "not a key of table app.doc" in str(
            fails(doc, "PE009", call.format(given))
        )
    fails(doc, "PE009", call.format("' ', 1, 1"))
    fails(doc, "PE009", call.format("null, 1, 1"))
    fails(doc, "PE003", "select pgembed.judge(1, 'word', 1, 1)")
    doc.execute("create table app.plain (id int primary key)")
    for function in (
        "judge(null::app.plain, 'word', 1, 1)",
        "judgements(null::app.plain)",
    ):
        fails(doc, "PE001", f"select pgembed.{function}")
    assert kept(doc) == 0


def test_a_role_sees_its_own_and_the_owner_of_the_table_all(
    roles: str, doc: Connection
) -> None:
    run(doc, "alter table app.doc owner to {}", OWNER)
    run(doc, "grant usage on schema app to {}", OWNER)
    doc.execute("select pgembed.grant_usage(%s)", [OWNER])
    doc.execute("select pgembed.repair('app.doc_bm25')")
    run(doc, "grant {} to {}", TEAM, READER)
    with (
        acting_as(roles, READER) as reader,
        acting_as(roles, OTHER) as other,
        acting_as(roles, OWNER) as owner,
    ):
        judge(reader, "mine", 1)
        judge(other, "theirs", 1)
        run(reader, "set role {}", TEAM)
        judge(reader, "ours", 2)
        assert seen(reader) == [("ours", 2, 1)]
        reader.execute("reset role")
        assert seen(reader) == [("mine", 1, 1), ("ours", 2, 1)]
        assert seen(other) == [("theirs", 1, 1)]
        assert len(seen(owner)) == 3
        # Members see what was judged, and take back their own.
        judge(reader, "ours", 2, None)
        assert ("ours", 2, 1) in seen(reader)


def test_a_hidden_row_and_what_was_said_of_it_are_not_there(
    roles: str, doc: Connection
) -> None:
    judge(doc, "word", 4)
    with acting_as(roles, READER) as reader:
        hidden = fails(
            reader, "PE009", "select pgembed.judge(null::app.doc, 'w', 4, 1)"
        )
        absent = fails(
            reader, "PE009", "select pgembed.judge(null::app.doc, 'w', 7, 1)"
        )
        assert str(hidden).replace('"4"', "") == str(absent).replace('"7"', "")
        reader.execute("set app.who = 'few'")
        judge(reader, "few see it", 4)
        judge(reader, "all see it", 1)
        assert len(seen(reader)) == 2
        reader.execute("set app.who = ''")
        assert seen(reader) == [("all see it", 1, 1)]
        fails(
            reader,
            "PE009",
            "select pgembed.judge(null::app.doc, 'few see it', 4, null)",
        )
    assert len(seen(doc)) == 3


def test_a_reader_who_looks_into_the_table_sees_no_more(
    roles: str, doc: Connection
) -> None:
    doc.execute(
        "create table app.secret (id int primary key, body text);"
        "insert into app.secret values (1, 'word');"
        "create table app.part (id int primary key, body text, c text);"
        "insert into app.part values (1, 'word', 'c')"
    )
    for table in ("secret", "part"):
        doc.execute(f"select pgembed.create_bm25('app.{table}', 'body')".encode())
        doc.execute(f"select pgembed.judge(null::app.{table}, 'w', 1, 1)".encode())
    run(doc, "grant select (id, body) on app.part to {}", READER)
    judge(doc, "word", 1)
    judge(doc, "word", 4)
    doc.execute("update pgembed.judgement set judged_by = %s", [READER])
    everything = "select query, key from pgembed._seen_judgement"
    with acting_as(roles, READER) as reader:
        assert reader.execute(everything.encode()).fetchall() == []
        for named in ("x", "99999999999", "-1", "0", "1259"):
            reader.execute("select set_config('pgembed.judged', %s, false)", [named])
            assert reader.execute(everything.encode()).fetchall() == [], named
        for table in ("doc", "secret", "part"):
            oid = value(doc, f"select 'app.{table}'::regclass::oid::text")
            reader.execute("select set_config('pgembed.judged', %s, false)", [oid])
            if table == "doc":
                assert reader.execute(everything.encode()).fetchall() == [("word", 1)]
            else:
                fails(reader, "42501", everything)
        for statement in (
            "select query from pgembed.judgement",
            "update pgembed.judgement set judged_by = current_user",
            "update pgembed.judgement set key = 'x'",
            "truncate pgembed.judgement",
        ):
            fails(reader, "42501", statement)
        fails(reader, "42501", "select * from pgembed.judgements(null::app.secret)")
        fails(reader, "42501", "select * from pgembed.judgements(null::app.part)")


def test_who_writes_into_the_table_writes_no_more_than_a_judgement(
    roles: str, doc: Connection
) -> None:
    judge(doc, "word", 1)
    insert = "insert into pgembed.judgement (source, query, key, grade{}) values ({}{})"
    pair = "'app.doc', 'q', '1', 1"
    with acting_as(roles, READER) as reader:
        for column, given in (
            ("judged_by", "'postgres'"),
            ("judged_at", "now()"),
            ("missing_since", "now()"),
            ("key_columns", "'{id}'"),
            ("key_numbers", "'{1}'"),
            ("digest", "'x'"),
        ):
            fails(reader, "42501", insert.format(f", {column}", pair, f", {given}"))
            change = f"update pgembed.judgement set {column} = {given}"
            fails(reader, "42501", change)
        fails(reader, "PE009", insert.format("", "'app.doc', 'q', '4', 1", ""))
        fails(reader, "PE009", insert.format("", "'app.doc', ' ', '1', 1", ""))
        fails(reader, "PE001", insert.format("", "'pg_class', 'q', '1', 1", ""))
        fails(reader, "23514", insert.format("", "'app.doc', 'q', '1', 4", ""))
        reader.execute(insert.format("", pair, "").encode())
        # The same row, however its key is written.
        zeros = "select 'app.doc', 'q', lpad('1', i, '0'), 1 from generate_series(2, 9)"
        flood = f"insert into pgembed.judgement (source, query, key, grade) {zeros} i"
        fails(reader, "23505", flood)
        assert kept(doc) == 2
        assert seen(reader) == [("q", 1, 1)]
        reader.execute("update pgembed.judgement set grade = 3")
        assert seen(reader) == [("q", 1, 3)]
        judge(reader, "q", 1, None)
        judge(reader, "q", 1)
        reader.execute("delete from pgembed.judgement")
    assert seen(doc) == [("word", 1, 1)]


def test_what_a_role_said_that_is_gone_is_for_the_owner(
    roles: str, doc: Connection
) -> None:
    with acting_as(roles, READER) as reader:
        judge(reader, "word", 1)
    doc.execute("update pgembed.judgement set judged_by = 'a role that is gone'")
    doc.execute("select pgembed._reconcile_v1()")
    assert seen(doc) == [("word", 1, 1)]
    with acting_as(roles, READER) as reader:
        assert seen(reader) == []
        judge(reader, "word", 1)
        assert seen(reader) == [("word", 1, 1)]
    assert len(seen(doc)) == 2


def test_rows_are_looked_for_once_and_not_for_what_others_said(
    roles: str, doc: Connection
) -> None:
    doc.execute(
        "create sequence app.looked; grant usage on sequence app.looked to public;"
        "alter policy shown on app.doc using (nextval('app.looked') > 0)"
    )
    with acting_as(roles, READER) as reader, acting_as(roles, OTHER) as other:
        reader.execute(
            "select pgembed.judge(null::app.doc, 'query ' || i, 1, 1)"
            " from generate_series(1, 100) as i"
        )
        judge(other, "word", 1)
        for role, found in ((reader, 100), (other, 1)):
            doc.execute("alter sequence app.looked restart")
            assert len(seen(role)) == found
            # At most each of the five rows, in two statements.
            assert value(doc, "select last_value from app.looked") <= 10


def test_code_of_an_owner_runs_only_for_who_names_the_table(
    roles: str, doc: Connection
) -> None:
    doc.execute(
        """
        create table app.calls (who text); grant insert on app.calls to public;
        create function app.note() returns boolean language plpgsql as
            $$ begin insert into app.calls values (current_user); return true; end $$;
        create table app.trap (id int primary key, body text);
        insert into app.trap values (1, 'word');
        grant select on app.trap to public;
        alter table app.trap enable row level security;
        create policy trap on app.trap using (app.note());
        """
    )
    run(doc, "alter table app.trap owner to {}", OWNER)
    run(doc, "grant usage on schema app to {}", OWNER)
    doc.execute("select pgembed.grant_usage(%s)", [OWNER])
    doc.execute("select pgembed.create_bm25('app.trap', 'body')")
    doc.execute("truncate app.calls")
    with acting_as(roles, READER) as reader:
        judge(reader, "word", 1)
        reader.execute("select pgembed.judge(null::app.trap, 'w', 1, 1)")
        called = "select distinct who from app.calls"
        assert doc.execute(called.encode()).fetchall() == [(READER,)]
        doc.execute("truncate app.calls")
        assert len(seen(reader)) == 1
        reader.execute("select * from pgembed._seen_judgement")
    doc.execute("select pgembed._reconcile_v1()")
    doc.execute("select pgembed.erase()")
    doc.execute("select * from pgembed.judgements(null::app.trap)")
    assert value(doc, "select count(*) from app.calls") == 0
    assert kept(doc) == 2


def expire(conn: Connection) -> None:
    """Have a service look twice, with an hour between."""
    conn.execute("select pgembed._reconcile_v1()")
    conn.execute(
        "update pgembed.judgement set missing_since = missing_since - interval '1 hour'"
    )
    conn.execute("select pgembed._reconcile_v1()")


def erase(conn: Connection) -> None:
    """Erase by hand."""
    conn.execute("select pgembed.erase()")


def erase_one(conn: Connection) -> None:
    """Erase of one alone."""
    conn.execute("select pgembed.erase('app.doc_bm25')")


@pytest.mark.parametrize("by", [expire, erase, erase_one])
def test_it_goes_with_its_row(doc: Connection, by: Any) -> None:
    judge(doc, "word", 1)
    judge(doc, "word", 2)
    doc.execute("delete from app.doc where id = 1")
    assert seen(doc) == [("word", 2, 1)]
    by(doc)
    assert kept(doc) == 1


@pytest.mark.parametrize("by", [expire, erase])
@pytest.mark.parametrize(
    "gone", ["drop table app.doc", "select pgembed.drop_bm25('app.doc_bm25')"]
)
def test_it_goes_with_its_table_and_what_is_declared(
    doc: Connection, gone: str, by: Any
) -> None:
    judge(doc, "word", 1)
    doc.execute(gone.encode())
    by(doc)
    assert kept(doc) == 0


def test_rows_that_come_back_within_the_hour_keep_theirs(doc: Connection) -> None:
    judge(doc, "word", 1)
    doc.execute("create table app.copy as select * from app.doc; truncate app.doc")
    doc.execute("select pgembed._reconcile_v1()")
    assert seen(doc) == []
    doc.execute("insert into app.doc select * from app.copy")
    expire(doc)
    assert seen(doc) == [("word", 1, 1)]
    doc.execute("select pgembed.drop_bm25('app.doc_bm25')")
    doc.execute("select pgembed._reconcile_v1()")
    doc.execute("select pgembed.create_bm25('app.doc', 'body')")
    expire(doc)
    assert seen(doc) == [("word", 1, 1)]


def test_names_may_change_and_another_key_means_other_rows(doc: Connection) -> None:
    judge(doc, "word", 1)
    doc.execute("alter table app.doc rename column id to number")
    assert seen(doc) == [("word", 1, 1)]
    doc.execute("select pgembed._reconcile_v1()")
    doc.execute("alter table app.doc rename to paper; alter schema app rename to lib")
    paper = "select query, key from pgembed.judgements(null::lib.paper)"
    assert doc.execute(paper.encode()).fetchall() == [("word", 1)]
    doc.execute("select pgembed.judge(null::lib.paper, 'gone', 2, 1)")
    doc.execute("alter table lib.paper drop constraint doc_pkey, add primary key (n)")
    # Row 9 has the 1 in its new key.
    doc.execute("insert into lib.paper values (9, 'word', 'all', 1)")
    assert doc.execute(paper.encode()).fetchall() == []
    doc.execute("select pgembed.judge(null::lib.paper, 'word', 1, 2)")
    assert kept(doc) == 2
    doc.execute("select pgembed.repair('lib.doc_bm25')")
    doc.execute("select pgembed.erase()")
    assert doc.execute(paper.encode()).fetchall() == [("word", 1)]
    assert kept(doc) == 1
    doc.execute(
        "alter table lib.paper drop constraint paper_pkey, add primary key (n, number)"
    )
    assert doc.execute(paper.encode()).fetchall() == []
    doc.execute("alter table lib.paper drop constraint paper_pkey")
    assert doc.execute(paper.encode()).fetchall() == []


def test_a_key_whose_column_has_another_number_or_type(doc: Connection) -> None:
    judge(doc, "word", 1)
    doc.execute("select pgembed.drop_bm25('app.doc_bm25')")
    doc.execute(
        "alter table app.doc add moved int; update app.doc set moved = id;"
        "alter table app.doc drop id; alter table app.doc rename moved to id;"
        "alter table app.doc add primary key (id)"
    )
    doc.execute("select pgembed.create_bm25('app.doc', 'body')")
    judge(doc, "word", 1, 2)
    assert seen(doc) == [("word", 1, 2)]
    judge(doc, "word", 1, None)
    assert kept(doc) == 0
    judge(doc, "word", 1)
    doc.execute("select pgembed.drop_bm25('app.doc_bm25')")
    uuid = "lpad(id::text, 32, '0')::uuid"
    doc.execute(f"alter table app.doc alter id type uuid using {uuid}".encode())
    doc.execute("select pgembed.create_bm25('app.doc', 'body')")
    assert seen(doc) == []
    expire(doc)
    assert kept(doc) == 0


@pytest.mark.parametrize(
    ("columns", "key", "as_json"),
    [
        ("a int, b text, primary key (a, b)", "'[1, \"x y\"]'::jsonb", [1, "x y"]),
        ("a int, b text, primary key (a, b)", "array['1', 'x y']", [1, "x y"]),
        ("a int, b date primary key", "'2/1/2026'::text", "2026-01-02"),
        ("a char(3) primary key, b text", "'1'::text", "1"),
        ("a numeric primary key, b text", "1", 1),
    ],
)
def test_keys_of_other_kinds(
    conn: Connection, columns: str, key: str, as_json: object
) -> None:
    """One row has one judgement, however its key is written."""
    conn.execute("set datestyle = 'SQL, MDY'")
    conn.execute(f"create table note (body text, {columns})".encode())
    b = "2026-01-02" if "date" in columns else "x y"
    conn.execute("insert into note values ('word', '1', %s)", [b])
    conn.execute("select pgembed.create_bm25('note', 'body')")
    if "date" in columns:
        conn.execute("set datestyle = 'SQL, DMY'")
    conn.execute(f"select pgembed.judge(null::note, 'w', {key}, 1)".encode())
    conn.execute("set datestyle = 'ISO, YMD'")
    (found,) = conn.execute("select key from pgembed.judgements(null::note)").fetchall()
    assert found == (as_json,)
    conn.execute(
        "select pgembed.judge(null::note, 'w', key, 2)"
        " from pgembed.judgements(null::note)"
    )
    grades = conn.execute("select grade from pgembed.judgements(null::note)")
    assert grades.fetchall() == [(2,)]


def test_long_queries_and_keys(conn: Connection) -> None:
    conn.execute("create table note (id text primary key, body text)")
    long_key = "".join(chr(0x4E00 + i) for i in range(800))
    conn.execute("insert into note values (%s, 'word')", [long_key])
    conn.execute("select pgembed.create_bm25('note', 'body')")
    query = "q'%" * 30_000
    conn.execute("select pgembed.judge(null::note, %s, %s::text, 1)", [query, long_key])
    found = conn.execute("select query, key from pgembed.judgements(null::note)")
    assert found.fetchall() == [(query, long_key)]


def test_a_judgement_reads_nothing_of_the_path(doc: Connection) -> None:
    doc.execute(
        "create schema trap;"
        "create function trap.eq(text, text) returns boolean language plpgsql"
        " as $$ begin raise 'trap'; end $$;"
        "create operator trap.= (function = trap.eq, leftarg = text, rightarg = text);"
        "create function trap.set_config(text, text, boolean) returns text"
        " language plpgsql as $$ begin raise 'trap'; end $$;"
        "set search_path = trap, pg_catalog"
    )
    judge(doc, "word", 1)
    assert seen(doc) == [("word", 1, 1)]
    assert value(doc, "select pg_catalog.current_setting('pgembed.judged')") == ""


@pytest.mark.majors(18, 17, 16)
def test_a_dump_has_them(doc: Connection, server: Server, dsn: str) -> None:
    """Also where numbers of columns are others after it."""
    doc.execute(
        "create table app.late (gone int, body text, id int primary key);"
        "alter table app.late drop column gone;"
        "insert into app.late values ('word', 1)"
    )
    doc.execute("select pgembed.create_bm25('app.late', 'body')")
    doc.execute("select pgembed.judge(null::app.late, 'late', 1, 3)")
    judge(doc, "word", 1)
    with (
        server.restored(dsn) as copy,
        psycopg.connect(copy, autocommit=True) as restored,
    ):
        assert seen(restored) == [("word", 1, 1)]
        late = "select query, grade from pgembed.judgements(null::app.late)"
        assert restored.execute(late.encode()).fetchall() == [("late", 3)]
        again = "select pgembed.judge(null::app.late, 'late', 1, {})"
        for grade in (2, 3):
            restored.execute(again.format(grade).encode())
            assert restored.execute(late.encode()).fetchall() == [("late", grade)]
            expire(restored)
            assert restored.execute(late.encode()).fetchall() == [("late", grade)]
        restored.execute(again.format("null").encode())
        assert restored.execute(late.encode()).fetchall() == []


def test_it_is_judged_on_a_primary_and_read_anywhere(doc: Connection) -> None:
    judge(doc, "word", 1)
    doc.execute("begin read only")
    assert seen(doc) == [("word", 1, 1)]
    fails(doc, "25006", "select pgembed.judge(null::app.doc, 'word', 2, 1)")
    doc.execute("rollback")


def test_who_could_search_before_an_upgrade_can_judge_after_it(
    roles: str, doc: Connection
) -> None:
    run(doc, "revoke all on pgembed.judgement from {} cascade", READER)
    schema.upgrade(roles)
    with acting_as(roles, READER) as reader:
        judge(reader, "word", 1)
        judge(reader, "word", 1, None)
        doc.execute("select pgembed.revoke_usage(%s)", [READER])
        fails(reader, "42501", "select pgembed.judge(null::app.doc, 'word', 1, 1)")
    schema.upgrade(roles)
    with acting_as(roles, READER) as reader:
        fails(reader, "42501", "select * from pgembed.judgement")


def test_what_fails_about_judgements_breaks_nothing_else(doc: Connection) -> None:
    judge(doc, "word", 1)
    doc.execute(
        "create or replace function pgembed._key_names(p_source oid) returns text[]"
        " language sql as $$ select array[(1 / 0)::text] $$"
    )
    doc.execute("select pgembed._reconcile_v1()")
    assert value(doc, "select state from pgembed.captured_text") == "active"
