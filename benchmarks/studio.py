"""What a search in the studio takes over the same three searches in SQL.

`pgembed studio` in a process of its own answers a query as the page asks for it: words,
meaning and both, with excerpts, explanations and thumbs, as HTML. Beside it, in turn, one
session runs the three statements. The table has the docstrings of Python's standard
library; vectors of queries are in the cache for both.

    python benchmarks/studio.py [--rows 5000] [--queries 100]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
from common import new_database, percentile, server, server_version, show

from pgembed import client
from pgembed.demo.table import TABLE, TEXT_EXPRESSION, load
from pgembed.testing import process_all

MODEL = "hashing"
PORT = 18765
TOKEN = "a-token-of-the-benchmark"
MORE = "snippets => true, explain => true"
COLUMNS = "(doc).*"
SEARCHES = (
    f"select {COLUMNS}, score, snippet, explanation"
    f" from pgembed.bm25_search(NULL::{TABLE}, %(query)s, {MORE})",
    f"select {COLUMNS}, similarity, chunk, content"
    f" from pgembed.vector_search(NULL::{TABLE}, %(query)s)",
    f"select {COLUMNS}, score, vector_rank, bm25_rank, snippet, explanation"
    f" from pgembed.hybrid_search(NULL::{TABLE}, %(query)s, {MORE})",
)


@contextmanager
def running(dsn: str, *command: str, ready: str) -> Iterator[int]:
    """Run a command of pgembed's; gives its process id once the address answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pgembed", *command, "--dsn", dsn],
        env={**os.environ, "PGEMBED_STUDIO_TOKEN": TOKEN},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            assert process.poll() is None, "it has ended"
            try:
                urllib.request.urlopen(ready, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def cpu_ms(process: int) -> float:
    """Read how much time of a CPU a process has had; of Linux."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return 1e3 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(opener: urllib.request.OpenerDirector, query: str) -> bytes:
    """Search as the page does."""
    address = f"http://127.0.0.1:{PORT}/?table=public.{TABLE}&q={quote(query)}"
    request = urllib.request.Request(address, headers={"HX-Request": "true"})
    with opener.open(request, timeout=30) as answer:
        return bytes(answer.read())


def main() -> None:
    """Print the times, and what the page takes more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with server() as postgres:
        dsn = new_database(postgres, "studio")
        with psycopg.connect(dsn, autocommit=True) as conn:
            client.register_model(conn, MODEL, 384, provider="hashing")
            rows = load(conn, options.rows)
            client.create_embedding(conn, TABLE, TEXT_EXPRESSION, model=MODEL)
            process_all(dsn)
            client.bm25_maintain(conn, min_rows=1)
            conn.execute("vacuum analyze")
            step = max(1, len(rows) // options.queries)
            queries = [" ".join(row.text.split()[:4]) for row in rows[::step]]
            site = f"http://127.0.0.1:{PORT}"
            health = "http://127.0.0.1:18766"
            serve = ("serve", "--health-port", "18766", "--no-train-query-encoders")
            studio = ("studio", "--port", str(PORT))
            with (
                running(dsn, *serve, ready=f"{health}/healthz"),
                running(dsn, *studio, ready=f"{site}/static/icon.svg") as pid,
            ):
                while client.status(conn)[0].index_state != "valid":
                    time.sleep(0.5)
                opener.open(f"{site}/login?token={TOKEN}").close()
                for query in queries:
                    client.encode(conn, query, MODEL)
                times: dict[str, list[float]] = {"SQL": [], "page": [], "more": []}
                for warm_up in (True, False):
                    before = cpu_ms(pid)
                    for query in queries[:10] if warm_up else queries:
                        began = time.perf_counter()
                        for search in SEARCHES:
                            conn.execute(search, {"query": query}).fetchall()
                        between = time.perf_counter()
                        page = ask(opener, query)
                        ended = time.perf_counter()
                        assert page.count(b'class="ranking"') == 3
                        assert b'role="alert"' not in page
                        if not warm_up:
                            sql, whole = between - began, ended - between
                            for name, seconds in (
                                ("SQL", sql),
                                ("page", whole),
                                ("more", whole - sql),
                            ):
                                times[name].append(1e3 * seconds)
                cpu = (cpu_ms(pid) - before) / len(queries)
        show(
            f"A search in the studio over {len(rows)} rows, ms, {server_version(dsn)}",
            ("", "p10", "p50", "p95"),
            (
                (name, *(percentile(found, share) for share in (0.1, 0.5, 0.95)))
                for name, found in times.items()
            ),
        )
        print(f"The studio's process took {cpu:.1f} ms of a CPU for a page.")


if __name__ == "__main__":
    main()
