"""What is queued when an application writes: all of it, and nothing for nothing."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.postgres import prepared_by
from tests.sql.steps import ARTICLE, Service, declare, service_for, value

NAME = "article_embedding"
TEXT = "title || ' ' || body"
WAKE_LOCK = "1885824365, 1"


def make_empty(conn: psycopg.Connection) -> Service:
    """Declare an embedding on an empty table."""
    conn.execute(ARTICLE)
    return declare(conn, "article", TEXT)


@pytest.fixture
@prepared_by(make_empty)
def service(conn: psycopg.Connection) -> Service:
    """Give an embedding on an empty table."""
    return service_for(conn, NAME)


def make_filled(conn: psycopg.Connection) -> None:
    """Put three embedded rows into the table."""
    service = make_empty(conn)
    conn.execute(
        "insert into article (id, title, body, attrs) "
        "select i, 'title', 'body ' || i, '{\"a\": \"1\", \"b\": 1}' "
        "from generate_series(1, 3) as i"
    )
    service.drain()


@pytest.fixture
@prepared_by(make_filled)
def filled(conn: psycopg.Connection) -> Service:
    """Give an embedding on a table of three embedded rows."""
    return service_for(conn, NAME)


def test_insert_queues_the_row(service: Service) -> None:
    service.conn.execute("insert into article (id, title) values (1, 'a')")
    assert service.jobs() == [("U", "1")]


def test_multi_row_insert_queues_each_row(service: Service) -> None:
    service.conn.execute("insert into article (id, title) values (1, 'a'), (2, 'b')")
    assert service.jobs() == [("U", "1"), ("U", "2")]


def test_insert_of_no_row_queues_nothing(service: Service) -> None:
    service.conn.execute("insert into article (id) select 1 where false")
    service.conn.execute("update article set title = 'x' where false")
    service.conn.execute("delete from article")
    assert service.jobs() == []


def test_copy_queues_each_row(service: Service) -> None:
    with service.conn.cursor().copy("copy article (id, title) from stdin") as copy:
        copy.write_row((1, "a"))
        copy.write_row((2, "b"))
    assert service.jobs() == [("U", "1"), ("U", "2")]


def test_upsert_queues_inserts_and_updates(filled: Service) -> None:
    filled.conn.execute(
        "insert into article (id, title, body) values (3, 'new', 'x'), (4, 'new', 'y') "
        "on conflict (id) do update set title = excluded.title"
    )
    assert sorted(filled.jobs()) == [("U", "3"), ("U", "4")]


def test_upsert_that_does_nothing_queues_nothing(filled: Service) -> None:
    filled.conn.execute("insert into article (id) values (3) on conflict do nothing")
    assert filled.jobs() == []


@pytest.mark.majors(18, 17, 16)
def test_merge_queues_each_action(filled: Service) -> None:
    filled.conn.execute(
        "merge into article as a using (values (1), (2), (4)) as n(id) on a.id = n.id "
        "when matched and a.id = 1 then update set body = 'merged' "
        "when matched then delete "
        "when not matched then insert (id, title) values (n.id, 'x')"
    )
    assert sorted(filled.jobs()) == [("D", "2"), ("U", "1"), ("U", "4")]


def test_update_of_text_queues_the_row(filled: Service) -> None:
    filled.conn.execute("update article set body = 'other' where id > 1")
    assert sorted(filled.jobs()) == [("U", "2"), ("U", "3")]


@pytest.mark.parametrize(
    "assignment",
    [
        "views = 7",
        "attrs = '{}'",
        "title = title",
        "title = '', body = title || ' ' || body",  # ' title body 1', not the same
        "title = 'title body', body = '' || id",  # composed: the same
    ],
)
def test_update_queues_only_another_text(filled: Service, assignment: str) -> None:
    before = filled.embedded()
    filled.conn.execute(f"update article set {assignment}")
    rows = filled.conn.execute(f"select id::text, {TEXT} from article").fetchall()
    after: dict[str, str] = dict(rows)
    changed = [("U", key) for key in sorted(after) if after[key] != before[key]]
    assert filled.jobs() == changed


@pytest.mark.parametrize("bm25", [True, False])
def test_update_to_the_same_composed_text_queues_nothing(
    conn: psycopg.Connection, bm25: bool
) -> None:
    conn.execute(ARTICLE)
    service = declare(
        conn, "article", "coalesce(title, '') || coalesce(body, '')", bm25=bm25
    )
    conn.execute("insert into article (id, title, body) values (1, 'ab', 'c')")
    service.drain()
    conn.execute("update article set title = 'a', body = 'bc'")
    assert service.jobs() == []
    conn.execute("update article set title = 'A'")
    assert service.jobs() == [("U", "1")]


def test_update_of_another_jsonb_key_queues_nothing(conn: psycopg.Connection) -> None:
    conn.execute(ARTICLE)
    service = declare(conn, "article", "attrs ->> 'summary'")
    conn.execute(
        'insert into article (id, attrs) values (1, \'{"summary": "s", "n": 1}\')'
    )
    service.drain()
    conn.execute("update article set attrs = attrs || '{\"n\": 2}'")
    assert service.jobs() == []
    conn.execute('update article set attrs = attrs || \'{"summary": "t"}\'')
    assert service.jobs() == [("U", "1")]


def test_update_to_and_from_null_queues_the_row(filled: Service) -> None:
    filled.conn.execute("update article set title = null where id = 1")
    filled.conn.execute("update article set title = 'back' where id = 1")
    assert filled.jobs() == [("U", "1"), ("U", "1")]


def test_key_change_queues_both_keys(filled: Service) -> None:
    filled.conn.execute("update article set id = 30 where id = 3")
    assert filled.jobs() == [("D", "3"), ("U", "30")]
    filled.drain()
    assert sorted(filled.embedded()) == ["1", "2", "30"]


def test_keys_that_trade_places_end_with_their_own_texts(
    conn: psycopg.Connection,
) -> None:
    conn.execute(
        "create table article (id int primary key deferrable initially deferred, "
        "body text)"
    )
    service = declare(conn)
    conn.execute("insert into article values (1, 'one'), (2, 'two')")
    service.drain()
    conn.execute("update article set id = 3 - id")
    service.drain()
    assert service.embedded() == {"1": "two", "2": "one"}


def test_delete_queues_each_row(filled: Service) -> None:
    filled.conn.execute("delete from article where id < 3")
    assert sorted(filled.jobs()) == [("D", "1"), ("D", "2")]


def test_truncate_queues_one_job_and_empties_the_vectors(filled: Service) -> None:
    filled.conn.execute("truncate article")
    assert filled.jobs() == [("T", None)]
    filled.drain()
    assert filled.embedded() == {}


def test_truncate_spares_rows_that_came_after(filled: Service) -> None:
    with filled.conn.transaction():
        filled.conn.execute("truncate article")
        filled.conn.execute("insert into article values (2, 'after', 'wards')")
    filled.drain()
    assert filled.embedded() == {"2": "after wards"}


def test_rollback_leaves_nothing(service: Service) -> None:
    with service.conn.transaction(force_rollback=True):
        service.conn.execute("insert into article (id, title) values (1, 'a')")
    assert service.jobs() == []


def test_savepoint_keeps_what_was_kept(service: Service) -> None:
    with service.conn.transaction():
        service.conn.execute("insert into article (id, title) values (1, 'a')")
        with service.conn.transaction(force_rollback=True):
            service.conn.execute("insert into article (id, title) values (2, 'a')")
            service.conn.execute("update article set title = 'b'")
    assert service.jobs() == [("U", "1")]


def test_bulk_statement_yields_to_single_writes(service: Service) -> None:
    service.conn.execute(
        "insert into article (id, title) select i, 'a' from generate_series(1, 1000) i"
    )
    service.conn.execute(
        "insert into article (id, title) "
        "select i, 'a' from generate_series(2001, 3001) i"
    )
    service.conn.execute("delete from article where id > 2000")
    rows = service.conn.execute(
        "select op::text, priority, count(*) from pgembed.queue group by 1, 2"
    )
    assert sorted(rows.fetchall()) == [
        ("D", 1, 1001),
        ("U", 0, 1000),
        ("U", 1, 1001),
    ]


PARTITIONED = """
    create table article (id int, region text, body text, primary key (id, region))
    partition by list (region);
    create table article_eu partition of article for values in ('eu')
        partition by range (id);
    create table article_eu_low partition of article_eu for values from (0) to (100);
    create table article_eu_high partition of article_eu for values from (100) to (999);
    create table article_us partition of article for values in ('us');
"""


def make_partitioned(conn: psycopg.Connection) -> None:
    """Declare an embedding on a table with two levels of partitions."""
    conn.execute(PARTITIONED)
    declare(conn)


@pytest.fixture
@prepared_by(make_partitioned)
def partitioned(conn: psycopg.Connection) -> Service:
    """Give an embedding on a table with two levels of partitions."""
    return service_for(conn, NAME)


def test_partitions_are_captured_through_the_parent(partitioned: Service) -> None:
    conn = partitioned.conn
    conn.execute("insert into article values (1, 'eu', 'a'), (200, 'us', 'b')")
    assert partitioned.take_jobs() == [("U", "{1,eu}"), ("U", "{200,us}")]
    conn.execute("update article set body = 'c' where id = 1")
    conn.execute("delete from article where id = 200")
    assert partitioned.take_jobs() == [("U", "{1,eu}"), ("D", "{200,us}")]


def test_partitions_are_captured_when_written_directly(partitioned: Service) -> None:
    conn = partitioned.conn
    conn.execute("insert into article_eu_low values (1, 'eu', 'a')")
    conn.execute("update article_eu set body = 'b'")
    conn.execute("delete from article_eu_low")
    assert partitioned.jobs() == [("U", "{1,eu}"), ("U", "{1,eu}"), ("D", "{1,eu}")]
    partitioned.drain()
    assert partitioned.embedded() == {}


@pytest.mark.majors(18, 17, 16)
def test_moves_between_partitions_are_captured(partitioned: Service) -> None:
    conn = partitioned.conn
    conn.execute("insert into article values (1, 'eu', 'a')")
    partitioned.drain()
    conn.execute("update article set region = 'us'")
    partitioned.drain()
    assert partitioned.embedded() == {"{1,us}": "a"}
    conn.execute("update article set region = 'eu', id = 500, body = 'z'")
    partitioned.drain()
    assert partitioned.embedded() == {"{500,eu}": "z"}


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize("table", ["article_us", "article_eu", "article_eu_low"])
def test_truncate_of_one_partition_is_captured(
    partitioned: Service, table: str, role: str
) -> None:
    conn = partitioned.conn
    conn.execute("insert into article values (1, 'eu', 'a'), (200, 'us', 'b')")
    partitioned.drain()
    conn.execute(f"set session_replication_role = {role}")
    conn.execute(f"truncate {table}")
    assert ("T", None) in partitioned.jobs()
    partitioned.drain()
    assert len(partitioned.embedded()) == 1
    conn.execute("truncate article")
    partitioned.drain()
    assert partitioned.embedded() == {}


def test_partitions_that_come_and_go_are_followed(partitioned: Service) -> None:
    conn = partitioned.conn
    conn.execute(
        "create table article_asia (id int, region text, body text, "
        "primary key (id, region))"
    )
    conn.execute("insert into article_asia values (7, 'asia', 'before')")
    conn.execute(
        "alter table article attach partition article_asia for values in ('asia')"
    )
    conn.execute("insert into article values (8, 'asia', 'after')")
    conn.execute("select pgembed._reconcile_v1()")
    partitioned.drain()
    assert partitioned.embedded() == {"{7,asia}": "before", "{8,asia}": "after"}
    conn.execute("select pgembed._reconcile_v1()")
    assert partitioned.jobs() == []

    conn.execute("truncate article_asia")
    partitioned.drain()
    assert partitioned.embedded() == {}

    conn.execute("insert into article values (9, 'asia', 'x'), (1, 'eu', 'y')")
    partitioned.drain()
    conn.execute("alter table article detach partition article_asia")
    conn.execute("select pgembed._reconcile_v1()")
    partitioned.drain()
    assert partitioned.embedded() == {"{1,eu}": "y"}
    conn.execute("insert into article_asia values (10, 'asia', 'mine')")
    conn.execute("truncate article_asia")
    assert partitioned.jobs() == []
    assert partitioned.column("state") == "active"


def test_a_partition_as_source_is_captured_through_its_parent(
    conn: psycopg.Connection,
) -> None:
    conn.execute(PARTITIONED)
    service = declare(conn, "article_us")
    conn.execute("insert into article values (1, 'us', 'a'), (2, 'eu', 'b')")
    conn.execute("insert into article_us values (3, 'us', 'c')")
    service.drain()
    assert service.embedded() == {"{1,us}": "a", "{3,us}": "c"}
    conn.execute("update article set body = 'z' where id = 1")
    conn.execute("delete from article where id = 3")
    service.drain()
    assert service.embedded() == {"{1,us}": "z"}
    conn.execute("truncate article")
    service.drain()
    assert service.embedded() == {}


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("columns", "first", "second", "key"),
    [
        ("id bigint", "(9000000000, 'a')", "(-1, 'b')", "9000000000"),
        (
            "id uuid",
            "('7b5bd0c6-4b8f-4d25-b0a5-0c1c1ad4a1de', 'a')",
            "('00000000-0000-0000-0000-000000000000', 'b')",
            "7b5bd0c6-4b8f-4d25-b0a5-0c1c1ad4a1de",
        ),
        ("id text", "('a ''\"{},\\', 'a')", "('NULL', 'b')", "a '\"{},\\"),
        ("id text", "('', 'a')", "('ü 漢', 'b')", ""),
        ("id char(4)", "('a', 'a')", "('b', 'b')", "a"),
        ("id numeric(10, 2)", "(1.5, 'a')", "(2, 'b')", "1.50"),
        ("id bytea", "('\\x00ff', 'a')", "('\\x', 'b')", "\\x00ff"),
        ("id int[]", "('{1,2}', 'a')", "('{}', 'b')", "{1,2}"),
        ("id date", "('2024-02-01', 'a')", "('0044-03-15 BC', 'b')", "2024-02-01"),
        ("id float8", "(0.1, 'a')", "('NaN', 'b')", "0.1"),
        ("id interval", "('1 mon 2 days', 'a')", "('1 s', 'b')", "1 mon 2 days"),
        ("id int4range", "('[1,3)', 'a')", "('empty', 'b')", "[1,3)"),
        # Of an extension: its operators are on no path of pgembed's functions.
        ("id vector(2)", "('[1,2]', 'a')", "('[0,-1]', 'b')", "[1,2]"),
    ],
)
def test_key_of_any_type(
    conn: psycopg.Connection, columns: str, first: str, second: str, key: str
) -> None:
    conn.execute(f"create table article ({columns} primary key, body text)")
    service = declare(conn)
    conn.execute(f"insert into article values {first}, {second}")
    assert service.jobs()[0] == ("U", key)
    service.drain()
    assert service.embedded()[key] == "a"
    assert sorted(service.embedded().values()) == ["a", "b"]
    conn.execute("update article set body = 'c' where body = 'a'")
    service.drain()
    assert sorted(service.embedded().values()) == ["b", "c"]
    conn.execute("select pgembed.reembed('article_embedding')")
    assert service.drain() == 2
    conn.execute("delete from article")
    service.drain()
    assert service.embedded() == {}


def test_composite_key(conn: psycopg.Connection) -> None:
    conn.execute(
        "create table article (body text, tenant text, at timestamptz, n smallint, "
        "primary key (n, tenant, at))"
    )
    service = declare(conn)
    conn.execute("set timezone = 'UTC'")
    conn.execute(
        "insert into article values ('a', 'x, \"y\" {z}', '2024-01-01 12:00+00', 5)"
    )
    key = '{5,"x, \\"y\\" {z}","2024-01-01 12:00:00+00"}'
    assert service.jobs() == [("U", key)]
    service.drain()
    assert service.embedded() == {key: "a"}
    conn.execute("update article set at = at + interval '1 hour', tenant = 't'")
    service.drain()
    assert service.embedded() == {'{5,t,"2024-01-01 13:00:00+00"}': "a"}


@pytest.mark.rolled_back
@pytest.mark.parametrize("kind", ["timestamptz", "timestamptz[]", "daterange"])
def test_key_of_a_session_with_other_formats(
    conn: psycopg.Connection, dsn: str, kind: str
) -> None:
    conn.execute(f"create table article (id {kind} primary key, body text)")
    service = declare(conn)
    literal = {
        "timestamptz[]": "'{2024-02-01 10:00:00+01}'",
        "daterange": "'[2024-02-01,2024-02-03)'",
    }.get(kind, "'2024-02-01 10:00:00+01'")
    with psycopg.connect(dsn, autocommit=True) as writer:
        writer.execute("set datestyle = 'SQL, DMY'")
        writer.execute("set timezone = 'America/New_York'")
        writer.execute(f"insert into article values ({literal}, 'a')")
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("set datestyle = 'German'")
        service.on(session).drain()
    assert list(service.embedded().values()) == ["a"]
    with psycopg.connect(dsn, autocommit=True) as writer:
        writer.execute("set datestyle = 'Postgres, MDY'")
        writer.execute("update article set body = 'b'")
    service.drain()
    assert list(service.embedded().values()) == ["b"]


NAMES = ["My Table", 'quo"te', "UPPER", "k", "new", "old", "r", "s", "changed_rows"]


@pytest.mark.rolled_back
@pytest.mark.parametrize("table", NAMES)
def test_names_that_need_quoting(conn: psycopg.Connection, table: str) -> None:
    schema, column, key = "Sch ema", 'bo"dy %s %I', "the 'Key'"
    names = {
        "schema": sql.Identifier(schema),
        "table": sql.Identifier(schema, table),
        "column": sql.Identifier(column),
        "key": sql.Identifier(key),
    }

    def run(statement: str) -> None:
        conn.execute(sql.SQL(statement).format(**names))

    run("create schema {schema}")
    run("create table {table} ({key} text primary key, {column} text, other int)")
    service = declare(
        conn, names["table"].as_string(conn), names["column"].as_string(conn)
    )
    run("insert into {table} values ('x''y', 'a', 1)")
    assert service.jobs() == [("U", "x'y")]
    service.drain()
    run("update {table} set other = 2")
    assert service.jobs() == []
    run("update {table} set {column} = 'b', {key} = 'z'")
    service.drain()
    assert service.embedded() == {"z": "b"}
    run("truncate {table}")
    service.drain()
    assert service.embedded() == {}


COLUMNS = ["key", "chunk", "content", "embedding", "s", "c", "n", "k", "r", "old"]
COLUMNS += [
    "new",
    "position",
    "hash",
    "text_hash",
    "model_id",
    "new_key",
    "pgembed_key",
]


@pytest.mark.rolled_back
@pytest.mark.parametrize("table", ["k", "new"])
@pytest.mark.parametrize(
    "key",
    ["key", "chunk", "content", "embedding", "s", "old", "found", "gone", "changed"],
)
def test_names_that_pgembed_uses_itself(
    conn: psycopg.Connection, table: str, key: str
) -> None:
    others = [name for name in COLUMNS if name != key]
    conn.execute(
        f'create table "{table}" ({key} int, '
        + ", ".join(f"{name} text" for name in others)
        + f', primary key ({key}, "{others[0]}"))'
    )
    text = " || ".join(f"coalesce({name}, '')" for name in others)
    service = declare(conn, f'"{table}"', f"{text} || {key}")
    values = ", ".join(f"'{name} '" for name in others)
    conn.execute(f'insert into "{table}" values (7, {values})')
    expected = "".join(f"{name} " for name in others) + "7"
    service.drain()
    assert list(service.embedded().values()) == [expected]
    conn.execute(f"update \"{table}\" set n = '', c = 'n c ' where c <> 'z'")
    service.drain()
    conn.execute(f'update "{table}" set {key} = 8')
    service.drain()
    text_now = value(conn, f'select {text} || {key} from "{table}"')
    assert list(service.embedded().values()) == [text_now]
    assert text_now.endswith("8")


def test_whole_row_expression(conn: psycopg.Connection) -> None:
    conn.execute('create table "New" (id int primary key, a text, b text)')
    service = declare(conn, '"New"', 'to_jsonb("New".*)::text')
    conn.execute("insert into \"New\" values (1, 'a', 'b')")
    service.drain()
    conn.execute("update \"New\" set b = 'c'")
    assert service.drain() == 1
    conn.execute('alter table "New" add column c text')
    conn.execute("update \"New\" set b = 'd'")
    assert service.drain() == 1
    conn.execute("update \"New\" set c = 'e'")
    assert service.drain() == 1


def test_role_with_insert_only(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(ARTICLE)
    service = declare(conn)
    database = conn.info.dbname
    role = f"{database}_writer"
    conn.execute(f"create role {role}")
    try:
        conn.execute(f"grant insert, delete, update on article to {role}")
        conn.execute(f"grant select (id) on article to {role}")
        with psycopg.connect(dsn, autocommit=True) as writer:
            writer.execute(f"set role {role}")
            # A table of the caller's own under a name that pgembed uses.
            writer.execute("create temporary table queue (key text)")
            writer.execute("set search_path = pg_temp, public")
            writer.execute("insert into public.article (id, body) values (1, 'a')")
            writer.execute("update public.article set body = 'b' where id = 1")
            writer.execute("delete from public.article where id = 1")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute("select * from pgembed.queue")
        # Nor may it hang the functions on a table of its own.
        functions = conn.execute(
            "select has_function_privilege(%s, oid, 'execute') from pg_proc "
            "where proname like '\\_text\\_%%' and prorettype = 'trigger'::regtype",
            [role],
        ).fetchall()
        assert functions == [(False,)] * 6
    finally:
        conn.execute(f"drop owned by {role}")
        conn.execute(f"drop role {role}")
    assert service.jobs() == [("U", "1"), ("U", "1"), ("D", "1")]


def test_operators_of_the_writers_own_are_not_run(filled: Service) -> None:
    """They would run with the rights of pgembed's owner."""
    conn = filled.conn
    conn.execute(
        "create schema evil;"
        "create function evil.eq(text, text) returns boolean language plpgsql as "
        "$$ begin perform set_config('evil.ran', 'yes', false); return true; end $$;"
        "create operator evil.= (leftarg = text, rightarg = text, function = evil.eq)"
    )
    conn.execute("set search_path = evil, pg_catalog, public")
    assert value(conn, "select 'a'::text = 'b'::text")
    conn.execute("set evil.ran = 'no'")
    conn.execute("update article set body = 'x'")
    conn.execute("insert into article (id, title) values (9, 'x')")
    conn.execute("delete from article where id = 9")
    assert value(conn, "show evil.ran") == "no"


def test_before_trigger_that_changes_the_text(conn: psycopg.Connection) -> None:
    conn.execute(ARTICLE)
    conn.execute(
        "create function touch() returns trigger language plpgsql as "
        "$$ begin new.body := 'seen ' || new.views; return new; end $$"
    )
    conn.execute(
        "create trigger touch before insert or update on article "
        "for each row execute function touch()"
    )
    service = declare(conn)
    conn.execute("insert into article (id, body, views) values (1, 'mine', 1)")
    service.drain()
    conn.execute("update article set views = 2")
    service.drain()
    assert service.embedded() == {"1": "seen 2"}


@pytest.mark.majors(18, 17, 16)
def test_stored_generated_column(conn: psycopg.Connection) -> None:
    conn.execute(
        "create table article (id int primary key, a text, n int, "
        "body text generated always as (upper(a)) stored)"
    )
    service = declare(conn)
    conn.execute("insert into article values (1, 'x', 1)")
    service.drain()
    conn.execute("update article set n = 2")
    assert service.jobs() == []
    conn.execute("update article set a = 'y'")
    service.drain()
    assert service.embedded() == {"1": "Y"}


@pytest.mark.majors(18)
def test_virtual_generated_column(conn: psycopg.Connection) -> None:
    conn.execute(
        "create table article (id int primary key, a text, n int, "
        "body text generated always as (upper(a)) virtual)"
    )
    service = declare(conn)
    conn.execute("insert into article values (1, 'x', 1)")
    service.drain()
    conn.execute("update article set n = 2")
    assert service.jobs() == []
    conn.execute("update article set a = 'y'")
    service.drain()
    assert service.embedded() == {"1": "Y"}


def only_where_supported(conn: psycopg.Connection, statement: str) -> None:
    """Run a statement, and skip the test if the server is built without it."""
    try:
        conn.execute(statement)
    except psycopg.errors.FeatureNotSupported as exc:
        pytest.skip(str(exc).splitlines()[0])


def create_folded_type(conn: psycopg.Connection) -> None:
    """Make a text type to which upper and lower case are equal."""
    only_where_supported(
        conn,
        "create collation folded (provider = icu, locale = 'und-u-ks-level2', "
        "deterministic = false)",
    )
    conn.execute("create domain folded as text collate folded")


@pytest.mark.rolled_back
@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("json", '{"a": 1}', '{"a":1}'),
        ("xml", "<a>1</a>", "<a>2</a>"),
        ("point", "(1,2)", "(1,3)"),
        ("text[]", "{a}", "{b}"),
        ("json[]", '{"1"}', '{"2"}'),
        # Equal values with other texts.
        ("numeric", "1.0", "1.00"),
        ("interval", "1 day", "24 hours"),
        ("jsonb", '{"a": 1.0}', '{"a": 1.00}'),
        ("float8", "0", "-0"),
        ("folded", "abc", "ABC"),
        ("bit varying", "1", "10"),
        ("int4multirange", "{[1,2)}", "{[1,3)}"),
        ("mood", "happy", "sad"),
        ("pair", "(1,a)", "(1,b)"),
        ("pairs", "(1,1.0)", "(1,1.00)"),
    ],
)
def test_column_of_any_type(
    conn: psycopg.Connection, kind: str, first: str, second: str
) -> None:
    conn.execute("create type mood as enum ('happy', 'sad')")
    conn.execute("create type pair as (a int, b text)")
    conn.execute("create type pairs as (a int, b numeric)")
    if kind == "folded":
        create_folded_type(conn)
    only_where_supported(conn, f"select '{first}'::{kind}")
    conn.execute(f"create table article (id int primary key, body {kind}, n int)")
    service = declare(conn, "article", "body::text")
    conn.execute("insert into article values (1, %s, 1)", [first])
    service.drain()
    conn.execute("update article set n = 2")
    assert service.jobs() == []
    conn.execute("update article set body = %s", [second])
    service.drain()
    assert list(service.embedded().values()) == [
        value(conn, "select body::text from article")
    ]


@pytest.mark.rolled_back
@pytest.mark.parametrize("kind", ["varchar(20)", "char(20)", "name", "folded"])
def test_text_of_any_string_type(conn: psycopg.Connection, kind: str) -> None:
    if kind == "folded":
        create_folded_type(conn)
    conn.execute(f"create table article (id int primary key, body {kind})")
    service = declare(conn)
    conn.execute("insert into article values (1, 'abc'), (2, ''), (3, null)")
    service.drain()
    conn.execute("update article set body = 'ABC' where id = 1")
    service.drain()
    assert service.embedded() == {"1": "ABC"}


def test_large_text_that_stays_is_not_queued(filled: Service) -> None:
    filled.conn.execute(
        "update article set body = (select string_agg(md5(i::text), ' ') "
        "from generate_series(1, 1000) as i)"
    )
    filled.drain()
    filled.conn.execute("update article set views = 5, body = body")
    assert filled.jobs() == []


def test_two_embeddings_on_one_table(filled: Service) -> None:
    other = declare(filled.conn, "article", "title", name="titles")
    other.drain()
    filled.conn.execute("update article set body = 'x' where id = 1")
    assert (filled.take_jobs(), other.take_jobs()) == ([("U", "1")], [])
    filled.conn.execute("update article set title = 'x' where id = 1")
    assert (filled.take_jobs(), other.take_jobs()) == ([("U", "1")], [("U", "1")])


@pytest.mark.parametrize("bm25", [True, False])
def test_expression_that_fails_on_a_row_does_not_fail_the_write(
    conn: psycopg.Connection, bm25: bool
) -> None:
    conn.execute("create table article (id int primary key, body text, n int)")
    service = declare(conn, "article", "body || (1 / n)", bm25=bm25)
    conn.execute("insert into article values (1, 'a', 1), (2, 'b', 0)")
    conn.execute("update article set n = 0 where id = 1")
    assert service.jobs() == [("U", "1"), ("U", "2"), ("U", "1")]


def test_many_updates_in_one_transaction(filled: Service) -> None:
    with filled.conn.transaction():
        for number in range(50):
            filled.conn.execute("update article set body = %s", [f"v{number}"])
    filled.drain()
    assert set(filled.embedded().values()) == {"title v49"}


@pytest.fixture
def sleeper(dsn: str) -> Iterator[psycopg.Connection]:
    """Open a service's listening connection."""
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen pgembed")
        yield listener


def notifications(listener: psycopg.Connection) -> list[str]:
    """Give the payloads that have come."""
    listener.execute("select 1")
    return [n.payload for n in listener.notifies(timeout=0.2)]


STATEMENTS = [
    "insert into article (id, title) select i, 't' from generate_series(10, 20) as i",
    "update article set title = 'changed', body = 'x'",
    "delete from article where id > 1",
    "update article set id = id + 1000",
    "truncate article",
]


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_sleeping_service_is_woken_once(
    filled: Service, sleeper: psycopg.Connection, statement: str
) -> None:
    sleeper.execute(f"select pg_advisory_lock({WAKE_LOCK})")
    filled.conn.execute(statement)
    assert notifications(sleeper) == [""]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_no_notification_when_no_service_sleeps(
    filled: Service, sleeper: psycopg.Connection, statement: str
) -> None:
    filled.conn.execute(statement)
    assert filled.jobs()
    assert notifications(sleeper) == []


def test_no_notification_for_nothing(
    filled: Service, sleeper: psycopg.Connection
) -> None:
    sleeper.execute(f"select pg_advisory_lock({WAKE_LOCK})")
    filled.conn.execute("update article set views = 9, title = title")
    filled.conn.execute("update article set title = title || '' where id = 1")
    filled.conn.execute("delete from article where id = 99")
    with filled.conn.transaction(force_rollback=True):
        filled.conn.execute("delete from article")
    assert notifications(sleeper) == []


@pytest.mark.parametrize("statement", STATEMENTS)
def test_poll_never_notifies(
    filled: Service, sleeper: psycopg.Connection, statement: str
) -> None:
    filled.conn.execute(
        "select pgembed.alter_embedding('article_embedding', wake => 'poll')"
    )
    notifications(sleeper)
    sleeper.execute(f"select pg_advisory_lock({WAKE_LOCK})")
    filled.conn.execute(statement)
    assert filled.jobs()
    assert notifications(sleeper) == []


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
def test_an_open_writer_keeps_the_service_awake(
    filled: Service, sleeper: psycopg.Connection, dsn: str, level: str
) -> None:
    """Whoever did not notify holds the lock that a sleeper must get first."""

    def may_sleep() -> bool:
        return bool(value(sleeper, f"select pg_try_advisory_lock({WAKE_LOCK})"))

    with psycopg.connect(dsn) as writer:
        writer.execute(f"set transaction isolation level {level}")
        writer.execute("update article set body = 'late' where id = 1")
        assert not may_sleep()
        writer.commit()
    assert may_sleep()
    assert value(sleeper, "select ready from pgembed._ready_v1()")
