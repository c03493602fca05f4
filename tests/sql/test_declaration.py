"""Declaring, changing and dropping embeddings: what is made, kept and removed."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.fixtures.postgres import prepared_by
from tests.sql.steps import (
    ARTICLE,
    Service,
    create,
    declare,
    register_toy,
    service_for,
    value,
)
from tests.sql.test_bad_input import SNAPSHOT, expect, refused

# One session declares, and looks at what that made.
pytestmark = pytest.mark.rolled_back

NAME = "article_embedding"


def make_article(conn: psycopg.Connection) -> None:
    """Make an empty table, and the made-up model known."""
    conn.execute(ARTICLE)
    register_toy(conn)


@pytest.fixture
@prepared_by(make_article)
def article(conn: psycopg.Connection) -> psycopg.Connection:
    """Give an empty table, and the made-up model."""
    return conn


def make_filled(conn: psycopg.Connection) -> None:
    """Declare an embedding and embed three rows."""
    make_article(conn)
    conn.execute(
        "insert into article (id, title, body) "
        "select i, 'title', 'body ' || i from generate_series(1, 3) as i"
    )
    service_for(conn, create(conn)).drain()


@pytest.fixture
@prepared_by(make_filled)
def filled(conn: psycopg.Connection) -> Service:
    """Give an embedding of three embedded rows."""
    return service_for(conn, NAME)


def catalog(service: Service) -> dict[str, Any]:
    """Give the catalog row."""
    row: dict[str, Any] = value(
        service.conn,
        "select to_jsonb(t) || to_jsonb(e) from pgembed.embedding as e"
        " join pgembed.captured_text as t using (text_id) where embedding_id = %s",
        service.embedding_id,
    )
    return row


def index_definition(conn: psycopg.Connection, name: str) -> str | None:
    """Give the statement that makes an index, or None if it is not there."""
    definition: str | None = value(
        conn, "select pg_get_indexdef(to_regclass(%s))", f'"{name}"'
    )
    return definition


def column_type(conn: psycopg.Connection, table: str, column: str) -> str:
    """Give the type of a column."""
    kind: str = value(
        conn,
        "select format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = %s::regclass and attname = %s",
        table,
        column,
    )
    return kind


def vectors_written_at(service: Service) -> list[Any]:
    """Give when each vector was written."""
    return service.conn.execute(
        f"select * from (select embedded_at from {NAME} order by id, chunk) as a"
    ).fetchall()


# create_embedding


def test_defaults(article: psycopg.Connection) -> None:
    name = value(article, "select pgembed.create_embedding('article', 'body')")
    assert name == NAME
    service = service_for(article, name)
    row = catalog(service)
    model = "select name from pgembed.model where model_id = %s"
    assert value(article, model, row["model_id"]) == "all-MiniLM-L6-v2"
    expected = {
        "source": "article",
        "side_table": NAME,
        "text_expression": "body",
        "canonical_expression": "body",
        "source_columns": ["body"],
        "volatility": "immutable",
        "foreign_code": False,
        "dimensions": 384,
        "distance": "cosine",
        "storage": "table",
        "column_name": None,
        "vector_type": "vector",
        "chunking": "sentences",
        "chunk_size": None,
        "chunk_overlap": None,
        "index_kind": "hnsw",
        "index_options": {},
        "wake": "notify",
        "max_attempts": 5,
        "query_encoder": "auto",
        "state": "active",
        "capture": True,
        "revision": 1,
    }
    assert {key: row[key] for key in expected} == expected
    assert column_type(article, NAME, "embedding") == "vector(384)"


def test_every_option_lands_in_the_catalog(article: psycopg.Connection) -> None:
    options: dict[str, Any] = {
        "name": "My Embedding",
        "dimensions": 2,
        "distance": "l2",
        "storage": "table",
        "chunking": "none",
        "chunk_size": 50,
        "chunk_overlap": 7,
        "vector_type": "halfvec",
        "index": "hnsw",
        "index_options": '{"m": 8, "ef_construction": 32}',
        "wake": "poll",
        "max_attempts": 2,
        "query_encoder": "static",
    }
    text = "title || E'\\n\\n' || body -- the whole text"
    row = catalog(service_for(article, create(article, "article", text, **options)))
    assert row["text_expression"] == text
    assert row["source_columns"] == ["body", "title"]
    assert row["side_table"] == '"My Embedding"'
    assert row["index_options"] == {"m": 8, "ef_construction": 32}
    options["index_kind"] = options.pop("index")
    del options["index_options"]
    assert {key: row[key] for key in options} == options
    assert column_type(article, '"My Embedding"', "embedding") == "halfvec(2)"
    assert index_definition(article, "My Embedding_hnsw") == (
        'CREATE INDEX "My Embedding_hnsw" ON public."My Embedding" USING hnsw '
        "(embedding halfvec_l2_ops) WITH (ef_construction='32', m='8')"
    )


@pytest.mark.parametrize("index", ["hnsw", "ivfflat"])
@pytest.mark.parametrize(
    ("dimensions", "distance", "operators"),
    [
        (dimensions, distance, operators)
        for dimensions in (2000, 2001, 4000, 4001)
        for distance, operators in (
            ("cosine", "cosine_ops"),
            ("inner_product", "ip_ops"),
            ("l2", "l2_ops"),
        )
        # Signs do not tell of lengths: see test_bad_input.
        if dimensions <= 4000 or distance != "l2"
    ],
)
def test_vector_type_and_operators_follow_size_and_distance(
    article: psycopg.Connection,
    index: str,
    dimensions: int,
    distance: str,
    operators: str,
) -> None:
    article.execute("select pgembed.register_model('big', 5000)")
    name = create(
        article, model="big", dimensions=dimensions, distance=distance, index=index
    )
    kind = "vector" if dimensions <= 2000 else "halfvec"
    assert column_type(article, NAME, "embedding") == f"{kind}({dimensions})"
    ddl = value(
        article,
        "select pgembed._index_ddl(e, e.side_table, false) from pgembed.embedding as e",
    )
    if index == "ivfflat":
        article.execute(ddl)
    indexed, method, operator_class = article.execute(
        "select pg_get_indexdef(i.oid, 1, false), am.amname, o.opcname "
        "from pg_class as i join pg_am as am on am.oid = i.relam "
        "join pg_index as x on x.indexrelid = i.oid "
        "join pg_opclass as o on o.oid = x.indclass[0] where i.relname = %s",
        [f"{name}_{index}"],
    ).fetchall()[0]
    assert method == index
    if dimensions > 4000:
        assert indexed == f"((binary_quantize(embedding))::bit({dimensions}))"
        assert operator_class == "bit_hamming_ops"
    else:
        assert indexed == "embedding"
        assert operator_class == f"{kind}_{operators}"


def test_more_dimensions_than_a_vector_index_takes(
    article: psycopg.Connection,
) -> None:
    article.execute("select pgembed.register_model('big', 3000)")
    create(article, model="big", vector_type="vector")
    assert column_type(article, NAME, "embedding") == "vector(3000)"
    definition = index_definition(article, f"{NAME}_hnsw")
    assert definition is not None
    assert "bit_hamming_ops" in definition


def test_empty_table_has_its_index_at_once(article: psycopg.Connection) -> None:
    service = service_for(article, create(article))
    assert service.column("pgembed._index_state(embedding)") == "valid"
    assert service.column("backfill_state") == "done"
    assert (
        value(
            article,
            "select embedding_id from pgembed._index_next_v1(gen_random_uuid())",
        )
        is None
    )


def test_no_index_when_none_is_wanted(filled: Service) -> None:
    conn = filled.conn
    name = create(conn, name="plain", index="none")
    service = service_for(conn, name)
    service.drain()
    assert service.column("pgembed._index_state(embedding)") == "none"


def test_several_embeddings_on_one_table(filled: Service) -> None:
    second = service_for(filled.conn, create(filled.conn, name="b", storage="column"))
    third = service_for(filled.conn, create(filled.conn, "article", "title", name="c"))
    filled.conn.execute("insert into article (id, title, body) values (9, 't', 'x')")
    for service in (filled, second, third):
        service.drain()
    assert filled.embedded()["9"] == "x"
    assert third.embedded()["9"] == "t"
    filled.conn.execute("select pgembed.drop_embedding('b')")
    filled.conn.execute("update article set title = 'u', body = 'y' where id = 9")
    filled.drain()
    third.drain()
    assert (filled.embedded()["9"], third.embedded()["9"]) == ("y", "u")


@pytest.mark.parametrize("letter", ["n", "ü", "漢"])
def test_names_as_long_as_they_may_be(conn: psycopg.Connection, letter: str) -> None:
    register_toy(conn)
    name = letter * (63 // len(letter.encode()))
    conn.execute(f'create table "{name}" (id int primary key, "{name[:-1]}" text)')
    first = create(conn, f'"{name}"', f'"{name[:-1]}"', name=name[:-1] + "1")
    other = create(conn, f'"{name}"', f'"{name[:-1]}"', name=name[:-1] + "2")
    services = [service_for(conn, first), service_for(conn, other)]
    for service in services:
        assert service.column("pgembed._index_state(embedding)") == "valid"
    conn.execute(f"insert into \"{name}\" values (1, 'a')")
    for service in services:
        service.drain()
        assert service.embedded() == {"1": "a"}
        conn.execute("select pgembed.drop_embedding(%s)", [service.name])


def test_default_name_that_would_be_too_long(conn: psycopg.Connection) -> None:
    register_toy(conn)
    table = "t" * 60
    conn.execute(f"create table {table} (id int primary key, body text)")
    with pytest.raises(psycopg.Error) as caught:
        create(conn, table)
    expect(caught.value, "PE007", f"{table}_embedding")


def test_side_table_has_the_keys_own_types(conn: psycopg.Connection) -> None:
    conn.execute(
        'create table article (body text, chunk varchar(10) collate "C",'
        " n numeric(8, 2), primary key (n, chunk))"
    )
    declare(conn)
    columns = conn.execute(
        "select attname, format_type(atttypid, atttypmod), attcollation::regcollation "
        f"from pg_attribute where attrelid = '{NAME}'::regclass and attnum between 1 "
        "and 3 order by attnum"
    ).fetchall()
    assert [row[:2] for row in columns] == [
        ("n", "numeric(8,2)"),
        ("source_chunk", "character varying(10)"),
        ("chunk", "integer"),
    ]
    assert columns[1][2] == '"C"'


def test_declaration_from_any_search_path(conn: psycopg.Connection) -> None:
    register_toy(conn)
    conn.execute("create schema shop; create schema lib")
    conn.execute("create table shop.article (id int primary key, body text)")
    conn.execute(
        "create function lib.clean(text) returns text language sql immutable as "
        "$$ select btrim($1) $$"
    )
    conn.execute("set search_path = shop, lib, public")
    service = service_for(conn, create(conn, "article", "clean(body)"))
    assert value(conn, "show search_path") == "shop, lib, public"
    assert service.column("canonical_expression") == "lib.clean(body)"
    assert value(conn, "select foreign_code from pgembed.captured_text")
    conn.execute("set search_path = public")
    conn.execute("insert into shop.article values (1, ' a ')")
    service.drain()
    assert service.embedded() == {"1": "a"}


def test_declaration_is_part_of_its_transaction(article: psycopg.Connection) -> None:
    before = value(article, SNAPSHOT)
    with article.transaction(force_rollback=True):
        create(article)
    assert value(article, SNAPSHOT) == before


@pytest.mark.rolled_back(False)  # names its parts by number
def test_readers_of_the_source_read_the_vectors(article: psycopg.Connection) -> None:
    role = f"{article.info.dbname}_reader"
    article.execute(f"create role {role}")
    try:
        article.execute(f"grant select on article to {role}")
        article.execute("alter table article enable row level security")
        article.execute(f"create policy own on article to {role} using (id = 1)")
        service = service_for(article, create(article))
        article.execute("insert into article (id, body) values (1, 'a'), (2, 'b')")
        service.drain()
        with article.transaction():
            article.execute(f"set local role {role}")
            read = f"select id, content from {NAME}"
            assert article.execute(read).fetchall() == [(1, "a")]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                article.execute(f"delete from {NAME}")
    finally:
        article.execute(f"drop owned by {role}")
        article.execute(f"drop role {role}")


# drop_embedding


@pytest.mark.parametrize("storage", ["table", "column"])
def test_drop_leaves_nothing(article: psycopg.Connection, storage: str) -> None:
    article.execute("insert into article (id, body) values (1, 'a'), (2, 'b')")
    before = value(article, SNAPSHOT)
    service = service_for(article, create(article, storage=storage))
    service.backfill()
    jobs = service.claim(1)
    service.write(jobs, service.read_jobs(jobs))
    service.conn.execute(
        "insert into pgembed.dead_letter (seq, embedding_id, op, attempts, error) "
        "values (1, %s, 'U', 1, 'x')",
        [service.embedding_id],
    )
    article.execute("select pgembed.drop_embedding(%s)", [NAME])
    # A dropped column leaves the rows as they were.
    assert value(article, SNAPSHOT) == before
    assert value(article, "select count(*) from pgembed.dead_letter") == 0
    article.execute("insert into article (id, body) values (3, 'c')")
    assert create(article, storage=storage) == NAME


def test_drop_of_a_partitioned_tables_embedding(conn: psycopg.Connection) -> None:
    register_toy(conn)
    conn.execute(ARTICLE)
    conn.execute(
        "create table parted (id int primary key, body text) partition by range (id);"
        "create table low partition of parted for values from (0) to (10)"
    )
    before = value(conn, SNAPSHOT)
    create(conn, "parted")
    conn.execute("select pgembed.drop_embedding('parted_embedding')")
    assert value(conn, SNAPSHOT) == before


@pytest.mark.parametrize("storage", ["table", "column"])
def test_drop_after_the_source_was_dropped(
    article: psycopg.Connection, storage: str
) -> None:
    service = service_for(article, create(article, storage=storage))
    article.execute("insert into article (id, body) values (1, 'a')")
    service.drain()
    article.execute("drop table article")
    article.execute("select pgembed._reconcile_v1()")
    assert service.column("state") == "broken"
    assert "dropped" in service.column("state_reason")
    for call in (
        "repair(%s)",
        "alter_embedding(%s, chunk_size => 5)",
        "resume_embedding(%s)",
    ):
        with pytest.raises(psycopg.Error) as caught:
            article.execute(f"select pgembed.{call}", [NAME])
        expect(caught.value, "PE003", NAME, "dropped")
    article.execute("select pgembed.drop_embedding(%s)", [NAME])
    rest = (
        "select to_regclass(%s) is null and not exists (select from pgembed.embedding)"
    )
    assert value(article, rest, NAME)
    assert (
        value(
            article,
            "select count(*) from pg_proc where proname like '\\_capture\\_1\\_%%'",
        )
        == 0
    )


# alter_embedding


def alter(service: Service, **options: object) -> None:
    """Call alter_embedding; see service/test_switch.py for the way without a gap."""
    options = {"switch": "in_place", **options}
    named = "".join(f", {name} => %s" for name in options)
    service.conn.execute(
        f"select pgembed.alter_embedding(%s{named})", [service.name, *options.values()]
    )


def build_index(service: Service) -> list[str]:
    """Build the next index as the service does; give the statements."""
    conn = service.conn
    row = conn.execute(
        "select * from pgembed._index_next_v1(gen_random_uuid())"
    ).fetchone()
    assert row is not None
    if row[0] is None:
        return []
    for statement in row[1]:
        conn.execute(statement)
    conn.execute("select pgembed._index_done_v1(%s, null)", [row[0]])
    statements: list[str] = row[1]
    return statements


@pytest.mark.rolled_back(False)  # builds concurrently
@pytest.mark.parametrize(
    ("options", "rows", "index"),
    [
        ({"wake": "poll"}, 0, False),
        ({"max_attempts": 9}, 0, False),
        ({"query_encoder": "model"}, 0, False),
        ({"text_expression": "body"}, 0, False),
        ({"text_expression": "body || ' x'"}, 3, False),
        ({"text_expression": "coalesce(body, title)"}, 0, False),
        ({"chunking": "none"}, 3, False),
        ({"chunk_size": 9}, 3, False),
        ({"chunk_overlap": 2}, 3, False),
        ({"distance": "l2"}, 0, True),
        ({"index": "ivfflat", "index_options": '{"lists": 2}'}, 0, True),
        ({"index_options": '{"m": 5}'}, 0, True),
        ({"index_options": '{"binary": true}'}, 0, True),
        ({"vector_type": "halfvec"}, 3, True),
        ({"model": "toy3"}, 3, True),
    ],
)
def test_alter_redoes_what_it_must_and_nothing_else(
    filled: Service, options: dict[str, Any], rows: int, *, index: bool
) -> None:
    conn = filled.conn
    conn.execute("select pgembed.register_model('toy3', 3, provider => 'hashing')")
    assert build_index(filled)
    assert build_index(filled) == []
    before = catalog(filled)
    alter(filled, **options)
    after = catalog(filled)
    assert after["revision"] == before["revision"] + 1
    for option, given in options.items():
        column = {"index": "index_kind", "model": "model_id"}.get(option, option)
        if option not in {"model", "index_options"}:
            assert after[column] == given
    if options.keys() & {"model", "vector_type"}:
        # Vectors of two models or types are never side by side.
        assert filled.embedded() == {}
    else:
        assert len(filled.embedded()) == 3
    assert filled.drain() == rows
    assert len(filled.embedded()) == 3
    assert bool(build_index(filled)) == index
    assert filled.column("pgembed._index_state(embedding)") == "valid"
    conn.execute("update article set body = 'after' where id = 1")
    filled.drain()
    assert filled.embedded()["1"].startswith("after")


RESET = {
    "model": "big",
    "dimensions": 2,
    "distance": "l2",
    "chunking": "none",
    "chunk_size": 9,
    "chunk_overlap": 2,
    "vector_type": "halfvec",
    "index": "none",
    "index_options": '{"m": 5}',
    "wake": "poll",
    "max_attempts": 9,
    "query_encoder": "static",
    "bm25": False,
}


@pytest.mark.parametrize("option", RESET)
def test_an_option_goes_back_to_its_default(filled: Service, option: str) -> None:
    filled.conn.execute("select pgembed.register_model('big', 3, distance => 'l2')")
    filled.conn.execute("select pgembed.register_model('all-MiniLM-L6-v2', 3)")
    alter(filled, model="all-MiniLM-L6-v2")

    def declared() -> dict[str, Any]:
        now = catalog(filled)
        now["bm25"] = value(filled.conn, "select count(*) from pgembed.bm25")
        for other in ("revision", "valid_from", "backfill_state", "capture_digest"):
            del now[other]
        return now

    filled.drain()
    before = declared()
    alter(filled, **{option: RESET[option]})
    assert declared() != before
    alter(filled, reset=[option])
    assert declared() == before
    assert filled.drain() == (3 if option in RENEWING else 0)
    assert len(filled.embedded()) == 3


RENEWING = {
    *("model", "dimensions", "chunking", "chunk_size", "chunk_overlap", "vector_type")
}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reset": ["chunksize"]}, '"chunksize"'),
        ({"reset": ["text_expression"]}, '"text_expression"'),
        ({"reset": ["name"]}, '"name"'),
        ({"reset": ["chunk_size", None]}, '"NULL"'),
        ({"reset": ["bm25_options.k2"]}, '"bm25_options.k2"'),
        ({"reset": ["chunk_size"], "chunk_size": 5}, '"chunk_size" is given'),
        ({"reset": ["bm25"], "bm25": False}, '"bm25" is given'),
    ],
)
def test_what_cannot_be_reset(
    filled: Service, options: dict[str, Any], says: str
) -> None:
    before = catalog(filled)
    with pytest.raises(psycopg.Error) as caught:
        alter(filled, **options)
    expect(caught.value, "PE007", says)
    assert catalog(filled) == before


def test_alter_to_fewer_dimensions(filled: Service) -> None:
    alter(filled, dimensions=2)
    assert column_type(filled.conn, NAME, "embedding") == "vector(2)"
    assert filled.column("backfill_state") == "pending"
    assert filled.column("dimensions") == 2


def test_alter_to_a_larger_model(filled: Service) -> None:
    filled.conn.execute("select pgembed.register_model('big', 3000, distance => 'l2')")
    alter(filled, model="big")
    assert column_type(filled.conn, NAME, "embedding") == "halfvec(3000)"
    assert filled.column("distance") == "l2"


def test_alter_of_column_storage(article: psycopg.Connection) -> None:
    article.execute("insert into article (id, body) values (1, 'a')")
    service = service_for(article, create(article, storage="column", column_name="v"))
    service.drain()
    alter(service, vector_type="halfvec")
    assert column_type(article, "article", "v") == "halfvec(3)"
    assert value(article, "select v is null from article")
    service.drain()
    assert value(article, "select v is not null from article")


def test_alter_of_a_text_follows_its_columns(filled: Service) -> None:
    alter(filled, text_expression="title")
    filled.drain()
    filled.conn.execute("update article set body = 'x'")
    assert filled.jobs() == []
    filled.conn.execute("update article set title = 'new' where id = 2")
    assert filled.jobs() == [("U", "2")]


@pytest.mark.rolled_back(False)  # builds concurrently
def test_alter_that_fails_changes_nothing(filled: Service) -> None:
    build_index(filled)
    error = refused(
        filled.conn,
        "select pgembed.alter_embedding('article_embedding', distance => 'l2', "
        "text_expression => 'nothing')",
    )
    expect(error, "PE004", "nothing")
    assert filled.column("pgembed._index_state(embedding)") == "valid"


# pause, resume, reembed, repair


def test_pause_without_capture_allows_a_change_of_type(filled: Service) -> None:
    conn = filled.conn
    for change in ["body type varchar(500)", "id type bigint"]:
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            conn.execute(f"alter table article alter column {change}")
    conn.execute("select pgembed.pause_embedding(%s, capture => false)", [NAME])
    conn.execute("alter table article alter column body type varchar(500)")
    conn.execute("alter table article alter column id type bigint")
    conn.execute("update article set body = 'unseen' where id = 1")
    conn.execute("delete from article where id = 2")
    conn.execute("insert into article (id, body) values (9000000000, 'large')")
    assert filled.jobs() == []
    alter(filled, max_attempts=3)
    assert filled.column("state") == "paused"
    conn.execute("update article set body = 'still unseen' where id = 1")
    assert filled.jobs() == []
    conn.execute("select pgembed.resume_embedding(%s)", [NAME])
    assert filled.column("state") == "active"
    assert filled.drain() == 2
    assert filled.embedded() == {
        "1": "still unseen",
        "3": "body 3",
        "9000000000": "large",
    }
    assert column_type(conn, NAME, "id") == "bigint"
    conn.execute("delete from article where id > 5")
    filled.drain()
    assert len(filled.embedded()) == 2


def test_reembed_makes_all_vectors_again(filled: Service) -> None:
    before = vectors_written_at(filled)
    filled.conn.execute("select pgembed.reembed(%s)", [NAME])
    assert vectors_written_at(filled) == before
    assert filled.drain() == 3
    assert not set(vectors_written_at(filled)) & set(before)


def test_repair_restores_triggers_and_privileges(filled: Service) -> None:
    conn = filled.conn
    wanted = value(conn, SNAPSHOT)
    conn.execute(f"drop trigger pgembed_text_{filled.embedding_id}_insert on article")
    conn.execute(f"drop function pgembed._text_{filled.embedding_id}_update cascade")
    conn.execute(f"grant select on {NAME} to public")
    conn.execute("insert into article (id, body) values (9, 'unseen')")
    conn.execute("select pgembed.repair(%s)", [NAME])
    filled.drain()
    assert filled.embedded()["9"] == "unseen"
    conn.execute("delete from article where id = 9")
    filled.drain()
    conn.execute("update pgembed.embedding set revision = 1, backfill_state = 'done'")
    assert value(conn, SNAPSHOT) == wanted


def test_repair_encodes_nothing_for_nothing(filled: Service) -> None:
    before = vectors_written_at(filled)
    filled.conn.execute("select pgembed.repair(%s)", [NAME])
    assert filled.drain() == 0
    assert vectors_written_at(filled) == before


# The index after the first fill


@pytest.mark.rolled_back(False)  # builds concurrently
def test_index_is_built_after_the_first_fill(article: psycopg.Connection) -> None:
    article.execute("insert into article (id, body) values (1, 'a')")
    service = service_for(article, create(article, index_options='{"m": 4}'))
    assert service.column("pgembed._index_state(embedding)") == "pending"
    assert build_index(service) == []
    service.backfill()
    assert build_index(service) == []  # backfill jobs are still in the queue
    service.drain()
    memory, statement = build_index(service)
    assert "maintenance_work_mem" in memory
    assert "concurrently" in statement
    assert service.column("pgembed._index_state(embedding)") == "valid"
    definition = index_definition(article, f"{NAME}_hnsw")
    assert definition is not None
    assert "m='4'" in definition


@pytest.mark.rolled_back(False)  # builds concurrently
def test_invalid_index_is_replaced(filled: Service) -> None:
    build_index(filled)
    filled.conn.execute(
        "update pg_index set indisvalid = false where indexrelid = %s::regclass",
        [f"{NAME}_hnsw"],
    )
    assert filled.column("pgembed._index_state(embedding)") == "invalid"
    statements = build_index(filled)
    assert len(statements) == 3
    assert "drop index concurrently" in statements[1]
    assert filled.column("pgembed._index_state(embedding)") == "valid"


def test_one_service_builds_an_index(filled: Service, dsn: str) -> None:
    conn = filled.conn
    ask = "select embedding_id from pgembed._index_next_v1(gen_random_uuid())"
    alive = "00000000-0000-0000-0000-000000000001"
    conn.execute(
        "select pgembed._heartbeat_v1(%s, 'host', 1, '1', '{}', '{}')", [alive]
    )
    assert value(conn, ask.replace("gen_random_uuid()", f"'{alive}'")) == (
        filled.embedding_id
    )
    with psycopg.connect(dsn, autocommit=True) as other:
        assert value(other, ask) is None
    # Its heart beats no more.
    with conn.transaction(force_rollback=True):
        conn.execute("update pgembed.worker set heartbeat_at = '2000-01-01'")
        assert value(conn, ask) == filled.embedding_id
    conn.execute(
        "select pgembed._index_done_v1(%s, 'disk full')", [filled.embedding_id]
    )
    with psycopg.connect(dsn, autocommit=True) as other:
        assert value(other, ask) is None  # not again and again
    assert filled.column("index_error") == "disk full"
    conn.execute("select pgembed.repair(%s)", [NAME])
    filled.drain()
    assert value(conn, ask) == filled.embedding_id


@pytest.mark.rolled_back(False)  # builds concurrently
@pytest.mark.parametrize(("rows", "lists"), [(3, 1), (2500, 3)])
def test_ivfflat_learns_its_lists_from_the_rows(
    article: psycopg.Connection, rows: int, lists: int
) -> None:
    service = service_for(article, create(article, index="ivfflat"))
    assert build_index(service) == []
    article.execute(
        "insert into article (id, body) select i, 'x' || i "
        "from generate_series(1, %s) as i",
        [rows],
    )
    service.drain()
    memory, statement = build_index(service)
    assert "maintenance_work_mem" in memory
    assert f"lists = {lists}" in statement


# A source that is changed under the embedding


def test_renamed_column(filled: Service) -> None:
    conn = filled.conn
    conn.execute("alter table article rename column body to contents")
    conn.execute("insert into article (id, contents) values (7, 'a')")
    conn.execute("update article set contents = 'b' where id = 1")
    conn.execute("delete from article where id = 2")
    conn.execute("select pgembed._reconcile_v1()")
    assert filled.column("state") == "broken"
    reason = filled.column("state_reason")
    assert '"body"' in reason
    assert "alter_embedding" in reason
    conn.execute("update article set contents = 'c' where id = 3")
    alter(filled, text_expression="contents")
    assert filled.column("(state, state_reason)::text") == "(active,)"
    filled.drain()
    assert filled.embedded() == {"1": "b", "3": "c", "7": "a"}


def test_dropped_column(filled: Service) -> None:
    conn = filled.conn
    conn.execute("alter table article drop column body cascade")
    conn.execute("insert into article (id, title) values (7, 'seven')")
    conn.execute("update article set title = 'one' where id = 1")
    conn.execute("select pgembed._reconcile_v1()")
    assert filled.column("state") == "broken"
    assert '"body"' in filled.column("state_reason")
    alter(filled, text_expression="title")
    filled.drain()
    assert filled.embedded() == {"1": "one", "2": "title", "3": "title", "7": "seven"}


def test_new_column_under_the_old_name(filled: Service) -> None:
    conn = filled.conn
    conn.execute("alter table article rename column body to old_body")
    conn.execute("alter table article add column body text default 'fresh'")
    conn.execute("select pgembed._reconcile_v1()")
    assert filled.column("state") == "active"  # the triggers watch this one now
    conn.execute("update article set body = 'watched' where id = 2")
    filled.drain()
    assert filled.embedded() == {"1": "fresh", "2": "watched", "3": "fresh"}
    conn.execute("select pgembed._reconcile_v1()")
    assert filled.column("state") == "active"


def test_renamed_table_and_schema(filled: Service) -> None:
    conn = filled.conn
    conn.execute("create schema news")
    conn.execute("alter table article rename to story")
    conn.execute("alter table story set schema news")
    conn.execute("alter table article_embedding rename to vectors")
    conn.execute("alter table vectors set schema news")
    conn.execute("update news.story set body = 'moved' where id = 1")
    conn.execute("delete from news.story where id = 2")
    conn.execute("select pgembed._reconcile_v1()")
    assert filled.column("state") == "active"
    filled.drain()
    assert filled.embedded() == {"1": "moved", "3": "body 3"}


def test_renamed_key_column_heals_by_itself(filled: Service) -> None:
    conn = filled.conn
    conn.execute("alter table article rename column id to number")
    conn.execute("insert into article (number, body) values (7, 'a')")
    conn.execute("update article set body = 'b' where number = 1")
    conn.execute("delete from article where number = 2")
    assert filled.jobs() == [("R", None)]
    filled.drain()
    assert filled.embedded() == {"1": "b", "3": "body 3", "7": "a"}
    conn.execute("update article set body = 'c' where number = 3")
    assert filled.jobs() == [("U", "3")]
    filled.drain()
    conn.execute("select pgembed._reconcile_v1()")
    assert filled.column("state") == "active"


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_key_column_whose_name_another_takes(
    filled: Service, dsn: str, isolation: str
) -> None:
    conn = filled.conn
    with psycopg.connect(dsn, autocommit=True) as writer:
        writer.execute(f"set default_transaction_isolation = '{isolation}'")
        for key in range(10, 20):  # so that the session has planned its capture
            writer.execute("insert into article (id, body) values (%s, 'a')", [key])
        filled.drain()
        writer.execute("begin")
        writer.execute("select")  # a snapshot of the time before
        conn.execute("alter table article rename column id to number")
        conn.execute("alter table article add column id int default 1")
        writer.execute("insert into article (number, body) values (30, 'b')")
        writer.execute("delete from article where number between 1 and 19")
        writer.execute("commit")
        assert filled.jobs() == [("R", None)]
        filled.drain()
        assert filled.embedded() == {"30": "b"}
        writer.execute("insert into article (number, body) values (31, 'c')")
        assert filled.jobs() == [("U", "31")]


def test_key_column_renamed_in_the_same_transaction(filled: Service) -> None:
    conn = filled.conn
    with conn.transaction():
        conn.execute("insert into article (id, body) values (7, 'a')")
        conn.execute("alter table article rename column id to number")
        conn.execute("alter table article rename column title to id")
        conn.execute("insert into article (number, id, body) values (8, '1', 'b')")
    assert filled.jobs() == [("U", "7"), ("R", None)]
    filled.drain()
    assert filled.embedded()["8"] == "b"


def test_renamed_key_column_of_a_partitioned_table(conn: psycopg.Connection) -> None:
    conn.execute(
        "create table article (id int primary key, body text) partition by range (id);"
        "create table low partition of article for values from (0) to (10)"
    )
    service = declare(conn)
    conn.execute("insert into article values (1, 'a'), (2, 'b'), (3, 'c')")
    service.drain()
    conn.execute("alter table article rename column id to number")
    conn.execute("insert into article values (7, 'new')")
    conn.execute("update article set body = 'changed' where number = 1")
    conn.execute("delete from article where number = 2")
    service.drain()
    assert service.embedded() == {"1": "changed", "3": "c", "7": "new"}


def test_renamed_key_index_heals_by_itself(filled: Service) -> None:
    conn = filled.conn
    conn.execute("alter index article_pkey rename to another")
    conn.execute("insert into article (id, body) values (7, 'a')")
    conn.execute("delete from article where id = 2")
    filled.drain()
    assert filled.embedded() == {"1": "body 1", "3": "body 3", "7": "a"}
    conn.execute("insert into article (id, body) values (8, 'b')")
    assert filled.jobs() == [("U", "8")]


@pytest.mark.parametrize(
    ("change", "mended"),
    [
        ("drop constraint article_pkey", False),
        ("drop constraint article_pkey, add primary key (id, title)", True),
    ],
)
def test_another_primary_key(filled: Service, change: str, mended: bool) -> None:
    conn = filled.conn
    conn.execute("update article set title = 'a'")
    conn.execute(f"alter table article {change}")
    conn.execute("insert into article (id, title, body) values (7, 'a', 'a')")
    conn.execute("update article set body = 'b' where id = 1")
    conn.execute("delete from article where id = 2")
    conn.execute("select pgembed._reconcile_v1()")
    assert filled.column("state") == "broken"
    assert "primary key" in filled.column("state_reason")
    if mended:
        conn.execute("select pgembed.repair(%s)", [NAME])
        filled.drain()
        assert filled.column("state") == "active"
        rows = conn.execute(f"select id, title, content from {NAME} order by id")
        assert rows.fetchall() == [(1, "a", "b"), (3, "a", "body 3"), (7, "a", "a")]
    else:
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("select pgembed.repair(%s)", [NAME])
        expect(caught.value, "PE003", "article", "primary key")
    conn.execute("select pgembed.drop_embedding(%s)", [NAME])


def test_dropped_side_table(filled: Service) -> None:
    conn = filled.conn
    conn.execute(f"drop table {NAME}")
    conn.execute("update article set body = 'b' where id = 1")
    conn.execute("select pgembed._reconcile_v1()")
    assert filled.column("state") == "broken"
    assert "repair" in filled.column("state_reason")
    conn.execute("select pgembed.repair(%s)", [NAME])
    filled.drain()
    assert filled.embedded() == {"1": "b", "2": "body 2", "3": "body 3"}
    conn.execute(f"drop table {NAME}")
    conn.execute("select pgembed.drop_embedding(%s)", [NAME])
    assert create(conn) == NAME


def test_dropped_vector_column(article: psycopg.Connection) -> None:
    service = service_for(article, create(article, storage="column"))
    article.execute("alter table article drop column embedding")
    article.execute("insert into article (id, body) values (1, 'a')")
    article.execute("select pgembed._reconcile_v1()")
    assert service.column("state") == "broken"
    article.execute("select pgembed.drop_embedding(%s)", [NAME])


def test_table_that_became_a_partition(conn: psycopg.Connection) -> None:
    conn.execute("create table article (id int primary key, body text)")
    service = declare(conn)
    conn.execute(
        "create table whole (id int primary key, body text) partition by range (id)"
    )
    conn.execute(
        "alter table whole attach partition article for values from (0) to (9)"
    )
    conn.execute("insert into whole values (1, 'unseen')")
    conn.execute("select pgembed._reconcile_v1()")
    assert service.column("state") == "active"  # captured by row from here on
    conn.execute("insert into whole values (2, 'seen')")
    conn.execute("update whole set body = 'changed' where id = 1")
    service.drain()
    assert service.embedded() == {"1": "changed", "2": "seen"}
    conn.execute("select pgembed._reconcile_v1()")
    assert service.column("state") == "active"


def test_dropped_extension_function_of_the_text(conn: psycopg.Connection) -> None:
    register_toy(conn)
    conn.execute(ARTICLE)
    conn.execute(
        "create function clean(text) returns text language sql immutable as "
        "$$ select btrim($1) $$"
    )
    service = service_for(conn, create(conn, "article", "clean(body)"))
    conn.execute("drop function clean")
    conn.execute("insert into article (id, body) values (1, 'a')")
    conn.execute("update article set body = 'b'")
    conn.execute("select pgembed._reconcile_v1()")
    assert service.column("state") == "broken"
    assert "clean" in service.column("state_reason")


def test_broken_embedding_is_left_alone_by_services(filled: Service) -> None:
    conn = filled.conn
    filled.broken("why", filled.column("revision"))
    assert conn.execute("select * from pgembed._embeddings_v1()").fetchall() == []
    assert conn.execute(
        "select state, state_reason from pgembed.status"
    ).fetchall() == [("broken", "why")]
    conn.execute("update article set body = 'b' where id = 1")
    conn.execute("select pgembed.repair(%s)", [NAME])
    filled.drain()
    assert filled.embedded()["1"] == "b"


def test_a_repair_is_not_undone_by_what_a_service_saw_before(filled: Service) -> None:
    """A service that met a dropped table may say so only after the repair."""
    seen = filled.column("revision")
    filled.conn.execute("select pgembed.repair(%s)", [NAME])
    filled.broken("its side table has been dropped", seen)
    assert filled.column("state") == "active"
