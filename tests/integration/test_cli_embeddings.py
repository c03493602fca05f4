"""The commands that declare, search and show status."""

from __future__ import annotations

import json

import psycopg
import pytest
from typer.testing import CliRunner, Result

import pgembed
from pgembed.cli import app
from pgembed.testing import process_all

runner = CliRunner()


def run(*arguments: str, dsn: str) -> Result:
    return runner.invoke(
        app, list(arguments), env={"PGEMBED_DSN": dsn, "COLUMNS": "200"}
    )


@pytest.fixture
def shop(conn: psycopg.Connection) -> psycopg.Connection:
    conn.execute("create table article (id int primary key, title text, price int)")
    conn.execute("insert into article values (1, 'red fox', 3), (2, 'green tea', 5)")
    return conn


@pytest.fixture
def embedded(shop: psycopg.Connection, dsn: str) -> psycopg.Connection:
    pgembed.register_model(shop, "hashing", 64, provider="hashing")
    pgembed.create_embedding(shop, "article", "title", model="hashing")
    process_all(dsn)
    return shop


def test_declaration_from_model_to_drop(shop: psycopg.Connection, dsn: str) -> None:
    done = run("model", "add", "tiny", "--provider", "hashing", dsn=dsn)
    assert "Registered tiny: 256 dimensions." in done.output
    listed = json.loads(run("model", "list", "--json", dsn=dsn).output)
    assert [m["provider"] for m in listed if m["name"] == "tiny"] == ["hashing"]

    done = run(
        *("create", "article", "title", "--model", "tiny", "--name", "titles"),
        *("--dimensions", "64", "--distance", "l2", "--vector-type", "halfvec"),
        *("--index-options", '{"m": 8}', "--max-attempts", "2"),
        dsn=dsn,
    )
    assert done.exit_code == 0, done.output
    assert "Created embedding titles." in done.output
    assert process_all(dsn)["titles"].embedded == 2
    for command in ("pause", "resume", "reembed", "repair"):
        assert run(command, "titles", dsn=dsn).exit_code == 0
    assert "Queued 0 failed rows again." in run("retry", dsn=dsn).output
    done = run("alter", "titles", "--text", "price::text", dsn=dsn)
    assert done.exit_code == 0, done.output
    found = shop.execute("select text_expression from pgembed.embedding").fetchone()
    assert found == ("price::text",)
    assert run("drop", "titles", dsn=dsn).exit_code == 0
    assert run("drop", "titles", "--if-exists", dsn=dsn).exit_code == 0
    assert pgembed.status(shop) == []


def test_search_and_similar(embedded: psycopg.Connection, dsn: str) -> None:
    done = run("search", "article", "tea", "--encoder", "hashing", "-k", "1", dsn=dsn)
    assert "title: green tea" in done.output
    done = run(
        *("search", "article", "tea", "--encoder", "hashing", "--json"),
        *("--filter", '{"price": {"$lt": 4}}'),
        dsn=dsn,
    )
    (line,) = done.output.splitlines()
    assert json.loads(line)["doc"] == {"id": 1, "title": "red fox", "price": 3}
    done = run("similar", "article", "1", "--json", dsn=dsn)
    assert json.loads(done.output)["doc"]["id"] == 2


def test_status_as_table_and_as_json(embedded: psycopg.Connection, dsn: str) -> None:
    embedded.execute("insert into article values (3, 'white wolf', 9)")
    embedded.execute(
        "update pgembed.embedding set state = 'broken', state_reason = 'the reason'"
    )
    done = run("status", dsn=dsn)
    assert done.exit_code == 0, done.output
    for words in ("broken", "article_embedding: the reason", "0 encoder services"):
        assert words in done.output
    (one,) = json.loads(run("status", "--json", dsn=dsn).output)
    assert (one["rows"], one["embedded"], one["pending"]) == (3, 2, 1)
    assert one["oldest_pending_seconds"] >= 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "nosuch", "title"), "nosuch"),
        (("create", "article", "nope"), "nope"),
        (("create", "article", "title", "--index-options", "{"), "not JSON"),
        (("create", "article", "title", "--index-options", "[1]"), "not a JSON object"),
        (("create", "article", "title", "--model", "/no/such/model"), "/no/such/model"),
        (("drop", "nosuch"), "nosuch"),
        (("search", "article", "tea"), "has 0 embeddings"),
        (("search", "article", "tea", "--filter", "{"), "not JSON"),
        (("search", "article", "tea", "--filter", "[]"), "not a JSON object"),
    ],
)
def test_errors_are_one_message_and_exit_code_1(
    shop: psycopg.Connection, dsn: str, arguments: tuple[str, ...], words: str
) -> None:
    done = run(*arguments, dsn=dsn)
    assert done.exit_code == 1, done.output
    assert words in done.output
    assert "Traceback" not in done.output
    assert pgembed.status(shop) == []
