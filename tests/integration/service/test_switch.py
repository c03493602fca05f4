"""An embedding goes to another model while searches go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import psycopg
import pytest

from pgembed import client, schema
from pgembed.encoders.base import truncate_vectors
from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import (
    DimensionMismatch,
    EmbeddingExists,
    InvalidParameter,
    NotComplete,
    UnknownEmbedding,
)
from pgembed.service import EncoderService, ServiceSettings, drain
from tests.fixtures.vectors import as_text
from tests.integration.service.support import (
    DIMENSIONS,
    FaultyEncoder,
    running,
    until,
    value,
)

Conn = psycopg.Connection[Any]

OLD = HashingEncoder("test", DIMENSIONS)
NEW = HashingEncoder("other", 2 * DIMENSIONS)
SAME_SIZE = HashingEncoder("same size", DIMENSIONS)
ENCODERS = {one.name: one for one in (OLD, NEW, SAME_SIZE)}
BOTH = {"test": OLD, "other": NEW, "same size": SAME_SIZE}


@pytest.fixture
def filled(dsn: str, article: Conn) -> Conn:
    """Give a connection to a database with a filled embedding."""
    for encoder in (NEW, SAME_SIZE):
        article.execute(
            "select pgembed.register_model(%s, %s, 'hashing')",
            [encoder.name, encoder.dimensions],
        )
    article.execute(
        "insert into article select i, 'number ' || i from generate_series(1, 60) as i"
    )
    asyncio.run(drain(dsn, encoders=BOTH))
    return article


def alter(conn: Conn, name: str = "article_embedding", **options: Any) -> None:
    client.alter_embedding(conn, name, **options)


def embeddings(conn: Conn) -> dict[str, tuple[str, str]]:
    """Generation and model of each embedding."""
    rows = conn.execute(
        "select name, generation, model from pgembed.status order by name"
    )
    return {name: (generation, model) for name, generation, model in rows}


def nearest(
    conn: Conn, encoder: HashingEncoder, text: str, **options: Any
) -> list[int]:
    vector = encoder.encode_queries([text])[0]
    hits = client.vector_search(conn, "article", query_embedding=vector, k=3, **options)
    return [hit.doc["id"] for hit in hits]


def relations(conn: Conn) -> set[str]:
    return {
        row[0]
        for row in conn.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace"
            " and relkind in ('r', 'i')"
        )
    }


@pytest.mark.majors(18, 17, 16)
def test_another_model_is_filled_beside_and_takes_the_place(
    dsn: str, filled: Conn
) -> None:
    before = relations(filled)
    alter(filled, model="other")
    assert embeddings(filled) == {
        "article_embedding": ("current", "test"),
        "article_embedding_next": ("next", "other"),
    }
    assert nearest(filled, OLD, "number 7")[0] == 7
    assert value(filled, "select pgembed.is_fresh('article')")
    asyncio.run(drain(dsn, encoders=BOTH))
    assert embeddings(filled) == {
        "article_embedding": ("current", "other"),
        "article_embedding_previous": ("previous", "test"),
    }
    assert nearest(filled, NEW, "number 7")[0] == 7
    with pytest.raises(DimensionMismatch):
        nearest(filled, OLD, "number 7")
    # Words and vectors stay together.
    vector = as_text(NEW.encode_queries(["number 7"])[0])
    assert (
        value(
            filled,
            "select (doc).id from pgembed.hybrid_search(NULL::article, 'number 7',"
            " k => 1, query_embedding => %s)",
            vector,
        )
        == 7
    )
    # The previous one is kept up to date, so that going back loses nothing.
    filled.execute("insert into article values (61, 'number 61')")
    filled.execute("delete from article where id = 7")
    asyncio.run(drain(dsn, encoders=BOTH))
    client.switch_embedding(filled, "article_embedding", generation="previous")
    assert embeddings(filled) == {
        "article_embedding": ("current", "test"),
        "article_embedding_previous": ("previous", "other"),
    }
    assert nearest(filled, OLD, "number 61")[0] == 61
    assert 7 not in nearest(filled, OLD, "number 7")
    client.drop_embedding(filled, "article_embedding_previous")
    assert relations(filled) == before
    assert embeddings(filled) == {"article_embedding": ("current", "test")}


@pytest.mark.parametrize(
    "options",
    [
        {"dimensions": 16},
        {"vector_type": "halfvec"},
        {"distance": "l2"},
        {"model": "same size", "chunking": "none"},
        {"model": "other", "text_expression": "'about ' || body"},
        {"model": "other", "bm25": False},
        {"model": "other", "index": "ivfflat"},
    ],
    ids=str,
)
def test_whatever_makes_other_vectors_leaves_no_gap(
    dsn: str, filled: Conn, options: dict[str, Any]
) -> None:
    alter(filled, **options)
    assert "article_embedding_next" in embeddings(filled)
    assert len(nearest(filled, OLD, "number 7")) == 3
    asyncio.run(drain(dsn, encoders=BOTH))
    row = filled.execute(
        "select e.generation, m.name, e.dimensions, e.vector_type, e.distance,"
        " e.chunking, t.text_expression, e.index_kind,"
        " exists (select from pgembed.bm25 as b where b.embedding_id = e.embedding_id)"
        " from pgembed.embedding as e join pgembed.model as m using (model_id)"
        " join pgembed.captured_text as t using (text_id) where e.name = %s",
        ["article_embedding"],
    ).fetchone()
    names = "generation model dimensions vector_type distance chunking"
    names += " text_expression index bm25"
    found = dict(zip(names.split(), row or (), strict=True))
    assert found["generation"] == "current"
    assert {name: found[name] for name in options} == options
    assert value(filled, "select count(*) from article_embedding") == 60
    assert value(filled, "select index_state from pgembed.status") == "valid"


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"dimensions": 16}, 0),
        ({"distance": "l2"}, 0),
        ({"vector_type": "halfvec"}, 0),
        ({"dimensions": 16, "chunking": "none"}, 0),
        ({"model": "same size"}, 60),
    ],
    ids=str,
)
def test_vectors_of_the_same_model_are_taken_over(
    dsn: str, filled: Conn, options: dict[str, Any], texts: int
) -> None:
    counting = {name: FaultyEncoder(name) for name in ("test", "same size")}
    alter(filled, **options)
    asyncio.run(drain(dsn, encoders=counting))
    assert sum(len(one.encoded) for one in counting.values()) == texts
    encoder = counting[options.get("model", "test")]
    dimensions = options.get("dimensions", DIMENSIONS)
    expected = truncate_vectors(
        encoder.encode_documents(["number 7"]), dimensions, normalized=True
    )
    stored = value(filled, "select embedding::text from article_embedding where id = 7")
    np.testing.assert_allclose(
        np.fromstring(stored.strip("[]"), sep=","), expected[0], atol=1e-3
    )


def test_what_is_asked_for_again_is_one_change(dsn: str, filled: Conn) -> None:
    alter(filled, model="other")
    alter(filled, model="other")
    assert len(embeddings(filled)) == 2
    alter(filled, model="same size")
    assert embeddings(filled)["article_embedding_next"] == ("next", "same size")
    alter(filled, model="other")
    # What makes no other vectors is of both.
    alter(filled, max_attempts=3, wake="poll")
    assert filled.execute(
        "select name, max_attempts, wake from pgembed.embedding order by name"
    ).fetchall() == [
        ("article_embedding", 3, "poll"),
        ("article_embedding_next", 3, "poll"),
    ]
    # Back to what searches use: it is given up.
    alter(filled, model="test")
    assert embeddings(filled) == {"article_embedding": ("current", "test")}
    asyncio.run(drain(dsn, encoders=BOTH))
    assert nearest(filled, OLD, "number 7")[0] == 7


def test_back_and_forth_encodes_once(dsn: str, filled: Conn) -> None:
    alter(filled, model="other")
    asyncio.run(drain(dsn, encoders=BOTH))
    made = value(filled, "select max(embedded_at) from article_embedding_previous")
    alter(filled, model="test")
    asyncio.run(drain(dsn, encoders=BOTH))
    assert embeddings(filled)["article_embedding"] == ("current", "test")
    assert value(filled, "select max(embedded_at) from article_embedding") == made
    # A third model takes the place of the one before the last.
    alter(filled, model="same size")
    asyncio.run(drain(dsn, encoders=BOTH))
    assert embeddings(filled) == {
        "article_embedding": ("current", "same size"),
        "article_embedding_previous": ("previous", "test"),
    }


def test_manual_waits_to_be_told(dsn: str, filled: Conn) -> None:
    alter(filled, model="other", switch="manual")
    with pytest.raises(NotComplete, match="cannot be switched") as caught:
        client.switch_embedding(filled, "article_embedding")
    assert "first fill" in str(caught.value)
    asyncio.run(drain(dsn, encoders=BOTH))
    assert embeddings(filled)["article_embedding"] == ("current", "test")
    # It can be looked at before.
    name = "article_embedding_next"
    assert nearest(filled, NEW, "number 9", embedding=name)[0] == 9
    state = "select switch, switch_waits_for from pgembed.status where name = %s"
    assert filled.execute(state, [name]).fetchone() == ("manual", None)
    client.switch_embedding(filled, "article_embedding")
    assert embeddings(filled)["article_embedding"] == ("current", "other")


def test_a_lock_on_the_vectors_is_waited_for(dsn: str, filled: Conn) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("lock table article_embedding in access exclusive mode")
        let_go = threading.Timer(0.6, other.rollback)
        let_go.start()
        alter(filled, model="other")
        let_go.join()
    assert embeddings(filled) == {
        "article_embedding": ("current", "test"),
        "article_embedding_next": ("next", "other"),
    }
    assert nearest(filled, OLD, "number 7")[0] == 7


def test_in_place_removes_what_there_is(dsn: str, filled: Conn) -> None:
    alter(filled, model="other", switch="in_place")
    assert embeddings(filled) == {"article_embedding": ("current", "other")}
    assert nearest(filled, NEW, "number 7") == []
    asyncio.run(drain(dsn, encoders=BOTH))
    assert nearest(filled, NEW, "number 7")[0] == 7


def test_it_does_not_switch_to_less(dsn: str, filled: Conn) -> None:
    """A row that the next generation cannot encode keeps the current one."""

    class Choosy(HashingEncoder):
        def encode_documents(self, texts: Any) -> Any:
            if any("number 7" in text for text in texts):
                raise ValueError("not this one")
            return super().encode_documents(texts)

    choosy = Choosy("other", 2 * DIMENSIONS)
    alter(filled, model="other", max_attempts=1)
    asyncio.run(drain(dsn, encoders={**BOTH, "other": choosy}))
    assert embeddings(filled)["article_embedding"] == ("current", "test")
    lacks = "select switch_waits_for from pgembed.status where generation = 'next'"
    assert "rows that could not be encoded" in value(filled, lacks)
    client.switch_embedding(filled, "article_embedding", force=True)
    assert embeddings(filled)["article_embedding"] == ("current", "other")
    assert 7 not in nearest(filled, NEW, "number 7")


def test_refused_without_a_trace(dsn: str, filled: Conn) -> None:
    before = relations(filled)
    with pytest.raises(InvalidParameter, match="unknown switch"):
        alter(filled, model="other", switch="soon")
    with pytest.raises(UnknownEmbedding, match="has no next generation"):
        client.switch_embedding(filled, "article_embedding")
    with pytest.raises(InvalidParameter, match="unknown generation"):
        client.switch_embedding(filled, "article_embedding", generation="last")
    filled.execute("create table article_embedding_next (id int)")
    with pytest.raises(EmbeddingExists, match="article_embedding_next"):
        alter(filled, model="other")
    filled.execute("drop table article_embedding_next")
    filled.execute("create table article_embedding_previous (id int)")
    with pytest.raises(EmbeddingExists, match="article_embedding_previous"):
        alter(filled, model="other")
    filled.execute("drop table article_embedding_previous")
    assert relations(filled) == before
    alter(filled, model="other")
    with pytest.raises(InvalidParameter, match="next generation of an embedding"):
        client.switch_embedding(filled, "article_embedding_next")


def test_vectors_in_a_column_say_what_to_do(dsn: str, filled: Conn) -> None:
    filled.execute(
        "select pgembed.create_embedding('article', 'body', name => 'inside',"
        " model => 'test', storage => 'column', column_name => 'v', bm25 => false)"
    )
    alter(filled, "inside", model="other")  # there are none yet
    asyncio.run(drain(dsn, encoders=BOTH))
    with pytest.raises(InvalidParameter, match="beside those that are there"):
        alter(filled, "inside", model="same size")
    alter(filled, "inside", model="same size", switch="in_place")
    asyncio.run(drain(dsn, encoders=BOTH))
    assert value(filled, "select count(v) from article") == 60


async def test_queries_in_sql_go_on_with_the_model_that_they_name(
    dsn: str, filled: Conn, settings: ServiceSettings
) -> None:
    """`CALL encode(…, 'test')` and a search, before the switch, after it, and back."""

    def search(query: str) -> int:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("call pgembed.encode(%s, 'test')", [query])
            statement = "select (doc).id from pgembed.vector_search(NULL::article, %s)"
            return int(value(conn, statement, query))

    async with running(dsn, settings, BOTH):
        await until(lambda: value(filled, "select pgembed._service_alive()"))
        assert await asyncio.to_thread(search, "number 1") == 1
        alter(filled, model="other")
        await until(lambda: "article_embedding_previous" in embeddings(filled))
        assert await asyncio.to_thread(search, "number 2") == 2
        client.switch_embedding(filled, "article_embedding", generation="previous")
        assert await asyncio.to_thread(search, "number 3") == 3


@contextmanager
def open_writer(dsn: str, statement: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn) as writer:
        writer.execute(statement.encode())
        yield writer


@pytest.mark.parametrize("way", ["next generation", "second embedding"])
def test_what_an_open_transaction_has_written_is_not_missed(
    dsn: str, filled: Conn, way: str
) -> None:
    """Its triggers ran before the other vectors were declared."""
    with open_writer(dsn, "insert into article values (0, 'late')") as writer:
        statement = (
            "select pgembed.alter_embedding('article_embedding', model => 'other')"
            if way == "next generation"
            else "select pgembed.create_embedding('article', 'body', model => 'other',"
            " name => 'article_embedding_next', bm25 => false)"
        )
        declared = threading.Thread(target=filled.execute, args=[statement])
        declared.start()
        declared.join(0.5)
        fill = threading.Thread(
            target=asyncio.run, args=[drain(dsn, encoders=BOTH)], daemon=True
        )
        fill.start()
        fill.join(1)
        writer.commit()
    declared.join(10)
    fill.join(20)
    asyncio.run(drain(dsn, encoders=BOTH))
    name = "article_embedding" if way == "next generation" else "article_embedding_next"
    found = value(filled, f"select count(*) from {name} where id = 0")
    assert found == 1


def test_a_reader_that_stays_holds_nobody_up(
    dsn: str, filled: Conn, settings: ServiceSettings
) -> None:
    """The switch waits for a transaction that has searched, and searches do not."""

    async def switched() -> None:
        alter(filled, model="other", switch="manual")
        async with running(dsn, settings, BOTH):
            complete = (
                "select count(*) = 1 from pgembed.status"
                " where generation = 'next' and switch_waits_for is null"
            )
            await until(lambda: value(filled, complete))
            with psycopg.connect(dsn) as reader:
                assert nearest(reader, OLD, "number 7")[0] == 7
                alter(filled, switch="auto")
                await asyncio.sleep(1.5)
                assert embeddings(filled)["article_embedding"] == ("current", "test")
                assert nearest(reader, OLD, "number 8")[0] == 8
                with psycopg.connect(dsn) as other:
                    other.execute("set statement_timeout = '2s'")
                    assert nearest(other, OLD, "number 9")[0] == 9
            await until(lambda: "article_embedding_previous" in embeddings(filled))

    asyncio.run(switched())


def test_row_security_holds_for_the_next_generation(dsn: str, filled: Conn) -> None:
    filled.execute(
        "alter table article enable row level security;"
        "create policy even on article using (id % 2 = 0);"
        "create role switch_reader; grant select on article to switch_reader;"
        "select pgembed.grant_usage('switch_reader')"
    )
    try:
        filled.execute("select pgembed._reconcile_v1()")
        alter(filled, model="other", switch="manual")
        asyncio.run(drain(dsn, encoders=BOTH))
        for turn in range(2):
            tables = ["article_embedding"]
            tables.append(f"article_embedding_{('next', 'previous')[turn]}")
            filled.execute("set role switch_reader")
            for table in tables:
                seen = filled.execute(f"select id from {table}").fetchall()
                assert len(seen) == 30
                assert all(key % 2 == 0 for (key,) in seen)
            filled.execute("reset role")
            if turn == 0:
                client.switch_embedding(filled, "article_embedding")
    finally:
        filled.execute("reset role")
        filled.execute("drop owned by switch_reader; drop role switch_reader")


async def test_searches_under_writes_and_kills_never_see_a_gap(
    dsn: str, filled: Conn
) -> None:
    """Each search gives k rows, of one model; what was there all along is found."""
    settings = ServiceSettings(poll_seconds=5.0, lease_seconds=2.0)
    stop = threading.Event()
    wrong: list[object] = []
    searches = 0

    def search() -> None:
        nonlocal searches
        with psycopg.connect(dsn, autocommit=True) as conn:
            while not stop.is_set():
                # The vectors of the row itself: of whichever model.
                hits = conn.execute(
                    "select (doc).id, similarity"
                    " from pgembed.similar(NULL::article, 7, k => 50)"
                ).fetchall()
                searches += 1
                if len(hits) != 50 or not all(-1.01 < s <= 1.01 for _, s in hits):
                    wrong.append(hits)

    def write() -> None:
        key = 1000
        with psycopg.connect(dsn, autocommit=True) as conn:
            while not stop.is_set():
                key += 1
                conn.execute("insert into article values (%s, %s)", [key, f"new {key}"])
                conn.execute(
                    "update article set body = 'number ' || %s where id = %s",
                    [key, key % 40 + 11],
                )
                stop.wait(0.02)

    threads = [threading.Thread(target=one) for one in (search, search, write)]
    for thread in threads:
        thread.start()
    try:
        for model in ("other", "test"):
            alter(filled, model=model)
            service = EncoderService(dsn, settings, encoders=BOTH)
            task = asyncio.create_task(service.run())
            await asyncio.sleep(0.3)
            task.cancel()  # as it is, without a goodbye
            await asyncio.wait([task])
            # It is a minute until others build its index.
            filled.execute("delete from pgembed.worker")
            async with running(dsn, settings, BOTH):
                await until(
                    lambda model=model: (  # type: ignore[misc]
                        embeddings(filled)["article_embedding"] == ("current", model)
                    ),
                    seconds=60,
                )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert searches > 100
    await drain(dsn, encoders=BOTH)
    assert value(filled, "select pgembed.is_fresh('article')")
    rows = value(filled, "select count(*) from article")
    for table in ("article_embedding", "article_embedding_previous"):
        assert value(filled, f"select count(*) from {table}") == rows


async def test_a_model_that_no_service_has_holds_no_query_up(
    dsn: str, filled: Conn
) -> None:
    """Queries are encoded for the next generation too, but nobody waits for that."""
    alter(filled, model="other", switch="manual")
    await drain(dsn, encoders=BOTH)
    async with running(dsn, ServiceSettings(models="test"), {"test": OLD}):
        await until(lambda: value(filled, "select pgembed._service_alive()"))

        def search() -> list[int]:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("call pgembed.encode('number 5', 'test', 3)")
                hits = client.vector_search(conn, "article", "number 5", k=1, timeout=3)
                return [hit.doc["id"] for hit in hits]

        assert await asyncio.to_thread(search) == [5]
        with psycopg.connect(dsn) as conn:  # what is there needs no commit
            conn.execute("select 1")
            conn.execute("call pgembed.encode('number 5', 'test')")


def test_one_that_cannot_be_switched_holds_no_other_up(dsn: str, filled: Conn) -> None:
    filled.execute("create table other (id int primary key, body text)")
    filled.execute("insert into other values (1, 'one')")
    filled.execute("select pgembed.create_embedding('other', 'body', model => 'test')")
    asyncio.run(drain(dsn, encoders=BOTH))
    alter(filled, model="other")
    asyncio.run(drain(dsn, encoders=BOTH))
    # It will not be dropped: something of the user's reads it.
    filled.execute("create view mine as select id from article_embedding_previous")
    alter(filled, model="same size")
    alter(filled, "other_embedding", model="other")
    asyncio.run(drain(dsn, encoders=BOTH))
    asyncio.run(drain(dsn, encoders=BOTH))
    found = embeddings(filled)
    assert found["other_embedding"] == ("current", "other")
    assert found["article_embedding"] == ("current", "other")
    why = "select switch_waits_for from pgembed.status where generation = 'next'"
    assert "article_embedding_previous" in value(filled, why)
    assert "switch_failed" in {row[1] for row in filled.execute(DOCTOR)}
    filled.execute("drop view mine")
    asyncio.run(drain(dsn, encoders=BOTH))
    assert embeddings(filled)["article_embedding"] == ("current", "same size")


DOCTOR = "select severity, code from pgembed.doctor()"


def test_text_and_words_stay_those_of_the_embedding(dsn: str, filled: Conn) -> None:
    texts = "select count(distinct text_id) from pgembed.embedding"
    alter(filled, model="other")
    asyncio.run(drain(dsn, encoders=BOTH))
    alter(
        filled, model="same size", text_expression="'about ' || body", switch="manual"
    )
    assert value(filled, texts) == 1
    client.drop_embedding(filled, "article_embedding_next")
    asyncio.run(drain(dsn, encoders=BOTH))
    same = "select b.text_id = e.text_id from pgembed.bm25 as b"
    same += " join pgembed.embedding as e using (embedding_id)"
    assert value(filled, same)
    for name in ("article_embedding", "article_embedding_previous"):
        found = value(filled, f"select content from {name} where id = 7")
        assert found == "about number 7"
    client.switch_embedding(filled, "article_embedding", generation="previous")
    assert value(filled, same)
    for options in ({"text_expression": "body"}, {"bm25": True}):
        with pytest.raises(InvalidParameter, match="previous generation"):
            alter(filled, "article_embedding_previous", **options)


def test_back_with_another_index(dsn: str, filled: Conn) -> None:
    alter(filled, model="other")
    asyncio.run(drain(dsn, encoders=BOTH))
    alter(filled, model="test", index="ivfflat", index_options={"lists": 7})
    asyncio.run(drain(dsn, encoders=BOTH))
    found = filled.execute(
        "select e.index_kind, e.index_options, s.index_state, s.model"
        " from pgembed.embedding as e join pgembed.status as s using (name)"
        " where e.generation = 'current'"
    ).fetchone()
    assert found == ("ivfflat", {"lists": 7}, "valid", "test")


def test_one_that_is_paused_is_not_resumed(dsn: str, filled: Conn) -> None:
    client.pause_embedding(filled, "article_embedding", capture=False)
    with pytest.raises(InvalidParameter, match="is paused"):
        alter(filled, model="other")
    assert list(embeddings(filled)) == ["article_embedding"]


def test_waiting_holds_over_a_switch(dsn: str, filled: Conn) -> None:
    """The same change has another number in the queue of the next generation."""
    alter(filled, model="other", switch="manual")
    asyncio.run(drain(dsn, encoders=BOTH))
    filled.execute("insert into article values (61, 'number 61')")
    waited: list[object] = []

    def wait() -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("call pgembed.wait('article', 20)")
            waited.append(nearest(conn, NEW, "number 61")[0])

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.5)
    client.switch_embedding(filled, "article_embedding")
    waiting.join(1)
    assert waiting.is_alive()
    asyncio.run(drain(dsn, encoders=BOTH))
    waiting.join(10)
    assert waited == [61]


def test_the_callers_settings_stay(dsn: str, filled: Conn) -> None:
    alter(filled, model="other", switch="manual")
    with filled.transaction():
        filled.execute("set local lock_timeout = '7s'")
        lacks = "select pgembed._switch(embedding_id, false) from pgembed.embedding"
        filled.execute(f"{lacks} where generation = 'next'")
        with suppress(NotComplete), filled.transaction():
            client.switch_embedding(filled, "article_embedding")
        assert value(filled, "show lock_timeout") == "7s"


def test_uninstall_takes_all_generations(dsn: str, filled: Conn) -> None:
    alter(filled, model="other")
    asyncio.run(drain(dsn, encoders=BOTH))
    alter(filled, model="same size")
    filled.close()
    schema.uninstall(dsn, force=True)
    with psycopg.connect(dsn) as conn:
        assert relations(conn) == {"article", "article_pkey"}
