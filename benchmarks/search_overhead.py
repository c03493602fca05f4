"""What pgembed.vector_search() costs over the query one would write by hand.

Both return the row, the similarity and the nearest chunk's text, over the same
HNSW index, in turn. Vectors are clustered, as those of texts are.

    python benchmarks/search_overhead.py [--rows 50000] [--queries 300]
"""

from __future__ import annotations

import argparse
import statistics
import time
import uuid
from datetime import UTC, datetime

import numpy as np
import psycopg
from common import new_database, percentile, server, server_version, show
from pgvector.psycopg import register_vector

K = 10
DIMENSIONS = 384
BY_HAND = """
    select d.id, d.title, 1 - n.distance as similarity, n.chunk, n.content
    from (select id, chunk, content, embedding <=> %(q)s as distance
          from doc_embedding order by embedding <=> %(q)s limit 10) as n
    join doc as d using (id)
    order by n.distance
"""
PGEMBED = """
    select (doc).id, (doc).title, similarity, chunk, content
    from pgembed.vector_search(NULL::doc, query_embedding => %(q)s, k => 10)
"""
FILTERED = """
    select (doc).id, (doc).title, similarity, chunk, content
    from pgembed.vector_search(NULL::doc, query_embedding => %(q)s, k => 10,
                               filter => %(filter)s)
"""


def load(conn: psycopg.Connection, rows: int) -> np.ndarray:
    """Fill table and side table; returns query vectors' basis of shape (32, d)."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(32, DIMENSIONS))
    conn.execute("create table doc (id bigint primary key, title text, bucket int)")
    conn.execute("select pgembed.register_model('bench', 384, 'hashing')")
    conn.execute("select pgembed.create_embedding('doc', 'title', model => 'bench')")
    conn.execute("drop index doc_embedding_hnsw")
    conn.execute(
        "insert into doc select i, 'title ' || i, i %% 1000 from generate_series(1, %s) as i",
        (rows,),
    )
    conn.execute("delete from pgembed.queue")
    row = conn.execute("select model_id from pgembed.embedding").fetchone()
    assert row is not None
    now = datetime.now(UTC)
    copy_in = (
        "copy doc_embedding (id, chunk, content, embedding, text_hash, model_id, embedded_at)"
        " from stdin with (format binary)"
    )
    with conn.cursor().copy(copy_in) as copy:
        copy.set_types(
            ["int8", "int4", "text", "vector", "uuid", "int4", "timestamptz"]
        )
        for start in range(0, rows, 1000):
            vectors = rng.normal(size=(1000, 32)) @ basis
            vectors += 0.3 * rng.normal(size=vectors.shape)
            for i, vector in enumerate(vectors.astype(np.float32)[: rows - start]):
                key = start + i + 1
                copy.write_row(
                    (key, 0, f"title {key}", vector, uuid.uuid4(), row[0], now)
                )
    conn.execute("set maintenance_work_mem = '512MB'")
    ddl = conn.execute(
        "select ddl from pgembed._index_next_v1(gen_random_uuid())"
    ).fetchone()
    assert ddl is not None
    for statement in ddl[0]:
        conn.execute(statement)
    conn.execute("vacuum analyze")
    return basis


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    with server() as running:
        dsn = new_database(running, "search")
        with psycopg.connect(dsn, autocommit=True) as conn:
            register_vector(conn)
            basis = load(conn, options.rows)
            rng = np.random.default_rng(1)
            queries = (rng.normal(size=(options.queries, 32)) @ basis).astype(
                np.float32
            )
            statements: dict[str, tuple[str, dict[str, str]]] = {
                "by hand": (BY_HAND, {}),
                "vector_search": (PGEMBED, {}),
            }
            for share, bound in (
                ("50 %", 500),
                ("10 %", 100),
                ("1 %", 10),
                ("0.1 %", 1),
            ):
                statements[f"vector_search, filter {share}"] = (
                    FILTERED,
                    {"filter": f'{{"bucket": {{"$lt": {bound}}}}}'},
                )
            times: dict[str, list[float]] = {name: [] for name in statements}
            for warm_up in (True, False):
                for query in queries[:20] if warm_up else queries:
                    for name, (statement, extra) in statements.items():
                        began = time.perf_counter()
                        found = conn.execute(
                            statement, {"q": query, **extra}, binary=True
                        ).fetchall()
                        elapsed = (time.perf_counter() - began) * 1e3
                        assert len(found) == K, (name, len(found))
                        if not warm_up:
                            times[name].append(elapsed)
        floor = statistics.median(times["by hand"])
        show(
            f"Search, {options.rows} rows, k = {K}, ms, {server_version(dsn)}",
            ("query", "p50", "p95", "ratio of p50", "p50 minus 1.2 x by hand"),
            [
                (
                    name,
                    statistics.median(values),
                    percentile(values, 0.95),
                    statistics.median(values) / floor,
                    statistics.median(values) - 1.2 * floor,
                )
                for name, values in times.items()
            ],
        )


if __name__ == "__main__":
    main()
