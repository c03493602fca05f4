# Made by scripts/generate_client from pgembed/aclient/declare.py.
"""Declare embeddings, BM25 indexes, models, and who may search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import psycopg

from pgembed._client import manage
from pgembed._client.describe import takes
from pgembed._client.run import run
from pgembed.options import ChangedOptions, ModelOptions, NewEmbeddingOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgembed.options import Table

Connection: TypeAlias = psycopg.Connection[Any]


@takes(NewEmbeddingOptions)
def create_embedding(
    conn: Connection,
    table: Table,
    text_expression: str,
    *,
    name: str | None = None,
    if_not_exists: bool = False,
    **options: Unpack[NewEmbeddingOptions],
) -> str:
    """Declare that an expression over a table's rows has an embedding.

    Part of the caller's transaction: nothing happens before it commits.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        table: `'article'`, `'shop.article'` or `'"My Table"'` as in SQL, or exact
            names: `('shop', 'My Table')`.
        text_expression: SQL over the row that gives the text, such as
            `title || ' ' || body`.
        name: Name of the embedding and its side table; `<table>_embedding`. It is
            unique in the schema of the table.
        if_not_exists: Where there is one of this name, change nothing.

    Returns:
        The embedding's name, without the schema.

    Raises:
        EmbeddingExists: There is one of this name, unless `if_not_exists`.
        InvalidSource: No such table, or it has no primary key.
        InvalidExpression: The expression is not text, or names a missing column.
        UnknownModel: No such model is registered.
        DimensionMismatch: The model has not so many dimensions.
        InvalidParameter: An option is wrong, or does not go with another.
        InsufficientPrivilege: The role owns neither.
    """
    given = {"name": name, "if_not_exists": if_not_exists}
    return run(conn, manage.create_embedding(table, text_expression, given, options))


@takes(ChangedOptions)
def alter_embedding(
    conn: Connection,
    name: str,
    *,
    text_expression: str | None = None,
    reset: Sequence[str] | None = None,
    **options: Unpack[ChangedOptions],
) -> None:
    """Change an embedding; what is None stays. Also repairs a broken one.

    Vectors of another model, dimensions, type or distance are made beside those that
    searches use, as the embedding's next generation, and take their place: see
    `switch`. Another text or chunk size refreshes them in place.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        name: The embedding.
        text_expression: Another SQL expression; None: the one it has.
        reset: Names of options that go back to their defaults: `["chunk_size"]`;
            `bm25_options.k1` for one of the BM25 index.

    Raises:
        UnknownEmbedding: There is none of this name.
        InvalidParameter: And the others of `create_embedding`.
    """
    given = {"text_expression": text_expression, "reset": reset}
    run(conn, manage.alter_embedding(name, given, options))


def drop_embedding(conn: Connection, name: str, *, if_exists: bool = False) -> None:
    """Remove an embedding with its vectors, triggers and jobs; the table stays.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        name: The embedding. Its next and previous generation go with it; these can be
            dropped alone, as `<name>_next` and `<name>_previous`.
        if_exists: Where there is none, do nothing.

    Raises:
        UnknownEmbedding: There is none of this name, unless `if_exists`.
    """
    arguments = {"name": name, "if_exists": if_exists}
    run(conn, manage.call("drop_embedding", arguments))


def switch_embedding(
    conn: Connection, name: str, *, generation: str = "next", force: bool = False
) -> None:
    """Have the next generation of an embedding take its place, or the previous one.

    What it replaces is kept up to date, as `<name>_previous`, until it is dropped or
    until the next switch.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        name: The embedding.
        generation: `next`, which `alter_embedding` has made; or `previous`, to go back.
        force: Do so though it lacks rows that the current generation has.

    Raises:
        UnknownEmbedding: There is no embedding, or no generation, of this name.
        NotComplete: It lacks rows, or its index, or a side table is in use for long.
    """
    arguments = {"name": name, "generation": generation, "force": force}
    run(conn, manage.call("switch_embedding", arguments))


def create_bm25(
    conn: Connection,
    table: Table,
    text_expression: str | None = None,
    *,
    name: str | None = None,
    options: Mapping[str, object] | None = None,
    is_default: bool = False,
    if_not_exists: bool = False,
) -> str:
    """Declare a BM25 index over an expression, without any vectors.

    Part of the caller's transaction: nothing happens before it commits. An embedding
    has BM25 of its own: see `create_embedding`.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        table: As in `create_embedding`.
        text_expression: SQL over the row that gives the text; the fields, one after
            the other.
        name: Name of the index; `<table>_bm25`.
        options: `config` (text-search configuration; the database's), or
            `config_expression` (SQL over the row that gives it), by name or by the code
            of a language; `analyzer` (`parts`, `fold`, `cjk`: each true); `fields`
            (columns of the text, and how many times their words count:
            `{"title": 3, "body": 1}`);
            `k1` (1.2), `b` (0.75).
        is_default: Searches by words that name only the table use it, in the place of
            the table's first.
        if_not_exists: Where there is one of this name, change nothing.

    Returns:
        The index's name, without the schema.

    Raises:
        EmbeddingExists: There is one of this name, unless `if_not_exists`.
        InvalidSource: No such table, or it has no primary key.
        InvalidExpression: The expression is not text, or names a missing column.
        InvalidParameter: An option is unknown or out of range.
        InsufficientPrivilege: The role owns neither.
    """
    given = {
        "name": name,
        "options": options,
        "is_default": is_default,
        "if_not_exists": if_not_exists,
    }
    return run(conn, manage.create("create_bm25", table, text_expression, given))


def alter_bm25(
    conn: Connection,
    name: str,
    *,
    text_expression: str | None = None,
    options: Mapping[str, object] | None = None,
    reset: Sequence[str] | None = None,
    is_default: bool | None = None,
) -> None:
    """Change a BM25 index of its own; what is None stays.

    Another text or configuration build it anew.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        name: The index.
        text_expression: Another SQL expression; None: the one it has.
        options: Those of `create_bm25` that change.
        reset: Names of options that go back to their defaults: `["k1"]`.
        is_default: True: searches by words that name only the table use it.

    Raises:
        UnknownEmbedding: There is none of this name.
        InvalidParameter: And the others of `create_bm25`.
    """
    arguments = {
        "name": name,
        "text_expression": text_expression,
        "options": options,
        "reset": reset,
        "is_default": is_default,
    }
    run(conn, manage.call("alter_bm25", arguments))


def drop_bm25(conn: Connection, name: str, *, if_exists: bool = False) -> None:
    """Remove a BM25 index of its own; the table stays.

    Args:
        conn: Connection as the owner of the table and of pgembed.
        name: The index.
        if_exists: Where there is none, do nothing.

    Raises:
        UnknownEmbedding: There is none of this name, unless `if_exists`.
    """
    arguments = {"name": name, "if_exists": if_exists}
    run(conn, manage.call("drop_bm25", arguments))


@takes(ModelOptions)
def register_model(
    conn: Connection,
    name: str,
    dimensions: int,
    **options: Unpack[ModelOptions],
) -> None:
    """Make a model known to the database. Nothing is loaded.

    Args:
        conn: Connection as the owner of pgembed.
        name: Hub name, path, or (provider `hashing`) a name of your own.
        dimensions: Length of its vectors.

    Raises:
        InvalidParameter: A value is out of range.
        DimensionMismatch: It is in use with other dimensions.
    """
    run(conn, manage.register_model(name, dimensions, options))


def drop_model(conn: Connection, name: str, *, if_exists: bool = False) -> None:
    """Remove a model that no embedding uses, with what is stored of it.

    Args:
        conn: Connection as the owner of pgembed.
        name: The model.
        if_exists: Where there is none, do nothing.

    Raises:
        UnknownModel: There is none of this name, unless `if_exists`.
        InvalidParameter: An embedding uses it.
    """
    arguments = {"name": name, "if_exists": if_exists}
    run(conn, manage.call("drop_model", arguments))


def accept_weights(conn: Connection, name: str, fingerprint: str) -> None:
    """Say that a model's weights changed on purpose: its vectors are made again.

    A service whose model has other weights than those that made the stored vectors
    encodes nothing, and says so. After this, those that have the new ones encode all
    rows again.

    Args:
        conn: Connection as the owner of pgembed.
        name: The model.
        fingerprint: Of the new weights, as the service's message has it.

    Raises:
        UnknownModel: No such model is registered.
        InvalidParameter: The fingerprint is empty.
    """
    arguments = {"name": name, "fingerprint": fingerprint}
    run(conn, manage.call("accept_weights", arguments))


def grant_usage(conn: Connection, role: str) -> None:
    """Let a role search; it still needs SELECT on the tables.

    Args:
        conn: Connection as the owner of pgembed.
        role: As in SQL's GRANT, without quotes.

    Raises:
        InvalidParameter: There is no such role.
        InsufficientPrivilege: The connection's role does not own pgembed.
    """
    run(conn, manage.call("grant_usage", {"role": role}))


def revoke_usage(conn: Connection, role: str) -> None:
    """Take from a role what `grant_usage` gave it: it cannot search any more.

    Args:
        conn: Connection as the owner of pgembed.
        role: As in `grant_usage`.

    Raises:
        InvalidParameter: There is no such role.
        InsufficientPrivilege: The connection's role does not own pgembed.
    """
    run(conn, manage.call("revoke_usage", {"role": role}))
