"""Images: stored by their bytes, found by words and by images."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
from sqlalchemy import NullPool, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typer.testing import CliRunner

from pgembed import client
from pgembed.cli import app
from pgembed.encoders.registry import load_encoder
from pgembed.errors import (
    EncodingFailed,
    InvalidExpression,
    InvalidParameter,
    InvalidQuery,
    UnknownEmbedding,
)
from pgembed.query_encoder.store import train_query_encoder
from pgembed.service import ServiceSettings, drain
from pgembed.sqlalchemy import Embedding
from pgembed.testing import process_all
from tests.fixtures.image_model import KINDS, bomb, picture
from tests.fixtures.pages import Service
from tests.fixtures.urls import sqlalchemy_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pgembed.client import VectorHit

Conn = psycopg.Connection[Any]
DIMENSIONS = 32


@pytest.fixture
def product(conn: Conn, image_model: str) -> Conn:
    """Give a connection to a database with an embedding of a table's photos."""
    client.register_model(conn, image_model, DIMENSIONS)
    conn.execute("create table product (id int primary key, name text, photo bytea)")
    client.create_embedding(conn, "product", "photo", model=image_model)
    return conn


def insert(conn: Conn, *photos: tuple[str, bytes | None]) -> None:
    conn.cursor().executemany(
        "insert into product select coalesce(max(id), 0) + 1, %s, %s from product",
        photos,
    )


def drawn(each: int = 1) -> list[tuple[str, bytes | None]]:
    return [
        (f"{colour} {shape}", picture(colour, shape, seed=seed))
        for seed in range(each)
        for colour, shape in KINDS
    ]


@cache
def encoder(folder: str) -> Any:
    return load_encoder(folder)


def near(conn: Conn, query: str, k: int = 3) -> list[VectorHit[dict[str, Any]]]:
    (model,) = conn.execute(
        "select m.name from pgembed.embedding as e"
        " join pgembed.model as m using (model_id) where e.generation = 'current'"
    ).fetchone() or ("",)
    return client.vector_search(conn, "product", query, k=k, encoder=encoder(model))


def found(conn: Conn, query: str, k: int = 3) -> list[str]:
    return [hit.doc["name"] for hit in near(conn, query, k)]


def test_images_are_found_by_words(dsn: str, product: Conn) -> None:
    insert(product, *drawn(3))
    status = process_all(dsn)["product_embedding"]
    assert (status.embedded, status.failed) == (3 * len(KINDS), 0)
    right = sum(
        found(product, f"a {colour} {shape}").count(f"{colour} {shape}")
        for colour, shape in KINDS
    )
    assert right >= 0.9 * 3 * len(KINDS)
    assert found(product, "red circle") == ["red circle"] * 3


def test_an_image_has_one_vector_and_is_not_stored_again(
    dsn: str, product: Conn
) -> None:
    insert(product, ("large", picture("red", "circle", size=(900, 900))))
    process_all(dsn)
    rows = product.execute("select chunk, content from product_embedding").fetchall()
    assert rows == [(0, None)]
    (hit,) = near(product, "a red circle")
    assert (hit.content, hit.chunk) == (None, 0)


def test_changes_are_followed_and_equal_bytes_are_not_encoded_again(
    dsn: str, product: Conn
) -> None:
    insert(product, ("first", picture("red", "circle")), ("none", None), ("no", b""))
    process_all(dsn)
    made = "select id, embedded_at from product_embedding order by id"
    before = product.execute(made).fetchall()
    assert [key for key, _ in before] == [1]
    product.execute("update product set name = 'renamed'")
    product.execute("update product set photo = photo || ''")
    process_all(dsn)
    assert product.execute(made).fetchall() == before

    blue = picture("blue", "square")
    product.execute("update product set photo = %s where id = 1", [blue])
    product.execute("update product set photo = %s where id = 2", [blue])
    process_all(dsn)
    after = product.execute(made).fetchall()
    assert [key for key, _ in after] == [1, 2]
    assert after[0][1] > before[0][1]
    product.execute("update product set photo = null where id = 1")
    product.execute("delete from product where id = 2")
    process_all(dsn)
    assert product.execute(made).fetchall() == []


BROKEN: dict[str, tuple[bytes, str]] = {
    "text": (b"hello", "5 bytes are no image"),
    "cut off": (picture("red", "circle")[:-200], "cannot be decoded"),
    "bomb": (bomb(60_000), "more than 80,000,000 pixels"),
}


def test_what_is_no_image_is_put_aside_with_its_reason(dsn: str, product: Conn) -> None:
    product.execute("update pgembed.embedding set max_attempts = 1")
    insert(product, *drawn())
    insert(product, *((name, data) for name, (data, _) in BROKEN.items()))
    status = process_all(dsn)["product_embedding"]
    assert (status.embedded, status.failed) == (len(KINDS), len(BROKEN))
    failed = dict(
        product.execute(
            "select p.name, f.error from pgembed.failed as f"
            " join product as p on p.id::text = f.key"
        ).fetchall()
    )
    for name, (_, said) in BROKEN.items():
        assert said in failed[name]
    # Mended, it is encoded.
    product.execute(
        "update product set photo = %s where name = 'text'", [picture("red", "square")]
    )
    assert process_all(dsn)["product_embedding"].failed == len(BROKEN) - 1


def test_an_image_that_is_too_long_is_put_aside(dsn: str, product: Conn) -> None:
    product.execute("update pgembed.embedding set max_attempts = 1")
    product.execute(
        "insert into product values (1, 'huge', decode(repeat('00', 26 << 20), 'hex'))"
    )
    process_all(dsn)
    error = product.execute("select error from pgembed.failed").fetchone()
    assert error is not None
    assert "the image is longer than 32 MiB" in error[0]


def test_an_embedding_in_a_column_has_images_too(
    dsn: str, conn: Conn, image_model: str
) -> None:
    client.register_model(conn, image_model, DIMENSIONS)
    conn.execute("create table product (id int primary key, name text, photo bytea)")
    client.create_embedding(
        conn, "product", "photo", model=image_model, storage="column"
    )
    insert(conn, *drawn())
    process_all(dsn)
    assert found(conn, "a green triangle", 1) == ["green triangle"]
    assert near(conn, "a green triangle")[0].content is None


def test_an_expression_of_bytea_is_an_image(
    dsn: str, conn: Conn, image_model: str
) -> None:
    client.register_model(conn, image_model, DIMENSIONS)
    conn.execute(
        "create domain file as bytea;"
        "create table product (id int primary key, name text, data jsonb, thumb file)"
    )
    client.create_embedding(
        conn,
        "product",
        "coalesce(thumb, decode(data ->> 'photo', 'base64'))",
        model=image_model,
    )
    conn.execute(
        "insert into product values"
        " (1, 'in JSON', jsonb_build_object('photo', encode(%s, 'base64')), null),"
        " (2, 'in a domain', null, %s)",
        [picture("red", "circle"), picture("blue", "square")],
    )
    process_all(dsn)
    assert found(conn, "a red circle", 1) == ["in JSON"]
    assert found(conn, "a blue square", 1) == ["in a domain"]


def test_a_repair_and_a_new_name_keep_images_images(dsn: str, product: Conn) -> None:
    insert(product, *drawn())
    process_all(dsn)
    product.execute("drop table product_embedding")
    client.repair(product, "product_embedding")
    assert process_all(dsn)["product_embedding"].embedded == len(KINDS)
    product.execute("alter table product rename photo to picture")
    client.alter_embedding(product, "product_embedding", text_expression="picture")
    insert(product, ("new", picture("red", "circle", seed=9)))
    status = process_all(dsn)["product_embedding"]
    assert (status.embedded, status.failed) == (len(KINDS) + 1, 0)
    kinds = product.execute("select kind from pgembed.captured_text").fetchall()
    assert kinds == [("image",)]


def test_a_text_model_is_refused_for_images(conn: Conn) -> None:
    conn.execute("create table product (id int primary key, photo bytea)")
    with pytest.raises(InvalidParameter, match="encodes no images") as caught:
        client.create_embedding(conn, "product", "photo")
    assert "clip-ViT-B-32" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunking": "sentences"}, "not cut into chunks"),
        ({"chunk_size": 20}, "not cut into chunks"),
        ({"query_encoder": "static"}, "no query encoder"),
    ],
)
def test_options_of_texts_are_refused_for_images(
    conn: Conn, options: dict[str, Any], said: str
) -> None:
    conn.execute("create table product (id int primary key, photo bytea)")
    with pytest.raises(InvalidParameter, match=said):
        client.create_embedding(
            conn, "product", "photo", model="clip-ViT-B-32", **options
        )


def test_bm25_over_images_is_refused(conn: Conn) -> None:
    conn.execute("create table product (id int primary key, photo bytea)")
    with pytest.raises(InvalidExpression, match="not possible over images"):
        client.create_bm25(conn, "product", "photo")
    with pytest.raises(InvalidExpression, match="not possible over images"):
        client.create_embedding(
            conn, "product", "photo", model="clip-ViT-B-32", bm25=True
        )
    client.create_embedding(conn, "product", "photo", model="clip-ViT-B-32")
    with pytest.raises(UnknownEmbedding, match="BM25"):
        client.hybrid_search(conn, "product", query_embedding=[0.0] * 512)


def test_words_of_the_row_and_images_are_searched_together(
    dsn: str, product: Conn, image_model: str
) -> None:
    client.create_bm25(product, "product", "name")
    insert(product, ("a gift", picture("red", "circle")), *drawn()[1:])
    process_all(dsn)
    hits = client.hybrid_search(
        product, "product", "red circle", k=20, encoder=encoder(image_model)
    )
    ranks = {hit.doc["name"]: (hit.vector_rank, hit.bm25_rank) for hit in hits}
    assert ranks["a gift"] == (1, None)
    assert ranks["red square"][1] is not None


def test_an_embedding_is_broken_whose_model_turns_out_to_encode_no_images(
    dsn: str, conn: Conn
) -> None:
    client.register_model(conn, "test", 16, provider="hashing")
    conn.execute("create table product (id int primary key, photo bytea)")
    client.create_embedding(conn, "product", "photo", model="test")
    conn.execute("insert into product values (1, %s)", [picture("red", "circle")])
    asyncio.run(drain(dsn))
    state, reason = conn.execute(
        "select state, state_reason from pgembed.embedding"
    ).fetchone() or ("", "")
    assert state == "broken"
    assert "encodes no images" in reason
    # Now it is known.
    with pytest.raises(InvalidParameter, match="encodes no images"):
        client.create_embedding(conn, "product", "photo", name="two", model="test")


def test_a_text_becomes_an_image(dsn: str, conn: Conn, image_model: str) -> None:
    client.register_model(conn, image_model, DIMENSIONS)
    conn.execute("create table product (id int primary key, name text, photo bytea)")
    client.create_embedding(conn, "product", "name", model=image_model)
    insert(conn, ("a gift", picture("red", "circle")))
    process_all(dsn)
    with pytest.raises(InvalidExpression, match="not possible over images"):
        client.alter_embedding(conn, "product_embedding", text_expression="photo")
    client.alter_embedding(
        conn, "product_embedding", text_expression="photo", bm25=False
    )
    process_all(dsn)
    rows = conn.execute("select chunk, content from product_embedding").fetchall()
    assert rows == [(0, None)]
    # Back again, it is cut into chunks as any text is.
    client.alter_embedding(conn, "product_embedding", text_expression="name")
    assert conn.execute(
        "select chunking from pgembed.embedding where name = 'product_embedding'"
    ).fetchall() == [("sentences",)]


@pytest.fixture
def served(dsn: str, product: Conn) -> Iterator[Conn]:
    """Give a connection to a database of drawings that a service works for."""
    insert(product, *drawn())
    service = Service(dsn)
    try:
        service.wait()
        yield product
    finally:
        service.stop()


def first(hits: Sequence[Any]) -> str:
    return str(hits[0].doc["name"])


def test_a_service_answers_words_and_images(
    dsn: str, served: Conn, image_model: str, tmp_path: Path
) -> None:
    circle = picture("red", "circle", seed=77)
    square = picture("blue", "square", seed=78)
    hits = client.vector_search(served, "product", "a red circle", timeout=60)
    assert first(hits) == "red circle"
    assert hits[0].encoded_by == "model"

    # By the client: in autocommit, and in a transaction whose snapshot is older.
    hits = client.vector_search(served, "product", query_image=circle)
    assert first(hits) == "red circle"
    with psycopg.connect(dsn) as conn:
        conn.execute("select 1")
        hits = client.vector_search(conn, "product", query_image=square)
        assert first(hits) == "blue square"

    # In plain SQL: the image is in the cache by its digest, and nowhere else.
    search = (
        "select (doc).name from pgembed.vector_search("
        "null::product, query_image => %s, k => 1)"
    )
    triangle = picture("green", "triangle", seed=79)
    with pytest.raises(psycopg.Error, match="is not at hand") as caught:
        served.execute(search, [triangle])
    assert "encode(image => ..., model" in (caught.value.diag.message_hint or "")
    served.execute(
        "call pgembed.encode(model => %s, image => %s)", [image_model, triangle]
    )
    assert served.execute(search, [triangle]).fetchall() == [("green triangle",)]
    found = served.execute(
        "select key, doc ->> 'name' from pgembed.search("
        " 'product', query_image => %s, k => 1)",
        [triangle],
    ).fetchall()
    assert [name for _, name in found] == ["green triangle"]
    assert served.execute(
        "select count(*), count(query), count(image), count(error)"
        " from pgembed.query_embedding"
    ).fetchone() == (4, 0, 0, 0)
    mine = np.array(client.embed(served, model=image_model, image=circle))
    assert np.allclose(mine, encoder(image_model).encode_images([circle])[0], atol=1e-5)

    # What is no image says so, and is not tried for ever.
    with pytest.raises(EncodingFailed, match="are no image"):
        client.vector_search(served, "product", query_image=b"hello")

    # The rows most like one, and the command line.
    (key,) = served.execute(
        "select id from product where name = 'red circle'"
    ).fetchone() or (0,)
    assert client.similar(served, "product", key, k=1)[0].doc["name"] != "red circle"
    file = tmp_path / "photo.png"
    file.write_bytes(circle)
    shown = CliRunner().invoke(
        app,
        ["search", "product", "--image", str(file), "-k", "1", "--columns", "name"],
        env={"PGEMBED_DSN": dsn},
    )
    assert "red circle" in shown.output


def test_an_image_is_encoded_in_this_process(
    dsn: str, product: Conn, image_model: str
) -> None:
    insert(product, *drawn())
    process_all(dsn)
    hits = client.vector_search(
        product,
        "product",
        query_image=picture("yellow", "triangle", seed=5),
        encoder=image_model,
    )
    assert first(hits) == "yellow triangle"


@pytest.mark.parametrize("seed", range(3))
def test_similar_finds_images_of_the_same_kind(
    dsn: str, product: Conn, seed: int
) -> None:
    insert(product, *drawn(3))
    process_all(dsn)
    (key,) = product.execute(
        "select id from product where name = 'red square' offset %s limit 1",
        [seed],
    ).fetchone() or (0,)
    hits = client.similar(product, "product", key, k=2)
    assert [hit.doc["name"] for hit in hits] == ["red square"] * 2


def test_an_image_goes_with_no_other_query(conn: Conn) -> None:
    photo = picture("red", "circle")
    conn.execute("create table product (id int primary key, photo bytea)")
    client.create_embedding(conn, "product", "photo", model="clip-ViT-B-32")
    with pytest.raises(InvalidQuery, match="one query"):
        client.vector_search(conn, "product", "words", query_image=photo)
    with pytest.raises(InvalidQuery, match="one query"):
        client.vector_search(
            conn, "product", query_image=photo, query_embedding=[0.1] * 512
        )
    with pytest.raises(psycopg.Error, match="one query"):
        conn.execute(
            "select * from pgembed.vector_search("
            "null::product, 'words', query_image => %s)",
            [photo],
        )
    for call in ("call pgembed.encode", "select pgembed.embed"):
        with pytest.raises(psycopg.Error, match="words and an image are given"):
            conn.execute(f"{call}('words', 'clip-ViT-B-32', image => %s)", [photo])
    for image in (b"", "photo.png"):
        with pytest.raises(InvalidQuery, match="query_image must be the bytes"):
            client.vector_search(conn, "product", query_image=image)  # type: ignore[arg-type]


def test_an_image_that_is_searched_with_has_a_size(conn: Conn) -> None:
    conn.execute("create table product (id int primary key, photo bytea)")
    client.create_embedding(conn, "product", "photo", model="clip-ViT-B-32")
    for image in (b"", bytes(10 * 1024 * 1024 + 1)):
        with pytest.raises(psycopg.Error, match="searched with has") as caught:
            conn.execute(
                "select pgembed.embed(model => 'clip-ViT-B-32', image => %s)", [image]
            )
        assert caught.value.sqlstate == "PE009"


def test_a_text_model_is_not_asked_with_images(conn: Conn) -> None:
    conn.execute("create table article (id int primary key, body text)")
    client.create_embedding(conn, "article", "body")
    with pytest.raises(InvalidQuery, match="encodes no images"):
        client.vector_search(conn, "article", query_image=picture("red", "circle"))


def test_the_orm_searches_images(dsn: str, product: Conn, image_model: str) -> None:
    insert(product, *drawn())
    process_all(dsn)

    class Base(DeclarativeBase):
        pass

    class Product(Base):
        __tablename__ = "product"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        photo: Mapped[bytes] = mapped_column(deferred=True)
        embedding = Embedding("photo", model=image_model, dimensions=DIMENSIONS)

    photo = picture("blue", "circle", seed=31)
    engine = create_engine(sqlalchemy_url(dsn), poolclass=NullPool)
    with Session(engine) as session:
        search = Product.embedding.vector_search(photo, k=1, encoder=image_model)
        (row, hit) = session.execute(search).one()
        assert (row.name, hit.content) == ("blue circle", None)
        (chunk,) = session.scalars(select(Product.embedding.chunks).limit(1))
        assert chunk.content is None


def test_a_dry_run_counts_images(dsn: str, conn: Conn, image_model: str) -> None:
    client.register_model(conn, image_model, DIMENSIONS)
    conn.execute("create table product (id int primary key, name text, photo bytea)")
    insert(conn, *drawn(2), ("none", None), ("broken", b"no image"))
    shown = CliRunner().invoke(
        app,
        ["create", "product", "photo", "--model", image_model, "--dry-run"],
        env={"PGEMBED_DSN": dsn, "COLUMNS": "200"},
    )
    assert shown.exit_code == 0, shown.output
    assert re.search(r"about \d+ images of \d+ kB, one vector each", shown.output)
    assert re.search(r"[\d,.]+ images a second", shown.output)
    assert "tokens" not in shown.output


def test_a_path_is_a_text_and_that_is_said(conn: Conn) -> None:
    conn.execute("create table product (id int primary key, file text)")
    said: list[str] = []
    conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
    client.create_embedding(conn, "product", "file", model="clip-ViT-B-32")
    assert any("will encode the expression as a text" in one for one in said)


def test_images_go_to_another_model_without_a_gap(
    dsn: str, product: Conn, image_model: str
) -> None:
    other = f"{image_model}/0_CLIPModel"  # the same weights, as transformers saves them
    client.register_model(product, other, DIMENSIONS)
    insert(product, *drawn())
    process_all(dsn)
    with pytest.raises(InvalidParameter, match="encodes no images"):
        client.alter_embedding(product, "product_embedding", model="all-MiniLM-L6-v2")
    client.alter_embedding(product, "product_embedding", model=other)
    process_all(dsn)
    made = "select m.name, count(*) from product_embedding join pgembed.model as m"
    assert product.execute(f"{made} using (model_id) group by 1").fetchall() == [
        (other, len(KINDS))
    ]
    assert found(product, "a red circle", 1) == ["red circle"]


def test_no_query_encoder_is_trained_for_images(dsn: str, product: Conn) -> None:
    insert(product, *drawn(8))
    process_all(dsn)
    with pytest.raises(InvalidParameter, match="is of images"):
        train_query_encoder(product, "product_embedding")
    assert (
        product.execute("select * from pgembed._query_encoders_due_v1()").fetchall()
        == []
    )


def located(conn: Conn, image_model: str) -> None:
    client.register_model(conn, image_model, DIMENSIONS)
    conn.execute("create table product (id int primary key, name text, file text)")
    client.create_embedding(
        conn, "product", "pgembed.image_at(file)", model=image_model, max_attempts=1
    )


def test_images_are_read_where_rows_say_they_are(
    dsn: str, conn: Conn, image_model: str, tmp_path: Path
) -> None:
    located(conn, image_model)
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "secret.png").write_bytes(picture("red", "circle"))
    for colour, shape in KINDS:
        name = f"{colour} {shape}"
        (photos / f"{name}.png").write_bytes(picture(colour, shape))
        conn.execute(
            "insert into product select coalesce(max(id), 0) + 1, %s, %s from product",
            [name, f"{name}.png"],
        )
    (photos / "broken.png").write_bytes(b"no image")
    conn.execute(
        "insert into product values (100, 'beside', '../secret.png'),"
        " (101, 'broken', 'broken.png'), (102, 'none', null)"
    )
    settings = ServiceSettings(image_roots=(str(photos),))
    asyncio.run(drain(dsn, settings))
    assert found(conn, "a red circle", 1) == ["red circle"]
    (status,) = client.status(conn)
    assert (status.embedded, status.failed) == (len(KINDS), 2)
    failed = dict(conn.execute("select key, error from pgembed.failed").fetchall())
    assert "no file below the allowed folders" in failed["100"]
    assert "are no image" in failed["101"]
    assert conn.execute(
        "select distinct content from product_embedding"
    ).fetchall() == [(None,)]
    # Another path is another image; one that stays is not read again.
    made = "select id, embedded_at from product_embedding where id <> 1 order by id"
    before = conn.execute(made).fetchall()
    conn.execute("update product set file = 'blue square.png' where id = 1")
    conn.execute("update product set name = name")
    asyncio.run(drain(dsn, settings))
    assert conn.execute(made).fetchall() == before
    assert found(conn, "a blue square", 2) != found(conn, "a red circle", 2)


def test_a_service_without_roots_reads_no_image(
    dsn: str, conn: Conn, image_model: str
) -> None:
    located(conn, image_model)
    conn.execute("insert into product values (1, 'a', '/etc/passwd')")
    asyncio.run(drain(dsn))
    (error,) = conn.execute("select error from pgembed.failed").fetchone() or ("",)
    assert "no file below the allowed folders" in error
    assert "--image-root" in error


def test_where_an_image_is_is_all_of_the_expression(conn: Conn) -> None:
    conn.execute("create table product (id int primary key, file text)")
    with pytest.raises(InvalidExpression, match="image_at"):
        client.create_embedding(
            conn, "product", "'x' || pgembed.image_at(file)", model="clip-ViT-B-32"
        )
    with pytest.raises(InvalidParameter, match="encodes no images"):
        client.create_embedding(conn, "product", "pgembed.image_at(file)")
    with pytest.raises(InvalidExpression, match="not possible over images"):
        client.create_bm25(conn, "product", "pgembed.image_at(file)")
