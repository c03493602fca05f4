"""Sessions, synchronous and not: who encodes the query, and waiting for rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    CHAR,
    Engine,
    Numeric,
    String,
    TypeDecorator,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    selectinload,
)
from sqlalchemy.pool import QueuePool

from pgembed.encoders import load_encoder
from pgembed.errors import (
    EncodingFailed,
    InvalidParameter,
    NoEncoderService,
    NotEmbeddedInTime,
)
from pgembed.sqlalchemy import Embedding, await_embedded, encode_query
from pgembed.testing import HASHING_DIMENSIONS, HASHING_MODEL, process_all
from tests.fixtures.answering import answering
from tests.fixtures.postgres import Server
from tests.fixtures.vectors import as_text
from tests.integration.orm import models
from tests.integration.orm.models import Article
from tests.integration.orm.test_tenants import Note

E = Article.embedding
ENCODER = load_encoder("hashing", "hashing", dimensions=HASHING_DIMENSIONS)
DRIVERS = pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])


def answer(query: str) -> tuple[str | None, str | None]:
    if "bad" in query:
        return None, "it is bad"
    return as_text(ENCODER.encode_queries([query])[0]), None


@pytest.fixture
def asked(shop_dsn: str) -> Iterator[list[str]]:
    """Queries that a service beside the shop has been asked for."""
    with answering(shop_dsn, answer) as queries:
        yield queries


@pytest.fixture
async def async_session(shop_dsn: str, driver: str) -> AsyncIterator[AsyncSession]:
    engine = models.async_engine(shop_dsn, driver)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session
    await engine.dispose()


def test_the_service_encodes_what_is_not_cached(
    session: Session, asked: list[str]
) -> None:
    session.execute(select(func.now()))  # the session is inside a transaction
    for search in (
        E.vector_search("cheap flights to lima", 3),
        E.hybrid_search("cheap flights to lima", 3),
        E.vector_search("cheap flights to lima", 3),
    ):
        assert len(session.execute(search).all()) == 3
    assert asked.count("cheap flights to lima") == 1
    encode_query(session, "flights to oslo", HASHING_MODEL)
    search = E.vector_search("flights to oslo", 3)
    counted = select(func.count()).select_from(search.subquery())
    assert session.scalar(counted) == 3


def test_what_the_service_says_is_raised(session: Session, asked: list[str]) -> None:
    with pytest.raises(EncodingFailed, match="it is bad"):
        session.execute(E.vector_search("bad query"))
    assert "bad query" in asked


def test_a_service_that_is_silent(session: Session, shop_dsn: str) -> None:
    with answering(shop_dsn, lambda _: (None, None)):
        search = E.vector_search("silence", timeout=0.2)
        with pytest.raises(NoEncoderService, match=r"within 0\.2 seconds"):
            session.execute(search)
        session.rollback()
        words = E.hybrid_search(
            "cheap silence", 3, timeout=0.2, on_missing_query_embedding="bm25"
        )
        found = session.execute(words).all()
    assert len(found) == 3
    assert found[0].hit.vector_rank is None


def test_a_pool_of_one_connection_is_enough(shop_dsn: str, asked: list[str]) -> None:
    engine = models.engine(
        shop_dsn, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=5
    )
    with Session(engine) as session:
        session.execute(select(func.now()))
        assert session.execute(E.vector_search("one connection", 1)).all()
    engine.dispose()
    assert "one connection" in asked


@DRIVERS
async def test_asynchronous_sessions(
    async_session: AsyncSession, asked: list[str], driver: str
) -> None:
    query = f"cheap flights with {driver}"
    search = (
        E.hybrid_search(query)
        .where(
            Article.category == "travel",
            Article.price.between(3, 20),
            Article.id.in_([5, 7, 9, 11, 999]),
            Article.tags.contains(["new"]),
            Article.meta["stars"].as_integer() < 4,
            Article.author.has(models.Author.name == "O'Hara"),
        )
        .options(selectinload(E.chunks_of_row), selectinload(Article.comments))
        .limit(3)
        .offset(1)
    )
    found = (await async_session.execute(search)).all()
    assert asked.count(query) == 1
    assert [row.hit.rank for row in found] == [2, 3][: len(found)]
    assert found
    assert all(row.Article.embedding.chunks[0].content for row in found)
    words = await async_session.scalars(E.bm25_search("cheap flights", 3))
    assert len(words.all()) == 3
    here = E.vector_search("rome", 3, encoder=HASHING_MODEL)
    assert len((await async_session.execute(here)).all()) == 3
    vector = ENCODER.encode_queries(["rome"])[0]
    assert (await async_session.execute(E.vector_search(vector, 3))).first()
    article = await async_session.get_one(Article, 1)
    assert len((await async_session.execute(E.similar(article, 3))).all()) == 3


@DRIVERS
async def test_errors_in_asynchronous_sessions(
    async_session: AsyncSession, driver: str
) -> None:
    with pytest.raises(NoEncoderService) as caught:
        await async_session.execute(
            E.vector_search(f"nobody there {driver}", timeout=0.2)
        )
    assert "HINT" in str(caught.value)
    await async_session.rollback()
    with pytest.raises(InvalidParameter) as caught2:
        await async_session.execute(E.bm25_search("rome", 99999))
    assert "HINT" in str(caught2.value)


# await_embedded ---------------------------------------------------------------


@pytest.fixture
def own(new: Engine) -> Engine:
    """A shop of one's own, empty."""
    models.Base.metadata.create_all(new)
    return new


def article(n: int, **values: Any) -> dict[str, Any]:
    return {
        "title": f"title {n}",
        "body": "body",
        "category": "c",
        "price": n,
        "tags": [],
        "meta": {},
        **values,
    }


def test_waiting_is_for_the_sessions_own_rows(own: Engine, new_dsn: str) -> None:
    with Session(own) as session, Session(own) as other:
        await_embedded(session, 1)  # nothing was written
        session.add_all([Article(**article(n)) for n in range(3)])
        with pytest.raises(InvalidParameter, match="not committed"):
            await_embedded(session, 1)
        session.commit()
        with pytest.raises(NotEmbeddedInTime, match="article_embedding"):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        other.add(Article(**article(9)))
        other.commit()
        await_embedded(session, 1)
        session.scalars(select(Article)).first()
        session.get_one(Article, 1).title = "another"
        session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
        session.rollback()
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(other, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)
        await_embedded(other, 1)


def test_waiting_after_bulk_statements(own: Engine, new_dsn: str) -> None:
    with Session(own) as session, Session(own) as other:
        session.execute(insert(Article), [article(n) for n in range(5)])
        session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)
        session.execute(update(Article).values(body="new"))
        session.execute(delete(Article).where(Article.id == 1))
        session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        other.add(Article(**article(9)))
        other.commit()
        await_embedded(session, 1)
        session.execute(update(Article).values(body="rolled back"))
        session.rollback()
        await_embedded(session, 1)


def test_waiting_for_a_row_that_fails_says_why(own: Engine) -> None:
    with Session(own) as session:
        session.add(Article(**article(1)))
        session.commit()
        session.connection().exec_driver_sql(
            "with job as (delete from pgembed.queue returning *)"
            " insert into pgembed.dead_letter (seq, embedding_id, key, op, attempts,"
            " error) select seq, embedding_id, key, op, 5, 'no good' from job"
        )
        session.commit()
        with pytest.raises(EncodingFailed, match="no good"):
            await_embedded(session, 1)
        (row,) = session.scalars(select(Article))
        assert row.embedding.status == "failed"
        session.connection().exec_driver_sql(
            "select pgembed.pause_embedding('article_embedding')"
        )
        session.add(Article(**article(2)))
        session.commit()
        with pytest.raises(InvalidParameter, match="paused"):
            await_embedded(session, 1)


@DRIVERS
async def test_waiting_asynchronously(own: Engine, new_dsn: str, driver: str) -> None:
    engine = models.async_engine(new_dsn, driver)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        row = Article(**article(1))
        session.add(row)
        await session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await await_embedded(session, 0.1)
        process_all(new_dsn)
        await await_embedded(session, 1)
        await session.refresh(row, ["embedding_status", "embedding_chunks"])
        assert row.embedding.status == "embedded"
        assert row.embedding.chunks[0].content == "title 1\n\nbody"
    await engine.dispose()


class Keyed(DeclarativeBase):
    pass


class Lower(TypeDecorator[str]):
    impl = String(8)
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.lower(bindvalue)


class Page(Keyed):
    __tablename__ = "page"
    path: Mapped[str] = mapped_column(Lower, primary_key=True)
    size: Mapped[Decimal] = mapped_column(Numeric(6, 2), primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(TIMESTAMP(precision=0), primary_key=True)
    code: Mapped[str] = mapped_column(CHAR(4), primary_key=True)
    body: Mapped[str]
    embedding = Embedding("body", model=HASHING_MODEL)


def test_waiting_for_keys_that_the_server_writes_otherwise(
    new: Engine, new_dsn: str
) -> None:
    Keyed.metadata.create_all(new)
    at = dt.datetime(2024, 3, 1, 12, 0, 0, 700_000)  # noqa: DTZ001
    with Session(new, expire_on_commit=False) as session:
        session.add(Page(path="AB", size=Decimal("1.5"), at=at, code="a", body="x"))
        session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)


def test_savepoints_are_not_committed(own: Engine, new_dsn: str) -> None:
    with Session(own) as session:
        session.add(Article(**article(1)))
        with session.begin_nested():
            session.add(Article(**article(2)))
        with pytest.raises(InvalidParameter, match="not committed"):
            await_embedded(session, 1)
        savepoint = session.begin_nested()
        session.add(Article(**article(3)))
        session.flush()
        savepoint.rollback()
        session.commit()
        # The first two are waited for, whatever became of the third.
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only"])
def test_a_session_inside_a_transaction_of_its_connection(
    own: Engine, new_dsn: str, mode: Any
) -> None:
    """As in tests that roll everything back."""
    with own.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.add(Article(**article(1)))
            session.commit()
            for _ in range(2):
                with pytest.raises(InvalidParameter, match="not committed") as caught:
                    await_embedded(session, 1)
            assert "transaction" in str(caught.value.hint)
            outer.rollback()
            await_embedded(session, 1)  # there is nothing to wait for
    with own.connect() as connection:
        with connection.begin(), Session(connection) as session:
            session.add(Article(**article(2)))
            session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)


@pytest.fixture
def elsewhere(server: Server) -> Iterator[Engine]:
    """A database without pgembed."""
    name = server.create_database()
    engine = models.engine(server.dsn(name))
    yield engine
    engine.dispose()
    server.drop_database(name)


class OtherBase(DeclarativeBase):
    pass


class Log(OtherBase):
    __tablename__ = "log"
    id: Mapped[int] = mapped_column(primary_key=True)


def test_a_session_with_a_database_for_some_classes(
    own: Engine, new_dsn: str, elsewhere: Engine
) -> None:
    OtherBase.metadata.create_all(elsewhere)
    with Session(binds={models.Base: own, OtherBase: elsewhere}) as session:
        session.add_all([Article(**article(1)), Log()])
        session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)
        session.execute(update(Article).values(body="new"))
        session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)
        with answering(new_dsn, answer) as queries:
            encode_query(session, "words", HASHING_MODEL)
            of = {"mapper": Article}
            encode_query(session, "others", HASHING_MODEL, bind_arguments=of)
            for search in (E.vector_search("title", 1), E.bm25_search("title", 1)):
                assert [row.id for row in session.scalars(search)] == [1]
        assert queries == ["words", "others", "title"]
        assert session.get_one(Article, 1).embedding.status == "embedded"
    # Two databases that have embeddings: one must be said, and is.
    both: Any = {models.Base: own, Note: elsewhere}
    with Session(binds=both) as session, pytest.raises(InvalidParameter, match="2 dat"):
        encode_query(session, "words", HASHING_MODEL)
    with Session() as session, pytest.raises(InvalidParameter, match="0 databases"):
        encode_query(session, "words", HASHING_MODEL)


async def test_an_asynchronous_session_with_a_database_for_some_classes(
    own: Engine, new_dsn: str
) -> None:
    engine = models.async_engine(new_dsn, "asyncpg")
    async with AsyncSession(binds={models.Base: engine}) as session:
        session.add(Article(**article(1)))
        await session.commit()
        with pytest.raises(NotEmbeddedInTime):
            await await_embedded(session, 0.1)
        process_all(new_dsn)
        await await_embedded(session, 1)
        with answering(new_dsn, answer):
            assert len((await session.scalars(E.vector_search("title", 1))).all()) == 1
    await engine.dispose()
