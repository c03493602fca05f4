"""The doctor finds each thing that can be wrong, and nothing where all is well."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import connect

from pgembed.doctor import examine
from tests.fixtures.cli import invoke
from tests.fixtures.postgres import prepared_by

if TYPE_CHECKING:
    import psycopg

Connection = "psycopg.Connection[Any]"


def make_article(conn: psycopg.Connection[Any]) -> None:
    """Make an embedding, its index, and two rows with vectors."""
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


@pytest.fixture
@prepared_by(make_article)
def healthy(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A database with one embedding, its index, two rows with vectors and a service."""
    conn.execute(
        "select pgembed._heartbeat_v1(%s, 'host', 1, '0', %s, '{}')",
        (uuid.uuid4(), '{"tiny": {"state": "ready", "seconds": 5}}'),
    )
    return conn


def problems(conn: psycopg.Connection[Any]) -> str:
    return "\n".join(f"{f.code} {f.severity}: {f.problem}" for f in examine(conn))


def test_nothing_is_found_where_all_is_well(healthy: psycopg.Connection[Any]) -> None:
    assert examine(healthy) == []


MODEL = """update pgembed.worker set models = jsonb_build_object('tiny', {})"""
BUILDS = """
update pgembed.worker set builds = jsonb_build_object(1, '{}'::jsonb);
insert into pgembed.index_build (relation, embedding_id, revision, worker_id, memory)
select side_table, embedding_id, revision, worker_id, 0
from pgembed.embedding, pgembed.worker
"""


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            "delete from pgembed.worker",
            "no_service error: no encoder service is running",
        ),
        (
            "update pgembed.worker set heartbeat_at = now() - interval '1 hour'",
            "no_service error: no encoder service is running",
        ),
        (
            # What only follows from that is not said besides.
            "delete from pgembed.worker; drop index article_embedding_hnsw;"
            "insert into pgembed.queue (embedding_id, key, op, not_before) "
            "values (1, '1', 'U', now() - interval '1 hour')",
            "no_service error: no encoder service is running: changes wait (1 rows)",
        ),
        (
            MODEL.format(
                """jsonb_build_object('state', 'unavailable', 'seconds', 9,"""
                """ 'reason', E'no file\\nHINT: Get it.')"""
            )
            + "; drop index article_embedding_hnsw;"
            "insert into pgembed.queue (embedding_id, key, op, not_before) "
            "values (1, '1', 'U', now() - interval '1 hour'), (1, '2', 'U', now())",
            "model_unavailable error: no service can use model tiny: no file; 2 rows",
        ),
        (
            MODEL.format("""jsonb_build_object('state', 'loading', 'seconds', 900)"""),
            "model_loading warning: model tiny has been loading for 00:15:0",
        ),
        (
            "update pgembed.worker set models = '{}',"
            " started_at = now() - interval '1 minute'",
            "model_not_served error: no running service serves model tiny",
        ),
        (
            "insert into pgembed.worker (worker_id, hostname, pid, version, models)"
            " values (gen_random_uuid(), 'b', 2, '0', '{\"tiny\": {\"state\":"
            ' "unavailable", "seconds": 3, "reason": "other weights"}}\')',
            "model_partly_unavailable warning: 1 of the services cannot use model tiny:"
            " other weights",
        ),
        (
            "update pgembed.worker set problems = '{it cannot see}'",
            "service warning: service host (process 1): it cannot see",
        ),
        (
            "insert into pgembed.query_embedding (model_id, query_hash, query,"
            " requested_at, wanted_until) select model_id, sha256(i::text::bytea), 'q',"
            " now() - interval '1 minute', 'infinity' from pgembed.model,"
            " generate_series(1, 3) as i where name = 'tiny'",
            "queries error: 3 queries wait for their vector, the oldest for 00:01:0",
        ),
        (
            "drop trigger pgembed_text_1_update_see_pgembed_pause on article",
            "trigger_missing error: its trigger for update is missing",
        ),
        (
            "alter table article disable trigger pgembed_text_1_insert",
            "trigger_disabled error: its trigger for insert is disabled",
        ),
        (
            "alter table article disable trigger user",
            "trigger_disabled error: its trigger for delete, insert, ",
        ),
        (
            "alter table article disable trigger user;"
            "insert into article values (3, 'three');"
            "alter table article enable trigger user",
            "trigger_was_disabled error: its trigger for delete, insert, ",
        ),
        (
            "alter table article disable trigger user;"
            "insert into article values (3, 'three');"
            "do $$ declare name text; begin for name in select tgname from pg_trigger"
            " where tgrelid = 'article'::regclass and not tgisinternal loop execute"
            " format('alter table article enable always trigger %I', name); end loop;"
            " end $$",
            "unseen error: 1 rows have a text and were never seen",
        ),
        ("drop index article_embedding_hnsw", "index_missing warning: its index is"),
        (
            "update pg_index set indisvalid = false "
            "where indexrelid = 'article_embedding_hnsw'::regclass",
            "index_invalid warning: its index is invalid",
        ),
        (
            "drop index article_embedding_hnsw; create index article_embedding_hnsw "
            "on article_embedding using hnsw (embedding vector_l2_ops)",
            "index_operators error: its index has operator class vector_l2_ops",
        ),
        (
            "update pgembed.embedding set index_error = 'disk full'",
            "index_failed error: its index could not be built: disk full",
        ),
        (
            BUILDS.replace("{}", '{"phase": "x"}')
            + "; update pgembed.index_build set notice = 'Much. Set more.'",
            "index_memory warning: Much.",
        ),
        (
            BUILDS.replace("{}", '{"phase": "x", "waits_for": 123}'),
            "index_waits warning: the build of its index waits for a transaction of "
            "process 123",
        ),
        (
            "update article_embedding set model_id = 1 where id = 2",
            "other_model error: holds vectors of another model",
        ),
        (
            "alter table article enable row level security",
            "row_security error: public.article has row-level security",
        ),
        (
            "grant select on article to public, pg_monitor",
            "privileges warning: roles pg_monitor, public may read public.article but",
        ),
        (
            "insert into pgembed.dead_letter values (1, 1, '1', 'U', 5, 'bad text')",
            "failed warning: 1 rows could not be encoded",
        ),
        (
            "insert into pgembed.queue (embedding_id, key, op, not_before, attempts) "
            "values (1, '1', 'U', now() + interval '1 minute', 3)",
            "retrying warning: 1 rows have failed before",
        ),
        (
            "insert into pgembed.queue (embedding_id, key, op, not_before) "
            "values (1, '1', 'U', now() - interval '1 hour')",
            "late warning: a change has waited for 01:00:0",
        ),
        (
            "insert into pgembed.queue (embedding_id, key, op, not_before) "
            "values (1, '1', 'U', now() + interval '2 hours')",
            "clock error: rows may not be worked off before",
        ),
        (
            "select pgembed.pause_embedding('article_embedding')",
            "paused warning: is paused",
        ),
        (
            "alter table article rename title to name; select pgembed._reconcile_v1()",
            "broken error: is broken",
        ),
        ("drop table article", "table_dropped error: its table has been dropped"),
        (
            "drop table article_embedding",
            "parts_dropped error: somebody has dropped ",
        ),
    ],
)
def test_each_cause_is_found_once(
    healthy: psycopg.Connection[Any], damage: str, found: str
) -> None:
    healthy.execute(damage.encode())
    if "other_model" not in found and "privileges" not in found:
        (line,) = problems(healthy).splitlines()
        assert line.startswith(found)
    else:
        assert found in problems(healthy)


def test_a_locked_table_is_found_and_does_not_hold_up_the_doctor(
    healthy: psycopg.Connection[Any], dsn: str
) -> None:
    healthy.execute("create table other (id int primary key, title text)")
    healthy.execute(
        "select pgembed.create_embedding('other', 'title', model => 'tiny')"
    )
    healthy.execute("alter table other disable trigger user")
    with connect(dsn) as owner:
        owner.execute("lock table article")
        found = problems(healthy)
        assert "locked warning: public.article is locked, and cannot" in found
        assert "trigger_disabled error" in found
        time.sleep(5.1)
        assert "locked warning: public.article is locked by process" in problems(
            healthy
        )


def test_findings_have_codes_for_programs(
    healthy: psycopg.Connection[Any], dsn: str
) -> None:
    healthy.execute("alter table article disable trigger user")
    done = invoke(["doctor", "--dsn", dsn, "--json"])
    assert done.exit_code == 1
    (found,) = json.loads(done.output)
    assert (found["code"], found["embedding"]) == (
        "trigger_disabled",
        "article_embedding",
    )
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    codes = healthy.execute(
        "select distinct c[1] from pg_proc as p, regexp_matches(p.prosrc,"
        " $$(?:'error'|'warning'|end), '(\\w+)'$$, 'g') as c"
        " where p.pronamespace = 'pgembed'::regnamespace and p.proname ~ 'doctor'"
    ).fetchall()
    assert len(codes) > 25
    assert [code for (code,) in codes if f"`{code}`" not in page] == []


def test_repair_mends_triggers_row_security_and_privileges(
    healthy: psycopg.Connection[Any],
) -> None:
    trigger = "pgembed_text_1_update_see_pgembed_pause"
    healthy.execute(f"drop trigger {trigger} on article".encode())
    healthy.execute("alter table article enable row level security")
    healthy.execute("grant select on article to public")

    healthy.execute("select pgembed.repair('article_embedding')")

    assert problems(healthy) == ""
