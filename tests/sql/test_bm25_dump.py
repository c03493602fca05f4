"""A dump restores BM25 indexes as they were, ready to be searched and written."""

from __future__ import annotations

import psycopg
import pytest

from tests.fixtures.postgres import Server
from tests.sql.bm25_steps import Indexed, make_doc, make_texts
from tests.sql.steps import value


@pytest.mark.majors(18, 17, 16)
def test_dump_and_restore(conn: psycopg.Connection, server: Server, dsn: str) -> None:
    doc = make_doc(conn, make_texts(200, seed=1))
    conn.execute("alter table doc enable row level security")
    conn.execute("select pgembed._reconcile_v1()")
    conn.execute("update doc set body = body || ' w3 new' where id < 20")
    conn.execute("delete from doc where id between 15 and 30")
    before = doc.snapshot()

    with (
        server.restored(dsn) as copy,
        psycopg.connect(copy, autocommit=True) as restored,
    ):
        again = doc.on(restored)
        assert again.scores() == before
        restored.execute("insert into doc values (900, 'w0 w3 new')")
        restored.execute("update doc set body = 'w1 new' where id < 5")
        restored.execute("delete from doc where id = 6")
        again.check(queries=["new w0", "w1 w3"])
        again.settle()
        again.check(queries=["new w0", "w1 w3"])
        again.assert_intact()
        assert Indexed(restored).column("state") == "ready"
        restored.execute("select pgembed.bm25_rebuild('doc_bm25')")
        again.check()
        restored.execute("select pgembed.drop_bm25('doc_bm25')")
        assert value(restored, "select count(*) from pgembed.bm25") == 0
