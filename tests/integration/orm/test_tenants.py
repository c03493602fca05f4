"""The same tables in several schemas: what is meant is what the connection says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import pytest
from sqlalchemy import (
    ARRAY,
    Engine,
    Enum,
    ForeignKey,
    Table,
    any_,
    cast,
    event,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    selectinload,
)

from pgembed.encoders import load_encoder
from pgembed.errors import EmbeddingExists, NotEmbeddedInTime
from pgembed.sqlalchemy import Embedding, await_embedded
from pgembed.testing import HASHING_DIMENSIONS, HASHING_MODEL, process_all
from tests.fixtures.answering import answering
from tests.fixtures.vectors import as_text
from tests.integration.orm import models

ENCODER = load_encoder("hashing", "hashing", dimensions=HASHING_DIMENSIONS)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    remarks: Mapped[list[Remark]] = relationship()
    embedding = Embedding("body", model=HASHING_MODEL)


class Remark(Base):
    __tablename__ = "remark"
    id: Mapped[int] = mapped_column(primary_key=True)
    note_id: Mapped[int] = mapped_column(ForeignKey("note.id"))
    text: Mapped[str]


E = Note.embedding

#: Gives an engine, and sessions, of a tenant.
Way: TypeAlias = Callable[[str, str], AbstractContextManager[Engine]]


@contextmanager
def closing(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def by_map(dsn: str, tenant: str) -> Iterator[Engine]:
    """SQLAlchemy's own way."""
    engine = models.engine(dsn)
    with closing(engine):
        yield engine.execution_options(schema_translate_map={None: tenant})


@contextmanager
def by_option(dsn: str, tenant: str) -> Iterator[Engine]:
    """The search_path is the connection's."""
    path = f'-csearch_path="{tenant}",public'.replace(" ", "\\ ")
    with closing(models.engine(dsn, connect_args={"options": path})) as engine:
        yield engine


@contextmanager
def by_transaction(dsn: str, tenant: str) -> Iterator[Engine]:
    """The search_path is set when a transaction begins, on any connection."""
    engine = models.engine(dsn)

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql(f'set local search_path = "{tenant}", public')

    with closing(engine):
        yield engine


WAYS = pytest.mark.parametrize("way", [by_map, by_option, by_transaction])
TENANTS = ("alpha", "Beta '1\" %")


def make_schema(engine: Engine, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"create schema {quoted}", execution_options={"no_parameters": True}
        )


def declared(engine: Engine) -> list[tuple[str, str]]:
    statement = text("select schema, name from pgembed.status order by 1, 2")
    with engine.connect() as connection:
        return [(row[0], row[1]) for row in connection.execute(statement)]


@pytest.fixture(params=["plain", "quoted"])
def tenants(request: pytest.FixtureRequest, new: Engine) -> tuple[str, str]:
    """Two schemas; the second has a name that is hard to write, or an easy one."""
    way = request.node.callspec.params["way"]
    second = "beta"
    if request.param == "quoted":
        second = TENANTS[1] if way is by_map else "Beta 1"
    for name in ("alpha", second):
        make_schema(new, name)
    return "alpha", second


@WAYS
def test_each_tenant_has_its_own(
    way: Way, tenants: tuple[str, str], new: Engine, new_dsn: str
) -> None:
    for tenant in tenants:
        with way(new_dsn, tenant) as engine:
            Base.metadata.create_all(engine)
            with Session(engine) as session:
                session.add_all(
                    [
                        Note(body=f"rome {tenant}", remarks=[Remark(text="good")]),
                        Note(body=f"oslo {tenant}"),
                    ]
                )
                if tenant != tenants[0]:  # a key that the other does not have
                    session.add(Note(body=f"rome lima {tenant}"))
                session.commit()
                with pytest.raises(NotEmbeddedInTime):
                    await_embedded(session, 0.1)
                assert not session.in_transaction()
                session.execute(update(Note).values(body=Note.body + " x"))
                session.commit()
                with pytest.raises(NotEmbeddedInTime):
                    await_embedded(session, 0.1)
                process_all(new_dsn)
                await_embedded(session, 5)
    assert declared(new) == sorted((tenant, "note_embedding") for tenant in tenants)

    for number, tenant in enumerate(tenants):
        with way(new_dsn, tenant) as engine, Session(engine) as session:
            for search in (
                E.vector_search("rome", 5, encoder=ENCODER),
                E.vector_search("rome", 5, encoder=HASHING_MODEL),
                E.bm25_search("rome", 5),
                E.hybrid_search("rome", 5, encoder=ENCODER),
            ):
                bodies = [note.body for note in session.scalars(search)]
                assert bodies
                assert all(tenant in body for body in bodies), search
                good = search.where(Note.remarks.any(Remark.text == "good"))
                assert [note.id for note in session.scalars(good)] == [1]
                inside = Note.id.in_(
                    select(Remark.note_id).where(Remark.note_id == Note.id)
                )
                assert [note.id for note in session.scalars(search.where(inside))] == [
                    1
                ]
            loaded = search.options(selectinload(E.chunks_of_row))
            note = session.scalars(loaded).first()
            assert note is not None
            assert tenant in note.embedding.chunks[0].content
            assert note.embedding.status == "embedded"
            assert len(session.scalars(E.similar(note, 5)).all()) == 1 + number
            assert session.scalars(select(E.chunks)).first() is not None
            with answering(new_dsn, _answer) as asked:
                found = session.scalars(E.vector_search(f"paris {number}", 1)).all()
            assert tenant in found[0].body
            assert asked == [f"paris {number}"]

    # One is written: the other is up to date, and says so.
    with way(new_dsn, tenants[1]) as engine, Session(engine) as session:
        session.get_one(Note, 1).body = "lima"
        session.commit()
        assert session.get_one(Note, 1).embedding.status == "pending"
        with pytest.raises(NotEmbeddedInTime):
            await_embedded(session, 0.1)
    with way(new_dsn, tenants[0]) as engine, Session(engine) as session:
        assert session.get_one(Note, 1).embedding.status == "embedded"

    with way(new_dsn, tenants[1]) as engine:
        Base.metadata.drop_all(engine)
        assert declared(new) == [(tenants[0], "note_embedding")]
        # Tables without an embedding, of a name that another has.
        Base.metadata.create_all(engine)
        with new.begin() as connection:
            connection.execute(
                text("select pgembed.drop_embedding(:name)"),
                {"name": f"{tenants[1]}.note_embedding"},
            )
        Base.metadata.drop_all(engine)
    assert declared(new) == [(tenants[0], "note_embedding")]


def _answer(query: str) -> tuple[str | None, str | None]:
    return as_text(ENCODER.encode_queries([query])[0]), None


def test_a_map_may_come_with_the_statement(new: Engine, new_dsn: str) -> None:
    for tenant in ("alpha", "beta"):
        make_schema(new, tenant)
        with by_map(new_dsn, tenant) as engine:
            Base.metadata.create_all(engine)
            with Session(engine) as session:
                session.add(Note(body=f"rome {tenant}", remarks=[Remark(text=tenant)]))
                session.commit()
    process_all(new_dsn)
    with Session(new) as session:
        for tenant in ("alpha", "beta", "alpha"):
            options: Any = {"schema_translate_map": {None: tenant}}
            search = E.vector_search("rome", encoder=ENCODER).where(
                Note.remarks.any(Remark.text == tenant)
            )
            (note,) = session.scalars(search, execution_options=options)
            assert note.body == f"rome {tenant}"
            with answering(new_dsn, _answer):
                asking = E.vector_search(f"rome of {tenant}")
                (note,) = session.scalars(asking, execution_options=options)
            assert note.body == f"rome {tenant}"
            session.expunge_all()
        change = update(Note).values(body="oslo")
        session.execute(
            change, execution_options={"schema_translate_map": {None: "beta"}}
        )
        session.commit()
        with pytest.raises(NotEmbeddedInTime, match="beta"):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_asynchronous_tenants(new: Engine, new_dsn: str, driver: str) -> None:
    for tenant in ("alpha", "beta"):
        make_schema(new, tenant)
        with by_map(new_dsn, tenant) as engine:
            Base.metadata.create_all(engine)
    asynchronous = models.async_engine(new_dsn, driver)
    for tenant in ("alpha", "beta"):
        engine_of = asynchronous.execution_options(schema_translate_map={None: tenant})
        async with AsyncSession(engine_of, expire_on_commit=False) as session:
            note = Note(body=f"rome {tenant}")
            session.add(note)
            await session.commit()
            with pytest.raises(NotEmbeddedInTime, match=tenant):
                await await_embedded(session, 0.1)
            process_all(new_dsn)
            await await_embedded(session, 1)
            assert note.body == f"rome {tenant}"  # not expired
            search = E.vector_search("rome", encoder=ENCODER).where(~Note.remarks.any())
            (found,) = await session.scalars(search)
            assert found.body == f"rome {tenant}"
    await asynchronous.dispose()


def test_one_application_with_two_schemas(new: Engine, new_dsn: str) -> None:
    class Own(DeclarativeBase):
        pass

    def of(schema: str | None) -> Any:
        return type(
            f"Page{schema}",
            (Own,),
            {
                "__tablename__": "page",
                "__table_args__": {"schema": schema},
                "id": mapped_column(Note.__table__.c.id.type, primary_key=True),
                "body": mapped_column(Note.__table__.c.body.type),
                "embedding": Embedding("body", model=HASHING_MODEL),
            },
        )

    pages = {schema: of(schema) for schema in (None, "alpha")}
    columns = [Note.__table__.c.id._copy(), Note.__table__.c.body._copy()]
    again = Table("other", Own.metadata, *columns, schema="alpha")
    with pytest.raises(EmbeddingExists):
        Embedding("body", name="page_embedding").declare(again)
    make_schema(new, "alpha")
    tables = [page.__table__ for page in pages.values()]
    Own.metadata.create_all(new, tables=tables)
    with Session(new) as session:
        session.add_all([page(id=1, body=f"rome {s}") for s, page in pages.items()])
        session.commit()
        with pytest.raises(NotEmbeddedInTime, match=r"alpha\.page_embedding"):
            await_embedded(session, 0.1)
        process_all(new_dsn)
        await_embedded(session, 1)
        for schema, page in pages.items():
            search = page.embedding.vector_search("rome", encoder=ENCODER)
            (found,) = session.scalars(search)
            assert found.body == f"rome {schema}"
            assert found.embedding.chunks[0].content == found.body
            assert found.embedding.status == "embedded"
    assert declared(new) == [("alpha", "page_embedding"), ("public", "page_embedding")]
    pages["alpha"].__table__.drop(new)
    assert declared(new) == [("public", "page_embedding")]


class Painted(DeclarativeBase):
    pass


class Paint(Painted):
    __tablename__ = "paint"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    color = mapped_column(Enum("red", "green", name="paint_color"))
    embedding = Embedding("body", model=HASHING_MODEL)


RED = Paint.color == "red"
COLORS: dict[str, tuple[Any, list[int]]] = {
    "equal": (RED, [1]),
    "in": (Paint.color.in_(["red", "green"]), [1, 2]),
    "in nothing": (Paint.color.in_([]), []),
    "not in nothing": (Paint.color.not_in([]), [1, 2, 3]),
    "cast": (cast("red", Paint.color.type) == Paint.color, [1]),
    "tuple": (tuple_(Paint.id, Paint.color).in_([(2, "green"), (3, "red")]), [2]),
    "array": (Paint.color == any_(literal(["red"], ARRAY(Paint.color.type))), [1]),
}


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_types_that_each_tenant_has(
    new: Engine, new_dsn: str, driver: str
) -> None:
    """A type in a condition is the tenant's, as its tables are."""
    for tenant in TENANTS:
        make_schema(new, tenant)
        with by_map(new_dsn, tenant) as engine:
            Painted.metadata.create_all(engine)
            with Session(engine) as session:
                colors = {1: "red", 2: "green", 3: None}
                session.add_all(
                    [Paint(id=n, body="wet", color=c) for n, c in colors.items()]
                )
                session.commit()
    asynchronous = models.async_engine(new_dsn, driver)
    for tenant in TENANTS:
        engine_of = asynchronous.execution_options(schema_translate_map={None: tenant})
        async with AsyncSession(engine_of) as session_of:
            for name, (condition, expected) in COLORS.items():
                plain = await session_of.scalars(select(Paint.id).where(condition))
                assert sorted(plain) == expected, name
                search = Paint.embedding.bm25_search("wet").where(condition)
                found = await session_of.scalars(search.with_only_columns(Paint.id))
                assert sorted(found) == expected, name
    await asynchronous.dispose()
