"""`pgembed status --watch` on a terminal of 80 x 24 characters."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb
from rich.console import Console

from pgembed.cli.status import _lines, _screen

if TYPE_CHECKING:
    import psycopg

LONG = "an error that goes on and on, with a name " + "x" * 200 + "\nHINT: do that"


@pytest.fixture
def busy(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Three embeddings of much used names, each in a trouble of its own."""
    for number, name in enumerate(
        ("article", "customer_conversation_transcript_archive", "b" * 50), start=1
    ):
        conn.execute(
            f"create table {name} (id int primary key, body text);"
            f"insert into {name} select i, 'x' from generate_series(1, 1200) as i;"
            f"select pgembed.register_model('{name[:30]}-v2', 3, 'hashing')".encode()
        )
        conn.execute(
            "select pgembed.create_embedding(%s, 'body', model => %s)",
            [name, f"{name[:30]}-v2"],
        )
        conn.execute(
            "insert into pgembed.queue (embedding_id, key, op, not_before)"
            " select %s, i, 'U', now() - interval '3 hours'"
            " from generate_series(1, 1000) as i",
            [number],
        )
        conn.execute(
            "insert into pgembed.dead_letter values (%s, %s, '7', 'U', 5, 'no')",
            [number, number],
        )
    conn.execute("update pgembed.embedding set index_error = %s", [LONG])
    models = {
        "article-v2": {"state": "loading", "seconds": 42},
        f"{'b' * 30}-v2": {"state": "unavailable", "seconds": 400, "reason": LONG},
    }
    work = {str(n): {"rate": 25.0, "encoding": 512} for n in (1, 2, 3)}
    conn.execute(
        "select pgembed._heartbeat_v1(gen_random_uuid(), 'h', 1, '0', %s, %s, %s)",
        [Jsonb(models), Jsonb(work), [LONG]],
    )
    return conn


def test_three_embeddings_fit(busy: psycopg.Connection[Any]) -> None:
    console = Console(
        file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None
    )
    with console.capture() as capture:
        console.print(_screen(busy))
    lines = capture.get().splitlines()
    assert len(lines) <= 24 - 1  # the cursor has the last one
    assert all(len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    for words in (
        "article_embedding: active, model loading for 42 s (article-v2) on article",
        "0 of 1,200 rows with a vector (0.0 %), 1 failed",
        "688 waiting, 512 being encoded, 25.0 rows/s, 48 s to go, oldest 3:00:0",
        "index pending, BM25 ready",
        f"{'b' * 50}_embedding: active, model una",
        "1 encoder service running",
    ):
        assert words in text


def test_nothing_is_cut_without_watch(busy: psycopg.Connection[Any]) -> None:
    assert any(LONG.replace("\n", " ") in line.plain for line in _lines(busy))


def test_twelve_embeddings_fit_when_all_is_well(
    conn: psycopg.Connection[Any],
) -> None:
    conn.execute("select pgembed.register_model('tiny', 3, 'hashing')")
    for number in range(12):
        conn.execute(f"create table t{number} (id int primary key, a text)".encode())
        conn.execute(
            "select pgembed.create_embedding(%s, 'a', model => 'tiny',"
            " index => 'none')",
            [f"t{number}"],
        )
    conn.execute("update pgembed.embedding set backfill_state = 'done'")
    conn.execute("select pgembed.bm25_maintain()")
    conn.execute(
        "update pgembed.embedding set state = 'paused' where name = 't7_embedding'"
    )
    lines = [line.plain for line in _lines(conn)]
    assert len(lines) <= 24 - 1
    # What needs a look comes first, and in full.
    assert lines[0].startswith("t7_embedding: paused, model")
    assert "t11_embedding: active, 0 rows with a vector, BM25 ready, t11" in lines
