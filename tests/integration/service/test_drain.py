"""`drain`: what one pass over the queue does, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest

from pgembed.errors import PgembedError, SchemaVersionError
from pgembed.service import EncoderService, ServiceSettings, drain
from tests.integration.service.support import (
    DIMENSIONS,
    FaultyEncoder,
    contents,
    queued,
    value,
)

Conn = psycopg.Connection[Any]


@pytest.mark.majors(18, 17, 16)
async def test_changes_are_embedded_and_followed(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute(
        "insert into article values (1, 'one'), (2, 'two'), (3, null), (4, '')"
    )
    outcome = await drain(dsn, encoders={"test": encoder})
    assert contents(article) == ["one", "two"]
    assert outcome.dead == outcome.retried == 0

    article.execute("update article set body = 'zwei' where id = 2")
    article.execute("update article set body = 'drei' where id = 3")
    article.execute("update article set body = null where id = 1")
    await drain(dsn, encoders={"test": encoder})
    assert contents(article) == ["zwei", "drei"]

    article.execute("delete from article where id = 2")
    article.execute("update article set id = 30 where id = 3")
    await drain(dsn, encoders={"test": encoder})
    assert article.execute("select id, content from article_embedding").fetchall() == [
        (30, "drei")
    ]
    assert queued(article) == 0


async def test_stored_vectors_are_the_encoders(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("insert into article values (1, 'the quick brown fox')")
    await drain(dsn, encoders={"test": encoder})
    stored = value(article, "select embedding::text from article_embedding")
    expected = encoder.encode_documents(["the quick brown fox"])[0]
    np.testing.assert_allclose(
        np.fromstring(stored.strip("[]"), sep=","), expected, atol=1e-6
    )


async def test_vectors_travel_in_binary(
    dsn: str, article: Conn, encoder: FaultyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text is ten times slower to write, and nothing else would tell."""
    from pgvector import Vector

    def refuse(_: Vector) -> str:
        raise AssertionError("a vector was sent as text")

    monkeypatch.setattr(Vector, "to_text", refuse)
    article.execute("insert into article values (1, 'one'), (2, 'two')")
    await drain(dsn, encoders={"test": encoder})
    assert contents(article) == ["one", "two"]


async def test_truncate_empties_the_side_table(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute(
        "insert into article select i, 'x' || i from generate_series(1, 9) i"
    )
    await drain(dsn, encoders={"test": encoder})
    article.execute("truncate article")
    article.execute("insert into article values (100, 'after')")
    await drain(dsn, encoders={"test": encoder})
    assert contents(article) == ["after"]


@pytest.mark.majors(18, 17, 16)
async def test_existing_rows_are_filled_and_indexed(
    dsn: str, conn: Conn, encoder: FaultyEncoder
) -> None:
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "insert into doc select i, 'text ' || i from generate_series(1, 1300) i"
    )
    conn.execute("select pgembed.create_embedding('doc', 'body', model => 'test')")
    outcome = await drain(
        dsn, ServiceSettings(batch_size=500), encoders={"test": encoder}
    )
    assert outcome.written == 1300
    assert value(conn, "select count(*) from doc_embedding") == 1300
    assert value(conn, "select backfill_state from pgembed.status") == "done"
    assert value(conn, "select index_state from pgembed.status") == "valid"


async def test_equal_texts_are_encoded_once(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute(
        "insert into article select i, 'same' from generate_series(1, 50) i"
    )
    await drain(dsn, encoders={"test": encoder})
    assert encoder.encoded == ["same"]
    assert len(contents(article)) == 50


async def test_unchanged_text_is_not_encoded_again(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("insert into article values (1, 'a')")
    await drain(dsn, encoders={"test": encoder})
    article.execute("update article set body = 'b'")
    article.execute("update article set body = 'a'")
    await drain(dsn, encoders={"test": encoder})
    assert encoder.encoded == ["a"]
    assert queued(article) == 0


async def test_unchanged_chunks_keep_their_vectors(
    dsn: str, conn: Conn, encoder: FaultyEncoder
) -> None:
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_embedding('doc', 'body', model => 'test',"
        " chunk_size => 10, chunk_overlap => 0)"
    )
    paragraphs = [f"This is paragraph number {n} of the text." for n in range(5)]
    conn.execute("insert into doc values (1, %s)", ["\n\n".join(paragraphs)])
    await drain(dsn, encoders={"test": encoder})
    assert contents(conn, "doc_embedding") == paragraphs
    encoder.calls.clear()
    paragraphs[2] = "This is another paragraph now."
    conn.execute("update doc set body = %s", ["\n\n".join(paragraphs[:4])])
    await drain(dsn, encoders={"test": encoder})
    assert contents(conn, "doc_embedding") == paragraphs[:4]
    assert encoder.encoded == ["This is another paragraph now."]


async def test_dimensions_are_truncated_and_scaled_to_unit_length(
    dsn: str, conn: Conn, encoder: FaultyEncoder
) -> None:
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_embedding('doc', 'body', model => 'test',"
        " dimensions => 8)"
    )
    conn.execute("insert into doc values (1, 'some words that fill all dimensions')")
    await drain(dsn, encoders={"test": encoder})
    stored = np.fromstring(
        value(conn, "select embedding::text from doc_embedding").strip("[]"), sep=","
    )
    whole = encoder.encode_documents(["some words that fill all dimensions"])[0][:8]
    np.testing.assert_allclose(stored, whole / np.linalg.norm(whole), atol=1e-6)


async def test_bad_text_hurts_only_itself(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute(
        "insert into article select i, case when i = 37 then 'poison' when i = 70"
        " then 'grenade' else 'text ' || i end from generate_series(1, 100) i"
    )
    outcome = await drain(dsn, encoders={"test": encoder})
    assert (outcome.written, outcome.retried) == (98, 2)
    assert len(contents(article)) == 98
    assert article.execute("select key from pgembed.queue order by seq").fetchall() == [
        ("37",),
        ("70",),
    ]


async def test_bad_text_becomes_a_dead_letter_after_its_attempts(
    dsn: str, conn: Conn, encoder: FaultyEncoder
) -> None:
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_embedding('doc', 'body', model => 'test',"
        " max_attempts => 2)"
    )
    conn.execute("insert into doc values (1, 'poison'), (2, 'fine')")
    first = await drain(dsn, encoders={"test": encoder})
    assert (first.written, first.retried, first.dead) == (1, 1, 0)
    conn.execute("update pgembed.queue set not_before = now()")
    second = await drain(dsn, encoders={"test": encoder})
    assert (second.retried, second.dead) == (0, 1)
    row = conn.execute("select key, attempts, error from pgembed.failed").fetchone()
    assert row == ("1", 2, "a bad word")

    # Once the text is right, retry() brings the row back.
    conn.execute("update doc set body = 'wholesome' where id = 1")
    await drain(dsn, encoders={"test": encoder})
    assert value(conn, "select count(*) from pgembed.failed") == 0
    assert contents(conn, "doc_embedding") == ["wholesome", "fine"]


async def test_failing_expression_hurts_only_its_row(
    dsn: str, conn: Conn, encoder: FaultyEncoder
) -> None:
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table doc (id int primary key, n int)")
    conn.execute(
        "select pgembed.create_embedding('doc', $$'about ' || (100 / n)::text$$,"
        " model => 'test')"
    )
    conn.execute("insert into doc select i, i - 20 from generate_series(1, 40) i")
    outcome = await drain(dsn, encoders={"test": encoder})
    assert (outcome.written, outcome.retried) == (39, 1)
    assert value(conn, "select key from pgembed.queue") == "20"


async def test_dropped_column_breaks_the_embedding_with_the_reason(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("insert into article values (1, 'one')")
    article.execute("alter table article drop column body cascade")
    article.execute("insert into article values (2)")
    await drain(dsn, encoders={"test": encoder})
    state, reason = article.execute(
        "select state, state_reason from pgembed.status"
    ).fetchone() or ("", "")
    assert state == "broken"
    assert "body" in reason


async def test_chunk_size_that_the_model_cannot_take_breaks_the_embedding(
    dsn: str, conn: Conn, encoder: FaultyEncoder
) -> None:
    """Known only once the model is loaded; every row would fail."""
    encoder.max_tokens = 16
    conn.execute("select pgembed.register_model('test', %s, 'hashing')", [DIMENSIONS])
    conn.execute("create table doc (id int primary key, body text)")
    conn.execute(
        "select pgembed.create_embedding('doc', 'body', model => 'test',"
        " chunk_size => 100)"
    )
    conn.execute("insert into doc values (1, 'one')")
    await drain(dsn, encoders={"test": encoder})
    state, reason = conn.execute(
        "select state, state_reason from pgembed.status"
    ).fetchone() or ("", "")
    assert state == "broken"
    assert "chunk_size 100" in reason
    assert value(conn, "select attempts from pgembed.queue") == 0


async def test_outage_of_a_model_is_nobodys_failure(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute(
        "insert into article select i, 'x' || i from generate_series(1, 9) i"
    )
    encoder.outage.set()
    with pytest.raises(PgembedError, match="out of order"):
        await drain(dsn, encoders={"test": encoder})
    attempts = article.execute("select distinct attempts from pgembed.queue").fetchall()
    assert attempts == [(0,)]
    assert value(article, "select count(*) from pgembed.failed") == 0


async def test_other_weights_are_refused(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("insert into article values (1, 'one')")
    await drain(dsn, encoders={"test": encoder})
    article.execute("insert into article values (2, 'two')")
    other = FaultyEncoder()
    other.fingerprint = "0" * 64
    with pytest.raises(PgembedError, match="out of order") as caught:
        await drain(dsn, encoders={"test": other})
    assert "other weights" in str(caught.value)
    assert contents(article) == ["one"]
    assert queued(article) == 1

    article.execute("select pgembed.accept_weights('test', %s)", [other.fingerprint])
    with pytest.raises(PgembedError, match="out of order"):
        await drain(dsn, encoders={"test": encoder})  # has the earlier ones still
    assert contents(article) == []
    await drain(dsn, encoders={"test": other})
    assert contents(article) == ["one", "two"]
    assert other.encoded == ["one", "two"] or set(other.encoded) == {"one", "two"}


async def test_unknown_model_keeps_its_jobs_and_lets_others_go_on(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("select pgembed.register_model('no/such/model', 8)")
    article.execute("create table other (id int primary key, body text)")
    article.execute(
        "select pgembed.create_embedding('other', 'body', model => 'no/such/model')"
    )
    article.execute("insert into other values (1, 'waits')")
    article.execute("insert into article values (1, 'goes on')")
    with pytest.raises(PgembedError, match="no/such/model"):
        await drain(dsn, encoders={"test": encoder})
    assert contents(article) == ["goes on"]
    assert queued(article) == 1


async def test_job_that_was_claimed_too_often_is_given_up(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("insert into article values (1, 'kills the service'), (2, 'fine')")
    article.execute("update pgembed.queue set attempts = 5 where key = '1'")
    outcome = await drain(dsn, encoders={"test": encoder})
    assert (outcome.written, outcome.dead) == (1, 1)
    assert "kills the service" not in encoder.encoded
    assert "service died" in value(article, "select error from pgembed.failed")


async def test_suspects_are_encoded_alone(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute(
        "insert into article select i, 'x' || i from generate_series(1, 30) i"
    )
    article.execute(
        "update pgembed.queue set attempts = 2 where key in ('7', '8', '9')"
    )
    outcome = await drain(dsn, encoders={"test": encoder})
    assert outcome.written == 30
    for text in ("x7", "x8", "x9"):
        assert [text] in encoder.calls


async def test_long_texts_are_read_a_few_at_a_time(
    dsn: str, article: Conn, encoder: FaultyEncoder, settings: ServiceSettings
) -> None:
    article.execute(
        "insert into article select i, repeat('word' || i || ' ', 60000)"
        " from generate_series(1, 8) i"
    )
    outcome = await drain(
        dsn, replace(settings, max_read_megabytes=1), encoders={"test": encoder}
    )
    assert outcome.written == 8
    assert queued(article) == 0


async def test_change_while_encoding_wins(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("insert into article values (1, 'old')")
    real = encoder.encode_documents

    def change_then_encode(texts: Sequence[str]) -> Any:
        if "old" in texts:
            article.execute("update article set body = 'new'")
        return real(texts)

    encoder.encode_documents = change_then_encode  # type: ignore[method-assign]
    outcome = await drain(dsn, encoders={"test": encoder})
    assert contents(article) == ["new"]
    assert outcome.stale == 1


async def test_other_declaration_while_encoding_frees_the_jobs(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("insert into article values (1, 'text')")
    real = encoder.encode_documents

    def redeclare_then_encode(texts: Sequence[str]) -> Any:
        if "text" in texts:
            article.execute(
                "select pgembed.alter_embedding('article_embedding',"
                " text_expression => $$'about ' || body$$)"
            )
        return real(texts)

    encoder.encode_documents = redeclare_then_encode  # type: ignore[method-assign]
    await drain(dsn, encoders={"test": encoder})
    assert contents(article) == ["about text"]


async def test_database_without_pgembed_is_refused(conn: Conn, dsn: str) -> None:
    conn.execute("drop schema pgembed cascade")
    with pytest.raises(SchemaVersionError, match="not installed"):
        await drain(dsn)


async def test_drain_tells_when_the_next_row_is_due(
    dsn: str, article: Conn, encoder: FaultyEncoder
) -> None:
    article.execute("insert into article values (1, 'poison')")
    service = EncoderService(dsn, encoders={"test": encoder})
    waits = await service.drain()
    assert waits is not None
    assert 0 < waits <= 2
