"""Autogenerate: from models and the database to operations, in the right order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from alembic.operations.ops import (
    AlterColumnOp,
    CreateTableOp,
    DropColumnOp,
    DropTableOp,
    MigrateOperation,
    ModifyTableOps,
)
from sqlalchemy.exc import DBAPIError

from pgembed import schema
from pgembed.alembic import differences
from pgembed.alembic.operations import (
    AlterBM25Op,
    AlterEmbeddingOp,
    CreateBM25Op,
    CreateEmbeddingOp,
    DropBM25Op,
    DropEmbeddingOp,
    InstallOp,
    KeepSchemaOp,
    PauseEmbeddingOp,
    PgembedOp,
    ResumeEmbeddingOp,
    UninstallOp,
)
from pgembed.alembic.own import Own
from pgembed.alembic.reflect import Existing, existing_embeddings
from pgembed.sqlalchemy.declare import declarations_of
from pgembed.sqlalchemy.execution import meaning_of
from pgembed.sqlalchemy.version import installed_version

if TYPE_CHECKING:
    from collections.abc import Collection

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy import Connection, Table

    from pgembed.sqlalchemy.options import Declaration

_CREATE: dict[str, type[PgembedOp]] = {
    "embedding": CreateEmbeddingOp,
    "bm25": CreateBM25Op,
}
_ALTER: dict[str, type[PgembedOp]] = {
    "embedding": AlterEmbeddingOp,
    "bm25": AlterBM25Op,
}
_DROP: dict[str, type[PgembedOp]] = {
    "embedding": DropEmbeddingOp,
    "bm25": DropBM25Op,
}

#: Of a table, or of an embedding: schema (None: the default) and name.
Name: TypeAlias = tuple[str | None, str]
Wanted: TypeAlias = "dict[Name, tuple[Name, Table, Declaration]]"


def compare(
    autogen_context: AutogenContext,
    upgrade_ops: UpgradeOps,
    schemas: Collection[str | None],
) -> None:
    """Add pgembed's operations to those for tables, and take out what is its own.

    Args:
        autogen_context: Alembic's.
        upgrade_ops: The operations.
        schemas: Those that are compared; None: the default.

    Raises:
        SchemaVersionError: The database's pgembed is newer than this library.
    """
    connection = autogen_context.connection
    if connection is None or connection.dialect.name != "postgresql":
        return
    wanted, tables = _wanted(autogen_context, connection)
    version = installed_version(connection)
    if version is None:
        if wanted:
            Own([]).remove_from(upgrade_ops)
            upgrade_ops.ops.insert(0, InstallOp().undone_by(UninstallOp()))
            upgrade_ops.ops += [_create(*entry) for entry in wanted.values()]
        return
    if version.is_newer:
        raise schema.version_error(version)
    existing = _read(connection)
    Own(existing).remove_from(upgrade_ops)
    dropped = {
        (op.schema, op.table_name)
        for op in upgrade_ops.ops
        if isinstance(op, DropTableOp)
    }
    plan = _Plan(upgrade_ops, created=_created(upgrade_ops))
    if wanted and not version.is_current:
        plan.first.append(_upgrade(version))
    for one in existing:
        if one.generation != "current":
            continue
        own_name = (one.schema, one.name)
        entry = wanted.get(own_name)
        name = None if one.table is None else (one.schema, one.table)
        if entry is None:
            # Another application's table is none of this one's business.
            ours = name in dropped or (name in tables and one.schema in schemas)
            if ours and _included(autogen_context, one):
                plan.drop(one)
        elif entry[0] != name or differences.is_another(entry[2], one):
            plan.drop(one)
        else:
            del wanted[own_name]
            plan.keep(one, differences.changes(connection, entry[2], one))
            plan.choose(one, entry[2])
    for entry in wanted.values():
        plan.create(*entry)
    plan.finish()


def _read(connection: Connection) -> list[Existing]:
    try:
        return existing_embeddings(connection)
    except DBAPIError as exc:
        meaning = meaning_of(exc)
        if meaning is None:
            raise
        raise meaning from exc


def _wanted(
    autogen_context: AutogenContext, connection: Connection
) -> tuple[Wanted, set[Name]]:
    metadata: Any = autogen_context.metadata
    all_metadata = metadata if isinstance(metadata, (list, tuple)) else [metadata]
    default = connection.dialect.default_schema_name

    def name_of(table: Table) -> Name:
        return (None if table.schema == default else table.schema, table.name)

    def is_included(table: Table) -> bool:
        return autogen_context.run_object_filters(
            table, table.name, "table", False, None
        )

    wanted: Wanted = {}
    tables: set[Name] = set()
    for one in all_metadata:
        if one is None:
            continue
        included = {table for table in one.tables.values() if is_included(table)}
        tables |= {name_of(table) for table in included}
        for table, declaration in declarations_of(one):
            if table in included:
                name = name_of(table)
                wanted[name[0], declaration.name] = (name, table, declaration)
    return wanted, tables


def _included(autogen_context: AutogenContext, existing: Existing) -> bool:
    """Ask the application's filters, whose type is `embedding` or `bm25`.

    `include_name` has the table and its schema as for a column; the object of
    `include_object` is the declaration.
    """
    kind: Any = existing.declaration.kind
    item: Any = existing.declaration
    parents: Any = {"schema_name": existing.schema, "table_name": existing.table}
    of_schema: Any = {"schema_name": existing.schema}
    if not (
        autogen_context.run_name_filters(existing.table, "table", of_schema)
        and autogen_context.run_name_filters(existing.name, kind, parents)
    ):
        return False
    return autogen_context.run_object_filters(item, existing.name, kind, True, None)


def _created(upgrade_ops: UpgradeOps) -> set[Name]:
    return {
        (op.schema, op.table_name)
        for op in upgrade_ops.ops
        if isinstance(op, CreateTableOp)
    }


def _upgrade(version: schema.SchemaVersion) -> PgembedOp:
    note = f"Brings pgembed's schema from revision {version.revision} "
    op = InstallOp(
        upgrade_from=version.revision,
        notes=[f"{note}to this library's, {schema.LIBRARY_VERSION}."],
    )
    return op.undone_by(KeepSchemaOp(notes=["pgembed's schema stays upgraded."]))


def _create(_: Name, table: Table, declaration: Declaration, *notes: str) -> PgembedOp:
    arguments = declaration.arguments()
    expression = arguments.pop("text_expression")
    schema = _schema(table)
    create, drop = _CREATE[declaration.kind], _DROP[declaration.kind]
    op = create(table.name, expression, notes=notes, **schema, **arguments)
    return op.undone_by(drop(declaration.name, **schema))


def _schema(of: Table | Existing) -> dict[str, Any]:
    return {} if of.schema is None else {"schema": of.schema}


class _Plan:
    """Where each operation goes among those of the tables."""

    def __init__(self, upgrade_ops: UpgradeOps, created: set[Name]) -> None:
        self.upgrade_ops = upgrade_ops
        self.created = created
        self.first: list[MigrateOperation] = []
        self.last: list[MigrateOperation] = []

    def drop(self, existing: Existing) -> None:
        """Before its table changes, or goes."""
        arguments = existing.declaration.arguments()
        expression = arguments.pop("text_expression")
        schema = _schema(existing)
        table = existing.table or "?"
        kind = existing.declaration.kind
        undo = _CREATE[kind](table, expression, **schema, **arguments)
        self.first.append(_DROP[kind](existing.name, **schema).undone_by(undo))

    def create(self, name: Name, table: Table, declaration: Declaration) -> None:
        """After all tables are as they should be."""
        notes = []
        if name not in self.created and declaration.kind == "embedding":
            notes = [
                "The encoder service encodes all rows of the table, in its own time."
            ]
        self.last.append(_create(name, table, declaration, *notes))

    def keep(self, existing: Existing, changes: dict[str, Any]) -> None:
        """Between new columns and the dropping of old ones; triggers make way."""
        if changes:
            self._alter(existing, changes, self._modified(existing))
        ops = self.upgrade_ops.ops
        name, schema = existing.name, _schema(existing)
        for modify in self._modified(existing):
            if not any(self._retypes(op, existing) for op in modify.ops):
                continue
            pause = PauseEmbeddingOp(
                name,
                **schema,
                capture=False,
                notes=["No trigger may name a column whose type changes."],
            )
            resume = ResumeEmbeddingOp(name, **schema)
            # Backwards too, it is paused first and resumed last.
            pause.undo = ResumeEmbeddingOp(name, **schema)
            resume.undo = PauseEmbeddingOp(name, **schema, capture=False)
            position = ops.index(modify)
            ops[position : position + 1] = [pause, modify, resume]

    def choose(self, existing: Existing, wanted: Declaration) -> None:
        """Make it the default of its table, if it is to be that and is not."""
        if not wanted.is_default or existing.is_default:
            return
        kind, schema = existing.declaration.kind, _schema(existing)
        before = existing.default_name or existing.name
        undo = _ALTER[kind](before, **schema, is_default=True)
        alter = _ALTER[kind](existing.name, **schema, is_default=True)
        self.last.append(alter.undone_by(undo))

    def _modified(self, existing: Existing) -> list[ModifyTableOps]:
        """Find the changes of a table; other embeddings of it may have split them."""
        return [
            op
            for op in self.upgrade_ops.ops
            if isinstance(op, ModifyTableOps)
            and (op.schema, op.table_name) == (existing.schema, existing.table)
        ]

    def _alter(
        self, existing: Existing, changes: dict[str, Any], found: list[ModifyTableOps]
    ) -> None:
        drops = [op for one in found for op in one.ops if isinstance(op, DropColumnOp)]
        alter = _altering(existing, changes, drops)
        if not found:
            self.last.insert(0, alter)
            return
        last = found[-1]
        before = [op for op in last.ops if not isinstance(op, DropColumnOp)]
        after = [op for op in last.ops if isinstance(op, DropColumnOp)]
        pieces: list[MigrateOperation] = [alter]
        if before:
            pieces.insert(
                0, ModifyTableOps(last.table_name, before, schema=last.schema)
            )
        if after:
            pieces.append(ModifyTableOps(last.table_name, after, schema=last.schema))
        position = self.upgrade_ops.ops.index(last)
        self.upgrade_ops.ops[position : position + 1] = pieces

    @staticmethod
    def _retypes(op: MigrateOperation, existing: Existing) -> bool:
        return (
            isinstance(op, AlterColumnOp)
            and op.modify_type is not None
            and op.column_name in existing.columns
        )

    def finish(self) -> None:
        """Put everything in its place."""
        self.upgrade_ops.ops[:0] = self.first
        self.upgrade_ops.ops += self.last


def _altering(
    existing: Existing, changes: dict[str, Any], drops: list[DropColumnOp]
) -> PgembedOp:
    notes = differences.costs(changes)
    lost = [op.column_name for op in drops if op.column_name in existing.columns]
    if "text_expression" in changes and lost:
        notes.append(
            f"If {lost[0]} got another name: op.alter_column(..., "
            "new_column_name=...) in place of add and drop keeps its values."
        )
    undoing = differences.undoing(changes, existing)
    name, schema = existing.name, _schema(existing)
    going_back = differences.costs(undoing)
    alter = _ALTER[existing.declaration.kind]
    undo = alter(name, notes=going_back, **schema, **undoing)
    return alter(name, notes=notes, **schema, **changes).undone_by(undo)
