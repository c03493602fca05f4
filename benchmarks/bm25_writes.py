"""What BM25 costs a writer, and whether anything is lost under many of them.

1. One-row INSERTs a second, with BM25 against the same table with a GIN index on its
   tsvector; pgbench writes to the two in turn.
2. Writers insert, update, delete and roll back on colliding rows while a packer works;
   then the index is compared with the table row by row, and searches with a reference
   that is computed in Python from to_tsvector.

    python benchmarks/bm25_writes.py --data FOLDER [--seconds 60] [--writers 8]

FOLDER holds corpus.jsonl(.gz): where the texts come from.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from common import new_database, server, server_version, show
from corpora import CONFIG, documents
from write_overhead import transactions_per_second

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fixtures.bm25_reference import (
    assert_same_scores,
    fetch_lexemes,
    fetch_query_lexemes,
)

SAMPLES = 2000
INSERT = (
    "\\set id random(1, {samples})\n"
    "insert into {table} (body) select body from sample where id = :id;"
)
KEYS = 3000


def prepare(conn: psycopg.Connection, data: Path) -> None:
    """Make texts to write, and the two tables that are written to."""
    conn.execute("create table sample (id int primary key, body text not null)")
    with conn.cursor().copy("copy sample from stdin") as copy:
        for number, document in enumerate(documents(data, SAMPLES), 1):
            copy.write_row((number, document.text))
    for table, generated in (
        (
            "gin",
            f", words tsvector generated always as (to_tsvector('{CONFIG}', body)) stored",
        ),
        ("bm25", ""),
    ):
        conn.execute(
            f"create table {table} (id bigint generated always as identity primary key,"
            f" body text not null{generated})"
        )
    conn.execute("create index on gin using gin (words)")
    create_index(conn, "bm25", "body")
    conn.execute("vacuum analyze")


def create_index(conn: psycopg.Connection, table: str, text: str) -> None:
    """Declare BM25 alone."""
    conn.execute(
        "select pgembed.create_bm25(%s, %s, options => %s)",
        (table, text, json.dumps({"config": CONFIG})),
    )


def inserts(
    dsn: str, pgbench: Path, clients: list[int], seconds: int, rounds: int
) -> list[tuple[object, ...]]:
    """Compare the two tables' TPS; whoever goes first alternates."""
    rows: list[tuple[object, ...]] = []
    with (
        TemporaryDirectory() as folder,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        scripts = {}
        for table in ("gin", "bm25"):
            scripts[table] = Path(folder) / f"{table}.sql"
            scripts[table].write_text(INSERT.format(table=table, samples=SAMPLES))
        for count in clients:
            tps: dict[str, list[float]] = {"gin": [], "bm25": []}
            for turn in range(rounds):
                for table in ("gin", "bm25") if turn % 2 else ("bm25", "gin"):
                    tps[table].append(
                        transactions_per_second(
                            pgbench, dsn, scripts[table], count, seconds
                        )
                    )
                # What a service does beside the writers.
                conn.execute("select pgembed.bm25_maintain()")
            ratios = [b / g for b, g in zip(tps["bm25"], tps["gin"], strict=True)]
            rows.append(
                (
                    count,
                    round(statistics.median(tps["gin"])),
                    round(statistics.median(tps["bm25"])),
                    statistics.median(ratios),
                    min(ratios),
                    max(ratios),
                )
            )
    return rows


class Writers:
    """Sessions that write to table `busy` until told to stop; every text is its own.

    Each text has one word that no other text ever had, so that the index can be asked
    for exactly that version of a row.
    """

    def __init__(self, dsn: str, texts: list[str]) -> None:
        self._dsn = dsn
        self._texts = texts
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._next_word = 0
        self.transactions = 0
        self.rolled_back = 0
        self.packed = 0
        self.errors: list[str] = []

    def run(self, writers: int, seconds: float) -> None:
        """Write and pack for so long."""
        threads = [
            threading.Thread(target=self._guarded, args=(self._write, number))
            for number in range(writers)
        ]
        threads.append(threading.Thread(target=self._guarded, args=(self._pack, 0)))
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self._stop.set()
        for thread in threads:
            thread.join(60)

    def _guarded(self, work, number: int) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as conn:
                work(conn, number)
        except psycopg.Error as exc:
            self.errors.append(f"{type(exc).__name__}: {exc}")

    def _text(self, rng: random.Random) -> str:
        with self._lock:
            self._next_word += 1
            return f"{rng.choice(self._texts)} uniq{self._next_word}"

    def _write(self, conn: psycopg.Connection, number: int) -> None:
        rng = random.Random(number)
        while not self._stop.is_set():
            undone = rng.random() < 0.1
            # One key a statement, in order, so that the rows' own locks cannot
            # deadlock: what is left to deadlock is pgembed's.
            keys = sorted(rng.sample(range(1, KEYS + 1), rng.choice((1, 1, 1, 3))))
            with conn.transaction(force_rollback=undone):
                for key in keys:
                    self._change(conn, rng, key)
            with self._lock:
                self.transactions += 1
                self.rolled_back += undone

    def _change(self, conn: psycopg.Connection, rng: random.Random, key: int) -> None:
        what = rng.random()
        if what < 0.5:
            conn.execute(
                "insert into busy values (%s, %s)"
                " on conflict (id) do update set body = excluded.body",
                (key, self._text(rng)),
            )
        elif what < 0.8:
            conn.execute(
                "update busy set body = %s where id = %s", (self._text(rng), key)
            )
        else:
            conn.execute("delete from busy where id = %s", (key,))

    def _pack(self, conn: psycopg.Connection, _: int) -> None:
        while not self._stop.is_set():
            done = conn.execute(
                "select * from pgembed.bm25_maintain('busy_bm25', 200)"
            ).fetchall()
            self.packed += bool(done)
            time.sleep(0.2)


def compare(
    conn: psycopg.Connection, texts: list[str], searches: int
) -> tuple[int, int]:
    """Compare the index with the table; returns rows and searches compared.

    Raises:
        AssertionError: They differ.
    """
    rows = conn.execute("select id, body from busy order by id").fetchall()
    for key, body in rows:
        word = body.rsplit(" ", 1)[1]
        found = conn.execute(
            "select (doc).id, (doc).body = %s"
            " from pgembed.bm25_search(NULL::busy, %s, k => 5)",
            (body, word),
        ).fetchall()
        assert found == [(key, True)], f"row {key} is found as {found} by {word}"
    lexemes = fetch_lexemes(conn, "busy", "body", CONFIG)
    # Equal scores mean that N, df and lengths are right too: no row is missing, and
    # none that is gone still counts.
    rng = random.Random(7)
    for _ in range(searches):
        words = " ".join(rng.sample(rng.choice(texts).split(), rng.randint(1, 6)))
        hits = conn.execute(
            "select (doc).id, score from pgembed.bm25_search(NULL::busy, %s, k => 50)",
            (words,),
        ).fetchall()
        assert_same_scores(
            hits, lexemes, fetch_query_lexemes(conn, words, CONFIG), k=50
        )
    return len(rows), searches


def concurrent(dsn: str, writers: int, seconds: float, searches: int) -> None:
    """Write with many sessions and a packer, and compare what is left."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        texts = [row[0] for row in conn.execute("select body from sample")]
        texts = [text for text in texts if len(text.split()) > 10]
        conn.execute("create table busy (id int primary key, body text not null)")
        create_index(conn, "busy", "body")
        work = Writers(dsn, texts)
        work.run(writers, seconds)
        print(*work.errors, sep="\n")
        before = compare(conn, texts, searches)
        conn.execute("select pgembed.bm25_maintain('busy_bm25', 1)")
        after = compare(conn, texts, searches)
    show(
        f"{writers} writers and a packer for {seconds:g} s",
        ("what", "count", "goal"),
        [
            ("transactions", work.transactions, ""),
            ("of them rolled back", work.rolled_back, ""),
            ("times packed", work.packed, ""),
            ("errors and deadlocks", len(work.errors), "0"),
            ("rows found by their own word, all right", before[0], "all"),
            ("searches equal to the reference", before[1], "all"),
            ("the same once everything is packed: rows", after[0], "all"),
            ("searches", after[1], "all"),
        ],
    )
    if work.errors:
        raise SystemExit(1)


def main() -> None:
    """Print ratios and what was compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--insert-seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--searches", type=int, default=100)
    options = parser.parse_args()
    with server() as running:
        dsn = new_database(running, "writes")
        with psycopg.connect(dsn, autocommit=True) as conn:
            prepare(conn, options.data)
        concurrent(dsn, options.writers, options.seconds, options.searches)
        rows = inserts(
            dsn,
            running.program_folder / "pgbench",
            options.clients,
            options.insert_seconds,
            options.rounds,
        )
        show(
            f"One-row INSERTs, {server_version(dsn)}",
            (
                "clients",
                "tps GIN",
                "tps BM25",
                "ratio (goal 0.8)",
                "min",
                "max",
            ),
            rows,
        )


if __name__ == "__main__":
    main()
