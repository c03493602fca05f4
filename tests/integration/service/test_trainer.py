"""A service trains query encoders, out of the way of everything else."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import pgembed
from pgembed.query_encoder.messages import Order
from pgembed.query_encoder.process import LOCK
from pgembed.query_encoder.store import train_query_encoder
from pgembed.service import ServiceSettings, trainer
from pgembed.testing import process_all
from tests.fixtures.postgres import prepared_by
from tests.integration.service.support import FaultyEncoder, running, until, value

Conn = psycopg.Connection[Any]

DIMENSIONS = 64
DUE = "select name, why from pgembed._query_encoders_due_v1()"
STATUS = (
    "select query_encoder_state, query_encoder_trained_at, query_encoder_agreement,"
    " query_encoder_overlap from pgembed.status"
)
LOCKED = (
    "select count(*) from pg_locks where locktype = 'advisory'"
    " and (classid, objid) = (%s, %s)"
)
LETTERS = "bcdfghjklmnprst"


def words(seed: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices(LETTERS, k=5)) for _ in range(80)]


def write(conn: Conn, first: int, count: int, seed: int = 0) -> None:
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(words(seed), k=8)) for _ in range(count)]
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into doc values (%s, %s)", list(enumerate(texts, first))
        )


def prepare(conn: Conn) -> None:
    """Make a table with as many vectors as a service wants to see."""
    pgembed.register_model(conn, "test", DIMENSIONS, provider="hashing")
    conn.execute("create table doc (id int primary key, body text)")
    write(conn, 1, 1000)
    pgembed.create_embedding(conn, "doc", "body", model="test", bm25=False)
    encode(conn)


def encode(conn: Conn) -> None:
    process_all(make_conninfo(conn.info.dsn, password=conn.info.password))


@pytest.fixture
@prepared_by(prepare)
def docs(conn: Conn) -> Conn:
    """Texts with vectors; no service is running."""
    return conn


@pytest.fixture
def encoder() -> FaultyEncoder:
    return FaultyEncoder(dimensions=DIMENSIONS)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(trainer, "REST", 0)


def due(conn: Conn) -> list[Any]:
    return conn.execute(DUE.encode()).fetchall()


def status(conn: Conn) -> Any:
    return conn.execute(STATUS.encode()).fetchone()


def state(conn: Conn) -> str:
    found: str = status(conn)[0]
    return found


async def test_a_service_trains_one_and_again_as_the_table_drifts(
    docs: Conn, dsn: str, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    assert state(docs) == "none"
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: state(docs) == "ready", seconds=120, pause=0.1)
        _, trained_at, agreement, overlap = status(docs)
        assert agreement > 0.8
        assert overlap > 0.3
        (seen,) = pgembed.status(docs)
        assert (seen.query_encoder, seen.query_encoder_state) == ("auto", "ready")
        assert seen.query_encoder_trained_at == trained_at
        assert value(docs, "select trained_on from pgembed.token_encoder") == 1000

        write(docs, 2001, 300, seed=1)  # other words
        await asyncio.to_thread(pgembed.await_embedded, docs, "doc", timeout=30)
        docs.execute("update pgembed.token_encoder set looked_at = '-infinity'")
        await until(lambda: status(docs)[1] > trained_at, seconds=120, pause=0.1)
        assert state(docs) == "ready"
        assert status(docs)[2] > 0.8
        assert value(docs, "select trained_on from pgembed.token_encoder") == 1300
    query = words(1)[0]
    (hit,) = pgembed.vector_search(docs, "doc", query, k=1, query_encoder="static")
    assert hit.encoded_by == "static"
    assert value(docs, LOCKED, *LOCK) == 0


def test_what_is_due(docs: Conn) -> None:
    assert due(docs) == [("public.doc_embedding", "none")]
    docs.execute("insert into doc values (0, 'a row that waits')")
    assert due(docs) == []
    encode(docs)
    assert len(due(docs)) == 1
    for off, on in (
        (
            "alter table doc enable row level security",
            "alter table doc disable row level security",
        ),
        (
            "select pgembed.alter_embedding('doc_embedding', query_encoder => 'model')",
            "select pgembed.alter_embedding('doc_embedding', query_encoder => 'auto')",
        ),
        (
            "select pgembed.pause_embedding('doc_embedding')",
            "select pgembed.resume_embedding('doc_embedding')",
        ),
    ):
        docs.execute(off.encode())
        assert due(docs) == [], off
        docs.execute(on.encode())
        assert len(due(docs)) == 1, on
    assert (
        docs.execute(
            "select * from pgembed._query_encoders_due_v1(array(select embedding_id"
            " from pgembed.embedding))"
        ).fetchall()
        == []
    )
    docs.execute("delete from doc where id < 10")
    encode(docs)
    assert due(docs) == []  # too few


def test_a_stale_one_is_told(docs: Conn, dsn: str) -> None:
    train_query_encoder(docs, "doc_embedding", encoder=FaultyEncoder(dimensions=64))
    assert state(docs) == "ready"
    # The same words again: it knows them, though it has not seen the texts.
    write(docs, 2001, 200, seed=0)
    encode(docs)
    assert due(docs) == []
    looked = docs.execute(
        "select new_share, new_agreement - agreement from pgembed.token_encoder"
    ).fetchone()
    assert looked is not None
    assert looked[0] == pytest.approx(200 / 1200)
    assert abs(looked[1]) < 0.1
    assert state(docs) == "ready"
    write(docs, 3001, 300, seed=1)
    encode(docs)
    assert due(docs) == []  # it has just been looked at
    docs.execute("update pgembed.token_encoder set looked_at = '-infinity'")
    assert due(docs) == [("public.doc_embedding", "stale")]
    assert state(docs) == "stale"
    found = docs.execute(
        "select severity, problem, advice from pgembed.doctor()"
        " where code = 'query_encoder_stale'"
    ).fetchone()
    assert found is not None
    assert "33 % of the chunks" in found[1]
    assert "pgembed train-query-encoder 'public.doc_embedding'" in found[2]


async def test_settings_of_the_role_and_the_place_of_pgvector_do_not_matter(
    docs: Conn, dsn: str, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    docs.execute("create schema elsewhere; alter extension vector set schema elsewhere")
    docs.execute(
        "drop index doc_embedding_hnsw;"
        "alter table doc_embedding alter column embedding"
        f" type elsewhere.halfvec({DIMENSIONS});"
        "update pgembed.embedding set vector_type = 'halfvec'"
    )
    name = docs.info.dbname
    for setting in (
        "statement_timeout = '1ms'",
        "default_transaction_read_only = on",
        "client_encoding = 'latin1'",
    ):
        docs.execute(f'alter database "{name}" set {setting}'.encode())
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: state(docs) == "ready", seconds=120, pause=0.1)
    assert status(docs)[2] > 0.8


async def test_one_that_is_told_not_to_trains_none(
    docs: Conn, dsn: str, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    settings = replace(settings, train_query_encoders=False)
    async with running(dsn, settings, {"test": encoder}):
        await asyncio.sleep(2)
        assert encoder.encoded == []
    assert state(docs) == "none"


async def test_a_stop_breaks_it_off_at_once(
    docs: Conn, dsn: str, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    encoder.seconds = 0.05
    async with running(dsn, settings, {"test": encoder}) as service:
        await until(lambda: encoder.calls, seconds=30)
        assert value(docs, LOCKED, *LOCK) == 1
        process = service._trainer._process
        assert process is not None
        began = time.monotonic()
        service.stop()
        await until(lambda: process.poll() is not None, seconds=2)
    assert time.monotonic() - began < 5
    await until(lambda: value(docs, LOCKED, *LOCK) == 0, seconds=5)
    assert state(docs) == "none"
    for part in ("token_encoder", "tokenizer", "token", "token_vector"):
        assert value(docs, f"select count(*) from pgembed.{part}") == 0


async def test_queries_and_rows_go_before_its_words(
    docs: Conn, dsn: str, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    encoder.seconds = 0.05
    async with running(dsn, settings, {"test": encoder}):
        await until(lambda: encoder.calls, seconds=30)
        for n in range(3):
            docs.execute("insert into doc values (%s, 'a row')", [5000 + n])
            await asyncio.to_thread(pgembed.await_embedded, docs, "doc", timeout=10)
            query = f"a query {n}"
            await asyncio.to_thread(pgembed.encode, docs, query, "test", timeout=10)
        assert state(docs) == "none"  # it was under way all the time


def order(docs: Conn, dsn: str) -> Order:
    embedding_id = value(docs, "select embedding_id from pgembed.embedding")
    return Order(dsn, embedding_id, "doc_embedding", [], None, 0, "")


def started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pgembed.query_encoder.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_one_service_trains_at_a_time(docs: Conn, dsn: str) -> None:
    docs.execute("select pg_advisory_lock(%s, %s)", LOCK)
    with started() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        order(docs, dsn).send(process.stdin)
        assert process.stdout.readline() == b'{"done": null}\n'
    assert state(docs) == "none"


def test_it_dies_with_its_service(docs: Conn, dsn: str) -> None:
    told = order(docs, dsn)
    with started() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        replace(told, model="test", dimensions=DIMENSIONS, fingerprint=_own()).send(
            process.stdin
        )
        assert process.stdout.readline().startswith(b'{"words": [')
        assert value(docs, LOCKED, *LOCK) == 1
        process.stdin.close()  # as when the service is killed
        assert process.wait(5) == 1
    assert state(docs) == "none"


def _own() -> str:
    return FaultyEncoder(dimensions=DIMENSIONS).fingerprint
