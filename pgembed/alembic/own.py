"""What is pgembed's own in a database, and so none of autogenerate's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.operations.ops import (
    CreateTableOp,
    DropColumnOp,
    DropIndexOp,
    DropTableOp,
    MigrateOperation,
    ModifyTableOps,
    OpContainer,
)
from sqlalchemy import Column

from pgembed.sqlalchemy.declare import INFO_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgembed.alembic.reflect import Existing

_SCHEMA = "pgembed"


class Own:
    """The tables, indexes and columns that pgembed made for embeddings."""

    def __init__(self, existing: Iterable[Existing]) -> None:
        self._sides: set[tuple[str | None, str | None]] = set()
        self._indexes: set[tuple[str | None, str]] = set()
        self._columns: set[tuple[str | None, str | None, str]] = set()
        for one in existing:
            self._sides.add((one.side_schema, one.side_table))
            self._indexes.add((one.schema, one.index_name))
            column = one.declaration.vector_column
            if column is not None:
                self._columns.add((one.schema, one.table, column))

    def remove_from(self, container: OpContainer) -> None:
        """Take out every operation that would change what is pgembed's."""
        kept: list[MigrateOperation] = []
        for op in container.ops:
            if self._is_own(op):
                continue
            if isinstance(op, OpContainer):
                self.remove_from(op)
                if op.is_empty():
                    continue
            if isinstance(op, CreateTableOp):
                op.info.pop(INFO_KEY, None)
                op.columns = [c for c in op.columns if not _is_vector_column(c)]
            elif isinstance(op, DropTableOp) and op._reverse is not None:  # noqa: SLF001
                # Going back, create_embedding() adds the column again.
                made = op._reverse  # noqa: SLF001
                made.columns = [
                    c
                    for c in made.columns
                    if not isinstance(c, Column)
                    or (op.schema, op.table_name, c.name) not in self._columns
                ]
            kept.append(op)
        container.ops[:] = kept

    def _is_own(self, op: Any) -> bool:
        if isinstance(op, (DropTableOp, ModifyTableOps, CreateTableOp)):
            table = (op.schema, op.table_name)
            return op.schema == _SCHEMA or table in self._sides
        if isinstance(op, DropIndexOp):
            table_name = op.table_name
            return (
                op.schema == _SCHEMA
                or (op.schema, str(op.index_name)) in self._indexes
                or (op.schema, None if table_name is None else str(table_name))
                in self._sides
            )
        if isinstance(op, DropColumnOp):
            return (op.schema, op.table_name, op.column_name) in self._columns
        return False


def _is_vector_column(item: Any) -> bool:
    return isinstance(item, Column) and item.system and "pgembed" in item.info
