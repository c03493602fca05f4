"""Bad input gets an error that says what, which value and what to do.

And it leaves nothing half made: catalogs and tables stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.postgres import prepared_by
from tests.sql.steps import create, declare, register_toy, service_for, value

SNAPSHOT = """
    select string_agg(line, E'\\n' order by line) from (
        select 'column ' || attrelid::regclass || '.' || attname || ' '
               || format_type(atttypid, atttypmod) as line
        from pg_attribute as a join pg_class as c on c.oid = a.attrelid
        where attnum > 0 and not attisdropped
          and relnamespace not in ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
        union all select 'function ' || oid::regprocedure || md5(prosrc)
        from pg_proc where pronamespace <> 'pg_catalog'::regnamespace
        union all select 'trigger ' || pg_get_triggerdef(oid) from pg_trigger
        union all select 'embedding ' || e::text from pgembed.embedding as e
        union all select 'model ' || m::text from pgembed.model as m
        union all select 'job ' || q::text from pgembed.queue as q
        union all select 'acl ' || relname || ' ' || coalesce(
            nullif(relacl, acldefault(
                case relkind when 'S' then 's' else 'r' end::"char", relowner)
            )::text, '')
        from pg_class where relnamespace <> 'pg_toast'::regnamespace
        union all select 'row ' || a::text from article as a
    ) as lines
"""

# What is refused leaves nothing, which `refused` looks for.
pytestmark = pytest.mark.rolled_back

Refusal = Callable[[str, str, str], psycopg.Error]


def make_article(conn: psycopg.Connection) -> None:
    """Make tables to declare embeddings on, and two embeddings, `taken` and `other`."""
    conn.execute(
        """
        create table article (id int primary key, title text, body text, views int);
        insert into article values (1, 'title', 'body', 1);
        create table keyless (body text);
        create view article_view as select * from article;
        create table parent (id int primary key, body text);
        create table child () inherits (parent);
        create table parted (id int primary key, body text) partition by hash (id);
        create sequence counter;
        create function noisy(text) returns text language plpgsql as
            $$ begin delete from article; return $1; end $$;
        create function many(text) returns setof text language sql immutable as
            $$ select $1 $$;
        """
    )
    declare(conn, name="taken")
    create(conn, name="other", model="all-MiniLM-L6-v2")


@pytest.fixture
@prepared_by(make_article)
def article(conn: psycopg.Connection) -> psycopg.Connection:
    """Give tables to declare embeddings on, and two embeddings, `taken` and `other`."""
    return conn


def refused(
    conn: psycopg.Connection, statement: str, *parameters: object
) -> psycopg.Error:
    """Run a statement that must fail, and must change nothing."""
    before = value(conn, SNAPSHOT)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement, parameters or None)
    assert value(conn, SNAPSHOT) == before
    return caught.value


def expect(error: psycopg.Error, sqlstate: str, *words: str) -> None:
    """Check an error's state, that it names the value, and that it has a hint."""
    assert error.sqlstate == sqlstate, error
    text = f"{error.diag.message_primary}\n{error.diag.message_detail or ''}"
    for word in words:
        assert word in text
    assert error.diag.message_hint


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing", ["nothing"]),
        ("no.such", ["no.such"]),
        ("a.b.c.d", ["a.b.c.d"]),
        ("", ["no table"]),
        (None, ["NULL"]),
        ('"unclosed', ['"unclosed']),
        ("article; drop table article", ["article; drop table article"]),
        ("keyless", ["keyless", "primary key"]),
        ("article_view", ["article_view", "not a table"]),
        ("counter", ["counter", "not a table"]),
        ("parent", ["parent", "inherit"]),
        ("pg_catalog.pg_class", ["pg_class", "system table"]),
        ("pgembed.queue", ["pgembed.queue", "system table"]),
    ],
)
def test_source(article: psycopg.Connection, source: str, words: list[str]) -> None:
    error = refused(article, "select pgembed.create_embedding(%s, 'body')", source)
    expect(error, "PE003", *words)


def test_temporary_source(article: psycopg.Connection) -> None:
    article.execute("create temporary table scratch (id int primary key, body text)")
    error = refused(article, "select pgembed.create_embedding('scratch', 'body')")
    expect(error, "PE003", "scratch", "temporary")


EXPRESSIONS = [
    ("", ["empty"]),
    (None, ["empty"]),
    ("  ", ["empty"]),
    ("nothing", ["nothing", "article"]),
    ("nothing.body", ["nothing.body"]),
    ("body ||", ["syntax error", "body ||"]),
    ("body)", ["syntax error"]),
    ("(body", ["syntax error"]),
    ("'unclosed", ["unclosed"]),
    ("body /* unclosed", ["unclosed"]),
    ("no_function(body)", ["no_function"]),
    ("body::no_type", ["no_type"]),
    ("body + 1", ["operator"]),
    ("'x'::int", ["x"]),
    ("1 / 0 || body", ["division by zero"]),
    ("$1", ["$1"]),
    ("views", ["integer", "views"]),
    ("id = 1", ["boolean"]),
    ("array[body]", ["text[]"]),
    ("row(body)", ["record"]),
    ("(select body from article limit 1)", ["one value of one row"]),
    ("exists (select from article)::text", ["one value of one row"]),
    ("max(body)", ["one value of one row"]),
    ("string_agg(body, ',') over ()", ["one value of one row"]),
    ("many(body)", ["one value of one row"]),
    ("body, title", ["record"]),
    ("body), (title", ["one value of one row"]),
    ("body from article union select body", ["syntax error"]),
    ("body) from article union select (title", ["one value of one row"]),
    ("body) from article; drop table keyless; select (body", ["one value"]),
    ("nextval('counter')::text", ["nextval"]),
    ("noisy(body)", ["noisy(text)", "volatile"]),
    ("body || random()", ["random()", "volatile"]),
    ("pg_notify('x', body)::text", ["pg_notify"]),
]


@pytest.mark.parametrize(("expression", "words"), EXPRESSIONS)
def test_expression(
    article: psycopg.Connection, expression: str, words: list[str]
) -> None:
    call = "select pgembed.create_embedding('article', %s)"
    error = refused(article, call, expression)
    expect(error, "PE004", *words)
    if expression and expression.strip():
        call = "select pgembed.alter_embedding('taken', text_expression => %s)"
        error = refused(article, call, expression)
        expect(error, "PE004", *words)


def test_expression_over_its_own_vector(article: psycopg.Connection) -> None:
    error = refused(
        article,
        "select pgembed.create_embedding('article', 'to_jsonb(article)::text', "
        "storage => 'column')",
    )
    expect(error, "PE004", "embedding")
    create(article, name="inline", storage="column")
    error = refused(
        article,
        "select pgembed.alter_embedding('inline', text_expression => %s)",
        "to_jsonb(article)::text",
    )
    expect(error, "PE004", "embedding")


OPTIONS = [
    ("model => 'no/model'", "PE005", ["no/model"]),
    ("dimensions => 385", "PE006", ["384", "385", "all-MiniLM-L6-v2"]),
    ("dimensions => 0", "PE006", ["0"]),
    ("dimensions => -3", "PE006", ["-3"]),
    ("distance => 'manhattan'", "PE007", ["manhattan"]),
    ("storage => 'nowhere'", "PE007", ["nowhere"]),
    ("storage => 'column', chunking => 'sentences'", "PE007", ["column"]),
    ("vector_type => 'bit'", "PE007", ["bit"]),
    ("chunking => 'pages'", "PE007", ["pages"]),
    ("query_encoder => 'modle'", "PE007", ["modle"]),
    ("query_encoder => 'static', storage => 'column'", "PE007", ["column storage"]),
    ("chunk_size => 0", "PE007", ["0"]),
    ("chunk_size => 257", "PE007", ["257", "all-MiniLM-L6-v2"]),
    ("chunk_overlap => -1", "PE007", ["-1"]),
    ("chunk_size => 10, chunk_overlap => 10", "PE007", ["10"]),
    ("chunk_overlap => 256", "PE007", ["256"]),
    ("index => 'btree'", "PE007", ["btree"]),
    ("index => 'none', index_options => '{\"m\": 8}'", "PE007", ["none", "m"]),
    ("index => 'ivfflat', index_options => '{\"m\": 8}'", "PE007", ["ivfflat", "m"]),
    ("index_options => '{\"lists\": 8}'", "PE007", ["hnsw", "lists"]),
    ("index_options => '{\"m\": 1}'", "PE007", ["m", "1"]),
    ("index_options => '{\"m\": 101}'", "PE007", ["101"]),
    ("index_options => '{\"m\": 99999999999}'", "PE007", ["99999999999"]),
    ('index_options => \'{"m": "8; drop"}\'', "PE007", ["8; drop"]),
    ("index_options => '{\"m\": null}'", "PE007", ["null"]),
    ("index_options => '{\"ef_construction\": 31}'", "PE007", ["ef_construction"]),
    ("index_options => '{\"ef_construction\": 1001}'", "PE007", ["1001"]),
    ("index_options => '{\"binary\": 1}'", "PE007", ["binary", "1"]),
    ("index_options => '{\"binary\": null}'", "PE007", ["binary", "null"]),
    ("index_options => '{\"binary\": true}', distance => 'l2'", "PE007", ["l2"]),
    ("index_options => '[1]'", "PE007", ["[1]"]),
    ("index_options => 'null'", "PE007", ["null"]),
    ("wake => 'call'", "PE007", ["call"]),
    ("max_attempts => 0", "PE007", ["0"]),
    ("max_attempts => 100000", "PE007", ["100000"]),
]


@pytest.mark.parametrize(("options", "sqlstate", "words"), OPTIONS)
def test_option(
    article: psycopg.Connection, options: str, sqlstate: str, words: list[str]
) -> None:
    call = f"select pgembed.create_embedding('article', 'body', {options})"
    expect(refused(article, call), sqlstate, *words)
    if "storage" not in options:
        call = f"select pgembed.alter_embedding('other', {options})"
        expect(refused(article, call), sqlstate, *words)


def test_option_that_is_null_means_the_default(article: psycopg.Connection) -> None:
    name = value(
        article,
        "select pgembed.create_embedding('article', 'body', model => 'toy', "
        "storage => null, index => null, index_options => null, wake => null, "
        "max_attempts => null, chunking => null)",
    )
    service = service_for(article, name)
    assert service.column("(storage, index_kind, wake, max_attempts)::text") == (
        "(table,hnsw,notify,5)"
    )


@pytest.mark.parametrize("index", ["hnsw", "ivfflat"])
def test_index_that_does_not_support_the_distance(
    article: psycopg.Connection, index: str
) -> None:
    article.execute("select pgembed.register_model('huge', 5000, distance => 'l2')")
    call = (
        "select pgembed.create_embedding('article', 'body', model => 'huge', "
        "index => %s)"
    )
    expect(refused(article, call, index), "PE007", index, "halfvec", "5000", "l2")


def test_name_that_is_taken(article: psycopg.Connection) -> None:
    call = "select pgembed.create_embedding('parted', 'body', name => %s)"
    expect(refused(article, call, "taken"), "PE002", "taken", "article")
    expect(refused(article, call, "keyless"), "PE002", "keyless", "relation")
    article.execute("create table busy_hnsw (id int)")
    article.execute("create table empty_one (id int primary key, body text)")
    error = refused(
        article, "select pgembed.create_embedding('empty_one', 'body', name => 'busy')"
    )
    expect(error, "PE002", "busy_hnsw")


@pytest.mark.parametrize("name", ["", "n" * 64, "ü" * 32])
def test_name_of_a_wrong_length(article: psycopg.Connection, name: str) -> None:
    call = "select pgembed.create_embedding('article', 'body', name => %s)"
    expect(refused(article, call, name), "PE007", f'"{name}"')


def test_column_that_is_taken(article: psycopg.Connection) -> None:
    call = (
        "select pgembed.create_embedding('article', 'body', storage => 'column', "
        "column_name => 'views')"
    )
    expect(refused(article, call), "PE002", "views", "article")


def test_column_storage_on_a_partitioned_table(article: psycopg.Connection) -> None:
    call = "select pgembed.create_embedding('parted', 'body', storage => 'column')"
    expect(refused(article, call), "PE007", "parted")


@pytest.mark.parametrize(
    "call",
    [
        "alter_embedding(%s)",
        "drop_embedding(%s)",
        "drop_embedding(%s, if_exists => false)",
        "pause_embedding(%s)",
        "resume_embedding(%s)",
        "reembed(%s)",
        "repair(%s)",
    ],
)
@pytest.mark.parametrize("name", ["absent", "Taken", "", None])
def test_embedding_that_does_not_exist(
    article: psycopg.Connection, call: str, name: str | None
) -> None:
    error = refused(article, f"select pgembed.{call}", name)
    expect(error, "PE001", name or "")
    assert "taken" in str(error.diag.message_hint)


def test_retry_of_an_embedding_that_does_not_exist(
    article: psycopg.Connection,
) -> None:
    expect(refused(article, "select pgembed.retry('absent')"), "PE001", "absent")


def test_drop_if_exists(article: psycopg.Connection) -> None:
    before = value(article, SNAPSHOT)
    article.execute("select pgembed.drop_embedding('absent', if_exists => true)")
    assert value(article, SNAPSHOT) == before


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "words"),
    [
        ("'', 3", "PE007", ["name"]),
        ("null, 3", "PE007", ["name"]),
        ("'m', 0", "PE007", ["0"]),
        ("'m', 16001", "PE007", ["16001"]),
        ("'m', null", "PE007", ["NULL"]),
        ("'m', 3, provider => 'magic'", "PE007", ["magic"]),
        ("'m', 3, distance => 'far'", "PE007", ["far"]),
        ("'m', 3, max_tokens => 0", "PE007", ["0"]),
        ("'toy', 4", "PE006", ["toy", "4"]),
    ],
)
def test_register_model(
    article: psycopg.Connection, arguments: str, sqlstate: str, words: list[str]
) -> None:
    error = refused(article, f"select pgembed.register_model({arguments})")
    expect(error, sqlstate, *words)


def test_model_that_is_not_what_was_registered(article: psycopg.Connection) -> None:
    model = value(article, "select model_id from pgembed.model where name = 'toy'")
    seen = "select pgembed._model_seen_v1(%s, %s, 100, true, %s)"
    expect(refused(article, seen, model, 4, "abc"), "PE006", "toy", "4", "3")
    article.execute(seen, [model, 3, "abc"])
    article.execute(seen, [model, 3, "abc"])
    expect(refused(article, seen, model, 3, "xyz"), "PE011", "toy", "abc", "xyz")


def test_accepted_weights_mix_with_no_earlier_vector(
    article: psycopg.Connection,
) -> None:
    service = service_for(article, "taken")
    service.drain()
    assert service.embedded()
    article.execute("select pgembed.accept_weights('toy', 'other')")
    assert service.embedded() == {}
    service.drain()
    assert service.embedded() == {"1": "body"}


def test_role_without_privileges(article: psycopg.Connection, dsn: str) -> None:
    role = f"{article.info.dbname}_stranger"
    article.execute(
        sql.SQL("create role {0}; grant usage on schema pgembed to {0}").format(
            sql.Identifier(role)
        )
    )
    article.execute(f"grant select on pgembed.embedding, pgembed.model to {role}")
    article.execute(f"grant create on schema public to {role}")
    try:
        with psycopg.connect(dsn, autocommit=True) as stranger:
            stranger.execute(f"set role {role}")
            stranger.execute("create table mine (id int primary key, body text)")
            for call in [
                "create_embedding('mine', 'body')",
                "drop_embedding('taken')",
                "alter_embedding('taken', wake => 'poll')",
                "pause_embedding('taken')",
                "resume_embedding('taken')",
                "repair('taken')",
                "reembed('taken')",
                "retry()",
                "register_model('m', 3)",
                "drop_model('toy')",
                "accept_weights('toy', 'x')",
                f"grant_usage('{role}')",
            ]:
                with pytest.raises(psycopg.Error) as caught:
                    stranger.execute(f"select pgembed.{call}")
                expect(caught.value, "PE013", role)
            for table in ["queue", "dead_letter", "query_embedding", "worker"]:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    stranger.execute(f"select * from pgembed.{table}")
    finally:
        article.execute(f"drop owned by {role}")
        article.execute(f"drop role {role}")


def test_table_of_someone_else(article: psycopg.Connection, dsn: str) -> None:
    role = f"{article.info.dbname}_keeper"
    article.execute(f"create role {role}")
    try:
        article.execute(f"grant create on database {article.info.dbname} to {role}")
        article.execute(
            f"do $$ begin execute format('alter schema pgembed owner to %I', '{role}');"
            " end $$"
        )
        with psycopg.connect(dsn, autocommit=True) as keeper:
            keeper.execute(f"grant all on all tables in schema pgembed to {role}")
            keeper.execute(f"set role {role}")
            with pytest.raises(psycopg.Error) as caught:
                keeper.execute("select pgembed.create_embedding('article', 'body')")
            expect(caught.value, "PE013", role, "article")
    finally:
        article.execute("alter schema pgembed owner to current_user")
        article.execute(f"drop owned by {role}")
        article.execute(f"drop role {role}")


def test_nul_byte_and_invalid_utf8(article: psycopg.Connection) -> None:
    with pytest.raises(psycopg.DataError):
        article.execute("insert into article values (9, %s)", ["a\x00b"])
    for raw in [b"\xff", b"\x00"]:
        before = value(article, SNAPSHOT)
        with pytest.raises(psycopg.errors.CharacterNotInRepertoire):
            article.execute(
                "insert into article (id, body) values (9, convert_from(%s, 'UTF8'))",
                [raw],
            )
        assert value(article, SNAPSHOT) == before
    result = article.pgconn.exec_(b"insert into article values (9, '\xff')")
    assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"22021"


def test_register_model_again_changes_it(conn: psycopg.Connection) -> None:
    register_toy(conn)
    register_toy(conn, 4)
    assert value(conn, "select dimensions from pgembed.model where name = 'toy'") == 4


def test_a_model_in_use_is_not_dropped(article: psycopg.Connection) -> None:
    error = refused(article, "select pgembed.drop_model('toy')")
    expect(error, "PE007", "toy")
    assert error.diag.message_detail == "By: public.taken."
    article.execute("select pgembed.drop_embedding('taken')")
    article.execute("select pgembed.drop_model('toy')")
    expect(refused(article, "select pgembed.drop_model('toy')"), "PE005", "toy")
    article.execute("select pgembed.drop_model('toy', if_exists => true)")
