"""What models may look like, and what is said about those that are wrong."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    select,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    mapped_column,
    registry,
    selectinload,
)

from pgembed.encoders import load_encoder
from pgembed.errors import (
    EmbeddingExists,
    InvalidExpression,
    InvalidParameter,
    InvalidSource,
    PgembedError,
    SchemaVersionError,
    UnsupportedEnvironment,
)
from pgembed.schema import LIBRARY_VERSION
from pgembed.sqlalchemy import BM25, HNSW, BM25Index, Embedding, IVFFlat, attach
from pgembed.testing import HASHING_DIMENSIONS, HASHING_MODEL, process_all

ENCODER = load_encoder("hashing", "hashing", dimensions=HASHING_DIMENSIONS)


def hashed(expression: Any = "body", **options: Any) -> Embedding:
    return Embedding(expression, model=HASHING_MODEL, **options)


def make_and_fill(engine: Engine, dsn: str, base: Any, *rows: object) -> None:
    base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(rows)
        session.commit()
    process_all(dsn)


def found(engine: Engine, search: Any) -> list[Any]:
    with Session(engine) as session:
        return list(session.scalars(search))


def test_two_embeddings_on_a_mixin_shared_by_two_models(
    new: Engine, new_dsn: str
) -> None:
    class Base(DeclarativeBase):
        pass

    class Texts:
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        body: Mapped[str]
        embedding = hashed("title || ' ' || body")
        short = hashed(lambda cls: func.upper(cls.title), bm25=False)

    class Note(Texts, Base):
        __tablename__ = "note"
        __table_args__ = ({"comment": "notes"},)

    class Memo(Texts, Base):
        __tablename__ = "memo"

    names = {"note_embedding", "note_short", "memo_embedding", "memo_short"}
    rows = [Note(title="rome", body="x"), Memo(title="oslo", body="y")]
    make_and_fill(new, new_dsn, Base, *rows)
    with Session(new) as session:
        query = (
            "select name, text_expression from pgembed.embedding"
            " join pgembed.captured_text using (text_id)"
        )
        rows_stored = session.connection().exec_driver_sql(query).all()
        stored = {row[0]: row[1] for row in rows_stored}
    assert set(stored) == names
    assert stored["note_short"] == "upper(title)"
    for model, title in ((Note, "rome"), (Memo, "oslo")):
        search = model.short.vector_search(title, 3, encoder=ENCODER)
        assert [row.title for row in found(new, search)] == [title]
        assert found(new, model.embedding.bm25_search(title))[0].title == title
    Base.metadata.drop_all(new)
    with Session(new) as session:
        assert session.connection().exec_driver_sql(query).all() == []


def test_reserved_names_schema_and_composite_key(new: Engine, new_dsn: str) -> None:
    class Base(DeclarativeBase):
        metadata = MetaData(schema='My "Shop"')

    class Order(Base):
        __tablename__ = "order %"
        user: Mapped[int] = mapped_column("User", primary_key=True)
        chunk: Mapped[str] = mapped_column(String(10), primary_key=True)
        text: Mapped[str] = mapped_column("select", Text)
        embedding = hashed("\"select\" || ' 100% :x \\'", name='Order\'s % "index"')

    with new.begin() as connection:
        connection.exec_driver_sql('create schema "My ""Shop"""')
    row = Order(user=1, chunk="a{,'", text="rome")
    make_and_fill(new, new_dsn, Base, row, Order(user=2, chunk="b", text="oslo"))
    orders = Order.embedding
    search = orders.vector_search("rome", encoder=ENCODER).where(Order.user == 1)
    with Session(new) as session:
        order, hit = session.execute(
            search.options(selectinload(orders.chunks_of_row))
        ).one()
        assert hit.content == "rome 100% :x \\"
        assert order.embedding.chunks[0].content == hit.content
        assert order.embedding.status == "embedded"
        like = session.execute(orders.similar(order)).all()
        assert [one.Order.user for one in like] == [2]
        assert session.execute(orders.similar((2, "b"))).all()
        hits = session.scalars(orders.hybrid_search("oslo", encoder=ENCODER)).all()
        assert hits[0].user == 2


def test_single_table_inheritance(new: Engine, new_dsn: str) -> None:
    class Base(DeclarativeBase):
        pass

    class Person(Base):
        __tablename__ = "person"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        body: Mapped[str]
        embedding = hashed()
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012

    class Boss(Person):
        level: Mapped[int | None]
        __mapper_args__ = {"polymorphic_identity": "boss"}  # noqa: RUF012

    people = [Person(body=f"rome {n}") for n in range(20)]
    make_and_fill(new, new_dsn, Base, *people, Boss(body="oslo", level=3))
    search = Boss.embedding.vector_search("rome", 5, encoder=ENCODER)
    assert [type(row) for row in found(new, search)] == [Boss]
    assert found(new, search.where(Boss.level == 4)) == []
    search2 = Person.embedding.vector_search("rome", 30, encoder=ENCODER)
    assert len(found(new, search2)) == 21
    assert Boss.embedding.name == Person.embedding.name == "person_embedding"


def test_joined_table_inheritance(new: Engine, new_dsn: str) -> None:
    class Base(DeclarativeBase):
        pass

    class Item(Base):
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        embedding = hashed()

    class Book(Item):
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
        blurb: Mapped[str]
        pages: Mapped[int]
        blurb_embedding = hashed("blurb")

    items = [Item(body=f"rome {n}") for n in range(20)]
    books = [Book(body="oslo", blurb="lima", pages=n * 100) for n in range(1, 4)]
    make_and_fill(new, new_dsn, Base, *items, *books)
    # The embedding of the parent's table, the rows of the child.
    search = Book.embedding.vector_search("rome", 5, encoder=ENCODER)
    assert sorted(row.pages for row in found(new, search)) == [100, 200, 300]
    search = search.where(Book.pages > 100, Item.body == "oslo")
    assert sorted(row.pages for row in found(new, search)) == [200, 300]
    # The child's own.
    own = Book.blurb_embedding.vector_search("lima", 5, encoder=ENCODER)
    assert [row.pages for row in found(new, own.where(Book.pages == 200))] == [200]
    assert len(found(new, own.where(Book.body == "oslo"))) == 3
    with Session(new) as session:
        book = session.scalars(own).first()
        assert book is not None
        assert book.blurb_embedding_chunks[0].content == "lima"
        assert book.embedding_chunks[0].content == "oslo"
        assert len(session.execute(Book.blurb_embedding.similar(book)).all()) == 2
        assert len(session.execute(Book.embedding.similar(book)).all()) == 2


def test_concrete_inheritance_and_an_abstract_base(new: Engine, new_dsn: str) -> None:
    class Base(DeclarativeBase):
        pass

    class Document(Base):
        __abstract__ = True
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        embedding = hashed()

    class Letter(Document):
        __tablename__ = "letter"

    class Postcard(Letter):
        __tablename__ = "postcard"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        __mapper_args__ = {"concrete": True}  # noqa: RUF012

    make_and_fill(new, new_dsn, Base, Letter(body="rome"), Postcard(body="oslo"))
    assert Letter.embedding.name == "letter_embedding"
    assert Postcard.embedding.name == "postcard_embedding"
    for model, body in ((Letter, "rome"), (Postcard, "oslo")):
        search = model.embedding.vector_search("x", encoder=ENCODER)
        assert [row.body for row in found(new, search)] == [body]


def test_dataclass_imperative_and_classic(new: Engine, new_dsn: str) -> None:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Page(Base):
        __tablename__ = "page"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        embedding = hashed()

    class Other(DeclarativeBase):
        metadata = Base.metadata

    class Classic(Other):
        __table__ = Table(
            "classic",
            Base.metadata,
            Column("id", Integer, primary_key=True),
            Column("body", Text),
        )
        embedding = hashed()

    class Plain:
        def __init__(self, id: int, body: str) -> None:
            self.id = id
            self.body = body

    table = Table(
        "plain",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("body", Text),
    )
    registry(metadata=Base.metadata).map_imperatively(Plain, table)
    attach(Plain, "vectors", hashed())

    rows = [Page(1, "rome"), Classic(id=1, body="rome"), Plain(1, "rome")]
    make_and_fill(new, new_dsn, Base, *rows)
    for embedding in (Page.embedding, Classic.embedding, Plain.vectors):  # type: ignore[attr-defined]
        search = embedding.vector_search("rome", encoder=ENCODER)
        assert [row.id for row in found(new, search)] == [1]
    assert Plain.vectors.name == "plain_vectors"  # type: ignore[attr-defined]


def test_column_storage_and_expressions(new: Engine, new_dsn: str) -> None:
    class Base(DeclarativeBase):
        pass

    class Photo(Base):
        __tablename__ = "photo"
        id: Mapped[int] = mapped_column(primary_key=True)
        caption: Mapped[str] = mapped_column(Text)
        place: Mapped[str | None] = mapped_column(Text)
        embedding = hashed(
            caption + " it's 100% \\ " + func.coalesce(place, ""),
            storage="column",
            index=IVFFlat(lists=1),
            distance="l2",
        )

    make_and_fill(new, new_dsn, Base, Photo(caption="rome"), Photo(caption="oslo"))
    search = Photo.embedding.vector_search("rome", 1, encoder=ENCODER)
    (photo,) = found(new, search)
    assert photo.caption == "rome"
    with Session(new) as session:
        vector = session.scalars(select(Photo.embedding_vector)).first()  # type: ignore[attr-defined]
        assert vector is not None
        assert len(vector) == HASHING_DIMENSIONS
        session.add(Photo(caption="lima"))
        session.commit()
        query = "select text_expression from pgembed.captured_text"
        text = session.connection().exec_driver_sql(query).scalar_one()
    assert text == "caption || E' it''s 100% \\\\ ' || coalesce(place, '')"


def test_a_table_in_two_metadata() -> None:
    class Base(DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        embedding = hashed()

    from pgembed.sqlalchemy.declare import declarations_of

    copy = MetaData()
    table = Note.__table__
    assert isinstance(table, Table)
    table.to_metadata(copy, schema="other")
    ((copied, declaration),) = declarations_of(copy)
    assert (copied.schema, declaration.name) == ("other", "note_embedding")
    assert len(declarations_of(Base.metadata)) == 1


def declare(base: Any, embedding: Any, name: str = "note", **columns: Any) -> Any:
    return type(
        name.title(),
        (base,),
        {
            "__tablename__": name,
            "id": Column(Integer, primary_key=True),
            "body": Column(Text),
            "embedding": embedding,
            **columns,
        },
    )


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("titel || body", "titel"),
        ("coalesce(body, Titel)", "titel"),
        ('"Body" || body', "Body"),
        ("", "is empty"),
        (42, "no SQL expression"),
        (Column("other", Text), "other"),
    ],
)
def test_wrong_expressions_are_refused_at_declaration(
    expression: Any, error: str
) -> None:
    class Base(DeclarativeBase):
        pass

    with pytest.raises(InvalidExpression, match=error):
        declare(Base, hashed(expression))


@pytest.mark.parametrize(
    "expression",
    [
        "BODY || coalesce(body, NULL, 'it''s' || E'\\'')",
        "case when body = 'titel' then 'a' else body end",
        "body::text || to_char(current_timestamp, titel)",
        "upper(body) || current_user",
    ],
)
def test_what_only_the_server_can_tell_is_left_to_it(expression: str) -> None:
    class Base(DeclarativeBase):
        pass

    assert declare(Base, hashed(expression)).embedding.declaration


def test_wrong_declarations() -> None:
    class Base(DeclarativeBase):
        pass

    declare(Base, hashed(name="same"))
    with pytest.raises(EmbeddingExists, match=r"same.*note.*memo"):
        declare(Base, hashed(name="same"), "memo")
    with pytest.raises(InvalidParameter, match="63 bytes"):
        declare(Base, hashed(name="x" * 64), "long")
    with pytest.raises(InvalidParameter, match="embedding_chunks"):
        declare(Base, hashed(), "taken", embedding_chunks=Column(Text))
    with pytest.raises(InvalidParameter, match="has a column"):
        declare(
            Base,
            hashed(storage="column", column_name="body2"),
            "column",
            body2=Column(Text),
        )
    bare = Table("bare", MetaData(), Column("body", Text))
    with pytest.raises(InvalidSource, match="no primary key"):
        hashed().declare(bare)
    options: list[dict[str, Any]] = [
        {"distance": "euclid"},
        {"chunking": "words"},
        {"storage": "file"},
        {"vector_type": "bit"},
        {"index": "hnsw"},
        {"column_name": "x"},
        {"wake": "shout"},
    ]
    for one in options:
        with pytest.raises(InvalidParameter) as caught:
            hashed(**one)
        assert caught.value.hint


def test_one_of_several_is_the_default(new: Engine, new_dsn: str) -> None:
    class Base(DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        body: Mapped[str]
        titles = hashed("title")
        bodies = hashed("body", is_default=True)
        words = BM25Index("title || body")

    make_and_fill(new, new_dsn, Base, Note(title="red", body="blue"))
    with new.connect() as connection:
        for view in ("status", "bm25_status"):
            chosen = f"select name from pgembed.{view} where is_default"
            assert connection.exec_driver_sql(chosen).all() == [("note_bodies",)]
    assert "is_default" not in Note.titles.declaration.arguments()
    with pytest.raises(InvalidParameter, match=r"'note_bodies' and 'note_both' are"):
        hashed("title || body", name="note_both", is_default=True).declare(
            Base.metadata.tables["note"]
        )
    # Vectors and words are chosen apart.
    table = Base.metadata.tables["note"]
    BM25Index("body", name="note_words2", is_default=True).declare(table)


def test_declaration_without_defaults() -> None:
    class Base(DeclarativeBase):
        pass

    note = declare(
        Base, hashed(index=HNSW(m=8), bm25=BM25(config="german", k1=1.5), chunk_size=9)
    )
    assert note.embedding.declaration.arguments() == {
        "name": "note_embedding",
        "text_expression": "body",
        "model": "hashing",
        "chunk_size": 9,
        "index_options": {"m": 8},
        "bm25": True,
        "bm25_options": {"config": "german", "k1": 1.5},
    }


def test_a_database_of_another_version_names_both(new: Engine) -> None:
    class Base(DeclarativeBase):
        pass

    note = declare(Base, hashed())
    Base.metadata.create_all(new)
    with Session(new) as session:
        connection = session.connection()
        for statement in (
            "drop function pgembed.hybrid_search",
            "comment on schema pgembed is 'pgembed 0.0.1, functions 0123456789abcdef'",
        ):
            connection.exec_driver_sql(statement)
        session.commit()
        search = note.embedding.hybrid_search("rome", encoder=ENCODER)
        with pytest.raises(SchemaVersionError) as caught:
            session.execute(search)
    said = str(caught.value)
    assert "made by pgembed 0.0.1" in said
    assert f"(pgembed {LIBRARY_VERSION})" in said
    assert "Run: pgembed upgrade" in said


def test_create_all_without_pgembed_names_the_command(empty_dsn: str) -> None:
    from tests.integration.orm import models

    class Base(DeclarativeBase):
        pass

    note = declare(Base, hashed())
    engine = models.engine(empty_dsn)
    with pytest.raises(UnsupportedEnvironment, match="pgembed install"):
        Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table note (id int primary key, body text)")
    with Session(engine) as session:
        for query in ([1.0], "words"):
            with pytest.raises(PgembedError, match="pgembed install"):
                session.execute(note.embedding.vector_search(query))
            session.rollback()
    Base.metadata.drop_all(engine)
    engine.dispose()
