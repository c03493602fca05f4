"""search_count and search_facets against what one writes by hand over a GIN index.

Both count the same rows of the same table: those with a word of the query. Words are
chosen so that one row in a hundred, in ten, and nearly every row matches.

    python benchmarks/facets.py --data FOLDER [--rows 100000]

FOLDER holds corpus.jsonl(.gz), for instance 100,000 abstracts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import psycopg
from common import new_database, server, server_version, show
from corpora import CONFIG, TABLE, TEXT, build_bm25, documents, load

SHARES = (0.01, 0.1, 0.9)
ROUNDS = 9
MATCHING = f"{TABLE} where to_tsvector('{CONFIG}', {TEXT}) @@ %(tsquery)s::tsquery"
WAYS = {
    "count": (
        f"select count(*) from {MATCHING}",
        f"select pgembed.search_count(NULL::{TABLE}, %(words)s)",
    ),
    "2 facets": (
        f"(select 'shelf', shelf::text, count(*) from {MATCHING} group by 2"
        " order by 3 desc limit 20) union all"
        f" (select 'year', year::text, count(*) from {MATCHING} group by 2"
        " order by 3 desc limit 20)",
        f"select * from pgembed.search_facets(NULL::{TABLE}, %(words)s,"
        " '{shelf,year}')",
    ),
    "2 facets, filter 10 %": (
        f"(select 'shelf', shelf::text, count(*) from {MATCHING} and bucket < 100"
        " group by 2 order by 3 desc limit 20) union all"
        f" (select 'year', year::text, count(*) from {MATCHING} and bucket < 100"
        " group by 2 order by 3 desc limit 20)",
        f"select * from pgembed.search_facets(NULL::{TABLE}, %(words)s,"
        " '{shelf,year}', filter => '{\"bucket\": {\"$lt\": 100}}')",
    ),
}


def build(conn: psycopg.Connection, folder: Path, rows: int) -> None:
    """Make the table, a GIN index and a BM25 index."""
    load(conn, documents(folder, rows))
    conn.execute(f"alter table {TABLE} add shelf text, add year int")
    conn.execute(
        f"update {TABLE} set shelf = 'shelf ' || bucket %% 12, year = 2000 + bucket %% 25",
        [],
    )
    conn.execute("set maintenance_work_mem = '512MB'")
    conn.execute(f"create index on {TABLE} using gin (to_tsvector('{CONFIG}', {TEXT}))")
    conn.execute(
        "select pgembed.create_bm25(%s, %s, options => %s)",
        (TABLE, TEXT, f'{{"config": "{CONFIG}"}}'),
    )
    build_bm25(conn)
    conn.execute("vacuum full analyze")


def words_of(conn: psycopg.Connection, rows: int, share: float) -> tuple[str, int]:
    """Find a word that about this share of the rows has."""
    row = conn.execute("select bm25_id from pgembed.bm25").fetchone()
    assert row is not None
    found = conn.execute(
        f"select term, df from pgembed._bm25_{row[0]}_term where term ~ '^[a-z]+$'"
        " and to_tsvector(%s::regconfig, term) @@ term::tsquery"
        " order by abs(df - %s) limit 1",
        (CONFIG, share * rows),
    ).fetchone()
    assert found is not None
    return found


def main() -> None:
    """Print medians of both ways, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    with server() as running:
        dsn = new_database(running, "facets")
        with psycopg.connect(dsn, autocommit=True) as conn:
            build(conn, options.data, options.rows)
            lines = []
            for share in SHARES:
                word, matching = words_of(conn, options.rows, share)
                given = {"tsquery": word, "words": word}
                for what, ways in WAYS.items():
                    times: tuple[list[float], list[float]] = ([], [])
                    results = []
                    for _ in range(ROUNDS):
                        for way, taken in zip(ways, times, strict=True):
                            began = time.perf_counter()
                            results.append(conn.execute(way, given).fetchall())
                            taken.append((time.perf_counter() - began) * 1e3)
                    assert len(results[0]) == len(results[1])
                    hand, ours = map(statistics.median, times)
                    lines.append((f"{matching} rows: {what}", hand, ours, ours / hand))
        show(
            f"Counts over {options.rows} rows, ms, {server_version(dsn)}",
            ("what", "by hand, GIN", "pgembed", "ratio"),
            lines,
        )


if __name__ == "__main__":
    main()
