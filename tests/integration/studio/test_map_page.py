"""The page of the map: points and colours, outlines, searches, and who sees what."""

from __future__ import annotations

import html
import json
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pytest
from starlette.testclient import TestClient

import pgembed
from pgembed.studio import colours, points
from pgembed.studio.render import STATIC
from pgembed.testing import process_all
from tests.fixtures.roles import new_roles
from tests.integration.studio.conftest import HTML, opened

Conn = psycopg.Connection[Any]
ARTICLE = {"table": "public.article"}
PLAIN = {**ARTICLE, "colour": "none"}
MAP = (
    "create table article_map as select id, id::real as x, -id::real as y from article"
)


@dataclass
class Sent:
    """What a browser reads of the points."""

    head: dict[str, Any]
    places: dict[str, tuple[float, float]]
    colours: dict[str, str]


def points_of(studio: TestClient, **asked: str) -> Sent:
    """Read the points as static/map.js does."""
    answer = studio.get("/parts/map/points", params={**ARTICLE, **asked})
    assert answer.status_code == 200, answer.text
    body = answer.content
    (size,) = struct.unpack_from("<I", body)
    head = json.loads(body[4 : 4 + size])
    many, start = head["points"], 4 + size
    assert start % 4 == 0
    x, y = np.frombuffer(body, "<f4", 2 * many, start).reshape(2, -1).tolist()
    numbers = body[start + 8 * many : start + 9 * many]
    keys = body[start + 9 * many :].decode().split("\n") if many else []
    names = [head["colours"][number]["name"] for number in numbers]
    counted = {one["name"]: one["points"] for one in head["colours"]}
    assert counted == {name: names.count(name) for name in names}
    return Sent(
        head,
        dict(zip(keys, zip(x, y, strict=True), strict=True)),
        dict(zip(keys, names, strict=True)),
    )


def picked(studio: TestClient, keys: list[Any], **given: Any) -> str:
    """List rows as an outline does."""
    asked = given.pop("asked", ARTICLE)
    body = {"keys": json.dumps(keys), "total": str(len(keys)), **given}
    headers = {"Sec-Fetch-Site": "same-origin"}
    answer = studio.post("/parts/map/rows", params=asked, data=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


def keys_of(text: str) -> list[Any]:
    found = re.findall(r'<li class="hit" data-key="(.*?)">', text)
    return [json.loads(html.unescape(key)) for key in found]


def copies_of(text: str) -> dict[str, str]:
    found = re.findall(
        r"<figcaption>([\w ]+?) <button.*?<pre[^>]*>(.*?)</pre>", text, re.DOTALL
    )
    return {name: html.unescape(text) for name, text in found}


def test_the_page_has_its_table_and_scripts(studio: TestClient) -> None:
    text = studio.get("/map").text
    assert "public.article" in text
    assert 'value="column:category"' in text
    assert 'value="column:photo"' not in text  # bytes have no colours
    for script in re.findall(r'src="(/static/.*?)"', text):
        assert studio.get(script).status_code == 200


def test_what_is_vendored_has_its_licence_and_version() -> None:
    scripts = list(STATIC.glob("*.min.js"))
    assert len(scripts) >= 4
    for script in scripts:
        name, version = re.fullmatch(r"(.*)-([\d.]+)\.min\.js", script.name).groups()  # type: ignore[union-attr]
        licence = STATIC / f"{name}-{version}.LICENSE.txt"
        assert f"{name} {version}, https://" in licence.read_text().lower()


def test_rows_without_a_map_are_placed_at_once(
    studio: TestClient, tables: Conn
) -> None:
    pytest.importorskip("sklearn", reason="the extra `analysis` is missing")
    from pgembed.analysis import read_vectors
    from pgembed.analysis.maps import quick_map

    sent = points_of(studio)
    vectors = read_vectors(tables, "article")
    wanted = quick_map(vectors.matrix)
    got = np.array([sent.places[key] for key in vectors.json_keys])
    np.testing.assert_allclose(np.abs(got), np.abs(wanted), atol=1e-5)
    assert sent.head["map"] is None
    assert sent.head["command"] == (
        "pgembed map public.article --into public.article_map"
    )
    assert sent.head["of"] == "clusters, found now"


def test_a_map_is_read_and_known_by_its_columns(
    studio: TestClient, tables: Conn
) -> None:
    tables.execute(MAP)
    tables.execute(
        "create table made as table article_map; update made set x = 7;"
        "comment on table made is 'Map of public.article by pgembed.';"
        "create table others as table article_map;"
        "comment on table others is 'Map of public.note by pgembed.';"
        "create table wider as select *, 1 as z from article_map;"
        "create table typed as select id::text, x, y from article_map"
    )
    sent = points_of(studio, colour="none")
    assert sent.head["maps"] == ["public.made", "public.article_map"]
    assert {place[0] for place in sent.places.values()} == {7}
    sent = points_of(studio, colour="none", map="public.article_map")
    assert sent.places == {str(key): (key, -key) for key in range(1, 6)}
    filtered = points_of(studio, colour="none", filter='{"category": "drink"}')
    assert set(filtered.places) == {"3", "4"}
    tables.execute("drop table made")
    answer = studio.get("/parts/map/points", params={**ARTICLE, "map": "public.made"})
    assert answer.status_code == 400
    assert "there is no map public.made" in answer.text


def test_a_map_that_is_out_of_date_shows_the_rows_that_are_there(
    studio: TestClient, tables: Conn
) -> None:
    tables.execute(MAP)
    tables.execute(
        "delete from article where id = 1; insert into article_map values (99, 1, 1);"
        "update article_map set x = 'NaN' where id = 2;"
        "update article_map set y = 'Infinity' where id = 3;"
        "update article_map set y = null where id = 4"
    )
    assert set(points_of(studio, colour="none").places) == {"5"}
    tables.execute("delete from article")
    sent = points_of(studio)
    assert sent.head["points"] == 0
    assert sent.head["colours"] == []


@pytest.mark.parametrize("left", ["false", "id = 1", "true"], ids=["0", "1", "equal"])
def test_few_and_equal_rows_are_placed(
    studio: TestClient, tables: Conn, dsn: str, left: str
) -> None:
    pytest.importorskip("sklearn", reason="the extra `analysis` is missing")
    tables.execute(f"delete from article where ({left}) is not true".encode())
    tables.execute("update article set title = 'all the same'")
    process_all(dsn)
    sent = points_of(studio)
    (many,) = tables.execute("select count(*) from article").fetchone() or (0,)
    assert len(sent.places) == many
    assert all(math.isfinite(x) for place in sent.places.values() for x in place)


def test_points_are_coloured_by_columns(
    studio: TestClient, tables: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.execute(MAP)
    drink = points_of(studio, colour="column:category").colours
    wanted = tables.execute("select id::text, category from article").fetchall()
    assert drink == {key: name or "NULL" for key, name in wanted}
    prices = points_of(studio, colour="column:price").colours
    assert prices["5"] == "NULL"
    monkeypatch.setattr(colours, "_MOST", 2)
    ranges = points_of(studio, colour="column:price").colours
    assert ranges["1"] == "3 to 3.6"
    assert ranges["4"] == "5.4 to 6"
    assert ranges["5"] == "no value"
    titles = points_of(studio, colour="column:title")
    assert sorted(one["style"] for one in titles.head["colours"]) == [
        "group-0",
        "group-1",
        "others",
    ]
    big = points_of(studio, colour="column:big").head["colours"][0]["name"]
    assert len(big) <= 60


def test_points_are_coloured_by_duplicates_and_outliers(
    studio: TestClient, tables: Conn
) -> None:
    tables.execute(MAP)
    tables.execute("update article set title = 'red fox' where id = 2")
    tables.execute("delete from pgembed.queue")
    tables.execute(
        "update article_embedding set embedding = (select embedding from"
        " article_embedding where id = 1) where id = 2"
    )
    found = points_of(studio, colour="duplicates").colours
    assert found["1"] == found["2"] == "group 1"
    assert found["3"] == "not a duplicate"
    farthest = points_of(studio, colour="outliers")
    assert farthest.head["of"] == "outliers, found now"
    assert all(one["style"].startswith("shade-") for one in farthest.head["colours"])
    tables.execute(
        "create table article_outliers as select id, id::float8 as score from article;"
        "create table article_duplicates as"
        " select id, 7::bigint as group_id from article where id > 3;"
        "create table named as"
        " select id, 1 as cluster, 'tea'::text as label from article"
    )
    assert points_of(studio, colour="outliers").colours["5"] == "4.96 to 5"
    assert points_of(studio, colour="duplicates").colours["5"] == "group 7"
    sent = points_of(studio)
    assert set(sent.colours.values()) == {"1: tea"}
    assert sent.head["of"] == "clusters of public.named"


def test_of_many_rows_a_sample_is_shown(
    studio: TestClient, tables: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.execute(MAP)
    monkeypatch.setattr(points, "MOST_POINTS", 3)
    monkeypatch.setattr(colours, "MOST_COMPARED", 3)
    sent = points_of(studio)
    assert sent.head["sample"]
    assert sent.head["total"] == 5
    assert 0 < len(sent.places) < 5
    assert "`pgembed cluster public.article --into" in sent.head["note"]
    assert sent.places == points_of(studio).places


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"colour": "x"}, "there is no colour"),
        ({"colour": "column:photo"}, "has no column 'photo' that has colours"),
        ({"colour": "column:none"}, "has no column 'none'"),
        ({"map": "public.article"}, "there is no map public.article"),
        ({"map": "x; drop table article"}, "there is no map"),
        ({"table": "public.none"}, "there is no table"),
        ({"embedding": "none"}, "none"),
        ({"filter": "[1]"}, "no JSON object"),
    ],
)
def test_points_that_cannot_be_asked_for(
    studio: TestClient, asked: dict[str, str], says: str
) -> None:
    answer = studio.get("/parts/map/points", params={**PLAIN, **asked})
    assert answer.status_code == 400
    assert says in html.unescape(answer.text)


def test_what_is_copied_finds_the_rows_in_the_outline(
    studio: TestClient, tables: Conn
) -> None:
    tables.execute(MAP)
    outline = [[1.5, -5.5], [1.5, -1.5], [4.5, -1.5], [4.5, -5.5]]
    given = {"outline": json.dumps(outline), "map": "public.article_map"}
    text = picked(studio, [2, 3, 4], **given)
    assert keys_of(text) == [2, 3, 4]
    copies = copies_of(text)
    for name in ("SQL", "SQL by the outline"):
        rows = tables.execute(copies[name].encode()).fetchall()
        assert sorted(row[0] for row in rows) == [2, 3, 4], name
    hits = tables.execute(
        "select key from pgembed.outliers(null::article, 'centroid', filter => %s)",
        [copies["Filter"]],
    )
    assert sorted(key for (key,) in hits) == [2, 3, 4]
    asked = {**ARTICLE, "filter": '{"price": {"$gt": 4}}'}
    narrower = copies_of(picked(studio, [3, 4], asked=asked, **given))
    found = tables.execute(narrower["SQL by the outline"].encode()).fetchall()
    assert sorted(row[0] for row in found) == [3, 4]


def test_keys_of_several_columns_are_found_and_copied(
    studio: TestClient, tables: Conn, dsn: str
) -> None:
    tables.execute(
        'create table "A %s" ("B" text, a int, body text, primary key (a, "B"));'
        'insert into "A %s" values'
        " ('it''s', 1, 'tea'), ('x', 1, 'fox'), ('x', 2, 'y')"
    )
    pgembed.create_embedding(tables, '"A %s"', "body", model="hashing")
    process_all(dsn)
    asked = {"table": 'public."A %s"'}
    sent = points_of(studio, **asked, colour="column:body")
    assert sent.colours == {'[1, "it\'s"]': "tea", '[1, "x"]': "fox", '[2, "x"]': "y"}
    assert sent.head["command"].endswith("""--into 'public."A %s_map"'""")
    wanted = [[1, "it's"], [2, "x"]]
    text = picked(studio, wanted, asked=asked)
    assert keys_of(text) == wanted
    copies = copies_of(text)
    rows = tables.execute(copies["SQL"].encode()).fetchall()
    assert sorted(row[2] for row in rows) == ["tea", "y"]
    assert json.loads(copies["Filter"])["$or"][0] == {"a": 1, "B": "it's"}
    row = studio.get("/parts/map/row", params={**asked, "key": '[1, "it\'s"]'}).text
    assert "tea" in row


def test_many_rows_are_found_by_the_outline_alone(
    studio: TestClient, tables: Conn
) -> None:
    tables.execute(MAP)
    given = {"outline": "[[0, 0], [9, 0], [9, -9]]", "map": "public.article_map"}
    text = picked(studio, [1, 2], total="1001", **given)
    assert "1,001 rows" in text
    assert list(copies_of(text)) == ["SQL by the outline"]
    assert copies_of(picked(studio, [1], total="1001")) == {}
    hostile = {**given, "map": "x') --"}
    assert "SQL by the outline" not in copies_of(picked(studio, [1], **hostile))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"keys": "x"}, "keys must be JSON"),
        ({"keys": "1"}, "keys must be a list"),
        ({"keys": json.dumps(list(range(1001)))}, "of 1,000 at most"),
        ({"keys": "[1]", "outline": "[[1]]"}, "outline must be"),
        ({"keys": "[1]", "outline": json.dumps([[0, 0]] * 501)}, "500 corners"),
        ({"keys": "[1]", "total": "x"}, "total must be a whole number"),
        ({"keys": '["x"]'}, "x"),
    ],
)
def test_an_outline_that_cannot_be_read(
    studio: TestClient, body: dict[str, str], says: str
) -> None:
    answer = studio.post(
        "/parts/map/rows",
        params=ARTICLE,
        data=body,
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert answer.status_code == 400, answer.text
    assert says in html.unescape(answer.text)


def test_rows_are_escaped_and_cut(studio: TestClient) -> None:
    row = studio.get("/parts/map/row", params={**ARTICLE, "key": "5"}).text
    for text in (row, picked(studio, [5])):
        assert html.escape(HTML[:20], quote=False) in text
        assert "<script>" not in text
        assert "<img" not in text
    assert (
        "4 bytes" in studio.get("/parts/map/row", params={**ARTICLE, "key": "3"}).text
    )
    gone = studio.get("/parts/map/row", params={**ARTICLE, "key": "77"})
    assert "no longer there" in gone.text
    assert len(picked(studio, [3])) < 20_000  # of ten million


def test_a_search_gives_keys_to_light_up(served: TestClient) -> None:
    asked = {**ARTICLE, "q": "green tea", "filter": '{"category": "drink"}'}
    text = served.get("/parts/map/hits", params=asked).text
    assert keys_of(text)[0] == 3
    assert set(keys_of(text)) == {3, 4}
    assert "Found by both" in text
    empty = served.get("/parts/map/hits", params={**ARTICLE, "q": " "})
    assert empty.status_code == 400


def test_hidden_rows_are_in_no_answer(tables: Conn, dsn: str) -> None:
    role = "pgembed_test_studio_map"
    with new_roles(dsn, role):
        tables.execute(MAP)
        tables.execute(
            f"select pgembed.grant_usage('{role}'); grant select on article to {role};"
            f"grant select on article_map to {role};"
            "create table article_clusters as select id, id as cluster,"
            " title as label from article;"
            f"grant select on article_clusters to {role};"
            "alter table article enable row level security;"
            "create policy tea on article using (category = 'drink');"
            "select pgembed.repair('article_embedding')"
        )
        with opened(f"{dsn} options='-c role={role}'") as client:
            for given in ({}, {"map": points.SKETCH}):
                for colour in ("", "outliers", "column:title"):
                    sent = points_of(client, colour=colour, **given)
                    assert set(sent.places) == {"3", "4"}
                    assert sent.head["total"] == 2
                    assert "fox" not in json.dumps(sent.head)
            assert (
                "no longer"
                in client.get("/parts/map/row", params={**ARTICLE, "key": "1"}).text
            )
            text = picked(client, [1, 3])
            assert keys_of(text) == [3]
            assert json.loads(copies_of(text)["Filter"]) == {"id": {"$in": [3]}}


def test_tables_of_strangers_are_no_maps(tables: Conn, dsn: str) -> None:
    """To read a table runs its owner's code with the rights of who reads."""
    reader, stranger = "pgembed_test_map_reader", "pgembed_test_map_stranger"
    with new_roles(dsn, reader, stranger):
        tables.execute(
            f"select pgembed.grant_usage('{reader}');"
            f"grant select on article to {reader};"
            "select pgembed.repair('article_embedding');"
            f"create schema s authorization {stranger};"
            "grant usage on schema s to public;"
            f"set role {stranger};"
            "create view s.article_map as select 1 as id, 1::real as x, 1::real as y;"
            f"grant select on s.article_map to {reader}; reset role;"
            f"create schema r authorization {reader}; set role {reader};"
            "create table r.mine (id int, x real, y real); reset role"
        )
        with opened(f"{dsn} options='-c role={reader}'") as client:
            assert points_of(client, colour="none").head["maps"] == ["r.mine"]
