"""BM25 searches against GIN and ts_rank_cd over the same rows, and what they cost.

Every figure has its peer in the same run: the queries alternate between the ways to
search. Three kinds of query: short (2-3 words of one document), long (12) and common
(4 of the most common words, the worst case). Sections:

    build     rows a second, size on disk, against building the GIN index
    latency   k = 10 and 100
    filled    the same over an index that was declared on three short rows, and then
              filled and packed 2,000 rows at a time
    changed   the same with 2,000 rows not packed yet and 2,000 tombstones
    restricted  for a role that row security shows 1 % of the rows
    first     the first search of a session
    hybrid    hybrid_search against the sum of its arms (random vectors)
    filters   100 %, 50 %, 10 %, 1 % and 0.1 % of the rows: time, and recall of the arms
    growth    p50 at several numbers of rows

    python benchmarks/bm25_speed.py --data FOLDER [--rows 100000] [--only latency]

FOLDER holds corpus.jsonl(.gz), for instance 100,000 abstracts. Where more rows are
wanted than it has, new ones are mixed from halves of others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg
from common import new_database, percentile, server, server_version, show
from corpora import CONFIG, TABLE, TEXT, append, build_bm25, documents, load
from pgvector.psycopg import register_vector

from pgembed.evaluation import Document

SECTIONS = (
    "build",
    "latency",
    "filled",
    "changed",
    "restricted",
    "first",
    "hybrid",
    "filters",
    "growth",
)
KINDS = ("short", "long", "common")
DIMENSIONS = 384
CHANGED = 2000

# What one writes without pgembed: any of the words, best cover density first.
GIN = f"""
select id, ts_rank_cd(words, q) as score
from {TABLE}, (select to_tsquery('{CONFIG}', %(tsquery)s) as q) as q
where words @@ q order by score desc limit %(k)s
"""
BM25 = f"select (doc).id, score from pgembed.bm25_search(NULL::{TABLE}, %(query)s, k => %(k)s)"
VECTOR = (
    f"select (doc).id, similarity from pgembed.vector_search(NULL::{TABLE},"
    " query_embedding => %(vector)s, k => %(k)s)"
)
# Each arm as deep as hybrid_search asks it.
HYBRID = (
    f"select (doc).id, score from pgembed.hybrid_search(NULL::{TABLE}, %(query)s,"
    " query_embedding => %(vector)s, k => %(k)s, candidates => %(candidates)s)"
)

Parameters = dict[str, object]
Timed = dict[str, list[float]]


def queries(conn: psycopg.Connection, kind: str, count: int) -> list[Parameters]:
    """Make queries of words that are in the corpus."""
    rng = random.Random(kind)
    if kind == "common":
        rows = conn.execute(
            f"select word from ts_stat($$ select words from {TABLE} tablesample"
            " bernoulli(5) repeatable (1) $$) order by ndoc desc limit 24"
        ).fetchall()
        words = [row[0] for row in rows]
        found = [rng.sample(words, min(4, len(words))) for _ in range(count)]
    else:
        rows = conn.execute(
            f"select tsvector_to_array(words) from {TABLE} where length(words) > 12"
            " order by md5(id) limit %s",
            [count],
        ).fetchall()
        found = [
            rng.sample(row[0], rng.choice((2, 3)) if kind == "short" else 12)
            for row in rows
        ]
    # Words that the configuration turns into other words, or none, would not be found.
    return [
        {
            "query": " ".join(each),
            "tsquery": " | ".join("'" + w.replace("'", "''") + "'" for w in each),
        }
        for each in found
    ]


def prepare(conn: psycopg.Connection, data: Path, rows: int) -> tuple[float, float]:
    """Fill the table and build both indexes; returns what each took, in seconds."""
    load(conn, documents(data, rows))
    conn.execute(f"alter table {TABLE} add column words tsvector")
    conn.execute(f"update {TABLE} set words = to_tsvector('{CONFIG}', {TEXT})")
    conn.execute(f"vacuum full {TABLE}")
    began = time.perf_counter()
    conn.execute(f"create index doc_words on {TABLE} using gin (words)")
    gin = time.perf_counter() - began
    began = time.perf_counter()
    conn.execute(
        "select pgembed.create_bm25(%s, %s, options => %s)",
        (TABLE, TEXT, json.dumps({"config": CONFIG})),
    )
    build_bm25(conn)
    bm25 = time.perf_counter() - began
    conn.execute("vacuum analyze")
    return gin, bm25


def timed(
    conn: psycopg.Connection,
    ways: dict[str, str],
    found: Iterable[Parameters],
    *,
    check: Callable[[str, Sequence[tuple[object, ...]]], None] | None = None,
) -> Timed:
    """Run each query in all ways in turn; returns milliseconds by way."""
    times: Timed = {name: [] for name in ways}
    for position, parameters in enumerate(found):
        # The first ones only warm up; a plan is made at the sixth.
        for name, statement in ways.items():
            began = time.perf_counter()
            hits = conn.execute(statement, parameters, prepare=True).fetchall()
            elapsed = (time.perf_counter() - began) * 1e3
            if position >= 8:
                times[name].append(elapsed)
            if check is not None:
                check(name, hits)
    return times


def figures(times: Timed, name: str, floor: str) -> tuple[float, float, str, str]:
    """Give p50, p95 and both as parts of the peer's."""
    values, peer = times[name], times[floor]
    p50, p95 = statistics.median(values), percentile(values, 0.95)
    return (
        p50,
        p95,
        f"{p50 / statistics.median(peer):.4f}",
        f"{p95 / percentile(peer, 0.95):.4f}",
    )


def latency(conn: psycopg.Connection, count: int, title: str, goals: str) -> None:
    """Compare bm25_search with GIN + ts_rank_cd."""
    rows = []
    for k in (10, 100):
        for kind in KINDS:
            found = [{**q, "k": k} for q in queries(conn, kind, count + 8)]
            times = timed(conn, {"gin": GIN, "bm25": BM25}, found)
            rows.extend((kind, k, name, *figures(times, name, "gin")) for name in times)
    show(
        title,
        ("query", "k", "way", "p50 ms", "p95 ms", "p50 / GIN", f"p95 / GIN {goals}"),
        rows,
    )


def restricted(dsn: str, count: int) -> None:
    """Compare both for a role that row security shows 1 % of the rows."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            f"alter table {TABLE} enable row level security;"
            f"create policy few on {TABLE} using (bucket < 10);"
            f"create role tenant login; grant select on {TABLE} to tenant;"
            "select pgembed.grant_usage('tenant'); select pgembed.repair('doc_bm25');"
            "select pgembed.bm25_rebuild('doc_bm25')"
        )
        conn.execute("vacuum analyze")
        found = {
            kind: [{**q, "k": 10} for q in queries(conn, kind, count + 8)]
            for kind in KINDS
        }
    rows = []
    with psycopg.connect(dsn, autocommit=True, user="tenant") as conn:
        for kind in KINDS:
            times = timed(conn, {"gin": GIN, "bm25": BM25}, found[kind])
            rows.extend((kind, name, *figures(times, name, "gin")) for name in times)
    show(
        "Under row security, 1 % of the rows",
        ("query", "way", "p50 ms", "p95 ms", "p50 / GIN (goal 1/3)", "p95 / GIN"),
        rows,
    )


def build(conn: psycopg.Connection, rows: int, seconds: tuple[float, float]) -> None:
    """Compare build time and size; both read the same tsvector configuration."""
    gin_size = scalar(conn, "select pg_relation_size('doc_words')")
    bm25_size = scalar(
        conn,
        "select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class as c"
        " where c.relnamespace = 'pgembed'::regnamespace and c.relkind = 'r'"
        " and c.relname ~ '^_bm25_[1-9]'",
    )
    gin, bm25 = seconds
    show(
        f"Build, {rows} rows",
        ("index", "seconds", "rows/s", "MiB", "size / GIN (goal 3)"),
        [
            ("gin, words ready", gin, rows / gin, gin_size / 2**20, 1.0),
            (
                "bm25, words read too",
                bm25,
                rows / bm25,
                bm25_size / 2**20,
                bm25_size / gin_size,
            ),
        ],
    )


def filled(conn: psycopg.Connection, data: Path, rows: int, count: int) -> None:
    """Measure an index that grew with its table: no build has seen all of it."""
    load(conn, (Document(f"test-{i}", "", "hello world") for i in range(3)))
    conn.execute(
        f"alter table {TABLE} add column words tsvector"
        f" generated always as (to_tsvector('{CONFIG}', {TEXT})) stored"
    )
    conn.execute(f"create index doc_words on {TABLE} using gin (words)")
    conn.execute(
        "select pgembed.create_bm25(%s, %s, options => %s)",
        (TABLE, TEXT, json.dumps({"config": CONFIG})),
    )
    found = documents(data, rows)
    while append(conn, itertools.islice(found, CHANGED)):
        build_bm25(conn)
    conn.execute("vacuum analyze")
    latency(
        conn,
        count,
        f"Latency, {rows} rows, filled {CHANGED} at a time",
        "(goal 1/20, k = 100: 1/10)",
    )


def changed(conn: psycopg.Connection, data: Path, count: int) -> None:
    """Measure again with rows that are not packed and rows that are gone."""
    rng = random.Random(3)
    texts = list(documents(data, 5000))
    with conn.cursor() as cursor:
        cursor.executemany(
            f"insert into {TABLE} (id, title, body, bucket) values (%s, %s, %s, 0)",
            [
                (f"new-{i}", (d := rng.choice(texts)).title, d.text)
                for i in range(CHANGED)
            ],
        )
    conn.execute(
        f"delete from {TABLE} where id in (select id from {TABLE}"
        f" where id not like 'new-%%' order by md5(id) limit {CHANGED})"
    )
    conn.execute(
        f"update {TABLE} set words = to_tsvector('{CONFIG}', {TEXT}) where words is null"
    )
    conn.execute(f"analyze {TABLE}")
    latency(
        conn,
        count,
        f"Latency with {CHANGED} unpacked rows and {CHANGED} tombstones",
        "(goal 1/8)",
    )


def first_calls(dsn: str, count: int) -> None:
    """Time the first search of new sessions."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = queries(conn, "short", count)
    times: Timed = {"gin": [], "bm25": []}
    for query, (name, statement) in itertools.product(
        found, (("gin", GIN), ("bm25", BM25))
    ):
        with psycopg.connect(dsn, autocommit=True) as conn:
            began = time.perf_counter()
            conn.execute(statement, {**query, "k": 10}).fetchall()
            times[name].append((time.perf_counter() - began) * 1e3)
    show(
        "First search of a session, short queries, k = 10",
        ("way", "p50 ms (goal 15)", "p95 ms", "p50 / GIN", "p95 / GIN"),
        [(name, *figures(times, name, "gin")) for name in times],
    )


def make_vectors(conn: psycopg.Connection) -> np.ndarray:
    """Give every row a random vector near a surface, and build the HNSW index.

    The embedding has no BM25 of its own: hybrid_search takes the table's index.
    """
    register_vector(conn)
    conn.execute("select pgembed.register_model('random', %s, 'hashing')", [DIMENSIONS])
    conn.execute(
        "select pgembed.create_embedding(%s, %s, model => 'random',"
        " chunking => 'none', bm25 => false)",
        (TABLE, TEXT),
    )
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(32, DIMENSIONS))
    keys = [row[0] for row in conn.execute(f"select id from {TABLE} order by id")]
    model_id = scalar(conn, "select model_id from pgembed.model where name = 'random'")
    now = datetime.now(UTC)
    with conn.cursor().copy(
        "copy doc_embedding (id, chunk, content, embedding, text_hash, model_id,"
        " embedded_at) from stdin with (format binary)"
    ) as copy:
        copy.set_types(
            ["text", "int4", "text", "vector", "uuid", "int4", "timestamptz"]
        )
        for start in range(0, len(keys), 1000):
            part = keys[start : start + 1000]
            vectors = rng.normal(size=(len(part), 32)) @ basis
            vectors += 0.3 * rng.normal(size=vectors.shape)
            for key, vector in zip(part, vectors.astype(np.float32), strict=True):
                copy.write_row((key, 0, "", vector, uuid.uuid4(), model_id, now))
    conn.execute("delete from pgembed.queue")
    conn.execute("update pgembed.embedding set backfill_state = 'done'")
    conn.execute("set maintenance_work_mem = '512MB'")
    ddl = conn.execute(
        "select ddl from pgembed._index_next_v1(gen_random_uuid())"
    ).fetchone()
    assert ddl is not None
    for statement in ddl[0]:
        conn.execute(statement)
    conn.execute("vacuum analyze")
    return basis


def with_vectors(
    found: list[Parameters], basis: np.ndarray, **more: object
) -> list[Parameters]:
    """Add a query vector near the rows' surface to each query."""
    rng = np.random.default_rng(1)
    return [
        {**q, "vector": (rng.normal(size=32) @ basis).astype(np.float32), **more}
        for q in found
    ]


def hybrid(conn: psycopg.Connection, basis: np.ndarray, count: int) -> None:
    """Compare hybrid_search with the sum of its arms at the same depth."""
    arms = {
        "bm25": BM25.replace("%(k)s", "%(candidates)s"),
        "vector": VECTOR.replace("%(k)s", "%(candidates)s"),
        "hybrid": HYBRID,
    }
    rows = []
    # The depths that hybrid_search itself chooses for these k.
    for (k, depth), kind in itertools.product(((10, 40), (100, 400)), KINDS):
        found = with_vectors(
            queries(conn, kind, count + 8), basis, k=k, candidates=depth
        )
        times = timed(conn, arms, found)
        p50 = {name: statistics.median(values) for name, values in times.items()}
        rows.append(
            (
                kind,
                k,
                p50["bm25"],
                p50["vector"],
                p50["hybrid"],
                percentile(times["hybrid"], 0.95),
                p50["hybrid"] / (p50["bm25"] + p50["vector"]),
            )
        )
    show(
        "Hybrid against its arms; 4 x k candidates of each",
        (
            "query",
            "k",
            "bm25 p50",
            "vector p50",
            "hybrid p50",
            "hybrid p95",
            "hybrid / sum (goal 1.2)",
        ),
        rows,
    )


def filters(conn: psycopg.Connection, basis: np.ndarray, count: int) -> None:
    """Time filtered searches, and compare them with the exact filtered answer."""
    rows = []
    for share, bound in (
        ("100 %", 1000),
        ("50 %", 500),
        ("10 %", 100),
        ("1 %", 10),
        ("0.1 %", 1),
    ):
        condition = json.dumps({"bucket": {"$lt": bound}})
        ways = {
            "bm25": BM25.replace("k =>", "filter => %(filter)s, k =>"),
            "vector": VECTOR.replace("k =>", "filter => %(filter)s, k =>"),
            "hybrid": HYBRID.replace("k =>", "filter => %(filter)s, k =>"),
        }
        found = with_vectors(
            queries(conn, "short", count + 8),
            basis,
            k=10,
            candidates=40,
            filter=condition,
        )
        times = timed(conn, ways, found)
        recall = {
            "bm25": filtered_bm25_recall(conn, found[:30], bound),
            "vector": filtered_vector_recall(conn, found[:30], ways["vector"]),
        }
        rows.extend(
            (
                share,
                name,
                statistics.median(values),
                percentile(values, 0.95),
                f"{recall[name]:.3f}" if name in recall else "",
            )
            for name, values in times.items()
        )
    show(
        "Filtered, k = 10, short queries, ms",
        ("rows that pass", "way", "p50", "p95", "recall"),
        rows,
    )


def filtered_bm25_recall(
    conn: psycopg.Connection, found: list[Parameters], bound: int
) -> float:
    """Compare with the whole ranking cut down to the rows that pass."""
    shares = []
    for query in found:
        scores = [
            row[0]
            for row in conn.execute(
                f"select score from pgembed.bm25_search(NULL::{TABLE}, %(query)s,"
                " k => 10, filter => %(filter)s)",
                query,
            )
        ]
        # Ten thousand is as deep as a search goes: enough for rare words.
        every = conn.execute(
            f"select score from pgembed.bm25_search(NULL::{TABLE}, %(query)s,"
            f" k => 10000) where (doc).bucket < {bound} order by score desc limit 10",
            query,
        ).fetchall()
        true = [row[0] for row in every]
        if true and len(true) == len(scores):
            shares.append(
                sum(abs(a - b) <= 1e-5 * b for a, b in zip(scores, true, strict=True))
                / len(true)
            )
        elif true:
            shares.append(min(1.0, len(scores) / len(true)))
    return statistics.mean(shares) if shares else 1.0


def filtered_vector_recall(
    conn: psycopg.Connection, found: list[Parameters], statement: str
) -> float:
    """Compare with the exact order of the rows that pass."""
    shares = []
    for query in found:
        ids = {row[0] for row in conn.execute(statement, query)}
        exact = statement.replace("k =>", "exact => true, k =>")
        true = {row[0] for row in conn.execute(exact, query)}
        if true:
            shares.append(len(ids & true) / len(true))
    return statistics.mean(shares) if shares else 1.0


def growth(dsns: dict[int, str], count: int) -> None:
    """Show how p50 grows with the number of rows."""
    p50: dict[int, dict[str, float]] = {}
    for rows, dsn in dsns.items():
        with psycopg.connect(dsn, autocommit=True) as conn:
            p50[rows] = {
                kind: statistics.median(
                    timed(
                        conn,
                        {"bm25": BM25},
                        [{**q, "k": 10} for q in queries(conn, kind, count + 8)],
                    )["bm25"]
                )
                for kind in KINDS
            }
    least = min(p50)
    show(
        "Growth, k = 10, p50 ms (goal: less than the rows)",
        ("rows", "times the rows", *KINDS, *(f"{kind}, times" for kind in KINDS)),
        [
            (
                rows,
                rows / least,
                *values.values(),
                *(values[kind] / p50[least][kind] for kind in KINDS),
            )
            for rows, values in sorted(p50.items())
        ],
    )


def scalar(conn: psycopg.Connection, statement: str) -> int:
    """Return the only value of a statement, a whole number."""
    row = conn.execute(statement, prepare=False).fetchone()
    assert row is not None
    return int(row[0])


def main() -> None:
    """Print the ratios of each section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=50, help="of each kind")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--growth-rows", type=int, nargs="+", default=[10_000, 300_000])
    options = parser.parse_args()
    only = set(options.only)
    with server() as running:
        dsn = new_database(running, "speed")
        with psycopg.connect(dsn, autocommit=True) as conn:
            seconds = prepare(conn, options.data, options.rows)
            print(server_version(dsn))
            if "build" in only:
                build(conn, options.rows, seconds)
            if "latency" in only:
                latency(
                    conn,
                    options.queries,
                    f"Latency, {options.rows} rows",
                    "(goal 1/20, k = 100: 1/10)",
                )
        if "filled" in only:
            with psycopg.connect(
                new_database(running, "filled"), autocommit=True
            ) as conn:
                filled(conn, options.data, options.rows, options.queries)
        if "first" in only:
            first_calls(dsn, options.queries)
        if "growth" in only:
            dsns = {options.rows: dsn}
            for rows in options.growth_rows:
                dsns[rows] = new_database(running, f"speed_{rows}")
                with psycopg.connect(dsns[rows], autocommit=True) as conn:
                    prepare(conn, options.data, rows)
            growth(dsns, options.queries)
        with psycopg.connect(dsn, autocommit=True) as conn:
            if only & {"hybrid", "filters"}:
                basis = make_vectors(conn)
                if "hybrid" in only:
                    hybrid(conn, basis, options.queries)
                if "filters" in only:
                    filters(conn, basis, options.queries)
            # Last: they leave the table changed.
            if "changed" in only:
                changed(conn, options.data, options.queries)
        if "restricted" in only:
            restricted(dsn, options.queries)


if __name__ == "__main__":
    main()
