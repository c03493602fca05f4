"""The mapped side table of an embedding: one row a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
)
from sqlalchemy.orm import deferred, foreign, relationship, remote
from sqlalchemy.orm.descriptor_props import ConcreteInheritedProperty

from pgembed.errors import InvalidParameter
from pgembed.sqlalchemy.options import SIDE_COLUMNS

if TYPE_CHECKING:
    import datetime as dt

    from sqlalchemy.orm import Mapped, Mapper
    from sqlalchemy.types import TypeEngine

    from pgembed.sqlalchemy.options import Declaration


class EmbeddingChunk:
    """A chunk of a row's text with its vector; read-only, kept by pgembed.

    Each embedding has a class of its own below this one, with the key columns of its
    table besides.

    Attributes:
        chunk: Its number, from 0.
        content: Its text, None of an image; not there with column storage.
        embedding: Its vector; not there with column storage.
        text_hash: Of the row's whole text, SHA-256.
        model_id: The model that encoded it, in `pgembed.model`.
        embedded_at: When.
    """

    if TYPE_CHECKING:
        chunk: Mapped[int]
        content: Mapped[str]
        embedding: Mapped[list[float]]
        text_hash: Mapped[bytes]
        model_id: Mapped[int]
        embedded_at: Mapped[dt.datetime]


def vector_type(declaration: Declaration) -> TypeEngine[Any]:
    """Give pgvector's own type for the vectors of an embedding."""
    kind, dimensions = (declaration.options[n] for n in ("vector_type", "dimensions"))
    half = kind == "halfvec" or (kind is None and (dimensions or 0) > 2000)
    return (HALFVEC if half else VECTOR)(dimensions)


def side_table(declaration: Declaration, source: Table) -> Table:
    """Describe the side table, in a metadata of its own.

    It is not in the application's: pgembed makes it, not `create_all()`.
    """
    columns: list[Column[Any]] = [
        Column(
            f"source_{key.name}" if key.name in SIDE_COLUMNS else key.name,
            key.type,
            primary_key=True,
            autoincrement=False,
        )
        for key in source.primary_key.columns
    ]
    columns.append(Column("chunk", Integer, primary_key=True, autoincrement=False))
    if declaration.options["storage"] == "table":
        columns.append(Column("content", Text))
        columns.append(Column("embedding", vector_type(declaration), nullable=False))
    columns += [
        Column("text_hash", LargeBinary, nullable=False),
        Column("model_id", Integer, nullable=False),
        Column("embedded_at", DateTime(timezone=True), nullable=False),
    ]
    return Table(declaration.name, MetaData(), *columns, schema=source.schema)


def map_chunks(
    declaration: Declaration, source: Table, mapper: Mapper[Any], attribute: str
) -> type[EmbeddingChunk]:
    """Map the side table, and give the class its relationship to it.

    Args:
        declaration: The embedding.
        source: Its table.
        mapper: Of the class that declares it.
        attribute: Name of the attribute that declares it.

    Raises:
        InvalidParameter: The class uses the name of the relationship already.
    """
    table = side_table(declaration, source)
    chunk_class = type(
        f"{mapper.class_.__name__}{attribute.title().replace('_', '')}Chunk",
        (EmbeddingChunk,),
        {
            "__doc__": f"A chunk of embedding {declaration.name!r}.",
            "__module__": mapper.class_.__module__,
            # Where it can be found: rows with their chunks can be pickled.
            "__qualname__": f"{mapper.class_.__qualname__}.{attribute}.chunks",
        },
    )
    mapper.registry.map_imperatively(chunk_class, table)
    keys = list(table.primary_key.columns)[:-1]
    same = [
        key == foreign(remote(side))
        for key, side in zip(source.primary_key.columns, keys, strict=True)
    ]
    name = f"{attribute}_chunks"
    if mapper.has_property(name) and not isinstance(
        mapper.get_property(name, _configure_mappers=False), ConcreteInheritedProperty
    ):
        raise InvalidParameter(
            f"{mapper.class_.__name__} has an attribute {name!r} already",
            hint="The chunks of the embedding would have this name: rename one.",
        )
    mapper.add_property(
        name,
        relationship(
            chunk_class,
            primaryjoin=and_(*same),
            viewonly=True,
            uselist=True,
            order_by=table.c.chunk,
        ),
    )
    if declaration.vector_column is not None:
        _map_vector_column(declaration, source, mapper, attribute)
    return chunk_class


def _map_vector_column(
    declaration: Declaration, source: Table, mapper: Mapper[Any], attribute: str
) -> None:
    # system: pgembed adds the column, so neither create_all() nor Alembic does.
    name = declaration.vector_column
    assert name is not None
    if name in source.c:
        raise InvalidParameter(
            f"table {source.name!r} has a column {name!r} already",
            hint="The vectors of the embedding would have this name: column_name=...",
        )
    column: Column[Any] = Column(
        name, vector_type(declaration), system=True, info={"pgembed": True}
    )
    source.append_column(column)
    mapper.add_property(f"{attribute}_vector", deferred(column))
