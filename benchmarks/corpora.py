"""Collections for the ranking benchmarks, and tables made of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg

from pgembed.evaluation import Document, read_documents

TABLE = "doc"
TEXT = "title || ' ' || body"
CONFIG = "english"


def corpus_file(folder: Path) -> Path:
    """Find the documents of a collection."""
    for name in ("corpus.jsonl.gz", "corpus.jsonl"):
        if (folder / name).is_file():
            return folder / name
    raise SystemExit(f"{folder} has no corpus.jsonl(.gz): give --data FOLDER")


def documents(folder: Path, count: int | None = None) -> Iterator[Document]:
    """Read documents; where more are wanted than there are, mix new ones.

    A mixed one is the first half of one document and the second half of another, so
    that lengths and the frequencies of words stay what they are.

    Args:
        folder: With `corpus.jsonl` or `corpus.jsonl.gz`.
        count: How many; None: as many as there are.
    """
    read = read_documents(corpus_file(folder))
    first = list(itertools.islice(read, count))
    yield from first
    rng = random.Random(1)
    for number in range(len(first), count or 0):
        one, other = rng.choice(first), rng.choice(first)
        left, right = one.text.split(), other.text.split()
        words = left[: len(left) // 2] + right[len(right) // 2 :]
        yield Document(f"mixed-{number}", one.title, " ".join(words))


def load(conn: psycopg.Connection, found: Iterator[Document]) -> int:
    """Make table `doc` of documents; returns how many rows it has.

    Column `bucket` is a number from 0 to 999, for filters.
    """
    conn.execute(
        f"create table {TABLE} (id text primary key, title text not null,"
        " body text not null, bucket int not null)"
    )
    count = append(conn, found)
    conn.execute(f"create index on {TABLE} (bucket)")
    conn.execute(f"vacuum analyze {TABLE}")
    return count


def append(conn: psycopg.Connection, found: Iterable[Document]) -> int:
    """Copy documents into table `doc`; returns how many."""
    rng = random.Random(2)
    count = 0
    statement = f"copy {TABLE} (id, title, body, bucket) from stdin"
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for document in found:
            title, text = (
                part.replace("\0", " ") for part in (document.title, document.text)
            )
            copy.write_row((document.id, title, text, rng.randrange(1000)))
            count += 1
    return count


def build_bm25(conn: psycopg.Connection) -> None:
    """Do what the service does with BM25 indexes, until nothing is left to do."""
    conn.execute("select pgembed.bm25_maintain()")
