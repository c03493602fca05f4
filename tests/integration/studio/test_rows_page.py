"""The page of rows: duplicates, topics, outliers, and how to take them home."""

from __future__ import annotations

import html
import io
import re
from contextlib import redirect_stdout
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from starlette.testclient import TestClient

from tests.fixtures.roles import new_roles
from tests.integration.studio.conftest import ODD, opened

ARTICLE = {"table": "public.article"}
LIKE = {**ARTICLE, "kind": "duplicates", "min_similarity": "0.3"}


def keys(text: str) -> list[str]:
    """Read the keys of the rows in their order."""
    return re.findall(r"<summary>Row <code>(.*?)</code>", text)


def copies(text: str) -> dict[str, str]:
    """Read what is offered to copy."""
    found = re.findall(
        r"<figcaption>([\w ]+?) <button.*?<pre[^>]*>(.*?)</pre>", text, re.DOTALL
    )
    return {name: html.unescape(text) for name, text in found}


def test_the_page_asks_three_questions(studio: TestClient) -> None:
    text = studio.get("/rows").text
    for question in ("Which say the same?", "What are they about?"):
        assert question in text
    assert keys(text) == []
    assert ODD.replace('"', "&#34;") not in text  # it has no embedding


def test_duplicates_come_in_groups(
    studio: TestClient, tables: psycopg.Connection[Any]
) -> None:
    text = studio.get("/rows", params=LIKE).text
    wanted = tables.execute(
        "select key::text from pgembed.duplicate_groups(null::article, 0.3)"
    ).fetchall()
    assert len(wanted) >= 4
    assert keys(text) == [key for (key,) in wanted]
    none = studio.get("/rows", params={**LIKE, "min_similarity": "0.999"}).text
    assert "No two rows are as similar." in none


def test_outliers_have_their_scores(
    studio: TestClient, tables: psycopg.Connection[Any]
) -> None:
    asked = {**ARTICLE, "kind": "outliers", "method": "centroid", "k": "3"}
    text = studio.get("/rows", params=asked).text
    wanted = tables.execute(
        "select key::text, round(score::numeric, 3)::text"
        " from pgembed.outliers(null::article, 'centroid', 3)"
    ).fetchall()
    assert keys(text) == [key for key, _ in wanted]
    assert re.findall(r'class="score">(.*?)<', text) == [score for _, score in wanted]


def test_topics_have_names_and_typical_rows(studio: TestClient) -> None:
    pytest.importorskip("sklearn", reason="the extra `analysis` is missing")
    asked = {**ARTICLE, "kind": "topics", "k": "2", "column": "id"}
    asked |= {"operator": "$lt", "value": "5"}
    text = studio.get("/rows", params=asked).text
    assert sorted(keys(text)) == ["1", "2", "3", "4"]
    names = re.findall(r'<h2 id="group-\d">(.*?) <small>', text)
    assert sorted(name.partition(",")[0] for name in names) == ["fox", "tea"]
    assert (
        "pgembed cluster public.article -k 2 --filter" in copies(text)["Command line"]
    )


@pytest.mark.parametrize(
    "asked", [LIKE, {**ARTICLE, "kind": "outliers", "k": "2"}], ids=["same", "odd"]
)
def test_what_is_copied_gives_the_same(
    studio: TestClient,
    tables: psycopg.Connection[Any],
    dsn: str,
    asked: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {**asked, "column": "price", "operator": "$gt", "value": "0"}
    text = studio.get("/rows", params=given).text
    shown = keys(text)
    assert shown
    found = copies(text)
    rows = tables.execute(found["SQL"].encode()).fetchall()
    at = 2 if asked is LIKE else 0
    assert [str(row[at]) for row in rows] == shown
    for name, value in conninfo_to_dict(dsn).items():
        name = {"dbname": "database"}.get(name, name)
        monkeypatch.setenv(f"PG{name.upper()}", str(value))
    with redirect_stdout(io.StringIO()) as said:
        exec(found["Python"], {})
    assert all(re.search(rf"\b{key}\b", said.getvalue()) for key in shown)
    assert found["Command line"].startswith("pgembed ")


def test_rows_are_escaped(studio: TestClient) -> None:
    asked = {**ARTICLE, "kind": "outliers", "k": "5"}
    text = studio.get("/rows", params=asked).text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>" not in text
    assert "4 bytes" in text


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"kind": "duplicates", "min_similarity": "2"}, 400, "out of range: 2"),
        ({"kind": "duplicates", "min_similarity": "x"}, 400, "must be a number"),
        ({"kind": "outliers", "method": "x"}, 400, "no method"),
        ({"kind": "outliers", "k": "0"}, 400, "k must be"),
        ({"kind": "topics", "k": "99"}, 400, "99"),
        ({"kind": "x"}, 400, "there is no question"),
        ({"kind": "outliers", "filter": "[1]"}, 400, "no JSON object"),
        ({"kind": "outliers", "table": "public.none"}, 400, "there is no table"),
    ],
)
def test_what_cannot_be_asked(
    studio: TestClient, asked: dict[str, str], status: int, says: str
) -> None:
    answer = studio.get("/rows", params={**ARTICLE, **asked})
    assert answer.status_code == status
    assert says in html.unescape(answer.text)


def test_hidden_rows_are_not_shown(tables: psycopg.Connection[Any], dsn: str) -> None:
    role = "pgembed_test_studio_rows"
    with new_roles(dsn, role):
        tables.execute(
            f"select pgembed.grant_usage('{role}'); grant select on article to {role};"
            "alter table article enable row level security;"
            "create policy tea on article using (category = 'drink');"
            "select pgembed.repair('article_embedding')"
        )
        with opened(f"{dsn} options='-c role={role}'") as client:
            for kind in ("outliers", "duplicates"):
                text = client.get("/rows", params={**LIKE, "kind": kind}).text
                assert set(keys(text)) <= {"3", "4"}
                assert "fox" not in text
