"""Query encoders: PostgreSQL encodes queries in the space of a model, without it."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typer.testing import CliRunner

import pgembed
from pgembed import aclient
from pgembed.cli import app
from pgembed.encoders.hashing import HashingEncoder
from pgembed.errors import (
    DimensionMismatch,
    InvalidParameter,
    ModelMismatch,
    NoEncoderService,
    UnknownEmbedding,
)
from pgembed.query_encoder.store import train_query_encoder
from pgembed.sqlalchemy import Embedding
from pgembed.testing import process_all
from tests.fixtures.postgres import prepared_by
from tests.fixtures.roles import acting_as, new_roles
from tests.fixtures.serving import ServeProcess
from tests.fixtures.urls import sqlalchemy_url

MODEL = "hashing"
DIMENSIONS = 64
WORDS = [
    "wing",
    "flow",
    "heat",
    "shock",
    "wave",
    "layer",
    "jet",
    "nozzle",
    "drag",
    "lift",
    "cone",
    "plate",
    "body",
    "speed",
    "sound",
    "panel",
    "shell",
    "stress",
    "crack",
    "beam",
    "load",
    "gas",
    "air",
    "slip",
    "fluid",
    "mach",
    "tail",
    "rotor",
    "blade",
    "fin",
]
ENCODED = {
    "vector": "select encoded_by from pgembed.vector_search(null::doc, %s, k => 3",
    "both": "select encoded_by from pgembed.hybrid_search(null::doc, %s, k => 3",
    "search": "select encoded_by from pgembed.search('doc', %s, k => 3",
}
LEARNT = [
    "select count(*) from pgembed.token_encoder",
    "select count(*) from pgembed.tokenizer",
    "select count(*) from pgembed.token",
    "select count(*) from pgembed.token_vector",
]
STATIC_OR_NOT: tuple[dict[str, Any], ...] = ({}, {"query_encoder": "static"})
MODEL_OR_NOT: tuple[dict[str, Any], ...] = ({}, {"query_encoder": "model"})
runner = CliRunner()


def texts(count: int) -> list[str]:
    generator = random.Random(1)
    return [" ".join(generator.choices(WORDS, k=6)) for _ in range(count)]


def prepare(conn: psycopg.Connection) -> None:
    """Make texts with vectors, and a query encoder."""
    pgembed.register_model(conn, MODEL, DIMENSIONS, provider="hashing")
    conn.execute("create table doc (id int primary key, body text, n int default 0)")
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into doc values (%s, %s)", list(enumerate(texts(400)))
        )
    pgembed.create_embedding(conn, "doc", "body", model=MODEL, bm25=True)
    process_all(make_conninfo(conn.info.dsn, password=conn.info.password))
    train_query_encoder(conn, "doc_embedding", encoder=encoder())


def encoder() -> HashingEncoder:
    return HashingEncoder(MODEL, DIMENSIONS)


@pytest.fixture
@prepared_by(prepare)
def docs(conn: psycopg.Connection) -> psycopg.Connection:
    """Texts with vectors, and a query encoder; no service is running."""
    return conn


def row(conn: psycopg.Connection, statement: str, *values: object) -> Any:
    found = conn.execute(statement.encode(), values).fetchone()
    assert found is not None
    return found


def test_it_is_trained_for_projected_vectors_and_goes_with_them(
    docs: psycopg.Connection, dsn: str
) -> None:
    pgembed.alter_embedding(docs, "doc_embedding", dimensions=16, reduction="pca")
    process_all(dsn)
    assert row(docs, "select reduction from pgembed.status where rows = embedded") == (
        "pca",
    )
    by_static: dict[str, Any] = {"query_encoder": "static"}
    with pytest.raises(NoEncoderService):
        pgembed.vector_search(docs, "doc", "shock wave", **by_static)
    trained = train_query_encoder(docs, "doc_embedding", encoder=encoder())
    assert trained.vectors.shape[1] == 16
    same = 0
    for query in texts(20):
        static, by_model = (
            [hit.doc["id"] for hit in pgembed.vector_search(docs, "doc", query, **one)]
            for one in (by_static, {"encoder": encoder()})
        )
        same += len({*static} & {*by_model})
    assert same / 200 > 0.6
    pgembed.alter_embedding(
        docs, "doc_embedding", reduction="truncate", switch="in_place"
    )
    own = LEARNT[0] + " as t join pgembed.embedding as e using (embedding_id)"
    assert row(docs, own + " where e.generation = 'current'") == (0,)


@pytest.mark.majors(18, 17, 16)
@pytest.mark.parametrize("function", ENCODED)
def test_searches_need_no_service(docs: psycopg.Connection, function: str) -> None:
    docs.execute("set default_transaction_read_only = on")
    for more in (")", ", query_encoder => 'auto')", ", query_encoder => 'static')"):
        with docs.transaction():
            hits = docs.execute((ENCODED[function] + more).encode(), ["shock wave"])
            assert [by for (by,) in hits] == ["static"] * 3
    with pytest.raises(psycopg.Error, match="not at hand") as caught:
        docs.execute(
            (ENCODED[function] + ", query_encoder => 'model')").encode(), ["shock wave"]
        )
    assert caught.value.sqlstate == "PE010"


def test_it_ranks_as_the_model_does(docs: psycopg.Connection) -> None:
    same = 0
    for query in texts(20):
        made, given = (
            {hit.doc["id"] for hit in pgembed.vector_search(docs, "doc", query, **by)}
            for by in ({"query_encoder": "static"}, {"encoder": encoder()})
        )
        same += len(made & given)
    assert same > 140  # of 200


def test_client_and_orm_go_on_without_a_service(
    docs: psycopg.Connection, dsn: str
) -> None:
    for find in (pgembed.vector_search, pgembed.hybrid_search, pgembed.search):
        for options in STATIC_OR_NOT:
            hits: Any = find(docs, "doc", "shock wave", k=3, **options)
            assert [hit.encoded_by for hit in hits] == ["static"] * 3
        with docs.transaction():
            inside: Any = find(docs, "doc", "shock wave", k=3)
            assert inside == hits
        with pytest.raises(NoEncoderService):
            find(docs, "doc", "shock wave", query_encoder="model")
        given: Any = find(docs, "doc", "shock wave", k=1, encoder=encoder())
        assert given[0].encoded_by is None
    count = pgembed.search_count(docs, "doc", "shock wave", min_similarity=0.5)
    assert 0 < count < 400

    async def search() -> Any:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            return await aclient.vector_search(conn, "doc", "shock wave", k=3)

    assert [hit.encoded_by for hit in asyncio.run(search())] == ["static"] * 3

    class Base(DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "doc"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        embedding = Embedding("body", model=MODEL, bm25=True)

    engine = create_engine(sqlalchemy_url(dsn))
    with Session(engine) as session:
        for options in STATIC_OR_NOT:
            searches: list[Any] = [
                Doc.embedding.vector_search("shock wave", k=3, **options),
                Doc.embedding.hybrid_search("shock wave", k=3, **options),
            ]
            for one in searches:
                hits = session.execute(one).all()
                assert [hit.encoded_by for _, hit in hits] == ["static"] * 3
        with pytest.raises(NoEncoderService):
            session.execute(
                Doc.embedding.vector_search("shock wave", query_encoder="model")
            )
    engine.dispose()


def test_the_embedding_says_where_a_search_does_not(docs: psycopg.Connection) -> None:
    def find(**options: Any) -> list[str | None]:
        found = pgembed.vector_search(docs, "doc", "shock wave", k=1, **options)
        return [hit.encoded_by for hit in found]

    pgembed.alter_embedding(docs, "doc_embedding", query_encoder="model")
    assert pgembed.status(docs)[0].query_encoder == "model"
    with pytest.raises(psycopg.Error, match="not at hand"):
        row(docs, ENCODED["search"] + ")", "shock wave")
    with pytest.raises(NoEncoderService):
        find()
    with pytest.raises(NoEncoderService):
        pgembed.search_count(docs, "doc", "shock wave", min_similarity=0.5)
    assert find(query_encoder="auto") == find(query_encoder="static") == ["static"]
    pgembed.alter_embedding(docs, "doc_embedding", query_encoder="static")
    assert row(docs, ENCODED["search"] + ")", "shock wave") == ("static",)
    assert find() == ["static"]
    with pytest.raises(NoEncoderService):
        find(query_encoder="model")
    docs.execute("delete from pgembed.token_encoder")
    with pytest.raises(NoEncoderService, match="cannot encode this query"):
        find()
    assert ("error", "query_encoder_missing") in docs.execute(
        "select severity, code from pgembed.doctor()"
    ).fetchall()


def test_another_model_waits_for_its_query_encoder(
    docs: psycopg.Connection, dsn: str
) -> None:
    def next_waits_for() -> str | None:
        (found,) = (one for one in pgembed.status(docs) if one.generation == "next")
        return found.switch_waits_for

    pgembed.alter_embedding(docs, "doc_embedding", query_encoder="static")
    pgembed.register_model(docs, "other", DIMENSIONS, provider="hashing")
    pgembed.alter_embedding(docs, "doc_embedding", model="other")
    process_all(dsn)
    assert (next_waits_for() or "").startswith("its query encoder")
    (hit,) = pgembed.vector_search(docs, "doc", "shock wave", k=1)
    assert hit.encoded_by == "static"
    train_query_encoder(docs, "doc_embedding_next")
    process_all(dsn)
    found = {one.generation: one.query_encoder for one in pgembed.status(docs)}
    assert found == {"current": "static", "previous": "static"}
    (hit,) = pgembed.vector_search(docs, "doc", "shock wave", k=1)
    assert hit.encoded_by == "static"


def test_auto_does_not_wait_for_a_service_that_was_killed(
    docs: psycopg.Connection, dsn: str, tmp_path: Path
) -> None:
    service = ServeProcess(dsn, tmp_path / "log", "--no-train-query-encoders")
    service.event("model.ready")
    (hit,) = pgembed.vector_search(docs, "doc", "shock wave", k=1)
    assert hit.encoded_by == "model"
    service.stop(signal.SIGKILL)
    began = time.monotonic()
    while row(docs, "select pgembed._service_awake()") == (True,):
        assert time.monotonic() < began + 5
    (hit,) = pgembed.vector_search(docs, "doc", "another wave", k=1)
    assert hit.encoded_by == "static"
    assert time.monotonic() < began + 5
    # Its heartbeat is young still: whoever wants the model waits.
    assert row(docs, "select pgembed._service_alive()") == (True,)
    with pytest.raises(NoEncoderService, match="answered within 1"):
        pgembed.vector_search(
            docs, "doc", "another wave", k=1, query_encoder="model", timeout=1
        )


def test_row_security_keeps_it_off_and_the_doctor_says_so(
    docs: psycopg.Connection,
) -> None:
    finding = "select advice from pgembed.doctor() where code ~ 'query_encoder'"
    assert docs.execute(finding).fetchall() == []
    docs.execute("alter table doc enable row level security")
    docs.execute("select pgembed._reconcile_v1()")
    assert "--over-row-security" in row(docs, finding)[0]
    train_query_encoder(docs, "doc_embedding", over_row_security=True)
    assert docs.execute(finding).fetchall() == []


def test_without_one_errors_are_those_of_before(docs: psycopg.Connection) -> None:
    docs.execute("delete from pgembed.token_encoder")
    for options in MODEL_OR_NOT:
        with pytest.raises(NoEncoderService, match="no encoder service is running"):
            pgembed.vector_search(docs, "doc", "shock wave", **options)
    with pytest.raises(NoEncoderService, match="cannot encode this query"):
        pgembed.vector_search(docs, "doc", "shock wave", query_encoder="static")
    with pytest.raises(InvalidParameter, match="'modle'"):
        pgembed.vector_search(docs, "doc", "shock", query_encoder="modle")  # type: ignore[call-overload]


def test_words_that_it_does_not_know(docs: psycopg.Connection) -> None:
    with pytest.raises(NoEncoderService) as caught:
        pgembed.vector_search(docs, "doc", "飛行機", query_encoder="static")
    assert "none of the words" in str(caught.value.detail)
    with pytest.raises(NoEncoderService, match=r"no encoder service is running|hand"):
        pgembed.vector_search(docs, "doc", "飛行機")


def test_it_is_of_the_weights_that_it_was_trained_on(docs: psycopg.Connection) -> None:
    docs.execute(
        "update pgembed.model set fingerprint = 'other' where name = 'hashing'"
    )
    with pytest.raises(NoEncoderService):
        pgembed.vector_search(docs, "doc", "shock wave")
    docs.execute("select pgembed.drop_embedding('doc_embedding')")
    assert row(docs, LEARNT[0]) == row(docs, LEARNT[3]) == (0,)


def test_what_was_learnt_is_for_who_may_read_what_it_was_learnt_from(
    docs: psycopg.Connection, dsn: str
) -> None:
    query = (
        "select encoded_by from pgembed.vector_search(null::doc, 'shock wave', k => 1)"
    )
    with new_roles(dsn, "reader", "titles"):
        docs.execute(
            "grant select on doc to reader; grant select (id, n) on doc to titles"
        )
        for role in ("reader", "titles"):
            docs.execute(f"select pgembed.grant_usage('{role}')".encode())
        docs.execute("select pgembed._reconcile_v1()")
        with acting_as(dsn, "reader") as reader, acting_as(dsn, "titles") as titles:
            assert row(reader, query) == ("static",)
            assert all(row(reader, learnt)[0] > 0 for learnt in LEARNT)
            assert [row(titles, learnt)[0] for learnt in LEARNT] == [0, 0, 0, 0]

            docs.execute(
                "alter table doc enable row level security;"
                "create policy zero on doc using (n = 0)"
            )
            assert [row(reader, learnt)[0] for learnt in LEARNT] == [0, 0, 0, 0]
            with pytest.raises(psycopg.Error, match="not at hand"):
                row(reader, query)
            with pytest.raises(InvalidParameter, match="row-level security"):
                train_query_encoder(docs, "doc_embedding")
            train_query_encoder(docs, "doc_embedding", over_row_security=True)
            assert row(reader, query) == ("static",)
            assert [row(titles, learnt)[0] for learnt in LEARNT] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        "drop table doc cascade",
        "alter table doc rename body to text",
        "select pgembed.alter_embedding('doc_embedding', text_expression => 'n::text')",
        "revoke usage on schema public from public, reader",
        "update pgembed.model set fingerprint = 'other' where name = 'hashing'",
    ],
)
def test_what_was_learnt_from_something_else_is_for_nobody(
    docs: psycopg.Connection, dsn: str, change: str
) -> None:
    with new_roles(dsn, "reader"):
        docs.execute("grant select on doc to reader")
        docs.execute("select pgembed.grant_usage('reader'), pgembed._reconcile_v1()")
        with acting_as(dsn, "reader") as reader:
            assert row(reader, LEARNT[2])[0] > 0
            docs.execute(change.encode())
            if "fingerprint" not in change:
                assert [row(reader, learnt)[0] for learnt in LEARNT] == [0, 0, 0, 0]
            with pytest.raises(psycopg.Error):
                row(reader, ENCODED["search"].replace("%s", "'wave'") + ")")


def test_words_go_with_their_embedding(docs: psycopg.Connection) -> None:
    train_query_encoder(docs, "doc_embedding")
    assert row(docs, LEARNT[0]) == row(docs, LEARNT[1]) == (1,)
    docs.execute("select pgembed.drop_embedding('doc_embedding')")
    assert [row(docs, learnt)[0] for learnt in LEARNT] == [0, 0, 0, 0]


def test_words_that_are_too_long_are_not_learnt_as_the_unknown(
    docs: psycopg.Connection,
) -> None:
    side = row(docs, "select pgembed._table_sql(side_table) from pgembed.embedding")[0]
    docs.execute(
        f"update {side} set content = repeat(md5(content), 4) || ' '"
        " || content".encode()
    )
    train_query_encoder(docs, "doc_embedding")
    with pytest.raises(NoEncoderService, match="cannot encode this query"):
        pgembed.vector_search(docs, "doc", "飛行機", query_encoder="static")


def test_without_a_service_a_search_is_one_round_trip(
    docs: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []
    execute = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        sent.append(query)
        return execute(self, query, *args, **options)

    pgembed.vector_search(docs, "doc", "shock wave", k=1)
    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    (hit,) = pgembed.vector_search(docs, "doc", "shock wave", k=1)
    assert hit.encoded_by == "static"
    assert len(sent) == 1


def test_command(docs: psycopg.Connection, dsn: str) -> None:
    for more in ([], ["--without-model", "--vector-type", "vector", "--seed", "3"]):
        done = runner.invoke(
            app, ["train-query-encoder", "doc_embedding", "--dsn", dsn, *more]
        )
        assert done.exit_code == 0, done.output
        assert "Trained a query encoder of doc_embedding" in done.output
        found = row(
            docs, "select trained_on, agreement, overlap from pgembed.token_encoder"
        )
        assert found[0] == 400
        assert (0.4 if more else 0.8) < found[1] <= 1
        assert 0.2 < found[2] <= 1
    assert row(
        docs, 'select count("full") > 0, count(half) from pgembed.token_vector'
    ) == (True, 0)


@pytest.fixture
def few(conn: psycopg.Connection, dsn: str) -> psycopg.Connection:
    pgembed.register_model(conn, MODEL, DIMENSIONS, provider="hashing")
    conn.execute("create table few (id int primary key, body text)")
    conn.execute("insert into few values (1, 'a wing')")
    pgembed.create_embedding(conn, "few", "body", model=MODEL)
    pgembed.create_embedding(
        conn,
        "few",
        "body",
        model=MODEL,
        name="in_column",
        storage="column",
        column_name="v",
        chunking="none",
    )
    process_all(dsn)
    return conn


def test_bad_input(few: psycopg.Connection) -> None:
    with pytest.raises(InvalidParameter, match="1 chunks"):
        train_query_encoder(few, "few_embedding")
    with pytest.raises(InvalidParameter, match="in a column"):
        train_query_encoder(few, "in_column")
    for wrong in ({"seed": -1}, {"most_texts": 5}, {"vector_type": "bit"}):
        with pytest.raises(InvalidParameter, match=next(iter(wrong))):
            train_query_encoder(few, "few_embedding", **wrong)
    with pytest.raises(DimensionMismatch):
        train_query_encoder(few, "few_embedding", encoder=HashingEncoder(MODEL, 32))
    few.execute("update pgembed.model set fingerprint = 'other' where name = 'hashing'")
    with pytest.raises(ModelMismatch):
        train_query_encoder(few, "few_embedding", encoder=encoder())
    with pytest.raises(UnknownEmbedding, match="nothing"):
        train_query_encoder(few, "nothing")
    assert row(few, LEARNT[0]) == (0,)
