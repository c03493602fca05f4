"""pgembed.load: what decides how many services there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

import pgembed
from pgembed.testing import process_all

ROOT = Path(__file__).parents[2]


@pytest.fixture
def keda() -> str:
    """The query of KEDA's scaler."""
    file = ROOT / "docker/kubernetes/keda/scaledobject.yaml"
    scaler: Any = next(yaml.safe_load_all(file.read_text()))
    return str(scaler["spec"]["triggers"][0]["metadata"]["query"])


def test_load_and_the_services_that_it_asks_for(
    conn: psycopg.Connection, keda: str
) -> None:
    def asked() -> float:
        row = conn.execute(keda.encode()).fetchone()
        assert row is not None
        return float(row[0])

    def load() -> tuple[Any, ...]:
        row = conn.execute("select * from pgembed.load").fetchone()
        assert row is not None
        return row

    assert load() == (0, None, 0, 0, 0)
    assert asked() == 0
    conn.execute("select pgembed.register_model('small', 64, 'hashing')")
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc select i, 'text' from generate_series(1, 2500) as i")
    conn.execute("analyze doc")
    pgembed.create_embedding(conn, "doc", "body", model="small")
    # The first fill is not in the queue yet, and counts.
    assert load()[0] == 2500
    assert asked() == 2500
    conn.execute("update pgembed.embedding set backfill_state = 'done'")
    conn.execute("insert into doc values (0, 'new')")
    rows, oldest, _, builds, _ = load()
    assert (rows, asked()) == (1, 1)
    assert 0 <= oldest < 10
    assert builds == 0  # of no vectors
    # It has waited for too long: a service more than there are.
    conn.execute("update pgembed.queue set not_before = now() - interval '2 minutes'")
    assert asked() == 1000
    pgembed.pause_embedding(conn, "doc_embedding")
    assert load()[:2] == (0, None)
    conn.execute(
        "insert into pgembed.query_embedding"
        " (model_id, query_hash, query, wanted_until)"
        " select model_id, pgembed._hash('q'), 'q', now() + interval '10 s'"
        " from pgembed.model where name = 'small'"
    )
    assert load()[2] == 1
    assert asked() == 1000


def test_an_index_that_is_to_be_built_counts(
    conn: psycopg.Connection, dsn: str, keda: str
) -> None:
    conn.execute("select pgembed.register_model('small', 64, 'hashing')")
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc values (1, 'text')")
    pgembed.create_embedding(conn, "doc", "body", model="small")
    process_all(dsn)
    load = "select rows, builds from pgembed.load"
    assert conn.execute(load).fetchone() == (0, 0)
    conn.execute("drop index doc_embedding_hnsw")
    assert conn.execute(load).fetchone() == (0, 1)
    assert conn.execute(keda.encode()).fetchone() == (1000,)
