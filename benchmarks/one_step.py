"""A search that encodes its query by itself, through dblink, against the two steps.

Two steps: CALL pgembed.encode(query), then the search. One: the search alone. Each query
is new, the ways take turns, one session for all. The servers that come as Python packages
have no dblink but the 17 of the tests (scripts/postgres17.py); give one that has it. The
loopback may lead through a pooler.

    python benchmarks/one_step.py --dsn postgresql://postgres@/postgres?host=/tmp
                                  [--loopback "host=/run/pgbouncer port=6432"]
                                  [--model all-MiniLM-L6-v2] [--rows 500] [--queries 200]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from common import percentile, server_version, show
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pgembed.schema
from pgembed.demo.corpus import corpus

NAME = "pgembed_one_step"
SEARCH = (
    "select (doc).id, similarity from pgembed.vector_search(null::doc, %s, k => 10)"
)


def loopback(conn: psycopg.Connection, dsn: str) -> None:
    """Let dblink lead back to this database, as this role."""
    options = conninfo_to_dict(dsn)
    user = {name: options.pop(name) for name in ("user", "password") if name in options}

    def written(given: Mapping[str, object]) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(str(value)))
            for name, value in given.items()
        )

    conn.execute("create extension dblink")
    server = (
        "create server pgembed_loopback foreign data wrapper dblink_fdw options ({})"
    )
    conn.execute(sql.SQL(server).format(written(options)))
    mapping = (
        "create user mapping for current_user server pgembed_loopback options ({})"
    )
    conn.execute(sql.SQL(mapping).format(written(user)))


@contextmanager
def service(dsn: str) -> Iterator[None]:
    """Run an encoder service."""
    command = [sys.executable, "-m", "pgembed", "serve", "--dsn", dsn]
    process = subprocess.Popen([*command, "--health-port", "0"])
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def measure(
    conn: psycopg.Connection, model: str, queries: int
) -> dict[str, list[float]]:
    """Time each query, in milliseconds."""
    times: dict[str, list[float]] = {"two steps": [], "one step": []}
    for number in range(-10, queries):
        for way, taken in times.items():
            query = f"which text tells of number {number} {way}"
            began = time.perf_counter()
            if way == "two steps":
                conn.execute("call pgembed.encode(%s, %s)", [query, model])
            conn.execute(SEARCH.encode(), [query]).fetchall()
            if number >= 0:
                taken.append((time.perf_counter() - began) * 1000)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--loopback", default="")
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--queries", type=int, default=200)
    given = parser.parse_args()
    with psycopg.connect(given.dsn, autocommit=True) as conn:
        conn.execute(f"drop database if exists {NAME} with (force)".encode())
        conn.execute(f"create database {NAME}".encode())
    dsn = make_conninfo(given.dsn, dbname=NAME)
    pgembed.schema.install(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn, service(dsn):
        loopback(conn, make_conninfo(dsn, **conninfo_to_dict(given.loopback)))
        if given.model == "hashing":
            conn.execute("select pgembed.register_model('hashing', 384, 'hashing')")
        conn.execute("create table doc (id int primary key, text text)")
        for key, row in enumerate(corpus(limit=given.rows)):
            conn.execute("insert into doc values (%s, %s)", [key, row.text[:1000]])
        conn.execute(
            "select pgembed.create_embedding('doc', 'text', model => %s)", [given.model]
        )
        pgembed.await_embedded(conn, "doc", timeout=600)
        times = measure(conn, given.model, given.queries)
        base = statistics.median(times["two steps"])
        show(
            f"One step against two, {given.model}, ms ({server_version(dsn)})",
            ("", "p50", "p95", "ratio of p50"),
            [
                (
                    way,
                    statistics.median(taken),
                    percentile(taken, 0.95),
                    statistics.median(taken) / base,
                )
                for way, taken in times.items()
            ],
        )


if __name__ == "__main__":
    main()
