"""The commands that declare, search and show status."""

from __future__ import annotations

import json

import psycopg
import pytest
from typer.testing import Result

import pgembed
from pgembed.encoders.cards import find_card
from pgembed.testing import process_all
from tests.fixtures.cli import invoke
from tests.fixtures.cross_encoders import save_cross_encoder
from tests.fixtures.roles import acting_as, new_roles


def run(*arguments: str, dsn: str, columns: int = 200) -> Result:
    return invoke(arguments, env={"PGEMBED_DSN": dsn, "COLUMNS": str(columns)})


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
    found = shop.execute("select text_expression from pgembed.captured_text").fetchone()
    assert found == ("price::text",)
    assert run("drop", "titles", dsn=dsn).exit_code == 0
    assert run("drop", "titles", "--if-exists", dsn=dsn).exit_code == 0
    assert pgembed.status(shop) == []


def test_a_model_is_registered_as_it_is_published(
    conn: psycopg.Connection, dsn: str
) -> None:
    name = "intfloat/e5-base-v2"
    assert "not registered" in run("model", "show", name, dsn=dsn).output
    done = run(
        "model", "add", name, dsn=dsn
    )  # no file of it is here: nothing is loaded
    assert done.output == (
        f"Registered {name}: 768 dimensions.\n"
        "  As published: 768 dimensions, 512 tokens, query prompt 'query: ', "
        "document prompt 'passage: '.\n"
    )
    shown = json.loads(run("model", "show", name, "--json", dsn=dsn).output)
    assert shown["registered"]["query_prompt"] == "query: "
    assert shown["registered"]["document_prompt"] == "passage: "
    assert shown["registered"]["max_tokens"] == shown["card"]["max_tokens"] == 512
    assert shown["card"]["license"] == "mit"
    done = run(
        *("model", "add", name, "--query-prompt", "", "--dimensions", "300"), dsn=dsn
    )
    assert "dimensions, 512" not in done.output
    assert "document prompt 'passage: '" in done.output
    assert "It is not published for 300 dimensions: 768 dimensions." in done.output
    found = conn.execute(
        "select dimensions, query_prompt, document_prompt from pgembed.model"
        " where name = %s",
        [name],
    ).fetchone()
    assert found == (300, "", "passage: ")
    plain = run("model", "show", name, dsn=dsn).output
    assert "registered: sentence-transformers, 300 dimensions, cosine" in plain
    assert "query prompt: ''" in plain


def test_a_hosted_model_is_known_with_its_price(
    shop: psycopg.Connection, dsn: str
) -> None:
    name = "openai/text-embedding-3-small"
    done = run("model", "add", name, dsn=dsn)
    assert "As published: 1536 dimensions, 8191 tokens." in done.output
    found = shop.execute(
        "select provider, dimensions from pgembed.model where name = %s", [name]
    ).fetchone()
    assert found == ("litellm", 1536)
    # `create` registers what is known in the same way.
    done = run(
        "create", "article", "title", "--model", "Qwen/Qwen3-Embedding-4B", dsn=dsn
    )
    assert "Registered Qwen/Qwen3-Embedding-4B: 2560 dimensions." in done.output
    assert "Query:'" in done.output
    listed = run("model", "list", "--known", "--json", dsn="host=nowhere").output
    assert {"price": 0.02, "price_date": "2026-11-28"}.items() <= next(
        one for one in json.loads(listed) if one["name"] == name
    ).items()
    lines = run("model", "list", "--known", dsn="host=nowhere", columns=40).output
    assert f"\n{name}\n  512 or 1536 dimensions, 8191 tokens, $0.02 a million" in lines


def test_what_is_installed_is_what_is_published(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select name, provider, dimensions, max_tokens, query_prompt, document_prompt"
        " from pgembed.model where not images"  # no source gives the licence of these
    ).fetchall()
    assert len(rows) > 10
    for name, provider, dimensions, max_tokens, *prompts in rows:
        card = find_card(name)
        assert card is not None, name
        assert (card.provider, card.dimensions) == (provider, dimensions)
        assert card.max_tokens == max_tokens
        # NULL leaves it to the model's own files.
        published = (card.query_prompt or "", card.document_prompt or "")
        assert prompts in ([None, None], list(published)), name


def test_what_is_to_be_known_of_a_model_is_said(
    conn: psycopg.Connection, dsn: str
) -> None:
    done = run("model", "add", "jinaai/jina-embeddings-v3", dsn=dsn)
    assert "code of its own" in done.output
    assert "no commercial use" in done.output
    unknown = run("model", "show", "me/nothing", dsn=dsn)
    assert unknown.exit_code == 1
    assert 'unknown model "me/nothing"' in unknown.output
    # What is computed otherwise has nothing of the model but its name.
    done = run("model", "add", "BAAI/bge-m3", "--provider", "hashing", dsn=dsn)
    assert done.output == "Registered BAAI/bge-m3: 256 dimensions.\n"


def test_tokens_that_were_sent_are_shown_to_the_owner(
    shop: psycopg.Connection, dsn: str
) -> None:
    name = "text-embedding-3-small"
    shop.execute(
        "insert into pgembed.model_usage select model_id, day, tokens"
        " from pgembed.model, (values ((now() at time zone 'UTC')::date, 1000000),"
        " ('2026-01-01', 4000000)) as v(day, tokens) where name = %s",
        [name],
    )
    line = f"{name} was sent 1,000,000 tokens today, 5,000,000 in all, about $0.10"
    assert line in run("status", dsn=dsn).output
    shown = run("model", "show", name, dsn=dsn).output
    assert "1,000,000 tokens today, 5,000,000 in all" in shown
    listed = json.loads(run("model", "list", "--json", dsn=dsn).output)
    (one,) = [model for model in listed if model["name"] == name]
    assert (one["tokens_today"], one["tokens"]) == (1_000_000, 5_000_000)
    with new_roles(dsn, "searches"):
        shop.execute("select pgembed.grant_usage('searches')")
        with (
            acting_as(dsn, "searches") as conn,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            conn.execute("select * from pgembed.model_usage")
        other = f"{dsn} options='-c role=searches'"
        listed = json.loads(run("model", "list", "--json", dsn=other).output)
        assert {model["tokens"] for model in listed} == {None}


def test_what_a_fill_takes_is_said_before(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute('create table "Odd table" (id int primary key, "the text" text)')
    conn.execute(
        """insert into "Odd table" select i, case when i % 2 = 0
           then repeat('cheap flights to Rome ', 10) end
           from generate_series(1, 4000) as i"""
    )
    ask = ("create", '"Odd table"', '"the text"', "--dry-run", "--model")
    hosted = run(*ask, "openai/text-embedding-3-small", dsn=dsn).output
    # 2,000 texts of 220 characters are 56 tokens each, by the estimate; a sample of 300
    # rows tells how many have a text to some percent.
    lines = hosted.splitlines()
    assert lines[1] == "  4,000 rows, of which 300 were read"
    tokens = int(lines[2].split()[1].replace(",", ""))
    assert tokens == pytest.approx(112_000, rel=0.25)
    assert lines[3] == (
        f"  about ${tokens * 0.02 / 1e6:,.2f}, at $0.02 a million tokens (2026-11-28)"
    )
    local = run(*ask, "all-MiniLM-L6-v2", dsn=dsn).output
    assert " tokens in " in local
    assert "on this machine" in local
    assert "$" not in local
    unknown = run(*ask, "openai/text-embedding-of-my-own", dsn=dsn).output
    assert "the price of openai/text-embedding-of-my-own is not known" in unknown
    assert pgembed.status(conn) == []
    assert "ERROR" in run("create", "article", "x", "--dry-run", dsn=dsn).output


def test_what_another_model_takes_is_said_before(
    embedded: psycopg.Connection, dsn: str
) -> None:
    done = run(
        *("alter", "article_embedding", "--dry-run"),
        *("--model", "voyage/voyage-3.5"),
        dsn=dsn,
    ).output
    assert done.startswith(
        "article with voyage/voyage-3.5:\n  2 rows, of which 2 were read\n"
    ), done
    assert "at $0.06 a million tokens (2026-11-28)" in done
    assert "2 chunks are encoded" in done
    found = embedded.execute(
        "select count(*) from pgembed.model where name = 'voyage/voyage-3.5'"
    ).fetchone()
    assert found == (0,)
    assert len(pgembed.status(embedded)) == 1


def test_compare(embedded: psycopg.Connection, dsn: str) -> None:
    done = run("compare", "article_embedding", dsn=dsn)
    assert 'embedding "article_embedding" has no other generation' in done.output
    ask = ("compare", "article_embedding", "article_embedding", "-k", "1")
    assert run(*ask, dsn=dsn).output == (
        "100% of the 1 rows most like a row are found by both.\n"
        "  mean of 2 rows; 100% for the one that changes most\n"
    )
    found = json.loads(run(*ask, "--json", dsn=dsn).output)
    assert found == {"compared": 2, "overlap": 1.0, "lowest": 1.0}


def test_what_a_fill_takes_is_told_by_what_the_caller_may_read(
    conn: psycopg.Connection, dsn: str
) -> None:
    conn.execute("create table secret (id int primary key, body text)")
    conn.execute("insert into secret select i, 'x' from generate_series(1, 50) as i")
    conn.execute("alter table secret enable row level security")
    conn.execute("create policy few on secret using (id <= 3)")
    with new_roles(dsn, "estimates"):
        conn.execute("grant select on secret to estimates")
        conn.execute("select pgembed.grant_usage('estimates')")
        done = run(
            *("create", "secret", "body", "--dry-run"),
            *("--model", "openai/text-embedding-3-small"),
            dsn=f"{dsn} options='-c role=estimates'",
        )
    assert "  3 rows, of which 3 were read" in done.output, done.output


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
    embedded.execute("alter table article add attrs jsonb")
    embedded.execute("update article set attrs = jsonb_build_object('size', id)")
    done = run(
        *("search", "article", "tea", "--encoder", "hashing", "--json"),
        *("--filter", '{"attrs.size": {"$in": [1]}}'),
        dsn=dsn,
    )
    (line,) = done.output.splitlines()
    assert json.loads(line)["doc"]["id"] == 1
    embedded.execute("alter table article drop attrs")
    done = run("similar", "article", "1", "--json", dsn=dsn)
    assert json.loads(done.output)["doc"]["id"] == 2


@pytest.fixture
def words(embedded: psycopg.Connection) -> psycopg.Connection:
    """Both arms: vectors, and a BM25 index that is built."""
    pgembed.alter_embedding(
        embedded, "article_embedding", bm25=True, bm25_options={"config": "english"}
    )
    pgembed.bm25_maintain(embedded)
    return embedded


def test_search_shows_both_ranks_where_there_are_both(
    words: psycopg.Connection, dsn: str
) -> None:
    ask = ("search", "article", "teas", "--encoder", "hashing")
    done = run(*ask, dsn=dsn)
    assert "vectors" in done.output
    assert "title: green tea" in done.output
    assert "1. (" in done.output
    assert "–" in done.output  # the fox has no word of the query
    lines = [json.loads(x) for x in run(*ask, "--json", dsn=dsn).output.splitlines()]
    (tea,) = (line for line in lines if line["doc"]["id"] == 2)
    assert tea["bm25_rank"] == 1
    assert tea["vector_rank"] is not None
    assert tea["snippet"] == "green <b>tea</b>"
    (fox,) = (line for line in lines if line["doc"]["id"] == 1)
    assert (fox["bm25_rank"], fox["bm25"]) == (None, None)


def test_what_is_printed_fits_and_is_whole(words: psycopg.Connection, dsn: str) -> None:
    name = "an-organisation/a-model-whose-name-is-long-" + "x" * 40
    words.execute("select pgembed.register_model(%s, 3, 'hashing')", [name])
    words.execute(
        'alter table article add more jsonb default \'{"a": "%s"}\'' % ("y" * 90)
    )
    listed = run("model", "list", dsn=dsn, columns=80).output
    assert f"\n{name}\n  hashing, 3 dimensions, cosine\n" in listed
    ask = ("search", "article", "tea", "--mode", "bm25")
    lines = run(*ask, dsn=dsn, columns=80).output.splitlines()
    assert lines[0] == "1. BM25 0.69"
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert 'more: {"a":' in " ".join(lines)
    one = run(*ask, "--columns", "title, id", "--no-snippets", dsn=dsn).output
    assert one.splitlines()[1] == "  title: green tea  id: 2"
    wrong = run(*ask, "--columns", "nosuch", dsn=dsn)
    assert "there is no column 'nosuch'" in wrong.output
    assert (
        "--min-similarity does not go with"
        in run(*ask, "--min-similarity", "0.5", dsn=dsn).output
    )


def test_an_option_goes_back_to_its_default(
    words: psycopg.Connection, dsn: str
) -> None:
    name = "article_embedding"
    assert run("alter", name, "--max-attempts", "2", dsn=dsn).exit_code == 0
    assert run("alter", name, "--reset", "max_attempts", dsn=dsn).exit_code == 0
    attempts = words.execute("select max_attempts from pgembed.embedding").fetchone()
    assert attempts == (5,)
    done = run("alter", name, "--reset", "nosuch", dsn=dsn)
    assert done.exit_code == 1
    assert "nosuch" in done.output


def test_search_modes(words: psycopg.Connection, dsn: str) -> None:
    done = run("search", "article", "teas", "--mode", "bm25", dsn=dsn)
    assert "BM25" in done.output
    assert "red fox" not in done.output
    done = run(
        *("search", "article", "gre", "--mode", "bm25", "--prefix", "--json"), dsn=dsn
    )
    assert json.loads(done.output)["doc"]["id"] == 2
    wrong = ("search", "article", "gren", "--mode", "bm25", "--fuzzy")
    assert "gren: read as green" in run(*wrong, dsn=dsn).output
    line = json.loads(run(*wrong, "--json", dsn=dsn).output)
    assert (line["doc"]["id"], line["read_as"]) == (2, {"gren": "green"})
    done = run(
        *("search", "article", "fox OR tea -green", "--mode", "bm25", "--json"),
        *("--syntax", "websearch"),
        dsn=dsn,
    )
    assert json.loads(done.output)["doc"]["id"] == 1
    done = run(
        *("search", "article", "tea", "--mode", "vector", "--encoder", "hashing"),
        dsn=dsn,
    )
    assert "similarity" in done.output
    exact = ("search", "article", "tea", "--exact", "--encoder", "hashing")
    assert "similarity" in run(*exact, dsn=dsn).output
    done = run(*exact, "--mode", "hybrid", dsn=dsn)
    assert done.exit_code == 1
    assert "--exact goes with --mode vector" in done.output
    done = run("search", "article", "tea", dsn=dsn)
    assert done.exit_code == 1  # no service runs
    done = run(
        "search", "article", "tea", "--on-missing-query-embedding", "bm25", dsn=dsn
    )
    assert "title: green tea" in done.output
    assert run("search", "article", "zebra", "--mode", "bm25", dsn=dsn).output == (
        "No row matches.\n"
    )


def test_search_reranked(
    words: psycopg.Connection, dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = str(save_cross_encoder(tmp_path_factory.mktemp("cross-encoder")))
    ask = ("search", "article", "green tea or red fox", "--rerank", "2")
    for mode in ("bm25", "vector", "hybrid"):
        options = ["--mode", mode, "--reranker", model]
        options += [] if mode == "bm25" else ["--encoder", "hashing"]
        done = run(*ask, *options, dsn=dsn)
        assert done.exit_code == 0, done.output
        assert "re-ranked" in done.output
        lines = run(*ask, *options, "--json", dsn=dsn).output.splitlines()
        scores = [json.loads(line)["rerank_score"] for line in lines]
        assert scores == sorted(scores, reverse=True)
    wrong = ("--mode", "bm25", "--reranker", "/no/model")
    assert "was not found" in run(*ask, *wrong, dsn=dsn).output


def test_bm25_alone_from_create_to_drop(shop: psycopg.Connection, dsn: str) -> None:
    done = run(
        *("bm25", "create", "article", "title", "--name", "titles"),
        *("--config", "english", "--k1", "0.9", "--b", "0.4"),
        dsn=dsn,
    )
    assert done.exit_code == 0, done.output
    assert "Created BM25 index titles." in done.output
    found = shop.execute("select config, k1, b from pgembed.bm25").fetchone()
    assert found == ("pg_catalog.english", 0.9, 0.4)
    assert run("bm25", "maintain", dsn=dsn).exit_code == 0
    assert run("bm25", "maintain", "titles", "--min-rows", "1", dsn=dsn).exit_code == 0
    # Words are all that there is to search.
    assert "green tea" in run("search", "article", "teas", dsn=dsn).output
    assert run("bm25", "alter", "titles", "--k1", "1.5", dsn=dsn).exit_code == 0
    assert shop.execute("select k1, b from pgembed.bm25").fetchone() == (1.5, 0.4)
    assert run("bm25", "rebuild", "titles", dsn=dsn).exit_code == 0
    assert run("bm25", "drop", "titles", dsn=dsn).exit_code == 0
    assert run("bm25", "drop", "titles", dsn=dsn).exit_code == 1
    assert run("bm25", "drop", "titles", "--if-exists", dsn=dsn).exit_code == 0


def test_of_several_one_is_the_default(shop: psycopg.Connection, dsn: str) -> None:
    shop.execute("select pgembed.register_model('hashing', 8, 'hashing')")
    model = ("--model", "hashing")
    chosen = "--is-default"
    run("create", "article", "title", "--name", "titles", *model, dsn=dsn)
    assert "default" not in run("status", dsn=dsn).output
    prices = ("article", "price::text", "--name", "prices", chosen)
    run("create", *prices, *model, dsn=dsn)
    (line,) = [
        line for line in run("status", dsn=dsn).output.splitlines() if "default" in line
    ]
    assert line.startswith("prices: ")
    assert line.endswith("on article, its default")
    run("alter", "titles", chosen, dsn=dsn)
    found = json.loads(run("status", "--json", dsn=dsn).output)
    assert {one["name"]: one["is_default"] for one in found} == {
        "prices": False,
        "titles": True,
    }
    run("bm25", "create", *prices[:3], "w", chosen, dsn=dsn)
    assert "BM25 index w on article, its default: " in run("status", dsn=dsn).output
    run("alter", "titles", chosen, dsn=dsn)
    assert "BM25 index w on article: " in run("status", dsn=dsn).output
    run("bm25", "alter", "w", chosen, dsn=dsn)
    assert "BM25 index w on article, its default: " in run("status", dsn=dsn).output


def test_bm25_of_an_embedding_is_declared_with_it(
    shop: psycopg.Connection, dsn: str
) -> None:
    pgembed.register_model(shop, "hashing", 64, provider="hashing")
    create = ("create", "article", "title", "--model", "hashing")
    assert run(*create, "--no-bm25", dsn=dsn).exit_code == 0
    assert shop.execute("select count(*) from pgembed.bm25").fetchone() == (0,)
    name = "article_embedding"
    done = run("alter", name, "--bm25", "--bm25-config", "english", dsn=dsn)
    assert done.exit_code == 0, done.output
    options = ("--bm25-options", '{"b": 0.5}')
    assert run("alter", name, *options, dsn=dsn).exit_code == 0
    found = shop.execute("select name, config, b from pgembed.bm25").fetchone()
    assert found == (name, "pg_catalog.english", 0.5)
    assert run("alter", name, "--no-bm25", dsn=dsn).exit_code == 0
    assert run("drop", name, dsn=dsn).exit_code == 0
    done = run(*create, "--bm25-config", "simple", *options, dsn=dsn)
    assert done.exit_code == 0, done.output
    found = shop.execute("select config, b from pgembed.bm25").fetchone()
    assert found == ("pg_catalog.simple", 0.5)


def test_status_as_text_and_as_json(embedded: psycopg.Connection, dsn: str) -> None:
    embedded.execute("insert into article values (3, 'white wolf', 9)")
    embedded.execute(
        "update pgembed.embedding set state = 'broken', state_reason = 'the reason'"
    )
    done = run("status", dsn=dsn)
    assert done.exit_code == 0, done.output
    for words in (
        "article_embedding: broken, model loaded by no service (hashing) on article",
        "2 of 3 rows with a vector (66.7 %)",
        "1 waiting, 0 being encoded, oldest ",
        "index valid, BM25 ready",
        "  the reason\n",
        "0 encoder services",
    ):
        assert words in done.output
    (one,) = json.loads(run("status", "--json", dsn=dsn).output)
    assert (one["rows"], one["embedded"], one["waiting"]) == (3, 2, 1)
    assert (one["encoding"], one["model_state"]) == (0, None)
    assert one["oldest_pending_seconds"] >= 0


def test_bm25_index_of_its_own_in_status_and_doctor(
    shop: psycopg.Connection, dsn: str
) -> None:
    assert "No embedding is declared" in run("status", dsn=dsn).output
    assert run("bm25", "create", "article", "title", dsn=dsn).exit_code == 0
    assert "BM25 index article_bm25 on article: ready" in run("status", dsn=dsn).output
    shop.execute("alter table article rename column title to headline")
    shop.execute("insert into article values (3, 'white wolf', 9)")
    done = run("bm25", "maintain", dsn=dsn)
    assert done.exit_code == 1
    assert "article_bm25: broken" in done.output
    assert "article_bm25 on article: broken" in run("status", dsn=dsn).output
    advice = run("doctor", dsn=dsn, columns=70).output
    assert "alter_bm25" in advice
    assert "SELECT pgembed.repair('public.article_bm25')" in advice


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "nosuch", "title"), "nosuch"),
        (("create", "article", "nope"), "nope"),
        (("create", "article", "title", "--index-options", "{"), "not JSON"),
        (("create", "article", "title", "--index-options", "[1]"), "not a JSON object"),
        (("create", "article", "title", "--model", "/no/such/model"), "/no/such/model"),
        (("drop", "nosuch"), "nosuch"),
        (("search", "article", "tea"), "has neither an embedding nor"),
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


def test_names_with_a_schema_and_what_is_there_already(
    embedded: psycopg.Connection, dsn: str
) -> None:
    embedded.execute("create schema beta")
    embedded.execute("create table beta.article (id int primary key, title text)")
    create = ("create", "beta.article", "title", "--model", "hashing")
    assert "Created embedding" in run(*create, dsn=dsn).output
    again = run(*create, "--if-not-exists", dsn=dsn)
    assert again.exit_code == 0
    assert "already, skipping" in again.output
    assert "Created" not in again.output
    assert run(*create, dsn=dsn).exit_code == 1
    bm25 = ("bm25", "create", "beta.article", "title", "--if-not-exists")
    assert "Created BM25 index article_bm25" in run(*bm25, dsn=dsn).output
    assert "Created" not in run(*bm25, dsn=dsn).output
    for command in ("pause", "resume", "reembed", "repair", "retry", "erase"):
        done = run(command, "beta.article_embedding", dsn=dsn)
        assert done.exit_code == 0, done.output
    for command in ("repair", "retry", "erase"):
        done = run(command, "beta.article_bm25", dsn=dsn)
        assert done.exit_code == 0, done.output
    assert run("erase", dsn=dsn).exit_code == 0
    statuses = json.loads(run("status", "--json", dsn=dsn).output)
    assert [one["schema"] for one in statuses] == ["beta", "public"]
    assert run("bm25", "drop", "beta.article_bm25", dsn=dsn).exit_code == 0
    assert run("drop", "beta.article_embedding", dsn=dsn).exit_code == 0
    assert [one.schema for one in pgembed.status(embedded)] == ["public"]


def test_what_the_server_remarks_is_shown(shop: psycopg.Connection, dsn: str) -> None:
    pgembed.register_model(shop, "hashing", 64, provider="hashing")
    done = run(
        *("create", "article", "title || current_date", "--model", "hashing"), dsn=dsn
    )
    assert done.exit_code == 0, done.output
    assert "NOTE: the text of" in done.output
    assert "reembed" in done.output


def test_rows_that_triggers_did_not_see_are_in_status(
    embedded: psycopg.Connection, dsn: str
) -> None:
    embedded.execute("alter table article disable trigger user")
    embedded.execute("insert into article values (3, 'white wolf', 9)")
    assert "  1 rows were written while triggers did not fire: `pgembed repair`" in (
        run("status", dsn=dsn).output
    )
    (one,) = json.loads(run("status", "--json", dsn=dsn).output)
    assert one["unseen"] == 1


def test_grant_and_revoke(embedded: psycopg.Connection, dsn: str) -> None:
    may = "select has_schema_privilege('pgembed_test_cli', 'pgembed', 'usage')"
    with new_roles(dsn, "pgembed_test_cli"):
        assert run("grant", "pgembed_test_cli", dsn=dsn).exit_code == 0
        assert embedded.execute(may).fetchone() == (True,)
        assert run("revoke", "pgembed_test_cli", dsn=dsn).exit_code == 0
        assert embedded.execute(may).fetchone() == (False,)
    assert run("grant", "pgembed_test_cli", dsn=dsn).exit_code == 1
