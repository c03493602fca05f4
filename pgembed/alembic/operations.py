"""The operations: what a migration calls, and what undoes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from alembic.operations import MigrateOperation, Operations

from pgembed._client.arguments import check_names
from pgembed.options import ChangedOptions, ModelOptions, NewEmbeddingOptions

if TYPE_CHECKING:
    from collections.abc import Sequence


class PgembedOp(MigrateOperation):
    """An operation of pgembed's.

    Attributes:
        function: Name of the operation as migrations call it.
        parameters: Names of its arguments by position, in SQL.
        positional: Its arguments by position.
        named: Its arguments by name, without those that are defaults.
        notes: What a reader of the migration should know, a line each.
    """

    function: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]] = ("name",)

    def __init__(
        self, *positional: Any, notes: Sequence[str] = (), **named: Any
    ) -> None:
        self.positional = positional
        self.named = named
        self.notes = tuple(notes)
        self.undo: PgembedOp | None = None

    def reverse(self) -> PgembedOp:
        """Give the operation that undoes it."""
        if self.undo is None:
            raise NotImplementedError(
                f"{self.function} does not know what to go back to"
            )
        return self.undo

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Describe it for `alembic check`."""
        return (self.function, *self.positional, self.named)

    def undone_by(self, other: PgembedOp) -> PgembedOp:
        """Name the operation that undoes this one, and the other way round."""
        self.undo, other.undo = other, self
        return self


@Operations.register_operation("install_pgembed")
class InstallOp(PgembedOp):
    """Make or upgrade pgembed's schema."""

    function = "install_pgembed"

    @classmethod
    def install_pgembed(
        cls, operations: Operations, *, upgrade_from: str | None = None
    ) -> None:
        """Make schema `pgembed`, or bring it to this library's version.

        Where it is current already nothing happens.

        Args:
            operations: Alembic's.
            upgrade_from: The revision that the schema has, for offline mode, which
                cannot look; None: it is not there.
        """
        operations.invoke(cls(upgrade_from=upgrade_from))


@Operations.register_operation("uninstall_pgembed")
class UninstallOp(PgembedOp):
    """Remove pgembed's schema."""

    function = "uninstall_pgembed"

    @classmethod
    def uninstall_pgembed(cls, operations: Operations) -> None:
        """Remove schema `pgembed`; the embeddings must have been dropped before.

        pgvector stays.
        """
        operations.invoke(cls())


class KeepSchemaOp(PgembedOp):
    """Leave pgembed's schema as it is: an upgrade is not taken back."""

    function = "install_pgembed"


@Operations.register_operation("create_embedding")
class CreateEmbeddingOp(PgembedOp):
    """Declare an embedding."""

    function = "create_embedding"

    @classmethod
    def create_embedding(
        cls,
        operations: Operations,
        source: str,
        text_expression: str,
        *,
        schema: str | None = None,
        name: str | None = None,
        if_not_exists: bool = False,
        **options: Unpack[NewEmbeddingOptions],
    ) -> None:
        """Declare that a text over the rows of a table has an embedding.

        Args:
            operations: Alembic's.
            source: The table.
            text_expression: SQL over its row.
            schema: The table's schema.
            name: The embedding's; `<table>_embedding`. It is unique in the schema.
            if_not_exists: Do nothing where there is one of this name.
            options: As in `pgembed.create_embedding()`; None is the default there.
        """
        check_names("create_embedding", options, NewEmbeddingOptions)
        own = {"schema": schema, "name": name, "if_not_exists": if_not_exists or None}
        operations.invoke(cls(source, text_expression, **_given({**own, **options})))


@Operations.register_operation("alter_embedding")
class AlterEmbeddingOp(PgembedOp):
    """Change an embedding."""

    function = "alter_embedding"

    @classmethod
    def alter_embedding(
        cls,
        operations: Operations,
        name: str,
        *,
        schema: str | None = None,
        text_expression: str | None = None,
        reset: Sequence[str] | None = None,
        **options: Unpack[ChangedOptions],
    ) -> None:
        """Change an embedding; what is not given stays.

        Vectors of another model, dimensions, type or distance are made beside those
        that searches use, and take their place: see `switch`. Another text or chunk
        size refreshes them in place.

        Args:
            operations: Alembic's.
            name: The embedding; `schema.name` is understood too.
            schema: Its table's schema; None: by the search_path.
            text_expression: SQL over the table's row.
            reset: Names of options that go back to their defaults: `chunk_size`;
                `bm25_options.k1` for one of the word index.
            options: As in `pgembed.alter_embedding()`; what is None stays.
        """
        check_names("alter_embedding", options, ChangedOptions)
        own = {"schema": schema, "text_expression": text_expression, "reset": reset}
        operations.invoke(cls(name, **_given({**own, **options})))


@Operations.register_operation("drop_embedding")
class DropEmbeddingOp(PgembedOp):
    """Drop an embedding."""

    function = "drop_embedding"

    @classmethod
    def drop_embedding(
        cls,
        operations: Operations,
        name: str,
        *,
        schema: str | None = None,
        if_exists: bool = False,
    ) -> None:
        """Remove an embedding with its vectors, triggers and jobs; the table stays.

        Args:
            operations: Alembic's.
            name: The embedding; `schema.name` is understood too.
            schema: Its table's schema; None: by the search_path.
            if_exists: Do nothing where there is none.
        """
        options = {"schema": schema, "if_exists": if_exists or None}
        operations.invoke(cls(name, **_given(options)))


@Operations.register_operation("pause_embedding")
class PauseEmbeddingOp(PgembedOp):
    """Stop encoding, and perhaps capture."""

    function = "pause_embedding"

    @classmethod
    def pause_embedding(
        cls,
        operations: Operations,
        name: str,
        *,
        schema: str | None = None,
        capture: bool = True,
    ) -> None:
        """Stop encoding for an embedding.

        Args:
            operations: Alembic's.
            name: The embedding; `schema.name` is understood too.
            schema: Its table's schema; None: by the search_path.
            capture: False removes the triggers too, so that columns that the text
                reads can change their type.
        """
        options = {"schema": schema, "capture": None if capture else False}
        operations.invoke(cls(name, **_given(options)))


@Operations.register_operation("resume_embedding")
class ResumeEmbeddingOp(PgembedOp):
    """Continue after `pause_embedding`."""

    function = "resume_embedding"

    @classmethod
    def resume_embedding(
        cls, operations: Operations, name: str, *, schema: str | None = None
    ) -> None:
        """Continue a paused embedding; without capture, look at all rows again.

        Args:
            operations: Alembic's.
            name: The embedding; `schema.name` is understood too.
            schema: Its table's schema; None: by the search_path.
        """
        operations.invoke(cls(name, **_given({"schema": schema})))


@Operations.register_operation("create_bm25")
class CreateBM25Op(PgembedOp):
    """Declare a BM25 index of its own."""

    function = "create_bm25"

    @classmethod
    def create_bm25(
        cls,
        operations: Operations,
        source: str,
        text_expression: str | None = None,
        *,
        schema: str | None = None,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
        is_default: bool = False,
        if_not_exists: bool = False,
    ) -> None:
        """Declare that the rows of a table are found by the words of a text.

        Args:
            operations: Alembic's.
            source: The table.
            text_expression: SQL over its row; None: the fields, one after the other.
            schema: The table's schema.
            name: The index's; `<table>_bm25`. It is unique in the schema.
            options: As in `pgembed.create_bm25()`.
            is_default: Searches by words that name only the table use it.
            if_not_exists: Do nothing where there is one of this name.
        """
        named = {
            "schema": schema,
            "name": name,
            "options": options,
            "is_default": is_default or None,
            "if_not_exists": if_not_exists or None,
        }
        operations.invoke(cls(source, text_expression, **_given(named)))


@Operations.register_operation("alter_bm25")
class AlterBM25Op(PgembedOp):
    """Change a BM25 index of its own."""

    function = "alter_bm25"

    @classmethod
    def alter_bm25(
        cls,
        operations: Operations,
        name: str,
        *,
        schema: str | None = None,
        text_expression: str | None = None,
        options: Mapping[str, Any] | None = None,
        reset: Sequence[str] | None = None,
        is_default: bool | None = None,
    ) -> None:
        """Change a BM25 index; what is not given stays. It is built anew.

        Args:
            operations: Alembic's.
            name: The index; `schema.name` is understood too.
            schema: Its table's schema; None: by the search_path.
            text_expression: SQL over the table's row.
            options: Those of `op.create_bm25()` that change.
            reset: Names of options that go back to their defaults.
            is_default: True: searches by words that name only the table use it. Alone,
                it builds nothing.
        """
        named = {
            "schema": schema,
            "text_expression": text_expression,
            "options": options,
            "reset": reset,
            "is_default": is_default,
        }
        operations.invoke(cls(name, **_given(named)))


@Operations.register_operation("drop_bm25")
class DropBM25Op(PgembedOp):
    """Drop a BM25 index of its own."""

    function = "drop_bm25"

    @classmethod
    def drop_bm25(
        cls,
        operations: Operations,
        name: str,
        *,
        schema: str | None = None,
        if_exists: bool = False,
    ) -> None:
        """Remove a BM25 index; the table stays.

        Args:
            operations: Alembic's.
            name: The index; `schema.name` is understood too.
            schema: Its table's schema; None: by the search_path.
            if_exists: Do nothing where there is none.
        """
        options = {"schema": schema, "if_exists": if_exists or None}
        operations.invoke(cls(name, **_given(options)))


@Operations.register_operation("register_model")
class RegisterModelOp(PgembedOp):
    """Make a model known."""

    function = "register_model"
    parameters = ("name", "dimensions")

    @classmethod
    def register_model(
        cls,
        operations: Operations,
        name: str,
        dimensions: int,
        **options: Unpack[ModelOptions],
    ) -> None:
        """Make a model known to the database. Nothing is loaded.

        Args:
            operations: Alembic's.
            name: Hub name, path, or (provider `hashing`) a name of your own.
            dimensions: Length of its vectors.
            options: As in `pgembed.register_model()`.
        """
        check_names("register_model", options, ModelOptions)
        operations.invoke(cls(name, dimensions, **_given(options)))


@Operations.register_operation("drop_model")
class DropModelOp(PgembedOp):
    """Remove a model."""

    function = "drop_model"
    parameters = ("name",)

    @classmethod
    def drop_model(
        cls, operations: Operations, name: str, *, if_exists: bool = False
    ) -> None:
        """Remove a model that no embedding uses, with what is stored of it.

        Args:
            operations: Alembic's.
            name: The model.
            if_exists: Do nothing where there is none.
        """
        operations.invoke(cls(name, **_given({"if_exists": if_exists or None})))


@Operations.register_operation("accept_weights")
class AcceptWeightsOp(PgembedOp):
    """Say that a model's weights changed on purpose."""

    function = "accept_weights"
    parameters = ("name", "fingerprint")

    @classmethod
    def accept_weights(
        cls, operations: Operations, name: str, fingerprint: str
    ) -> None:
        """Say that a model's weights changed on purpose: its vectors are made again.

        Args:
            operations: Alembic's.
            name: The model.
            fingerprint: Of the new weights, as the service's message has it.
        """
        operations.invoke(cls(name, fingerprint))


@Operations.register_operation("grant_usage")
class GrantUsageOp(PgembedOp):
    """Let a role search."""

    function = "grant_usage"
    parameters = ("role",)

    @classmethod
    def grant_usage(cls, operations: Operations, role: str) -> None:
        """Let a role search; it still needs SELECT on the tables.

        Args:
            operations: Alembic's.
            role: As in SQL's GRANT, without quotes.
        """
        operations.invoke(cls(role))


@Operations.register_operation("revoke_usage")
class RevokeUsageOp(PgembedOp):
    """Take that away again."""

    function = "revoke_usage"
    parameters = ("role",)

    @classmethod
    def revoke_usage(cls, operations: Operations, role: str) -> None:
        """Take from a role what `op.grant_usage()` gave it.

        Args:
            operations: Alembic's.
            role: As in `op.grant_usage()`.
        """
        operations.invoke(cls(role))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _implementation(kind: type[PgembedOp], name: str) -> None:
    @Operations.implementation_for(kind)
    def perform(operations: Operations, operation: PgembedOp) -> None:
        # Here, not above: Alembic imports this file while it is imported itself.
        from pgembed.alembic import perform as implementations

        getattr(implementations, name)(operations, operation)


_implementation(InstallOp, "install")
_implementation(UninstallOp, "uninstall")
_implementation(CreateEmbeddingOp, "create")
_implementation(CreateBM25Op, "create")
for _kind in (
    AlterEmbeddingOp,
    DropEmbeddingOp,
    PauseEmbeddingOp,
    ResumeEmbeddingOp,
    AlterBM25Op,
    DropBM25Op,
    RegisterModelOp,
    AcceptWeightsOp,
    DropModelOp,
    GrantUsageOp,
    RevokeUsageOp,
):
    _implementation(_kind, "change")
