"""A table goes to another model while eight writers write and searches go on.

Each answer is checked: k rows, the row that was asked for first, and all similarities
made by one model, the old one or the new one. `before` has the writers and the service
too; `meanwhile` is from `alter_embedding` to the switch and a second beyond it. Hashing
encoders: what is measured is PostgreSQL's part, not a model's.

    python benchmarks/switch.py [--rows 5000] [--searches 10000]
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import psycopg
from common import new_database, percentile, server, server_version, show

from pgembed import client
from pgembed.encoders.hashing import HashingEncoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

K = 10
WRITERS = 8
SEARCHERS = 2
PAUSE_SECONDS = 0.5  # of each writer: 48 changes a second together
QUERIES = 50
ENCODERS = [HashingEncoder("old", 384), HashingEncoder("new", 768)]


@dataclass
class Answers:
    """What searches gave, and how long they took."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def fault(query: str, hits: list[client.VectorHit[dict[str, object]]]) -> str | None:
    """Say what is wrong with an answer."""
    if len(hits) != K:
        return f"{len(hits)} rows"
    if hits[0].content != query:
        return f"{query!r} is not first, but {hits[0].content!r}"
    for encoder in ENCODERS:
        vectors = encoder.encode_documents([hit.content or "" for hit in hits])
        expected = vectors @ encoder.encode_queries([query])[0]
        if np.allclose(expected, [hit.similarity for hit in hits], atol=1e-3):
            return None
    return "similarities of no model"


def search(
    dsn: str, queries: list[str], answers: Answers, stop: threading.Event
) -> None:
    """Search until told to stop."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for query in itertools.cycle(queries):
            if stop.is_set():
                return
            started = time.perf_counter()
            hits = client.vector_search(conn, "doc", query, k=K)
            answers.seconds.append(time.perf_counter() - started)
            if found := fault(query, hits):
                answers.wrong.append(found)


def write(dsn: str, first: int, rows: int, stop: threading.Event) -> None:
    """Insert, change and delete rows, but those that are searched for."""
    rng = random.Random(first)
    with psycopg.connect(dsn, autocommit=True) as conn:
        for key in itertools.count(rows + 1 + first, WRITERS):
            if stop.wait(PAUSE_SECONDS):
                return
            conn.execute("insert into doc values (%s, %s)", [key, words(rng)])
            other = rng.randrange(QUERIES + 1, rows)
            conn.execute("update doc set body = %s where id = %s", [words(rng), other])
            other = rng.randrange(QUERIES + 1, rows)
            conn.execute("delete from doc where id = %s", [other])


def words(rng: random.Random) -> str:
    """Make a text."""
    return " ".join(f"w{rng.randrange(3000)}" for _ in range(12))


@contextmanager
def searching(dsn: str, queries: list[str]) -> Iterator[Answers]:
    """Search on several connections while the block runs."""
    answers, stop = Answers(), threading.Event()
    threads = [
        threading.Thread(target=search, args=[dsn, queries[i:], answers, stop])
        for i in range(SEARCHERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    """Look each tenth of a second."""
    while not condition():
        time.sleep(0.1)


def main() -> None:
    """Fill a table, search it, switch it, and search on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--searches", type=int, default=10_000)
    options = parser.parse_args()
    with server() as running:
        dsn = new_database(running, "switch")
        conn = psycopg.connect(dsn, autocommit=True)
        for encoder in ENCODERS:
            client.register_model(
                conn, encoder.name, encoder.dimensions, provider="hashing"
            )
        rng = random.Random(0)
        conn.execute("create table doc (id int primary key, body text)")
        texts = [words(rng) for _ in range(options.rows)]
        with conn.cursor().copy("copy doc from stdin") as copy:
            for key, text in enumerate(texts, 1):
                copy.write_row((key, text))
        client.create_embedding(conn, "doc", "body", model="old", bm25=False)
        service = subprocess.Popen(
            [sys.executable, "-m", "pgembed", "serve", "--dsn", dsn],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        stop = threading.Event()
        writers = [
            threading.Thread(target=write, args=[dsn, n, options.rows, stop])
            for n in range(WRITERS)
        ]
        try:
            client.await_embedded(conn, "doc", timeout=600)
            wait_until(lambda: client.status(conn)[0].index_state == "valid")
            for writer in writers:
                writer.start()
            with searching(dsn, texts[:QUERIES]) as before:
                wait_until(lambda: len(before.seconds) >= options.searches / 4)
            started = time.perf_counter()
            with searching(dsn, texts[:QUERIES]) as meanwhile:
                client.alter_embedding(conn, "doc_embedding", model="new")
                wait_until(
                    lambda: any(
                        one.generation == "previous" for one in client.status(conn)
                    )
                )
                seconds = time.perf_counter() - started
                wait_until(lambda: len(meanwhile.seconds) >= options.searches)
        finally:
            stop.set()
            for writer in writers:
                if writer.ident:
                    writer.join()
            service.terminate()
            service.wait()
        print(f"{server_version(dsn)}; switched after {seconds:.1f} s")
        figures = [
            [
                len(one.seconds),
                *(1000 * percentile(one.seconds, share) for share in (0.5, 0.95)),
                1000 * max(one.seconds),
                len(one.wrong),
            ]
            for one in (before, meanwhile)
        ]
        show(
            "Searches while the model is changed, 8 writers",
            ["searches", "count", "p50 ms", "p95 ms", "most ms", "wrong"],
            [["before", *figures[0]], ["meanwhile", *figures[1]]],
        )
        print(f"p95 ratio {figures[1][2] / figures[0][2]:.2f}")
        print("\n".join(sorted(set(before.wrong + meanwhile.wrong))[:10]))


if __name__ == "__main__":
    main()
