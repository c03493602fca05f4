"""docs/stages.md, executed as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
from psycopg.rows import tuple_row

PAGE = Path(__file__).parents[2] / "docs" / "stages.md"
BLOCK = re.compile(r"```sql\n(.*?)```(?:\n```text\n(.*?)```)?", re.DOTALL)


def as_psql(value: object) -> str:
    """Write a value as psql shows it."""
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, list):
        return "{" + ",".join(map(as_psql, value)) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(text: str) -> list[list[str]]:
    return [
        [part.strip() for part in line.split("|")] for line in text.splitlines()[2:]
    ]


def test_every_stage_gives_what_the_page_says(conn: psycopg.Connection) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 12
    with conn.cursor(row_factory=tuple_row) as cursor:
        for statements, expected in blocks:
            for statement in (s for s in statements.split(";\n") if s.strip()):
                cursor.execute(statement)
            if expected:
                found = [[as_psql(v) for v in row] for row in cursor.fetchall()]
                assert found == table(expected), statements
