"""Searches are statements: they compose, and filter before they rank."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    Select,
    bindparam,
    func,
    select,
    text,
    union_all,
)
from sqlalchemy.orm import Session, aliased, joinedload, selectinload, undefer

from pgembed import client
from pgembed.encoders import load_encoder
from pgembed.errors import (
    DimensionMismatch,
    InsufficientPrivilege,
    InvalidFilter,
    InvalidParameter,
    InvalidQuery,
    NoEncoderService,
    UnknownEmbedding,
    UnknownModel,
)
from pgembed.sqlalchemy import BM25Hit, HybridHit, Search, VectorHit
from pgembed.testing import HASHING_DIMENSIONS, HASHING_MODEL
from tests.fixtures.roles import new_roles
from tests.integration.orm import models
from tests.integration.orm.criteria import CRITERIA
from tests.integration.orm.models import Article, Author

E = Article.embedding
ENCODER = load_encoder("hashing", "hashing", dimensions=HASHING_DIMENSIONS)


def vectors(k: int | None = 5, **options: Any) -> Search[Article, VectorHit]:
    return E.vector_search("cheap flights", k, encoder=ENCODER, **options)


def words(k: int | None = 5, **options: Any) -> Search[Article, BM25Hit]:
    return E.bm25_search("cheap flights", k, **options)


def both(k: int | None = 5, **options: Any) -> Search[Article, HybridHit]:
    return E.hybrid_search("cheap flights", k, encoder=ENCODER, **options)


SEARCHES = pytest.mark.parametrize("search", [vectors, words, both])


def ids(session: Session, statement: Any) -> list[int]:
    return [row[0].id for row in session.execute(statement)]


def test_hits_that_are_alike_are_put_apart(session: Session) -> None:
    conn: Any = session.connection().connection.driver_connection
    for search, function in (
        (vectors, client.vector_search),
        (both, client.hybrid_search),
    ):
        hits = function(
            conn, "article", "cheap flights", k=5, encoder=ENCODER, diversity=0.8
        )
        assert ids(session, search(diversity=0.8)) == [hit.doc["id"] for hit in hits]


@SEARCHES
def test_rows_come_best_first_with_their_hits(session: Session, search: Any) -> None:
    found = session.execute(search()).all()
    assert [row.hit.rank for row in found] == [1, 2, 3, 4, 5]
    assert all(row.Article.category == "travel" for row in found)
    hit = found[0].hit
    assert isinstance(hit, (VectorHit, BM25Hit, HybridHit))
    scores = [
        row.hit.similarity if search is vectors else row.hit.score for row in found
    ]
    assert scores == sorted(scores, reverse=True)


@SEARCHES
@pytest.mark.parametrize("name", CRITERIA)
def test_conditions_are_met_before_the_ranking(
    session: Session, search: Any, name: str
) -> None:
    criterion, matches = CRITERIA[name]
    found = set(ids(session, search(40).where(criterion)))
    articles = session.scalars(select(Article)).all()
    expected = {a.id for a in articles if matches(a)}
    if search is words:
        expected &= {a.id for a in articles if a.category == "travel"}
    assert found == expected


def test_k_rows_come_back_when_k_match(session: Session) -> None:
    found = session.execute(vectors(4).where(Article.category == "kitchen")).all()
    assert [row.Article.category for row in found] == ["kitchen"] * 4


def test_conditions_on_the_hit_sort_out_afterwards(session: Session) -> None:
    search = vectors(40)
    found = session.execute(search.where(search.hit.similarity > 0.5)).all()
    assert 0 < len(found) < 40
    assert all(row.hit.similarity > 0.5 for row in found)


def test_conditions_add_up(session: Session) -> None:
    search = vectors(40).where(Article.price > 5).filter(Article.price < 15)
    search = search.filter_by(category="travel")
    assert sorted(ids(session, search)) == [7, 9, 11, 13, 15]


def test_a_search_is_not_changed_by_what_is_made_of_it(session: Session) -> None:
    search = vectors(40)
    search.where(Article.price < 3)
    search.limit(1)
    assert len(ids(session, search)) == 40


def test_one_statement_serves_all_values(session: Session) -> None:
    """The compiled statement is found again, and new values are used."""
    first = ids(session, vectors(40).where(Article.price < 3))
    assert ids(session, vectors(40).where(Article.price < 7)) != first
    one = vectors(40).where(Article.price < 3, Article.id.in_([1]))
    two = vectors(40).where(Article.price < 9, Article.id.in_([2, 3]))
    assert ids(session, one) == [1]
    assert sorted(ids(session, two)) == [2, 3]
    key = one._generate_cache_key()
    assert key is not None
    assert key == two._generate_cache_key()


def test_parameters_may_be_given_at_execution(session: Session) -> None:
    search = vectors(40).where(Article.id.in_(bindparam("ids", expanding=True)))
    search = search.where(Article.price < bindparam("most"))
    for wanted in ([1, 3], [5, 39]):
        found = session.execute(search, {"ids": wanted, "most": 10}).all()
        assert sorted(row[0].id for row in found) == [i for i in wanted if i < 10]


def test_parameters_may_be_given_with_the_statement(session: Session) -> None:
    search = vectors(40).where(Article.id.in_(bindparam("ids", expanding=True)))
    for wanted in ([1, 3], [], [5]):
        found = session.execute(search.params(ids=wanted).limit(9))
        assert sorted(row[0].id for row in found) == wanted


def test_conditions_on_what_the_embedding_maps(session: Session) -> None:
    """The status and the chunks are subqueries: they go into the search."""
    search = vectors(3)
    assert len(ids(session, search.where(E.status_of_row == "embedded"))) == 3
    assert ids(session, search.where(E.status_of_row == "failed")) == []
    chunk = E.chunks
    with_word = E.chunks_of_row.any(chunk.content.contains("oslo"))
    found = session.execute(search.where(with_word)).all()
    assert ["oslo" in row.Article.body for row in found] == [True] * 3


def test_joins_columns_and_loading(session: Session) -> None:
    search = vectors(6)
    joined = search.join(Article.author).where(Author.name == "O'Hara")
    authors = [row[0].author for row in session.execute(joined)]
    assert {author.name for author in authors if author} == {"O'Hara"}
    columns = search.with_only_columns(Article.title, search.hit.similarity)
    assert [len(row) for row in session.execute(columns)] == [2] * 6
    loaded = search.options(
        selectinload(E.chunks_of_row),
        joinedload(Article.author),
        selectinload(Article.comments),
        undefer(E.status_of_row),
    )
    found = session.execute(loaded).unique().all()
    article = found[0].Article
    assert "embedding_chunks" in vars(article)
    assert article.embedding.chunks[0].content == found[0].hit.content
    assert article.embedding.status == "embedded"


def test_search_inside_other_statements(session: Session) -> None:
    search = vectors(40).where(Article.price < 10)
    counted = select(func.count()).select_from(search.subquery())
    with pytest.raises(Exception, match="not at hand"):
        session.execute(counted)
    session.rollback()
    vector = ENCODER.encode_queries(["cheap flights"])[0]
    search = E.vector_search(vector, 40).where(Article.price < 10)
    assert session.scalar(select(func.count()).select_from(search.subquery())) == 10
    two = union_all(
        E.vector_search(vector, 2).with_only_columns(Article.id),
        E.vector_search(vector, 3, name="other").with_only_columns(Article.id),
    )
    assert len(session.execute(two).all()) == 5


def test_search_as_a_source_of_rows(session: Session) -> None:
    search = E.vector_search(ENCODER.encode_queries(["cheap flights"])[0], 5)
    everything = set(ids(session, search))
    only_ids = search.with_only_columns(Article.id)
    inside = select(Article).where(Article.id.in_(only_ids))
    assert {row.id for row in session.scalars(inside)} == everything
    found = aliased(Article, search.subquery())
    assert {row.id for row in session.scalars(select(found))} == everything
    cte = search.cte("found")
    assert set(session.scalars(select(cte.c.id))) == everything
    streamed = session.execute(search.execution_options(yield_per=2))
    assert {row.Article.id for row in streamed} == everything
    loaded = session.execute(search.options(joinedload(Article.comments)).limit(3))
    assert len(loaded.unique().all()) == 3


def test_another_role_searches_with_its_own_rights(shop_dsn: str) -> None:
    engine = models.engine(shop_dsn)
    with new_roles(shop_dsn, "web"), Session(engine) as session:
        session.execute(text("select pgembed.grant_usage('web')"))
        session.execute(text("grant select on article to web"))
        session.execute(text("select pgembed.repair('article_embedding')"))
        session.execute(text("set local role web"))
        search = both(5).where(Article.price < 20)
        assert len(session.execute(search).all()) == 5
        with pytest.raises(InsufficientPrivilege, match="author"):
            session.execute(search.where(Article.author.has(Author.name == "x")))
        session.rollback()
    engine.dispose()


def test_pages(session: Session) -> None:
    everything = ids(session, vectors(40, exact=True))
    search = vectors(None, exact=True)
    assert ids(session, search) == everything[:10]
    assert ids(session, search.limit(7)) == everything[:7]
    assert ids(session, search.limit(7).offset(14)) == everything[14:21]
    assert ids(session, search.offset(14).limit(7)) == everything[14:21]
    assert ids(session, search.slice(3, 5)) == everything[3:5]
    assert ids(session, vectors(5, exact=True).limit(7)) == everything[:5]


def test_order_may_be_another(session: Session) -> None:
    search = vectors(5).order_by(None).order_by(Article.id.desc())
    found = ids(session, search)
    assert found == sorted(found, reverse=True)


def test_filter_as_data(session: Session) -> None:
    search = both(40, filter={"category": "travel", "price": {"$lt": 9}})
    assert sorted(ids(session, search.where(Article.price > 3))) == [5, 7, 9]


def test_filter_into_json_and_arrays(session: Session) -> None:
    search = both(
        40, filter={"meta.stars": {"$gte": Decimal(3)}, "tags": {"$any": "new"}}
    )
    everything = session.scalars(select(Article)).all()
    expected = [a.id for a in everything if a.meta["stars"] >= 3 and "new" in a.tags]
    assert sorted(ids(session, search)) == sorted(expected)


def test_similar(session: Session) -> None:
    article = session.get_one(Article, 2)
    for row in (article, 2, (2,)):
        found = ids(session, E.similar(row, 5).where(Article.category == "kitchen"))
        assert len(found) == 5
        assert 2 not in found
        assert all(one % 2 == 0 for one in found)


def test_options_reach_the_functions(session: Session) -> None:
    exact = E.vector_search("cheap flights", 5, encoder=ENCODER, exact=True)
    assert len(ids(session, exact)) == 5
    assert len(ids(session, vectors(5, ef_search=100))) == 5
    search = E.bm25_search(
        '"cheap flights" -oslo', 40, syntax="websearch", snippets=True, config="english"
    )
    found = session.execute(search).all()
    assert found
    assert all("oslo" not in row.Article.body for row in found)
    assert "<" in (found[0].hit.snippet or "")
    boosted = E.bm25_search("cheap flights", 5, explain=True, boost="2 + s.id % 2")
    for row in session.execute(boosted).all():
        assert row.hit.explanation["boost"] == 2 + row.Article.id % 2
    assert ids(session, E.bm25_search("cheap fligh", 3, prefix=True))
    fuzzy = session.execute(E.bm25_search("Fligths", 3, fuzzy=True)).all()
    assert {str(row.hit.read_as) for row in fuzzy} == {"{'Fligths': 'flight'}"}
    assert len({row.hit for row in fuzzy}) == 3
    fused = session.execute(both(3, fuzzy=True)).all()
    assert [row.hit.read_as for row in fused] == [None] * 3
    search2 = both(
        5, fusion="minmax", vector_weight=2, bm25_weight=0.5, candidates=20, rrf_k=30
    )
    hit = session.execute(search2).first()
    assert hit is not None
    assert hit.hit.bm25_rank is not None
    assert hit.hit.vector_rank is not None


def test_encoder_by_name(session: Session) -> None:
    assert len(ids(session, E.vector_search("rome", 3, encoder=HASHING_MODEL))) == 3
    with pytest.raises(UnknownModel):
        session.execute(E.vector_search("rome", 3, encoder="nosuch"))


def test_chunks_are_mapped(session: Session) -> None:
    chunk = E.chunks
    found = session.scalars(select(chunk).order_by(chunk.content).limit(2)).all()
    assert found[0].content.startswith("cheap flights")
    assert len(found[0].embedding) == HASHING_DIMENSIONS
    nearest = select(chunk.content).order_by(
        chunk.embedding.cosine_distance(ENCODER.encode_queries(["slow cooker"])[0])
    )
    assert "slow cooker" in session.scalars(nearest.limit(1)).one()
    joined = select(Article.title).join(E.chunks_of_row).where(chunk.chunk == 0)
    assert len(session.scalars(joined).all()) == 40


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: E.vector_search(" "), InvalidQuery),
        (lambda: E.vector_search([]), InvalidQuery),
        (lambda: E.vector_search([float("nan")]), InvalidQuery),
        (lambda: E.vector_search("a\0b"), InvalidQuery),
        (lambda: E.vector_search("a", 0), InvalidParameter),
        (lambda: E.bm25_search(""), InvalidQuery),
        (lambda: E.hybrid_search("a", rrf_k=0), InvalidParameter),
        (lambda: E.similar(Article()), InvalidQuery),
        (lambda: E.similar((1, 2)), InvalidParameter),
        (lambda: E.similar(None), InvalidParameter),
        (lambda: E.vector_search("a", filter=1), InvalidFilter),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_refused_at_once(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: E.vector_search([1.0, 2.0]), DimensionMismatch),
        (lambda: vectors(k=20_000), InvalidParameter),
        (lambda: vectors(filter={"nosuch": 1}), InvalidFilter),
        (lambda: vectors(ef_search=5000), InvalidParameter),
        (lambda: E.vector_search("never asked"), NoEncoderService),
        (lambda: E.similar(12345), InvalidQuery),
    ],
)
def test_the_servers_errors_are_pgembeds(
    session: Session, make: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        session.execute(make())
    assert "HINT: " in str(caught.value)


def test_embedding_that_is_not_in_the_database(session: Session) -> None:
    session.begin()
    session.connection().exec_driver_sql(
        "select pgembed.drop_embedding('article_embedding')"
    )
    with pytest.raises(UnknownEmbedding):
        session.execute(E.vector_search([1.0] * HASHING_DIMENSIONS))


def test_search_is_a_select() -> None:
    assert isinstance(vectors(), Select)
