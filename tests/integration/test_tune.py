"""`pgembed tune`: real runs of a small model, up to the switch to it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import Result

import pgembed
from pgembed.encoders import load_encoder
from pgembed.encoders.weights import fingerprint
from pgembed.errors import EvaluationError, InvalidParameter
from pgembed.evaluation.target import find_target
from pgembed.service import ServiceSettings, drain
from pgembed.settings import Settings
from pgembed.testing import process_all
from pgembed.tuning.examples import examples_of
from pgembed.tuning.mining import mine
from tests.fixtures.cli import invoke
from tests.fixtures.encoders import DIMENSIONS, save_encoder
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.static_models import save_static_embedding

ROWS = 70
FAST = ("--learning-rate", "0.005", "--batch-size", "16")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small transformer."""
    return save_encoder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of one's own models."""
    folder = tmp_path / "models"
    monkeypatch.setenv("PGEMBED_MODEL_FOLDER", str(folder))
    return folder


def make_table(conn: psycopg.Connection) -> None:
    """Make rows with vectors, and judgements of them."""
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc select i, 'part ' || i || ' of the machine, shelf ' || i %% 7"
        " from generate_series(1, %s::int) as i",
        [ROWS],
    )
    conn.execute("create table judgement (query text, document_id int, score int)")
    conn.execute("insert into judgement select 'where is ' || id, id, 1 from doc")
    pgembed.register_model(conn, "hashing", 64, provider="hashing")
    pgembed.create_embedding(conn, "doc", "body", model="hashing", index="none")
    process_all(conn.info.dsn)


@pytest.fixture
@prepared_by(make_table)
def table(conn: psycopg.Connection) -> psycopg.Connection:
    """The table, filled and encoded."""
    return conn


def run(*arguments: object, dsn: str) -> Result:
    words = ["tune", *map(str, arguments), "--dsn", dsn]
    return invoke(words, env={"COLUMNS": "200"})


def test_tuned_from_a_table_and_switched_to(
    table: psycopg.Connection, dsn: str, base: Path, models: Path
) -> None:
    before = fingerprint(base)
    done = run(
        *(base, "--name", "tuned", "--from", "judgement", "--table", "doc"),
        *(*FAST, "--epochs", 6, "--patience", 20, "--matryoshka", 16),
        dsn=dsn,
    )
    assert done.exit_code == 0, done.output
    assert f"10 held-out queries, {ROWS} documents: nDCG@10" in done.output
    values = [
        [float(value) for value in re.findall(r"[+-]?\d\.\d{4}", line)]
        for line in done.output.splitlines()
        if "to" in line and line.lstrip("│┃ ")[:2] in {"32", "16"}
    ]
    assert len(values) == 2
    for old, new, difference, low, high in values:
        assert 0 <= old < new <= 1
        assert difference == pytest.approx(new - old, abs=2e-4)
        assert low <= difference <= high
    assert "Trained on 60 pairs" in done.output
    assert "no better" not in done.output

    folder = models / "tuned"
    assert {path.name for path in models.iterdir()} == {"tuned"}  # nothing else is left
    assert (folder / "modules.json").is_file()
    assert fingerprint(base) == before
    assert fingerprint(folder) != before
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu").encode(["part 3"])
    own = load_encoder("tuned", settings=Settings.from_env())
    assert own.encode_documents(["part 3"]) == pytest.approx(theirs, abs=1e-5)

    (statement,) = re.findall(r"SELECT pgembed\.alter_embedding\(.*;", done.output)
    table.execute(statement)
    asyncio.run(drain(dsn, ServiceSettings.from_env()))
    assert table.execute(
        "select m.name, m.fingerprint, m.dimensions, m.normalized, m.max_tokens"
        " from pgembed.embedding as e join pgembed.model as m using (model_id)"
        " where e.name = 'doc_embedding'"
    ).fetchone() == ("tuned", fingerprint(folder), DIMENSIONS, True, 64)
    hits = pgembed.vector_search(table, "doc", "where is 33", k=10, encoder="tuned")
    assert 33 in [hit.doc["id"] for hit in hits]


def test_triples_of_a_file_and_test_judgements(
    conn: psycopg.Connection, dsn: str, base: Path, models: Path, tmp_path: Path
) -> None:
    def write(name: str, first: int, last: int) -> Path:
        rows = [
            {"query": f"where is {n}", "positive": f"part {n}", "negative": f"box {n}"}
            for n in range(first, last)
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return tmp_path / name

    done = run(
        *(base, "--name", "of/triples", "--data", write("train.jsonl", 0, 60)),
        *("--test", write("test.jsonl", 60, 80), *FAST, "--max-steps", 2),
        *("--negatives", 2, "--max-tokens", 16),
        dsn=dsn,
    )
    assert done.exit_code == 0, done.output
    assert "20 test queries, 160 documents" in done.output
    assert "of 2 steps" in done.output
    assert "alter_embedding" not in done.output  # of which table?
    # Cut while it was trained only.
    assert load_encoder("of/triples", settings=Settings.from_env()).max_tokens == 64


def test_prompts_of_the_base_are_the_tuned_models(
    conn: psycopg.Connection, dsn: str, base: Path, models: Path, tmp_path: Path
) -> None:
    pgembed.register_model(
        conn, str(base), DIMENSIONS, query_prompt="ask: ", document_prompt="text: "
    )
    conn.execute(
        "create table pair as select 'where is ' || i as query, 'part ' || i as answer"
        " from generate_series(1, 60) as i"
    )
    done = run(
        *(base, "--name", "prompted", *FAST, "--max-steps", 1),
        *("--from", "select * from pair where answer like 'part %'"),
        dsn=dsn,
    )
    assert done.exit_code == 0, done.output
    made = load_encoder("prompted", settings=Settings.from_env())
    assert (made.query_prompt, made.document_prompt) == ("ask: ", "text: ")


def test_training_stops_early_and_keeps_the_best(base: Path) -> None:
    from pgembed.encoders.sentence_transformers import SentenceTransformersEncoder
    from pgembed.tuning.training import Row, TrainingOptions, train

    rows = [Row(f"where is {n}", f"part {n}", (f"part {n + 1}",)) for n in range(60)]
    options = TrainingOptions(
        epochs=20, batch_size=64, learning_rate=1, patience=2, max_tokens=8
    )
    encoder = SentenceTransformersEncoder(str(base))
    done = train(encoder, rows[:50], rows[50:], options)
    assert len(done.losses) < 20
    assert done.losses[done.steps] == min(done.losses.values())
    assert list(done.losses)[-3] == done.steps
    assert encoder.max_tokens == encoder.library_model.max_seq_length == 64


def refused(conn: psycopg.Connection, models: Path, done: Result) -> str:
    """Give the message of a command that has changed nothing."""
    assert done.exit_code == 1, done.output
    assert not models.exists() or not list(models.iterdir())
    names = conn.execute("select name from pgembed.model order by 1").fetchall()
    assert ("new",) not in names
    return " ".join(done.output.split())


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select * from judgement limit 3", "3 different queries have a relevant"),
        ("select * from judgement limit 0", "there are no judgements"),
        ("select query, id + 1000 as id from judgement, doc", "none of the 70 judged"),
        ("select query, '' as positive from judgement", "positive is empty"),
        (
            "select query, 'NaN'::float8 as score, document_id from judgement",
            "the score is nan",
        ),
        ("select query from judgement", "none of the fields document_id"),
        ("missing", 'relation "missing" does not exist'),
        ("delete from judgement", "is not a table name"),
        ("with d as (delete from doc returning 1) table d", "read-only transaction"),
    ],
)
def test_bad_examples_change_nothing(
    table: psycopg.Connection,
    dsn: str,
    base: Path,
    models: Path,
    query: str,
    message: str,
) -> None:
    done = run(base, "--name", "new", "--from", query, "--table", "doc", dsn=dsn)
    assert message in refused(table, models, done)
    assert table.execute("select count(*) from doc").fetchone() == (ROWS,)


def test_images_have_no_texts_to_learn_from(
    table: psycopg.Connection, dsn: str, base: Path, models: Path
) -> None:
    table.execute("create table photo (id int primary key, photo bytea)")
    pgembed.create_embedding(table, "photo", "photo", model="clip-ViT-B-32")
    ask = ("--name", "new", "--from", "judgement", "--table", "photo")
    assert "is of images" in refused(table, models, run(base, *ask, dsn=dsn))


def test_stored_judgements_are_read(
    table: psycopg.Connection, dsn: str, base: Path, models: Path
) -> None:
    for key in (1, 2, 3):
        pgembed.judge(table, "doc", f"where is {key}", key, 1)
    ask = ("--name", "new", "--judgements", "--table", "doc")
    done = run(base, *ask, dsn=dsn)
    assert "3 different queries have a relevant" in refused(table, models, done)


def test_a_base_that_cannot_be_trained(
    table: psycopg.Connection, dsn: str, models: Path, tmp_path: Path
) -> None:
    pgembed.register_model(table, "voyage/voyage-3.5", 1024, provider="litellm")
    pgembed.register_model(table, "words", 50, provider="static")
    static = save_static_embedding(tmp_path / "static")
    for name, message in (
        ("hashing", "its provider is hashing"),
        ("voyage/voyage-3.5", "its provider is litellm"),
        ("text-embedding-3-small", "its provider is litellm"),
        ("words", "its provider is static"),
        (str(static), "begins with StaticEmbedding"),
    ):
        done = run(name, "--name", "new", "--from", "judgement", dsn=dsn)
        assert message in refused(table, models, done), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is nothing to learn from"),
        (("--from", "judgement", "--data", "x.csv"), "examples are given twice"),
        (("--judgements", "--data", "x.csv"), "examples are given twice"),
        (("--judgements",), "judgements are of rows, and no table is given"),
        (("--judgements", "--table", "doc"), "no judgement of 'doc' is stored"),
        (("--from", "judgement"), "Say of which table the ids are: --table."),
        (("--from", "judgement", "--key", "id"), "and no table"),
        (("--from", "judgement", "--table", "doc", "--held-out", "0"), "held_out is 0"),
        (("--from", "judgement", "--epochs", "0"), "epochs is 0"),
        (("--from", "judgement", "--learning-rate", "nan"), "learning_rate is nan"),
        (("--from", "judgement", "--matryoshka", "64"), "has 32 dimensions, so 64"),
        (("--from", "judgement", "--table", "judgement"), "has nothing to search"),
    ],
)
def test_bad_options_change_nothing(
    table: psycopg.Connection,
    dsn: str,
    base: Path,
    models: Path,
    words: tuple[str, ...],
    message: str,
) -> None:
    done = run(base, "--name", "new", *words, dsn=dsn)
    assert message in refused(table, models, done)


def test_a_name_that_is_taken(
    table: psycopg.Connection, dsn: str, base: Path, models: Path
) -> None:
    (models / "there").mkdir(parents=True)
    for name, message in (
        ("hashing", "a model 'hashing' is registered already"),
        ("../new", "is no name for a model"),
        ("all-MiniLM-L6-v2", "is the name of another model"),
        ("there", "there is a model 'there' already"),
    ):
        done = run(base, "--name", name, "--from", "judgement", dsn=dsn)
        assert done.exit_code == 1
        assert message in " ".join(done.output.split())


def test_a_name_that_is_taken_meanwhile(
    table: psycopg.Connection, dsn: str, base: Path, models: Path
) -> None:
    def progress(what: str, done: float) -> None:
        if what == "measuring":
            pgembed.register_model(table, "new", 3, provider="hashing")

    from pgembed.tuning.training import TrainingOptions
    from pgembed.tuning.tune import TuneOptions, tune

    options = TuneOptions(
        rows="judgement",
        table="doc",
        training=TrainingOptions(most_steps=1, batch_size=16),
    )
    settings = Settings.from_env()
    with pytest.raises(InvalidParameter, match="'new' is registered already"):
        tune(dsn, str(base), "new", options, settings=settings, progress=progress)
    assert not list(models.iterdir())
    row = table.execute("select provider from pgembed.model where name = 'new'")
    assert row.fetchone() == ("hashing",)


def examples(conn: psycopg.Connection) -> Any:
    rows = conn.execute("select query, document_id from judgement order by 2")
    return examples_of(
        (str(n), {"query": query, "document_id": key})
        for n, (query, key) in enumerate(rows)
    )


def test_hard_negatives_are_found_and_not_judged(table: psycopg.Connection) -> None:
    target = find_target(table, "doc")
    table.execute("insert into judgement values ('where is 7', 14, 0)")
    found = mine(table, target, examples(table))
    assert not found.missing
    assert not found.without_text
    assert found.texts["7"] == "part 7 of the machine, shelf 0"
    assert all(len(hits) > 1 for hits in found.hits.values())
    assert any(found.negatives.values())
    for query, negatives in found.negatives.items():
        assert not {
            query.rpartition(" ")[2],
            *(["14"] if query.endswith(" 7") else []),
        } & set(negatives)


def test_rows_without_text_and_rows_that_are_not_there(
    table: psycopg.Connection, dsn: str
) -> None:
    table.execute("insert into doc values (100, '')")
    table.execute("insert into judgement values ('a', 100, 1), ('b', 101, 1)")
    process_all(dsn)
    found = mine(table, find_target(table, "doc"), examples(table))
    assert found.missing == {"101"}
    assert found.without_text == {"100"}


def test_vectors_in_a_column(table: psycopg.Connection, dsn: str) -> None:
    table.execute("create table note (id int primary key, body text)")
    table.execute("insert into note values (1, 'one'), (2, 'two')")
    pgembed.create_embedding(
        table, "note", "body", model="hashing", storage="column", bm25=False
    )
    process_all(dsn)
    found = mine(table, find_target(table, "note"), examples(table))
    assert found.texts == {"1": "one", "2": "two"}


def test_hidden_rows_are_neither_answers_nor_negatives(
    table: psycopg.Connection, dsn: str
) -> None:
    table.execute("alter table doc enable row level security")
    table.execute("create policy odd on doc using (id % 2 = 1)")
    wanted = examples(table)
    with new_roles(dsn, "tune_reader"):
        table.execute("grant select on doc to tune_reader")
        table.execute("select pgembed.grant_usage('tune_reader')")
        table.execute("select pgembed.repair('doc_embedding')")
        with acting_as(dsn, "tune_reader") as reader:
            found = mine(reader, find_target(reader, "doc"), wanted)
    seen = {*found.texts, *(key for hits in found.hits.values() for key in hits)}
    assert seen
    assert all(int(key) % 2 for key in seen)
    assert found.missing == {str(n) for n in range(2, ROWS + 1, 2)}


def test_none_of_the_rows_is_there(table: psycopg.Connection) -> None:
    target = find_target(table, "doc")
    wanted = examples_of([("1", {"query": "a", "doc_id": "x"})])
    with pytest.raises(EvaluationError, match="none of the 1 judged documents is in"):
        mine(table, target, wanted)
