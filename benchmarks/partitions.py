"""One table of vectors against the same vectors in partitions.

Builds of the indexes, as services do them, one claim after another: one index with one
service, those of the partitions with several. Then `vector_search` at the least
`ef_search` of each that finds the wanted share of the ten nearest rows, one whose filter
names the key, and dropping. Vectors of 384 dimensions in clusters, as halfvec.

    python benchmarks/partitions.py [--rows 20000] [--partitions 16] [--services 2]
"""

from __future__ import annotations

import argparse
import threading
import time
import uuid
from typing import TYPE_CHECKING

import numpy as np
import psycopg
from common import new_database, percentile, server, server_version, show
from psycopg.types.json import Jsonb
from rows import draw

if TYPE_CHECKING:
    from rows import Matrix

K = 10
EFFORTS = (5, 10, 20, 40, 80, 160, 320, 640)
ONE, MANY = "one", "many"  # names of the tables


def prepare(conn: psycopg.Connection, name: str, vectors: Matrix, parts: int) -> None:
    """Make a table with its vectors, and no index yet."""
    conn.execute(f"create table {name} (id int primary key, body text)".encode())
    conn.execute(
        f"insert into {name} select i, 'x' from generate_series(1, %s) as i".encode(),
        [len(vectors)],
    )
    conn.execute(
        "select pgembed.create_embedding(%s, 'body', model => 'drawn', bm25 => false,"
        " chunking => 'none', vector_type => 'halfvec', partitions => %s)",
        [name, parts],
    )
    statement = (
        f"copy {name}_embedding (id, chunk, embedding, text_hash, model_id,"
        " embedded_at, content) from stdin"
    )
    with conn.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for number, vector in enumerate(vectors.astype(np.float16), 1):
            text = "[" + ",".join(map(str, vector.tolist())) + "]"
            copy.write_row((number, 0, text, b"", 1, "now", "x"))
    conn.execute("delete from pgembed.queue")
    conn.execute("vacuum analyze")


def build(dsn: str, name: str, services: int, workers: int) -> float:
    """Build what is due of a table, with so many services; gives the seconds."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "update pgembed.embedding set backfill_state ="
            " case source::text when %s then 'done' else 'pending' end",
            [name],
        )
    threads = [
        threading.Thread(target=_serve, args=(dsn, workers)) for _ in range(services)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _serve(dsn: str, workers: int) -> None:
    worker = uuid.uuid4()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"set max_parallel_maintenance_workers = {workers}".encode())
        while True:
            conn.execute(
                "select pgembed._heartbeat_v1(%s, 'host', 1, '0', '{}', '{}')", [worker]
            )
            embedding, statements = conn.execute(
                "select embedding_id, ddl from pgembed._index_next_v1(%s)", [worker]
            ).fetchone()
            if embedding is None:
                return
            for statement in statements:
                conn.execute(statement)
            conn.execute(
                "select pgembed._index_done_v1(%s, null, %s)", [embedding, worker]
            )


def search(
    conn: psycopg.Connection, name: str, queries: list[str], **options: object
) -> tuple[list[set[int]], float]:
    """Search for each query; gives the rows and the median milliseconds."""
    given = "".join(f", {option} => %({option})s" for option in options)
    statement = (
        f"select (doc).id from pgembed.vector_search(null::{name},"
        f" query_embedding => %(q)s, k => {K}{given})"
    )
    found, times = [], []
    for query in [queries[0], *queries]:
        began = time.perf_counter()
        rows = conn.execute(statement.encode(), {"q": query, **options}).fetchall()
        times.append(1000 * (time.perf_counter() - began))
        found.append({row[0] for row in rows})
    return found[1:], percentile(times[1:], 0.5)  # the first is a warm-up


def least(
    conn: psycopg.Connection,
    name: str,
    queries: list[str],
    wanted: list[set[int]],
    recall: float,
) -> float:
    """Give the median milliseconds at the least effort that finds enough."""
    for effort in EFFORTS:
        found, median = search(conn, name, queries, ef_search=effort)
        pairs = zip(found, wanted, strict=True)
        share = float(np.mean([len(a & b) / K for a, b in pairs]))
        print(f"{name}: ef_search {effort}, recall {share:.3f}, {median:.2f} ms")
        if share >= recall:
            return median
    raise SystemExit(f"{name}: no effort finds {recall}")


def drop(conn: psycopg.Connection, name: str) -> float:
    """Drop an embedding; gives the seconds."""
    began = time.perf_counter()
    conn.execute("select pgembed.drop_embedding(%s)", [f"{name}_embedding"])
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--services", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="parallel, of a build")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--recall", type=float, default=0.95)
    given = parser.parse_args()
    drawn = draw(given.rows + given.queries)
    vectors = drawn[given.queries :]
    queries = [
        "[" + ",".join(map(str, vector.tolist())) + "]"
        for vector in drawn[: given.queries]
    ]
    with server() as running:
        dsn = new_database(running, "partitions")
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("select pgembed.register_model('drawn', 384, 'hashing')")
            prepare(conn, ONE, vectors, 1)
            prepare(conn, MANY, vectors, given.partitions)
            figures = [
                (
                    f"build, s: by 1 and by {given.services} services",
                    build(dsn, ONE, 1, given.workers),
                    build(dsn, MANY, given.services, given.workers),
                )
            ]
            conn.execute("vacuum analyze")
            wanted, _ = search(conn, ONE, queries, exact=True)
            figures.append(
                (
                    f"p50 of vector_search at recall {given.recall}, ms",
                    least(conn, ONE, queries, wanted, given.recall),
                    least(conn, MANY, queries, wanted, given.recall),
                )
            )
            key = Jsonb({"id": 77})
            figures.append(
                (
                    "p50 with the key in the filter, ms",
                    search(conn, ONE, queries, filter=key)[1],
                    search(conn, MANY, queries, filter=key)[1],
                )
            )
            figures.append(("drop_embedding, s", drop(conn, ONE), drop(conn, MANY)))
        version = server_version(dsn)
    show(
        f"{given.rows:,} rows, {version}",
        ("", "one table", f"{given.partitions} partitions", "ratio"),
        [(*figure, figure[2] / figure[1]) for figure in figures],
    )


if __name__ == "__main__":
    main()
