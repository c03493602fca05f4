"""A static model made out of MiniLM: all libraries load it, and it ranks sensibly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

import pgembed
from pgembed.cli import app
from pgembed.distil import distil
from pgembed.encoders import load_encoder
from pgembed.encoders.hashing import HashingEncoder
from pgembed.encoders.static import StaticEncoder
from pgembed.errors import DimensionMismatch, InvalidParameter
from pgembed.testing import process_all

MINILM = "all-MiniLM-L6-v2"
SUBJECTS = {
    "the cat sleeps": ["a kitten is asleep", "kittens like naps"],
    "shares fell on the stock market": ["investors sold equities", "prices of bonds"],
    "boil the pasta in salted water": ["recipe for spaghetti", "cook the noodles"],
    "the doctor treats the patient": ["a nurse in the hospital", "medicine for a cold"],
}
runner = CliRunner()


def ranks_sensibly(encoder: Any) -> int:
    """Count the texts whose nearest subject is their own."""
    subjects = list(SUBJECTS)
    texts = [text for some in SUBJECTS.values() for text in some]
    near = encoder.encode_documents(texts) @ encoder.encode_documents(subjects).T
    own = np.repeat(np.arange(len(subjects)), 2)
    return int((near.argmax(axis=1) == own).sum())


def test_command(conn: psycopg.Connection, dsn: str, tmp_path: Path) -> None:
    out = tmp_path / "small"
    done = runner.invoke(
        app,
        ["distil", MINILM, "--name", "small", "--out", str(out), "--dsn", dsn],
    )
    assert done.exit_code == 0, done.output
    assert "Stored small: 30,522 pieces of words, 256 dimensions." in done.output

    own = StaticEncoder(str(out))
    assert own.dimensions == 256
    assert ranks_sensibly(own) >= 7
    # All three libraries that read the format agree on it.
    from model2vec import StaticModel
    from sentence_transformers import SentenceTransformer

    texts = ["Boil the pasta!", "the doctor, and a nurse"]
    theirs = StaticModel.from_pretrained(str(out)).encode(texts)
    assert own.encode_documents(texts) == pytest.approx(theirs, abs=1e-5)
    loaded = SentenceTransformer(str(out), device="cpu").encode(texts)
    assert own.encode_documents(texts) == pytest.approx(loaded, abs=1e-5)

    conn.execute("create table doc (id int primary key, body text)")
    with conn.cursor() as cursor:
        cursor.executemany("insert into doc values (%s, %s)", list(enumerate(SUBJECTS)))
    pgembed.create_embedding(conn, "doc", "body", model="small")
    process_all(dsn)
    (hit,) = pgembed.vector_search(conn, "doc", "recipe for spaghetti", k=1)
    assert hit.doc["id"] == 2
    assert hit.encoded_by == "model"


@pytest.fixture
def texts(conn: psycopg.Connection, dsn: str) -> psycopg.Connection:
    """A table with MiniLM's vectors of its texts."""
    pgembed.register_model(conn, "hashing", 64, provider="hashing")
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc select i, concat_ws(' ', (array['wing', 'jet', 'shock'])"
        "[1 + i % 3], (array['flow', 'wave'])[1 + i % 2]) from"
        " generate_series(1, 300) as i"
    )
    pgembed.create_embedding(conn, "doc", "body", model="hashing", bm25=False)
    process_all(dsn)
    return conn


def test_of_a_table(texts: psycopg.Connection, dsn: str) -> None:
    command = ["distil", MINILM, "--table", "doc", "--dsn", dsn, "--dimensions", "32"]
    done = runner.invoke(app, [*command, "--name", "own"])
    assert done.exit_code == 0, done.output
    assert "32 dimensions, learnt from 300 chunks of doc." in done.output
    near = texts.execute(
        "select pgembed.embed('jet', 'own') <=> pgembed.embed('jets', 'own')"
    ).fetchone()
    assert near is not None

    texts.execute("alter table doc enable row level security")
    done = runner.invoke(app, [*command, "--name", "other"])
    assert done.exit_code == 1
    assert "row-level security" in done.output
    done = runner.invoke(app, ["distil", MINILM, "--table", "no", "--name", "x"])
    assert done.exit_code == 1


def test_trained_on_vectors_it_is_nearer_to_the_teacher() -> None:
    teacher = HashingEncoder("hashing", 64)
    generator = np.random.default_rng(1)
    words = ["wing", "jet", "shock", "flow", "wave", "heat", "drag", "lift", "gas"]
    texts = [" ".join(generator.choice(words, 5)) for _ in range(500)]
    vectors = teacher.encode_documents(texts)
    made = distil(teacher, dimensions=64, texts=texts, vectors=vectors)
    ids = [one.ids for one in made.tokenizer.encode_batch(texts)]
    sums = np.array([made.vectors[tokens].sum(axis=0) for tokens in ids])
    similar = sums @ sums.T / np.outer(*2 * [np.linalg.norm(sums, axis=1)])
    assert np.corrcoef(similar.ravel(), (vectors @ vectors.T).ravel())[0, 1] > 0.9


def test_without_vectors_a_word_weighs_as_it_is_rare() -> None:
    teacher = HashingEncoder("hashing", 64)
    some = ["wing", "jet", "shock", "flow", "wave", "heat", "drag", "lift"]
    texts = [f"every {word} {some[n // 2]}" for n, word in enumerate(some)]
    made = distil(teacher, dimensions=8, texts=texts)
    lengths = {
        word: np.linalg.norm(made.vectors[made.tokenizer.encode(word).ids].sum(axis=0))
        for word in ("every", "wing", "lift")
    }
    assert lengths["every"] == 0  # as in all texts
    assert 0 < lengths["wing"] < lengths["lift"]


def test_bad_input() -> None:
    teacher = HashingEncoder("hashing", 64)
    with pytest.raises(DimensionMismatch, match="has 64 dimensions"):
        distil(teacher, dimensions=65)
    with pytest.raises(InvalidParameter, match="no tokenizer"):
        distil(teacher, dimensions=8)
    minilm = load_encoder(MINILM)
    with pytest.raises(DimensionMismatch):
        distil(minilm, dimensions=0)
