"""How often a misspelt word is read as the one that was meant, and what that costs.

Words are taken from the texts, in the proportion in which they stand there, and misspelt at
random places: a letter inserted, left out, replaced, or swapped with the next; one in five
twice. Words whose misspelling some text has are left out.

    python benchmarks/typing_errors.py --data FOLDER [--rows 100000]

FOLDER holds corpus.jsonl(.gz), for instance 100,000 abstracts.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import string
import time
from pathlib import Path

import psycopg
from common import new_database, server, server_version, show
from corpora import CONFIG, TABLE, TEXT, build_bm25, documents, load

WORDS = 1000
SEARCH = f"select (doc).id from pgembed.bm25_search(NULL::{TABLE}, %s, fuzzy => %s)"
LEXEME = "select (tsvector_to_array(to_tsvector(%s::regconfig, %s)))[1]"


def misspelt(word: str, rng: random.Random) -> str:
    """Make one edit."""
    place = rng.randrange(len(word))
    head, tail = word[:place], word[place:]
    letter = rng.choice(string.ascii_lowercase)
    return rng.choice(
        (
            head + tail[1:],
            head + letter + tail,
            head + letter + tail[1:],
            head + tail[1:2] + tail[:1] + tail[2:],
        )
    )


def typed_words(conn: psycopg.Connection, number: int) -> list[tuple[str, str, int]]:
    """Choose words: as typed, the lexeme that was meant, the edits."""
    rng = random.Random(1)
    texts = conn.execute(
        f"select {TEXT} from {TABLE} order by id limit 3000"
    ).fetchall()
    words = [w for (text,) in texts for w in re.findall(r"\b[a-z]{4,}\b", text)]
    known = f"select exists (select from pgembed._bm25_{number}_term where term = %s)"
    found: list[tuple[str, str, int]] = []
    while len(found) < WORDS:
        meant = rng.choice(words)
        edits = 2 if len(meant) > 5 and rng.random() < 0.2 else 1
        typed = meant
        for _ in range(edits):
            typed = misspelt(typed, rng)
        lexemes = [
            row[0]
            for word in (meant, typed)
            if (row := conn.execute(LEXEME, (CONFIG, word)).fetchone())
        ]
        known_row = conn.execute(known, (lexemes[1],)).fetchone()
        if lexemes[0] and lexemes[1] and known_row == (False,):
            found.append((typed, lexemes[0], edits))
    return found


def elapsed(conn: psycopg.Connection, word: str, *, fuzzy: bool) -> float:
    """Give the milliseconds of a search, the least of three."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        conn.execute(SEARCH, (word, fuzzy)).fetchall()
        taken.append((time.perf_counter() - began) * 1e3)
    return min(taken)


def measure(conn: psycopg.Connection) -> list[tuple[object, ...]]:
    """Count what is read right; time it against a search for what was meant."""
    row = conn.execute("select bm25_id from pgembed.bm25").fetchone()
    assert row is not None
    read = (
        "select read_as from"
        f" pgembed.bm25_search(NULL::{TABLE}, %s, k => 1, fuzzy => true)"
    )
    lines: list[tuple[object, ...]] = []
    chosen = typed_words(conn, row[0])
    for edits in (1, 2):
        right = wrong = 0
        more: list[float] = []
        known: list[float] = []
        for typed, meant, count in chosen:
            if count != edits:
                continue
            hit = conn.execute(read, (typed,)).fetchone()
            lexeme = None if hit is None else hit[0][typed]
            right += lexeme == meant
            wrong += lexeme not in (None, meant)
            if lexeme is not None:
                plain = elapsed(conn, lexeme, fuzzy=False)
                known.append(elapsed(conn, lexeme, fuzzy=True) - plain)
                more.append(elapsed(conn, typed, fuzzy=True) - plain)
        number = sum(count == edits for _, _, count in chosen)
        lines.append(
            (
                edits,
                number,
                f"{right / number:.1%}",
                f"{wrong / number:.1%}",
                statistics.median(known),
                statistics.median(more),
                statistics.quantiles(more, n=20)[-1],
            )
        )
    return lines


def main() -> None:
    """Build an index, and print a line for one edit and one for two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    with server() as running:
        dsn = new_database(running, "typing_errors")
        with psycopg.connect(dsn, autocommit=True) as conn:
            load(conn, documents(options.data, options.rows))
            conn.execute(
                "select pgembed.create_bm25(%s, %s, options => %s)",
                (TABLE, TEXT, f'{{"config": "{CONFIG}"}}'),
            )
            build_bm25(conn)
            lines = measure(conn)
        show(
            f"Misspelt words over {options.rows} rows, {server_version(dsn)}",
            (
                "edits",
                "words",
                "read right",
                "read wrong",
                "ms more, known word",
                "ms more, misspelt",
                "p95",
            ),
            lines,
        )


if __name__ == "__main__":
    main()
