"""How many documents have a word that a search for it does not find.

A word is a longest run of letters and digits that is no stop word. For each collection
the share of documents is printed that have a word whose lexemes, as those of a query,
are not among the document's: without the analyzer and with it, and what the analyzer
costs beside to_tsvector alone.

    python benchmarks/findable_words.py --data FOLDER [FOLDER ...] [--rows 5000]

FOLDER holds corpus.jsonl or corpus.jsonl.gz (BEIR's layout).
"""

from __future__ import annotations

import argparse
import itertools
import re
import time
from collections.abc import Iterable
from pathlib import Path

import psycopg
from common import new_database, server, server_version, show
from corpora import CONFIG, TABLE, TEXT, documents, load

OFF = '{"parts": false, "fold": false, "cjk": false}'
ON = '{"parts": true, "fold": true, "cjk": true}'
WORD = re.compile(r"[^\W_]+")
PAGE = 10_000


def lexemes_of(
    conn: psycopg.Connection, words: Iterable[str], analyzer: str
) -> dict[str, frozenset[str]]:
    """Give the lexemes of each word as a query."""
    wanted = list(words)
    found: dict[str, frozenset[str]] = {}
    for first in range(0, len(wanted), PAGE):
        for word, lexemes in conn.execute(
            f"select w, pgembed._query_lexemes('{CONFIG}', w, %s)"
            " from unnest(%s::text[]) as w",
            (analyzer, wanted[first : first + PAGE]),
        ):
            found[word] = frozenset(lexemes)
    return found


def unfindable(
    conn: psycopg.Connection, rows: int, analyzer: str
) -> tuple[float, list[str]]:
    """Give the share of documents with a word that does not find them, and examples."""
    known: dict[str, frozenset[str]] = {}
    missed, examples = 0, []
    with conn.transaction(), conn.cursor(name="texts") as texts:
        texts.itersize = PAGE // 10
        texts.execute(
            f"select {TEXT}, tsvector_to_array(pgembed._bm25_lexemes('{CONFIG}', {TEXT},"
            f" %s)) from {TABLE}",
            (analyzer,),
        )
        for text, lexemes in texts:
            words = {word for word in WORD.findall(text) if len(word) <= 200}
            known |= lexemes_of(conn, words - known.keys(), analyzer)
            has = set(lexemes)
            lost = [w for w in words if known[w] and not known[w] & has]
            missed += bool(lost)
            examples += lost[: 10 - len(examples)]
    return missed / rows, examples


def seconds(conn: psycopg.Connection, expression: str) -> float:
    """Time an expression over all rows, on one core; the best of three."""
    conn.execute("set max_parallel_workers_per_gather = 0")
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        conn.execute(f"select sum(length({expression})) from {TABLE}")
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Print both figures for each collection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, help="only so many documents of each")
    options = parser.parse_args()
    table = []
    with server() as running:
        for number, folder in enumerate(options.data):
            dsn = new_database(running, f"words{number}")
            with psycopg.connect(dsn, autocommit=True) as conn:
                rows = load(conn, itertools.islice(documents(folder), options.rows))
                without, _ = unfindable(conn, rows, OFF)
                share, examples = unfindable(conn, rows, ON)
                plain = seconds(conn, f"to_tsvector('{CONFIG}', {TEXT})")
                analyzed = seconds(
                    conn,
                    f"to_tsvector('{CONFIG}', pgembed._analyzed({TEXT}, '{ON}', true))",
                )
            table.append(
                (
                    folder.name,
                    rows,
                    f"{without:.2%}",
                    f"{share:.2%}",
                    f"{analyzed / plain:.2f}",
                )
            )
            print(folder.name, "not found with the analyzer:", examples)
        show(
            f"Documents with a word that does not find them, {server_version(dsn)}",
            ("collection", "documents", "without", "with", "time, to_tsvector 1"),
            table,
        )


if __name__ == "__main__":
    main()
