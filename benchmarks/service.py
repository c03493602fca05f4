"""The encoder service against the bare model, and how soon a write can be found.

Throughput: the same texts, sorted by length, through `model.encode` and through the
service (read from the table, encoded, written to the side table), in turn. Latency:
the time from the commit of one row on an idle service until its vector is there,
against one bare encode; and that of a query while a backfill saturates the service.

First fill: rows a second at its beginning and its end, with the hashing encoder, and
the most memory that the service took.

    python benchmarks/service.py [--rows 1500] [--rounds 3] [--writes 100]
                                 [--fill-rows 1000000]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psycopg
from common import new_database, percentile, server, server_version, show
from sentence_transformers import SentenceTransformer

from pgembed.demo.corpus import corpus
from pgembed.encoders import load_encoder
from pgembed.encoders.packaged import MODELS, installed_folder
from pgembed.service import ServiceSettings, drain

MODEL = "all-MiniLM-L6-v2"


def throughput(
    running_dsn: str, rows: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Time both ways over the same texts, in seconds."""
    texts = [row.text[:1000] for row in corpus(limit=rows)]
    encoder = load_encoder(MODEL)
    model = SentenceTransformer(str(installed_folder(MODELS[0])))
    by_length = sorted(texts, key=len)
    raw, service = [], []
    with psycopg.connect(running_dsn, autocommit=True) as conn:
        conn.execute("create table doc (id int primary key, text text)")
        with conn.cursor().copy("copy doc from stdin") as copy:
            for key, text in enumerate(texts):
                copy.write_row((key, text))
        conn.execute(
            "select pgembed.create_embedding('doc', 'text', chunking => 'none',"
            " index => 'none')"
        )
        model.encode(by_length[:64])
        for _ in range(rounds):
            began = time.perf_counter()
            model.encode(by_length, batch_size=32, show_progress_bar=False)
            raw.append(time.perf_counter() - began)
            conn.execute("truncate doc_embedding")
            conn.execute("select pgembed.reembed('doc_embedding')")
            began = time.perf_counter()
            asyncio.run(
                drain(running_dsn, ServiceSettings(), encoders={MODEL: encoder})
            )
            service.append(time.perf_counter() - began)
            row = conn.execute("select count(*) from doc_embedding").fetchone()
            assert row is not None
            assert row[0] == len(texts), row
        conn.execute("select pgembed.drop_embedding('doc_embedding')")
        conn.execute("drop table doc")
    return raw, service


def latencies(dsn: str, writes: int) -> tuple[list[float], list[float], list[float]]:
    """Time encodes, commit to searchable, and queries under a backfill, in ms."""
    text = "Read the settings of a program from a file in the INI format."
    encoder = load_encoder(MODEL)
    encodes, searchable, queries = [], [], []
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table doc (id int primary key, text text)")
        conn.execute("select pgembed.create_embedding('doc', 'text')")
        process = subprocess.Popen(
            [sys.executable, "-m", "pgembed", "serve", "--dsn", dsn],
            stdout=subprocess.DEVNULL,
        )
        try:
            conn.execute("insert into doc values (-1, 'warm up')")
            _wait(conn, -1, 120)
            for key in range(writes):
                began = time.perf_counter()
                encoder.encode_documents([f"{text} {key}"])
                encodes.append((time.perf_counter() - began) * 1e3)
                time.sleep(0.05)  # the service falls asleep again
                conn.execute("insert into doc values (%s, %s)", (key, f"{text} {key}"))
                began = time.perf_counter()
                _wait(conn, key, 30)
                searchable.append((time.perf_counter() - began) * 1e3)
            conn.execute(
                "insert into doc select 1000000 + i, repeat(md5(i::text) || ' ', 20)"
                " from generate_series(1, 20000) as i"
            )
            time.sleep(2)
            for key in range(30):
                began = time.perf_counter()
                conn.execute("call pgembed.encode(%s)", (f"a query {key}",))
                queries.append((time.perf_counter() - began) * 1e3)
        finally:
            process.terminate()
            process.wait(30)
    return encodes, searchable, queries


def _wait(conn: psycopg.Connection, key: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not conn.execute(
        "select 1 from doc_embedding where id = %s", (key,)
    ).fetchone():
        assert time.monotonic() < until, f"row {key} was not encoded in {seconds} s"
        time.sleep(0.001)


def first_fill(dsn: str, rows: int) -> tuple[float, float, float]:
    """Fill an embedding of a table that has its rows already.

    Returns:
        Rows a second in the first and in the last tenth, and the service's most memory
        in MiB.
    """
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgembed.register_model('hashed', 64, 'hashing')")
        conn.execute("create table filled (id int primary key, text text)")
        conn.execute(
            "insert into filled select i, 'row ' || i || ' ' || md5(i::text)"
            " from generate_series(1, %s) as i",
            [rows],
        )
        conn.execute(
            "select pgembed.create_embedding('filled', 'text', model => 'hashed',"
            " index => 'none', bm25 => false)"
        )
        service = subprocess.Popen(
            [sys.executable, "-m", "pgembed", "serve", "--once", "--dsn", dsn],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        began = time.monotonic()
        seen: list[tuple[float, int]] = []  # seconds, rows
        memory = 0
        while service.poll() is None:
            row = conn.execute(
                "select n_tup_ins from pg_stat_user_tables"
                " where relname = 'filled_embedding'"
            ).fetchone()
            seen.append((time.monotonic() - began, row[0] if row else 0))
            for line in Path(f"/proc/{service.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    memory = int(line.split()[1]) >> 10
            time.sleep(0.5)

    def rate(first: float, last: float) -> float:
        part = [s for s in seen if first * rows <= s[1] <= last * rows]
        return (part[-1][1] - part[0][1]) / (part[-1][0] - part[0][0])

    return rate(0.01, 0.11), rate(0.9, 1.0), memory


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writes", type=int, default=100)
    parser.add_argument("--fill-rows", type=int, help="only the first fill")
    options = parser.parse_args()
    with server() as running:
        if options.fill_rows:
            start, end, memory = first_fill(
                new_database(running, "fill"), options.fill_rows
            )
            show(
                f"First fill of {options.fill_rows} rows, hashing encoder",
                ("rows/s, first tenth", "last tenth", "ratio", "memory, MiB"),
                [(start, end, end / start, memory)],
            )
            return
        dsn = new_database(running, "service")
        raw, service = throughput(dsn, options.rows, options.rounds)
        rate = [options.rows / s for s in raw], [options.rows / s for s in service]
        show(
            f"Rows a second, {options.rows} docstrings, {server_version(dsn)}",
            ("way", "rows/s", "ratio"),
            [
                ("model.encode, sorted", statistics.median(rate[0]), 1.0),
                (
                    "pgembed service",
                    statistics.median(rate[1]),
                    statistics.median(s / r for r, s in zip(*rate, strict=True)),
                ),
            ],
        )
        encodes, searchable, queries = latencies(dsn, options.writes)
        show(
            "Latency, ms",
            ("what", "p50", "p95", "p50 minus one encode"),
            [
                (
                    name,
                    statistics.median(v),
                    percentile(v, 0.95),
                    statistics.median(v) - statistics.median(encodes),
                )
                for name, v in (
                    ("one bare encode", encodes),
                    ("commit to searchable, idle service", searchable),
                    ("query while a backfill runs", queries),
                )
            ],
        )


if __name__ == "__main__":
    main()
