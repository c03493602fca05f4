"""Duplicates and classes in SQL against NumPy on the same vectors, reading included.

Vectors of 384 dimensions in clusters, as a model's are; every fifth row is nearly the
one before it. NumPy reads all vectors, then compares them in blocks.

    python benchmarks/rows.py [--rows 100000] [--labels 20] [--classified 10000]
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np
import psycopg
from common import new_database, server, show
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

Matrix = NDArray[np.float32]
DIMENSIONS = 384
LEAST = 0.95
BLOCK = 2000


def draw(rows: int) -> Matrix:
    """Draw unit vectors around 200 centers, a fifth of them nearly another one."""
    random = np.random.default_rng(1)
    centers = random.normal(size=(200, DIMENSIONS))
    vectors = centers[random.integers(200, size=rows)]
    vectors = vectors + random.normal(size=vectors.shape)
    again = vectors[3::5][: len(vectors[4::5])]
    noise = random.uniform(0.05, 0.45, size=(len(again), 1))
    vectors[4::5] = again + noise * random.normal(size=again.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def prepare(conn: psycopg.Connection, vectors: Matrix) -> None:
    """Make the table with its vectors and index."""
    conn.execute("select pgembed.register_model('drawn', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc select i, 'x' from generate_series(1, %s) as i", [len(vectors)]
    )
    conn.execute(
        "select pgembed.create_embedding('doc', 'body', model => 'drawn',"
        " chunking => 'none', vector_type => 'halfvec')"
    )
    (model,) = conn.execute(
        "select model_id from pgembed.embedding where name = 'doc_embedding'"
    ).fetchone()
    with (
        conn.cursor() as cursor,
        cursor.copy(
            "copy doc_embedding (id, chunk, embedding, text_hash, model_id,"
            " embedded_at, content) from stdin"
        ) as copy,
    ):
        for number, vector in enumerate(vectors.astype(np.float16), 1):
            text = "[" + ",".join(map(str, vector.tolist())) + "]"
            copy.write_row((number, 0, text, b"", model, "now", "x"))
    conn.execute("delete from pgembed.queue")
    conn.execute("update pgembed.embedding set backfill_state = 'done'")
    (embedding, statements) = conn.execute(
        "select embedding_id, ddl from pgembed._index_next_v1(gen_random_uuid())"
    ).fetchone()
    for statement in statements:
        conn.execute(statement)
    conn.execute("select pgembed._index_done_v1(%s, null)", [embedding])
    conn.execute("vacuum analyze")


def read(conn: psycopg.Connection, limit: int) -> tuple[NDArray[np.int64], Matrix]:
    """Read keys and vectors, as a program without pgembed's functions would."""
    rows = conn.execute(
        "select id, embedding from doc_embedding order by id limit %s",
        [limit],
        binary=True,
    ).fetchall()
    ids = np.array([row[0] for row in rows])
    vectors = np.array([row[1].to_numpy() for row in rows], dtype=np.float32)
    return ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def all_pairs(conn: psycopg.Connection, rows: int) -> set[tuple[int, int]]:
    """Compare all rows in blocks."""
    ids, unit = read(conn, rows)
    found: set[tuple[int, int]] = set()
    for start in range(0, rows, BLOCK):
        alike = unit[start : start + BLOCK] @ unit.T
        for i, j in np.argwhere(alike >= LEAST):
            if start + i < j:
                found.add((int(ids[start + i]), int(ids[j])))
    return found


def by_index(conn: psycopg.Connection) -> set[tuple[int, int]]:
    """Ask pgembed."""
    return set(
        conn.execute(
            "select key_a::int, key_b::int from pgembed.duplicates(null::doc, %s)",
            [LEAST],
        ).fetchall()
    )


def classes_here(conn: psycopg.Connection, rows: int, labels: Matrix) -> list[int]:
    """Read the vectors, and take the best of the labels."""
    _, unit = read(conn, rows)
    best: list[int] = (unit @ labels.T).argmax(axis=1).tolist()
    return best


def classes_there(conn: psycopg.Connection, rows: int, labels: Matrix) -> list[int]:
    """Ask pgembed."""
    given = {str(n): label.tolist() for n, label in enumerate(labels)}
    found = conn.execute(
        "select key::int, label::int from pgembed.classify(null::doc, %s,"
        " filter => %s) order by 1",
        [Jsonb(given), Jsonb({"id": {"$lte": rows}})],
    ).fetchall()
    return [label for _, label in found]


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Run a call, and say how many seconds it took."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--classified", type=int, default=10_000)
    given = parser.parse_args()
    vectors = draw(given.rows)
    with (
        server() as running,
        psycopg.connect(new_database(running, "rows"), autocommit=True) as conn,
    ):
        register_vector(conn)
        prepare(conn, vectors)
        many = min(given.classified, given.rows)
        labels = draw(given.labels)
        timed(lambda: by_index(conn))  # what is read is in memory for both
        ours, pairs = timed(lambda: by_index(conn))
        theirs, wanted = timed(lambda: all_pairs(conn, given.rows))
        assert isinstance(pairs, set)
        assert isinstance(wanted, set)
        there, labels_there = timed(lambda: classes_there(conn, many, labels))
        here, labels_here = timed(lambda: classes_here(conn, many, labels))
        assert isinstance(labels_there, list)
        assert isinstance(labels_here, list)
    same = np.mean(np.array(labels_there) == np.array(labels_here))
    show(
        f"{given.rows:,} rows of {DIMENSIONS} dimensions; in SQL against NumPy",
        ("", "SQL, s", "NumPy, s", "ratio", "found"),
        [
            (
                f"{len(wanted):,} duplicate pairs",
                ours,
                theirs,
                ours / theirs,
                f"{len(pairs & wanted) / max(1, len(wanted)):.4f}",
            ),
            (
                f"{many:,} rows by {given.labels} labels",
                there,
                here,
                there / here,
                f"{same:.4f}",
            ),
        ],
    )


if __name__ == "__main__":
    main()
