"""Shorter vectors by a projection that is learnt from the whole ones."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import psycopg
import pytest

from pgembed import client
from pgembed.encoders.base import main_axes, project_vectors
from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import InvalidParameter, NotComplete
from pgembed.query_encoder import store
from pgembed.service import drain
from tests.fixtures.postgres import Server
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.vectors import as_text
from tests.integration.service.support import DIMENSIONS, value

Conn = psycopg.Connection[Any]

MODEL = HashingEncoder("test", DIMENSIONS)
ROWS = 3 * DIMENSIONS
SHORT = 12


class Counting(HashingEncoder):
    """Knows what it has encoded."""

    def __init__(self) -> None:
        super().__init__("test", DIMENSIONS)
        self.documents: list[str] = []

    def encode_documents(self, texts: Any) -> Any:
        self.documents += texts
        return super().encode_documents(texts)


def fill(conn: Conn, rows: int = ROWS, first: int = 1) -> None:
    conn.execute(
        "insert into article select i, 'number ' || i || ' of kind ' || i %% 7"
        " from generate_series(%s::int, %s::int) as i",
        [first, rows],
    )


def work(dsn: str, encoder: HashingEncoder = MODEL) -> None:
    asyncio.run(drain(dsn, encoders={"test": encoder}))


def reduce(conn: Conn, dimensions: int = SHORT, **options: Any) -> None:
    client.alter_embedding(
        conn, "article_embedding", dimensions=dimensions, reduction="pca", **options
    )


@pytest.fixture
def reduced(dsn: str, article: Conn) -> Conn:
    """Give a connection to a database with a filled embedding that is projected."""
    fill(article)
    work(dsn)
    reduce(article)
    work(dsn)
    assert generations(article)["article_embedding"] == ("current", SHORT, "pca")
    return article


def generations(conn: Conn) -> dict[str, tuple[str, int, str]]:
    rows = conn.execute(
        "select name, generation, dimensions, reduction from pgembed.embedding"
        " order by name"
    )
    return {name: (generation, *more) for name, generation, *more in rows}


def axes(conn: Conn, name: str = "article_embedding") -> Any:
    rows = conn.execute(
        "select p.axis::real[] from pgembed.embedding as e,"
        " pgembed._projection_v1(e.projection_id) as p where e.name = %s",
        [name],
    ).fetchall()
    return np.array([row[0] for row in rows], dtype=np.float32)


def stored(conn: Conn, name: str = "article_embedding") -> dict[str, Any]:
    rows = conn.execute(f"select content, embedding::real[] from {name}")
    return {text: np.array(vector, dtype=np.float32) for text, vector in rows}


def expected(conn: Conn, texts: list[str]) -> Any:
    whole = MODEL.encode_documents(texts)
    return project_vectors(whole, axes(conn)[:SHORT], normalized=True)


def assert_projected(conn: Conn) -> None:
    found = stored(conn)
    texts = list(found)
    made = expected(conn, texts)
    assert len(texts) == value(conn, "select count(*) from article")
    np.testing.assert_allclose(np.array(list(found.values())), made, atol=1e-5)


@pytest.mark.majors(18, 17, 16)
def test_vectors_are_projected_without_encoding_anything(
    dsn: str, article: Conn
) -> None:
    fill(article)
    encoder = Counting()
    work(dsn, encoder)
    whole = np.array(list(stored(article).values()))
    encoder.documents.clear()
    reduce(article)
    work(dsn, encoder)
    assert encoder.documents == []
    assert generations(article) == {
        "article_embedding": ("current", SHORT, "pca"),
        "article_embedding_previous": ("previous", DIMENSIONS, "truncate"),
    }
    learnt = axes(article)
    assert learnt.shape == (SHORT, DIMENSIONS)
    np.testing.assert_allclose(learnt @ learnt.T, np.eye(SHORT), atol=1e-5)
    # Up to their signs the first right singular vectors of what is stored.
    singular = np.linalg.svd(whole, full_matrices=False)[2][:SHORT]
    kept = [float(np.linalg.norm(whole @ one.T)) for one in (learnt, singular)]
    assert kept[0] == pytest.approx(kept[1], rel=1e-5)
    assert_projected(article)
    # Texts that come later are encoded, and projected by the service.
    fill(article, ROWS + 5, ROWS + 1)
    article.execute("update article set body = 'another text' where id = 3")
    work(dsn, encoder)
    assert len(set(encoder.documents)) == 6
    assert_projected(article)


def test_halfvec_are_projected_too(dsn: str, article: Conn) -> None:
    client.alter_embedding(article, "article_embedding", vector_type="halfvec")
    fill(article)
    work(dsn)
    encoder = Counting()
    reduce(article, vector_type="vector")
    work(dsn, encoder)
    assert encoder.documents == []
    kept = stored(article)
    made = expected(article, list(kept))
    np.testing.assert_allclose(np.array(list(kept.values())), made, atol=1e-3)


def found(conn: Conn, **options: Any) -> list[tuple[int, float]]:
    hits = client.vector_search(conn, "article", k=5, **options)
    return [(hit.doc["id"], hit.similarity) for hit in hits]


def test_every_way_to_a_query_vector_finds_the_same(dsn: str, reduced: Conn) -> None:
    text = "number 7 of kind 0"
    vector = MODEL.encode_queries([text])[0]
    short = project_vectors(vector[None], axes(reduced), normalized=True)[0]
    rows = stored(reduced)
    nearest = sorted(
        ((float(short @ row), text) for text, row in rows.items()), reverse=True
    )
    by_short = found(reduced, query_embedding=short)
    assert [one for _, one in by_short] == pytest.approx(
        [similarity for similarity, _ in nearest[:5]], abs=1e-5
    )
    for options in (
        {"query_embedding": vector},
        {"query_embedding": vector, "exact": True},
        {"query": text, "encoder": MODEL},
    ):
        again = found(reduced, **options)
        assert [key for key, _ in again] == [key for key, _ in by_short]
        assert [one for _, one in again] == pytest.approx(
            [one for _, one in by_short], abs=1e-5
        )
    # In the cache queries are the model's: they are projected for a search.
    reduced.execute(
        "insert into pgembed.query_embedding"
        " (model_id, query_hash, wanted_until, answered_at, embedding)"
        " select model_id, pgembed._query_hash(%s, null), now(), now(), %s::vector"
        " from pgembed.model where name = 'test'",
        [text, as_text(vector)],
    )
    cached = reduced.execute(
        "select (doc).id, similarity from"
        " pgembed.vector_search(null::article, %s, k => 5)",
        [text],
    ).fetchall()
    assert [key for key, _ in cached] == [key for key, _ in by_short]
    hybrid = reduced.execute(
        "select (doc).id from pgembed.hybrid_search(null::article, %s, k => 1)", [text]
    ).fetchone()
    assert hybrid == (7,)
    assert client.similar(reduced, "article", 7, k=3)
    counted = value(
        reduced,
        "select count(*) from pgembed.vector_search(null::article,"
        " query_embedding => %s, min_similarity => 0.99)",
        as_text(vector),
    )
    assert counted >= 1


def test_fewer_dimensions_of_a_projection_are_its_first(
    dsn: str, reduced: Conn
) -> None:
    encoder = Counting()
    reduce(reduced, 5)
    work(dsn, encoder)
    assert encoder.documents == []
    assert generations(reduced)["article_embedding"] == ("current", 5, "pca")
    assert value(reduced, "select count(*) from pgembed.projection") == 1
    rows = stored(reduced)
    whole = MODEL.encode_documents(list(rows))
    made = project_vectors(whole, axes(reduced)[:5], normalized=True)
    np.testing.assert_allclose(np.array(list(rows.values())), made, atol=1e-5)
    assert found(reduced, query_embedding=MODEL.encode_queries(["number 7"])[0])


def test_vectors_of_another_projection_are_not_taken_over(
    dsn: str, reduced: Conn
) -> None:
    client.switch_embedding(reduced, "article_embedding", generation="previous")
    reduced.execute("update article set body = 'other ' || body where id % 2 = 0")
    work(dsn)
    reduce(reduced, 8, switch="manual")
    work(dsn)
    client.switch_embedding(reduced, "article_embedding", generation="previous")
    assert {name: more[1:] for name, more in generations(reduced).items()} == {
        "article_embedding": (SHORT, "pca"),
        "article_embedding_next": (8, "pca"),
        "article_embedding_previous": (DIMENSIONS, "truncate"),
    }
    assert value(reduced, "select count(*) from pgembed.projection") == 2
    # Made again, while the current generation has vectors of the same texts.
    client.reembed(reduced, "article_embedding_next")
    work(dsn)
    rows = stored(reduced, "article_embedding_next")
    learnt = axes(reduced, "article_embedding_next")
    whole = MODEL.encode_documents(list(rows))
    made = project_vectors(whole, learnt, normalized=True)
    np.testing.assert_allclose(np.array(list(rows.values())), made, atol=1e-5)


def test_whole_vectors_come_back_and_the_projection_goes(
    dsn: str, reduced: Conn
) -> None:
    encoder = Counting()
    client.alter_embedding(
        reduced, "article_embedding", reset=["dimensions", "reduction"]
    )
    work(dsn, encoder)
    assert encoder.documents == []  # the previous generation was kept
    assert generations(reduced)["article_embedding"] == (
        "current",
        DIMENSIONS,
        "truncate",
    )
    client.drop_embedding(reduced, "article_embedding_previous")
    assert value(reduced, "select count(*) from pgembed.projection") == 0


def test_a_new_embedding_begins_whole_and_is_reduced_when_it_has_enough(
    dsn: str, conn: Conn
) -> None:
    conn.execute("create table article (id int primary key, body text)")
    conn.execute(
        "select pgembed.register_model('test', %s, provider => 'hashing')", [DIMENSIONS]
    )
    client.create_embedding(
        conn, "article", "body", model="test", dimensions=SHORT, reduction="pca"
    )
    fill(conn, DIMENSIONS - 1)
    work(dsn)
    whole = ("current", DIMENSIONS, "truncate")
    assert generations(conn) == {
        "article_embedding": whole,
        "article_embedding_next": ("next", SHORT, "pca"),
    }
    # It waits; nothing piles up for it, and it is never switched to.
    waits = value(
        conn,
        "select switch_waits_for from pgembed.status where generation = 'next'",
    )
    assert f"{DIMENSIONS} vectors or more (there are {DIMENSIONS - 1})" in waits
    assert value(conn, "select count(*) from pgembed.queue") == 0
    assert value(conn, "select pgembed.is_fresh('article')")
    said = conn.execute("select code, embedding from pgembed.doctor()").fetchall()
    assert [code for code, _ in said] == ["no_service"]
    vector = MODEL.encode_queries(["number 7 of kind 0"])[0]
    assert found(conn, query_embedding=vector)[0][0] == 7
    with pytest.raises(NotComplete):
        client.switch_embedding(conn, "article_embedding", force=True)
    with pytest.raises(NotComplete, match="not learnt yet"):
        found(conn, query_embedding=vector, embedding="article_embedding_next")
    fill(conn, DIMENSIONS, DIMENSIONS)
    work(dsn)
    assert generations(conn)["article_embedding"] == ("current", SHORT, "pca")
    assert_projected(conn)
    assert found(conn, query_embedding=vector)[0][0] == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "umap"}, "unknown reduction"),
        ({"reduction": "pca"}, "nothing is reduced"),
        ({"dimensions": 5, "reduction": "pca", "switch": "in_place"}, "in place"),
        ({"dimensions": 5, "reduction": "pca", "model": "other"}, "whole vectors"),
    ],
    ids=str,
)
def test_what_cannot_be_projected_is_refused(
    dsn: str, article: Conn, options: dict[str, Any], message: str
) -> None:
    fill(article, 3)
    work(dsn)
    article.execute("select pgembed.register_model('other', 64, provider => 'hashing')")
    before = generations(article)
    with pytest.raises(InvalidParameter, match=message):
        client.alter_embedding(article, "article_embedding", **options)
    assert generations(article) == before


def test_more_dimensions_than_the_projection_has_are_refused(reduced: Conn) -> None:
    with pytest.raises(InvalidParameter, match="whole vectors"):
        reduce(reduced, SHORT + 1)


def test_vectors_of_other_weights_are_not_mixed_with_a_projection(
    dsn: str, reduced: Conn
) -> None:
    with pytest.raises(InvalidParameter, match="earlier weights"):
        client.accept_weights(reduced, "test", "other")
    client.alter_embedding(
        reduced,
        "article_embedding",
        reset=["dimensions", "reduction"],
        switch="in_place",
    )
    work(dsn)
    client.accept_weights(reduced, "test", "other")


def refusal(conn: Conn, statement: str, vector: str) -> str | None:
    with pytest.raises(psycopg.Error) as refused:
        conn.execute(statement, [vector])
    return refused.value.sqlstate


def test_a_projection_is_for_who_may_read_the_whole_table(
    dsn: str, reduced: Conn
) -> None:
    vector = as_text(MODEL.encode_queries(["number 7"])[0])
    search = (
        "select count(*) from pgembed.vector_search(null::article,"
        " query_embedding => %s)"
    )
    projections = "select count(*) from pgembed.projection"
    with new_roles(dsn, "reader"):
        client.grant_usage(reduced, "reader")
        with acting_as(dsn, "reader") as reader:
            assert refusal(reader, search, vector) == "PE013"
            assert value(reader, projections) == 0
            reduced.execute("grant select on article to reader")
            reduced.execute("select pgembed._reconcile_v1()")
            assert value(reader, search, vector) == 10
            assert value(reader, projections) == 1
            reduced.execute("alter table article enable row level security")
            reduced.execute("create policy first_rows on article using (id < 5)")
            assert value(reader, projections) == 0
            assert refusal(reader, search, vector) == "PE013"
            assert value(reduced, search, vector) == 10
    with pytest.raises(InvalidParameter, match="row-level security"):
        client.create_embedding(
            reduced,
            "article",
            "body",
            name="another",
            model="test",
            dimensions=4,
            reduction="pca",
        )


def waits_for(conn: Conn) -> str | None:
    found: str | None = value(
        conn, "select switch_waits_for from pgembed.status where generation = 'next'"
    )
    return found


@pytest.mark.parametrize("learnt", [False, True])
def test_row_security_that_comes_before_the_switch_keeps_whole_vectors(
    dsn: str, article: Conn, learnt: bool
) -> None:
    fill(article)
    work(dsn)
    reduce(article, switch="manual")
    if learnt:
        work(dsn)
    article.execute("alter table article enable row level security")
    client.alter_embedding(article, "article_embedding", switch="auto")
    work(dsn)
    assert generations(article)["article_embedding"][0] == "current"
    assert generations(article)["article_embedding_next"] == ("next", SHORT, "pca")
    assert "row-level security" in (waits_for(article) or "")
    count = "select count(*) from pgembed.projection"
    assert value(article, count) == int(learnt)
    article.execute("alter table article disable row level security")
    work(dsn)
    assert_projected(article)


def test_services_at_once_learn_one_projection(dsn: str, article: Conn) -> None:
    fill(article)
    work(dsn)
    reduce(article)

    async def both() -> None:
        encoders = {"test": MODEL}
        await asyncio.gather(*(drain(dsn, encoders=encoders) for _ in range(2)))

    asyncio.run(both())
    work(dsn)
    assert value(article, "select count(*) from pgembed.projection") == 1
    assert value(article, "select count(*) from pgembed.projection_axis") == SHORT
    assert_projected(article)


def test_a_projection_that_is_gone_is_asked_for_again_later(conn: Conn) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        conn.execute("select pgembed._projection_v1(gen_random_uuid())")


def test_what_was_given_up_while_it_was_learnt_is_not_stored(
    dsn: str, article: Conn
) -> None:
    fill(article)
    work(dsn)
    reduce(article)
    learn = "select pgembed._projection_learnt_v1(%s, %s::vector[], 9)"
    due = value(article, "select embedding_id from pgembed._projections_due_v1()")
    identity = [as_text(row) for row in np.eye(SHORT + 1, DIMENSIONS)]
    assert value(article, learn, due, identity) is False  # of the length before
    client.drop_embedding(article, "article_embedding_next")
    assert value(article, learn, due, identity[:SHORT]) is False
    reduce(article)
    due = value(article, "select embedding_id from pgembed._projections_due_v1()")
    assert value(article, learn, due, identity[:SHORT]) is True
    assert value(article, learn, due, identity[:SHORT]) is False
    assert value(article, "select count(*) from pgembed.projection") == 1


class Alike(HashingEncoder):
    """Gives all texts the same vector, but for one that has none at all."""

    def encode_documents(self, texts: Any) -> Any:
        made = np.tile(super().encode_documents(["text"]), (len(texts), 1))
        made[[text.startswith("number 3 ") for text in texts]] = 0
        return made


def test_vectors_without_any_difference(dsn: str, article: Conn) -> None:
    fill(article)
    encoder = Alike("test", DIMENSIONS)
    work(dsn, encoder)
    reduce(article)
    work(dsn, encoder)
    assert generations(article)["article_embedding"] == ("current", SHORT, "pca")
    for text, vector in stored(article).items():
        length = 0 if text.startswith("number 3 ") else 1
        assert np.linalg.norm(vector) == pytest.approx(length, abs=1e-5)
    assert len(found(article, query_embedding=MODEL.encode_queries(["text"])[0])) == 5


def test_a_projection_is_dumped_and_restored(
    dsn: str, reduced: Conn, server: Server
) -> None:
    vector = MODEL.encode_queries(["number 7 of kind 0"])[0]
    before = found(reduced, query_embedding=vector)
    with (
        server.restored(dsn) as copy,
        psycopg.connect(copy, autocommit=True) as conn,
    ):
        assert found(conn, query_embedding=vector) == before
        conn.execute("insert into article values (1000, 'a text that is new')")
        work(copy)
        assert_projected(conn)


def test_a_text_for_other_readers_is_refused(dsn: str, reduced: Conn) -> None:
    with pytest.raises(InvalidParameter, match="columns that the new text"):
        client.alter_embedding(reduced, "article_embedding", text_expression="id::text")
    client.alter_embedding(
        reduced, "article_embedding", text_expression="body || id::text"
    )
    work(dsn)
    assert_projected(reduced)


def test_a_query_encoder_is_trained_on_projected_vectors(
    dsn: str, reduced: Conn
) -> None:
    of = store.target(reduced, "article_embedding")
    read = store.read_axes(reduced, of)
    assert read is not None
    np.testing.assert_allclose(read, axes(reduced), atol=1e-6)


def test_axes_are_those_of_the_longest_directions() -> None:
    vectors = np.random.default_rng(3).normal(size=(2500, 20)).astype(np.float32)
    vectors *= np.linspace(3, 0.1, 20, dtype=np.float32)
    made = main_axes(vectors, 4)
    singular = np.linalg.svd(vectors, full_matrices=False)[2][:4]
    np.testing.assert_allclose(np.abs(made @ singular.T), np.eye(4), atol=1e-3)
