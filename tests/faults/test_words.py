"""A row whose words cannot be made, whatever its error: the others are found."""

from __future__ import annotations

import pytest

from tests.faults.tables import Conn, failed, write
from tests.faults.test_reads import BAD, CODES, raising
from tests.integration.service.support import value


@pytest.mark.parametrize("code", CODES)
def test_a_row_that_raises_is_put_aside_when_bm25_is_built(
    conn: Conn, code: str
) -> None:
    conn.execute("create table bad (id int primary key, body text)")
    write(conn, "bad", 1, 1100)
    raising(conn, code)
    conn.execute("select pgembed.create_bm25('bad', 'composed(id, body)')")
    found = "select count(*) from pgembed.bm25_search(null::bad, 'text', 2000)"
    assert value(conn, found) == 1099
    assert list(failed(conn)) == [str(BAD)]
    assert "a message of theirs" in failed(conn)[str(BAD)]
