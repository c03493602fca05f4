"""Images: stored by their bytes, found by words and by images."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgembed import client
from pgembed.encoders.registry import load_encoder
from pgembed.errors import InvalidExpression, InvalidParameter, UnknownEmbedding
from pgembed.service import drain
from pgembed.testing import process_all
from tests.fixtures.image_model import KINDS, bomb, picture

if TYPE_CHECKING:
    from pgembed.client import VectorHit
    from pgembed.encoders.base import Encoder

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
def encoder(folder: str) -> Encoder:
    return load_encoder(folder)


def near(conn: Conn, query: str, k: int = 3) -> list[VectorHit[dict[str, Any]]]:
    (model,) = conn.execute(
        "select m.name from pgembed.embedding join pgembed.model as m using (model_id)"
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
