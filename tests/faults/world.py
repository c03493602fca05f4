"""A database under load: tables, writers, services, and what must hold in the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from pgembed import schema
from pgembed.chunking import Chunker
from pgembed.encoders.hashing import HashingEncoder
from tests.fixtures.bm25_reference import (
    assert_same_scores,
    fetch_lexemes,
    fetch_query_lexemes,
)
from tests.fixtures.serving import ServeProcess

Connection = psycopg.Connection[Any]

LEASE_SECONDS = 3
"""Of the services: what a dead one's rows wait at most."""

WORDS = [f"w{number}" for number in range(200)]

TABLES = """
create table note (id int primary key, body text, n int default 0);
create table item (shop text, nr int, title text not null, detail text,
                   primary key (shop, nr));
create table entry (id int primary key, body text) partition by range (id);
create table entry_a partition of entry for values from (0) to (200);
create table entry_b partition of entry for values from (200) to (1000000);
select pgembed.register_model('small', 32, 'hashing');
select pgembed.register_model('large', 48, 'hashing');
select pgembed.create_embedding('note', 'body', model => 'small', chunk_size => 12,
                                bm25 => true);
select pgembed.create_embedding('item', $$ title || ' ' || coalesce(detail, '') $$,
                                model => 'small', storage => 'column', bm25 => false);
select pgembed.create_embedding('entry', 'body', model => 'small', bm25 => true);
"""

# What applications do; %(key)s to %(last)s is a range of ten keys, %(text)s a text.
STATEMENTS = [
    "insert into note values (%(key)s, %(text)s)"
    " on conflict (id) do update set body = excluded.body",
    "insert into note select i, %(text)s || i"
    " from generate_series(%(key)s::int, %(last)s) as i on conflict do nothing",
    "update note set body = body || ' ' || %(text)s where id = %(key)s",
    "update note set body = %(text)s where id between %(key)s and %(last)s",
    "update note set n = n + 1 where id between %(key)s and %(last)s",
    "update note set body = null where id = %(key)s",
    "update note set body = repeat(%(text)s || '. ', 60) where id = %(key)s",
    "update note set id = id + 1000 where id = %(key)s"
    " and not exists (select from note where id = %(key)s + 1000)",
    "delete from note where id between %(key)s and %(last)s",
    "with gone as (delete from note where id = %(key)s returning id)"
    " insert into entry select id, %(text)s from gone on conflict do nothing",
    "insert into item values ('a,\"b', %(key)s, %(text)s, null),"
    " ('c', %(key)s, %(text)s, 'x')"
    " on conflict (shop, nr) do update set title = excluded.title",
    "update item set detail = %(text)s where nr = %(key)s",
    "update item set shop = 'd ' || shop where nr = %(key)s and shop = 'c'"
    " and not exists (select from item where nr = %(key)s and shop = 'd c')",
    "delete from item where nr between %(key)s and %(last)s",
    "insert into entry select i, %(text)s || i"
    " from generate_series(%(key)s::int, %(last)s) as i on conflict do nothing",
    "update entry set body = %(text)s where id = %(key)s",
    "update entry set id = id + 500 where id = %(key)s"
    " and not exists (select from entry where id = %(key)s + 500)",
    "delete from entry where id between %(key)s and %(last)s",
]
RARE = ["truncate entry_a", "truncate entry", "truncate note"]

# Of these nobody is to blame but the moment, or the other writers.
EXPECTED = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.TransactionRollback,
    psycopg.errors.OperatorIntervention,
    psycopg.errors.InsufficientResources,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.SystemError,
)


class World:
    """Tables, writers and services on one database.

    Attributes:
        dsn: The database; may name several hosts.
        refused: Writes that failed, and should not have.
    """

    def __init__(self, dsn: str, folder: Path, seed: int) -> None:
        self.dsn = dsn
        self.refused: list[str] = []
        self._folder = folder
        self._seed = seed
        self.services: list[ServeProcess] = []

    def build(self) -> World:
        """Install pgembed, make the tables and declare the embeddings."""
        schema.install(self.dsn)
        with self.connect() as conn:
            conn.execute(TABLES.encode())
        return self

    def connect(self) -> Connection:
        """Open a connection."""
        return psycopg.connect(self.dsn, autocommit=True)

    # Writers

    @contextmanager
    def writers(self, count: int = 2) -> Iterator[None]:
        """Have applications write while the block runs."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._write, args=(self._seed + i, stop))
            for i in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _write(self, seed: int, stop: threading.Event) -> None:
        rng = random.Random(seed)
        while not stop.is_set():
            try:
                with self.connect() as conn:
                    while not stop.is_set():
                        self._transaction(conn, rng)
                        time.sleep(rng.random() * 0.02)
            except psycopg.OperationalError:
                time.sleep(0.1)

    def _transaction(self, conn: Connection, rng: random.Random) -> None:
        try:
            with conn.transaction(force_rollback=rng.random() < 0.1):
                for _ in range(rng.choice([1, 1, 1, 3])):
                    with conn.transaction(force_rollback=rng.random() < 0.1):
                        self._statement(conn, rng)
        except EXPECTED:
            pass
        except psycopg.OperationalError:
            raise
        except psycopg.Error as exc:
            # Its own statement, over a name that is away for a moment.
            renamed = isinstance(
                exc, (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable)
            )
            if renamed and exc.diag.context is None:
                return
            self.refused.append(f"{exc.sqlstate} {exc}")

    def _statement(self, conn: Connection, rng: random.Random) -> None:
        if rng.random() < 0.01:
            conn.execute(rng.choice(RARE).encode())
            return
        key = rng.randrange(400)
        words = rng.choices(WORDS, k=rng.choice([1, 5, 30]))
        values = {"key": key, "last": key + 9, "text": " ".join(words)}
        conn.execute(rng.choice(STATEMENTS).encode(), values)

    # Services

    def serve(self) -> ServeProcess:
        """Start another service."""
        log = self._folder / f"service{len(self.services)}.log"
        service = ServeProcess(
            self.dsn,
            log,
            *("--lease", str(LEASE_SECONDS), "--poll", "1", "--batch-size", "64"),
        )
        self.services.append(service)
        return service

    def alive(self) -> list[ServeProcess]:
        """Services that run."""
        return [s for s in self.services if s.process.poll() is None]

    def stop_services(self) -> None:
        """Stop the services as a supervisor does."""
        for service in self.alive():
            service.event("service.started")
            assert service.stop(seconds=30) == 0, service.log.read_text()[-3000:]

    def kill_services(self) -> None:
        """Leave no process behind."""
        for service in self.alive():
            service.process.kill()
            service.process.wait()

    # What must hold

    def end(self) -> None:
        """Let the services finish, compare, and stop them as a supervisor does."""
        self.settle()
        self.check()
        self.stop_services()

    def settle(self, seconds: float = 90.0) -> None:
        """Wait until nothing is left to do, and the doctor has nothing to say."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self.connect() as conn:
                    left = [row for row in _all(conn, LEFT) if any(row)]
                    left += _all(conn, "select * from pgembed.doctor()")
            except psycopg.OperationalError as exc:
                left = [(str(exc),)]
            if not left:
                return
            assert time.monotonic() < deadline, (left, self.logs())
            time.sleep(0.1)

    def logs(self) -> str:
        """The ends of the services' logs."""
        return "\n".join(s.log.read_text()[-1500:] for s in self.services)

    def check(self) -> None:
        """Compare all vectors, chunks, keys and words with what the tables say."""
        assert self.refused == []
        with self.connect() as conn:
            for name, rows in SOURCES.items():
                for (embedding,) in _all(
                    conn,
                    "select name from pgembed.embedding"
                    f" where source = '{name}'::regclass",
                ):
                    assert _differences(conn, name, embedding, rows) == []
            for name, table in (("note", "note"), ("entry", "entry")):
                documents = fetch_lexemes(conn, table, "body", "english")
                for query in ("w1 w2", "w7", "w11 w12 w13 w150"):
                    hits = conn.execute(
                        f"select (doc).id, score from pgembed.bm25_search("
                        f"null::{name}, %s, 1000)".encode(),
                        [query],
                    ).fetchall()
                    lexemes = fetch_query_lexemes(conn, query, "english")
                    assert_same_scores(hits, documents, lexemes, k=1000)


LEFT = """
select (select count(*) from pgembed.queue), (select count(*) from pgembed.dead_letter),
       (select count(*) from pgembed.embedding where backfill_state <> 'done'),
       (select count(*) from pgembed.embedding where generation = 'next'),
       (select count(*) from pgembed.bm25 where state <> 'ready')
"""

SOURCES = {
    "note": "select id::text, body from note",
    "item": "select nr || shop, title || ' ' || coalesce(detail, '') from item",
    "entry": "select id::text, body from entry",
}
STORED = {
    "note": "select id::text, chunk, content, embedding::text from note_embedding",
    "item": "select nr || shop, 0, '', embedding::text from item"
    " where embedding is not null",
    "entry": "select id::text, chunk, content, embedding::text from entry_embedding",
}

Chunks = dict[tuple[str, int], tuple[str, Any]]
"""Text and vector by key and number of a chunk."""


def _differences(conn: Connection, name: str, embedding: str, rows: str) -> list[str]:
    """Say where what is stored is not what a direct encoding gives."""
    stored, expected = _stored(conn, name, embedding), _expected(conn, embedding, rows)
    found = [f"{name} {at}: missing" for at in expected.keys() - stored.keys()]
    found += [f"{name} {at}: orphaned" for at in stored.keys() - expected.keys()]
    for at in stored.keys() & expected.keys():
        (text, vector), (right_text, right_vector) = stored[at], expected[at]
        if text != right_text:
            found.append(f"{name} {at}: {text!r}, not {right_text!r}")
        elif len(vector) != len(right_vector) or not np.allclose(
            vector, right_vector, atol=1e-3
        ):
            found.append(f"{name} {at}: another vector")
    return found


def _stored(conn: Connection, name: str, embedding: str) -> Chunks:
    # Of the previous generation too.
    statement = STORED[name].replace(f"{name}_embedding", embedding)
    return {
        (key, number): (content, np.array(vector[1:-1].split(","), float))
        for key, number, content, vector in _all(conn, statement)
    }


def _expected(conn: Connection, embedding: str, rows: str) -> Chunks:
    """Encode every text directly."""
    [(model, dimensions, chunking, size, overlap, storage)] = _all(
        conn,
        "select m.name, e.dimensions, e.chunking, e.chunk_size, e.chunk_overlap,"
        " e.storage from pgembed.embedding as e"
        " join pgembed.model as m using (model_id)"
        f" where e.name = '{embedding}'",
    )
    encoder = HashingEncoder(model, dimensions)
    chunker = Chunker.for_encoder(
        encoder, "none" if chunking == "none" else "sentences", size, overlap
    )
    chunks = [
        (key, number, content)
        for key, text in _all(conn, rows)
        if text
        for number, content in enumerate(chunker.chunk(text))
    ]
    vectors = encoder.encode_documents([content for *_, content in chunks])
    return {
        (key, number): (content if storage == "table" else "", vector)
        for (key, number, content), vector in zip(chunks, vectors, strict=True)
    }


def _all(conn: Connection, statement: str) -> list[Any]:
    return conn.execute(statement.encode()).fetchall()
