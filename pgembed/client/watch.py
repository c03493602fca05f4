# Made by scripts/generate_client from pgembed/aclient/watch.py.
"""Watch embeddings, and tend them: pause, encode again, repair, retry, erase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg

from pgembed._client import manage
from pgembed._client.run import run

if TYPE_CHECKING:
    from pgembed._client.results import EmbeddingComparison, EmbeddingStatus
    from pgembed.options import Table

Connection: TypeAlias = psycopg.Connection[Any]


def status(conn: Connection) -> list[EmbeddingStatus]:
    """Read how all embeddings stand, by name.

    Args:
        conn: Connection as the owner of pgembed.
    """
    return run(conn, manage.status())


def await_embedded(
    conn: Connection, table: Table | None = None, *, timeout: float = 60.0
) -> None:
    """Wait until all that was committed before can be found, by vectors and words.

    The same as `CALL pgembed.wait(...)`. Rows that failed for good do not count as
    waiting; see `status`.

    Args:
        conn: Connection whose role may read the table, outside a transaction.
        table: As in `search`; all tables that the role may read by default.
        timeout: Longest wait, in seconds, up to an hour.

    Raises:
        NotEmbeddedInTime: It took longer.
        BrokenEmbedding: It will never be done.
        InvalidParameter: The connection is inside a transaction, or the embedding
            is paused.
        InvalidSource: There is no such table.
        UnknownEmbedding: The table has nothing to search by.
    """
    run(conn, manage.await_embedded(table, timeout))


def is_fresh(conn: Connection, table: Table | None = None) -> bool:
    """Whether all that was committed before can be found, by vectors and words.

    Args:
        conn: Connection whose role may read the table.
        table: As in `search`; all tables that the role may read by default.

    Raises:
        InvalidSource: There is no such table.
        UnknownEmbedding: The table has nothing to search by.
    """
    return run(conn, manage.is_fresh(table))


def current_lsn(conn: Connection) -> str:
    """Read how far the write-ahead log of a primary has come.

    Args:
        conn: Connection to the primary.

    Returns:
        The position, `'0/3000060'`: what `wait_for_replay` takes. All that was
        committed before is in front of it.
    """
    return run(conn, manage.current_lsn())


def wait_for_replay(conn: Connection, lsn: str, *, timeout: float = 10.0) -> None:
    """Wait until a standby has replayed what its primary had committed by then.

    So that one reads one's own writes on a standby: after `await_embedded` and
    `current_lsn` on the primary.

    Args:
        conn: Connection to the standby, outside a transaction.
        lsn: Position in the write-ahead log: what `current_lsn` gave.
        timeout: Longest wait, in seconds, up to an hour.

    Raises:
        NotEmbeddedInTime: It took longer.
        InvalidParameter: The connection is inside a transaction.
    """
    run(conn, manage.wait_for_replay(lsn, timeout))


def pause_embedding(conn: Connection, name: str, *, capture: bool = True) -> None:
    """Stop encoding for an embedding; changes are still queued.

    Args:
        conn: Connection as the owner.
        name: The embedding.
        capture: False removes the triggers too, so that columns that the text reads
            can change their type; `resume_embedding` then looks at the whole table
            again.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    arguments = {"name": name, "capture": capture}
    run(conn, manage.call("pause_embedding", arguments))


def resume_embedding(conn: Connection, name: str) -> None:
    """Continue a paused embedding.

    Args:
        conn: Connection as the owner.
        name: The embedding.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("resume_embedding", {"name": name}))


def reembed(conn: Connection, name: str) -> None:
    """Encode every row again; searches use the old vectors until then.

    Args:
        conn: Connection as the owner.
        name: The embedding.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("reembed", {"name": name}))


def repair(conn: Connection, name: str) -> None:
    """Make again what follows from the declaration of an embedding or BM25 index.

    Side table, indexes, functions, triggers, privileges, row security: whatever of
    it was dropped; then the whole table is compared with what was made of it.

    Args:
        conn: Connection as the owner.
        name: The embedding or BM25 index.

    Raises:
        UnknownEmbedding: There is none of this name.
        InvalidSource: Its table has been dropped.
        InvalidExpression: Its text no longer fits the table: `alter_embedding`.
    """
    run(conn, manage.call("repair", {"name": name}))


def retry(conn: Connection, name: str | None = None) -> int:
    """Have the failed rows of an embedding or BM25 index, or of all, tried again.

    Args:
        conn: Connection as the owner of pgembed.
        name: An embedding or BM25 index; all by default.

    Returns:
        How many.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    return manage.as_int(run(conn, manage.call("retry", {"name": name})))


def erase(conn: Connection, name: str | None = None) -> None:
    """Remove at once what pgembed still holds of deleted rows and earlier texts.

    Vectors, chunks, words, and keys in the queue; a running service does it within
    an hour. The space on disk is free after VACUUM.

    Args:
        conn: Connection as the owner of pgembed.
        name: An embedding or BM25 index; all by default.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("erase", {"name": name}))


def bm25_maintain(
    conn: Connection, name: str | None = None, *, min_rows: int | None = None
) -> dict[str, str]:
    """Build, pack, merge and purge BM25 indexes now, one or all.

    The encoder service does it by itself; this is for where none runs.

    Args:
        conn: Connection as the owner of pgembed.
        name: Which index; all by default.
        min_rows: Pack once so many changed rows have gathered; 2,000 by default.

    Returns:
        What was done, by index; those with nothing due are left out.

    Raises:
        UnknownEmbedding: There is none of this name.
        InvalidParameter: `min_rows` is out of range.
    """
    arguments = {"name": name, "min_rows": min_rows}
    return run(conn, manage.bm25_maintain(arguments))


def bm25_rebuild(conn: Connection, name: str) -> None:
    """Build a BM25 index anew, from the rows as they are.

    Args:
        conn: Connection as the owner of pgembed.
        name: The index.

    Raises:
        UnknownEmbedding: There is none of this name.
    """
    run(conn, manage.call("bm25_rebuild", {"name": name}))


def compare_embeddings(
    conn: Connection,
    name: str,
    other: str | None = None,
    *,
    k: int = 10,
    sample: int = 100,
) -> EmbeddingComparison:
    """Compare two embeddings of a table by the rows that they find.

    Rows stand for queries, so nothing is encoded and no judgements are needed. Where
    there are judgements, evaluate both instead: an overlap says how far a change is
    noticed, not whether it is for the better.

    Args:
        conn: Connection whose role may read the table.
        name: An embedding.
        other: Another one of the table; its next generation, or its previous one.
        k: How many rows are looked for; 1 to 10,000.
        sample: For how many rows, taken by chance of those that have both vectors;
            1 to 10,000. The keys of the whole table are read.

    Raises:
        UnknownEmbedding: There is no such embedding, or not of the same table.
        InvalidParameter: `k` or `sample` is out of range.
    """
    arguments = {"name": name, "other": other, "k": k, "sample": sample}
    return run(conn, manage.compare_embeddings(arguments))
