from __future__ import annotations

import psycopg
import pytest

from pgembed import errors


def test_from_psycopg_maps_message_detail_and_hint(conn: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(
            "do $$ begin raise exception 'no [such] filter: 100%%' using "
            "errcode = 'PE008', detail = 'd', hint = 'h'; end $$"
        )
    error = errors.from_psycopg(caught.value)
    assert isinstance(error, errors.InvalidFilter)
    assert (error.message, error.detail, error.hint) == (
        "no [such] filter: 100%",
        "d",
        "h",
    )


def test_from_psycopg_gives_back_other_errors(conn: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        conn.execute("select 1/0")
    assert errors.from_psycopg(caught.value) is caught.value
