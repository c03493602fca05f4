"""Static models in PostgreSQL: stored once, and queries need no service."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram
from typer.testing import CliRunner, Result

import pgembed
from pgembed import schema, token_vectors
from pgembed.cli import app
from pgembed.encoders.static import StaticEncoder
from pgembed.errors import InvalidParameter, ModelMismatch, NoEncoderService
from pgembed.testing import process_all
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.static_models import (
    minilm_tokenizer,
    save_model2vec,
    save_static_embedding,
)
from tests.fixtures.static_models import (
    token_vectors as vectors_of_minilm,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pgembed.options import VectorType

TEXTS = [
    "Cheap flights to Rome",
    "how do cheap flights from berlin to rome compare with night trains",
    "Ein Flugzeug hebt gerade ab; naïve café, ÅNGSTRÖM",
    "飛行機が離陸しています。",
    "emoji 🤖 and 𝔘nknown [SEP] hyperparathyroidism",
    "word " * 700,
]
runner = CliRunner()


def run(*arguments: str, dsn: str, typed: str = "") -> Result:
    return runner.invoke(
        app, list(arguments), input=typed, env={"PGEMBED_DSN": dsn, "COLUMNS": "200"}
    )


def embedded(
    conn: psycopg.Connection, model: str, texts: list[str]
) -> np.ndarray[Any, Any]:
    rows = conn.execute(
        "select pgembed.embed(x, %s)::text from unnest(%s::text[])"
        " with ordinality as u(x, n) order by n",
        [model, texts],
    ).fetchall()
    return np.array([json.loads(row[0]) for row in rows], dtype=np.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_static_embedding(tmp_path_factory.mktemp("static") / "m")


@pytest.fixture
def stored(conn: psycopg.Connection, folder: Path) -> str:
    token_vectors.import_model(conn, StaticEncoder(str(folder)))
    return str(folder)


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize(("vector_type", "atol"), [("vector", 1e-6), ("halfvec", 1e-3)])
@pytest.mark.parametrize("kind", ["sentence-transformers", "model2vec", "words"])
def test_vectors_are_those_of_the_service(
    conn: psycopg.Connection,
    tmp_path: Path,
    kind: str,
    vector_type: VectorType,
    atol: float,
) -> None:
    texts = TEXTS
    if kind == "sentence-transformers":
        path = save_static_embedding(tmp_path / "m", normalize=False)
    elif kind == "model2vec":
        vectors = vectors_of_minilm()
        weights = np.linspace(1e-4, 1, len(vectors), dtype=np.float32)
        tensors = {"embeddings": vectors, "weights": weights}
        path = save_model2vec(tmp_path / "m", tensors, normalize=True, max_length=7)
    else:
        path = tmp_path / "v.txt"
        path.write_text("cheap 1 2 3\nflights -0.1 0 1e-3\ncafé 5 4 3\n")
        texts = ["Cheap flights, CHEAP!", "a café of unknown words"]
    encoder = StaticEncoder(str(path))
    token_vectors.import_model(conn, encoder, vector_type=vector_type)
    expected = encoder.encode_queries(texts)
    scale = 1 if encoder.normalized else np.abs(expected).max()
    found = embedded(conn, encoder.name, texts)
    np.testing.assert_allclose(found / scale, expected / scale, atol=atol)


def test_command_says_the_size_asks_and_stores(
    conn: psycopg.Connection, dsn: str, folder: Path
) -> None:
    arguments = ("model", "import", str(folder), "--name", "mine")
    said = "mine: 30,522 tokens of 64 dimensions as halfvec, about 9 MB"
    for more, typed in ((["--dry-run"], ""), ([], "n\n")):
        done = run(*arguments, *more, dsn=dsn, typed=typed)
        assert said in done.output
        assert conn.execute("select from pgembed.tokenizer").fetchall() == []
    done = run(*arguments, "--dimensions", "32", "--yes", dsn=dsn)
    assert "Stored mine." in done.output
    assert embedded(conn, "mine", ["a cat"]).shape == (1, 32)
    assert "stored in the database" in run("model", "list", dsn=dsn).output
    row = conn.execute(
        "select sum(pg_total_relation_size(c)) from unnest(array["
        "'pgembed.token', 'pgembed.token_vector']::regclass[]) as c"
    ).fetchone()
    assert row is not None
    encoder = StaticEncoder(str(folder), dimensions=32)
    estimate = token_vectors.of_static(encoder).stored_bytes("halfvec")
    assert estimate == pytest.approx(row[0], rel=0.25)
    done = run("model", "drop", "mine", dsn=dsn)
    assert done.output == "Dropped mine.\n"
    for table in ("token_encoder", "token_vector", "tokenizer", "token"):
        assert conn.execute(f"select from pgembed.{table}").fetchall() == []


def test_search_needs_no_service_in_a_transaction_that_only_reads(
    conn: psycopg.Connection, dsn: str, stored: str
) -> None:
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc values (1, 'cheap flights to rome'), (2, 'how to bake bread')"
    )
    pgembed.create_embedding(conn, "doc", "body", model=stored, name="d", bm25=True)
    assert process_all(dsn)["d"].embedded == 2
    conn.execute("set default_transaction_read_only = on")
    statements = (
        "select (doc).id from pgembed.vector_search(null::doc, %s, k => 1)",
        "select (doc).id from pgembed.hybrid_search(null::doc, %s, k => 1)",
        "select key::int from pgembed.search('doc', %s, k => 1)",
    )
    for statement in statements:
        with conn.transaction():
            assert conn.execute(statement, ["inexpensive flight"]).fetchall() == [(1,)]
    hits = pgembed.hybrid_search(conn, "doc", "inexpensive flight", k=1)
    assert [hit.doc["id"] for hit in hits] == [1]
    # What asks a service finds that there is no need.
    conn.execute("call pgembed.encode('inexpensive flight', %s)", [stored])
    assert conn.execute("select from pgembed.query_embedding").fetchall() == []


def test_projected_vectors_are_found_without_a_service(
    empty_dsn: str, folder: Path
) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("drop extension if exists vector cascade")
        conn.execute("create schema ext; create extension vector schema ext")
        schema.install(empty_dsn)
        encoder = StaticEncoder(str(folder))
        token_vectors.import_model(conn, encoder, vector_type="vector")
        conn.execute("create table doc (id int primary key, body text)")
        conn.execute(
            "insert into doc select i, 'flights to rome ' || i || ' bread ' || i * i"
            " from generate_series(1, 80) as i"
        )
        pgembed.create_embedding(conn, "doc", "body", model=encoder.name, name="d")
        assert process_all(empty_dsn)["d"].embedded == 80
        pgembed.alter_embedding(conn, "d", dimensions=16, reduction="pca")
        now = process_all(empty_dsn)["d"]
        assert (now.dimensions, now.reduction) == (16, "pca")
        # A text as a query is nearest to itself, at the same place.
        search = (
            "select (doc).id, distance from pgembed.vector_search("
            "null::doc, (select body from doc where id = %s), k => 1)"
        )
        for key in (1, 40, 80):
            found = conn.execute(search, [key]).fetchone()
            assert found is not None
            assert found[0] == key
            assert found[1] == pytest.approx(0, abs=1e-5)


def test_a_role_that_may_search_needs_nothing_more(
    conn: psycopg.Connection, dsn: str, stored: str
) -> None:
    app_role, other = "pgembed_test_app", "pgembed_test_other"
    with new_roles(dsn, app_role, other):
        conn.execute("select pgembed.grant_usage(%s)", [app_role])
        with acting_as(dsn, app_role) as user:
            assert embedded(user, stored, ["a cat"]).shape == (1, 64)
        with (
            acting_as(dsn, other) as user,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            embedded(user, stored, ["a cat"])


def test_the_prompt_goes_before_the_query(
    conn: psycopg.Connection, tmp_path: Path
) -> None:
    folder = save_static_embedding(tmp_path / "m")
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: "}})
    )
    encoder = StaticEncoder(str(folder))
    token_vectors.import_model(conn, encoder, vector_type="vector")
    np.testing.assert_allclose(
        embedded(conn, str(folder), ["a cat"]),
        StaticEncoder(str(folder), query_prompt="").encode_queries(["query: a cat"]),
        atol=1e-6,
    )


def test_other_weights_are_not_mixed_in(
    conn: psycopg.Connection, stored: str, tmp_path: Path
) -> None:
    other = StaticEncoder(
        str(
            save_static_embedding(
                tmp_path / "m", vectors=vectors_of_minilm()[:, ::-1].copy()
            )
        )
    )
    other.name = stored
    with pytest.raises(psycopg.Error) as caught:
        token_vectors.import_model(conn, other)
    assert caught.value.sqlstate == ModelMismatch.sqlstate
    before = embedded(conn, stored, ["a cat"])
    # Until the new ones are here, queries are for a service that has them.
    pgembed.accept_weights(conn, stored, other.fingerprint)
    with pytest.raises(psycopg.Error) as caught:
        embedded(conn, stored, ["a cat"])
    assert caught.value.sqlstate == NoEncoderService.sqlstate
    token_vectors.import_model(conn, other)
    np.testing.assert_allclose(
        embedded(conn, stored, ["a cat"]), before[:, ::-1], atol=2e-3
    )
    # What was stored before is gone, but the tokenizer is shared.
    assert conn.execute(
        "select (select count(*) from pgembed.token_encoder),"
        " (select count(*) from pgembed.tokenizer),"
        " (select count(*) from pgembed.token_vector)"
    ).fetchone() == (1, 1, 30522)


def test_a_query_without_a_known_word_is_refused(
    conn: psycopg.Connection, dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "v.txt").write_text("cheap 1 2\nflights 2 1\n")
    encoder = StaticEncoder(str(tmp_path / "v.txt"))
    token_vectors.import_model(conn, encoder)
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute("insert into doc values (1, 'cheap'), (2, 'nothing known')")
    pgembed.create_embedding(
        conn, "doc", "body", model=encoder.name, name="d", max_attempts=1
    )
    done = process_all(dsn)["d"]
    assert (done.embedded, done.failed) == (1, 1)
    with pytest.raises(psycopg.errors.Error, match="the query vector is zero"):
        conn.execute("select pgembed.vector_search(null::doc, 'expensive')")


def _bpe() -> str:
    return str(Tokenizer(BPE({"a": 0, "b": 1}, [])).to_str())


def _unigram() -> str:
    return str(Tokenizer(Unigram([("a", 0.0), ("b", 0.0)], 0, False)).to_str())


def _changed(**parts: object) -> str:
    return json.dumps(json.loads(minilm_tokenizer()) | parts)


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (_bpe(), "its model is BPE"),
        (_unigram(), "its model is Unigram"),
        (_changed(normalizer={"type": "NFKC"}), "its normalizer is NFKC"),
        (_changed(pre_tokenizer={"type": "Whitespace"}), "its pre-tokenizer is Whit"),
        (_changed(pre_tokenizer=None), "its pre-tokenizer is none"),
    ],
)
def test_other_tokenizers_are_left_to_the_service(
    conn: psycopg.Connection, dsn: str, tmp_path: Path, tokenizer: str, why: str
) -> None:
    folder = save_static_embedding(tmp_path / "m", tokenizer=tokenizer)
    done = run("model", "import", str(folder), "--yes", dsn=dsn)
    assert done.exit_code == 1
    assert why in done.stderr
    assert "Leave other models to the service" in done.stderr
    assert conn.execute("select from pgembed.token").fetchall() == []


def test_numbers_that_are_too_large_for_halfvec_are_refused(
    conn: psycopg.Connection, tmp_path: Path
) -> None:
    folder = save_static_embedding(
        tmp_path / "m", vectors=vectors_of_minilm() * 1e6, normalize=False
    )
    encoder = StaticEncoder(str(folder))
    with pytest.raises(InvalidParameter, match="halfvec goes to 65504"):
        token_vectors.import_model(conn, encoder)
    assert (
        conn.execute(
            "select from pgembed.model where name = %s", [str(folder)]
        ).fetchall()
        == []
    )
    token_vectors.import_model(conn, encoder, vector_type="vector")


def test_the_service_needs_no_files_of_a_stored_model(
    conn: psycopg.Connection, dsn: str, tmp_path: Path
) -> None:
    folder = save_static_embedding(tmp_path / "m")
    encoder = StaticEncoder(str(folder))
    encoder.name = "mine"
    token_vectors.import_model(conn, encoder)
    shutil.rmtree(folder)
    conn.execute("create table doc (id int primary key, body text)")
    for number, text in enumerate(TEXTS):
        conn.execute("insert into doc values (%s, %s)", [number, text])
    pgembed.create_embedding(conn, "doc", "body", model="mine", chunking="none")
    assert process_all(dsn)["doc_embedding"].embedded == len(TEXTS)
    # What is stored is what embed() gives: the same tokens, the same rounded numbers.
    assert conn.execute(
        "select count(*) from doc_embedding join doc using (id)"
        " where not embedding <-> pgembed.embed(body, 'mine') < 1e-6"
    ).fetchone() == (0,)


def test_pgvector_may_be_in_a_schema_of_its_own(empty_dsn: str, folder: Path) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("drop extension if exists vector cascade")
        conn.execute("create schema ext; create extension vector schema ext")
        schema.install(empty_dsn)
        encoder = StaticEncoder(str(folder))
        token_vectors.import_model(conn, encoder)
        np.testing.assert_allclose(
            embedded(conn, encoder.name, TEXTS),
            encoder.encode_queries(TEXTS),
            atol=1e-3,
        )
