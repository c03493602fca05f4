"""How the embedding of each row stands, as a mapped attribute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Integer,
    Table,
    Text,
    and_,
    case,
    cast,
    column,
    exists,
    literal,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import column_property

from pgembed.sqlalchemy.chunks import side_table
from pgembed.sqlalchemy.source import source_oid

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper
    from sqlalchemy.sql.elements import ColumnElement

    from pgembed.sqlalchemy.options import Declaration

_embedding = table(
    "embedding",
    column("embedding_id", Integer),
    column("name", Text),
    column("source"),
    column("backfill_state", Text),
    schema="pgembed",
)
_queue = table(
    "queue", column("embedding_id", Integer), column("key", Text), schema="pgembed"
)
_dead_letter = table(
    "dead_letter",
    column("embedding_id", Integer),
    column("key", Text),
    schema="pgembed",
)


def key_text(source: Table) -> ColumnElement[str]:
    """Write the key of a row as pgembed's queue has it."""
    parts: list[ColumnElement[Any]] = [
        cast(key, Text) for key in source.primary_key.columns
    ]
    if len(parts) == 1:
        return parts[0]
    return cast(array(parts), Text)


def map_status(
    declaration: Declaration, source: Table, mapper: Mapper[Any], attribute: str
) -> None:
    """Give a class the attribute `<attribute>_status`, loaded when it is asked for."""
    name = declaration.name
    side = side_table(declaration, source)
    # Of this very table: another schema may have one of the same name.
    its_own = and_(
        _embedding.c.name == literal(name), _embedding.c.source == source_oid(source)
    )
    this = select(_embedding.c.embedding_id).where(its_own)
    key = key_text(source)

    def has(jobs: Any) -> ColumnElement[bool]:
        return exists().where(
            jobs.c.embedding_id == this.scalar_subquery(), jobs.c.key == key
        )

    keys = list(side.primary_key.columns)[:-1]
    same = [
        mine == theirs
        for mine, theirs in zip(source.primary_key.columns, keys, strict=True)
    ]
    status = case(
        (has(_queue), "pending"),
        (has(_dead_letter), "failed"),
        (exists().where(and_(*same)), "embedded"),
        (
            exists().where(its_own, _embedding.c.backfill_state == "pending"),
            "pending",
        ),
        else_="none",
    )
    mapper.add_property(
        f"{attribute}_status", column_property(status.label(None), deferred=True)
    )
