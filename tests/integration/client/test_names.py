"""Names in several schemas, and what else is new in the declarations' surroundings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
import pytest

import pgembed
from pgembed import aclient, client, errors, evaluation
from pgembed.encoders.hashing import HashingEncoder
from pgembed.evaluation import EvaluationOptions, RecallOptions
from pgembed.testing import process_all
from tests.fixtures.cross_encoders import save_cross_encoder
from tests.fixtures.roles import acting_as, new_roles


@pytest.fixture
def shops(shop: psycopg.Connection, dsn: str) -> psycopg.Connection:
    """The same table in schemas public, beta and "Odd 1", embedded."""
    for schema, animal in (("beta", "wolf"), ('"Odd 1"', "bear")):
        shop.execute(f"create schema {schema}".encode())
        shop.execute(f"create table {schema}.article (like public.article)".encode())
        shop.execute(f"alter table {schema}.article add primary key (id)".encode())
        shop.execute(
            f"insert into {schema}.article values (1, 'grey {animal}', 'a', 1)".encode()
        )
        pgembed.create_embedding(shop, f"{schema}.article", "title", model="hashing")
    process_all(dsn)
    return shop


def _states(conn: psycopg.Connection) -> dict[str | None, str]:
    return {status.schema: status.state for status in pgembed.status(conn)}


def test_status_has_the_schema(shops: psycopg.Connection, dsn: str) -> None:
    statuses = pgembed.status(shops)
    assert [(one.schema, one.name, one.source) for one in statuses] == [
        ("Odd 1", "article_embedding", '"Odd 1".article'),
        ("beta", "article_embedding", "beta.article"),
        ("public", "article_embedding", "article"),
    ]
    assert {one.unseen for one in statuses} == {0}
    assert sorted(process_all(dsn)) == [
        "Odd 1.article_embedding",
        "beta.article_embedding",
        "public.article_embedding",
    ]


def test_a_name_with_its_schema_means_that_one(
    shops: psycopg.Connection, dsn: str, encoder: HashingEncoder
) -> None:
    pgembed.pause_embedding(shops, "article_embedding")
    assert _states(shops) == {"public": "paused", "beta": "active", "Odd 1": "active"}
    shops.execute("set search_path = beta, public")
    pgembed.pause_embedding(shops, "article_embedding")
    pgembed.resume_embedding(shops, "public.article_embedding")
    for odd in ("Odd 1.article_embedding", '"Odd 1".article_embedding'):
        pgembed.pause_embedding(shops, odd)
        assert _states(shops) == {
            "public": "active",
            "beta": "paused",
            "Odd 1": "paused",
        }
        pgembed.resume_embedding(shops, odd)
    pgembed.resume_embedding(shops, "article_embedding")
    assert set(_states(shops).values()) == {"active"}
    shops.execute("reset search_path")

    pgembed.alter_embedding(shops, "beta.article_embedding", max_attempts=2)
    pgembed.reembed(shops, "beta.article_embedding")
    pgembed.repair(shops, "beta.article_embedding")
    assert pgembed.retry(shops, "beta.article_embedding") == 0
    with pytest.raises(errors.NotEmbeddedInTime, match=r"beta|article_embedding"):
        pgembed.await_embedded(shops, "beta.article", timeout=0.1)
    pgembed.await_embedded(shops, "public.article", timeout=1)
    process_all(dsn)
    pgembed.await_embedded(shops, timeout=1)
    for name in ("article_embedding", "beta.article_embedding"):
        (hit,) = pgembed.vector_search(
            shops, "beta.article", "wolf", embedding=name, encoder=encoder
        )
        assert hit.doc["title"] == "grey wolf"
        (words,) = pgembed.bm25_search(shops, "beta.article", "wolf", embedding=name)
        assert words.doc["title"] == "grey wolf"
    with pytest.raises(errors.UnknownEmbedding):
        pgembed.vector_search(
            shops,
            "beta.article",
            "wolf",
            embedding="public.article_embedding",
            encoder=encoder,
        )

    pgembed.drop_embedding(shops, "beta.article_embedding")
    assert set(_states(shops)) == {"public", "Odd 1"}
    with pytest.raises(errors.UnknownEmbedding):
        pgembed.drop_embedding(shops, "beta.article_embedding")
    pgembed.drop_embedding(shops, "beta.article_embedding", if_exists=True)
    shops.execute("set search_path = pg_catalog")
    with pytest.raises(errors.UnknownEmbedding, match="several") as caught:
        pgembed.drop_embedding(shops, "article_embedding")
    assert "public.article_embedding" in str(caught.value)


def test_waiting_names_the_schema_where_that_matters(
    shops: psycopg.Connection,
) -> None:
    shops.execute("insert into beta.article values (2, 'white hare')")
    with pytest.raises(
        errors.NotEmbeddedInTime, match=r"Waiting: beta\.article_embedding"
    ):
        pgembed.await_embedded(shops, timeout=0.1)


def test_evaluation_looks_at_the_named_table(
    shops: psycopg.Connection, dsn: str, encoder: HashingEncoder
) -> None:
    shops.execute(
        "insert into beta.article select i, 'wolf ' || i from"
        " generate_series(2, 60) as i"
    )
    process_all(dsn)
    for name in (None, "article_embedding", "beta.article_embedding"):
        options = RecallOptions(k=2, sample=40, embedding=name)
        report = evaluation.measure_recall(shops, "beta.article", options)
        assert report.queries == 40  # public's has four rows
    data = evaluation.JudgedQueries({"q": "wolf 7"}, {"q": {"7": 1}})
    found = evaluation.evaluate(
        shops,
        "beta.article",
        data,
        EvaluationOptions(
            modes=["bm25", "vector"],
            embedding="beta.article_embedding",
            encoder=encoder,
        ),
    )
    assert [mode.measures["recall@100"] for mode in found.modes] == [1, 1]
    options = RecallOptions(embedding="public.article_embedding")
    with pytest.raises(errors.UnknownEmbedding):
        evaluation.measure_recall(shops, "beta.article", options)


def test_if_not_exists(shop: psycopg.Connection) -> None:
    create = {"model": "hashing", "if_not_exists": True}
    before = pgembed.status(shop)
    name = pgembed.create_embedding(shop, "article", "category", **create)  # type: ignore[arg-type]
    assert name == "article_embedding"
    assert pgembed.status(shop) == before
    with pytest.raises(errors.EmbeddingExists):
        pgembed.create_embedding(shop, "article", "category", model="hashing")
    for _ in range(2):
        name = pgembed.create_bm25(shop, "article", "category", if_not_exists=True)
        assert name == "article_bm25"
    with pytest.raises(errors.EmbeddingExists):
        pgembed.create_bm25(shop, "article", "category")


async def test_if_not_exists_asynchronously(shop: psycopg.Connection, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        name = await aclient.create_embedding(
            conn, "article", "title", model="hashing", if_not_exists=True
        )
        assert name == "article_embedding"
        await aclient.repair(conn, "public.article_embedding")
        await aclient.erase(conn, name)
        with pytest.raises(errors.UnknownEmbedding):
            await aclient.erase(conn, "nosuch")


def test_repair_of_a_bm25_index(shop: psycopg.Connection) -> None:
    pgembed.create_bm25(shop, "article", "category", name="categories")
    shop.execute("drop table pgembed._bm25_2_posting cascade")
    with pytest.raises((psycopg.Error, errors.PgembedError)):
        pgembed.bm25_search(shop, "article", "drink", embedding="categories")
    pgembed.repair(shop, "public.categories")
    pgembed.bm25_maintain(shop, "public.categories", min_rows=1)
    found = pgembed.bm25_search(shop, "article", "drink", embedding="categories")
    assert {hit.doc["id"] for hit in found} == {3, 4}


@pytest.mark.parametrize("part", ["recent", "dead", "doc", "term", "posting"])
def test_a_search_that_misses_a_table_says_who_mends_it(
    shop: psycopg.Connection, part: str
) -> None:
    pgembed.create_bm25(shop, "article", "category", name="categories")
    shop.execute(f"drop table pgembed._bm25_2_{part} cascade".encode())
    with pytest.raises(errors.BrokenEmbedding) as caught:
        pgembed.bm25_search(shop, "article", "drink", embedding="categories")
    assert "pgembed.repair('public.categories')" in (caught.value.hint or "")


def test_erase_leaves_nothing_of_a_deleted_row(shop: psycopg.Connection) -> None:
    held = (
        "select exists (select from article_embedding where id = 1)"
        " or exists (select from pgembed._bm25_1_doc where key = '1')"
    )
    shop.execute("delete from article where id = 1")
    assert shop.execute(held.encode()).fetchone() == (True,)
    pgembed.erase(shop, "article_embedding")
    assert shop.execute(held.encode()).fetchone() == (False,)
    pgembed.erase(shop)
    with pytest.raises(errors.UnknownEmbedding):
        pgembed.erase(shop, "nosuch")


@pytest.fixture
def searcher(shop: psycopg.Connection, dsn: str) -> Iterator[psycopg.Connection]:
    """A role that may read the table, and nothing else."""
    with new_roles(dsn, "pgembed_test_web"):
        shop.execute("grant select on article to pgembed_test_web")
        pgembed.repair(shop, "article_embedding")
        process_all(dsn)
        with acting_as(dsn, "pgembed_test_web") as conn:
            yield conn


def test_usage_is_granted_and_revoked(
    shop: psycopg.Connection, searcher: psycopg.Connection, encoder: HashingEncoder
) -> None:
    def found() -> int:
        hits = pgembed.vector_search(searcher, "article", "tea", encoder=encoder)
        words = pgembed.bm25_search(searcher, "article", "tea")
        return len(hits) + len(words)

    with pytest.raises(errors.InsufficientPrivilege, match="pgembed"):
        found()
    pgembed.grant_usage(shop, "pgembed_test_web")
    assert found() == 6
    with pytest.raises(errors.InsufficientPrivilege):
        pgembed.grant_usage(searcher, "pgembed_test_web")
    pgembed.revoke_usage(shop, "pgembed_test_web")
    with pytest.raises(errors.InsufficientPrivilege, match="pgembed"):
        found()
    for call in (pgembed.grant_usage, pgembed.revoke_usage):
        with pytest.raises(errors.InvalidParameter, match="no role"):
            call(shop, "pgembed_nobody")


def test_texts_of_foreign_code_are_reranked_with_the_owners_rights(
    shop: psycopg.Connection,
    searcher: psycopg.Connection,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A searcher's own rights are nobody else's to use."""
    model = str(save_cross_encoder(tmp_path_factory.mktemp("cross-encoder")))
    shop.execute(
        "create function public.spoken(text) returns text immutable language sql"
        " as $$ select 'said by ' || current_user || ': ' || $1 $$"
    )
    pgembed.create_bm25(shop, "article", "spoken(title)", name="spoken")
    pgembed.grant_usage(shop, "pgembed_test_web")
    owner = shop.info.user
    seen: list[str] = []

    class Reranker:
        name = "own"

        def score(self, query: str, texts: Sequence[str]) -> list[float]:
            assert query == "tea"
            seen.extend(texts)
            return [float(len(text)) for text in texts]

    rerankers: list[client.RerankerLike] = [Reranker(), model]
    for reranker in rerankers:
        hits = pgembed.bm25_search(
            searcher, "article", "tea", embedding="spoken", rerank=2, reranker=reranker
        )
        assert {hit.doc["id"] for hit in hits} == {3, 4}
    assert set(seen) == {
        f"said by {owner}: green tea",
        f"said by {owner}: black tea with milk",
    }
