"""Every error that pgembed raises.

PgembedError
├── SqlError                 reported by the database, SQLSTATE class PE
│   ├── UnknownEmbedding       PE001
│   ├── EmbeddingExists        PE002
│   ├── InvalidSource          PE003
│   ├── InvalidExpression      PE004
│   ├── UnknownModel           PE005
│   ├── DimensionMismatch      PE006
│   ├── InvalidParameter       PE007
│   ├── InvalidFilter          PE008
│   ├── InvalidQuery           PE009
│   ├── NoEncoderService       PE010
│   ├── ModelMismatch          PE011
│   ├── UnsupportedEnvironment PE012
│   ├── InsufficientPrivilege  PE013
│   ├── EncodingFailed         PE014
│   ├── EmbeddingsExist        PE015
│   ├── BrokenEmbedding        PE016
│   ├── Bm25NotReady           PE017
│   ├── ForeignCodeFailed      PE018
│   ├── NotEmbeddedInTime      PE019
│   └── NotComplete            PE020
├── EncoderError
│   ├── ModelNotFound
│   ├── EncoderUnavailable     outage: the texts are fine, try again later
│   └── TextError              this text cannot be encoded
│       └── ImageError         this image cannot be encoded
├── RerankError               a re-ranker cannot score these texts
├── EvaluationError           queries or judgements cannot be used
├── AnalysisError             rows cannot be analysed: too few, or all alike
├── SchemaVersionError
└── MissingExtra
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import psycopg


class PgembedError(Exception):
    """Root of pgembed's errors.

    Attributes:
        message: What is wrong, with the value.
        detail: Facts that help to find the cause.
        hint: What to do.
    """

    sqlstate: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        """Show message, detail and hint, a line each."""
        lines = [self.message]
        if self.detail:
            lines.append(f"DETAIL: {self.detail}")
        if self.hint:
            lines.append(f"HINT: {self.hint}")
        return "\n".join(lines)


class SqlError(PgembedError):
    """Reported by pgembed's SQL functions, or raised by the client in their name."""


class UnknownEmbedding(SqlError):
    """No embedding has that name."""

    sqlstate = "PE001"


class EmbeddingExists(SqlError):
    """An embedding of that name is there already."""

    sqlstate = "PE002"


class InvalidSource(SqlError):
    """The source is no table, or has no primary key."""

    sqlstate = "PE003"


class InvalidExpression(SqlError):
    """The text expression is not one over the source's columns."""

    sqlstate = "PE004"


class UnknownModel(SqlError):
    """No model has that name."""

    sqlstate = "PE005"


class DimensionMismatch(SqlError):
    """A vector's length is not what was declared."""

    sqlstate = "PE006"


class InvalidParameter(SqlError):
    """A parameter is out of its range."""

    sqlstate = "PE007"


class InvalidFilter(SqlError):
    """A filter names an unknown column, or has a bad operator or type."""

    sqlstate = "PE008"


class InvalidQuery(SqlError):
    """A query is empty, or its vector holds no numbers."""

    sqlstate = "PE009"


class NoEncoderService(SqlError):
    """No encoder service answered in time."""

    sqlstate = "PE010"


class ModelMismatch(SqlError):
    """Vectors of another model, or of other weights."""

    sqlstate = "PE011"


class UnsupportedEnvironment(SqlError):
    """pgvector is missing or too old, or the server is too old."""

    sqlstate = "PE012"


class InsufficientPrivilege(SqlError):
    """The role lacks a privilege."""

    sqlstate = "PE013"


class EncodingFailed(SqlError):
    """The encoder reported an error for a query."""

    sqlstate = "PE014"


class EmbeddingsExist(SqlError):
    """pgembed cannot be uninstalled while embeddings exist."""

    sqlstate = "PE015"


class BrokenEmbedding(SqlError):
    """The embedding's source changed in a way that breaks it."""

    sqlstate = "PE016"


class Bm25NotReady(SqlError):
    """The BM25 index is not built yet, or needs to be built again."""

    sqlstate = "PE017"


class ForeignCodeFailed(SqlError):
    """Code of a table's owner, called to read or write a row, raised an error."""

    sqlstate = "PE018"


class NotEmbeddedInTime(SqlError, TimeoutError):
    """Waiting for the encoder service took longer than the caller allows."""

    sqlstate = "PE019"


class NotComplete(SqlError):
    """A generation of an embedding cannot take the place of the current one yet."""

    sqlstate = "PE020"


class EncoderError(PgembedError):
    """Root of what goes wrong between text and vector."""


class ModelNotFound(EncoderError):
    """No place has the model, or what is there cannot be loaded."""


class EncoderUnavailable(EncoderError):
    """The encoder is out of order for now; the texts are not to blame.

    Attributes:
        retry_after: Seconds until it is worth trying again; None: not known.
        back_pressure: Whether it said so itself (a rate limit, a refused key): no
            other text needs to be tried to know that.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        *,
        back_pressure: bool = False,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.retry_after = retry_after
        self.back_pressure = back_pressure


class TextError(EncoderError):
    """This text cannot be encoded."""


class ImageError(TextError):
    """This image cannot be encoded: it is none, damaged, or too large."""


class RerankError(PgembedError):
    """A re-ranker cannot score these texts."""


class EvaluationError(PgembedError):
    """Queries or judgements cannot be used: a bad file, or nothing in common."""


class AnalysisError(PgembedError):
    """Rows cannot be analysed: there are too few, or they are all alike."""


class SchemaVersionError(PgembedError):
    """The schema in the database is not the one this version works with."""


class MissingExtra(PgembedError):
    """An optional part of pgembed is not installed.

    Attributes:
        extra: Its name.
    """

    def __init__(self, extra: str) -> None:
        super().__init__(
            f"this needs the optional part {extra!r}",
            hint=f"pip install 'pgembed-kit[{extra}]'",
        )
        self.extra = extra


_BY_SQLSTATE: dict[str, type[SqlError]] = {
    cls.sqlstate: cls for cls in SqlError.__subclasses__() if cls.sqlstate
}


_MISSING = frozenset({"3F000", "42P01", "42883"})


def from_server(
    sqlstate: str | None,
    message: str,
    *,
    detail: str | None = None,
    hint: str | None = None,
    context: str | None = None,
) -> PgembedError | None:
    """Make pgembed's error of what the server said, whichever driver heard it.

    Args:
        sqlstate: Its code.
        message: Its primary message.
        detail: As the server has it.
        hint: As the server has it.
        context: Where it was, as the server has it.

    Returns:
        The error; None where it is none of pgembed's, nor clear without the statement.
    """
    kind = _BY_SQLSTATE.get(sqlstate or "")
    if kind is not None:
        return kind(message, detail=detail, hint=hint)
    if sqlstate in _MISSING and "pgembed" in message:
        return UnsupportedEnvironment(
            "pgembed is not installed in this database, or in another version",
            detail=message,
            hint="Run `pgembed install` or, to update, `pgembed upgrade`, with --dsn; "
            "or a migration with op.install_pgembed().",
        )
    # What a search reads besides the table is named in the context, not the message.
    if sqlstate == "42501" and "pgembed" in message + (context or ""):
        return InsufficientPrivilege(
            message,
            hint="A role that searches needs SELECT on the table, and its owner's "
            "SELECT pgembed.grant_usage('<role>'). A later GRANT is passed on by "
            "SELECT pgembed.repair('<embedding>').",
        )
    if sqlstate == "2D000" and "pgembed" in message:
        return InvalidParameter(message, detail=detail, hint=hint)
    return None


def from_psycopg(exc: psycopg.Error) -> PgembedError | psycopg.Error:
    """Turn what psycopg raised into pgembed's error, where it is one."""
    diag = exc.diag
    known = from_server(
        exc.sqlstate,
        diag.message_primary or str(exc),
        detail=diag.message_detail,
        hint=diag.message_hint,
        context=diag.context,
    )
    return exc if known is None else known
