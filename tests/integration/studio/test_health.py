"""The health page: what it says to the owner, and to others."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from starlette.testclient import TestClient

from pgembed.studio.health import Kept
from tests.fixtures.roles import new_roles
from tests.integration.studio.conftest import opened

PART = {"HX-Request": "true"}


def test_the_owner_sees_work_and_services(served: TestClient) -> None:
    text = served.get("/health").text
    assert "5 of 5 with a vector" in text
    assert "0 waiting, 0 being encoded" in text
    assert ">running</span>" in text
    assert "My &#34;T%_bm25" in text
    part = served.get("/parts/health", headers=PART).text
    assert "5 of 5 with a vector" in part
    assert "<html" not in part


def test_others_see_what_they_may_search(
    tables: psycopg.Connection[Any], dsn: str
) -> None:
    with new_roles(dsn, "pgembed_test_looker"):
        tables.execute("alter role pgembed_test_looker login")
        tables.execute("select pgembed.grant_usage('pgembed_test_looker')")
        tables.execute("grant select on article to pgembed_test_looker")
        with opened(make_conninfo(dsn, user="pgembed_test_looker")) as studio:
            text = studio.get("/health").text
            assert "article_embedding" in text
            assert "fresh" in text
            assert "with a vector" not in text
            assert "My &#34;T%" not in text
            refused = studio.get("/parts/findings", headers=PART)
            assert "permission denied" in refused.text
            assert "<html" not in refused.text


def test_what_doctor_finds_is_shown(
    studio: TestClient, tables: psycopg.Connection[Any]
) -> None:
    found = tables.execute("select problem, advice from pgembed.doctor()").fetchall()
    assert found  # no service is running
    text = studio.get("/parts/findings").text
    assert all(problem in text for problem, _ in found)


def test_recall_is_measured_where_somebody_asks(studio: TestClient) -> None:
    asked = {"table": "public.article", "embedding": "article_embedding"}
    text = studio.get("/parts/recall", params=asked, headers=PART).text
    assert "recall@10" in text, text
    assert "5 rows were searched for" in text
    other = studio.get("/parts/recall", params={"table": "pg_catalog.pg_class"})
    assert other.status_code == 400


async def test_who_looks_at_the_same_time_looks_once() -> None:
    looked = 0

    async def look() -> int:
        nonlocal looked
        looked += 1
        await asyncio.sleep(0.02)
        return looked

    kept = Kept(look, seconds=0.0)
    assert await asyncio.gather(*(kept.get() for _ in range(20))) == [1] * 20
    await asyncio.sleep(0.2)
    assert await kept.get() == 2


def test_a_page_whose_cookie_is_old_loads_itself_anew(
    tables: psycopg.Connection[Any], dsn: str
) -> None:
    with opened(dsn) as studio:
        studio.cookies.clear()
        answer = studio.get("/parts/health", headers=PART)
    assert answer.status_code == 401
    assert answer.headers["hx-refresh"] == "true"
