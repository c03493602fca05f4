"""Searches by words, and by words and vectors together, from Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgembed
from pgembed import aclient, errors
from pgembed.encoders.hashing import HashingEncoder
from pgembed.rerankers import load_reranker
from tests.fixtures.bm25_reference import (
    assert_same_scores,
    fetch_lexemes,
    fetch_query_lexemes,
)
from tests.fixtures.cross_encoders import save_cross_encoder

CONFIG = "english"


@dataclass
class Article:
    id: int
    title: str
    category: str
    price: int


@pytest.fixture
def words(shop: psycopg.Connection) -> psycopg.Connection:
    """The articles, with a BM25 index that is built."""
    pgembed.alter_embedding(
        shop, "article_embedding", bm25=True, bm25_options={"config": CONFIG}
    )
    pgembed.bm25_maintain(shop)
    return shop


def test_bm25_scores_are_the_references(words: psycopg.Connection) -> None:
    lexemes = fetch_lexemes(words, "article", "title", CONFIG)
    for query in ("fox", "black tea", "milk foxes", "the", "nothing at all"):
        hits = pgembed.bm25_search(words, "article", query)
        assert_same_scores(
            [(hit.doc["id"], hit.score) for hit in hits],
            lexemes,
            fetch_query_lexemes(words, query, CONFIG),
            k=10,
        )


def test_a_row_is_found_in_its_own_transaction(words: psycopg.Connection) -> None:
    with words.transaction(force_rollback=True):
        words.execute("insert into article values (9, 'white wolf', 'animal', 1)")
        (hit,) = pgembed.bm25_search(words, "article", "wolf")
        assert hit.doc["title"] == "white wolf"
    assert pgembed.bm25_search(words, "article", "wolf") == []


def test_options_of_bm25_search(words: psycopg.Connection) -> None:
    def found(query: str, **options: Any) -> list[int]:
        hits = pgembed.bm25_search(words, "article", query, **options)
        return sorted(hit.doc["id"] for hit in hits)

    assert found("fox tea") == [1, 2, 3, 4]
    assert found("fox tea", k=1) != []
    assert found("tea -milk", syntax="websearch") == [3]
    assert found('"black tea"', syntax="websearch") == [4]
    assert found("gre", prefix=True) == [3]
    assert found("fox", filter={"price": {"$gt": 3}}) == [2]
    assert found("fox", where_sql="price = 3") == [1]
    assert found("fox", embedding="article_embedding") == [1, 2]
    assert found("foxes", config="simple") == []
    (hit,) = pgembed.bm25_search(words, "article", "milk", snippets=True)
    assert "<b>milk</b>" in (hit.snippet or "")
    (plain,) = pgembed.bm25_search(words, "article", "milk")
    assert plain.snippet is None
    assert plain.explanation is None
    (hit,) = pgembed.bm25_search(
        words, "article", "milk", explain=True, boost="s.price"
    )
    assert hit.score == pytest.approx(6 * plain.score)
    assert hit.explanation is not None
    assert hit.explanation["boost"] == 6
    assert [word["word"] for word in hit.explanation["words"]] == ["milk"]
    (row,) = pgembed.bm25_search(words, "article", "milk", row_factory=Article)
    assert row.doc == Article(4, "black tea with milk", "drink", 6)


def test_typing_errors(words: psycopg.Connection, encoder: HashingEncoder) -> None:
    assert pgembed.bm25_search(words, "article", "blakc") == []
    (hit,) = pgembed.bm25_search(words, "article", "blakc", fuzzy=True)
    assert hit.doc["id"] == 4
    assert hit.read_as == {"blakc": "black"}
    (hit,) = pgembed.bm25_search(words, "article", "black", fuzzy=True)
    assert hit.read_as is None
    (hit,) = pgembed.bm25_search(words, "article", "blck", fuzzy=True, prefix=True)
    assert hit.read_as == {"blck": "black"}
    hits = pgembed.hybrid_search(
        words, "article", "blakc tea", encoder=encoder, k=4, fuzzy=True
    )
    assert [hit.doc["id"] for hit in hits if hit.bm25_rank == 1] == [4]
    assert {str(hit.read_as) for hit in hits} == {"{'blakc': 'black'}"}


def test_hybrid_tells_both_ranks_and_scores(
    words: psycopg.Connection, encoder: HashingEncoder
) -> None:
    hits = pgembed.hybrid_search(words, "article", "black tea", encoder=encoder, k=4)
    best = hits[0]
    assert best.doc["id"] == 4
    assert (best.vector_rank, best.bm25_rank) == (1, 1)
    assert best.content == "black tea with milk"
    assert best.chunk == 0
    assert best.score == pytest.approx(1 / 21 + 1 / 21)
    by_vector = {
        hit.doc["id"]: hit.similarity
        for hit in pgembed.vector_search(words, "article", "black tea", encoder=encoder)
    }
    by_words = {
        hit.doc["id"]: hit.score
        for hit in pgembed.bm25_search(words, "article", "black tea")
    }
    for hit in hits:
        assert hit.similarity == pytest.approx(by_vector[hit.doc["id"]])
        assert hit.bm25 == pytest.approx(by_words.get(hit.doc["id"]))
        assert (hit.bm25_rank is None) == (hit.doc["id"] not in by_words)
    assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)


def test_options_of_hybrid_search(
    words: psycopg.Connection, encoder: HashingEncoder
) -> None:
    def search(**options: Any) -> list[pgembed.HybridHit[dict[str, Any]]]:
        return pgembed.hybrid_search(
            words, "article", "black tea", encoder=encoder, **options
        )

    for fusion in ("rrf", "minmax", "distribution"):
        assert search(fusion=fusion)[0].doc["id"] == 4
    (words_only, *_) = search(vector_weight=0.0, rrf_k=1)
    assert words_only.score == pytest.approx(1 / 2)
    assert {hit.doc["id"] for hit in search(filter={"category": "drink"})} == {3, 4}
    assert {hit.doc["id"] for hit in search(where_sql="price = 5")} == {3}
    assert len(search(k=1, candidates=2, ef_search=50)) == 1
    assert "<b>black</b>" in (search(snippets=True)[0].snippet or "")
    assert search(boost="case s.id when 1 then 9 else 1 end")[0].doc["id"] == 1
    explained = search(explain=True)[0]
    assert explained.explanation is not None
    assert explained.explanation["vector"]["score"] == pytest.approx(1 / 21)
    assert explained.explanation["bm25"]["rank"] == 1
    (row, *_) = pgembed.hybrid_search(
        words, "article", "milk", encoder=encoder, row_factory=Article
    )
    assert row.doc.title == "black tea with milk"
    vector = encoder.encode_queries(["black tea"])[0]
    given = pgembed.hybrid_search(words, "article", "black tea", query_embedding=vector)
    assert [hit.doc["id"] for hit in given] == [hit.doc["id"] for hit in search()]


def test_row_without_a_vector_is_found_by_its_words(
    words: psycopg.Connection, encoder: HashingEncoder
) -> None:
    words.execute("insert into article values (9, 'white wolf', 'animal', 1)")
    hits = pgembed.hybrid_search(words, "article", "wolf", encoder=encoder)
    hit = next(hit for hit in hits if hit.doc["id"] == 9)
    assert (hit.vector_rank, hit.similarity, hit.chunk, hit.content) == (None,) * 4
    assert hit.bm25_rank == 1


def test_without_a_service_words_alone_answer_only_when_asked(
    words: psycopg.Connection,
) -> None:
    with pytest.raises(errors.NoEncoderService):
        pgembed.hybrid_search(words, "article", "black tea")
    hits = pgembed.hybrid_search(
        words, "article", "black tea", on_missing_query_embedding="bm25"
    )
    assert hits[0].doc["id"] == 4
    assert {hit.vector_rank for hit in hits} == {None}
    with words.transaction():
        again = pgembed.hybrid_search(
            words, "article", "black tea", on_missing_query_embedding="bm25"
        )
    assert again == hits


async def test_the_asynchronous_client_finds_the_same(
    words: psycopg.Connection, dsn: str, encoder: HashingEncoder
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert await aclient.bm25_search(
            conn, "article", "tea", snippets=True
        ) == pgembed.bm25_search(words, "article", "tea", snippets=True)
        assert await aclient.hybrid_search(
            conn, "article", "tea", encoder=encoder
        ) == pgembed.hybrid_search(words, "article", "tea", encoder=encoder)
        name = await aclient.create_bm25(conn, "article", "category", name="kinds")
        await conn.commit()
        assert await aclient.bm25_maintain(conn, name) is not None
        await aclient.alter_bm25(conn, name, options={"b": 0.5})
        await aclient.bm25_rebuild(conn, name)
        await aclient.drop_bm25(conn, name)
        hits = await aclient.hybrid_search(
            conn, "article", "tea", on_missing_query_embedding="bm25"
        )
        assert [hit.doc["id"] for hit in hits] != []


def test_bm25_alone_from_declaration_to_drop(shop: psycopg.Connection) -> None:
    name = pgembed.create_bm25(
        shop,
        "article",
        "title",
        name="titles",
        options={"config": CONFIG, "k1": 0.9, "b": 0.4},
    )
    assert name == "titles"
    pgembed.bm25_maintain(shop, name, min_rows=1)
    hits = pgembed.bm25_search(shop, "article", "foxes", embedding=name)
    assert_same_scores(
        [(hit.doc["id"], hit.score) for hit in hits],
        fetch_lexemes(shop, "article", "title", CONFIG),
        ["fox"],
        k=10,
        k1=0.9,
        b=0.4,
    )
    pgembed.alter_bm25(shop, name, text_expression="category")
    pgembed.bm25_maintain(shop, name, min_rows=1)
    assert len(pgembed.bm25_search(shop, "article", "drinks", embedding=name)) == 2
    pgembed.bm25_rebuild(shop, name)
    pgembed.bm25_maintain(shop)
    assert len(pgembed.bm25_search(shop, "article", "drinks", embedding=name)) == 2
    pgembed.drop_bm25(shop, name)
    pgembed.drop_bm25(shop, name, if_exists=True)
    with pytest.raises(errors.UnknownEmbedding):
        pgembed.drop_bm25(shop, name)


def test_embedding_without_bm25(shop: psycopg.Connection) -> None:
    name = pgembed.create_embedding(
        shop, "article", "category", name="kinds", model="hashing", bm25=False
    )
    with pytest.raises(errors.UnknownEmbedding):
        pgembed.bm25_search(shop, "article", "drink", embedding=name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_cross_encoder(tmp_path_factory.mktemp("cross-encoder")))


def test_hits_are_reranked_by_the_rows_text(
    words: psycopg.Connection, encoder: HashingEncoder, model: str
) -> None:
    words.execute("insert into article values (9, '100% wolf tea', 'animal', 1)")
    texts: dict[int, str] = dict(
        words.execute("select id, title from article").fetchall()
    )
    score = load_reranker(model).score
    by_words = pgembed.bm25_search(
        words, "article", "black tea fox", rerank=10, reranker=model
    )
    fused = pgembed.hybrid_search(
        words, "article", "black tea fox", encoder=encoder, rerank=10, reranker=model
    )
    assert len(by_words) == len(fused) == 5
    for hits in (by_words, fused):
        expected = score("black tea fox", [texts[hit.doc["id"]] for hit in hits])
        scores = [hit.rerank_score for hit in hits]
        assert scores == pytest.approx(expected, abs=1e-5)
        assert scores == sorted(expected, reverse=True)
    (best,) = pgembed.bm25_search(
        words, "article", "black tea fox", k=1, rerank=10, reranker=model
    )
    assert best.doc == by_words[0].doc


def test_the_searched_texts_are_reranked_where_a_table_has_several(
    words: psycopg.Connection, encoder: HashingEncoder, model: str
) -> None:
    """Bug: with two texts on a table, rows that vectors missed were read as empty."""
    pgembed.create_bm25(words, "article", "category || '%'", name="kinds")
    words.execute("insert into article values (9, 'white wolf', 'animal', 1)")
    score = load_reranker(model).score
    for hit in pgembed.bm25_search(
        words, "article", "animal", embedding="kinds", rerank=9, reranker=model
    ):
        (expected,) = score("animal", ["animal%"])
        assert hit.rerank_score == pytest.approx(expected, abs=1e-5)
    hits = pgembed.hybrid_search(
        words, "article", "wolf", encoder=encoder, rerank=9, reranker=model
    )
    (wolf,) = (hit for hit in hits if hit.doc["id"] == 9)
    assert wolf.content is None
    (expected,) = score("wolf", ["white wolf"])
    assert wolf.rerank_score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "words_of_it"),
    [
        ({"query": ""}, errors.InvalidQuery, "empty"),
        ({"query": " \n"}, errors.InvalidQuery, "empty"),
        ({"query": "a\0"}, errors.InvalidQuery, "NUL"),
        ({"query": None}, errors.InvalidQuery, "None"),
        ({"k": 0}, errors.InvalidParameter, "k must be"),
        ({"k": 10_001}, errors.InvalidParameter, "10001"),
        ({"syntax": "lucene"}, errors.InvalidParameter, "lucene"),
        ({"config": "klingon"}, errors.InvalidParameter, "klingon"),
        ({"config": "a\0"}, errors.InvalidParameter, "NUL"),
        ({"table": "nosuch"}, errors.InvalidSource, "nosuch"),
        ({"embedding": "nosuch"}, errors.UnknownEmbedding, "nosuch"),
        ({"filter": {"nope": 1}}, errors.InvalidFilter, "nope"),
        ({"where_sql": "other.x = 1"}, errors.InvalidFilter, "other"),
        ({"rerank": 0}, errors.InvalidParameter, "rerank"),
        ({"reranker": 3, "rerank": 1}, errors.InvalidParameter, "reranker"),
    ],
)
def test_bm25_search_refuses(
    words: psycopg.Connection,
    arguments: dict[str, Any],
    error: type[errors.PgembedError],
    words_of_it: str,
) -> None:
    given: dict[str, Any] = {"table": "article", "query": "tea", **arguments}
    table, query = given.pop("table"), given.pop("query")
    with pytest.raises(error) as caught:
        pgembed.bm25_search(words, table, query, **given)
    assert words_of_it in str(caught.value)
    assert len(pgembed.bm25_search(words, "article", "tea")) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "words_of_it"),
    [
        ({"query": None, "encoder": None}, errors.InvalidQuery, "nothing to search"),
        ({"vector_weight": -1}, errors.InvalidParameter, "-1"),
        ({"vector_weight": 0, "bm25_weight": 0}, errors.InvalidParameter, "weights"),
        ({"bm25_weight": float("nan")}, errors.InvalidParameter, "bm25_weight"),
        ({"bm25_weight": float("inf")}, errors.InvalidParameter, "bm25_weight"),
        ({"bm25_weight": "1"}, errors.InvalidParameter, "bm25_weight"),
        ({"fusion": "sum"}, errors.InvalidParameter, "sum"),
        ({"rrf_k": 0}, errors.InvalidParameter, "rrf_k"),
        ({"candidates": 0}, errors.InvalidParameter, "candidates"),
        ({"candidates": 10**6}, errors.InvalidParameter, "candidates"),
        ({"on_missing_query_embedding": "x"}, errors.InvalidParameter, '"x"'),
        ({"encoder": HashingEncoder("other", 64)}, errors.ModelMismatch, "other"),
        ({"query_embedding": [1.0]}, errors.DimensionMismatch, "1 dimension"),
        (
            {"query_embedding": [float("nan")] * 64},
            errors.InvalidQuery,
            "nan at position 0",
        ),
        ({"timeout": 0}, errors.InvalidParameter, "timeout"),
        ({"filter": {"nope": 1}}, errors.InvalidFilter, "nope"),
    ],
)
def test_hybrid_search_refuses(
    words: psycopg.Connection,
    encoder: HashingEncoder,
    arguments: dict[str, Any],
    error: type[errors.PgembedError],
    words_of_it: str,
) -> None:
    given: dict[str, Any] = {"query": "tea"}
    if "query_embedding" not in arguments:
        given["encoder"] = encoder
    given |= arguments
    with pytest.raises(error) as caught:
        pgembed.hybrid_search(words, "article", given.pop("query"), **given)
    assert words_of_it in str(caught.value)


def test_index_that_has_to_be_built_says_so(shop: psycopg.Connection) -> None:
    pgembed.create_bm25(shop, "article", "title", name="titles")
    shop.execute("update pgembed.bm25 set state = 'pending' where name = 'titles'")
    with pytest.raises(errors.Bm25NotReady, match="bm25_maintain"):
        pgembed.bm25_search(shop, "article", "tea", embedding="titles")


def test_a_model_folder_is_taken_as_a_path_too(model: str) -> None:
    assert load_reranker(str(Path(model))).name == model
