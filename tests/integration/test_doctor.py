"""The doctor finds each thing that can be wrong, and nothing where all is well."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from pgembed.doctor import examine

if TYPE_CHECKING:
    import psycopg

Connection = "psycopg.Connection[Any]"


@pytest.fixture
def healthy(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A database with one embedding, its index, two rows with vectors and a service."""
    conn.execute("create table article (id int primary key, title text)")
    conn.execute("select pgembed.register_model('tiny', 3, 'hashing')")
    conn.execute("select pgembed.create_embedding('article', 'title', model => 'tiny')")
    conn.execute("insert into article values (1, 'one'), (2, 'two')")
    conn.execute("delete from pgembed.queue")
    conn.execute(
        "insert into article_embedding select a.id, 0, a.title, '[1,2,3]', "
        "pgembed._hash(a.title), e.model_id, now() "
        "from article as a cross join pgembed.embedding as e"
    )
    conn.execute(
        "select pgembed._heartbeat_v1(%s, 'host', 1, '0', '{tiny}', '{}')",
        (uuid.uuid4(),),
    )
    return conn


def problems(conn: psycopg.Connection[Any]) -> str:
    return "\n".join(f"{f.severity}: {f.problem}" for f in examine(conn))


def test_nothing_is_found_where_all_is_well(healthy: psycopg.Connection[Any]) -> None:
    assert examine(healthy) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("delete from pgembed.worker", "error: no encoder service is running"),
        (
            "update pgembed.worker set heartbeat_at = now() - interval '1 hour'",
            "error: no encoder service is running",
        ),
        (
            "drop trigger pgembed_text_1_update_see_pgembed_pause on article",
            "error: its trigger for update",
        ),
        (
            "alter table article disable trigger pgembed_text_1_insert",
            "error: its trigger for insert is disabled",
        ),
        ("drop index article_embedding_hnsw", "warning: its index is missing"),
        (
            "update pg_index set indisvalid = false "
            "where indexrelid = 'article_embedding_hnsw'::regclass",
            "warning: its index is invalid",
        ),
        (
            "drop index article_embedding_hnsw; create index article_embedding_hnsw "
            "on article_embedding using hnsw (embedding vector_l2_ops)",
            "error: its index has operator class vector_l2_ops",
        ),
        (
            "update article_embedding set model_id = 1 where id = 2",
            "error: holds vectors of another model",
        ),
        (
            "alter table article enable row level security",
            "error: public.article has row-level security",
        ),
        (
            "grant select on article to public",
            "warning: role public may read public.article but not all",
        ),
        (
            "insert into pgembed.dead_letter values (1, 1, '1', 'U', 5, 'bad text')",
            "warning: 1 rows could not be encoded",
        ),
        (
            "insert into pgembed.queue (embedding_id, key, op, not_before) "
            "values (1, '1', 'U', now() - interval '1 hour')",
            "warning: a change has waited for 01:00:0",
        ),
        ("select pgembed.pause('article_embedding')", "warning: is paused"),
        (
            "alter table article rename title to name; select pgembed._reconcile_v1()",
            "error: is broken",
        ),
        ("drop table article", "error: its table has been dropped"),
    ],
)
def test_damage_is_found(
    healthy: psycopg.Connection[Any], damage: str, found: str
) -> None:
    healthy.execute(damage)

    assert found in problems(healthy)


def test_repair_mends_triggers_row_security_and_privileges(
    healthy: psycopg.Connection[Any],
) -> None:
    trigger = "pgembed_text_1_update_see_pgembed_pause"
    healthy.execute(f"drop trigger {trigger} on article".encode())
    healthy.execute("alter table article enable row level security")
    healthy.execute("grant select on article to public")

    healthy.execute("select pgembed.repair('article_embedding')")

    assert problems(healthy) == ""
