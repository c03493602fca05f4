"""Who gets in, and what the database is spared."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import psycopg
import pytest
from psycopg import errors
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pgembed.errors import InvalidParameter
from pgembed.studio import StudioSettings, create_app
from pgembed.studio.database import Busy, Database
from pgembed.studio.security import Keys
from tests.integration.studio.conftest import TOKEN, opened


@pytest.fixture
def stranger(tables: psycopg.Connection[Any], dsn: str) -> TestClient:
    """A browser without a cookie; the pages it gets need no database."""
    app = create_app(dsn, StudioSettings(token=TOKEN))
    return TestClient(app, base_url="http://localhost:8765")


def test_without_a_cookie_there_is_nothing_to_see(stranger: TestClient) -> None:
    for path in ("/", "/parts/source", "/nothing", "/login"):
        answer = stranger.get(path)
        assert answer.status_code == 401
        assert "article" not in answer.text
    assert stranger.get("/login", params={"token": TOKEN + "x"}).status_code == 401
    own = {"Cookie": f"pgembed_studio_8765={TOKEN}"}
    assert stranger.get("/", headers=own).status_code == 401


def test_the_token_gives_a_cookie_that_is_not_the_token(stranger: TestClient) -> None:
    answer = stranger.get("/login", params={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    posted = stranger.post(
        "/login", data={"token": TOKEN}, headers={"Origin": "http://localhost:8765"}
    )
    assert posted.headers["set-cookie"] == cookie


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8765", 401),
        ("127.0.0.1:8765", 401),
        ("[::1]:8765", 401),
        ("192.168.1.5", 401),
        ("evil.example", 421),
        ("evil.example:8765", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
def test_a_name_that_is_not_its_own_is_refused(
    stranger: TestClient, host: str, status: int
) -> None:
    answer = stranger.get("/", headers={"Host": host})
    assert answer.status_code == status


def test_names_can_be_allowed(dsn: str) -> None:
    settings = StudioSettings(token=TOKEN, allowed_hosts=("Studio.example",))
    client = TestClient(create_app(dsn, settings), base_url="http://studio.example")
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://localhost:8765"}, 401),
        ({"Sec-Fetch-Site": "same-origin"}, 401),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8765"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({}, 403),
    ],
)
def test_forms_of_other_pages_are_refused(
    stranger: TestClient, headers: dict[str, str], status: int
) -> None:
    answer = stranger.post("/login", data={"token": "wrong"}, headers=headers)
    assert answer.status_code == status


def test_every_answer_forbids_foreign_code(studio: TestClient) -> None:
    for path in ("/", "/static/studio.css", "/nothing", "/v1/status"):
        policy = studio.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    assert " style=" not in studio.get("/").text


def test_a_short_token_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="16 ASCII characters"):
        StudioSettings(token="short")
    assert StudioSettings().token != StudioSettings().token
    assert TOKEN not in repr(StudioSettings(token=TOKEN))


async def test_transactions_read_only_and_end_in_time(dsn: str) -> None:
    database = Database(dsn, StudioSettings(statement_seconds=0.2))
    await database.open()
    async with database.connection() as conn:
        with pytest.raises(errors.ReadOnlySqlTransaction):
            async with database.reading(conn):
                await conn.execute("create table t (a int)")
        with pytest.raises(errors.QueryCanceled):
            async with database.reading(conn):
                await conn.execute("select pg_sleep(5)")
    await database.close()


async def test_what_cannot_be_lent_in_time_is_busy(dsn: str) -> None:
    database = Database(dsn, StudioSettings(connections=1, wait_seconds=0.1))
    await database.open()
    async with database.connection():
        with pytest.raises(Busy):
            async with database.connection():
                pass
    async with database.connection() as conn:
        assert (await (await conn.execute("select 1")).fetchone()) == (1,)
    await database.close()


async def _get(app: Starlette, keys: Keys) -> tuple[int, dict[bytes, bytes]]:
    """Ask for a search as a server would; a client library takes longer than that."""
    headers = {"host": "localhost", "cookie": f"{keys.cookie_name}={keys.cookie}"}
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "query_string": b"q=tea",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "server": ("localhost", 80),
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


async def test_of_a_thousand_at_once_a_few_reach_the_database(
    tables: psycopg.Connection[Any], dsn: str
) -> None:
    settings = StudioSettings(token=TOKEN, connections=2, waiting=8, wait_seconds=30)
    app = create_app(dsn, settings)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            row = tables.execute(
                "select count(*) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            ).fetchone()
            assert row is not None
            most = max(most, row[0])
            await asyncio.sleep(0.01)

    async with app.router.lifespan_context(app):
        watching = asyncio.create_task(watch())
        keys = Keys(TOKEN, settings.port)
        answers = await asyncio.gather(*(_get(app, keys) for _ in range(1000)))
        watching.cancel()
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 8
    assert all(
        b"retry-after" in headers for status, headers in answers if status == 503
    )
    assert 1 <= most <= 2


def test_an_unreachable_database_is_said_without_its_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dsn = "postgresql://somebody:secret@127.0.0.1:1/shop"
    with opened(dsn, wait_seconds=0.3) as client:
        answer = client.get("/")
    assert answer.status_code == 503
    assert "secret" not in answer.text + caplog.text
    assert "somebody" not in answer.text
