"""The search page: what it finds, how it shows it, and what can be taken home."""

from __future__ import annotations

import html
import io
import json
import re
from contextlib import redirect_stdout
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.testclient import TestClient

import pgembed
from pgembed.sqlalchemy import Embedding
from pgembed.testing import process_all
from tests.fixtures.roles import new_roles
from tests.integration.studio.conftest import (
    HTML,
    ODD,
    column_of,
    copies_of,
    keys_of,
    opened,
)

ARTICLE = {"table": "public.article"}
FUNCTIONS = {"words": "bm25", "meaning": "vector", "both": "hybrid"}


def _found(conn: psycopg.Connection[Any], arm: str, query: str) -> list[str]:
    rows = conn.execute(
        f"select (doc).id::text from pgembed.{FUNCTIONS[arm]}_search"
        "(null::article, %s) with ordinality order by ordinality".encode(),
        [query],
    )
    return [row[0] for row in rows]


def test_three_columns_are_the_three_searches(
    served: TestClient, tables: psycopg.Connection[Any]
) -> None:
    text = served.get("/", params={**ARTICLE, "q": "green tea"}).text
    for arm in FUNCTIONS:
        expected = _found(tables, arm, "green tea")
        assert keys_of(text, arm) == expected
        assert "3" in expected
    assert "tea <b>×1</b>" in column_of(text, "words")
    assert "chunk 0" in column_of(text, "meaning")
    assert "meaning</span> #1" in column_of(text, "both")


def test_a_table_of_words_alone_has_one_column(studio: TestClient) -> None:
    text = studio.get("/", params={"table": ODD, "q": "tea"}).text
    assert keys_of(text, "words") == ["[1, &#34;x&#34;]"]
    assert 'id="arm-meaning"' not in text


def test_without_a_service_words_are_shown_and_why_no_more(studio: TestClient) -> None:
    answer = studio.get("/", params={**ARTICLE, "q": "tea"})
    assert answer.status_code == 200
    assert set(keys_of(answer.text, "words")) == {"3", "4", "5"}
    assert "no encoder service is running" in column_of(answer.text, "meaning")
    assert "PE010" in column_of(answer.text, "both")


def test_html_in_rows_is_text(served: TestClient) -> None:
    text = served.get("/", params={**ARTICLE, "q": "bold tea"}).text
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "</option><script>" not in text
    assert "&lt;script&gt;alert" in text
    assert "<mark>tea</mark>" in column_of(text, "words")


def test_the_query_is_shown_as_it_was_typed(studio: TestClient) -> None:
    text = studio.get("/", params={**ARTICLE, "q": f'"{HTML}'}).text
    assert "<script>alert" not in text
    assert "&#34;&lt;script&gt;" in text


def test_long_and_binary_values_are_cut_by_the_server(studio: TestClient) -> None:
    answer = studio.get("/", params={**ARTICLE, "q": "green"})
    assert len(answer.content) < 100_000
    assert "4 bytes" in answer.text
    assert "xxx…" in answer.text


def test_the_builder_ends_in_the_filter(studio: TestClient) -> None:
    params: list[tuple[str, str | int | float | bool | None]] = [
        ("table", "public.article"),
        ("q", "tea fox"),
        *[("column", "price"), ("operator", "$gte"), ("value", "4")],
        *[("column", "category"), ("operator", "$in"), ("value", "drink, none")],
        *[("column", ""), ("operator", "$eq"), ("value", "left out")],
        ("filter", '{"id": {"$ne": 4}}'),
    ]
    text = studio.get("/", params=params).text
    assert keys_of(text, "words") == ["3"]
    sql = copies_of(text, "words")["SQL"]
    written = sql.partition("filter => '")[2].partition("'")[0]
    assert json.loads(written) == {
        "$and": [
            {"price": {"$gte": 4}},
            {"category": {"$in": ["drink", "none"]}},
            {"id": {"$ne": 4}},
        ]
    }


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"q": "tea", "filter": "{"}, "the filter is no JSON"),
        ({"q": "tea", "filter": "[1]"}, "no JSON object"),
        ({"q": "tea", "k": "many"}, "k must be a whole number"),
        ({"q": "tea", "k": "51"}, "50 hits are shown at most"),
        ({"q": " "}, "the query is empty"),
        ({"q": "te\0a"}, "NUL byte"),
        ({"q": "tea", "table": "public.nothing"}, "there is no table public.nothing"),
    ],
)
def test_what_is_wrong_is_said(
    studio: TestClient, params: dict[str, str], said: str
) -> None:
    answer = studio.get("/", params={**ARTICLE, **params})
    assert answer.status_code == 400
    assert said in answer.text
    part = studio.get("/", params={**ARTICLE, **params}, headers={"HX-Request": "true"})
    assert part.status_code == 400
    assert said in part.text
    assert "<html" not in part.text


def test_an_error_of_a_column_says_no_more_than_pgembed_does(
    studio: TestClient,
) -> None:
    params = {**ARTICLE, "q": "tea", "embedding": "nothing"}
    assert "PE001" in studio.get("/", params=params).text
    params = {**ARTICLE, "q": "tea", "filter": '{"nothing": 1}'}
    text = studio.get("/", params=params).text
    assert "PE008" in column_of(text, "words")
    assert "CONTEXT" not in text
    assert "PL/pgSQL" not in text


def test_copies_run_and_find_the_same(
    served: TestClient,
    tables: psycopg.Connection[Any],
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = {
        **ARTICLE,
        "q": "it's tea %s",
        "k": "2",
        "filter": '{"price": {"$gt": 4}}',
    }
    text = served.get("/", params=params).text
    for name, value in conninfo_to_dict(dsn).items():
        variable = {"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}")
        monkeypatch.setenv(variable, str(value))
    for arm in FUNCTIONS:
        keys = keys_of(text, arm)
        assert len(keys) == 2
        copies = copies_of(text, arm)
        rows = tables.execute(copies["SQL"].encode()).fetchall()
        assert [str(row[0]) for row in rows] == keys
        assert _printed(copies["Python"], {}).count("'id': ") == 2
        assert _orm(copies["SQLAlchemy"], dsn) == keys


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    embedding = Embedding("title", model="hashing")


def _orm(code: str, dsn: str) -> list[str]:
    engine = create_engine(
        "postgresql+psycopg://", connect_args=conninfo_to_dict(dsn), future=True
    )
    with Session(engine) as session:
        names = {"Article": Article, "session": session}
        printed = _printed(
            code.replace("print(article, hit)", "print(article.id)"), names
        )
    engine.dispose()
    return printed.split()


def _printed(code: str, names: dict[str, Any]) -> str:
    with redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def test_rows_are_those_of_the_role(tables: psycopg.Connection[Any], dsn: str) -> None:
    with new_roles(dsn, "pgembed_test_reader"):
        tables.execute("alter role pgembed_test_reader login")
        tables.execute("select pgembed.grant_usage('pgembed_test_reader')")
        tables.execute("grant select on article to pgembed_test_reader")
        tables.execute("alter table article enable row level security")
        tables.execute(
            "create policy drinks on article to pgembed_test_reader using (id <> 3)"
        )
        with opened(make_conninfo(dsn, user="pgembed_test_reader")) as studio:
            text = studio.get("/", params={**ARTICLE, "q": "tea"}).text
            assert set(keys_of(text, "words")) == {"4", "5"}
            assert "Odd" not in text
            refused = studio.get("/", params={"table": ODD, "q": "tea"})
            assert refused.status_code == 400
            assert "there is no table" in refused.text


def test_parts_of_the_form_follow_the_table(studio: TestClient) -> None:
    part = studio.get("/parts/source", params={"table": ODD}).text
    assert "body (text)" in part
    assert "price" not in part
    line = studio.get("/parts/condition", params=ARTICLE).text
    assert "price (integer)" in line
    assert line.count("<fieldset") == 1


def test_two_embeddings_are_compared(
    served: TestClient, tables: psycopg.Connection[Any], dsn: str
) -> None:
    pgembed.register_model(tables, "short", 16, provider="hashing")
    pgembed.create_embedding(
        tables, "article", "title", name="other_embedding", model="short"
    )
    process_all(dsn)
    text = served.get("/parts/source", params=ARTICLE).text
    assert text.count("<option>other_embedding") == 2
    params = {**ARTICLE, "q": "green tea", "other": "other_embedding", "k": "3"}
    text = served.get("/", params=params).text
    for arm in ("meaning", "both"):
        keys, other = keys_of(text, arm), keys_of(text, f"{arm}-other")
        rows = tables.execute(
            f"select (doc).id::text from pgembed.{FUNCTIONS[arm]}_search(null::article,"
            " 'green tea', k => 3, embedding => 'other_embedding')".encode()
        )
        assert other == [row[0] for row in rows]
        common = len(set(keys) & set(other))
        assert f"{common} of 3 are found by both" in column_of(text, arm)
        assert column_of(text, arm).count("only here") == 3 - common
    assert "arm-words" not in text
    assert "other_embedding" in copies_of(text, "both-other")["SQL"]
    params = {"table": ODD, "q": "tea", "other": "other_embedding"}
    assert "no embedding to compare with" in served.get("/", params=params).text


def test_two_settings_are_compared(
    studio: TestClient, tables: psycopg.Connection[Any]
) -> None:
    params = {**ARTICLE, "q": "tea", "k": "1", "filter": '{"price": {"$gt": 1}}'}
    text = studio.get("/", params=params).text
    kept = re.findall(r'name="beside" value="([^"]*)">', text)
    assert [html.unescape(one) for one in kept] == ['{"k": 1}']
    params |= {"beside": '{"k": 2, "prefix": true}', "q": "te"}
    text = studio.get("/", params=params).text
    assert keys_of(text, "words") == []
    assert keys_of(text, "words-other") == ["3", "4"]
    assert column_of(text, "words-other").count("only here") == 2
    assert "price" in copies_of(text, "words-other")["SQL"]
    assert re.findall(r'value="{&#34;k&#34;: 2, [^"]*" checked', text)


@pytest.mark.parametrize(
    "beside",
    ["[", "[1]", "{", "[" * 5000, '{"table": "x"}', '{"k": "many"}', '{"k": 99}'],
)
def test_settings_that_are_none(studio: TestClient, beside: str) -> None:
    answer = studio.get("/", params={**ARTICLE, "q": "tea", "beside": beside})
    assert answer.status_code == 400
